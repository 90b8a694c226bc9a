"""A teacher on this machine: a model of the hub, or the student of an earlier run."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skipthinking.data.templates import FAULTS, render_chat
from skipthinking.records import UserError
from skipthinking.teacher.client import Client, Completion, RefusedError, Reply, Request
from skipthinking.teacher.prompts import Message

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Local"]


class Local(Client):
    """A transformers model that generates in batches.

    Every completion has its own random generator, seeded per sample, so that it does not depend on the other rows of
    its batch, up to rounding. Tokens are drawn by Gumbel-max: the argmax of logits / temperature + Gumbel noise is a
    sample from the softmax.

    A model with a chat template gets the chat; a model without one gets the bare texts. The chat template of an
    exported student makes its prompt from a question alone: use ZeroShot with the text "{question}". Only the end token
    ends a completion: a base model that never writes it runs into the token limit. Stage markers of a student (CWT,
    STT) are removed, since they are not part of a rationale.

    Args:
        name: Hub name or local folder, for example runs/NAME/student.
        dtype: Type of the weights; "auto" keeps the checkpoint's.
        device: Device to run on; by default a GPU if there is one.
        batch_size: Completions per batch.
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
            raise UserError(
                f"Expected a batch of at least 1, got client.batch_size={batch_size}. Set client.batch_size: 8, for "
                "example."
            )
        self.name, self.device, self.concurrency, self.samples_per_request = name, device, batch_size, 1
        loading = {"dtype": dtype, "attention": attention, "revision": revision, "trust_remote_code": trust_remote_code}
        self._loading: dict[str, Any] = loading
        self._student: Any = None
        self._waiting: list[tuple[Request, Tensor, asyncio.Future[Reply]]] = []

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Name, revision and dtype; for a local folder also a digest of its files, since a student may be retrained."""
        identity = {"model": self.name, "revision": self._loading["revision"], "dtype": self._loading["dtype"]}
        folder = Path(self.name)
        return identity | {"content": _digest(folder)} if folder.is_dir() else identity

    async def open(self) -> None:
        """Loads the model."""
        import torch

        from skipthinking.students import Pretrained
        from skipthinking.students.memory import is_out_of_memory

        self._student = Pretrained(self.name, **self._loading)
        try:
            self._student.prepare()
            self._student.build(trained=False)
        except UserError as error:
            raise UserError(str(error).replace("model.student.name", "client.name")) from error
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._student.eval().to(device)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises AssertionError
            reason = " ".join(str(error).split())[:200]
            if is_out_of_memory(error):
                raise UserError(
                    f"Expected enough memory on {device} for {self.name}, got: {reason} Stop what else uses it, or "
                    "give a smaller client.name or another client.device."
                ) from error
            raise UserError(
                f"Expected an available device, got client.device={device}: {reason}. Set client.device: cpu, for "
                "example."
            ) from error

    async def close(self) -> None:
        """Releases the model."""
        self._student = None

    async def complete(self, request: Request) -> Reply:
        """Collects the requests of the same turn of the event loop and generates them in one batch."""
        import torch

        from skipthinking.students.memory import is_out_of_memory

        prompt = torch.tensor(self._encode(request.messages))
        if len(prompt) >= self._student.context_length:
            raise RefusedError(f"the prompt has {len(prompt)} tokens, the context has {self._student.context_length}")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, prompt, future))
        if len(self._waiting) == 1:
            await asyncio.sleep(0)  # lets the other requests of this turn append themselves
            batch, self._waiting = self._waiting, []
            try:
                self._generate(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(
                    f"The batch does not fit into memory: {' '.join(str(error).split())[:200]} Lower client.batch_size "
                    f"(it is {self.concurrency}) or max_tokens."
                ) from error
        return await future

    def _generate(self, batch: list[tuple[Request, Tensor, asyncio.Future[Reply]]]) -> None:
        start = time.monotonic()
        requests = [request for request, _, _ in batch]
        prompts = [prompt for _, prompt, _ in batch]
        outputs = self._student.generate(prompts, requests[0].sampling.max_tokens, choose=self._noise(requests))
        seconds = (time.monotonic() - start) / len(batch)
        ends = set(self._student.model.generation_config.eos_token_id)
        marks = getattr(self._student.model.config, "completion_marks", None)
        for (_, prompt, future), ids in zip(batch, outputs, strict=True):
            text = self._student.tokenizer.decode(ids, skip_special_tokens=True)
            text = (re.sub(marks, "", text) if marks else text).strip()
            completions = (Completion(text=text, finish="stop" if ids and ids[-1] in ends else "length"),)
            counts = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
            future.set_result(Reply(completions=completions, **counts, seconds=seconds))

    def _noise(self, requests: list[Request]) -> Any:
        """Scores plus Gumbel noise, whose argmax is a sample; None at temperature 0.

        Shapes: B rows of the batch that still generate, V vocabulary.
        """
        import torch

        temperature = requests[0].sampling.temperature
        if temperature == 0:
            return None
        device = self._student.device
        generators = [torch.Generator(device).manual_seed(request.seed) for request in requests]

        def draw(rows: list[int], scores_BV: Tensor) -> Tensor:
            noise_BV = torch.empty(scores_BV.shape, dtype=torch.float32, device=device)
            for noise_V, row in zip(noise_BV, rows, strict=True):
                noise_V.exponential_(generator=generators[row])
            return scores_BV.float() / temperature - noise_BV.log()  # -log of Exp(1) noise is Gumbel noise

        return draw

    def _encode(self, messages: list[Message]) -> list[int]:
        tokenizer = self._student.tokenizer
        exported = hasattr(self._student.model.config, "completion_marks")
        if getattr(tokenizer, "chat_template", None):
            try:
                # Prompts have the wording of their task, which the chat template of a student would add once more.
                text = render_chat(messages, tokenizer, {"task": ""} if exported else {})
            except FAULTS as error:
                remedy = "Use --prompt ZeroShot" + (" --prompt.text '{question}'" if exported else "")
                remedy = "Leave prompt.system out" if messages[0]["role"] == "system" else remedy
                raise UserError(
                    "Expected a chat template that takes the messages of the prompt, got: "
                    f"{' '.join(str(error).split())} (client.name). {remedy}, or give another model."
                ) from error
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        separators = {"assistant": "\n\n", "user": " ", "system": "\n\n"}
        text = "".join(turn["content"] + separators[turn["role"]] for turn in messages)
        # As training encodes a Plain prompt: no trailing space, and special tokens in a question are plain text.
        return tokenizer(text.rstrip(), split_special_tokens=True)["input_ids"]


def _digest(folder: Path) -> str:
    """Digest of the names and contents of the files in a folder."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}/{path.stat().st_size}/".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
