"""Laws of the runner, for annotators that know nothing of caches, processes and checkpoints."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from searches import on_ranks

from skipthinking.annotate import columns
from skipthinking.annotate.annotator import Annotator, Context, Notes
from skipthinking.annotate.columns import Column, frames, pack_ids
from skipthinking.annotate.runner import Runner
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import Sentences
from skipthinking.records import Encoded, Example, UserError
from skipthinking.students import FromScratch

TEXTS = [f"Ann has {n} nuts. She eats {n - 1}. So 1 is left." for n in range(2, 8)]


class Sizes(Annotator[float]):
    """A third of the number of completion tokens; remembers which examples it was asked for."""

    name = "sizes"
    block_tokens = 1  # every example is a block by itself

    def __init__(self, **own: Any) -> None:
        self.asked: list[str] = []
        self.own: dict[str, Any] = {}
        self.killed_at = -1
        for name, value in own.items():
            setattr(self, name, value)

    def settings(self) -> Mapping[str, Any]:
        return self.own

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
        if len(self.asked) == self.killed_at:
            raise KeyboardInterrupt
        self.asked += [row.id for row in rows]
        return {row.id: len(row.tokens) / 3 for row in rows}

    def decode(self, array: Any) -> float:
        return float(array[0])


class Doubled(Sizes):
    """Twice the value of another annotator."""

    name = "doubled"
    needs = ("sizes",)

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
        self.asked += [row.id for row in rows]
        (needed,) = self.needs
        return {row.id: 2 * context.notes[row.id].values[needed] for row in rows}


@pytest.fixture(scope="module")
def student() -> Any:
    """A random student of one layer."""
    config = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    student: Any = FromScratch("llama", config, vocab_size=512)
    student.prepare(TEXTS)
    student.build()
    return student


@pytest.fixture(scope="module")
def codec(student: Any) -> Codec:
    return Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences())


@pytest.fixture(scope="module")
def rows(codec: Codec) -> list[Encoded]:
    """Six examples of different lengths."""
    return list(
        codec.encode([
            Example(id=f"e{n}", question=f"How many {'many ' * n}nuts?", rationale=text, answer="1", task="gsm8k")
            for n, text in enumerate(TEXTS)
        ])
    )  # fmt: skip


@pytest.fixture(params=["in memory", "mapped"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where values are: every law holds for both."""
    if request.param == "mapped":
        monkeypatch.setattr(columns, "_IN_MEMORY", -1)
    where: str = request.param
    return where


@pytest.fixture
def attached(kept: str, student: Any, codec: Codec, rows: list[Encoded], tmp_path: Path) -> Callable[..., Runner]:
    """Makes runners that know the examples, all in the same run folder."""

    def make(*annotators: Annotator[Any], rows: Sequence[Encoded] = rows, state: Any = None, **own: Any) -> Runner:
        found = Runner(annotators)
        settings = {"module": student, "student": student, "codec": codec, "folder": tmp_path, "seed": 0, "limit": 999}
        found.attach(rows, **{**settings, "stage_sampling": "cycle", **own})
        if state is not None:
            found.load_state_dict(state)
        return found

    return make


def _values(runner: Runner, epoch: int = 0) -> dict[str, Mapping[str, Any]]:
    return {row.id: runner.notes(row, epoch).values for row in runner.rows}


