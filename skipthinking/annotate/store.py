"""Annotations on disk: kept under a key of data, settings and student, written whole, and made anew when damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from skipthinking.files import write_text
from skipthinking.records import Encoded

__all__ = ["Journal", "digest", "fingerprint", "recalled", "remembered"]

_PARTS = "{}.{}.part"


def fingerprint(encoded: Sequence[Encoded], settings: Mapping[str, Any], student: torch.nn.Module) -> str:
    """A key that changes with the data, the settings, or a weight of the student.

    Frozen weights, as under an adapter, come in by their sums alone, so that a large base costs little.
    """
    key = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    for row in encoded:
        key.update(f"{row.id}\0{row.steps}\0{row.answer}".encode())
        key.update(row.tokens.tobytes())
        for prompt in row.prompts.values():
            key.update(prompt.tobytes())
    for name, weight in student.named_parameters():
        key.update(name.encode())
        if weight.requires_grad:
            whole = weight.detach().to("cpu", copy=True).contiguous()  # a copy: numpy would pin the storage
            key.update(whole.view(torch.uint8).numpy().tobytes())
        else:
            key.update(np.float64(weight.detach().cpu().sum(dtype=torch.float64).item()).tobytes())
    return key.hexdigest()


def digest(encoded: Encoded) -> str:
    """What an example's annotations belong to: its tokens, and where its steps are."""
    key = hashlib.blake2b(f"{encoded.steps}".encode(), digest_size=8)
    key.update(np.concatenate([*encoded.prompts.values(), encoded.tokens]).tobytes())
    return key.hexdigest()


def remembered(path: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The annotations of a file if it is whole and has this key; else makes them and writes the file.

    All ranks call it together; the first one reads and writes.

    Args:
        path: JSON lines: a header with the key and a checksum, then one example a line.
        key: See :func:`fingerprint`.
        make: Makes the annotations, per example id a value of lists, numbers and texts.
    """
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not several or torch.distributed.get_rank() == 0
    found = [_read(path, key) if first else None]
    if several:
        torch.distributed.broadcast_object_list(found)
    if found[0] is not None:
        return found[0]
    values = make()
    if first:
        for part in path.parent.glob(_PARTS.format(path.stem, "*")):
            part.unlink()
        body = "".join(json.dumps({"id": id, "value": value}) + "\n" for id, value in values.items())
        write_text(path, json.dumps({"key": key, "checksum": _checksum(body)}) + "\n" + body)
    return values


class Journal:
    """What a search has found so far, so that one that was killed goes on there. :func:`remembered` clears it away.

    One file a process, beside the annotations'; all of them are read, however many processes there were.

    Args:
        path: The annotations' file.
        key: Their key.
        rank: This process.
    """

    def __init__(self, path: Path, key: str, rank: int = 0) -> None:
        self.path, self.key = path.with_name(_PARTS.format(path.stem, rank)), key
        self.found: dict[str, Any] = {}
        for part in path.parent.glob(_PARTS.format(path.stem, "*")):
            self.found |= {row["id"]: row["value"] for row in _rows(part) if row.get("key") == key}

    def keep(self, values: Mapping[str, Any]) -> None:
        """Writes down what was found, per example id a value of lists, numbers and texts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [_sealed({"key": self.key, "id": id, "value": value}) for id, value in values.items()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *rows, ""]))  # a line of its own, though the last one may be torn


def recalled(journal: Journal | None, block: Sequence[Any], search: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What was found for the rows of a block, all of which have an id: before a kill, or now."""
    known = journal.found if journal else {}
    if all(row.id in known for row in block):
        return {row.id: known[row.id] for row in block}
    found = search(block)
    if journal:
        journal.keep(found)
    return found


def _sealed(row: dict[str, Any]) -> str:
    text = json.dumps(row)
    return f"{_checksum(text)} {text}"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        checksum, _, text = line.partition(" ")
        if text and checksum == _checksum(text):  # else torn by a kill, or damaged
            yield json.loads(text)


def _read(path: Path, key: str) -> dict[str, Any] | None:
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        header = json.loads(head)
        if header["key"] != key or header["checksum"] != _checksum(body):
            return None
        return {row["id"]: row["value"] for row in map(json.loads, body.splitlines())}
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: it is made anew
        return None


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
