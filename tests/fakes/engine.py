"""An engine with vLLM's command line and HTTP face, in milliseconds: for tests of what happens around an engine.

`fake.json` in the model's folder says how it behaves:
    answers   {question: answer}; others are answered "ok"
    die       a last log line, then exit 1
    start     seconds before it listens
    tokens    pieces of a streamed answer, `pause` seconds apart
    think     seconds before an answer that is not streamed
It drains as vLLM does with --shutdown-timeout: on SIGTERM it finishes the open requests, then goes.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--served-model-name", "--host", "--shutdown-timeout"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--port", type=int, required=True)
    asked, _ = parser.parse_known_args()
    file = Path(asked.model) / "fake.json"
    manners = json.loads(file.read_text()) if file.exists() else {}
    print(f"fake engine for {asked.model}", flush=True)
    time.sleep(manners.get("start", 0))
    if "die" in manners:
        print(manners["die"], flush=True)
        sys.exit(1)
    Engine((asked.host, asked.port), asked, manners).run()


class Engine(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def __init__(self, address, asked, manners):
        self.name, self.manners = asked.served_model_name, manners
        self.answers = manners.get("answers", {})
        self.key = os.environ.get("VLLM_API_KEY")
        super().__init__(address, Handler)

    def run(self):
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=self.shutdown).start())
        self.serve_forever(poll_interval=0.05)
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path in ("/health", "/metrics"):
            self._say(200, {})
        elif self._allowed():
            self._say(200, {"object": "list", "data": [{"id": self.server.name, "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return None
        if body["model"] != self.server.name:
            return self._say(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        answer = self.server.answers.get(body["messages"][-1]["content"], "ok")
        if body.get("stream"):
            return self._stream()
        time.sleep(self.server.manners.get("think", 0))
        return self._say(200, _completion(answer))

    def _allowed(self):
        key = self.server.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self._say(401, {"error": "Unauthorized"})
            return False
        return True

    def _stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in range(self.server.manners.get("tokens", 5)):
            delta = {"choices": [{"index": 0, "delta": {"content": f"{number} "}}]}
            self._write(f"data: {json.dumps(delta)}\n\n")
            time.sleep(self.server.manners.get("pause", 0.05))
        self._write("data: [DONE]\n\n")

    def _say(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _write(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()

    def log_message(self, *_):
        pass


def _completion(answer):
    return {
        "id": "fake",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": len(answer.split()), "total_tokens": 1},
    }


if __name__ == "__main__":
    main()
