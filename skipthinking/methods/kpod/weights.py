"""Token weights as an annotation: a file with a weight per rationale token, aligned to one tokenization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.data.encoding import Codec
from skipthinking.data.readers import from_json
from skipthinking.records import DataError, Encoded, UserError

__all__ = ["check_weights", "pack", "read_weights", "unpack", "weight_rows"]

Floats = NDArray[np.float32]


def weight_rows(
    encoded: Sequence[Encoded], weights: Mapping[str, Floats], questions: Mapping[str, str], codec: Codec
) -> list[dict[str, Any]]:
    """Rows of an annotation file: per example its rationale tokens, as text and as ids, and a weight for each.

    Args:
        encoded: The examples.
        weights: Weight of every rationale token, by example id.
        questions: Questions by example id.
        codec: Says what a token's text is.
    """
    texts = _Texts(codec.tokenizer)
    return [
        {
            "id": row.id,
            "question": questions[row.id],
            "ids": row.tokens[: row.answer[0]].tolist(),
            "tokens": [texts[id] for id in row.tokens[: row.answer[0]].tolist()],
            "weights": [float(f"{weight:.5g}") for weight in weights[row.id]],
            "steps": [list(span) for span in row.steps],
            "answer": codec.decode(row.tokens[slice(*row.answer)].tolist()),
        }
        for row in encoded
    ]


class _Texts(dict[int, str]):
    """Text of a token as it stands behind another one: alone, SentencePiece would drop its blank."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.before = tokenizer("a", add_special_tokens=False)["input_ids"]
        self.length = len(tokenizer.decode(self.before))

    def __missing__(self, id: int) -> str:
        self[id] = self.tokenizer.decode([*self.before, id])[self.length :]
        return self[id]


def read_weights(path: Path, encoded: Sequence[Encoded]) -> dict[str, Floats]:
    """Weights of every rationale token of these examples, by example id.

    Args:
        path: What KeypointWeighter, or ``annotate`` with it, wrote.
        encoded: The examples; those of the file that are not among them are left alone.

    Raises:
        UserError: The file is missing.
        DataError: It is damaged, or made for other data or another tokenizer.
    """
    rows = {row.id: row for row in encoded}
    found: dict[str, Floats] = {}
    for place, id, ids, weights in _lines(path):
        if id not in rows:
            continue
        if ids != rows[id].tokens[: rows[id].answer[0]].tolist():
            raise DataError(
                f"Expected the {rows[id].answer[0]} rationale tokens of example {id!r}, got {len(ids)} that are "
                f"not these ({place}). The weights belong to another tokenizer, template or rationale: learn them anew."
            )
        found[id] = weights
    missing = [row.id for row in encoded if row.id not in found]
    if missing:
        raise DataError(
            f"Expected weights for all {len(encoded)} training examples, got none for {len(missing)} of them, for "
            f"example {missing[0]!r} ({path}). They belong to other data: learn them anew."
        )
    return found


def check_weights(path: Path, ids: set[str]) -> None:
    """Sees that a file of weights is whole and speaks of these examples, before there are tokens to compare.

    Raises:
        UserError: The file is missing.
        DataError: It is damaged, or made for other data.
    """
    if not ids & {id for _, id, _, _ in _lines(path)}:
        raise DataError(
            f"Expected weights for the training examples, got none for any of {len(ids)} ({path}). They belong to "
            "other data: learn them anew."
        )


def _lines(path: Path) -> Iterator[tuple[str, str, list[int], Floats]]:
    """Place, example id, token ids and weights of every line."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"Expected token weights, got {str(path)!r}, which {what}. Mend model.weights, or leave it out to have "
            "them learned."
        )
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield f"{path}:{number}", *_parsed(line, f"{path}:{number}")


def _parsed(line: bytes, place: str) -> tuple[str, list[int], Floats]:
    try:
        row = from_json(line.decode("utf-8-sig"))
        id, ids = str(row["id"]), list(row["ids"])
        weights = np.asarray(row["weights"], dtype=np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Expected a row with id, ids and weights, got {type(error).__name__}: {error} ({place}). Learn the "
            "weights anew."
        ) from error
    if weights.shape != (len(ids),) or not ((weights >= 0) & (weights <= 1)).all():
        raise DataError(f"Expected {len(ids)} weights from 0 to 1, got others ({place}). Learn the weights anew.")
    return id, ids, weights


def pack(values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays by example id as two tensors, which a checkpoint holds and loads quickly."""
    arrays = list(values.values())
    return {
        "ids": list(values),
        "lengths": torch.tensor([len(array) for array in arrays]),
        "values": torch.from_numpy(np.concatenate(arrays)),
    }


def unpack(packed: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays that :func:`pack` put together."""
    ends = np.cumsum(packed["lengths"].numpy())[:-1]
    return dict(zip(packed["ids"], np.split(packed["values"].numpy(), ends), strict=True))
