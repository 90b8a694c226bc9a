"""A chat endpoint on loopback that adds numbers and fails on demand, and the command that calls it."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from skipthinking.__main__ import main

os.environ["NO_PROXY"] = "127.0.0.1"
KEY = "sk-not-for-anyones-eyes-0123"


@dataclass
class Answer:
    """What the server does with a request.

    Attributes:
        status: HTTP status.
        headers: Additional headers.
        body: The body; by default a completion of the right sum for each of n.
        texts: Texts of the completions.
        finish: Finish reason of the completions.
        wait: Seconds before anything is sent.
        drop: Close the connection without a reply.
        missing: Bytes that Content-Length promises and that are never sent.
        drip: Seconds between two bytes of the body.
        limit: Maximum number of completions, whatever n says.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes | None = None
    texts: list[str] | None = None
    finish: str = "stop"
    wait: float = 0.0
    drop: bool = False
    missing: int = 0
    drip: float = 0.0
    limit: int = 99


@dataclass
class Seen:
    """A request as it arrived."""

    body: dict[str, Any]
    headers: dict[str, str]
    time: float

    @property
    def question(self) -> str:
        """The content of the last turn."""
        return self.body["messages"][-1]["content"]


def total(text: str) -> int:
    """The right answer to "What is 3 + 4?"."""
    numbers = re.search(r"What is (\d+) \+ (\d+)\?", text)
    assert numbers
    return int(numbers[1]) + int(numbers[2])


def solution(text: str, sample: int = 0) -> str:
    """A rationale with the right answer, different for each sample."""
    return f"We add the two numbers{' once more' * sample}. Therefore, the answer is {total(text)}."


class Loopback:
    """The server; ``behave`` maps the number of the request, from 0, and its body to an answer."""

    def __init__(self, behave: Callable[[int, dict[str, Any]], Answer] = lambda number, body: Answer()) -> None:
        self.behave = behave
        self.seen: list[Seen] = []
        self.remember = True
        self.count = self.busy = self.busiest = 0
        self.lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *words: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *words: Any) -> None:
                pass  # killed clients leave broken pipes

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            number, self.count = self.count, self.count + 1
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            if self.remember:
                headers = {name.lower(): value for name, value in handler.headers.items()}
                self.seen.append(Seen(body, headers, time.monotonic()))
        answer = self.behave(number, body)
        time.sleep(answer.wait)
        with self.lock:
            self.busy -= 1
        if answer.drop:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        self.send(handler, answer, completion(body, answer) if answer.body is None else answer.body)

    def send(self, handler: BaseHTTPRequestHandler, answer: Answer, body: str | bytes) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data) + answer.missing))
        handler.end_headers()
        for byte in data if answer.drip else ():
            handler.wfile.write(bytes([byte]))
            time.sleep(answer.drip)
        if not answer.drip:
            handler.wfile.write(data)
        handler.close_connection = handler.close_connection or bool(answer.missing)


def completion(body: dict[str, Any], answer: Answer) -> str:
    """A chat completion in the format of OpenAI's API."""
    texts = answer.texts
    if texts is None:
        question = body["messages"][-1]["content"]
        texts = [solution(question, sample) for sample in range(body.get("n", 1))]
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": answer.finish}
        for i, text in enumerate(texts[: answer.limit])
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(choices)}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": choices, "usage": usage})


def questions(path: Path, count: int) -> Path:
    """A file of additions in GSM8K's format, with ids."""
    rows = [
        {"id": f"q{i}", "question": f"What is {i} + {2 * i}?", "answer": f"By adding. #### {3 * i}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def teach(folder: Path, server: Loopback, *words: Any, count: int = 6) -> int:
    """Runs the command on ``count`` questions, with short waits between retries."""
    try:
        return main(["teach", *arguments(folder, server.url, count), *map(str, words)])
    except SystemExit as stop:
        return int(stop.code or 0)


def arguments(folder: Path, url: str, count: int) -> list[str]:
    """The arguments of the command."""
    path = folder / "questions.jsonl"
    if not path.exists():
        questions(path, count)
    endpoint = {"model": "adder", "base_url": url, "key_env": "TEST_KEY", "first_wait": 0.01, "timeout": 5.0}
    return [
        "--questions", json.dumps({"class_path": "Files", "init_args": {"path": str(path), "task": "gsm8k"}}),
        "--client", json.dumps({"class_path": "Endpoint", "init_args": endpoint}),
        "--out", str(folder / "out.jsonl"),
    ]  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(text) for text in path.read_text().splitlines()]
