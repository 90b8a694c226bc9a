"""Importance of rationale tokens by a token classifier of the hub, such as LLMLingua-2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate import Annotator, Context
from skipthinking.records import Encoded
from skipthinking.students.token_classifier import TokenClassifier

__all__ = ["Classifier", "token_means"]


class Classifier(Annotator[NDArray[np.float32]]):
    """Probability that a token classifier gives to a label, for every rationale token, shape (R,).

    The default is the classifier of TokenSkip: LLMLingua-2 (Pan et al., Findings of ACL 2024, arXiv 2403.12968), 0.56B
    parameters, float32. Its words have the mean probability of their tokens, as there; a token of the student has the
    mean of its characters. It runs once, on the student's device, and is released after that.

    Departures: punctuation belongs to the word that it touches, and long texts are read in windows that overlap, where
    LLMLingua-2 ends a chunk with a sentence and takes the quantile within each chunk.

    Args:
        model: Hub name or local folder.
        label: The label whose probability is the importance, as in the ``id2label`` of the model's config.
        revision: Branch, tag or commit on the hub.
    """

    name, dtype = "importance", "float32"

    def __init__(
        self,
        model: str = "microsoft/llmlingua-2-xlm-roberta-large-meetingbank",
        label: str = "LABEL_1",
        revision: str | None = None,
    ) -> None:
        self.model, self.label, self.revision = model, label, revision
        self._classifier: TokenClassifier | None = None

    def settings(self) -> Mapping[str, Any]:
        """Model, label and revision."""
        return {"model": self.model, "label": self.label, "revision": self.revision}

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float32]]:
        """One pass of the classifier over the rationales."""
        if self._classifier is None:
            self._classifier = TokenClassifier(self.model, self.label, self.revision, context.student.device)
        offsets = [context.codec.offsets(row.example) for row in rows]
        ends = [starts[row.answer[0]] for row, (_, starts) in zip(rows, offsets, strict=True)]
        importances = self._classifier.probabilities([text[:end] for (text, _), end in zip(offsets, ends, strict=True)])
        return {
            row.id: token_means(values, starts[: row.answer[0]])
            for row, values, (_, starts) in zip(rows, importances, offsets, strict=True)
        }

    def finish(
        self, values: dict[str, NDArray[np.float32]], rows: Sequence[Encoded], context: Context
    ) -> dict[str, NDArray[np.float32]]:
        """Releases the classifier."""
        self._classifier = None
        return values


def token_means(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean value of the characters of every token; one without any, such as a line break, has that of the one before.

    Args:
        values: Value of every character, shape (C,), NaN for none.
        starts: First character of every token, shape (R,), ascending. A token ends where the next one begins; the parts
            of a character that is split over several tokens begin at the same place, and each has the character.

    >>> token_means(np.array([0.5, 0.5, np.nan, 0.25, 0.75]), np.array([0, 2, 3]))
    array([0.5, 0.5, 0.5], dtype=float32)
    """
    known = ~np.isnan(values)
    counts = np.add.reduceat(known.astype(np.int64), starts)
    means = np.add.reduceat(np.where(known, values, 0.0), starts) / np.maximum(counts, 1)
    source = np.maximum.accumulate(np.where(counts > 0, np.arange(len(starts)), np.argmax(counts > 0)))
    return means[source].astype(np.float32)
