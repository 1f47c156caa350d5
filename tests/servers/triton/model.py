"""y = norm * (W1 relu(W0 x)), from a safetensors file that is read when the model is loaded. Runs in Triton's stub, where numpy is."""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.folder = Path(args["model_repository"], args["model_version"])
        content = (self.folder / "model.safetensors").read_bytes()
        data = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:data])

        def tensor(name: str) -> np.ndarray:
            first, last = header[name]["data_offsets"]
            return np.frombuffer(content[data + first : data + last], "<f4").reshape(header[name]["shape"])

        self.inner, self.outer = tensor("layers.0.mlp.up_proj.weight"), tensor("layers.1.mlp.up_proj.weight")
        self.norm = tensor("norm.weight")

    def execute(self, requests: list) -> list:
        answers = []
        for request in requests:
            while (self.folder / "hold").exists():  # a test wants this question under way until it says otherwise
                (self.folder / "held").touch()
                time.sleep(0.01)
            x = backend.get_input_tensor_by_name(request, "x").as_numpy()
            y = np.maximum(x @ self.inner, 0) @ self.outer * self.norm
            answers.append(backend.InferenceResponse([backend.Tensor("y", y)]))
        return answers
