"""The record file: one line per completion, written at once, never changed. It is what a killed run goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import lock_descriptor

from skipthinking.records import DataError, UserError
from skipthinking.teacher.client import Completion, Reply, Request

__all__ = ["Place", "RecordFile", "answered", "failed", "index"]

_START = b'{"key": "'


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a completion stands.

    Attributes:
        offset: First byte of its line.
        failed: Whether the line tells a failure in place of a text.
    """

    offset: int
    failed: bool


def answered(request: Request, reply: Reply) -> list[dict[str, Any]]:
    """The lines of a reply. What the whole request took stands on the first of them."""
    rows: list[dict[str, Any]] = []
    for key, sample, completion in zip(request.keys, request.missing, reply.completions, strict=False):
        row = {"key": key, "id": request.example.id, "sample": sample}
        row |= {"text": completion.text, "finish": completion.finish}
        if not rows:
            row |= {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
            row["seconds"] = round(reply.seconds, 3)
        rows.append(row)
    return rows


def failed(request: Request, cause: str) -> list[dict[str, Any]]:
    """The lines of a request that got no completion."""
    return [
        {"key": key, "id": request.example.id, "sample": sample, "error": cause}
        for key, sample in zip(request.keys, request.missing, strict=True)
    ]


class RecordFile:
    """A record file that belongs to this process while it is open.

    Args:
        path: The file; it is made if there is none.

    Raises:
        UserError: Another process has it open, or it cannot be written.
        DataError: It holds something other than records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(path, "a+")
        if not self._own():
            self._file.close()
            raise UserError(
                f"Expected to write alone, got a record file that another process writes ({path}). Wait for it, or "
                "give another --out."
            )
        self._mend()
        self._lines = path.open("rb")

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if not self.path.stat().st_size:
            self.path.unlink()
        self._file.close()  # and the lock is gone

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines; when this returns they are on the disk."""
        data = memoryview("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"Expected room for more completions, got: {error.strerror} ({self.path}). Make some; the same command "
                "goes on from here."
            ) from error

    def index(self) -> dict[str, Place]:
        """What :func:`index` says of the file."""
        return index(self.path)

    def read(self, place: Place) -> tuple[Completion | None, dict[str, Any]]:
        """The completion at a place, None for a failure, and its whole line."""
        self._lines.seek(place.offset)
        row = json.loads(self._lines.readline())
        return (None if place.failed else Completion(text=row["text"], finish=row.get("finish"))), row

    def _own(self) -> bool:
        """Takes the lock; False if another process has it, or has just taken an empty file away."""
        found = lock_descriptor(self._file.fileno(), blocking=False) and self.path.exists()
        return found and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())

    def _mend(self) -> None:
        """Drops a last line that a kill cut short; one that lacks nothing but its end is kept.

        Raises:
            DataError: It is no line of ours.
        """
        end = size = self._file.seek(0, os.SEEK_END)
        tail = b""
        while end and b"\n" not in tail:
            begin = max(0, end - 65536)
            self._file.seek(begin)
            tail = self._file.read(end - begin) + tail
            end = begin
        torn = tail.rpartition(b"\n")[2]
        if not torn:
            return
        if torn[: len(_START)] != _START[: len(torn)]:
            raise DataError(
                f"Expected a record file, got another one ({self.path}). Move it away, or give another --out."
            )
        try:
            json.loads(torn)
        except ValueError:
            self._file.truncate(size - len(torn))
        else:
            self._file.write(b"\n")


def index(path: Path) -> dict[str, Place]:
    """Where the completion of every fingerprint stands; of several lines the last counts. A torn last line is left out.

    Raises:
        DataError: The file holds something other than records.
    """
    places: dict[str, Place] = {}
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                row = _parsed(line, f"{path}:{number}")
                places[row["key"]] = Place(offset=offset, failed="error" in row)
                offset += len(line)
    return places


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(
            f"Expected a JSON object, got {' '.join(str(error).split())} ({where}). Remove the line; its question is "
            "asked again."
        ) from error
    said = (row.get("key"), row.get("text", row.get("error"))) if isinstance(row, dict) else (None,)
    if not all(isinstance(value, str) for value in said):
        raise DataError(
            f"Expected a record file, got a line without key and text ({where}). Give another --out, or move the file "
            "away."
        )
    return row
