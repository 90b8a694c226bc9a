"""Token weights as an annotation: a file with a weight per rationale token, aligned to one tokenization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing
from skipthinking.files import read_jsonl
from skipthinking.records import DataError, Encoded, UserError

__all__ = ["TokenWeights", "check_weights", "read_weights", "weight_drawing"]

Floats = NDArray[np.float32]


class TokenWeights(Annotator[Floats]):
    """The weight of every rationale token, read from a file.

    Args:
        path: ``annotations.jsonl`` of a KeypointWeighter run.
    """

    name = "weights"
    block_tokens = None
    dtype = "float32"
    uses_student = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Floats]:
        """Reads the file."""
        return read_weights(self.path, rows)

    def draw(self, value: Floats, encoded: Encoded, codec: Any) -> Drawing:
        """Tokens colored by weight."""
        return weight_drawing(encoded, value, codec)


def weight_drawing(encoded: Encoded, weights: Floats, codec: Any) -> Drawing:
    """Drawing of the rationale tokens, as texts and ids, with one weight per token."""
    ids = encoded.tokens[: encoded.answer[0]].tolist()
    return {
        "ids": ids,
        "tokens": codec.token_texts(ids),
        "weights": [float(f"{weight:.5g}") for weight in weights],
        "steps": [list(span) for span in encoded.steps],
    }


def read_weights(path: Path, encoded: Sequence[Encoded]) -> dict[str, Floats]:
    """Weights of every rationale token of these examples, by example id.

    Args:
        path: File written by KeypointWeighter, or by ``annotate`` with it.
        encoded: The examples; other examples of the file are ignored.

    Raises:
        UserError: The file is missing.
        DataError: The file is damaged, or belongs to other data or another tokenizer.
    """
    rows = {row.id: row for row in encoded}
    result: dict[str, Floats] = {}
    for place, id, ids, weights in _lines(path):
        if id not in rows:
            continue
        if ids != rows[id].tokens[: rows[id].answer[0]].tolist():
            raise DataError(
                f"Expected the {rows[id].answer[0]} rationale tokens of example {id!r}, got {len(ids)} that are "
                f"not these ({place}). They belong to another tokenizer, template or rationale. Learn them again."
            )
        result[id] = weights
    missing = [row.id for row in encoded if row.id not in result]
    if missing:
        raise DataError(
            f"Expected weights for all {len(encoded)} training examples, got none for {len(missing)} of them, for "
            f"example {missing[0]!r} ({path}). They belong to other data: learn them again."
        )
    return result


def check_weights(path: Path, ids: set[str]) -> None:
    """Checks a file of weights before tokenization: all lines are valid, and at least one example is in the file.

    Raises:
        UserError: The file is missing.
        DataError: The file is damaged, or belongs to other data.
    """
    if not ids & {id for _, id, _, _ in _lines(path)}:
        raise DataError(
            f"Expected weights for the training examples, got none for any of {len(ids)} ({path}). They belong to "
            "other data: learn them again."
        )


def _lines(path: Path) -> Iterator[tuple[str, str, list[int], Floats]]:
    """Place (file:line), id, token ids and weights of each line, ``{"id": "a", "ids": [4, 9], "weights": [0, 1]}``."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"Expected token weights, got {str(path)!r}, which {what}. Fix model.weights, or leave it out "
            "and run `fit`, which learns them."
        )
    for place, row in read_jsonl(path, "Learn the weights again."):
        try:
            id, ids = str(row["id"]), list(row["ids"])
            weights = np.asarray(row["weights"], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"Expected a row with id, ids and weights, got {type(error).__name__}: {error} ({place}). Learn the "
                "weights again."
            ) from error
        if weights.shape != (len(ids),) or not ((weights >= 0) & (weights <= 1)).all():
            raise DataError(f"Expected {len(ids)} weights from 0 to 1, got others ({place}). Learn the weights again.")
        yield place, id, ids, weights
