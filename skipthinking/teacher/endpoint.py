"""A teacher at an OpenAI-compatible endpoint: a hosted API, vLLM, ``transformers serve``."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from skipthinking.records import UserError
from skipthinking.teacher.client import Client, Completion, RefusedError, Reply, Request
from skipthinking.teacher.retries import RetryPolicy, TransientError, retry_after

__all__ = ["Endpoint"]

_OPENAI = "https://api.openai.com/v1"  # explicit: openai's client would read its own environment variable
_NO_KEY = "none"  # local servers need no key, but openai's client requires one
_SECRET_LENGTH = 8  # characters; a shorter key is a placeholder, and hiding it would damage ordinary text
_RESERVED = {"messages", "model", "n", "stream"}
_TRANSIENT = {408, 409, 425, 429}  # HTTP statuses; and every 5xx
_FATAL = {401, 402, 404}
_FATAL_CODES = {"insufficient_quota", "billing_hard_limit_reached", "invalid_api_key", "model_not_found"}


class Endpoint(Client):
    """A chat endpoint, called with openai's client.

    Args:
        model: Name of the model at the endpoint.
        base_url: Address up to and including /v1; OpenAI's by default.
        key_env: Name of the environment variable with the API key. The key itself belongs in no file; it is removed
            from all that the server sends.
        concurrency: Number of requests in flight at once.
        samples_per_request: Maximum number of samples per request (field n); no limit by default. Samples that a server
            leaves out because it ignores n are requested one after another; with 1 they are requested concurrently.
        timeout: Seconds after which an attempt fails.
        tries: Attempts per request, the first one included.
        first_wait: Seconds before the second attempt; doubled before each further one, minus up to half at random.
        longest_wait: Upper bound of these waits, in seconds.
        longest_pause: Longest Retry-After that is waited for, in seconds; a longer one ends the run.
        extra: More fields of the request body, which override the others; null removes a field, as in
            {max_tokens: null, max_completion_tokens: 2048, temperature: null} for some models.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        samples_per_request: int | None = None,
        timeout: float = 180.0,
        tries: int = 7,
        first_wait: float = 1.0,
        longest_wait: float = 60.0,
        longest_pause: float = 900.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if min(concurrency, samples_per_request or 1) < 1 or timeout <= 0:
            raise UserError(
                f"Expected positive values, got client: concurrency={concurrency}, "
                f"samples_per_request={samples_per_request}, timeout={timeout}. Raise each to 1 or more."
            )
        self.model, self.base_url, self.key_env = model, base_url, key_env
        self.concurrency, self.samples_per_request, self.timeout = concurrency, samples_per_request, timeout
        self.extra = dict(extra or {})
        self._policy = RetryPolicy(tries, first_wait, longest_wait, longest_pause)
        self._client: Any = None
        self._replied = False  # whether any request has succeeded
        self._secret: re.Pattern[str] | None = None
        _check_address(base_url)
        _check_name(key_env)
        if reserved := sorted(_RESERVED & self.extra.keys()):
            raise UserError(
                f"Expected fields other than {', '.join(sorted(_RESERVED))}, got {', '.join(reserved)} (client.extra). "
                "Remove it from client.extra."
            )

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model and the extra fields."""
        return {"model": self.model, "extra": self.extra}

    @property
    def retries(self) -> int:
        """Number of repeated attempts so far."""
        return self._policy.retries

    async def open(self) -> None:
        """Reads the API key and creates openai's client.

        Raises:
            UserError: openai is not installed, the key is missing or malformed, or the proxy can't be used.
        """
        api_key = _read_api_key(self.key_env, needed=self.base_url is None)
        if len(api_key) >= _SECRET_LENGTH:
            # also matches the key with characters escaped by JSON
            self._secret = re.compile("".join(rf"\\?{re.escape(character)}" for character in api_key))
        try:
            import openai
        except ImportError as error:
            raise UserError("The package openai is not installed: pip install 'skipthinking[teacher]'.") from error
        try:
            self._client = openai.AsyncOpenAI(
                api_key=api_key or _NO_KEY, base_url=self.base_url or _OPENAI, max_retries=0, timeout=None
            )
        except (ValueError, ImportError) as error:  # a proxy of an unknown scheme; SOCKS without its package
            raise UserError(
                f"Expected a usable proxy, got: {error} Fix HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."
            ) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def body(self, request: Request) -> dict[str, Any]:
        """The body of the HTTP request."""
        sampling, n = request.sampling, len(request.samples)
        fields = {"model": self.model, "messages": request.messages, "temperature": sampling.temperature}
        fields |= {"max_tokens": sampling.max_tokens, "seed": request.seed, "n": n if n > 1 else None, **self.extra}
        return {name: value for name, value in fields.items() if value is not None}

    async def complete(self, request: Request) -> Reply:
        """Sends the request, again after transient failures."""
        return await self._policy.call(lambda: self._send(request))

    async def _send(self, request: Request) -> Reply:
        import openai

        body, start = self.body(request), time.monotonic()
        try:
            # The raw response: openai's client would parse any JSON, and HTML, as a completion.
            response = await asyncio.wait_for(
                self._client.chat.completions.with_raw_response.create(
                    model=body.pop("model"), messages=body.pop("messages"), extra_body=body
                ),
                self.timeout,
            )
        except (asyncio.TimeoutError, openai.APITimeoutError) as error:
            raise TransientError(f"no reply within {self.timeout:g} s") from error
        except openai.APIStatusError as error:
            raise self._failure(error.status_code, error.response.headers, error.response.content) from None
        except openai.APIConnectionError as error:
            raise TransientError(self._clean(f"no connection: {error.__cause__ or error}")) from None
        reply = read_reply(self._hide(_decode(response.content)), len(request.samples), time.monotonic() - start)
        self._replied = True
        return reply

    def _failure(self, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        """The exception for an HTTP error, by whether this attempt, this question or every question fails."""
        code, message = _parse_error(_decode(content))
        cause = self._clean(f"HTTP {status}: {message}" if message else f"HTTP {status}")
        # Some servers answer 400 to an unknown model. Once there was a reply, a 400 is about the question.
        unknown = not self._replied and status in (400, 422) and _contains_name(message, self.model)
        if status in _FATAL or code in _FATAL_CODES or unknown:
            where = self.base_url or _OPENAI
            return UserError(
                f"Expected model {self.model!r} at {where} with the key of {self.key_env}, got {cause.rstrip('.')}. "
                "Fix client.model, client.base_url, the key or the account, then run the same command to resume."
            )
        if status in _TRANSIENT or status >= 500:
            return TransientError(cause, retry_after(headers, time.time()))
        return RefusedError(cause)

    def _hide(self, text: str) -> str:
        return self._secret.sub("[key]", text) if self._secret else text

    def _clean(self, text: str) -> str:
        """The text as one line of at most 300 characters, without the API key."""
        return " ".join(_encodable(self._hide(text)).split())[:300]


def read_reply(content: str, samples: int, seconds: float) -> Reply:
    """Parses the body of a chat completion without trusting its structure.

    Raises:
        TransientError: The body is not a chat completion.
    """
    try:
        body = json.loads(content)
        choices = sorted(body["choices"], key=lambda choice: choice.get("index") or 0)[:samples]
        completions = tuple(
            Completion(text=_message(choice["message"]), finish=_text(choice.get("finish_reason")) or None)
            for choice in choices
        )
        usage = body.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TransientError(f"unreadable reply: {content[:100]!r}") from error
    if not completions:
        raise TransientError(f"a reply without completions: {content[:100]!r}")
    prompt, completion = (count if isinstance(count, int) else None for count in counts)
    return Reply(completions=completions, prompt_tokens=prompt, completion_tokens=completion, seconds=seconds)


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _message(message: Mapping[str, Any]) -> str:
    """The text of a message. Thoughts that the server returns separately get their tags back."""
    text = _text(message.get("content"))
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{_encodable(thoughts)}</think>{text}" if isinstance(thoughts, str) else text


def _text(content: object) -> str:
    """The text of a string, of a list of parts, or of None."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise TypeError
    return _encodable(content or "")


