"""STT: its schedule, its instances, and that it goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_notes import annotation, annotations
from interruptions import PulledPlugError
from searches import blindfold

from skipthinking.methods import STT
from skipthinking.methods.skip_thinking.skips import Skips
from skipthinking.records import UserError
from skipthinking.students import FromScratch

Run = Callable[..., int]
STT_RUN = ["--model", "STT", "--model.warmup_epochs", 2, "--model.gap_epochs", 1, "--trainer.max_epochs", 4]


def _state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def _same(one: Path, two: Path) -> bool:
    a, b = _state(one)["state_dict"], _state(two)["state_dict"]
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_no_skip_is_cwt(run: Run, tmp_path: Path) -> None:
    settings = ["--trainer.max_epochs", 3, "--model.student.config.n_layer", 1]
    assert run("fit", "--run", "cwt", "--model", "CWT", *settings) == 0
    own = ["--model", "STT", "--model.control", "no_skip", "--model.warmup_epochs", 1, "--model.gap_epochs", 0]
    assert run("fit", "--run", "stt", *own, *settings) == 0
    assert _same(tmp_path / "stt", tmp_path / "cwt")


@pytest.mark.parametrize("markers", [[], ["--model.stage_marker", "null"]])
def test_what_is_kept_is_what_is_trained_on(markers: list[str], run: Run, tmp_path: Path) -> None:
    shown = []
    make_instances = STT.make_instances

    def spy(self: Any, encoded: Any, notes: Any) -> Any:
        (found,) = make_instances(self, encoded, notes)
        text, kept, spans = (
            self.codec.tokenizer.decode(found.tokens),
            self.kept_chunks(encoded, notes),
            notes[self.chunks],
        )
        steps = [encoded.tokens[slice(*step)] for m in kept or () for step in encoded.steps[slice(*spans[m])]]
        answer = encoded.tokens[slice(*encoded.answer)]
        shown.append((notes.epoch, kept, text, self.codec.tokenizer.decode(np.concatenate([*steps, answer]))))
        return [found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STT, "make_instances", spy)
        words = ["--model.verifier", "verifiers.EveryOther", "--data.stage_sampling", "all"]
        assert run("fit", *STT_RUN, *words, *markers) == 0
    assert annotation(tmp_path / "tiny", "skips")
    late = [row for row in shown if row[0] >= 2]
    assert late
    for _, kept, text, plain in late:
        assert all(chunk % 2 == 0 for chunk in kept)
        assert ("[1]" in text) == (not markers)
        assert "[2]" not in text
        assert "Therefore, the answer is" in text
        assert re.sub(r" \[\d\]", "", text) == plain
    assert all(kept is None for epoch, kept, *_ in shown if epoch == 0)
    gaps = [kept for epoch, kept, *_ in shown if epoch == 1]
    assert any(len(kept) < 4 for kept in gaps)


@pytest.mark.parametrize("markers", [[], ["--model.stage_marker", "null"]])
def test_the_name_of_a_stage_after_a_random_gap_is_no_target(markers: list[str], run: Run) -> None:
    seen = []
    make_instances = STT.make_instances

    def spy(self: Any, encoded: Any, notes: Any) -> Any:
        (found,) = make_instances(self, encoded, notes)
        kept, chunks = self.kept_chunks(encoded, notes), notes[self.chunks]
        if kept is not None and notes.epoch == 1:
            seen.append((kept, len(chunks), self, encoded, found, chunks))
        return [found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STT, "make_instances", spy)
        words = ["--model.gap_shares", "[0.5]", "--data.stage_sampling", "all", "--evaluate", "false"]
        assert run("fit", *STT_RUN, *words, *markers) == 0
    assert seen
    for kept, chunks, method, encoded, found, spans in seen:
        inline, expected, before = method.codec.inline, [], -1
        for stage in [*kept, chunks]:
            if stage != before + 1 and stage == chunks:
                expected += inline(" Therefore")[:1].tolist()  # the answer's own name
            elif stage != before + 1:
                unmarked = encoded.tokens[encoded.steps[spans[stage][0]][0]]
                expected += [unmarked] if markers else inline(f" [{stage + 1}]").tolist()
            before = stage
        assert found.tokens[found.weights == 0].tolist() == expected
        assert len(method.stages.tokens(encoded, spans)) == chunks + 1


@pytest.mark.parametrize("step", [9, 12, 14, 18])
def test_resume_around_the_searches_changes_no_bit(step: int, run: Run, tmp_path: Path) -> None:
    # 5 steps an epoch: chunk search before step 5, gaps to step 10, skip search before step 11.
    words = [*STT_RUN, "--model.verifier", "verifiers.EveryOther", "--model.replay", 0.3,
             "--data.chunker", "SearchChunks", "--data.chunker.refresh_every_n_epochs", 1,
             "--model.warmup_epochs", 2, "--model.gap_epochs", 0]  # fmt: skip
    assert run("fit", "--run", "oracle", *words) == 0
    with pytest.raises(PulledPlugError):
        run("fit", *words, "--checkpoint_every", 2, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if step > 12:  # there is a checkpoint from after the skip search: it must not come again
            patch.setattr(Skips, "annotate", lambda *_: pytest.fail("searched again"))
        assert run("fit", *words, "--ckpt_path", "last") == 0
    assert _same(tmp_path / "tiny", tmp_path / "oracle")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("tiny", "oracle"))
    assert one["target_tokens"] == two["target_tokens"]


def test_the_search_reads_no_test_or_validation_example_and_no_ground_truth(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        searched = blindfold(patch, "solved", "skips")
        assert run("fit", *STT_RUN, "--model.verifier", "Rollout", "--model.gate", "student") == 0
    assert len(searched["skips"]) == len(searched["solved"]) == 20
    assert "skip search: 0 of 20 rationales are answered right by the student" in capsys.readouterr().out


def test_the_gate_is_a_setting_of_the_search() -> None:
    gates = []
    for gate in ("student", "teacher"):
        method = STT(student=FromScratch(), gate=gate)
        method.codec = SimpleNamespace(inline=lambda text: np.array([1]))
        gates.append({annotator.name: annotator.settings() for annotator in method.annotators()})
    assert [one["skips"]["gate"] for one in gates] == ["student", "teacher"]
    assert ["solved" in one for one in gates] == [True, False]


def test_controls_take_as_much(run: Run, tmp_path: Path) -> None:
    words = [*STT_RUN, "--model.verifier", "verifiers.EveryOther", "--evaluate", "false"]
    assert run("fit", "--run", "search", *words) == 0
    for control in ("random_skip", "first_skip"):
        assert run("fit", "--run", control, *words, "--model.control", control) == 0
    one, two, last = (annotation(tmp_path / name, "skips") for name in ("search", "random_skip", "first_skip"))
    for other in (two, last):
        assert {id: len(kept) for id, kept in one.items()} == {id: len(kept) for id, kept in other.items()}
        assert one != other
    for id, kept in last.items():
        assert kept == list(range(kept[0], kept[0] + len(kept))) if kept else not one[id]
        assert not kept or kept[-1] >= max(one[id][-1], two[id][-1])


def test_two_ranks_find_what_one_finds(run: Run, spawn: Callable[..., Any], tmp_path: Path) -> None:
    words = [*STT_RUN, "--evaluate", "false", "--data.chunker", "SearchChunks", "--model.gap_epochs", 0,
             "--data.chunker.refresh_every_n_epochs", 1, "--model.student.config.resid_pdrop", 0,
             "--model.student.config.embd_pdrop", 0, "--model.student.config.attn_pdrop", 0]  # fmt: skip
    assert run("fit", "--run", "one", *words, "--data.batch_size", 4) == 0
    spread = spawn("fit", "--run", "two", *words, "--data.batch_size", 2, "--trainer.devices", 2,
                   "--trainer.strategy", "ddp")  # fmt: skip
    assert spread.returncode == 0, spread.stderr
    one, two = annotations(tmp_path / "one"), annotations(tmp_path / "two")
    assert one["skips"] == two["skips"]
    assert one["chunks"] == two["chunks"]


def test_a_run_that_ends_with_its_warm_up_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--model", "STT", "--trainer.max_epochs", 6) == 2
    assert "warmup_epochs=6" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [{"gap_epochs": 9}, {"replay": 2.0}, {"gap_shares": [1.0]}, {"warmup_epochs": -1}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        STT(student=FromScratch(), **wrong)


def test_chunks_that_a_warm_up_found_are_judged_by_the_run_after_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Average ones are not what its student was trained on."""
    words = ["--data.chunker", "SearchChunks", "--data.chunker.n_chunks", 3, "--evaluate", "false"]
    first = ["--model", "CWT", "--data.chunker.refresh_every_n_epochs", 1]
    assert run("fit", "--run", "cwt", *words, *first, "--trainer.max_epochs", 3) == 0
    searched = annotation(tmp_path / "cwt", "chunks")
    then = ["--model", "STT", "--model.start_from", tmp_path / "cwt" / "checkpoints" / "last.ckpt",
            "--model.warmup_epochs", 0, "--model.gap_epochs", 0, "--trainer.max_epochs", 1]  # fmt: skip
    assert run("fit", "--run", "stt", *words, *then) == 0
    assert annotation(tmp_path / "stt", "chunks") == searched
    capsys.readouterr()
    assert run("fit", "--run", "other", *words, *then, "--data.chunker.n_chunks", 2) == 0
    assert "chunk search: none falls into the epochs of this run" in capsys.readouterr().out
    assert "chunks" not in annotations(tmp_path / "other")


