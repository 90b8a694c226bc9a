"""LongCoT: its schedule, its pairs, and that it goes on after a kill as if nothing had happened."""

from __future__ import annotations

import csv
import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_notes import annotation
from conftest import ROOT
from interruptions import PulledPlugError
from searches import blindfold

from skipthinking.__main__ import main
from skipthinking.data.batches import collate
from skipthinking.methods import LongCoT
from skipthinking.methods.long_cot.annotators import Cuts, References
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students import FromScratch
from skipthinking.tasks import generate

Run = Callable[..., int]
CUT = ["--model", "LongCoT", "--model.cutter", "cutters.ByPlace", "--data.splitter", "BlankLines"]
TASK = "[{class_path: Generated, init_args: {task: long_arithmetic, split: train, size: 24}}]"
TEST = "{long: {class_path: Generated, init_args: {task: long_arithmetic, split: test, size: 5}}}"
LONG = [*CUT, "--data.train", TASK, "--data.test", TEST, "--data.val_size", 4, "--model.student.vocab_size", 800]
STAGES = [*LONG, "--model.warmup_epochs", 1, "--model.sft_epochs", 1, "--trainer.max_epochs", 3]
LLAMA = ["--model.student.architecture", "llama", "--model.student.config",
         "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"]  # fmt: skip
SGD = ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}"]
DROPPED, WHOLE = range(0, 20, 5), range(1, 20, 5)  # places of ByPlace among 20 examples


def _state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def _same(one: Path, two: Path) -> bool:
    a, b = _state(one)["state_dict"], _state(two)["state_dict"]
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _log(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines) if row.get(name)]


