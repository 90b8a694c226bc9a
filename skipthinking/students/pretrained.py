"""Pretrained students, from the hub or a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from skipthinking.records import UserError
from skipthinking.students.base import LoRA, Student, without_progress
from skipthinking.students.gguf_files import GGUF, find_gguf
from skipthinking.students.memory import is_device_error
from skipthinking.students.origin import Origin, origin_of

__all__ = ["Pretrained"]

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


class Pretrained(Student):
    """A pre-trained causal or encoder-decoder model.

    A GGUF file is read with its tokenizer and chat template, dequantized, and exported as an ordinary folder.

    Args:
        name: Hub name, local folder, or GGUF file with a causal model.
        lora: Trains a low-rank adapter instead of all weights.
        dtype: Type of weights that are not trained, such as the base of an adapter; "auto" keeps the checkpoint's type.
            Without an adapter all weights are trained, so "auto" loads float32 (exact for a bfloat16 checkpoint), and
            "bfloat16" and "float16" are rejected, because most updates would round to zero (at a learning rate of 1e-5,
            84% of the weights never change). trainer.precision=bf16-mixed computes in bfloat16 on float32 weights.
        gradient_checkpointing: Trades time for memory in the backward pass.
        attention: Attention implementation of transformers, for example "sdpa" or "flash_attention_2".
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Allows model code from the hub.
        compile: Compiles the layers with torch.compile, for training only; not with strategy fsdp2.
        gguf_file: Name of a GGUF file in the folder or on the hub, if there are several, or other weights too.
    """

    def __init__(
        self,
        name: str,
        lora: LoRA | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        compile: bool = False,
        gguf_file: str | None = None,
    ) -> None:
        super().__init__(lora=lora, gradient_checkpointing=gradient_checkpointing, compiled=compile)
        self.name, self.dtype, self.attention, self.gguf_file = name, dtype, attention, gguf_file
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}

    @cached_property
    def _gguf(self) -> GGUF | None:
        return find_gguf(self.name, self.gguf_file, self._hub["revision"])

    @cached_property
    def config(self) -> Any:
        """The config of the model at ``name``."""
        from transformers import AutoConfig

        return self._gguf.config() if self._gguf else self._load(AutoConfig)

    def make_tokenizer(self, texts: Sequence[str] = (), words: Sequence[str] = ()) -> Any:
        """Loads the model's tokenizer."""
        from transformers import AutoTokenizer

        if self._gguf:
            return self._gguf.tokenizer()
        folder = Path(self.name)
        if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZERS):
            raise UserError(
                f"Expected a tokenizer beside the model, got none in {self.name!r} (no {', no '.join(_TOKENIZERS)}). "
                "Save it there with tokenizer.save_pretrained."
            )
        return self._load(AutoTokenizer)

    def make_model(self, trained: bool) -> Any:
        """Loads the weights.

        Raises:
            UserError: The weights are trained but have a 16-bit type, or cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        if trained and self.dtype in ("bfloat16", "float16"):
            raise UserError(
                "Expected float32 for weights that are trained, got "
                f"model.student.init_args.dtype={self.dtype} without an adapter. Leave dtype out, with "
                "trainer.precision=bf16-mixed to compute in bfloat16, or train an adapter "
                "(model.student.init_args.lora)."
            )
        kind = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        dtype = "float32" if trained else self.dtype
        settings = {"dtype": dtype, "attn_implementation": self.attention, "output_loading_info": True}
        model, report = self._gguf.model(self.config, **settings) if self._gguf else self._load(kind, **settings)
        missing = sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str)
        if missing:
            raise UserError(
                f"Expected all weights of {type(model).__name__} in {self.name!r}, got none that fit for "
                f"{len(missing)} of them ({missing[0]}). Fix model.student.name."
            )
        return model

    def origin(self) -> Origin:
        """The model at ``name``."""
        gguf = (self._gguf.path, self._gguf.metadata()) if self._gguf else None
        return origin_of(self.name, self._hub["revision"], gguf)

    def make_outline(self, trained: bool) -> Any:
        """Creates the model from its config. Attention that needs a GPU is replaced by sdpa, which keeps as much."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        kind: Any = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        attention = self.attention if self.attention in ("eager", "sdpa") else None
        name = "float32" if trained else self.dtype
        dtype = getattr(torch, name) if name != "auto" else self.config.dtype or torch.float32
        trust = {"trust_remote_code": True} if self._hub["trust_remote_code"] else {}
        return kind.from_config(self.config, dtype=dtype, attn_implementation=attention, **trust)

    def _load(self, kind: Any, **settings: Any) -> Any:
        local = Path(self.name).exists()
        try:
            with without_progress() if local else nullcontext():
                return kind.from_pretrained(self.name, **self._hub, **settings)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            if is_device_error(error):
                raise
            what = "a folder with a model" if local else "a local folder or a hub name in reach"
            reason = " ".join(str(error).split())
            raise UserError(
                f"Expected {what}, got {self.name!r}: {reason[:300]} "
                "Fix model.student.name, check the network, or fetch the model where there is one (hf download) and "
                "give its folder."
            ) from error
