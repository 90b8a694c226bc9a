"""The dispatch loop, with teachers that reply without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from skipthinking.records import Example, UserError
from skipthinking.teacher.client import Client, Completion, RefusedError, Reply, Request, Sampling, make_request
from skipthinking.teacher.dispatch import Outcome, dispatch
from skipthinking.teacher.prompts import ZeroShot


class Teacher(Client):
    """Replies with the id of the question, unless ``say`` raises."""

    samples_per_request = None
    identity: Mapping[str, Any] = {}  # type: ignore[assignment]

    def __init__(self, concurrency: int, say: Callable[[str], None] = lambda id: None) -> None:
        self.concurrency, self.say = concurrency, say
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


def _requests(client: Client, ids: list[str], drawn: list[str]) -> Iterator[Request]:
    for id in ids:
        drawn.append(id)
        example = Example(id=id, question="?", rationale="", answer="1", task="gsm8k")
        sampling = Sampling(samples=1, temperature=1.0, max_tokens=9, seed=0)
        yield make_request(client, ZeroShot(), example, sampling)


def test_outcomes_beside_the_fatal_error_are_recorded_and_pending_requests_cancelled() -> None:
    def say(id: str) -> None:
        if id == "bad":
            raise UserError("no more")

    recorded: list[str] = []

    def record(outcomes: list[Outcome]) -> None:
        recorded.extend(outcome.request.example.id for outcome in outcomes)

    client, drawn = Teacher(4, say), list[str]()
    with pytest.raises(UserError, match="no more"):
        asyncio.run(dispatch(client, _requests(client, ["slow", "a", "bad", "b", "c"], drawn), record, 9))
    assert sorted(recorded) == ["a", "b"]
    assert client.cancelled == 1
    assert drawn == ["slow", "a", "bad", "b"]


def test_requests_are_drawn_only_as_there_is_room() -> None:
    most, drawn, done = 0, list[str](), list[Outcome]()
    client = Teacher(3)

    def record(outcomes: list[Outcome]) -> None:
        nonlocal most
        most = max(most, len(drawn) - len(done))
        done.extend(outcomes)

    ids = [f"q{i}" for i in range(50)]
    asyncio.run(dispatch(client, _requests(client, ids, drawn), record, 1))
    assert sorted(outcome.request.example.id for outcome in done) == sorted(ids)
    assert most == 3


def test_a_refusal_is_an_outcome_with_its_error() -> None:
    def say(id: str) -> None:
        if id == "q1":
            raise RefusedError("too long")

    done, client = list[Outcome](), Teacher(1, say)
    asyncio.run(dispatch(client, _requests(client, ["q0", "q1", "q2"], []), done.extend, 2))
    assert [(outcome.reply is None, outcome.error) for outcome in done] == [
        (False, ""),
        (True, "too long"),
        (False, ""),
    ]