@pytest.mark.parametrize(("gaps", "epochs"), [(2, range(5)), (0, range(6)), (6, range(1))])
def test_chunks_may_change_until_gaps_are_taught_or_skips_searched(gaps: int, epochs: range) -> None:
    method = STT(student=FromScratch(), warmup_epochs=6, gap_epochs=gaps)
    assert [epoch for epoch in range(9) if method.may_search_chunks(epoch)] == list(epochs)


def test_stt_may_start_from_a_checkpoint_of_cwt(run: Run, tmp_path: Path) -> None:
    assert run("fit", "--run", "cwt", "--model", "CWT", "--trainer.max_epochs", 2, "--evaluate", "false") == 0
    start = tmp_path / "cwt" / "checkpoints" / "last.ckpt"
    words = ["--model", "STT", "--model.start_from", start, "--model.warmup_epochs", 0, "--model.gap_epochs", 0]
    frozen = ["--model.optimizer.lr", 0.0, "--model.optimizer.weight_decay", 0.0, "--trainer.max_epochs", 1]
    assert run("fit", "--run", "stt", *words, *frozen, "--evaluate", "false") == 0
    assert _same(tmp_path / "stt", tmp_path / "cwt")  # nothing was learned: the student is the one it began with
    assert annotation(tmp_path / "stt", "skips")