def _encodable(text: str) -> str:
    """The text with a question mark for each lone surrogate (half a character at a cut end), which UTF-8 refuses."""
    return text.encode("utf-8", "replace").decode()


def _parse_error(content: str) -> tuple[str | None, str]:
    """Code and message of an error body, in the forms of OpenAI, FastAPI and plain text."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None, content
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return None, str(error)
    code = error.get("code") if isinstance(error.get("code"), str) else None
    return code, str(error.get("message") or error.get("detail") or content)


def _contains_name(text: str, model: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(model)}(?![\w-])", text) is not None


def _check_address(base_url: str | None) -> None:
    if base_url is None:
        return
    if "@" in base_url or "?" in base_url:
        raise UserError(
            "Expected an address without user, password or query, got one with them (client.base_url, not shown). "
            "Put the key into an environment variable and name it in client.key_env."
        )
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # unbalanced brackets; a port above 65535
        valid = False
    if not valid or not re.fullmatch(r"\S+", base_url):
        raise UserError(
            f"Expected an address such as http://127.0.0.1:8000/v1, got {base_url!r} (client.base_url). Fix it."
        )


def _read_api_key(name: str, needed: bool) -> str:
    """The API key without surrounding white space. Errors never show it."""
    api_key = os.environ.get(name, "").strip()
    if not api_key and needed:
        raise UserError(f"Expected a key for api.openai.com, got none in {name}. Set it: export {name}=...")
    if api_key and not re.fullmatch(r"[!-~]+", api_key):
        raise UserError(f"Expected a key of printable ASCII in {name}, got something else (not shown). Set it again.")
    return api_key


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.startswith("sk_"):
        raise UserError(
            "Expected the name of an environment variable, got something else (client.key_env, not shown). Put the "
            "key into a variable and name that variable."
        )
