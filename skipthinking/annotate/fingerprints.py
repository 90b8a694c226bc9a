"""Hashes of what annotations depend on: examples, weights, settings and code."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.weak import WeakTensorKeyDictionary

from skipthinking.annotate.annotator import Annotator
from skipthinking.records import Encoded
from skipthinking.settings import Configurable

__all__ = ["code_of", "digest_of", "digests", "fingerprint", "plain"]

_DIGEST = 8  # bytes
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per number
# Version, address and sum of frozen weights; a changed weight has another version, or another address.
_SUMS: Any = WeakTensorKeyDictionary()


def fingerprint(encoded: Sequence[Encoded], settings: Mapping[str, Any], student: torch.nn.Module) -> str:
    """Hash of the data, the settings and the student's weights.

    Of frozen weights, such as the base of an adapter, only sums are hashed, which are computed on their device and once
    per run, so that a large base costs little.
    """
    hashed = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    known: Any = getattr(encoded, "digests", None)  # of examples in files
    if known is not None:
        hashed.update("\0".join(encoded.ids).encode() + known.tobytes())  # type: ignore[attr-defined]
    for row in encoded if known is None else ():
        hashed.update(f"{row.id}\0{row.steps}\0{row.answer}".encode())
        hashed.update(row.tokens.tobytes())
        for prompt in row.prompts.values():
            hashed.update(prompt.tobytes())
    frozen = _sums([weight for weight in student.parameters() if not weight.requires_grad])
    for name, weight in student.named_parameters():
        hashed.update(name.encode())
        if weight.requires_grad:
            copied = weight.detach().to("cpu", copy=True).contiguous()  # a copy: numpy would pin the storage
            hashed.update(copied.view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(f"{next(frozen)}".encode())
    return hashed.hexdigest()


def _sums(weights: Sequence[torch.Tensor]) -> Iterator[int]:
    """Sum of the bits of every weight, read as integers: exact, so equal on every device and in any order."""
    fresh = []
    for weight in weights:
        known = _SUMS.get(weight)
        if known is None or known[:2] != (weight._version, weight.data_ptr()):
            fresh.append(weight)
    if fresh:
        bits = [weight.detach().view(_INTEGERS[weight.element_size()]) for weight in fresh]
        totals = torch.stack([part.sum(dtype=torch.int64).to(bits[0].device) for part in bits]).tolist()  # one copy
        for weight, total in zip(fresh, totals, strict=True):
            _SUMS[weight] = weight._version, weight.data_ptr(), total
    return iter([_SUMS[weight][2] for weight in weights])


def digest_of(row: Encoded) -> bytes:
    """Hash of an example's tokens and steps, 8 bytes."""
    hashed = hashlib.blake2b(f"{row.steps}".encode(), digest_size=_DIGEST)
    hashed.update(np.concatenate([*row.prompts.values(), row.tokens]).tobytes())
    return hashed.digest()


def digests(rows: Sequence[Encoded]) -> NDArray[np.uint8]:
    """Hash of each example's tokens and steps, shape (N, 8)."""
    known: NDArray[np.uint8] | None = getattr(rows, "digests", None)  # of examples in files
    if known is not None:
        return known
    return np.frombuffer(b"".join(map(digest_of, rows)), dtype=np.uint8).reshape(-1, _DIGEST).copy()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after a round trip through JSON, as in a checkpoint."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def code_of(annotator: Annotator[Any]) -> dict[str, str]:
    """Code of the classes of an annotator and of what it uses, such as a verifier, and of their bases elsewhere.

    Its values depend on it: who develops a search must not see the values of its last version.
    """
    used = [annotator, *(value for value in vars(annotator).values() if isinstance(value, Configurable))]
    kinds = [kind for one in used for kind in type(one).__mro__ if kind is type(one) or not _is_ours(kind)]
    return {f"{kind.__module__}.{kind.__qualname__}": _code(kind) for kind in kinds}


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("skipthinking", "abc", "builtins", "typing")


def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # a class that was typed into an interpreter
        return ""
