"""The runner: everything that annotators have in common, such as order, caching, resuming and drawing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from skipthinking.annotate.annotator import Annotator, Context, Notes
from skipthinking.annotate.columns import Column, is_large, pack_ids, unpack_ids
from skipthinking.annotate.fingerprints import code_of, digests, fingerprint, plain
from skipthinking.annotate.journal import Journal
from skipthinking.annotate.order import in_order
from skipthinking.annotate.rows import ById, Made, Rows
from skipthinking.annotate.sampling import StageSampling
from skipthinking.annotate.search import find, most_bytes, on_disk_if_large
from skipthinking.annotate.store import remembered
from skipthinking.ranks import rank
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
        self.annotators = in_order(annotators)
        self.rows, self._folder = Rows([]), Path()
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
            initial = not annotator.uses_student and any(annotator.initial(row) is not None for row in self.rows[:1])
            final = annotator.name in self._results or initial
            if not (final or annotator.for_display or annotator.for_training):
                self._run(annotator, -1)

    def _run(self, annotator: Annotator[Any], epoch: int) -> None:
        everyone, earlier = self.rows, dict(self._results)
        notes = ById(everyone, lambda row: self._notes(row, epoch, earlier))
        rows = everyone.select([
            place for place, row in enumerate(everyone)
            if self._fits(annotator, row, self._notes(row, epoch, earlier))
        ])  # fmt: skip
        context = self._context(notes)
        column = self._find(annotator, rows, context, cached=annotator.uses_student)
        if annotator.uses_student:
            self.searched[annotator.name] = len(rows)
        self._results[annotator.name] = _Result(column=column, settings=plain(annotator.settings()), epoch=epoch)
        _report(annotator, column, rows, context)

    def _find(self, annotator: Annotator[Any], rows: Rows, context: Context, *, cached: bool) -> Column:
        """Encoded values of rows: from the cache on disk, or computed and cached; not cached, only large ones."""
        path = self._folder / "annotations" / f"{annotator.name}.jsonl"
        if not cached:
            with self._student.frozen():
                column = on_disk_if_large(find(annotator, rows, context), path)
            self._release(annotator)
            return column
        with self._student.frozen(merge=False):  # the key is that of the weights as they are stored
            key = fingerprint(rows, self._dependencies(annotator), self._module)
        with self._student.frozen():
            journal = Journal(path, key, annotator.dtype, rank())
            make = partial(find, annotator, rows, context, journal)
            column, read = remembered(path, key, annotator.dtype, len(rows), make)
        if read:
            where = column.file[0] if column.file else path
            say(f"{annotator.name}: read from {where}, found for the same data, settings and weights")
        elif rank() == 0:
            journal.remove()  # only now: a full disk must not lose a search
        if not read:
            self._release(annotator)
        return column

    def _release(self, annotator: Annotator[Any]) -> None:
        """Gives a search's memory back, which may be several times that of training."""
        if annotator.uses_student:
            self._student.release_memory()

    def _context(self, notes: Mapping[str, Notes]) -> Context:
        return Context(student=self._student, codec=self._codec, notes=notes, seed=self._seed)

    def _fits(self, annotator: Annotator[Any], row: Encoded, notes: Notes) -> bool:
        """Whether the student can read a row; T5 reads prompt and completion on two sides."""
        total, prompt = annotator.tokens(row, notes), max(map(len, row.prompts.values()))
        return (max(prompt, total - prompt) if self._student.encoder_decoder else total) <= self._limit

    def _dependencies(self, annotator: Annotator[Any]) -> dict[str, Any]:
        needed = [*annotator.needs, annotator.name]
        kind, device = type(annotator), self._student.device.type
        return {
            "annotator": f"{kind.__module__}.{kind.__qualname__}",
            "sources": code_of(annotator),
            "settings": plain(annotator.settings()),
            "seed": self._seed,
            "student": str(self._student.config),
            "precision": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "",
            "needs": {name: self._results[name].column.digest for name in needed if name in self._results},
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

    def drawings(self, rows: Sequence[Encoded]) -> Sequence[dict[str, Any]]:
        """A row per example for ``annotations.jsonl`` and W&B: all present annotations, and those for display.

        All processes compute the values for display together; rows are made when they are asked for.
        """
        rows, shown = Rows(rows), dict(self._results)
        notes = ById(rows, lambda row: self.notes(row, 0))
        context = self._context(notes)
        for annotator in self.annotators:
            if annotator.for_display:
                readable = rows.select([n for n, row in enumerate(rows) if self._fits(annotator, row, notes[row.id])])
                large = is_large(most_bytes(annotator, readable, notes))
                column = self._find(annotator, readable, context, cached=large)
                _report(annotator, column, readable, context)
                shown[annotator.name] = _Result(column=column, settings={}, epoch=0)
        return Made(rows, lambda row: self._drawing(row, self._notes(row, 0, shown)))

    def _drawing(self, row: Encoded, notes: Notes) -> dict[str, Any]:
        drawn: dict[str, Any] = {
            "id": row.id,
            "question": row.example.question,
            "steps": [self._codec.decode(row.tokens[start:end].tolist()) for start, end in row.steps],
            "tokens": [end - start for start, end in row.steps],
            "answer": self._codec.decode(row.tokens[row.steps[-1][1] if row.steps else 0 :].tolist()),
        }
        for annotator in self.annotators:
            if annotator.name in notes.values:
                _merge(drawn, annotator.draw(notes[annotator], row, self._codec))
        return drawn

    # -------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All values as arrays; empty if no annotator has run."""
        if not self._results:
            return {}
        return {
            "examples": pack_ids(self.ids),
            "digests": self._own_digests(),
            "annotations": {
                name: {**result.column.state(), "settings": json.dumps(result.settings), "epoch": result.epoch}
                for name, result in self._results.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the values of a checkpoint; :meth:`update` compares its examples with the present ones.

        Raises:
            UserError: The file of large values is missing or damaged.
        """
        if not state:
            return
        self._results = {name: _result(saved, self._folder) for name, saved in state["annotations"].items()}
        self._saved_examples = _examples(state)

    def _take_over(self, earlier: Mapping[str, Any], name: str) -> None:
        """Reuses values of another run if its examples are the same and the annotators accept its settings."""
        if self._strange(_examples(earlier)):
            return
        folder = Path(name).parent.parent  # of the run, if it was moved after it wrote its checkpoint
        for annotator in self.annotators:
            saved = earlier["annotations"].get(annotator.name)
            if saved is not None and annotator.accepts(json.loads(saved["settings"])):
                self._results[annotator.name] = result = _result({**saved, "epoch": -1}, folder)
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
        now = plain(annotator.settings())
        if annotator.uses_student and result.settings != now and (result.epoch >= 0 or annotator.once):
            raise UserError(
                f"Expected the {annotator.name} settings of the checkpoint, {result.settings}, got {now}. Set them "
                "back, or start a new run."
            )


def _report(annotator: Annotator[Any], column: Column, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
    """Prints an annotator's line on its outcome, if it has one, and returns the values, decoded when asked for."""
    values = ById(rows, lambda row: annotator.decode(column[row.id]))
    line = annotator.report(values, rows, context)
    if line:
        say(line)
    return values


def _merge(row: dict[str, Any], drawing: Mapping[str, Any]) -> None:
    for key, value in drawing.items():
        if isinstance(value, dict):
            row.setdefault(key, {}).update(value)
        elif key == "lines":
            row.setdefault(key, []).extend(value)
        else:
            row[key] = value


def _examples(state: Mapping[str, Any]) -> dict[str, bytes]:
    ids = unpack_ids(state["examples"])
    return dict(zip(ids, map(bytes, state["digests"].numpy()), strict=True))


def _result(saved: Mapping[str, Any], folder: Path) -> _Result:
    """A result of a checkpoint, given the run folder that may have its file."""
    column = Column.from_state(saved, folder / "annotations")
    return _Result(column=column, settings=json.loads(saved["settings"]), epoch=saved["epoch"])