class Seen:
    """Every example with its instances, by epoch."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows: dict[int, list[tuple[Encoded, list[Instance], LongCoT]]] = {}
        make_instances = LongCoT.make_instances

        def spy(method: LongCoT, encoded: Any, notes: Any) -> list[Instance]:
            found = make_instances(method, encoded, notes)
            assert notes.epoch == method.trainer.current_epoch
            rows = self.rows.setdefault(notes.epoch, [])
            known = next((earlier for row, earlier, _ in rows if row.id == encoded.id), None)
            if known is None:
                rows.append((encoded, found, method))
            else:  # made again for its batch, and the same
                assert [one.tokens.tolist() for one in known] == [one.tokens.tolist() for one in found]
            return found

        patch.setattr(LongCoT, "make_instances", spy)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_full_traces_are_full_cot(run: Run, tmp_path: Path) -> None:
    data = ["--data.train", TASK, "--data.splitter", "BlankLines", "--data.val_size", 4, "--evaluate", "false",
            "--model.student.vocab_size", 800]  # fmt: skip
    assert run("fit", "--run", "full", *data) == 0
    own = ["--model", "LongCoT", "--model.cutter", "FullTrace", "--model.sft_epochs", 1, "--model.warmup_epochs", 1]
    assert run("fit", "--run", "long", *own, *data) == 0
    assert _same(tmp_path / "long", tmp_path / "full")


def test_what_is_kept_is_what_is_trained_on(run: Run, seen: Seen) -> None:
    marks = ["--model.open_thinking", " <think>", "--model.close_thinking", "</think>"]
    assert run("fit", *STAGES, *marks) == 0
    examples = {row.id: row for row in seen.rows[0][0][2].data.examples["train"]}
    for epoch, rows in seen.rows.items():
        assert len(rows) == 20
        for place, (encoded, found, method) in enumerate(rows):
            paragraphs = examples[encoded.id].rationale.split("\n\n")
            kept = len(paragraphs) // 2
            end = f"</think> Therefore, the answer is {examples[encoded.id].answer}."
            full = "<think> " + "\n\n".join(paragraphs) + end
            pruned = "<think> " + "\n\n".join(paragraphs[:kept]) + end
            texts = [method.codec.decode(side.tokens) for side in found]
            assert all(side.weights.all() for side in found)
            if epoch == 0:
                assert texts == [full]
            elif epoch == 1:
                assert texts == ([] if place in DROPPED else [full] if place in WHOLE else [pruned])
            else:
                assert texts == ([] if place in DROPPED or place in WHOLE else [pruned, full])
                assert [side.term for side in found] == [0, 1][: len(found)]


def test_what_became_of_the_traces_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", *STAGES, "--evaluate", "false") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "cut: 12 of 20 traces shortened (60.0%), 4 kept in full (20.0%), 4 dropped without a valid prefix (20.0%)"
        in out
    )
    assert "DPO: 12 pairs; 8 examples without two different traces" in out


@pytest.mark.parametrize("how", ["plain", "lora", "bf16-mixed"])
def test_dpo_starts_from_the_sft_student(how: str, run: Run, tmp_path: Path) -> None:
    """At its first step no side has moved from the reference, whatever the base of an adapter would say."""
    words = [*LONG, *LLAMA, *SGD, "--evaluate", "false", "--data.batch_size", 32, "--model.beta", 0.5]
    if how == "bf16-mixed":
        words += ["--trainer.precision", how]
    if how == "lora":
        words += ["--model.student.lora", "{r: 4}", "--model.optimizer.lr", 5.0]
    sft = ["--model.sft_epochs", 3, "--model.warmup_epochs", 0]
    assert run("fit", *words, *sft, "--trainer.max_epochs", 5) == 0
    margins, losses = (_log(tmp_path / "tiny", f"train/{name}") for name in ("margin", "loss"))
    assert len(margins) == 2
    assert abs(margins[0]) < 1e-3
    assert margins[1] > margins[0] + 1e-3
    assert losses[3] > math.log(2)  # and 0.3 times the likelihood
    sums = [pair for pair in annotation(tmp_path / "tiny", "reference").values() if pair is not None]
    assert len(sums) == 12
    assert all(full < pruned < 0 for pruned, full in sums)


def _random_batch(beta: float, sft_weight: float) -> tuple[LongCoT, Any, torch.Tensor]:
    rng = np.random.default_rng(0)
    rows = []
    for place, size in enumerate([3, 7, 8, 5, 2, 2]):
        fields = {"tokens": rng.integers(1, 50, size=size), "weights": np.ones(size, dtype=np.float32)}
        prompt, reference = rng.integers(1, 50, size=2), float(-rng.random() * 9)
        rows.append(Instance(id=str(place // 2), prompt=prompt, term=place % 2, reference=reference, **fields))
    method = LongCoT(student=FromScratch(), beta=beta, sft_weight=sft_weight)
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = collate(rows, pad_id=0, encoder_decoder=False, terms=2)
    nll_N = torch.from_numpy(rng.random(sum(len(row.tokens) for row in rows))).float().requires_grad_()
    return method, batch, nll_N


def test_loss_is_the_mean_over_pairs_and_a_share_of_the_chosen_likelihood() -> None:
    method, batch, nll_N = _random_batch(0.7, 0.3)
    at, sides = 0, []
    for length, prompt, reference in zip(batch.lengths_B, [2] * 6, batch.references_B, strict=True):
        part = nll_N.detach()[at : at + int(length) - prompt].tolist()
        at += len(part)
        sides.append((part, -sum(part) - float(reference)))
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    preference = sum(math.log(1 + math.exp(-0.7 * (chosen[1] - rejected[1]))) for chosen, rejected in pairs) / 3
    likelihood = sum(sum(chosen[0]) for chosen, _ in pairs) / sum(len(chosen[0]) for chosen, _ in pairs)
    assert method.micro_batch_loss(nll_N, batch).item() == pytest.approx(preference + 0.3 * likelihood, rel=1e-5)


@pytest.mark.parametrize(("beta", "sft_weight"), [(0.7, 0.0), (1e-9, 0.3)])
def test_each_term_alone_trains_what_it_is_meant_to(beta: float, sft_weight: float) -> None:
    method, batch, nll_N = _random_batch(beta, sft_weight)
    method.micro_batch_loss(nll_N, batch).backward()
    rejected_N = batch.terms_B[batch.where.rows_N] == 1
    assert bool((nll_N.grad[~rejected_N] > 1e-6).all())  # the chosen side is made likelier by both
    assert bool((nll_N.grad[rejected_N] < -1e-6).all()) == (beta > 1e-6)  # the rejected one less likely by DPO


def test_the_preference_gradient_is_that_of_a_second_model(run: Run, seen: Seen, tmp_path: Path) -> None:
    """Reference log-probabilities taken once equal those of a frozen copy of the SFT student, run beside it."""
    words = [*LONG, *LLAMA, "--evaluate", "false", "--model.sft_epochs", 1, "--model.scheduler.total_steps", 8]
    assert run("fit", "--run", "sft", *words, "--trainer.max_epochs", 1) == 0
    frozen = {name.removeprefix("student."): value for name, value in _state(tmp_path / "sft")["state_dict"].items()}
    assert run("fit", "--run", "both", *words, "--trainer.max_epochs", 2) == 0
    method = seen.rows[1][0][2]
    method.student.load_state_dict(frozen)
    for _, found, _ in seen.rows[1]:
        for side in found:
            with torch.no_grad():
                ids = torch.from_numpy(np.concatenate([side.prompt, side.tokens]))[None]
                shares = method.student.model(input_ids=ids).logits[0].double().log_softmax(-1)
            place = torch.arange(len(side.prompt) - 1, ids.shape[1] - 1)
            value = shares[place, torch.from_numpy(side.tokens)].sum().item()
            assert side.reference == pytest.approx(value, rel=1e-5)


def test_pairs_spread_over_steps_and_ranks_as_over_one_batch(
    run: Run, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    words = [*LONG, *LLAMA, *SGD, "--model.warmup_epochs", 0, "--model.sft_epochs", 1, "--trainer.max_epochs", 3,
             "--evaluate", "false", "--trainer.gradient_clip_val", 1.0]  # fmt: skip
    assert run("fit", "--run", "one", *words, "--data.batch_size", 10) == 0  # 12 pairs: 10 and 2
    half = ["--data.batch_size", 5]
    assert run("fit", "--run", "two", *words, *half, "--trainer.accumulate_grad_batches", 2) == 0
    spread = spawn("fit", "--run", "ranks", *words, *half, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    assert spread.returncode == 0, spread.stderr
    expected = _state(tmp_path / "one")
    for name in ("two", "ranks"):
        found = _state(tmp_path / name)
        assert annotation(tmp_path / name, "cuts") == annotation(tmp_path / "one", "cuts")
        for weight, value in expected["state_dict"].items():
            torch.testing.assert_close(found["state_dict"][weight], value, rtol=1e-4, atol=1e-6, msg=weight)


@pytest.mark.parametrize("resumed", [False, True])
def test_dpo_has_no_dropout(resumed: bool, run: Run, tmp_path: Path) -> None:
    """Its reference has none, so noise would count as a move away from it. SFT before it has dropout.

    A run is resumed in its second epoch of DPO (4 steps of SFT, then 3 an epoch), by a process that never saw SFT.
    """
    equal: dict[int, list[bool]] = {}
    step = LongCoT.training_step

    def spy(self: LongCoT, batch: Any, place: int) -> Any:
        assert self.student.training
        with torch.no_grad():
            one, two = (self.student.token_nll(batch) for _ in range(2))
        equal.setdefault(self.current_epoch, []).append(torch.equal(one, two))
        return step(self, batch, place)

    words = [*LONG, "--model.sft_epochs", 1, "--evaluate", "false"]
    if resumed:
        assert run("fit", *words, "--trainer.max_epochs", 2) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LongCoT, "training_step", spy)
        assert run("fit", *words, "--trainer.max_epochs", 3, *(["--ckpt_path", "last"] if resumed else [])) == 0
    assert equal.keys() == ({2} if resumed else {0, 1, 2})
    assert all(all(same) for epoch, same in equal.items() if epoch > 0)
    assert resumed or not any(equal[0])


def test_a_budget_of_tokens_holds_for_pairs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int, list[int]]] = []
    step = LongCoT.training_step

    def spy(self: Any, batch: Any, place: int) -> Any:
        shapes.append((*batch.tokens_BL.shape, batch.terms_B.tolist()))
        return step(self, batch, place)

    monkeypatch.setattr(LongCoT, "training_step", spy)
    words = ["--model.sft_epochs", 0, "--trainer.max_epochs", 1, "--evaluate", "false"]
    assert run("fit", *LONG, *words, "--data.batch_size", 99, "--data.batch_tokens", 1500) == 0
    assert sum(rows for rows, _, _ in shapes) == 24
    assert len(shapes) > 2
    for rows, width, terms in shapes:
        assert terms == [0, 1] * (rows // 2)
        assert rows * width <= 1500 or rows == 2
    assert max(rows for rows, _, _ in shapes) > 2


@pytest.mark.parametrize("step", [4, 7, 9, 11, 12])
def test_resume_around_the_cut_and_the_switch_changes_no_bit(
    step: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 steps of warm-up, 4 of SFT (16 traces), 3 of DPO (12 pairs), in batches of 4.
    words = [*STAGES, "--model.early_share", 0.5]
    assert run("fit", "--run", "oracle", *words) == 0
    assert _state(tmp_path / "oracle")["global_step"] == 12
    with pytest.raises(PulledPlugError):
        run("fit", *words, "--checkpoint_every", 2, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    with monkeypatch.context() as patch:
        if step >= 7:  # there is a checkpoint from after the cut: it must not come again
            patch.setattr(Cuts, "annotate", lambda *_: pytest.fail("cut again"))
        if step >= 11:
            patch.setattr(References, "annotate", lambda *_: pytest.fail("asked another reference"))
        assert run("fit", *words, "--ckpt_path", "last") == 0
    assert _same(tmp_path / "tiny", tmp_path / "oracle")
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("tiny", "oracle"))
    assert one["target_tokens"] == two["target_tokens"]


def test_a_trace_that_breaks_off_teaches_the_answer_but_not_to_stop(run: Run, seen: Seen) -> None:
    words = ["--model.warmup_epochs", 2, "--model.early_share", 0.5, "--trainer.max_epochs", 2, "--evaluate", "false"]
    assert run("fit", *LONG, *words) == 0
    early: dict[int, list[int | None]] = {0: [], 1: []}
    for epoch, steps in early.items():
        for encoded, (found,), method in seen.rows[epoch]:
            decode = method.codec.decode
            if found.weights.all():
                assert found.tokens.tolist() == encoded.tokens.tolist()
                steps.append(None)
                continue
            end = int(np.flatnonzero(found.weights == 0)[0])  # what is no target comes right after the last step
            steps.append([stop for _, stop in encoded.steps].index(end) + 1)
            assert found.tokens[:end].tolist() == encoded.tokens[:end].tolist()
            assert found.tokens[end:].tolist() == encoded.tokens[slice(*encoded.answer)].tolist()
            assert decode(found.tokens[found.weights == 0]) == "Therefore, the answer is"
            assert found.weights[:end].all()
    assert 10 <= sum(step is not None for steps in early.values() for step in steps) <= 30  # of 40
    assert len({step for steps in early.values() for step in steps}) > 3  # anywhere
    assert early[0] != early[1]


def test_dpo_by_itself_takes_over_the_cuts(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sft = ["--model.sft_epochs", 1, "--trainer.max_epochs", 1, "--evaluate", "false"]
    assert run("fit", "--run", "sft", *LONG, *sft) == 0
    start = tmp_path / "sft" / "checkpoints" / "last.ckpt"
    alone = ["--model.sft_epochs", 0, "--trainer.max_epochs", 1, "--model.start_from", start, "--evaluate", "false"]
    with monkeypatch.context() as patch:
        patch.setattr(Cuts, "annotate", lambda *_: pytest.fail("cut again"))
        assert run("fit", "--run", "dpo", *LONG, *alone) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cuts: reused from" in out
    assert out.count("cut: 12 of 20 traces shortened") == 2  # by the first run, and of what the second took over
    assert annotation(tmp_path / "dpo", "cuts") == annotation(tmp_path / "sft", "cuts")
    other = ["--model.cutter", "FirstAnswer", "--model.cutter.init_args", "{}"]
    assert run("fit", "--run", "other", *LONG, *alone, *other) == 0  # another cutter cuts by itself
    assert "cuts: reused from" not in capsys.readouterr().out
    assert run("fit", "--run", "finer", *LONG, *alone, "--data.splitter", "Sentences") == 0  # so do other steps
    assert "cuts: reused from" not in capsys.readouterr().out


def test_a_run_goes_on_with_the_traces_it_cut(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sft = ["--model.sft_epochs", 2, "--evaluate", "false"]
    assert run("fit", *LONG, *sft, "--trainer.max_epochs", 1) == 0
    on = ["--trainer.max_epochs", 2, "--ckpt_path", "last"]
    assert run("fit", *LONG, *sft, *on, "--data.splitter", "Sentences") == 2
    assert "20 of 20 that are new or have other steps" in " ".join(capsys.readouterr().err.split())
    other = ["--model.cutter", "FirstAnswer", "--model.cutter.init_args", "{}"]
    assert run("fit", *LONG, *sft, *on, *other) == 2
    err = capsys.readouterr().err
    assert "Expected the cuts settings of the checkpoint, {'cutter': 'ByPlace'" in err
    assert "got {'cutter': 'FirstAnswer'" in err
    assert run("fit", *LONG, *sft, *on) == 0


@pytest.mark.parametrize("cutter", ["cutters.Indulgent", "cutters.IndulgentRandom"])
def test_the_cut_reads_no_test_or_validation_example_and_no_ground_truth(cutter: str, run: Run) -> None:
    """The student's answers are graded, and then all count as right, so that the run has traces to go on with."""
    with pytest.MonkeyPatch.context() as patch:
        searched = blindfold(patch, "cuts")
        words = ["--model.cutter", cutter, "--model.sft_epochs", 1, "--model.warmup_epochs", 0]
        assert run("fit", *LONG, *words, "--trainer.max_epochs", 1) == 0
    assert len(searched["cuts"]) == 20


