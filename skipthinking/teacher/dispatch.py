"""Sends many requests concurrently and hands over every outcome as it arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from skipthinking.records import UserError
from skipthinking.teacher.client import Client, RefusedError, Reply, Request

__all__ = ["AGAIN", "Outcome", "dispatch"]

AGAIN = (
    "If that changes client.extra, the model, the prompt or the sampling, run the changed command: its requests are "
    "new. Otherwise add --retry_failed true, which repeats only what failed."
)
"""What to do after the cause of failures is fixed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a request.

    Attributes:
        request: The request.
        reply: The reply; its completions belong to the first samples of the request. None for a failure.
        error: Reason of the failure; empty if there is a reply.
    """

    request: Request
    reply: Reply | None = None
    error: str = ""


async def dispatch(
    client: Client, requests: Iterable[Request], record: Callable[[list[Outcome]], None], stop_after: int
) -> None:
    """Sends requests, ``client.concurrency`` at a time, and draws the next one when one is done.

    Only requests in flight are held in memory, and the remainders of requests whose reply had fewer completions than
    samples.

    Args:
        client: The teacher; it is open.
        requests: The requests, drawn as there is room.
        record: Receives the outcomes since the last call. A recorded request is not sent again.
        stop_after: Number of consecutive failures after which the run stops.

    Raises:
        UserError: The client reports that no request will succeed, or ``stop_after`` requests failed in a row. All
            earlier outcomes have been recorded.
    """
    stream, remainders = iter(requests), deque[Request]()
    pending: set[asyncio.Task[Outcome]] = set()
    failures = 0
    try:
        while True:
            while len(pending) < client.concurrency and (
                request := remainders.popleft() if remainders else next(stream, None)
            ):
                pending.add(asyncio.create_task(_send(client, request)))
            if not pending:
                return
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            outcomes = [task.result() for task in done if not task.exception()]
            record(outcomes)
            for task in done:
                task.result()  # raises the error that ends the run, now that the other outcomes are recorded
            for outcome in outcomes:
                failures = failures + 1 if outcome.reply is None else 0
                if failures >= stop_after:
                    raise UserError(
                        f"{failures} requests failed in a row, the last one with: {outcome.error.rstrip('.')}. Fix the "
                        f"cause. {AGAIN} Without it the same command sends the rest."
                    )
                if outcome.reply is not None:
                    missing = list(outcome.request.samples.values())[len(outcome.reply.completions) :]
                    if missing:
                        remainders.append(outcome.request.select(missing.__contains__))
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _send(client: Client, request: Request) -> Outcome:
    try:
        return Outcome(request=request, reply=await client.complete(request))
    except RefusedError as error:
        return Outcome(request=request, error=str(error))
