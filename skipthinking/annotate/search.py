"""The search for the values of one annotator: rows are shared among processes, and values end up with all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from skipthinking.annotate.annotator import Annotator, Context, Notes
from skipthinking.annotate.columns import Column, is_large
from skipthinking.annotate.journal import Journal, recalled, values_path
from skipthinking.annotate.rows import Rows
from skipthinking.ranks import broadcast, gather, rank, ranks, shared_by_length, shares_files, smallest, total
from skipthinking.records import Encoded, UserError

__all__ = ["find", "most_bytes", "on_disk_if_large"]


class _Sized(NamedTuple):
    """A row while blocks are formed."""

    id: str
    tokens: int
    place: int


def find(annotator: Annotator[Any], rows: Rows, context: Context, journal: Journal | None = None) -> Column:
    """Computes the encoded values of all rows; each process annotates its share of them.

    Values of up to 64 MB are sent to all processes. Of more values, every process leaves its own in its journal, and
    rank 0 puts them together in a file that all processes map.

    Args:
        annotator: The annotator.
        rows: The rows that the student can read.
        context: The student, and the notes so far.
        journal: Partial results; None keeps all values in memory.

    Raises:
        UserError: A value is missing or not finite, or processes do not share the run folder.
    """
    if journal and ranks() > 1 and is_large(most_bytes(annotator, rows, context.notes)):
        _check_shared(journal.path.parent)  # not after hours of search
    arrays, size = _search(annotator, rows, context, journal)
    mapped = journal is not None and is_large(total(size))
    if journal and mapped:  # all processes have kept their values, because all have told their size
        arrays = journal.read(ranks())
    elif annotator.uses_student:
        arrays = gather(arrays)  # every process makes instances of any example, so it needs all values
    # In the order of rows, so that ``finish`` sees the same order on every process.
    arrays = {id: arrays[id] for id in rows.ids}
    if type(annotator).finish is not Annotator.finish:
        finished = annotator.finish({id: annotator.decode(array) for id, array in arrays.items()}, rows, context)
        arrays = {id: _encoded(annotator, id, finished) for id in arrays}
    if not (journal and mapped):
        return Column.of(arrays)
    if rank() == 0:
        Column.write(journal.values_path, journal.key, arrays, annotator.dtype)
    broadcast(None)  # the file is complete
    return Column.mapped(journal.values_path, journal.key, annotator.dtype)


def most_bytes(annotator: Annotator[Any], rows: Rows, notes: Mapping[str, Notes]) -> int:
    """Bytes of the values if they are one number per token that the student reads."""
    return np.dtype(annotator.dtype).itemsize * sum(annotator.tokens(row, notes[row.id]) for row in rows)


def on_disk_if_large(column: Column, annotations: Path) -> Column:
    """Moves large values that all processes have to a file that they map.

    Args:
        column: The values.
        annotations: The file of smaller values.

    Raises:
        UserError: Processes do not share the run folder.
    """
    if not is_large(column.flat.nbytes):
        return column
    if ranks() > 1:
        _check_shared(annotations.parent)
    path, dtype = values_path(annotations, column.digest), column.flat.dtype.name
    if rank() == 0:
        Column.write(path, column.digest, column, dtype)
    broadcast(None)  # the file is complete
    return Column.mapped(path, column.digest, dtype)


def _search(
    annotator: Annotator[Any], rows: Rows, context: Context, journal: Journal | None
) -> tuple[dict[str, NDArray[Any]], int]:
    """Values of the rows of this process, and their bytes together."""
    arrays: dict[str, NDArray[Any]] = {}
    size = 0

    def search(block: Sequence[Encoded]) -> dict[str, NDArray[Any]]:
        values = _annotated(annotator, block, context)
        return {row.id: _encoded(annotator, row.id, values) for row in block}

    blocks = _blocks(annotator, rows, context)
    bar = tqdm(
        total=sum(map(len, blocks)), desc=annotator.title or annotator.name, delay=2, leave=False, disable=rank() > 0
    )
    with bar:
        for places in blocks:
            part = recalled(journal, [rows[place] for place in places], search)
            size += sum(array.nbytes for array in part.values())
            if not is_large(size) or journal is None:
                arrays |= part
            bar.update(len(places))
    return arrays, size


def _annotated(annotator: Annotator[Any], block: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
    """Values of a block; of its halves where other processes took the GPU's memory after the block was formed."""
    try:
        return annotator.annotate(block, context)
    except torch.OutOfMemoryError:
        if len(block) == 1 or annotator.block_tokens is None:
            raise
    context.student.release_memory()  # here the error is gone, and with it the tensors of its frames
    middle = len(block) // 2
    return {**_annotated(annotator, block[:middle], context), **_annotated(annotator, block[middle:], context)}


def _blocks(annotator: Annotator[Any], rows: Rows, context: Context) -> list[list[int]]:
    """Places of the rows that this process annotates, by block."""
    most, dealt = annotator.most_tokens(context.student), annotator.uses_student
    if most is None:
        return [list(range(len(rows)))] if rows and (rank() == 0 or not dealt) else []
    sized = [_Sized(row.id, annotator.tokens(row, context.notes[row.id]), place) for place, row in enumerate(rows)]
    # Values without the student, such as weights read from a file, are as quick to compute everywhere as to send.
    shares = shared_by_length(sized, lambda row: row.tokens, smallest(most), ranks() if dealt else 1)
    return [[row.place for row in block] for block in shares[rank() if dealt else 0]]


def _check_shared(folder: Path) -> None:
    """Raises UserError on every process if they do not see each other's files in a folder."""
    if not shares_files(folder):
        raise UserError(
            f"Expected a run folder that all processes share, because annotations of this size are not sent to them, "
            f"got {folder.parent}, where some do not see the files of process 0. Set --runs_dir to a folder on a file "
            "system of all nodes, or train on one node."
        )


def _encoded(annotator: Annotator[Any], id: str, values: Mapping[str, Any]) -> NDArray[Any]:
    """The encoded value of one example.

    Raises:
        UserError: There is none, or it is not a one-dimensional array of finite numbers.
    """
    name = f"{type(annotator).__name__} ({annotator.name})"
    try:
        array = annotator.encode(values[id])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"Expected a value of {name} for example {id!r}, got {type(error).__name__}: {error}. Return a value per "
            "example id from annotate."
        ) from error
    if array.ndim != 1 or not np.isfinite(array).all():
        what = f"shape {array.shape}" if array.ndim != 1 else str(array[~np.isfinite(array)][0])
        raise UserError(
            f"Expected a one-dimensional array of finite numbers of {name} for example {id!r}, got {what}. Fix its "
            "annotate, or define encode and decode."
        )
    return array.astype(annotator.dtype, copy=False)