def test_encoder_decoder_students_are_cut_and_preferred_too(run: Run, tmp_path: Path) -> None:
    config = "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2}"
    words = [
        "--model.cutter",
        "cutters.Indulgent",
        "--model.student.architecture",
        "t5",
        "--model.student.config",
        config,
    ]
    assert run("fit", *LONG, *words, "--model.sft_epochs", 1, "--trainer.max_epochs", 2, "--evaluate", "false") == 0
    assert set(annotation(tmp_path / "tiny", "cuts").values()) == {1}
    assert len(_log(tmp_path / "tiny", "train/margin")) == 5


def encoded_text(method: LongCoT, id: str) -> str:
    return next(row.rationale for row in method.data.examples["train"] if row.id == id)


def test_annotate_writes_the_cuts_of_the_run_and_show_draws_them(
    run: Run, seen: Seen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = ["--model.open_thinking", " <think>", "--model.close_thinking", "</think>"]
    assert run("fit", *STAGES, *marks, "--evaluate", "false") == 0
    assert run("annotate", *STAGES, *marks) == 0
    cuts, pairs = (annotation(tmp_path / "tiny", name) for name in ("cuts", "reference"))
    path = tmp_path / "tiny" / "annotations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 20
    assert [row["cut"] for row in rows] == [cuts[row["id"]] for row in rows]
    assert [row["pair"] and tuple(row["pair"]) for row in rows] == [pairs[row["id"]] for row in rows]
    assert {row["pair"] is None for row in rows} == {True, False}
    for row, (encoded, (whole,), method) in zip(rows[:3], seen.rows[0], strict=False):
        assert row["id"] == encoded.id
        assert row["kept"] == list(range(row["cut"] or 0))
        assert " ".join(row["steps"]).split() == encoded_text(method, encoded.id).split()
        with torch.no_grad():
            ids = torch.from_numpy(np.concatenate([whole.prompt, whole.tokens]))
            shares = method.student.eval().model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        opening = len(method.codec.inline(" <think>")) + len(whole.prompt)
        for nll, (first, end) in zip(row["nll"], encoded.steps, strict=True):
            place = torch.arange(opening + first, opening + end)
            assert nll == pytest.approx(-shares[place - 1, ids[place]].mean().item(), abs=1e-4)
    capsys.readouterr()
    assert main(["show", "--file", str(path), "--n", "3"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for place, text in enumerate(["no valid prefix, dropped", "the first ", "the first "]):
        assert f"{rows[place]['id']} ({len(rows[place]['steps'])} steps, {text}" in out
    gone = [len(rows[0]["steps"]), 0, len(rows[2]["steps"]) - rows[2]["cut"]]
    assert out.count("cut off") == sum(gone)
    assert out.count("DPO pair") == 1
    chosen, rejected = rows[2]["pair"]
    assert f"{chosen:.1f} as cut (chosen), {rejected:.1f} whole" in out


# ----------------------------------------------------------------------------------------------- bad input


def test_a_student_without_a_valid_prefix_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    binary = ["--model.cutter", "BinaryCut", "--model.cutter.init_args", "{answer_tokens: 1}"]
    assert run("fit", *LONG, *binary, "--trainer.max_epochs", 1) == 2
    err = capsys.readouterr().err
    assert "none of 20 by BinaryCut" in err
    assert "model.warmup_epochs" in err


def test_dpo_without_a_pair_is_refused_before_sft(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.cutter", "FullTrace", "--model.cutter.init_args", "{}", "--model.sft_epochs", 1]
    assert run("fit", *LONG, *words, "--trainer.max_epochs", 2) == 2
    err = capsys.readouterr().err
    assert "Set trainer.max_epochs: 1, " in err
    assert "shortened traces for DPO" in err


def test_a_run_that_ends_within_its_warm_up_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *LONG, "--model.warmup_epochs", 3, "--trainer.max_epochs", 2) == 2
    assert "warmup_epochs=3" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"warmup_epochs": -1},
        {"sft_epochs": -1},
        {"beta": 0.0},
        {"sft_weight": -0.1},
        {"early_share": 1.5},
        {"beta": math.inf},
        {"beta": math.nan},
        {"sft_weight": math.nan},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        LongCoT(student=FromScratch(), **wrong)


# ------------------------------------------------------------------------------------------ the ground truth


def test_cuts_are_measured_against_the_generators_own_prefix(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(ROOT / "experiments" / "cuts.py"))
    known = {row.id: row for row in generate("long_arithmetic", split="train", size=24)}
    right = {id: row.meta["sufficient"] for id, row in known.items()}
    for row in known.values():  # the paragraph that is the last sufficient one is the first that has the last result
        paragraphs = row.rationale.split("\n\n")
        assert f"= {row.answer} " in paragraphs[row.meta["sufficient"] - 1]
        assert len(paragraphs) > row.meta["sufficient"]
    found = script["nearness"](right, known)
    assert (found["exact"], found["distance"], found["dropped"]) == (1.0, 0.0, 0.0)
    first, second, third, *rest = right
    shifted = {first: None, second: right[second] - 1, third: right[third] + 3, **{id: right[id] for id in rest[:2]}}
    found = script["nearness"](shifted, known)
    assert (found["n"], found["dropped"], found["exact"]) == (5, pytest.approx(0.2), 0.5)
    assert (found["too short"], found["too long"]) == (0.25, 0.25)
    assert (found["distance"], found["absolute"]) == (0.5, 1.0)  # -1, 3, 0, 0
    # What a run leaves and what `annotate` writes of it are read alike.
    assert run("fit", *LONG, "--model.sft_epochs", 1, "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    assert run("annotate", *LONG, "--model.sft_epochs", 1, "--trainer.max_epochs", 1) == 0
    files = [tmp_path / "tiny" / "annotations" / "cuts.jsonl", tmp_path / "tiny" / "annotations.jsonl"]
    assert script["read_cuts"](files[0]) == script["read_cuts"](files[1])
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["cuts.py", *map(str, files), "--size", "24"])
    script["main"]()
    head, *lines = capsys.readouterr().out.splitlines()
    assert "too long" in head
    assert [line.split()[1:3] for line in lines] == [["20", "20.0%"]] * 2
