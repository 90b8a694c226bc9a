"""Students from scratch: a randomly initialized model, and a tokenizer trained on the task or loaded by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from skipthinking.records import UserError, did_you_mean
from skipthinking.students.base import LoRA, Student, tokenizer_from_json
from skipthinking.students.pretrained import Pretrained

__all__ = ["FromScratch", "train_tokenizer"]

_EOS = "<|end|>"
_MISFITS = (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError)


def _splitting(backend: Any) -> tuple[str, str]:
    """How a tokenizer splits text before it applies merges."""
    return repr(backend.normalizer), repr(backend.pre_tokenizer)


def train_tokenizer(texts: Sequence[str], vocab_size: int, numbers: int, like: Any = None) -> Any:
    """Trains a byte-level BPE tokenizer in which small integers are single tokens.

    Args:
        texts: Training texts.
        vocab_size: Maximum size of the vocabulary, at least 512.
        numbers: Integers below this are single tokens, with and without a leading space.
        like: A tokenizer of the ``tokenizers`` library whose normalizer and pre-tokenizer are used. If it splits
            digits, ``numbers`` has no effect.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = like.pre_tokenizer if like else pre_tokenizers.ByteLevel(add_prefix_space=False)
    if like and like.normalizer:
        tokenizer.normalizer = like.normalizer
    tokenizer.decoder = decoders.ByteLevel()
    first = _number_merges(numbers)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(first),
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    for pair in first:
        vocab.setdefault("".join(pair), len(vocab))
    state["model"]["merges"] = first + [pair for pair in merges if pair not in first]
    return tokenizer_from_json(json.dumps(state), eos_token=_EOS, pad_token=_EOS)


def _number_merges(numbers: int) -> list[list[str]]:
    """Merges that make a token of every integer below a bound, and of each after a space: ["1", "2"], ["Ġ", "12"]."""
    names = [str(number) for number in range(numbers)]
    known = set(names)
    cuts = [(name[:i], name[i:]) for name in names for i in range(1, len(name))]
    return [[*cut] for cut in cuts if known.issuperset(cut)] + [["\u0120", name] for name in names]


class FromScratch(Student):
    """A randomly initialized model of any transformers architecture.

    Args:
        architecture: ``model_type`` of transformers: llama, gpt2, qwen2, phi3, t5, ...
        config: Settings of that architecture, for example ``{hidden_size: 128, num_hidden_layers: 3}``. Vocabulary size
            and special tokens follow from the tokenizer.
        tokenizer: Hub name or folder of a tokenizer; by default a tokenizer is trained on the training set.
        vocab_size: Maximum vocabulary size of a trained tokenizer.
        numbers: Integers below this are single tokens of a trained tokenizer.
        lora: Trains a low-rank adapter instead of all weights.
        gradient_checkpointing: Trades time for memory in the backward pass.
        compile: Compiles the layers with torch.compile, for training only; not with strategy fsdp2.
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
        compile: bool = False,
    ) -> None:
        super().__init__(lora=lora, gradient_checkpointing=gradient_checkpointing, compiled=compile)
        if vocab_size < 512 or not 0 <= numbers <= 1000:
            raise UserError(
                "Expected a vocabulary of at least 512 and 0 to 1000 numbers, got "
                f"model.student: vocab_size={vocab_size}, numbers={numbers}. Leave out what is outside of its range, "
                "for its default."
            )
        self.architecture, self.settings = architecture, dict(config or {})
        self.tokenizer_name, self.vocab_size, self.numbers = tokenizer, vocab_size, numbers
        self.trains_tokenizer = tokenizer is None
        self._config: Any = None

    @property
    def config(self) -> Any:
        """The config with the tokenizer's vocabulary size; requires the tokenizer."""
        if self._config is None:
            from transformers import AutoConfig

            special = {"pad_token_id": self.pad_id, "eos_token_id": self.tokenizer.eos_token_id}
            special["bos_token_id"] = self.tokenizer.bos_token_id
            if self.architecture in {"t5", "mt5", "umt5"}:
                special["decoder_start_token_id"] = self.pad_id
            try:
                known = AutoConfig.for_model(self.architecture)
                unknown = sorted(self.settings.keys() - known.to_dict().keys() - known.attribute_map.keys())
                if unknown:
                    raise self._misfit(f"it has no {unknown[0]!r}.{did_you_mean(unknown[0], known.to_dict())}")
                settings = {"vocab_size": len(self.tokenizer), **special, **self.settings}
                self._config = AutoConfig.for_model(self.architecture, **settings)
            except _MISFITS as error:
                raise error if isinstance(error, UserError) else self._misfit(str(error)) from error
            if settings["vocab_size"] < len(self.tokenizer):
                raise self._misfit(f"its vocabulary is smaller than the tokenizer's {len(self.tokenizer)}.")
        return self._config

    def make_tokenizer(self, texts: Sequence[str], words: Sequence[str] = ()) -> Any:
        """Loads the tokenizer by name, or trains one on the texts, with ``words`` as added tokens."""
        if self.tokenizer_name is not None:
            named = Pretrained(self.tokenizer_name).make_tokenizer()
            if not named.is_fast:
                return named
            loaded = self._read_back(named)
            same = _splitting(loaded.backend_tokenizer) == _splitting(named.backend_tokenizer)
            return named if same else loaded  # as users of the exported student load it
        trained = train_tokenizer(texts, self.vocab_size, self.numbers)
        loaded = self._read_back(trained).backend_tokenizer
        if _splitting(loaded) != _splitting(trained.backend_tokenizer):
            trained = train_tokenizer(texts, self.vocab_size, self.numbers, like=loaded)
        trained.add_tokens(list(words))
        return trained

    def _read_back(self, tokenizer: Any) -> Any:
        """Loads an exported tokenizer as transformers does; some architectures replace the pre-tokenizer."""
        from transformers import AutoConfig, AutoTokenizer

        with tempfile.TemporaryDirectory() as folder:
            try:
                AutoConfig.for_model(self.architecture).save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                return AutoTokenizer.from_pretrained(folder)
            except _MISFITS as error:
                raise self._misfit(str(error)) from error

    def make_model(self, trained: bool) -> Any:
        """Initializes the weights from the global seed."""
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        kind: Any = AutoModelForSeq2SeqLM if self.encoder_decoder else AutoModelForCausalLM
        try:
            return kind.from_config(self.config)
        except _MISFITS as error:
            raise self._misfit(str(error)) from error

    def _misfit(self, why: str) -> UserError:
        return UserError(
            f"Expected a config of the {self.architecture!r} architecture, got {self.settings}: "
            f"{' '.join(why.split())[:300]} Fix model.student.config."
        )

    def tokenizer_state(self) -> str | None:
        """The trained tokenizer as JSON."""
        if self.tokenizer_name is None and self.tokenizer is not None:
            return self.tokenizer.backend_tokenizer.to_str()
        return None

    def restore_tokenizer(self, state: str | None) -> None:
        """Restores a trained tokenizer from a checkpoint."""
        if self.tokenizer_name is None and state is not None:
            self.tokenizer = tokenizer_from_json(state, eos_token=_EOS, pad_token=_EOS)
