"""A teacher behind an OpenAI-compatible address: a hosted API, vLLM, ``transformers serve``."""

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
from skipthinking.teacher.retries import Patience, TransientError, retry_after

__all__ = ["Endpoint"]

_OPENAI = "https://api.openai.com/v1"  # said here: the client would take another one from its own variable
_HIDDEN = "[key]"
_NO_KEY = "none"  # servers of one's own ask for none, openai's client insists on one
_SECRET = 8  # characters; a shorter key is a placeholder, and its letters are in every text
_OWN = {"messages", "model", "n", "stream"}
_PASSING = {408, 409, 425, 429}  # and every 5xx
_FINAL = {401, 402, 404}
_FINAL_CODES = {"insufficient_quota", "billing_hard_limit_reached", "invalid_api_key", "model_not_found"}


class Endpoint(Client):
    """A chat endpoint, asked through the openai client.

    Args:
        model: The model's name there.
        base_url: Address up to and including /v1; OpenAI's own by default.
        key_env: Name of the environment variable with the key. The key itself belongs in no file; it is taken out of
            whatever the server sends back.
        concurrency: Requests that are under way at once.
        samples_per_request: Most samples asked for by the field n; all of a question's by default. What a server
            that ignores n leaves out is asked for one after the other; with 1 it is at once.
        timeout: Seconds after which an attempt has failed.
        tries: Attempts at a request, the first one included.
        first_wait: Seconds before the second attempt, doubled before each that follows, less up to a half at random.
        longest_wait: Seconds that no such wait exceeds.
        longest_pause: The longest Retry-After, in seconds, that is waited for; a longer one ends the run.
        extra: More fields of the request's body, over those that are set; null takes one out, as in
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
                f"Expected at least 1 request of 1 sample and some time, got client: concurrency={concurrency}, "
                f"samples_per_request={samples_per_request}, timeout={timeout}."
            )
        self.model, self.base_url, self.key_env = model, base_url, key_env
        self.width, self.samples_per_request, self.timeout = concurrency, samples_per_request, timeout
        self.extra = dict(extra or {})
        self._patience = Patience(tries, first_wait, longest_wait, longest_pause)
        self._client: Any = None
        self._answered = False
        self._secret: re.Pattern[str] | None = None
        _check_address(base_url)
        _check_name(key_env)
        if own := sorted(_OWN & self.extra.keys()):
            raise UserError(f"Expected fields beside {', '.join(sorted(_OWN))}, got {', '.join(own)} (client.extra).")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model and extra fields."""
        return {"model": self.model, "extra": self.extra}

    @property
    def retries(self) -> int:
        """Attempts beyond the first so far."""
        return self._patience.retries

    async def open(self) -> None:
        """Reads the key and makes the client.

        Raises:
            UserError: openai is not installed, the key is missing or no key, or the proxy's address is none.
        """
        key = _read_key(self.key_env, needed=self.base_url is None)
        if len(key) >= _SECRET:
            # also where JSON escapes a character of it
            self._secret = re.compile("".join(rf"\\?{re.escape(character)}" for character in key))
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "Expected the package openai, got none. Install it: pip install 'skipthinking[teacher]'."
            ) from error
        try:
            self._client = openai.AsyncOpenAI(
                api_key=key or _NO_KEY, base_url=self.base_url or _OPENAI, max_retries=0, timeout=None
            )
        except (ValueError, ImportError) as error:  # of proxies: an unknown scheme; SOCKS without its package
            raise UserError(
                f"Expected a proxy that can be used, got: {error} Mend HTTP_PROXY, HTTPS_PROXY or ALL_PROXY."
            ) from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def body(self, request: Request) -> dict[str, Any]:
        """The request's body."""
        sampling, n = request.sampling, len(request.missing)
        fields = {"model": self.model, "messages": request.messages, "temperature": sampling.temperature}
        fields |= {"max_tokens": sampling.max_tokens, "seed": request.seed, "n": n if n > 1 else None, **self.extra}
        return {name: value for name, value in fields.items() if value is not None}

    async def complete(self, request: Request) -> Reply:
        """Asks until there is a readable reply."""
        return await self._patience.insist(lambda: self._send(request))

    async def _send(self, request: Request) -> Reply:
        import openai

        body, start = self.body(request), time.monotonic()
        try:
            # The raw response: the client's own reading takes any JSON, and HTML, for a completion.
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
        reply = read_reply(self._hide(_decoded(response.content)), len(request.missing), time.monotonic() - start)
        self._answered = True
        return reply

    def _failure(self, status: int, headers: Mapping[str, str], content: bytes) -> Exception:
        """What an HTTP error means: for this attempt, for this question, or for all."""
        code, told = _error_of(_decoded(content))
        cause = self._clean(f"HTTP {status}: {told}" if told else f"HTTP {status}")
        # Some servers say 400 of an unknown model. Once there was a reply, it is the question.
        unknown = not self._answered and status in (400, 422) and _names(told, self.model)
        if status in _FINAL or code in _FINAL_CODES or unknown:
            where = self.base_url or _OPENAI
            return UserError(
                f"Expected model {self.model!r} at {where} with the key of {self.key_env}, got {cause.rstrip('.')}. "
                "Mend client.model, client.base_url, the key or the account; the same command goes on from here."
            )
        if status in _PASSING or status >= 500:
            return TransientError(cause, retry_after(headers, time.time()))
        return RefusedError(cause)

    def _hide(self, text: str) -> str:
        return self._secret.sub(_HIDDEN, text) if self._secret else text

    def _clean(self, text: str) -> str:
        """One line of moderate length without the key."""
        return " ".join(_whole(self._hide(text)).split())[:300]


def read_reply(content: str, wanted: int, seconds: float) -> Reply:
    """Reads the body of a chat completion, and takes nothing for granted.

    Raises:
        TransientError: It is none.
    """
    try:
        body = json.loads(content)
        choices = sorted(body["choices"], key=lambda choice: choice.get("index") or 0)[:wanted]
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


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _message(message: Mapping[str, Any]) -> str:
    """A message's text. Thoughts that the server keeps apart get their tags back."""
    text = _text(message.get("content"))
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    return f"<think>{_whole(thoughts)}</think>{text}" if isinstance(thoughts, str) else text


def _text(content: object) -> str:
    """A message's text, as a string or in parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError
    return _whole(content)


def _whole(text: str) -> str:
    """The text with a question mark for half a character, as at a cut end; no file takes one."""
    return text.encode("utf-8", "replace").decode()


def _error_of(content: str) -> tuple[str | None, str]:
    """Code and message of an error's body, in the forms of OpenAI, FastAPI and plain text."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return None, content
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return None, str(error)
    code = error.get("code") if isinstance(error.get("code"), str) else None
    return code, str(error.get("message") or error.get("detail") or content)


def _names(text: str, model: str) -> bool:
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
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of brackets and ports
        sound = False
    if not sound or not re.fullmatch(r"\S+", base_url):
        raise UserError(f"Expected an address such as http://127.0.0.1:8000/v1, got {base_url!r} (client.base_url).")


def _read_key(name: str, needed: bool) -> str:
    """The key, without white space around it; what is wrong with it is told without showing it."""
    key = os.environ.get(name, "").strip()
    if not key and needed:
        raise UserError(f"Expected a key for api.openai.com, got none in {name}. Set it: export {name}=...")
    if key and not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"Expected a key of printable ASCII in {name}, got something else (not shown). Set it again.")
    return key


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w*", name) or name.startswith("sk_"):
        raise UserError(
            "Expected the name of an environment variable, got something else (client.key_env, not shown). Put the "
            "key into a variable and name that."
        )
