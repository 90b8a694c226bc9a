"""Memory does not grow with the number of questions. tests/bench has the run of 10,000 through an endpoint."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from skipthinking.records import Example
from skipthinking.teacher.choosing import Shortest
from skipthinking.teacher.client import Client, Completion, Reply, Request, Sampling
from skipthinking.teacher.job import Job
from skipthinking.teacher.prompts import ZeroShot

COUNT, LONG = 800, "We add the numbers, one after the other. " * 36  # 1.5 kB


class Parrot(Client):
    """A teacher without a network that measures memory at every 100th request."""

    concurrency, samples_per_request = 64, None
    identity: Mapping[str, Any] = {"model": "parrot"}  # type: ignore[assignment]

    def __init__(self) -> None:
        self.count, self.memory = 0, list[int]()

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request) -> Reply:
        self.count += 1
        if self.count % 100 == 0:
            self.memory.append(tracemalloc.get_traced_memory()[0])
        text = f"{LONG}{self.count}. Therefore, the answer is {request.example.answer}."
        return Reply(
            completions=(Completion(text=text, finish="stop"),), prompt_tokens=9, completion_tokens=9, seconds=0.0
        )


def test_requesting_and_selecting_hold_no_completions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {f"q{i}": f"How many? {i}" for i in range(COUNT)}
    examples = [Example(id=id, question=text, rationale="", answer="5", task="gsm8k") for id, text in texts.items()]
    client = Parrot()
    job = Job(
        examples=examples, client=client, prompt=ZeroShot(), keep=Shortest(), lenient=False,
        stop_after=1, retry_failed=False, sampling=Sampling(samples=1, temperature=1.0, max_tokens=9, seed=0),
        out=tmp_path / "out.jsonl",
    )  # fmt: skip
    tracemalloc.start()
    try:
        job.run()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        job.run()  # a second time from the log alone
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert client.count == COUNT
    assert (tmp_path / "out.records").stat().st_size > 1.2e6
    assert client.memory[-1] - client.memory[0] < 0.05e6  # of 1 MB of completions in between
    assert peak < 0.6e6  # the positions: a fingerprint and an offset per completion
    assert capsys.readouterr().out.count(f"kept                 {COUNT}") == 2
