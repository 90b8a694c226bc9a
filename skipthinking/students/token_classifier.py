"""A token classifier of the hub, with a tokenizer unlike the student's: probabilities per character of a text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.records import UserError, did_you_mean
from skipthinking.students.base import without_progress
from skipthinking.students.memory import is_device_error

__all__ = ["TokenClassifier"]

_WINDOW = 512  # tokens per pass, as in LLMLingua-2; less if the classifier reads less
_BATCH = 16  # windows per pass


class TokenClassifier:
    """Probability of one label for every word of a text, such as LLMLingua-2's probability that a word is kept.

    Args:
        name: Hub name or local folder.
        label: The label, as in the config's ``id2label``.
        revision: Branch, tag or commit on the hub.
        device: Device to run on.

    Raises:
        UserError: The classifier cannot be loaded, lacks weights, has no fast tokenizer, or no such label.
    """

    def __init__(self, name: str, label: str, revision: str | None, device: torch.device) -> None:
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision)
            with without_progress() if Path(name).exists() else nullcontext():
                model, report = AutoModelForTokenClassification.from_pretrained(
                    name, revision=revision, dtype="float32", output_loading_info=True
                )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            if is_device_error(error):
                raise
            raise UserError(
                f"Expected a token classifier, got {name!r}: {' '.join(str(error).split())[:300]} Fix "
                "model.importance.init_args.model, check the network, or fetch it where there is one (hf download) and "
                "give its folder."
            ) from error
        missing = sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str)
        if missing:  # of a language model, for example; transformers would draw them at random
            raise UserError(
                f"Expected all weights of {type(model).__name__} in {name!r}, got none that fit for {len(missing)} of "
                f"them ({missing[0]}). Fix model.importance.init_args.model: it needs a token classifier."
            )
        labels = model.config.label2id
        if label not in labels or not self.tokenizer.is_fast:
            raise UserError(
                f"Expected a fast tokenizer and a label of {sorted(labels)}, got {type(self.tokenizer).__name__} and "
                f"model.importance.init_args.label={label!r} ({name}).{did_you_mean(label, labels)}"
            )
        self.tokenizer.padding_side = "right"
        self.model, self.label, self.device = model.eval().to(device), labels[label], device
        self.window = min(_WINDOW, self.tokenizer.model_max_length)

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Probability of the label at every character: the mean over the tokens of its word; NaN between words.

        Long texts are read in windows that overlap by a quarter; tokens that two windows hold count twice in the mean.

        Args:
            texts: The texts.

        Returns:
            Per text an array of shape (C,), for C characters.
        """
        windows = self.tokenizer(
            list(texts), truncation=True, max_length=self.window, stride=self.window // 4,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        words: list[dict[int, list[tuple[float, int, int]]]] = [{} for _ in texts]  # probability, start, end per token
        for at in range(0, len(windows["input_ids"]), _BATCH):
            rows = {name: windows[name][at : at + _BATCH] for name in ("input_ids", "attention_mask")}
            logits = self.model(**self.tokenizer.pad(rows, return_tensors="pt").to(self.device)).logits
            shares = logits.float().softmax(dim=-1)[..., self.label].tolist()
            for i, row in enumerate(shares, at):
                owner = words[windows["overflow_to_sample_mapping"][i]]
                # zip ends with the window, where the padding begins
                for word, share, span in zip(windows.word_ids(i), row, windows["offset_mapping"][i], strict=False):
                    if word is not None:  # else a special token
                        owner.setdefault(word, []).append((share, *span))
        return [self._spread(text, list(scores.values())) for text, scores in zip(texts, words, strict=True)]

    @staticmethod
    def _spread(text: str, words: Sequence[Sequence[tuple[float, int, int]]]) -> NDArray[np.float64]:
        """Writes the mean of every word to its characters; the offsets of some tokenizers begin with a blank."""
        values = np.full(len(text), np.nan)
        for tokens in words:
            shares, starts, ends = zip(*tokens, strict=True)
            values[min(starts) : max(ends)] = sum(shares) / len(shares)
        values[[character.isspace() for character in text]] = np.nan
        return values
