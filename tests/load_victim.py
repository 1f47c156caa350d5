"""A model service in small that says how many requests are under way, and takes its time for each.

load_victim.py PORT [MOST]    POST /v1/completions is answered after 0.1 s, with 429 where MOST are under way; GET /metrics tells how many
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TAKES_S = 0.1


class Handler(BaseHTTPRequestHandler):
    under_way = asked = 0
    lock = threading.Lock()
    most = 1000

    def do_GET(self) -> None:
        told = f'requests_running{{engine="0"}} {Handler.under_way}.0\nprompt_tokens {Handler.asked}.0\n'
        self.answer(200, told.encode())

    def do_POST(self) -> None:
        words = len(self.rfile.read(int(self.headers["content-length"])).split())
        with self.lock:
            full = Handler.under_way >= self.most
            Handler.under_way += not full
            Handler.asked += 0 if full else words
        if not full:
            time.sleep(TAKES_S)
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
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