def test_a_start_that_does_not_fit_is_reported(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--run", "cwt", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    start = ["--model.start_from", tmp_path / "cwt" / "checkpoints" / "last.ckpt"]
    assert run("fit", *start, "--model.student.config.n_embd", 32) == 2
    assert "model.start_from" in capsys.readouterr().err
    assert run("fit", "--model.start_from", "nowhere.ckpt") == 2
    assert "nowhere.ckpt" in capsys.readouterr().err


def test_an_adapter_starts_from_one_like_it(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With LoRA a checkpoint need not hold every weight; it must hold all that is trained."""
    short, lora = ["--trainer.max_epochs", 1, "--evaluate", "false"], ["--model.student.lora", "{r: 2}"]
    assert run("fit", "--run", "whole", *short) == 0
    assert run("fit", "--run", "adapter", *short, *lora) == 0
    for run_name, settings, code in (
        ("whole", lora, 2),
        ("adapter", [*lora, "--model.student.lora.target_modules", "[c_proj]"], 2),
        ("adapter", lora, 0),
    ):
        start = ["--model.start_from", tmp_path / run_name / "checkpoints" / "last.ckpt"]
        assert run("fit", "--run", f"from_{run_name}_{code}", *short, *start, *settings) == code
        assert (code == 0) == ("Expected an adapter" not in capsys.readouterr().err)


@pytest.mark.parametrize("method", ["STT", "CWT"])
def test_a_run_goes_on_with_the_steps_it_searched(
    method: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = STT_RUN if method == "STT" else ["--model", "CWT", "--data.chunker", "SearchChunks",
                                           "--data.chunker.refresh_every_n_epochs", 1]  # fmt: skip
    short = [*own, "--evaluate", "false"]
    assert run("fit", *short, "--trainer.max_epochs", 3) == 0
    on = ["--trainer.max_epochs", 4, "--ckpt_path", "last"]
    assert run("fit", *short, *on, "--data.splitter", "BlankLines") == 2
    assert "have other steps" in " ".join(capsys.readouterr().err.split())
    assert run("fit", *short, *on) == 0


def test_a_run_outlives_the_one_it_started_from(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--evaluate", "false", "--trainer.max_epochs", 1]
    assert run("fit", "--run", "first", *short) == 0
    start = ["--model.start_from", tmp_path / "first" / "checkpoints" / "last.ckpt"]
    assert run("fit", *short, *start) == 0
    shutil.rmtree(tmp_path / "first")
    assert run("test", config=tmp_path / "tiny" / "config.yaml") == 0
    assert run("fit", *start, "--trainer.max_epochs", 2, "--ckpt_path", "last", "--evaluate", "false") == 0


def test_an_adapter_goes_on_as_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--evaluate", "false", "--trainer.max_epochs", 1]
    assert run("fit", *short, "--model.student.lora", "{r: 2}") == 0
    assert run("fit", "--trainer.max_epochs", 2, "--ckpt_path", "last") == 2
    assert "model.student.lora" in capsys.readouterr().err
