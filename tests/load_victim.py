"""A model service in small that says how many requests are under way, and takes its time for each.

load_victim.py PORT [MOST [TAKES_S]]    POST /v1/completions is answered after 0.1 s, or TAKES_S, with 429 where MOST are under way; any other
                                        path with 404; GET /metrics tells how many
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    under_way = asked = 0
    lock = threading.Lock()
    most = 1000
    takes_s = 0.1

    def do_GET(self) -> None:
        told = f'requests_running{{engine="0"}} {Handler.under_way}.0\nprompt_tokens {Handler.asked}.0\n'
        self.answer(200, told.encode())

    def do_POST(self) -> None:
        words = len(self.rfile.read(int(self.headers["content-length"])).split())
        if self.path != "/v1/completions":
            self.answer(404, b"{}")
            return
        with self.lock:
            full = Handler.under_way >= self.most
            Handler.under_way += not full
            Handler.asked += 0 if full else words
        if not full:
            time.sleep(self.takes_s)
            with self.lock:
                Handler.under_way -= 1
        self.answer(429 if full else 200, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Handler.most = int(sys.argv[2]) if len(sys.argv) > 2 else Handler.most
    Handler.takes_s = float(sys.argv[3]) if len(sys.argv) > 3 else Handler.takes_s
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
