"""Students from scratch: a small config, and a tokenizer trained on the task or taken from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from skipthinking.records import UserError
from skipthinking.students.base import LoRA, Student, tokenizer_from_json
from skipthinking.students.pretrained import Pretrained

__all__ = ["FromScratch", "train_tokenizer"]

_EOS = "<|end|>"


def train_tokenizer(texts: Sequence[str], vocab_size: int, numbers: int) -> Any:
    """Trains a byte-level BPE tokenizer in which frequent words and all small whole numbers are single tokens.

    Args:
        texts: Training texts.
        vocab_size: Upper bound of the vocabulary, at least 512.
        numbers: Whole numbers below this are single tokens, with and without a leading blank.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def corpus() -> Iterator[str]:
        yield from texts
        # Each number as often as the most frequent pairs, so that it is merged before the vocabulary is full.
        often = max(1, len(texts) // 100)
        for number in range(numbers):
            yield f"({number} {number})" * often

    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer_from_json(tokenizer.to_str(), eos_token=_EOS, pad_token=_EOS)


class FromScratch(Student):
    """A randomly initialised model of any transformers architecture.

    Args:
        architecture: ``model_type`` of transformers: llama, gpt2, qwen2, phi3, t5, ...
        config: Settings of that architecture, for example ``{hidden_size: 128, num_hidden_layers: 3}``. The
            vocabulary and the special tokens are filled in from the tokenizer.
        tokenizer: Hub name or folder of a tokenizer; trained on the training set by default.
        vocab_size: Upper bound of a trained tokenizer's vocabulary.
        numbers: Whole numbers below this are single tokens of a trained tokenizer.
        lora: Train a low-rank adapter in place of all weights.
        gradient_checkpointing: Trade time for memory in the backward pass.
    """

    def __init__(
        self,
        architecture: str = "llama",
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        vocab_size: int = 4096,
        numbers: int = 100,
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(lora=lora, gradient_checkpointing=gradient_checkpointing)
        if vocab_size < 512:
            raise UserError(f"Expected a vocabulary of at least 512, got vocab_size={vocab_size}.")
        self.architecture, self.settings = architecture, dict(config or {})
        self.tokenizer_name, self.vocab_size, self.numbers = tokenizer, vocab_size, numbers
        self._config: Any = None

    @property
    def config(self) -> Any:
        """The config with the tokenizer's vocabulary; needs the tokenizer."""
        if self._config is None:
            from transformers import AutoConfig

            special = {"pad_token_id": self.pad_id, "eos_token_id": self.tokenizer.eos_token_id}
            special["bos_token_id"] = self.tokenizer.bos_token_id
            if self.architecture in {"t5", "mt5", "umt5"}:
                special["decoder_start_token_id"] = self.pad_id
            try:
                self._config = AutoConfig.for_model(
                    self.architecture, **{"vocab_size": len(self.tokenizer), **special, **self.settings}
                )
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"Expected a config of the {self.architecture!r} architecture, got {self.settings}: "
                    f"{' '.join(str(error).split())[:300]} Mend model.student.config."
                ) from error
        return self._config

    def make_tokenizer(self, texts: Sequence[str]) -> Any:
        """Loads the named tokenizer, or trains one on the texts."""
        if self.tokenizer_name is not None:
            return Pretrained(self.tokenizer_name).make_tokenizer()
        return train_tokenizer(texts, self.vocab_size, self.numbers)

    def make_model(self) -> Any:
        """Initialises the weights from the global seed alone, whatever was drawn before."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        kind: Any = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        with torch.random.fork_rng():
            torch.manual_seed(torch.initial_seed())
            return kind.from_config(self.config)

    def tokenizer_state(self) -> str | None:
        """The trained tokenizer as JSON."""
        if self.tokenizer_name is None and self.tokenizer is not None:
            return self.tokenizer.backend_tokenizer.to_str()
        return None

    def restore_tokenizer(self, state: str | None) -> None:
        """Takes a trained tokenizer from a checkpoint."""
        if self.tokenizer_name is None and state is not None:
            self.tokenizer = tokenizer_from_json(state, eos_token=_EOS, pad_token=_EOS)
