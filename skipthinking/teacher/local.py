"""A teacher on this machine: a hub model, or a student of an earlier run."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipthinking.records import UserError
from skipthinking.teacher.prompts import Message
from skipthinking.teacher.requests import Client, Completion, RefusedError, Reply, Request

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Local"]


class Local(Client):
    """A model of transformers, run here in batches.

    Every completion has random numbers of its own, from its seed, so that but for rounding it does not depend on which
    others share its batch. Drawing is Gumbel-max: the best of logits / temperature + Gumbel noise is a draw from the
    softmax.

    A model with a chat template gets the chat; one without, such as a student that learned a Plain template, the bare
    texts. Nothing but the end token ends a completion: a base model that never says it runs into the limit. Stage
    markers of a student (CWT, STT) are taken out: they are no part of a rationale.

    Args:
        name: Hub name or local folder, for example runs/NAME/student.
        dtype: Type of the weights; "auto" keeps the checkpoint's.
        device: Where to run; a GPU by default, if there is one.
        batch_size: Completions at once.
        attention: Attention implementation of transformers.
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run model code from the hub.
    """

    def __init__(
        self,
        name: str,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str | None = None,
        batch_size: int = 16,
        attention: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"Expected a batch of at least 1, got client.batch_size={batch_size}.")
        self.name, self.dtype, self.device, self.width = name, dtype, device, batch_size
        self.samples_per_request = 1
        self.attention, self.revision, self.trust_remote_code = attention, revision, trust_remote_code
        self._student: Any = None
        self._waiting: list[tuple[Request, Tensor, asyncio.Future[Reply]]] = []

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Name, revision and type; of a local folder also what is in it, since a student may be trained anew there."""
        known = {"model": self.name, "revision": self.revision, "dtype": self.dtype}
        folder = Path(self.name)
        return known | {"content": _digest(folder)} if folder.is_dir() else known

    async def open(self) -> None:
        """Loads the model."""
        import torch

        from skipthinking.students import Pretrained

        self._student = Pretrained(
            self.name,
            dtype=self.dtype,
            attention=self.attention,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
        try:
            self._student.prepare()
            self._student.build(trained=False)
        except UserError as error:
            raise UserError(str(error).replace("model.student.name", "client.name")) from error
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._student.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"Expected a device of this machine, got client.device={device}: {reason}") from error

    async def close(self) -> None:
        """Lets go of the model."""
        self._student = None

    async def complete(self, request: Request) -> Reply:
        """Waits for the others that ask in the same moment, and runs one batch for all."""
        import torch

        prompt = torch.tensor(self._encode(request.messages))
        if len(prompt) >= self._student.context_length:
            raise RefusedError(f"a prompt of {len(prompt)} tokens, and the context has {self._student.context_length}")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, prompt, future))
        if len(self._waiting) == 1:
            await asyncio.sleep(0)  # the others of this moment come in
            batch, self._waiting = self._waiting, []
            try:
                self._run(batch)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"Expected a batch that fits into memory, got {' '.join(str(error).split())[:200]} Lower "
                    "client.batch_size or max_tokens."
                ) from error
        return await future

    def _run(self, batch: list[tuple[Request, Tensor, asyncio.Future[Reply]]]) -> None:
        start = time.monotonic()
        requests = [request for request, _, _ in batch]
        prompts = [prompt for _, prompt, _ in batch]
        made = self._student.generate(prompts, requests[0].sampling.max_tokens, choose=self._noise(requests))
        seconds = (time.monotonic() - start) / len(batch)
        ends = set(self._student.model.generation_config.eos_token_id)
        marks = getattr(self._student.model.config, "completion_marks", None)
        for (_, prompt, future), ids in zip(batch, made, strict=True):
            text = self._student.tokenizer.decode(ids, skip_special_tokens=True)
            text = (re.sub(marks, "", text) if marks else text).strip()
            finish = "stop" if ids and ids[-1] in ends else "length"
            future.set_result(
                Reply(
                    completions=(Completion(text=text, finish=finish),),
                    prompt_tokens=len(prompt),
                    completion_tokens=len(ids),
                    seconds=seconds,
                )
            )

    def _noise(self, requests: list[Request]) -> Any:
        """What turns the greedy choice of the next token into a draw; None at temperature 0."""
        import torch

        temperature = requests[0].sampling.temperature
        if temperature == 0:
            return None
        device = self._student.device
        sources = [torch.Generator(device).manual_seed(request.seed) for request in requests]

        def draw(rows: list[int], ids_BL: Tensor, scores_BV: Tensor) -> Tensor:
            noise_BV = torch.empty(scores_BV.shape, dtype=torch.float32, device=device)
            for noise_V, row in zip(noise_BV, rows, strict=True):
                noise_V.exponential_(generator=sources[row])
            return scores_BV.float() / temperature - noise_BV.log()

        return draw

    def _encode(self, messages: list[Message]) -> list[int]:
        tokenizer = self._student.tokenizer
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        gaps = {"assistant": "\n\n", "user": " ", "system": "\n\n"}
        text = "".join(turn["content"] + gaps[turn["role"]] for turn in messages)
        # As training encodes a Plain prompt: without a blank at its end, and special tokens in a question are text.
        return tokenizer(text.rstrip(), split_special_tokens=True)["input_ids"]


def _digest(folder: Path) -> str:
    """Of the names and contents of a folder's files."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}/{path.stat().st_size}/".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
