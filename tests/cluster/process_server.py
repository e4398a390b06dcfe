"""What the process node's tests run as a container: a small server whose ways are chosen by words on its command line.

`process_server.py HOST [WORD ...]` serves /health, /metrics and /break (from then on /live fails) on HOST:8000, and
streams completions, one token each 20 ms; on SIGTERM it drops them. Words: `stubborn` ignores SIGTERM, `family` starts
a grandchild in a session of its own first, `late` serves /health with 503 for its first 2 s.
"""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOST, WORDS = sys.argv[1], sys.argv[2:]
STARTED_S = time.monotonic()
BROKEN: list[bool] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/break":
            BROKEN.append(True)
        late = "late" in WORDS and time.monotonic() - STARTED_S < 2
        bad = (self.path == "/live" and BROKEN) or (self.path == "/health" and late)
        body = b"# TYPE tide_level gauge\ntide_level 7\n" if self.path == "/metrics" else b"fine\n"
        self.send_response(503 if bad else 200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for left in range(asked["max_tokens"] - 1, -1, -1):
            time.sleep(0.02)
            event = {"choices": [{"text": "x", "finish_reason": None if left else "length"}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        print(self.client_address[0], format % args, flush=True)


def ended(number: int, _frame: object) -> None:
    print(f"signal {number}", flush=True)
    if "stubborn" not in WORDS:
        sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, ended)
    if "family" in WORDS:
        # a shell between that ends at once leaves an orphan outside of our session and process group
        subprocess.run([*("setsid", "-f", sys.executable, "-c"), "import time; time.sleep(600)"], check=True)
    server = ThreadingHTTPServer((HOST, 8000), Handler)
    print(f"serves on {HOST} in {Path.cwd()} for {os.environ.get('WHO', 'nobody')}", flush=True)
    server.serve_forever(poll_interval=0.05)
