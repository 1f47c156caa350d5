"""A small model service for tests: an HTTP server in one process, its engine in a child process that answers over a pipe.

victim.py serve PORT [HOST]    GET / answers 200 when the engine does within half a second, otherwise 504; a dead engine is replaced
victim.py engine        started by the above
"""

import os
import select
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

ENGINE_LIMIT_S = 0.5


def engine() -> None:
    while line := sys.stdin.buffer.readline():
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def start_engine() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, __file__, "engine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


class Server(HTTPServer):
    allow_reuse_address = True
    engine = None
    asked = 0

    def service_actions(self) -> None:
        """Every poll interval: look after the engine."""
        if self.engine is None or self.engine.poll() is not None:
            self.engine = start_engine()

    def ask(self) -> bool:
        self.asked += 1
        question = b"%d\n" % self.asked
        try:
            self.engine.stdin.write(question)
            while select.select([self.engine.stdout], [], [], ENGINE_LIMIT_S)[0]:
                answer = self.engine.stdout.readline()
                if answer == question or not answer:
                    return bool(answer)
        except OSError:
            pass
        return False


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.service_actions()
        right = self.server.ask()
        body = str(os.getpid()).encode()
        self.send_response(200 if right else 504)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def end(*_: object) -> None:
    raise SystemExit(0)


def serve(port: int, host: str = "127.0.0.1") -> None:
    signal.signal(signal.SIGTERM, end)
    server = Server((host, port), Handler)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.engine.kill()


if __name__ == "__main__":
    serve(int(sys.argv[2]), *sys.argv[3:]) if sys.argv[1] == "serve" else engine()
