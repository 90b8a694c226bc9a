"""When a request is sent again: exponential backoff with jitter, and what a server says in Retry-After."""

from __future__ import annotations

import asyncio
import email.utils
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from skipthinking.records import UserError
from skipthinking.teacher.client import RefusedError

__all__ = ["Patience", "TransientError", "retry_after"]

T = TypeVar("T")

_LONG = 5.0  # seconds; a longer pause is told


class TransientError(Exception):
    """A failure that may pass.

    Args:
        cause: What happened, in one line.
        after: Seconds that the server asks to wait.
    """

    def __init__(self, cause: str, after: float | None = None) -> None:
        super().__init__(cause)
        self.after = after


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, by a response's headers: Retry-After in seconds or as a date, or retry-after-ms.

    Args:
        headers: The headers, found whatever the case of the name.
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


class Patience:
    """Sends again what failed for a while. All requests that share it wait when a server asks one of them to.

    openai's own retries are off: as of 3.52 they let an unreadable body pass, give up on a Retry-After above two
    minutes, wait 8 seconds at most, and know nothing of the other requests.

    Args:
        tries: Attempts at a request, the first one included.
        first_wait: Seconds before the second attempt, doubled before each that follows; of every wait up to a half is
            taken off at random, so that requests that failed together do not return together.
        longest_wait: Seconds that no such wait exceeds.
        longest_pause: The longest Retry-After, in seconds, that is waited for.
    """

    def __init__(self, tries: int, first_wait: float, longest_wait: float, longest_pause: float) -> None:
        if tries < 1 or not 0 <= first_wait <= longest_wait or longest_pause < 0:
            raise UserError(
                "Expected at least 1 try and waits from short to long, got "
                f"client: tries={tries}, first_wait={first_wait}, longest_wait={longest_wait}, "
                f"longest_pause={longest_pause}."
            )
        self.tries, self.first_wait, self.longest_wait = tries, first_wait, longest_wait
        self.longest_pause = longest_pause
        self.retries = 0
        self._until = 0.0  # on the clock time.monotonic: nobody sends before

    def wait(self, failures: int) -> float:
        """Seconds after so many failures of a request."""
        return min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)

    async def insist(self, send: Callable[[], Awaitable[T]]) -> T:
        """Calls until it succeeds.

        Raises:
            RefusedError: It failed as often as there are tries.
            UserError: The server asks for a longer pause than allowed.
        """
        for failures in range(1, self.tries + 1):
            while (pause := self._until - time.monotonic()) > 0:
                await asyncio.sleep(pause + random.uniform(0, self.first_wait))
            try:
                return await send()
            except TransientError as error:
                if error.after is not None and error.after > self.longest_pause:
                    raise UserError(
                        f"Expected a pause of at most {self.longest_pause:g} s, got Retry-After {error.after:g} s: "
                        f"{error}. Run the same command later, or raise client.longest_pause."
                    ) from error
                if failures == self.tries:
                    raise RefusedError(f"{error} ({failures} tries)" if failures > 1 else str(error)) from error
                if not self.retries:
                    print(f"what fails in passing is sent {self.tries} times: {error}", file=sys.stderr)
                self.retries += 1
                now, after = time.monotonic(), error.after or 0.0
                if after >= _LONG and self._until <= now:
                    print(f"waiting {after:.0f} s, as the server asks", file=sys.stderr)
                self._until = max(self._until, now + after)
                await asyncio.sleep(self.wait(failures))
        raise AssertionError
