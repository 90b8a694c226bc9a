"""What every teacher has in common: requests, replies, and the fingerprint that identifies a completion."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from skipthinking.records import Example, UserError
from skipthinking.teacher.prompts import Message, Prompt

__all__ = ["Client", "Completion", "RefusedError", "Reply", "Request", "Sampling", "make_request"]


class RefusedError(Exception):
    """The teacher gives no completion for this question; it may for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        samples: Completions per question.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Maximum new tokens per completion.
        seed: Another seed gives other samples.
    """

    samples: int
    temperature: float
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens) < 1:
            raise UserError(
                f"Expected at least 1 sample and 1 token, got samples={self.samples}, max_tokens={self.max_tokens}. "
                "Raise each to 1 or more."
            )
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"Expected a temperature of 0 or more, got {self.temperature} (temperature). Set temperature: 0.7, "
                "for example."
            )
        if self.temperature == 0 and self.samples > 1:
            raise UserError(
                f"Expected 1 sample at temperature 0, where all samples are equal, got samples={self.samples}. "
                "Set samples: 1, or temperature: 0.7, for example."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question and the samples wanted for it.

    Attributes:
        example: The question.
        messages: The chat to continue.
        sampling: How completions are sampled.
        samples: Fingerprint of each wanted sample, by the index of the sample.
    """

    example: Example
    messages: list[Message]
    sampling: Sampling
    samples: dict[int, str]

    @property
    def seed(self) -> int:
        """Seed of the first sample: below 2**31, different for every example and sample."""
        text = f"{self.sampling.seed}/{self.example.id}/{next(iter(self.samples))}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1

    def select(self, chosen: Callable[[str], bool]) -> Request:
        """The request for only those samples whose fingerprint is wanted."""
        return replace(self, samples={i: fingerprint for i, fingerprint in self.samples.items() if chosen(fingerprint)})

    def split(self, size: int | None) -> Iterator[Request]:
        """Requests for at most ``size`` samples each; none if no sample is wanted."""
        items = list(self.samples.items())
        size = size or len(items) or 1
        for i in range(0, len(items), size):
            yield replace(self, samples=dict(items[i : i + size]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One text of the teacher.

    Attributes:
        text: The text; may be empty.
        finish: Why the text ended, in the server's words: "stop", "length", ...; None if the server does not say.
    """

    text: str
    finish: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The reply to a request: at least one completion, at most one per wanted sample.

    Attributes:
        completions: Completions of the first wanted samples, in order.
        prompt_tokens: Tokens of the prompt; None if the server does not say.
        completion_tokens: Tokens of all completions together; None if the server does not say.
        seconds: Duration of the attempt that succeeded.
    """

    completions: tuple[Completion, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


class Client(ABC):
    """A teacher: an endpoint or a local model."""

    concurrency: int
    """Number of requests in flight at once."""
    samples_per_request: int | None
    """Maximum number of samples per request; None for no limit."""

    @property
    def retries(self) -> int:
        """Number of repeated attempts so far."""
        return 0

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What determines a completion besides messages and sampling: the model, but not where or how fast it runs."""

    @abstractmethod
    async def open(self) -> None:
        """Prepares for requests.

        Raises:
            UserError: Something is missing.
        """

    @abstractmethod
    async def complete(self, request: Request) -> Reply:
        """Sends a request and waits for the reply.

        Raises:
            RefusedError: There is no completion for this question.
            UserError: There will be no completion for any question.
        """

    @abstractmethod
    async def close(self) -> None:
        """Releases connections or memory."""


def make_request(client: Client, prompt: Prompt, example: Example, sampling: Sampling) -> Request:
    """The request for all samples of an example.

    A fingerprint hashes everything that determines the text. More samples, another address and another concurrency keep
    earlier completions valid; another model, prompt, temperature, token limit or seed does not.
    """
    messages = prompt.messages(example)
    settings = [dict(client.identity), example.id, messages, sampling.temperature, sampling.max_tokens, sampling.seed]
    text = json.dumps(settings, sort_keys=True)
    samples = {i: hashlib.blake2b(f"{text}/{i}".encode(), digest_size=12).hexdigest() for i in range(sampling.samples)}
    return Request(example=example, messages=messages, sampling=sampling, samples=samples)
