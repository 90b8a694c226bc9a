"""Students from the hub or from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from skipthinking.records import UserError
from skipthinking.students.base import LoRA, Student

__all__ = ["Pretrained"]

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


class Pretrained(Student):
    """A pre-trained causal or encoder-decoder model.

    Args:
        name: Hub name or local folder.
        lora: Train a low-rank adapter in place of all weights.
        dtype: Type of weights that are not trained, such as those under an adapter; "auto" keeps the checkpoint's. All
            weights of a student without an adapter are trained: they are loaded in float32 by "auto" (which holds a
            bfloat16 checkpoint exactly), and "bfloat16" and "float16" are refused, since most steps would round to no
            change (at a learning rate of 1e-5, 84% of the weights never move). trainer.precision=bf16-mixed computes in
            bfloat16 on weights in float32.
        gradient_checkpointing: Trade time for memory in the backward pass.
        attention: Attention implementation of transformers, for example "sdpa" or "flash_attention_2".
        revision: Branch, tag or commit on the hub.
        trust_remote_code: Run model code from the hub.
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
    ) -> None:
        super().__init__(lora=lora, gradient_checkpointing=gradient_checkpointing)
        self.name, self.dtype, self.attention = name, dtype, attention
        self._hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        self._config: Any = None

    @property
    def config(self) -> Any:
        """The config of the model at ``name``."""
        if self._config is None:
            from transformers import AutoConfig

            self._config = self._load(AutoConfig)
        return self._config

    def make_tokenizer(self, texts: Sequence[str] = (), words: Sequence[str] = ()) -> Any:
        """Loads the tokenizer saved with the model."""
        from transformers import AutoTokenizer

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
            UserError: They are to be trained in a 16-bit type, or can't be loaded.
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
        model, report = self._load(kind, **settings)
        absent = sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str)
        if absent:
            raise UserError(
                f"Expected all weights of {type(model).__name__} in {self.name!r}, got none that fit for {len(absent)} "
                f"of them ({absent[0]}). Fix model.student.name."
            )
        return model

    def _load(self, kind: Any, **settings: Any) -> Any:
        try:
            return kind.from_pretrained(self.name, **self._hub, **settings)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            what = "a folder with a model" if Path(self.name).exists() else "a local folder or a hub name in reach"
            reason = " ".join(str(error).split())
            raise UserError(
                f"Expected {what}, got {self.name!r}: {reason[:300]} "
                "Fix model.student.name, check the network, or fetch the model where there is one (hf download) and "
                "give its folder."
            ) from error
