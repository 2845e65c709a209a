"""A server that speaks the OpenAI chat protocol and fails as it is told, on the loopback address."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STRATEGY = {
    "problem_type": "Two related quantities and their total",
    "approach": "Find the unknown quantity from its relation to the known one, then add.",
    "steps": ["Name the known quantity.", "Apply the stated relation to it.", "Add the two quantities."],
    "when_to_use": "When a total is asked for and one part is given through the other.",
}
SCORES = {"faithful": 4, "general": 4, "actionable": 4, "leak_free": 5}


@dataclass
class Reply:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    act: str = "answer"  # or "drop": close without a word; "hang": say nothing; "endless": never stop sending


def chat(*texts: str, prompt_tokens: int = 100, completion_tokens: int = 10, **more: Any) -> Reply:
    """A chat completion with a choice per text."""
    choices = [{"index": i, "message": {"role": "assistant", "content": text}} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    body = {"id": "x", "object": "chat.completion", "choices": choices, "usage": usage, **more}
    return Reply(body=json.dumps(body).encode(), headers={"Content-Type": "application/json"})


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    body = {"error": {"message": message, "code": code}}
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})


def html(status: int = 200) -> Reply:
    return Reply(status, b"<html><body>Please wait</body></html>", {"Content-Type": "text/html"})


def is_ranking(request: dict[str, Any]) -> bool:
    return "faithful" in request["messages"][0]["content"]


def good(request: dict[str, Any], strategy: dict[str, Any] = STRATEGY) -> Reply:
    """What a well-behaved model answers: `n` strategies that differ, or scores."""
    if is_ranking(request):
        return chat(json.dumps(SCORES))
    steps = strategy["steps"]
    return chat(*(json.dumps({**strategy, "steps": [*steps, f"Check it: way {'i' * i}"]}) for i in range(request["n"])))


class ChatServer:
    """`script(request, number)` says what to do with each request; `requests` holds all that came, `times` when."""

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any], int], Reply] = lambda request, number: good(request)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        chat_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with chat_server.lock:
                    number = len(chat_server.requests)
                    chat_server.requests.append(request)
                    chat_server.keys.append(self.headers["Authorization"])
                    chat_server.times.append(time.monotonic())
                reply = chat_server.script(request, number)
                if reply.act == "hang":
                    chat_server.closing.wait(30)
                if reply.act in ("drop", "hang"):
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                if reply.act == "answer":
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if reply.act == "endless":
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        while not chat_server.closing.is_set():
                            self.wfile.write(reply.body)
                else:
                    self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
