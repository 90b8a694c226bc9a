"""Turns rows into examples: format, check of the gold answer, ids, duplicates, and a line for the start report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from skipthinking.data.columns import Unread, check_rivals, differ
from skipthinking.data.fields import ID_KEYS, KEYS, Ambiguous, Fields, NoAnswer, RowError, UnreadableAnswer, key_of
from skipthinking.data.formats import Format, detect_format, get_format
from skipthinking.data.rows import Located, Rows
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import Task

__all__ = ["BadRows", "Loaded", "count", "import_rows"]

BadRows = Literal["error", "leave_out"]

_SAMPLE = 1000  # rows of a file that vote on its format


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """The contents of a source.

    Attributes:
        examples: The examples in the order of the source; ids are unique.
        description: One line for the start report: the source, the number of rows, their format, and what was left out.
        duplicates: Number of exact duplicates, which were left out.
        bad_rows: Number of rows that were left out by reason, such as "without a readable answer".
        unread: The columns with text that were not read, in one phrase; also the end of the description.
    """

    examples: Sequence[Example]
    description: str
    duplicates: int = 0
    bad_rows: dict[str, int] = field(default_factory=dict)
    unread: str = ""


def import_rows(
    files: Iterable[Sequence[Located] | Rows], *, name: str, task: Task, format: str = "auto", limit: int | None = None,
    bad_rows: BadRows = "error", rationale_key: str | None = None, add: Callable[[Example], None] | None = None,
) -> Loaded:  # fmt: skip
    """Turns rows into examples.

    Args:
        files: The rows of every file of the source.
        name: Name of the source for the start report.
        task: The task, whose grader must be able to read the answers.
        format: Name of the rows' format; "auto" detects it from the rows of each file.
        limit: Number of rows to import, from the first; None imports all.
        bad_rows: Whether a row with a fault is an error, or left out.
        rationale_key: Key of the rationale; that of the format by default.
        add: Takes the examples one by one; then the result has none.

    Raises:
        UserError: A setting is invalid.
        DataError: A row cannot be used, or no usable row is left.
    """
    if limit is not None and limit < 1:
        raise UserError(f"Expected a limit of at least 1, got {limit} (limit). Leave it out to take all rows.")
    if bad_rows not in ("error", "leave_out"):
        raise UserError(f"Expected error or leave_out, got {bad_rows!r} (bad_rows). Choose one of them.")
    given = None if format == "auto" else get_format(format)
    examples: list[Example] = []
    add = add or examples.append
    places: dict[str, tuple[str, int]] = {}  # place of the row and a hash of its fields, by id
    answers: list[str] = []
    formats: set[str] = set()
    faults: list[RowError] = []
    unread = Unread({*ID_KEYS, "task", "meta"}, chosen=rationale_key is not None)
    first_fault: tuple[dict[str, Any], frozenset[str]] | None = None
    total = used = contradicted = 0
    for rows in files:
        left = None if limit is None else limit - used
        known = given or _detect(islice(rows, _SAMPLE if left is None else min(left, _SAMPLE)), rationale_key)
        seen = 0
        for row, where in islice(rows, left):
            seen += 1
            assert known is not None
            formats.add(known.name)
            try:
                fields = known.read(row, where, rationale_key)
                if rationale_key is None and (given is None or fields.used & set(KEYS["rationale"])):
                    check_rivals(row, fields, where, known.optional)
                example = _example(task, known, fields, row, where)
                twice = _is_duplicate(example, fields, row, where, places)
            except Ambiguous as error:
                unread.chosen = True  # the message has the keys
                unread.add(row, fields)
                raise Ambiguous(f"{error}{_sentence(unread.report)}") from error
            except RowError as error:
                faults.append(error)
                first_fault = first_fault or (row, error.used | {str(key_of(row, key)) for key in known.keys})
                continue
            unread.add(row, fields)
            contradicted += differ(fields.stated, fields.answer)
            if not twice:
                places[example.id] = where, hash(fields)
                add(example)
                answers.append(example.answer)
        used += seen
        total += seen if left is None else len(rows)
    if first_fault and not places:
        unread.add_fault(*first_fault)  # all that is known of the columns
    if faults and (bad_rows == "error" or not places):
        raise _error_of(faults, used, name, unread.report, bad_rows)
    reasons = Counter(fault.reason for fault in faults)
    duplicates = used - len(faults) - len(places)
    parts = [count(total, "row") if used == total else f"first {used} of {count(total, 'row')}"]
    parts.append(f"format {' and '.join(sorted(formats))} ({'detected' if given is None else 'given'})")
    if duplicates:
        parts.append(f"{count(duplicates, 'exact duplicate')} left out")
    parts += [f"{count(number, 'row')} {reason} left out" for reason, number in reasons.most_common()]
    parts += (
        [f"{count(contradicted, 'row')} whose text states another answer than the gold one"] if contradicted else []
    )
    parts += [unread.report] if unread.report else []
    return Loaded(
        examples=examples,
        description=f"{name}: {', '.join([*parts, *task.read_in_part(answers)])}",
        duplicates=duplicates,
        bad_rows=dict(reasons),
        unread=unread.report,
    )


def _detect(rows: Iterable[Located], rationale_key: str | None) -> Format | None:
    """Returns the format that most rows match: one bare answer does not change how a file of solutions is read."""
    votes: Counter[str] = Counter()
    first: Located | None = None
    for row, where in rows:
        first = first or (row, where)
        try:
            votes[detect_format(row, where, rationale_key).name] += 1
        except DataError:
            continue
    if votes:
        return get_format(votes.most_common(1)[0][0])
    return detect_format(*first, rationale_key) if first else None


def _error_of(faults: Sequence[RowError], used: int, name: str, unread: str, bad_rows: BadRows) -> DataError:
    """The error for rows with faults: the first one, how many there are, and what to do."""
    first, reasons = faults[0], Counter(fault.reason for fault in faults)
    counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    columns = _sentence(unread)
    if len(faults) < used:
        return DataError(
            f"{first} {count(len(faults), 'row')} of {used} cannot be used ({counted}). To leave such rows out, set "
            f"bad_rows: leave_out.{columns}"
        )
    if all(isinstance(fault, NoAnswer) for fault in faults):
        return DataError(
            f"Expected gold answers, got none in {count(used, 'row')} ({name}). Training and tests need them; predict "
            f"answers the questions of such a file (--questions).{columns}"
        )
    none = f"Expected at least one usable row, got none of {used} ({name}): {counted}."
    return DataError(f"{none} {first}{columns}" if bad_rows == "leave_out" or used > 1 else f"{first}{columns}")


def _sentence(phrase: str) -> str:
    """A phrase as a sentence after another one; empty for an empty phrase."""
    return phrase and f" {phrase[0].upper()}{phrase[1:]}."


def _example(task: Task, format: Format, fields: Fields, row: dict[str, Any], where: str) -> Example:
    _check_unicode((fields.question, fields.rationale, fields.answer, fields.conclusion), where)
    if row.get("task", task.name) != task.name and "task" in format.optional:
        raise RowError(
            f"Expected task {task.name}, got {row['task']!r} ({where}). Set task: {row['task']}, or remove the key "
            "from the rows.",
            "of another task",
        )
    if fields.rationale and row.get("is_correct") is False:
        raise RowError(
            f'Expected a rationale that was judged right, got "is_correct": false ({where}). Remove the row.',
            "judged wrong",
        )
    try:
        task.check_gold(fields.answer, where)
    except DataError as error:
        raise UnreadableAnswer(str(error)) from error
    known = {*fields.used, *format.keys, *format.optional, *ID_KEYS}
    nested = row.get("meta") if "meta" in format.optional else None
    meta = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in row.items() if k not in known}}
    digest = hashlib.sha1((fields.question + fields.rationale + fields.answer).encode()).hexdigest()[:12]
    key = _id_key(row)
    id = f"{task.name}-{digest}" if key is None else row[key]
    if not isinstance(id, (str, int)) or isinstance(id, bool) or not str(id).strip():
        raise RowError(
            f'Expected an id in "{key}", got {id!r} ({where}). Fill it in, or remove the key from all rows.',
            f'without an id in "{key}"',
        )
    return Example(
        id=str(id),
        question=fields.question,
        rationale=fields.rationale,
        answer=fields.answer,
        task=task.name,
        meta=meta,
        conclusion=fields.conclusion,
    )


def _is_duplicate(
    example: Example, fields: Fields, row: dict[str, Any], where: str, places: dict[str, tuple[str, int]]
) -> bool:
    """Whether a row with the same contents was read before.

    Raises:
        RowError: A row with its id and other contents was.
    """
    if example.id not in places:
        return False
    before, content = places[example.id]
    key = _id_key(row)
    if key is not None and content != hash(fields):
        raise RowError(
            f'Expected unique ids, got "{key}" {row[key]!r} twice with different contents ({before} and {where}). '
            "Rename one, or remove the key from all rows.",
            "with the id of another row",
        )
    return True


def _id_key(row: dict[str, Any]) -> str | None:
    return next((key for key in ID_KEYS if key in row), None)


def _check_unicode(texts: Sequence[str], where: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RowError(
                f"Expected text, got half of a character, {text[error.start]!r}, at position {error.start} ({where}). "
                "Fix the row.",
                "with half a character",
            ) from error


def count(number: int, noun: str) -> str:
    """Returns a number with its noun in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
