"""The runner: everything that annotators have in common, such as order, caching, resuming and drawing."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from skipthinking.annotate.annotator import Annotator, Context, Notes
from skipthinking.annotate.rows import ById, Rows
from skipthinking.annotate.sampling import StageSampling
from skipthinking.annotate.store import Column, Journal, digests, fingerprint, recalled, remembered
from skipthinking.ranks import by_length, gather, rank, ranks, smallest
from skipthinking.records import Encoded, UserError

__all__ = ["Runner", "say"]


def say(text: str) -> None:
    """Prints a line once for all processes, without breaking a progress bar."""
    if rank() == 0:
        tqdm.write(text)


@dataclass(kw_only=True)
class _Result:
    """Values of an annotator.

    Attributes:
        column: Encoded values by example id.
        settings: Settings of the annotator at the time, after a round trip through JSON.
        epoch: Epoch at whose start the annotator ran; -1 for values of another run or of the command ``annotate``.
    """

    column: Column
    settings: dict[str, Any]
    epoch: int


class Runner:
    """Runs annotators when they are due, and stores their values.

    The order follows from ``needs``. The values of an annotator are cached on disk under a hash of data, settings,
    needed annotations and weights; a killed run continues from its journal. Blocks of rows are distributed among all
    processes. Values are saved in checkpoints, and a resumed run checks that its examples are the same.

    Args:
        annotators: The annotators of a method; names are unique.

    Raises:
        UserError: Two annotators have the same name, or ``needs`` are missing or circular.
    """

    def __init__(self, annotators: Sequence[Annotator[Any]]) -> None:
        self.annotators = _in_order(annotators)
        self.rows = Rows([])
        self.searched: dict[str, int] = {}
        """Examples that the annotators which need the student annotated in the last :meth:`update`, by their names."""
        self._results: dict[str, _Result] = {}
        self._saved_examples: dict[str, bytes] | None = None  # digests from a checkpoint, until compared
        self._digests: NDArray[np.uint8] | None = None

    def attach(
        self,
        rows: Sequence[Encoded],
        *,
        module: nn.Module,
        student: Any,
        codec: Any,
        folder: Path,
        seed: int,
        stage_sampling: StageSampling,
        limit: int,
        earlier: Mapping[str, Any] | None = None,
        earlier_name: str = "",
    ) -> None:
        """Sets the examples, before the first epoch.

        Args:
            rows: The training examples.
            module: The module that contains all weights on which values may depend.
            student: The student.
            codec: Converts text to tokens and back.
            folder: The run folder.
            seed: The seed of the data module.
            stage_sampling: See :class:`Notes`.
            limit: Maximum number of tokens of a row.
            earlier: Annotations in the checkpoint of ``start_from``.
            earlier_name: Name of that checkpoint, for the log.
        """
        self.rows, self._digests = Rows(rows), None
        self._module, self._student, self._codec = module, student, codec
        self._folder, self._seed, self._stage_sampling, self._limit = folder, seed, stage_sampling, limit
        if earlier:
            self._take_over(earlier, earlier_name)

    @property
    def ids(self) -> list[str]:
        """Ids of the training examples."""
        return self.rows.ids

    # ----------------------------------------------------------------------------------- running

    def update(self, epoch: int) -> None:
        """Runs all annotators that are due at the start of an epoch."""
        self._check_examples()
        self.searched = {}
        for annotator in self.annotators:
            result = self._results.get(annotator.name)
            if annotator.for_display:
                continue
            if result is None:
                due = any(map(annotator.due, range(epoch + 1)))
            else:
                final = annotator.once and result.epoch < 0  # values of start_from
                due = annotator.due(epoch) and result.epoch != epoch and not final
                if not due:  # else new values follow at once, with the settings as they now are
                    self._check_settings(annotator, result)
            if due:
                self._run(annotator, epoch)

    def run_all(self) -> None:
        """Runs every annotator without final values, whether or not it is due, for the command ``annotate``."""
        self._check_examples()
        for annotator in self.annotators:
            if annotator.name in self._results:
                self._check_settings(annotator, self._results[annotator.name])
            begun = not annotator.uses_student and any(annotator.initial(row) is not None for row in self.rows[:1])
            final = annotator.name in self._results or begun
            if not (final or annotator.for_display or annotator.for_training):
                self._run(annotator, -1)

    def _run(self, annotator: Annotator[Any], epoch: int) -> None:
        everyone, earlier = self.rows, dict(self._results)
        notes = ById(everyone, lambda row: self._notes(row, epoch, earlier))
        rows = everyone.select([
            place for place, row in enumerate(everyone)
            if self._fits(annotator, row, self._notes(row, epoch, earlier))
        ])  # fmt: skip
        path = self._folder / "annotations" / f"{annotator.name}.jsonl"
        with self._student.frozen(merge=False):  # the key is that of the weights as they are stored
            key = fingerprint(rows, self._dependencies(annotator), self._module) if annotator.uses_student else ""
        with self._student.frozen():
            context = self._context(notes)
            if annotator.uses_student:
                self.searched[annotator.name] = len(rows)
                journal = Journal(path, key, rank())
                computed: list[bool] = []

                def compute() -> dict[str, NDArray[Any]]:
                    computed.append(True)
                    return self._find(annotator, rows, context, journal)

                arrays = remembered(path, key, compute, annotator.dtype)
                if not computed:
                    say(f"{annotator.name}: read from {path}, found for the same data, settings and weights")
            else:
                arrays = self._find(annotator, rows, context, None)
        column = Column.of(arrays)
        self._results[annotator.name] = _Result(column=column, settings=_plain(annotator.settings()), epoch=epoch)
        _report(annotator, column, rows, context)

    def _context(self, notes: Mapping[str, Notes]) -> Context:
        return Context(student=self._student, codec=self._codec, notes=notes, seed=self._seed)

    def _find(
        self, annotator: Annotator[Any], rows: Rows, context: Context, journal: Journal | None
    ) -> dict[str, NDArray[Any]]:
        """Computes the encoded values of all rows; every process annotates its share of the blocks."""
        most = annotator.most_tokens(self._student)
        if most is None:
            blocks = [list(range(len(rows)))] if rows else []
        else:
            sized = [
                _Sized(row.id, annotator.tokens(row, context.notes[row.id]), place) for place, row in enumerate(rows)
            ]
            grouped = by_length(sized, lambda row: row.tokens, smallest(most))
            blocks = [[row.place for row in block] for block in grouped]
        # Values of the student are dealt among all processes; others, such as weights read from a file, are as quick to
        # compute everywhere as to send.
        dealt = annotator.uses_student
        mine = blocks[rank() :: ranks()] if dealt else blocks
        arrays: dict[str, NDArray[Any]] = {}

        def search(block: Sequence[Encoded]) -> dict[str, list[Any]]:
            values = annotator.annotate(block, context)
            return {row.id: _encoded(annotator, row.id, values).tolist() for row in block}

        bar = tqdm(
            total=sum(map(len, mine)), desc=annotator.title or annotator.name, delay=2, leave=False, disable=rank() > 0
        )
        with bar:
            for places in mine:
                found = recalled(journal, [rows[place] for place in places], search)
                arrays |= {id: np.asarray(value, dtype=annotator.dtype) for id, value in found.items()}
                bar.update(len(places))
        if dealt:
            arrays = gather(arrays)  # every process makes instances of any example, so it needs all values
        # In the order of rows, so that ``finish`` sees the same order on every process.
        arrays = {id: arrays[id] for id in rows.ids}
        if type(annotator).finish is Annotator.finish:
            return arrays
        finished = annotator.finish({id: annotator.decode(array) for id, array in arrays.items()}, rows, context)
        return {id: _encoded(annotator, id, finished) for id in arrays}

    def _fits(self, annotator: Annotator[Any], row: Encoded, notes: Notes) -> bool:
        """Whether the student can read a row; T5 reads prompt and completion on two sides."""
        total, prompt = annotator.tokens(row, notes), max(map(len, row.prompts.values()))
        return (max(prompt, total - prompt) if self._student.encoder_decoder else total) <= self._limit

    def _dependencies(self, annotator: Annotator[Any]) -> dict[str, Any]:
        needed = [*annotator.needs, annotator.name]
        kind, device = type(annotator), self._student.device.type
        return {
            "annotator": f"{kind.__module__}.{kind.__qualname__}",
            "source": _source(kind),  # who develops a search must not see the values of its last version
            "settings": _plain(annotator.settings()),
            "seed": self._seed,
            "student": str(self._student.config),
            "precision": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "",
            "needs": {name: self._results[name].column.digest() for name in needed if name in self._results},
        }

    # ------------------------------------------------------------------------------------- notes

    def notes(self, encoded: Encoded, epoch: int) -> Notes:
        """The notes of an example for an epoch, without annotations that have no value for it."""
        return self._notes(encoded, epoch, self._results)

    def _notes(self, encoded: Encoded, epoch: int, results: Mapping[str, _Result]) -> Notes:
        values = {}
        for annotator in self.annotators:
            result = results.get(annotator.name)
            if result is not None:
                if encoded.id in result.column:
                    values[annotator.name] = annotator.decode(result.column[encoded.id])
            elif (initial := annotator.initial(encoded)) is not None:
                values[annotator.name] = initial
        return Notes(epoch=epoch, seed=self._seed, stage_sampling=self._stage_sampling, values=values)

    def lacks(self, encoded: Encoded) -> bool:
        """Whether an annotator that has run has no value for the example, because it exceeds the student's context."""
        return any(encoded.id not in result.column for result in self._results.values())

    def has_run(self, annotator: Annotator[Any]) -> bool:
        """Whether an annotator has values beyond its initial ones."""
        return annotator.name in self._results

    # ----------------------------------------------------------------------------------- drawing

    def drawings(self, rows: Sequence[Encoded]) -> list[dict[str, Any]]:
        """A row per example for ``annotations.jsonl`` and W&B: all present annotations, and those for display."""
        notes = {row.id: self.notes(row, 0) for row in rows}
        shown: dict[str, dict[str, Any]] = {
            row.id: {
                "id": row.id,
                "question": row.example.question,
                "steps": [self._codec.decode(row.tokens[start:end].tolist()) for start, end in row.steps],
                "tokens": [end - start for start, end in row.steps],
                "answer": self._codec.decode(row.tokens[row.steps[-1][1] if row.steps else 0 :].tolist()),
            }
            for row in rows
        }
        context = self._context(notes)
        for annotator in self.annotators:
            if annotator.for_display:
                readable = Rows([row for row in rows if self._fits(annotator, row, notes[row.id])])
                with self._student.frozen():
                    column = Column.of(self._find(annotator, readable, context, None))
                values = _report(annotator, column, readable, context)
            else:
                values = {id: note[annotator] for id, note in notes.items() if annotator.name in note.values}
            for row in rows:
                if row.id in values:
                    _merge(shown[row.id], annotator.draw(values[row.id], row, self._codec))
        return list(shown.values())

    # -------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All values as arrays; empty if no annotator has run."""
        if not self._results:
            return {}
        return {
            "examples": Column.pack_ids(self.ids),
            "digests": self._own_digests(),
            "annotations": {
                name: {**result.column.state(), "settings": json.dumps(result.settings), "epoch": result.epoch}
                for name, result in self._results.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the values of a checkpoint; :meth:`update` compares its examples with the present ones."""
        if not state:
            return
        self._results = dict(_read_state(state))
        self._saved_examples = _examples(state)

    def _take_over(self, earlier: Mapping[str, Any], name: str) -> None:
        """Reuses values of another run if its examples are the same and the annotators accept its settings."""
        if self._strange(_examples(earlier)):
            return
        results = dict(_read_state(earlier))
        for annotator in self.annotators:
            result = results.get(annotator.name)
            if result is not None and annotator.accepts(result.settings):
                result.epoch = -1
                self._results[annotator.name] = result
                say(f"{annotator.name}: reused from {name}")
                if annotator.once:
                    rows = self.rows.select([place for place, id in enumerate(self.ids) if id in result.column])
                    notes = ById(rows, lambda row: self.notes(row, 0))
                    _report(annotator, result.column, rows, self._context(notes))

    def _own_digests(self) -> Any:
        if self._digests is None:
            self._digests = digests(self.rows)
        return torch.from_numpy(self._digests)

    def _strange(self, known: Mapping[str, bytes]) -> list[str]:
        """Ids of the examples that a checkpoint does not know, or knows with other tokens or steps."""
        pairs = zip(self.ids, map(bytes, self._own_digests().numpy()), strict=True)
        return [id for id, digest in pairs if known.get(id) != digest]

    def _check_examples(self) -> None:
        saved, self._saved_examples = self._saved_examples, None
        if saved is None:
            return
        strange, lost = self._strange(saved), saved.keys() - set(self.ids)
        if strange or lost:
            self._saved_examples = saved
            new = f"{len(strange)} of {len(self.rows)} that are new or have other steps or another prompt"
            missing = f"{len(lost)} of its {len(saved)} missing"
            what = " and ".join([new] * bool(strange) + [missing] * bool(lost))
            raise UserError(
                f"Expected the examples of the checkpoint, got {what}, such as {(strange or sorted(lost))[0]!r}. Keep "
                "data, data.template and data.splitter unchanged, or start a new run."
            )

    def _check_settings(self, annotator: Annotator[Any], result: _Result) -> None:
        now = _plain(annotator.settings())
        if annotator.uses_student and result.settings != now and (result.epoch >= 0 or annotator.once):
            raise UserError(
                f"Expected the {annotator.name} settings of the checkpoint, {result.settings}, got {now}. Set them "
                "back, or start a new run."
            )


class _Sized(NamedTuple):
    """A row while blocks are formed."""

    id: str
    tokens: int
    place: int


def _report(annotator: Annotator[Any], column: Column, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
    """Prints an annotator's line on its outcome, if it has one, and returns the values, decoded when asked for."""
    values = ById(rows, lambda row: annotator.decode(column[row.id]))
    line = annotator.report(values, rows, context)
    if line:
        say(line)
    return values


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
    return array


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # a class that was typed into an interpreter
        return ""


def _in_order(annotators: Sequence[Annotator[Any]]) -> list[Annotator[Any]]:
    names = [str(getattr(annotator, "name", "")) for annotator in annotators]
    wrong = [name for name in names if not re.fullmatch(r"[A-Za-z]\w*", name)]
    if wrong:
        raise UserError(f"Expected annotators with names of letters, digits and _, got {wrong[0]!r}. Rename it.")
    if len(set(names)) < len(names):
        raise UserError(f"Expected annotators with different names, got {', '.join(names)}. Rename one.")
    ordered: list[Annotator[Any]] = []
    waiting = list(annotators)
    while waiting:
        done = {annotator.name for annotator in ordered}
        ready = [annotator for annotator in waiting if done.issuperset(annotator.needs)]
        if not ready:
            missing = {need for annotator in waiting for need in annotator.needs} - set(names)
            raise UserError(
                f"Expected annotators that can follow one another, got {', '.join(a.name for a in waiting)}, which "
                + (f"need {', '.join(sorted(missing))}, computed by no annotator." if missing else "need each other.")
            )
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _merge(row: dict[str, Any], drawing: Mapping[str, Any]) -> None:
    for key, value in drawing.items():
        if isinstance(value, dict):
            row.setdefault(key, {}).update(value)
        elif key == "lines":
            row.setdefault(key, []).extend(value)
        else:
            row[key] = value


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after a round trip through JSON, as in a checkpoint."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return plain


def _examples(state: Mapping[str, Any]) -> dict[str, bytes]:
    ids = Column.unpack_ids(state["examples"])
    return dict(zip(ids, map(bytes, state["digests"].numpy()), strict=True))


def _read_state(state: Mapping[str, Any]) -> Iterator[tuple[str, _Result]]:
    for name, saved in state["annotations"].items():
        column = Column.from_state(saved)
        yield name, _Result(column=column, settings=json.loads(saved["settings"]), epoch=saved["epoch"])
