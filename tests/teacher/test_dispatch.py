"""The loop over requests, with teachers that answer without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from skipthinking.records import Example, UserError
from skipthinking.teacher.client import Client, Completion, RefusedError, Reply, Request, Sampling, request_for
from skipthinking.teacher.dispatch import Outcome, ask
from skipthinking.teacher.prompts import ZeroShot


class Teacher(Client):
    """Says the question's id, unless ``say`` raises."""

    samples_per_request = None
    identity: Mapping[str, Any] = {}  # type: ignore[assignment]

    def __init__(self, width: int, say: Callable[[str], None] = lambda id: None) -> None:
        self.width, self.say = width, say
        self.cancelled = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def complete(self, request: Request) -> Reply:
        self.say(request.example.id)
        if request.example.id == "slow":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        texts = (Completion(text=request.example.id, finish="stop"),)
        return Reply(completions=texts, prompt_tokens=1, completion_tokens=1, seconds=0.0)


def _requests(client: Client, ids: list[str], taken: list[str]) -> Iterator[Request]:
    for id in ids:
        taken.append(id)
        example = Example(id=id, question="?", rationale="", answer="1", task="gsm8k")
        sampling = Sampling(samples=1, temperature=1.0, max_tokens=9, seed=0)
        yield request_for(client, ZeroShot(), example, sampling)


def test_what_came_in_together_with_the_end_is_kept_and_the_rest_is_called_off() -> None:
    def say(id: str) -> None:
        if id == "bad":
            raise UserError("no more")

    kept: list[str] = []

    def keep(outcomes: list[Outcome]) -> None:
        kept.extend(outcome.request.example.id for outcome in outcomes)

    client, taken = Teacher(4, say), list[str]()
    with pytest.raises(UserError, match="no more"):
        asyncio.run(ask(client, _requests(client, ["slow", "a", "bad", "b", "c"], taken), keep, 9))
    assert sorted(kept) == ["a", "b"]
    assert client.cancelled == 1
    assert taken == ["slow", "a", "bad", "b"]


def test_the_stream_is_taken_from_only_as_there_is_room() -> None:
    most, taken, done = 0, list[str](), list[Outcome]()
    client = Teacher(3)

    def keep(outcomes: list[Outcome]) -> None:
        nonlocal most
        most = max(most, len(taken) - len(done))
        done.extend(outcomes)

    ids = [f"q{i}" for i in range(50)]
    asyncio.run(ask(client, _requests(client, ids, taken), keep, 1))
    assert sorted(outcome.request.example.id for outcome in done) == sorted(ids)
    assert most == 3


def test_a_refusal_is_an_outcome_with_its_cause() -> None:
    def say(id: str) -> None:
        if id == "q1":
            raise RefusedError("too long")

    done, client = list[Outcome](), Teacher(1, say)
    asyncio.run(ask(client, _requests(client, ["q0", "q1", "q2"], []), done.extend, 2))
    assert [(outcome.reply is None, outcome.cause) for outcome in done] == [
        (False, ""),
        (True, "too long"),
        (False, ""),
    ]
