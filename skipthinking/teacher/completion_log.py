"""The log of completions, ``NAME.records``: one JSON line per completion, which a stopped run resumes from.

    {"key": "590060d6...", "id": "q1", "sample": 0, "text": "1 + 2 = 3. Therefore, ...", "finish": "stop", ...}
    {"key": "32173380...", "id": "q1", "sample": 1, "error": "HTTP 400: context length exceeded"}

``key`` is the fingerprint of :func:`skipthinking.teacher.client.make_request`. Lines are appended and synced, never
changed; of several lines with the same key the last one counts.

Why not sqlite3: users read this file when a prompt fails (an error message points to it), ``--dry_run`` reads it while
a run writes, and a kill can damage only its last line. In sqlite3 a journal would belong to the file, an exclusive lock
would shut readers out, and the parser of JSON lines would remain to import the completions that were paid for earlier.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

from filelock import lock_descriptor

from skipthinking.records import DataError, UserError
from skipthinking.teacher.client import Completion
from skipthinking.teacher.dispatch import Outcome

__all__ = ["CompletionLog", "Position", "open_log", "read_positions", "rows_of"]

_LINE_START = b'{"key": "'


class Position(NamedTuple):
    """Where the line of a completion starts, in bytes, and whether the line holds an error in place of a text."""

    offset: int
    failed: bool


@dataclass
class CompletionLog:
    """An open log, locked by this process.

    Attributes:
        path: The file.
        positions: Position of the completion of every fingerprint, as of :func:`open_log` or :meth:`refresh`.
        writer: The file, unbuffered: a failed write must not be repeated when the file is closed.
        reader: The same file for reading.
    """

    path: Path
    positions: dict[str, Position]
    writer: FileIO
    reader: BufferedReader

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends lines and syncs them to disk. Positions are not updated, so that memory does not grow.

        Raises:
            UserError: The disk is full, or the file can't be written.
        """
        data = memoryview("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        try:
            while data:
                data = data[self.writer.write(data) :]
            os.fsync(self.writer.fileno())
        except OSError as error:
            raise UserError(
                f"Can't write {self.path}: {error.strerror}. Free disk space, then run the same command to resume."
            ) from error

    def refresh(self) -> None:
        """Reads the positions again, with those of the appended lines."""
        self.positions, _ = read_positions(self.path)

    def read(self, position: Position) -> tuple[Completion | None, dict[str, Any]]:
        """The completion at a position, None for a failure, and its row."""
        self.reader.seek(position.offset)
        row = json.loads(self.reader.readline())
        return (None if position.failed else Completion(text=row["text"], finish=row.get("finish"))), row


@contextmanager
def open_log(path: Path) -> Iterator[CompletionLog]:
    """Opens, locks and repairs a log. A log that stays empty is removed.

    Raises:
        UserError: Another process has the log open.
        DataError: The file is not a log.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileIO(path, "a+") as writer:
        if not _lock(writer, path):
            raise UserError(
                f"Expected a record file for this process alone, got one that another process writes ({path}). Wait "
                "for that process, or give another --out."
            )
        positions, end = read_positions(path)
        writer.truncate(end)  # drops a last line that a kill cut short
        with path.open("rb") as reader:
            reader.seek(max(0, end - 1))
            if reader.read() not in (b"", b"\n"):  # the last line lacks only its end
                writer.write(b"\n")
            try:
                yield CompletionLog(path, positions, writer, reader)
            finally:
                if not path.stat().st_size:
                    path.unlink()


def _lock(file: FileIO, path: Path) -> bool:
    """Locks the file; False if another process holds the lock, or has removed the empty file since it was opened."""
    locked = lock_descriptor(file.fileno(), blocking=False)
    return locked and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def read_positions(path: Path) -> tuple[dict[str, Position], int]:
    """Position of the completion of every fingerprint, and the size of the log without an incomplete last line.

    Raises:
        DataError: The file is not a log.
    """
    positions: dict[str, Position] = {}
    end = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            # Only a kill leaves a line without its end. Such a line starts like ours, or the file is someone else's.
            unended = not line.endswith(b"\n") and line.startswith(_LINE_START[: len(line)])
            try:
                row = json.loads(line)
            except ValueError as error:
                if unended:
                    break
                raise DataError(
                    f"Expected a JSON object, got {' '.join(str(error).split())} ({path}:{number}). Remove the line; "
                    "its completion is requested again. If the file is no record file, give another --out."
                ) from error
            values = [row.get("key"), row.get("text", row.get("error"))] if isinstance(row, dict) else [None]
            if not all(isinstance(value, str) for value in values):
                raise DataError(
                    f"Expected a record file, got a line without key and text ({path}:{number}). Give another --out, "
                    "or move the file away."
                )
            positions[row["key"]] = Position(end, "error" in row)
            end += len(line)
    return positions, end


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """The rows of an outcome, one per completion or failed sample. The first row has the costs of the request."""
    request, reply = outcome.request, outcome.reply
    rows: list[dict[str, Any]] = [
        {"key": fingerprint, "id": request.example.id, "sample": sample}
        for sample, fingerprint in request.samples.items()
    ]
    if reply is None:
        return [row | {"error": outcome.error} for row in rows]
    rows = [
        row | {"text": completion.text, "finish": completion.finish}
        for row, completion in zip(rows, reply.completions, strict=False)
    ]
    rows[0] |= {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    rows[0] |= {"seconds": round(reply.seconds, 3)}
    return rows