def _saved(runner: Runner) -> Any:
    """The runner's state after a checkpoint was written and read."""
    file = io.BytesIO()
    torch.save(runner.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# ------------------------------------------------------------------------------------------ order


@pytest.mark.parametrize("given", list(permutations(range(3))))
def test_needed_annotations_come_first(given: tuple[int, ...], attached: Any, rows: list[Encoded]) -> None:
    class Fourfold(Doubled):
        name = "fourfold"
        needs = ("doubled",)

    all_three = [Sizes(), Doubled(), Fourfold()]
    runner = attached(*(all_three[place] for place in given))
    assert [annotator.name for annotator in runner.annotators] == ["sizes", "doubled", "fourfold"]
    runner.update(0)
    for row in rows:
        size = len(row.tokens) / 3
        assert runner.notes(row, 0).values == {"sizes": size, "doubled": 2 * size, "fourfold": 4 * size}


def test_annotators_that_do_not_need_each_other_keep_their_order() -> None:
    names = ["c", "a", "b"]
    assert [annotator.name for annotator in Runner([Sizes(name=name) for name in names]).annotators] == names


@pytest.mark.parametrize(
    ("annotators", "message"),
    [
        ([Doubled()], "got doubled, which need sizes, computed by no annotator"),
        ([Sizes(needs=("doubled",)), Doubled()], "got sizes, doubled, which need each other"),
        ([Sizes(), Sizes(needs=("sizes",), name="x"), Doubled(needs=("y",), name="y")], "got y, which need each other"),
        ([Sizes(), Doubled(), Sizes()], "different names, got sizes, doubled, sizes"),
    ],
    ids=["unknown", "circle", "itself", "twice"],
)
def test_annotators_that_cannot_be_ordered_are_refused(annotators: list[Annotator[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Runner(annotators)


# ----------------------------------------------------------------------------------------- values


class Ends(Sizes):
    """The step spans of a rationale, stored as their ends."""

    name = "ends"
    dtype = "int64"

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
        self.asked += [row.id for row in rows]
        return {row.id: row.steps for row in rows}

    def encode(self, value: Any) -> Any:
        return np.array([end for _, end in value], dtype=self.dtype)

    def decode(self, array: Any) -> Any:
        return tuple(pairwise((0, *array.tolist())))


@pytest.mark.parametrize("way", ["found", "cached", "checkpoint"])
def test_values_are_those_of_decode_of_encode_however_they_come(way: str, attached: Any, rows: list[Encoded]) -> None:
    runner = attached(Ends(), Sizes(dtype="float32"))
    runner.update(0)
    if way == "cached":
        runner = attached(Ends(), Sizes(dtype="float32"))
        runner.update(0)
    if way == "checkpoint":
        runner = attached(Ends(), Sizes(dtype="float32"), state=_saved(runner))
    for row in rows:
        notes = runner.notes(row, 0)
        size = notes.values["sizes"]
        assert notes.values["ends"] == row.steps
        assert size == float(np.float32(len(row.tokens) / 3))  # float32 keeps 24 bits of a third
        assert notes[runner.annotators[0]] == row.steps
    assert any(size % 1 for size in (runner.notes(row, 0).values["sizes"] for row in rows))


def test_finish_changes_all_values_before_they_are_kept(attached: Any) -> None:
    class Ranked(Sizes):
        def finish(self, values: dict[str, float], rows: Sequence[Encoded], context: Context) -> dict[str, float]:
            assert list(values) == [row.id for row in rows]  # on every process in this order
            return {id: float(sorted(values.values()).index(value)) for id, value in values.items()}

    for _ in ("found", "cached"):
        runner = attached(annotator := Ranked())
        runner.update(0)
        assert min(note["sizes"] for note in _values(runner).values()) == 0
        assert all(note["sizes"] == int(note["sizes"]) for note in _values(runner).values())
    assert not annotator.asked


# -------------------------------------------------------------------------------------------- due


def test_annotators_run_at_their_epochs_and_see_their_earlier_values(attached: Any, rows: list[Encoded]) -> None:
    seen: list[list[float | None]] = []

    class Counted(Sizes):
        def due(self, epoch: int) -> bool:
            return epoch in (1, 3)

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            seen.append([context.notes[row.id].get(self) for row in rows])
            return {row.id: float(context.notes[row.id].epoch) for row in rows}

    runner = attached(annotator := Counted(block_tokens=None))
    assert not runner.has_run(annotator)
    for epoch, expected in enumerate([None, 1.0, 1.0, 3.0, 3.0]):
        for _ in range(2):  # a second call in the same epoch runs nothing
            runner.update(epoch)
        assert {note.get("sizes") for note in _values(runner, epoch).values()} == {expected}
        assert runner.has_run(annotator) == (epoch > 0)
    assert seen == [[None] * len(rows), [1.0] * len(rows)]
    late = attached(Counted(own={"late": True}, block_tokens=None))
    late.update(2)  # due in an epoch that this run did not see
    assert {note["sizes"] for note in _values(late).values()} == {2.0}


def test_initial_values_hold_until_the_first_run(attached: Any) -> None:
    class Begun(Sizes):
        def due(self, epoch: int) -> bool:
            return epoch == 1

        def initial(self, encoded: Encoded) -> float:
            return -1.0

    runner = attached(annotator := Begun())
    runner.update(0)
    assert {note["sizes"] for note in _values(runner).values()} == {-1.0}
    assert not runner.has_run(annotator)
    assert runner.state_dict() == {}
    runner.update(1)
    assert all(note["sizes"] > 0 for note in _values(runner).values())


def test_a_report_sees_new_and_earlier_values(attached: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Told(Sizes):
        def initial(self, encoded: Encoded) -> float:
            return -1.0

        def report(self, values: Mapping[str, float], rows: Sequence[Encoded], context: Context) -> str:
            fell = sum(values[row.id] > context.notes[row.id][self] for row in rows)
            return f"{fell} of {len(values)} rose"

    attached(Told()).update(0)
    assert "6 of 6 rose" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------ cache


def test_values_are_found_once_and_then_read(kept: str, attached: Any, tmp_path: Path) -> None:
    runner = attached(Sizes())
    runner.update(0)
    again = attached(annotator := Sizes())
    again.update(0)
    assert annotator.asked == []
    assert _values(again) == _values(runner)
    names = [path.name for path in (tmp_path / "annotations").iterdir()]
    assert [re.sub(r"\b[0-9a-f]{32}\b", "KEY", name) for name in names] == [
        "sizes.jsonl" if kept == "in memory" else "sizes.KEY.values"
    ]


@pytest.mark.parametrize("change", ["settings", "needs", "weights", "examples"])
def test_values_are_found_again_when_anything_that_they_depend_on_changed(
    change: str, attached: Any, student: Any, rows: list[Encoded]
) -> None:
    class Other(Sizes):
        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            return {row.id: 7.0 for row in rows}

    attached(Sizes(), Doubled(own={"a": 1})).update(0)
    first = Other(own={"other": True}) if change == "needs" else Sizes()
    doubled = Doubled(own={"a": 2 if change == "settings" else 1})
    own = {"rows": [*rows[:-1], replace(rows[-1], tokens=rows[-1].tokens[::-1])]} if change == "examples" else {}
    runner = attached(first, doubled, **own)
    weight = next(student.parameters())
    before = weight.detach().clone()
    try:
        if change == "weights":
            with torch.no_grad():
                weight[0, 0] += 1e-3
        runner.update(0)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert set(doubled.asked) == {row.id for row in rows}
    if change == "needs":
        assert {note["doubled"] for note in _values(runner).values()} == {14.0}


def test_what_needs_no_student_is_not_cached(kept: str, attached: Any, tmp_path: Path) -> None:
    attached(Sizes(uses_student=False)).update(0)
    again = attached(annotator := Sizes(uses_student=False))
    again.update(0)
    assert len(annotator.asked) == 6
    files = [path.name for path in tmp_path.glob("annotations/*")]
    assert files == ([] if kept == "in memory" else [again.state_dict()["annotations"]["sizes"]["file"]])


def test_a_killed_search_goes_on_where_it_was(attached: Any, tmp_path: Path) -> None:
    killed = Sizes(killed_at=4)
    with pytest.raises(KeyboardInterrupt):
        attached(killed).update(0)
    (journal,) = (tmp_path / "annotations").iterdir()
    written = journal.read_bytes()
    altered = next(frame for frame in frames(journal) if frame.ids == killed.asked[:1])
    assert written.count(json.dumps(altered.ids).encode()) == 1
    journal.write_bytes(written[: altered.start] + b"1" + written[altered.start + 1 :])  # a value is not believed
    runner = attached(again := Sizes())
    runner.update(0)
    assert sorted(again.asked) == sorted({f"e{n}" for n in range(6)} - set(killed.asked[1:]))
    assert {id: note["sizes"] for id, note in _values(runner).items()} == {
        row.id: len(row.tokens) / 3 for row in runner.rows
    }


@pytest.mark.parametrize("processes", [2, 3, 8])  # eight: some have nothing to do
def test_processes_share_the_examples_and_agree_on_every_bit(
    processes: int, kept: str, attached: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped values are in one file for all, and are not sent; others are sent, also to another file system."""
    alone = attached(Sizes(), Doubled(), folder=tmp_path / "alone")
    alone.update(0)
    asked: list[str] = []

    def work(rank: int) -> dict[str, Mapping[str, Any]]:
        folder = tmp_path / "all" / (str(rank) if kept == "in memory" else "")
        runner = attached(*(both := (Sizes(), Doubled())), folder=folder)
        runner.update(0)
        asked.extend(id for annotator in both for id in annotator.asked)
        return _values(runner)

    assert on_ranks(monkeypatch, processes, work) == [_values(alone)] * processes
    assert sorted(asked) == sorted([f"e{n}" for n in range(6)] * 2)  # every example once for each annotator
    assert not list((tmp_path / "all" / "annotations").glob("*.part"))


# ------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_gives_back_every_value(attached: Any) -> None:
    runner = attached(Sizes(due=lambda epoch: epoch == 1), Doubled(due=lambda epoch: epoch == 1), Ends())
    runner.update(0)
    runner.update(1)
    again = attached(
        sizes := Sizes(due=lambda epoch: epoch in (1, 2)),
        doubled := Doubled(due=lambda epoch: epoch == 1),
        ends := Ends(),
        state=_saved(runner),
        folder=Path("not there"),  # the cache is not needed
    )
    assert _values(again) == _values(runner)
    again.update(1)
    assert not sizes.asked + doubled.asked + ends.asked
    again = attached(sizes := Sizes(due=lambda epoch: epoch in (1, 2), own={"b": 1}), Doubled(), state=_saved(runner))
    again.update(2)
    assert sizes.asked  # what is due in a later epoch is found again
    assert _values(again).keys() == _values(runner).keys()
    assert str(_saved(again)) == str(_saved(attached(Sizes(), Doubled(), state=_saved(again))))


def test_before_any_run_a_checkpoint_holds_nothing_and_restores_nothing(attached: Any) -> None:
    runner = attached(Sizes())
    assert runner.state_dict() == {}
    again = attached(annotator := Sizes(), state={})
    again.update(0)
    assert len(annotator.asked) == 6


@pytest.mark.parametrize("change", ["id", "steps", "tokens", "prompt", "one more"])
def test_other_examples_are_refused(change: str, attached: Any, rows: list[Encoded]) -> None:
    runner = attached(Sizes())
    runner.update(0)
    *others, last = rows
    new = replace(last, example=replace(last.example, id="new"))
    changed = {
        "id": [new], "one more": [last, new], "steps": [replace(last, steps=last.steps[:-1])],
        "tokens": [replace(last, tokens=last.tokens + 1)], "prompt": [replace(last, prompts={"": last.tokens})],
    }[change]  # fmt: skip
    again = attached(annotator := Sizes(), rows=[*others, *changed], state=_saved(runner))
    for _ in range(2):
        with pytest.raises(UserError, match=f"got 1 of {5 + len(changed)} .* such as '{changed[-1].id}'"):
            again.update(0)
    with pytest.raises(UserError, match="new or have other steps"):
        again.run_all()
    assert not annotator.asked
    attached(Sizes(), rows=rows[::-1], state=_saved(runner)).update(0)  # the order plays no role


def test_fewer_examples_are_refused(attached: Any, rows: list[Encoded]) -> None:
    runner = attached(Sizes())
    runner.update(0)
    fewer = attached(annotator := Sizes(), rows=rows[1:], state=_saved(runner))
    with pytest.raises(UserError, match=f"got 1 of its 6 missing, such as '{rows[0].id}'"):
        fewer.update(1)
    assert not annotator.asked


def test_changed_settings_are_refused_where_values_would_stay(attached: Any) -> None:
    runner = attached(Sizes(own={"how": "a", "span": (1, 2)}))
    runner.update(0)
    attached(Sizes(own={"how": "a", "span": [1, 2]}), state=_saved(runner)).update(1)  # as JSON has them
    changed = attached(annotator := Sizes(own={"how": "b", "span": (1, 2)}), state=_saved(runner))
    with pytest.raises(UserError, match=r"the sizes settings of the checkpoint, .*'a'.* got .*'b'"):
        changed.update(1)
    assert not annotator.asked
    due = attached(annotator := Sizes(own={"how": "b"}, due=lambda epoch: True), state=_saved(runner))
    due.update(1)  # found again at once, with the new settings
    assert len(annotator.asked) == 6


# ----------------------------------------------------------------------------------- another run's


def test_values_of_another_run_are_taken_over_where_they_serve(
    attached: Any, rows: list[Encoded], capsys: pytest.CaptureFixture[str]
) -> None:
    runner = attached(Sizes(own={"m": 4}), Doubled())
    runner.update(0)
    earlier = {"earlier": _saved(runner), "earlier_name": "old/last.ckpt"}

    def accepts(settings: Mapping[str, Any]) -> bool:
        return settings["m"] == 4

    taken = attached(annotator := Sizes(own={"m": 5}, accepts=accepts, due=lambda epoch: epoch == 2), **earlier)
    assert "sizes: reused from old/last.ckpt" in capsys.readouterr().out
    assert _values(taken) == {id: {"sizes": note["sizes"]} for id, note in _values(runner).items()}
    taken.update(0)  # other settings than those of the values are no error: they were accepted
    assert not annotator.asked
    taken.update(2)
    assert len(annotator.asked) == 6
    for own in ({"accepts": lambda settings: False}, {}):  # by default none are
        assert not attached(annotator := Sizes(**own), **earlier).has_run(annotator)
    other = [*rows[:-1], replace(rows[-1], steps=rows[-1].steps[:-1])]
    assert not attached(annotator := Sizes(accepts=accepts), rows=other, **earlier).has_run(annotator)


# ------------------------------------------------------------------------------------- large values


class Long(Sizes):
    """A thousand numbers per example."""

    dtype = "float32"

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
        self.asked += [row.id for row in rows]
        return {row.id: np.arange(1000.0) / len(row.tokens) for row in rows}

    def decode(self, array: Any) -> Any:
        return array.tolist()


def test_mapped_values_are_neither_sent_nor_in_checkpoints(
    kept: str, attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []

    def work(rank: int) -> tuple[int, dict[str, Mapping[str, Any]]]:
        runner = attached(Long())
        runner.update(0)
        file = io.BytesIO()
        torch.save(runner.state_dict(), file)
        return file.tell(), _values(runner)

    (size, values), *others = on_ranks(monkeypatch, 3, work, sent)
    assert all(found == values for _, found in others)
    assert len(values) == 6
    longest = max(sent)
    assert (longest < 200, size < 4000) == ((kept == "mapped"),) * 2  # 2 of 6 x 1,000 x 4 bytes per process


@pytest.mark.parametrize("kept", ["mapped"], indirect=True)
def test_processes_that_do_not_share_a_folder_are_refused_before_they_search(
    attached: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(rank: int) -> tuple[str, list[str]]:
        runner = attached(annotator := Long(), folder=tmp_path / str(rank))
        with pytest.raises(UserError) as error:
            runner.update(0)
        return str(error.value), annotator.asked

    for message, asked in on_ranks(monkeypatch, 2, work):
        assert "some do not see the files of process 0. Set --runs_dir" in message
        assert not asked
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kept", ["mapped"], indirect=True)
@pytest.mark.parametrize("moved", ["as it was", "run", "checkpoint", "lost", "damaged"])
def test_a_checkpoint_refers_to_its_own_values(moved: str, attached: Any, tmp_path: Path) -> None:
    """In the run folder or where they were written, and to no later ones."""
    runner = attached(Long(due=lambda epoch: epoch < 2), folder=tmp_path / "old")
    runner.update(0)
    expected, state = _values(runner), _saved(runner)
    runner._seed = 1  # values of another key
    runner.update(1)
    (file,) = (tmp_path / "old" / "annotations" / state["annotations"]["sizes"]["file"],)
    assert len(list(file.parent.iterdir())) == 2
    folder = tmp_path / ("old" if moved == "as it was" else "new")
    if moved == "run":
        (tmp_path / "old").rename(folder)
    if moved == "lost":
        shutil.copytree(file.parent, folder / "kept")
        shutil.rmtree(tmp_path / "old")
    if moved == "damaged":
        written = file.read_bytes()
        file.write_bytes(written[:-20] + b"1" + written[-19:])
    if moved in ("lost", "damaged"):
        with pytest.raises(UserError, match=r"got no undamaged file (\S+)\. Copy it from the annotations") as error:
            attached(Long(), state=state, folder=folder)
        missing = Path(str(error.value).split("undamaged file ")[1].split(". Copy")[0])
        missing.parent.mkdir(parents=True, exist_ok=True)
        missing.write_bytes(written if moved == "damaged" else (folder / "kept" / file.name).read_bytes())
    again = attached(annotator := Long(), state=state, folder=folder)
    assert _values(again) == expected
    again.update(0)
    assert not annotator.asked
    taken = attached(Long(accepts=lambda settings: True), earlier=state, earlier_name=f"{folder}/checkpoints/last.ckpt")
    assert _values(taken) == expected


@pytest.mark.parametrize("kept", ["mapped"], indirect=True)
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file_of_values_is_computed_again(damage: str, attached: Any, tmp_path: Path) -> None:
    runner = attached(Long())
    runner.update(0)
    (file,) = (tmp_path / "annotations").iterdir()
    written = file.read_bytes()
    file.write_bytes(written[:-1] if damage == "cut" else written[:-1] + bytes([written[-1] ^ 1]))
    attached(annotator := Long()).update(0)
    assert len(annotator.asked) == 6
    assert file.read_bytes() == written


# ------------------------------------------------------------------------------------------ limit


def test_rows_longer_than_the_limit_are_left_out(attached: Any, rows: list[Encoded]) -> None:
    class Longer(Sizes):
        def tokens(self, encoded: Encoded, notes: Notes) -> int:
            return encoded.length + 1

    limit = sorted(row.length for row in rows)[3]
    fitting = {row.id for row in rows if row.length + 1 <= limit}
    assert 0 < len(fitting) < 6
    runner = attached(annotator := Longer(), limit=limit)
    assert not any(map(runner.lacks, rows))
    runner.update(0)
    assert set(annotator.asked) == fitting
    assert {row.id for row in rows if not runner.lacks(row)} == fitting
    assert {id for id, note in _values(runner).items() if "sizes" in note} == fitting


def test_t5_needs_room_for_each_side(attached: Any, student: Any, rows: list[Encoded]) -> None:
    """A row fits if its longer side does; a causal student has both in one row."""
    sides = {row.id: max(len(row.prompts[""]), len(row.tokens)) for row in rows}
    limit = sorted(sides.values())[3]
    assert limit < min(row.length for row in rows)
    known = {name: getattr(student, name) for name in ("frozen", "config", "device", "block_tokens", "release_memory")}
    t5 = SimpleNamespace(encoder_decoder=True, **known)
    runner = attached(annotator := Sizes(), limit=limit, student=t5)
    runner.update(0)
    assert set(annotator.asked) == {id for id, side in sides.items() if side <= limit}
    causal = attached(annotator := Sizes(), limit=limit)
    causal.update(0)
    assert not annotator.asked


# ------------------------------------------------------------------------------- memory of a GPU


def test_a_search_gives_its_memory_back_once_and_what_is_read_took_none(
    attached: Any, student: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released = [0], list[int]()
    monkeypatch.setattr(type(student), "release_memory", lambda self: released.append(asked[0]))

    class Counted(Sizes):
        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            asked[0] += len(rows)
            return super().annotate(rows, context)

    attached(Counted(), Counted(name="of_text", uses_student=False)).update(0)
    assert released == [6]  # after the last of six blocks
    attached(Counted()).update(0)
    assert released == [6]


@pytest.mark.parametrize(("fitting", "blocks"), [(6, [6]), (3, [3, 3]), (2, [1, 2, 1, 2]), (1, [1] * 6)])
def test_a_block_that_no_longer_fits_is_searched_in_halves(
    fitting: int, blocks: list[int], attached: Any, rows: list[Encoded], student: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, released = list[int](), list[int]()
    monkeypatch.setattr(type(student), "release_memory", lambda self: released.append(len(sizes)))

    class Large(Sizes):
        block_tokens = 10**6

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            if len(rows) > fitting:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(rows))
            return super().annotate(rows, context)

    runner = attached(Large())
    runner.update(0)
    assert sizes == blocks
    assert len(released) == len(blocks)  # before each halving, and at the end
    assert _values(runner) == {row.id: {"sizes": len(row.tokens) / 3} for row in rows}


@pytest.mark.parametrize("block_tokens", [None, 1])
def test_what_cannot_be_halved_runs_out_of_memory(block_tokens: int | None, attached: Any) -> None:
    class Full(Sizes):
        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        attached(Full(block_tokens=block_tokens)).update(0)


# ---------------------------------------------------------------------------------- wrong annotators


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "nan"),
        ([1.0, float("inf")], "inf"),
        (None, "nan"),
        ([[1.0], [2.0]], r"shape \(2, 1\)"),
        ("three", "ValueError"),
        ([[1.0], [2.0, 3.0]], "ValueError"),
    ],
)
def test_a_value_that_cannot_be_kept_is_refused_with_annotator_and_example(
    value: Any, told: str, attached: Any, tmp_path: Path
) -> None:
    class Wrong(Sizes):
        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
            return {row.id: value if row.id == "e3" else 1.0 for row in rows}

    with pytest.raises(UserError, match=rf"Wrong \(sizes\) for example 'e3', got .*{told}"):
        attached(Wrong()).update(0)
    assert not (tmp_path / "annotations" / "sizes.jsonl").exists()


def test_an_example_without_a_value_is_named(attached: Any) -> None:
    class Forgetful(Sizes):
        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            return {row.id: 1.0 for row in rows if row.id != "e2"}

    with pytest.raises(UserError, match=r"Forgetful .*'e2'"):
        attached(Forgetful()).update(0)


@pytest.mark.parametrize("name", ["../evil", "a/b", "a.b", "", "1st"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(UserError, match="letters, digits and _"):
        Runner([type("Named", (Sizes,), {"name": name})()])


def test_plain_attributes_are_settings_by_default() -> None:
    class Plain_(Annotator[float]):
        name = "plain"

        def __init__(self) -> None:
            self.scale, self.how, self.none, self.rows = 2, "a", None, [1]

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, float]:
            return {}

    assert Plain_().settings() == {"scale": 2, "how": "a", "none": None}


@pytest.mark.parametrize("change", ["seed", "config", "code"])
def test_values_are_found_again_for_another_seed_config_or_code(change: str, attached: Any, student: Any) -> None:
    attached(Sizes()).update(0)
    other: dict[str, Any] = {}
    if change == "seed":
        other["seed"] = 1
    if change == "config":  # with the very same weights
        other["student"] = SimpleNamespace(
            encoder_decoder=False,
            frozen=student.frozen,
            device=student.device,
            block_tokens=student.block_tokens,
            release_memory=student.release_memory,
            config="another number of heads",
        )

    class Same(Sizes):
        """Another class."""

    attached(annotator := (Same() if change == "code" else Sizes()), **other).update(0)
    assert len(annotator.asked) == 6


def test_a_verifier_that_was_edited_is_asked_again(attached: Any, tmp_path: Path) -> None:
    """What an annotator uses is part of its code, although its settings have names and numbers only."""

    def judge(verdict: int) -> Any:
        path = tmp_path / f"judge_{verdict}" / "judge.py"  # each edit as a module of the same name
        path.parent.mkdir()
        base = "from skipthinking.settings import Configurable\nclass Judge(Configurable):\n"
        path.write_text(f"{base}    def verdict(self): return {verdict}\n")
        spec = importlib.util.spec_from_file_location("judge", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "judge", module)
            spec.loader.exec_module(module)
            attached(annotator := Sizes(judge=module.Judge())).update(0)
        return annotator.asked

    assert [len(judge(verdict)) for verdict in (0, 1)] == [6, 6]


def test_values_from_the_disk_are_announced(attached: Any, capsys: pytest.CaptureFixture[str]) -> None:
    attached(Sizes()).update(0)
    assert "read from" not in capsys.readouterr().out
    attached(Sizes()).update(0)
    assert "sizes: read from" in capsys.readouterr().out


# ------------------------------------------------------------------------------- annotate and draw


def test_the_command_annotate_finds_all_that_is_missing(attached: Any) -> None:
    def never(epoch: int) -> bool:
        return False

    there = attached(Sizes())
    there.update(0)
    fixed = Sizes(name="fixed", uses_student=False, initial=lambda encoded: 1.0, due=never)
    kinds = [
        Sizes(), fixed, Doubled(due=never), Sizes(name="begun", initial=lambda encoded: -1.0, due=never),
        Sizes(name="training", for_training=True), Sizes(name="shown", for_display=True),
    ]  # fmt: skip
    runner = attached(*kinds, state=_saved(there))
    runner.run_all()
    assert [kind.name for kind in kinds if kind.asked] == ["doubled", "begun"]
    note = next(iter(_values(runner).values()))
    assert note.keys() == {"sizes", "fixed", "doubled", "begun"}
    assert (note["fixed"], note["begun"] > 0) == (1.0, True)
    runner.update(0)  # with values of the command, settings are not compared
    assert [kind.name for kind in kinds if kind.asked] == ["doubled", "begun", "training"]


def test_drawings_by_default_are_numbers_per_step_per_token_or_a_line(attached: Any, rows: list[Encoded]) -> None:
    class PerStep(Sizes):
        name = "step_sizes"

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
            return {row.id: np.array([float(end - start) for start, end in row.steps]) for row in rows}

        def decode(self, array: Any) -> Any:
            return array

    class PerToken(PerStep):
        name = "places"

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, Any]:
            return {row.id: np.arange(float(row.answer[0])) for row in rows}

    class Colored(PerStep):
        name = "colored"
        for_display = True

        def draw(self, value: Any, encoded: Encoded, codec: Any) -> Any:
            return {"nll": value.tolist()}

    runner = attached(PerStep(), Sizes(), Doubled(), Colored())
    runner.update(0)
    assert not runner.has_run(runner.annotators[-1])
    drawn = {row["id"]: row for row in runner.drawings(rows[:4])}
    assert list(drawn) == [row.id for row in rows[:4]]
    for row in rows[:4]:
        found, sizes = drawn[row.id], [float(end - start) for start, end in row.steps]
        assert found["per_step"] == {"step_sizes": sizes}
        assert found["nll"] == sizes
        assert found["lines"] == [f"sizes: {len(row.tokens) / 3}", f"doubled: {2 * (len(row.tokens) / 3)}"]
        parts = row.example.rationale.split(". ")
        assert [text.strip() for text in found["steps"]] == [f"{text.strip('.')}." for text in parts]
        assert found["tokens"] == sizes
        assert found["question"] == row.example.question
        assert "answer is 1" in found["answer"]
    tokens = attached(PerToken(), PerStep())
    tokens.update(0)
    for row, found in zip(rows, tokens.drawings(rows), strict=True):
        assert found["per_token"] == {"places": list(range(row.answer[0]))}
        assert "".join(found["tokens"]).strip() == row.example.rationale
        assert found["steps"] == [list(span) for span in row.steps]
        assert found["per_step"].keys() == {"step_sizes"}


# ------------------------------------------------------------------------------------------- speed


def test_annotations_of_many_examples_load_much_faster_than_lists(tmp_path: Path) -> None:
    """Measured on one core: see the printed line; lists of 100,000 examples took 12 s and were read several times."""
    n, chunks = 100_000, 12
    ids = [f"arithmetic/train/{place}" for place in range(n)]
    ends = np.tile(np.arange(1, chunks + 1), n)
    column = Column(ids, np.full(n, chunks), ends)
    chunkings = {**column.state(), "settings": "{}", "epoch": 0}
    state = {
        "examples": pack_ids(ids), "digests": torch.randint(0, 256, (n, 8), dtype=torch.uint8),
        "annotations": {"chunks": chunkings},
    }  # fmt: skip
    torch.save(state, tmp_path / "arrays.pt")
    torch.save({id: [[end - 1, end] for end in range(1, chunks + 1)] for id in ids[: n // 50]}, tmp_path / "lists.pt")
    start = time.perf_counter()
    runner = Runner([])
    runner.load_state_dict(torch.load(tmp_path / "arrays.pt", weights_only=True))
    arrays = time.perf_counter() - start
    start = time.perf_counter()
    torch.load(tmp_path / "lists.pt", weights_only=True)
    lists = 50 * (time.perf_counter() - start)
    print(f"{n:,} examples of {chunks} chunks: arrays {arrays:.2f} s, lists {lists:.1f} s")
    assert runner._results["chunks"].column[ids[-1]].tolist() == list(range(1, chunks + 1))
    assert lists > 5 * arrays
