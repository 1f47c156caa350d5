"""A model service in small that has a context and memory on a GPU.

gpu_victim.py PORT UUID [HOST]     answers every GET with how much of the GPU is free, or with 500 and why CUDA does not tell;
                                   gpu_agent.py lies beside it, or where it is in the tree
"""

import importlib.util
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MIB = 256


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        try:
            status, body = 200, f"{self.server.device.free_bytes()[0]} bytes are free"
        except self.server.failed as problem:
            status, body = 500, str(problem)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def main(port: int, uuid: str, host: str = "127.0.0.1") -> None:
    beside = Path(__file__).with_name("gpu_agent.py")
    path = beside if beside.exists() else Path(__file__).parents[1] / "injectors" / "gpu_agent.py"
    spec = importlib.util.spec_from_file_location("gpu_agent", path)
    gpu_agent = importlib.util.module_from_spec(spec)
    sys.modules["gpu_agent"] = gpu_agent
    spec.loader.exec_module(gpu_agent)
    device = gpu_agent.Cuda(uuid)
    device.open([])
    if not device.allocate(MIB << 20):
        sys.exit(f"no room for {MIB} MiB on {uuid}")
    server = HTTPServer((host, port), Handler)
    server.device, server.failed = device, gpu_agent.Failed
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
