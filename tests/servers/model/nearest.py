"""A small model in mlserver's own terms: the colour nearest to a point in RGB, and how far off it is. Runs in mlserver's worker."""

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Nearest(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        point = list(payload.inputs[0].data)
        far = {name: sum((a - b) ** 2 for a, b in zip(point, colour, strict=True)) for name, colour in COLOURS.items()}
        name = min(far, key=far.__getitem__)
        outputs = [
            ResponseOutput(name="colour", shape=[1], datatype="BYTES", data=[name]),
            ResponseOutput(name="distance", shape=[1], datatype="FP32", data=[float(far[name])]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)
