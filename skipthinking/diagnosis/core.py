"""Core tokens of a rationale, and where the tokens of a training instance come from.

Shape suffixes: T completion tokens of an example, R rationale tokens, I completion tokens of an instance.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Notes
from skipthinking.data.encoding import Codec
from skipthinking.records import Encoded, Instance, UserError

__all__ = ["core_by_truth", "core_by_weight", "origins"]

Mask = NDArray[np.bool_]


def core_by_truth(encoded: Encoded, codec: Codec) -> Mask | None:
    """Tokens with a character of a core span in the ground truth of a built-in task, shape (T,); None without one.

    Example: in " Ana has 4 + 3 = 7 books." the tokens " 4", " +", " 3" and " 7" are core.
    """
    spans = encoded.example.meta.get("core")
    if not spans:
        return None
    text, starts = codec.offsets(encoded.example)
    rationale = encoded.example.rationale
    lead = text.index(rationale.strip()) - (len(rationale) - len(rationale.lstrip()))
    marked = np.zeros(len(text), dtype=bool)
    for start, end in spans:
        marked[lead + start : lead + end] = True
    return np.append(np.logical_or.reduceat(marked, starts), False)  # the last token is EOS


def core_by_weight(encoded: Encoded, weights_R: NDArray[np.float32], share: float) -> Mask:
    """The ``share`` of rationale tokens with the largest weights, rounded up; the first of equal ones; shape (T,)."""
    core = np.zeros(len(encoded.tokens), dtype=bool)
    core[np.argsort(-weights_R, kind="stable")[: math.ceil(share * len(weights_R))]] = True
    return core


def origins(method: Any, encoded: Encoded, notes: Notes) -> list[tuple[Instance, NDArray[np.int64]]]:
    """An example's instances, each with the place of its tokens in ``encoded.tokens``, -1 for added ones; shape (I,).

    The method makes the instances twice: of the example, and of one whose token t is -1 - t.

    Raises:
        UserError: The method makes other instances of other token ids.
    """
    instances = method.make_instances(encoded, notes)
    tagged = method.make_instances(replace(encoded, tokens=-1 - np.arange(len(encoded.tokens))), notes)
    rows = []
    for instance, tags in zip(instances, tagged, strict=False):
        places = np.where(tags.tokens < 0, -1 - tags.tokens, -1)
        known = np.where(tags.tokens < 0, encoded.tokens[places], tags.tokens)
        if not np.array_equal(known, instance.tokens) or not np.array_equal(tags.weights, instance.weights):
            break
        rows.append((instance, places))
    if len(rows) < max(len(instances), len(tagged)):
        raise UserError(
            f"Expected instances that do not depend on token ids, got others of {type(method).__name__} for example "
            f"{encoded.id!r}, so it is not known which of their tokens are core. Diagnose another epoch or method."
        )
    return rows
