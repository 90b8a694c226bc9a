"""When a request is repeated: exponential backoff with jitter, and Retry-After, which pauses all requests.

openai's own retries are off: as of 3.52 they accept an unreadable body, give up on a Retry-After above two minutes,
wait 8 seconds at most, and don't coordinate requests. tenacity would replace only the loop of ``RetryPolicy.call``, and
make the file 15 lines longer: the shared pause, the limit on pauses, the messages and the wait (none of its strategies
draws from [w/2, w]) would become callbacks.
"""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from skipthinking.records import UserError
from skipthinking.teacher.client import RefusedError

__all__ = ["RetryPolicy", "TransientError", "retry_after"]

T = TypeVar("T")

_LONG_PAUSE = 5.0  # seconds; a longer pause is reported


class TransientError(Exception):
    """A failure that another attempt may not have.

    Args:
        cause: What happened, in one line.
        retry_after: Seconds that the server asks to wait.
    """

    def __init__(self, cause: str, retry_after: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after = retry_after


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a response asks to wait: Retry-After in seconds or as a date, or retry-after-ms.

    Args:
        headers: The headers; their lookup ignores case.
        now: Seconds since 1970.

    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50.0)
    10.0
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class RetryPolicy:
    """Repeats requests after transient failures. A server's Retry-After pauses all requests of the same policy.

    Args:
        tries: Attempts per request, the first one included.
        first_wait: Seconds before the second attempt; doubled before each further one. Up to half of every wait is
            taken off at random, so that requests that failed together are not repeated together.
        longest_wait: Upper bound of these waits, in seconds.
        longest_pause: Longest Retry-After that is waited for, in seconds.
    """

    def __init__(self, tries: int, first_wait: float, longest_wait: float, longest_pause: float) -> None:
        if tries < 1 or not 0 <= first_wait <= longest_wait or longest_pause < 0:
            raise UserError(
                "Expected at least 1 try, first_wait <= longest_wait, and no negative seconds, got client: "
                f"tries={tries}, first_wait={first_wait}, longest_wait={longest_wait}, longest_pause={longest_pause}. "
                "Leave out what is outside of its range, for its default."
            )
        self.tries, self.first_wait, self.longest_wait = tries, first_wait, longest_wait
        self.longest_pause = longest_pause
        self.retries = 0
        self._paused_until = 0.0  # by time.monotonic

    def wait(self, failures: int) -> float:
        """Seconds to wait after a request's n-th failure."""
        return min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)

    async def call(self, send: Callable[[], Awaitable[T]]) -> T:
        """Calls ``send`` until it succeeds.

        Raises:
            RefusedError: All tries failed.
            UserError: The server asks for a longer pause than allowed.
        """
        for failures in itertools.count(1):
            while (pause := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(pause + random.uniform(0, self.first_wait))
            try:
                return await send()
            except TransientError as error:
                pause, now = error.retry_after or 0.0, time.monotonic()
                if pause > self.longest_pause:
                    raise UserError(
                        f"Expected a pause of at most {self.longest_pause:g} s, got Retry-After {pause:g} s: {error}. "
                        f"Run the same command later, or set client.longest_pause: {math.ceil(pause)}."
                    ) from error
                if failures == self.tries:
                    raise RefusedError(f"{error} ({failures} tries)" if failures > 1 else str(error)) from error
                if not self.retries:
                    print(f"transient failures get up to {self.tries} tries; the first one: {error}", file=sys.stderr)
                self.retries += 1
                if pause >= _LONG_PAUSE and self._paused_until <= now:
                    print(f"waiting {pause:.0f} s, as the server asks", file=sys.stderr)
                self._paused_until = max(self._paused_until, now + pause)
                await asyncio.sleep(self.wait(failures))
        raise AssertionError
