"""Asks many questions at once, and hands on every reply as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from skipthinking.records import UserError
from skipthinking.teacher.client import Client, RefusedError, Reply, Request

__all__ = ["Outcome", "ask"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a request.

    Attributes:
        request: The request.
        reply: What came back, for as many of its samples as it has completions; None for a failure.
        cause: Why there is none.
    """

    request: Request
    reply: Reply | None = None
    cause: str = ""


async def ask(
    client: Client, requests: Iterable[Request], keep: Callable[[list[Outcome]], None], stop_after: int
) -> None:
    """Sends requests, ``client.width`` at a time, and takes the next from the stream as one is done.

    Of requests nothing is held but those under way, and the rest of those whose reply had fewer completions than were
    asked for.

    Args:
        client: Whom to ask; it is open.
        requests: The stream.
        keep: Gets the outcomes that came in since the last call. What it was given is never asked again.
        stop_after: Failures in a row, with no reply between, after which the next questions would fare no better.

    Raises:
        UserError: The client says that nobody will get a reply, or too many requests failed in a row. All replies
            before that have been kept.
    """
    stream, rest = iter(requests), deque[Request]()
    pending: set[asyncio.Task[Outcome]] = set()
    failures = 0
    try:
        while True:
            while len(pending) < client.width and (request := rest.popleft() if rest else next(stream, None)):
                pending.add(asyncio.create_task(_send(client, request)))
            if not pending:
                return
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            outcomes = [task.result() for task in done if not task.exception()]
            keep(outcomes)
            for task in done:
                task.result()  # raises what ends the run, now that the others are kept
            for outcome in outcomes:
                if outcome.reply is None:
                    failures += 1
                    _check(failures, stop_after, outcome.cause)
                    continue
                failures = 0
                left = outcome.request.keys[len(outcome.reply.completions) :]
                if left:
                    rest.append(outcome.request.only(left.__contains__))
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _send(client: Client, request: Request) -> Outcome:
    try:
        return Outcome(request=request, reply=await client.complete(request))
    except RefusedError as error:
        return Outcome(request=request, cause=str(error))


def _check(failures: int, stop_after: int, cause: str) -> None:
    if failures >= stop_after:
        raise UserError(
            f"Expected replies, got {failures} failures in a row, the last of them: {cause.rstrip('.')}. Mend that; "
            "then the same command goes on, and with --retry_failed true it asks again what failed."
        )
