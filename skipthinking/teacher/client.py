"""One request to the teacher, one reply, and the fingerprint by which a completion is found again."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skipthinking.records import Example, UserError
from skipthinking.teacher.prompts import Message, Prompt

__all__ = ["Client", "Completion", "RefusedError", "Reply", "Request", "Sampling", "request_for"]


class RefusedError(Exception):
    """This question gets no completion; others may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        samples: Completions per question.
        temperature: 0 is greedy.
        max_tokens: Most new tokens of a completion.
        seed: Another seed gives other samples.
    """

    samples: int
    temperature: float
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens) < 1:
            raise UserError(
                f"Expected at least 1 sample and 1 token, got samples={self.samples}, max_tokens={self.max_tokens}."
            )
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"Expected a temperature of 0 or more, got {self.temperature} (temperature).")
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                f"Expected 1 sample at temperature 0, where all are the same, got samples={self.samples}. "
                "Raise the temperature."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of the teacher at once: one question, one or more samples.

    Attributes:
        example: The example.
        messages: The chat to continue.
        sampling: How completions are drawn.
        missing: Numbers of the samples that are wanted, from 0.
        keys: Their fingerprints.
    """

    example: Example
    messages: list[Message]
    sampling: Sampling
    missing: tuple[int, ...]
    keys: tuple[str, ...]

    @property
    def seed(self) -> int:
        """Seed of the first sample: another one for every example and sample, below 2**31."""
        text = f"{self.sampling.seed}/{self.example.id}/{self.missing[0]}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1

    def parts(self, size: int | None) -> Iterator[Request]:
        """The same in requests of so many samples at most; none where no sample is missing."""
        size = size or len(self.keys) or 1
        for at in range(0, len(self.keys), size):
            yield replace(self, missing=self.missing[at : at + size], keys=self.keys[at : at + size])

    def only(self, wanted: Callable[[str], bool]) -> Request:
        """The same for those samples whose fingerprints are wanted."""
        left = [i for i, key in enumerate(self.keys) if wanted(key)]
        return replace(self, missing=tuple(self.missing[i] for i in left), keys=tuple(self.keys[i] for i in left))


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One text of the teacher.

    Attributes:
        text: The text; it may be empty.
        finish: Why it ended, in the server's word: "stop", "length", ...; None if it does not tell.
    """

    text: str
    finish: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What comes back: at least one completion, at most as many as were asked for.

    Attributes:
        completions: For the first of the missing samples, in order.
        prompt_tokens: Tokens read; None if the server does not tell.
        completion_tokens: Tokens written, all completions together; None likewise.
        seconds: From request to reply, without earlier attempts.
    """

    completions: tuple[Completion, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


class Client(ABC):
    """Someone who can be asked: an endpoint or a local model."""

    width: int
    """Requests that are under way at once."""
    samples_per_request: int | None
    """Most samples of one request; None for no limit."""

    @property
    def retries(self) -> int:
        """Attempts beyond the first so far."""
        return 0

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What decides on a completion beside messages and sampling: the model, not where or how fast it runs."""

    @abstractmethod
    async def complete(self, request: Request) -> Reply:
        """Asks.

        Raises:
            RefusedError: There is no completion for this question.
            UserError: There will be none for any.
        """

    @abstractmethod
    async def open(self) -> None:
        """Gets ready to be asked.

        Raises:
            UserError: Something is missing.
        """

    @abstractmethod
    async def close(self) -> None:
        """Lets go of connections or memory."""


def request_for(client: Client, prompt: Prompt, example: Example, sampling: Sampling) -> Request:
    """The request for all samples of an example.

    A fingerprint is of all that decides on the text. So more samples, another address or more requests at once leave
    the old ones valid; another model, prompt, temperature, limit or seed does not.
    """
    messages, numbers = prompt.messages(example), range(sampling.samples)
    common = [dict(client.identity), example.id, messages, sampling.temperature, sampling.max_tokens, sampling.seed]
    text = json.dumps(common, sort_keys=True)
    return Request(
        example=example,
        messages=messages,
        sampling=sampling,
        missing=tuple(numbers),
        keys=tuple(hashlib.blake2b(f"{text}/{n}".encode(), digest_size=12).hexdigest() for n in numbers),
    )
