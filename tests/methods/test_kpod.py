"""KPOD: its laws, its one command, and that it goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_notes import annotation
from interruptions import PulledPlugError
from searches import blindfold

from skipthinking.annotate.annotator import Notes
from skipthinking.methods import KPOD, KeypointWeighter
from skipthinking.methods.kpod.difficulty import Difficulty
from skipthinking.methods.kpod.given import GivenSteps
from skipthinking.methods.kpod.schedule import Schedule, hardness
from skipthinking.methods.kpod.weighter import LearnedWeights
from skipthinking.methods.kpod.weights import TokenWeights
from skipthinking.records import UserError
from skipthinking.students import FromScratch
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate

Run = Callable[..., int]
OWN = ["--model", "KPOD", "--trainer.max_epochs", 4, "--model.weighter_epochs", 2]
STEPS = 20  # 20 training examples in batches of 4, 4 epochs


def _state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def _same(one: Path, two: Path) -> bool:
    a, b = _state(one)["state_dict"], _state(two)["state_dict"]
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token weights of the tiny data, from a run of the weighter by itself."""
    from conftest import TINY

    from skipthinking.__main__ import main

    folder = tmp_path_factory.mktemp("weights")
    words = ["--model", "KeypointWeighter", "--trainer.max_epochs", "2", "--evaluate", "false"]
    assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *words]) == 0
    rows = [json.loads(line) for line in (folder / "tiny" / "annotations.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    for row in rows:  # what two epochs learned is near to nothing
        row["weights"] = [round(float(weight), 3) for weight in rng.uniform(0.05, 1, len(row["weights"]))]
    path = folder / "weights.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _ones(weights: Path, tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in weights.read_text().splitlines()]
    path = tmp_path / "ones.jsonl"
    path.write_text("".join(json.dumps({**row, "weights": [1.0] * len(row["ids"])}) + "\n" for row in rows))
    return path


# ------------------------------------------------------------------------------------------------ laws


def test_weights_of_one_and_nothing_given_are_full_cot(run: Run, weights: Path, tmp_path: Path) -> None:
    assert run("fit", "--run", "cot", "--trainer.max_epochs", 2) == 0
    words = ["--model", "KPOD", "--trainer.max_epochs", 2, "--model.progressive", "false"]
    assert run("fit", "--run", "ones", *words, "--model.weights", _ones(weights, tmp_path)) == 0
    assert _same(tmp_path / "ones", tmp_path / "cot")
    assert run("fit", "--run", "bare", *words, "--model.weigh_tokens", "false") == 0  # needs no weights at all
    assert _same(tmp_path / "bare", tmp_path / "cot")
    assert not (tmp_path / "bare" / "weighter").exists()
    assert run("fit", "--run", "flat", *words, "--model.weights", weights, "--model.floor", 1) == 0
    assert _same(tmp_path / "flat", tmp_path / "cot")


def test_instances_give_steps_weigh_tokens_and_count_the_answer_whole() -> None:
    from skipthinking.data.encoding import Codec, Plain
    from skipthinking.data.steps import Sentences

    student: Any = FromScratch(vocab_size=600)
    rows = generate("coin_flip", split="train", size=3)
    student.prepare([f"{row.question} {row.rationale}" for row in rows])
    method, raised = KPOD(student=student), KPOD(student=student, floor=0.3)
    for one in (method, raised):
        one.token_weights = TokenWeights(Path("weights.jsonl"))
        one.given = GivenSteps(one.schedule, Difficulty(one.token_weights), one.clusters, one.glove)
    for row in Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences()).encode(rows):
        weights = np.linspace(0.1, 0.9, row.answer[0], dtype=np.float32)
        for given in range(len(row.steps) + 1):
            notes = Notes(epoch=5, values={"weights": weights, "given": np.array([len(row.steps), given])})
            (found,) = method.make_instances(row, notes)  # from the last stage on its number holds
            start = row.steps[given - 1][1] if given else 0
            assert (found.weights[:start] == 0).all()
            assert (found.weights[start : row.answer[0]] == weights[start:]).all()
            assert (found.weights[row.answer[0] :] == 1).all()
            assert found.tokens.tolist() == row.tokens.tolist()
            (higher,) = raised.make_instances(row, notes)
            asked = found.weights > 0  # what is given has no loss, whatever the floor
            assert higher.weights == pytest.approx(np.where(asked, 0.3 + 0.7 * found.weights, 0))


def test_what_is_trained_on_is_what_the_schedule_says(run: Run, weights: Path, tmp_path: Path) -> None:
    shown = []
    make_instances = KPOD.make_instances

    def spy(self: Any, encoded: Any, notes: Any) -> Any:
        (found,) = make_instances(self, encoded, notes)
        first = int(np.flatnonzero(found.weights)[0])
        starts = [start for start, _ in encoded.steps]
        shown.append((notes.epoch, encoded.id, starts.index(first) if first in starts else len(starts)))
        return [found]

    words = ["--model.weights", weights, "--trainer.max_epochs", 7, "--evaluate", "false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KPOD, "make_instances", spy)
        assert run("fit", *OWN, *words) == 0
    plan, difficulty = annotation(tmp_path / "tiny", "given"), annotation(tmp_path / "tiny", "difficulty")
    assert {len(stages) for stages in plan.values()} == {4}  # half of 7 epochs: stages 0 to 3, the last of them bare
    for epoch, id, given in shown:
        assert given == plan[id][min(epoch, 3)]
    assert all((np.diff(stages) <= 0).all() and stages[-1] == 0 for stages in plan.values())
    total = sum(float(steps.sum()) for steps in difficulty.values())
    for stage in range(4):
        asked = sum(hardness(difficulty[id], plan[id][stage]) for id in plan)
        assert asked <= Schedule(stages=3).budget(stage, total) * (1 + 1e-9)


def test_a_permuted_data_set_has_the_same_annotations(run: Run, weights: Path, tmp_path: Path) -> None:
    rows = generate("coin_flip", split="train", size=24)
    for name, order in {"one": rows, "two": rows[::-1]}.items():
        lines = [json.dumps({k: getattr(r, k) for k in ("id", "question", "rationale", "answer")}) for r in order]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        source = [{"class_path": "Files", "init_args": {"path": str(tmp_path / f"{name}.jsonl"), "task": "coin_flip"}}]
        tokenizer = ["--model.student.tokenizer", tmp_path / "one" / "student"] if name == "two" else []
        words = ["--data.train", json.dumps(source), "--data.val_size", 0, "--run", name, *tokenizer]
        own = ["--model", "KPOD", "--trainer.max_epochs", 4, "--model.weigh_tokens", "false"]
        assert run("fit", *own, "--model.weigh_difficulty", "false", *words) == 0
    for name in ("given", "difficulty"):
        one, two = (annotation(tmp_path / run_, name) for run_ in ("one", "two"))
        assert one.keys() == two.keys()
        assert all((one[id] == two[id]).all() for id in one)


def test_rationales_of_one_step_and_more_stages_than_steps_train(run: Run, tmp_path: Path) -> None:
    lines = [{"question": f"What is {n} + 1?", "rationale": f"It is {n + 1}.", "answer": str(n + 1)} for n in range(9)]
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = [{"class_path": "Files", "init_args": {"path": str(tmp_path / "short.jsonl"), "task": "gsm8k"}}]
    words = ["--data.train", json.dumps(source), "--data.val_size", 0, "--model.stages", 6, "--trainer.max_epochs", 8]
    assert run("fit", "--model", "KPOD", "--model.weighter_epochs", 1, *words, "--evaluate", "false") == 0
    plan = annotation(tmp_path / "tiny", "given")
    assert {len(stages) for stages in plan.values()} == {7}
    assert {int(stages[0]) for stages in plan.values()} == {1}


def test_no_part_reads_the_ground_truth_or_an_example_that_is_not_for_training(run: Run) -> None:
    with pytest.MonkeyPatch.context() as patch:
        searched = blindfold(patch, "weights", "difficulty", "given")
        assert run("fit", *OWN) == 0
    assert {name: len(ids) for name, ids in searched.items()} == {"weights": 20, "difficulty": 20, "given": 20}


# -------------------------------------------------------------------------------------- one command


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    from conftest import TINY

    from skipthinking.__main__ import main

    folder = tmp_path_factory.mktemp("oracle")
    assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *map(str, OWN)]) == 0
    return folder / "tiny"


def test_one_command_leaves_every_part(oracle: Path) -> None:
    weighter = oracle / "weighter"
    assert {path.name for path in weighter.iterdir()} >= {"config.yaml", "metrics.csv", "annotations.jsonl"}
    rows = [json.loads(line) for line in (weighter / "annotations.jsonl").read_text().splitlines()]
    assert len(rows) == 24  # validation examples too: another seed may train on them
    assert "train/mean_weight" in (weighter / "metrics.csv").read_text().splitlines()[0]
    assert _state(oracle)["global_step"] == STEPS
    assert json.loads((oracle / "summary.json").read_text())["method"] == "KPOD"


@pytest.mark.parametrize("step", [1, 4, 10])
def test_resume_after_a_kill_in_the_weighter_changes_no_bit(
    step: int, oracle: Path, run: Run, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    """5 steps an epoch: in its first epoch, right before a checkpoint, and at its end."""
    end = json.dumps({"class_path": "interruptions.Breakdown", "init_args": {"step": step, "how": "kill"}})
    words = [*OWN, "--checkpoint_every", 2]
    if step == 4:
        killed = spawn("fit", *words, "--model.weighter.scheduler", end)
        assert killed.returncode == -9, killed.stderr
    else:
        with pytest.raises(PulledPlugError):
            run("fit", *words, "--model.weighter.scheduler", end.replace("kill", "crash"))
    assert not (tmp_path / "tiny" / "weighter" / "annotations.jsonl").exists()
    assert run("fit", *words, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


def test_resume_after_a_kill_between_the_parts_changes_no_bit(oracle: Path, run: Run, tmp_path: Path) -> None:
    """The weighter is trained, its annotation is not written; then it is, and the difficulty or the schedule is not."""

    def pull(*_: Any) -> None:
        raise PulledPlugError

    for kind in (LearnedWeights, Difficulty, GivenSteps):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "annotate", pull)
            with pytest.raises(PulledPlugError):
                run("fit", *OWN, "--ckpt_path", "last")
    assert run("fit", *OWN, "--ckpt_path", "last") == 0
    _assert_same(tmp_path / "tiny", oracle)


@pytest.mark.parametrize("step", [1, 5, 9, 16])
def test_resume_after_a_kill_in_the_training_changes_no_bit(step: int, oracle: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(PulledPlugError):
        run("fit", *OWN, "--checkpoint_every", 2, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if step > 1:  # there is a checkpoint: nothing is computed again, even where its file is gone
            shutil.rmtree(tmp_path / "tiny" / "weighter")
            for kind in (TokenWeights, Difficulty, GivenSteps):
                patch.setattr(kind, "annotate", lambda *_: pytest.fail("annotated again"))
        assert run("fit", *OWN, "--ckpt_path", "last") == 0
    if step > 1:
        shutil.copytree(oracle / "weighter", tmp_path / "tiny" / "weighter")
    _assert_same(tmp_path / "tiny", oracle)


def _assert_same(ours: Path, oracle: Path) -> None:
    assert _state(ours)["global_step"] == STEPS
    assert _same(ours, oracle)
    assert (ours / "weighter/annotations.jsonl").read_text() == (oracle / "weighter/annotations.jsonl").read_text()
    for name in ("weights", "difficulty", "given"):
        one, two = annotation(ours, name), annotation(oracle, name)
        assert one.keys() == two.keys()
        assert all((one[id] == two[id]).all() for id in one)
    assert (ours / "predictions.jsonl").read_text() == (oracle / "predictions.jsonl").read_text()
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (ours, oracle))
    assert one["target_tokens"] == two["target_tokens"]


def test_weights_of_another_run_give_the_same_run(oracle: Path, run: Run, tmp_path: Path) -> None:
    """Whether they are learned by the same command or before it."""
    assert run("fit", *OWN, "--model.weights", oracle / "weighter" / "annotations.jsonl") == 0
    assert not (tmp_path / "tiny" / "weighter").exists()
    assert _same(tmp_path / "tiny", oracle)


def test_a_run_that_was_killed_is_gone_on_with_only_when_asked(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = json.dumps({"class_path": "interruptions.Breakdown", "init_args": {"step": 5}})
    with pytest.raises(PulledPlugError):
        run("fit", *OWN, "--model.weighter.scheduler", end, "--checkpoint_every", 2)
    assert run("fit", *OWN) == 2
    assert "--ckpt_path last" in capsys.readouterr().err


def test_two_ranks_learn_what_one_learns(run: Run, spawn: Callable[..., Any], tmp_path: Path) -> None:
    plain = [f"--model.student.config.{name}" for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
    words = [*OWN, "--evaluate", "false", *[word for name in plain for word in (name, 0)]]
    words += ["--model.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.1}}"]
    words += ["--model.weighter.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.001}}"]
    words += ["--model.weighter.warmup_epochs", 1]
    assert run("fit", "--run", "one", *words, "--data.batch_size", 4) == 0
    spread = spawn("fit", "--run", "two", *words, "--data.batch_size", 2, "--trainer.devices", 2,
                   "--trainer.strategy", "ddp")  # fmt: skip
    assert spread.returncode == 0, spread.stderr
    one, two = (annotation(tmp_path / name, "weights") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for id, expected in one.items():
        np.testing.assert_allclose(two[id], expected, rtol=1e-3)
    plans = [annotation(tmp_path / name, "given") for name in ("one", "two")]
    assert all((plans[0][id] == plans[1][id]).all() for id in plans[0])
    a, b = (_state(tmp_path / name)["state_dict"] for name in ("one", "two"))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_other_architectures_train(architecture: str, run: Run) -> None:
    config = {
        "t5": "{d_model: 16, d_kv: 8, d_ff: 32, num_layers: 1, num_heads: 2}",
        "llama": "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}",
    }[architecture]
    student = ["--model.student.architecture", architecture, "--model.student.config", config]
    assert run("fit", *OWN, *student) == 0


def test_lora_trains_and_another_transformer_may_learn_the_weights(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--run", "base", "--trainer.max_epochs", 1) == 0
    base = tmp_path / "base" / "student"
    student = {"class_path": "Pretrained", "init_args": {"name": str(base), "lora": {"r": 2}}}
    words = [*OWN, "--model.student", json.dumps(student)]
    assert run("fit", "--run", "lora", *words) == 0
    small = {"class_path": "FromScratch", "init_args": {"architecture": "gpt2", "tokenizer": str(base),
             "config": {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 512}}}  # fmt: skip
    assert run("fit", "--run", "other", *words, "--model.predictor", json.dumps(small)) == 0
    held = _state(tmp_path / "other" / "weighter")["state_dict"]
    assert held["generator.mask"].shape == (8,)
    assert not any("predictor" in name for name in _state(tmp_path / "other")["state_dict"])
    train_tokenizer(["Some other text."], 512, 10).save_pretrained(tmp_path / "strange")
    small["init_args"]["tokenizer"] = str(tmp_path / "strange")  # type: ignore[index]
    assert run("fit", "--run", "strange", *words, "--model.predictor", json.dumps(small)) == 2
    assert "model.predictor" in capsys.readouterr().err
    assert not (tmp_path / "strange" / "weighter").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--model.weigh_tokens", "false"],
        ["--model.weigh_difficulty", "false"],
        ["--model.diversity", 0],
        ["--model.progressive", "false"],
    ],
)
def test_every_ablation_is_a_setting_that_changes_the_student(
    words: list[Any], run: Run, weights: Path, tmp_path: Path
) -> None:
    # With 8 epochs, so 4 stages, the budget of a stage is too small for all questions: diversity decides which.
    own = ["--model", "KPOD", "--model.weights", weights, "--trainer.max_epochs", 8, "--evaluate", "false"]
    assert run("fit", "--run", "complete", *own) == 0
    assert run("fit", "--run", "less", *own, *words) == 0
    assert not _same(tmp_path / "complete", tmp_path / "less")


def test_glove_vectors_cluster_the_questions(run: Run, weights: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = sorted({word for row in generate("coin_flip", split="train", size=24) for word in row.question.split()})
    lines = [f"{word.lower().strip('.?')} {' '.join(map(str, rng.random(4)))}" for word in words]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    assert run("fit", *OWN, "--model.weights", weights, "--model.glove", tmp_path / "glove.txt") == 0


# ------------------------------------------------------------------------------- annotations and show


def test_annotate_writes_the_schedule_and_show_draws_it(
    oracle: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from skipthinking.__main__ import main

    shutil.copytree(oracle, tmp_path / "tiny")
    assert run("annotate", *OWN) == 0
    path = tmp_path / "tiny" / "annotations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    plan = annotation(oracle, "given")
    assert {row["id"] for row in rows} == plan.keys()
    assert all(row["given"] == plan[row["id"]].tolist() for row in rows)
    capsys.readouterr()
    assert main(["show", "--file", str(path), "--n", "1"]) == 0
    out = capsys.readouterr().out
    assert rows[0]["id"] in out
    assert "difficulty" in out
    assert "from stage 0" in out
    assert "token weight: up to 0.1" in out
    assert main(["show", "--file", str(oracle / "weighter" / "annotations.jsonl"), "--n", "1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join("".join(rows[0]["tokens"]).split()[:8]) in text


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.clusters", 21], "model.clusters=21"),
        (["--model.clusters", 0], "model.clusters=0"),
        (["--model.stages", 0], "model.stages=0"),
        (["--model.stages", 4], "model.stages=4"),
        (["--trainer.max_epochs", 1], "trainer.max_epochs=1"),
        (["--model.steps_per_stage", 0], "model.steps_per_stage=0"),
        (["--model.weighter_epochs", 0], "model.weighter_epochs=0"),
        (["--model.floor", 1.5], "model.floor=1.5"),
        (["--model.weighter.alpha", -1], "alpha=-1"),
        (["--model.weighter.alhpa", 1], "'alpha'"),
        (["--model.glove", "nowhere.txt"], "nowhere.txt"),
        (["--model.weights", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model.weights", "."], "is a folder"),
        (["--model.glove", "."], "is a folder"),
        (["--model.diversity", ".inf"], "model.diversity=inf"),
        (["--model.weighter.warmup_epochs", 2], "warmup_epochs=2"),  # no epoch is left for the masks
    ],
)
def test_settings_that_make_no_sense_are_reported_before_anything_is_written(
    words: list[Any], message: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *OWN, *words) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert err.count("\n") == 0
    assert not (tmp_path / "tiny").exists()


def test_weights_of_other_data_or_another_tokenizer_are_reported(
    run: Run, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [*OWN, "--model.weights", weights]
    other = "[{class_path: Generated, init_args: {task: coin_flip, split: train, size: 24, seed: 5}}]"
    assert run("fit", *own, "--data.train", other) == 2
    assert "other data" in capsys.readouterr().err
    assert run("fit", *own, "--model.student.vocab_size", 520) == 2
    assert "another tokenizer" in capsys.readouterr().err
    assert not list((tmp_path / "tiny").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("weights", lambda text: b"\xff\xfe" * 9, ":1"),
        ("weights", lambda text: text[:-40], ":24"),
        (
            "weights",
            lambda text: text.replace('"id": "', '"id": "x', 1).replace('"weights": [', '"weights": [NaN, '),
            ":1",
        ),
        ("weights", lambda text: text.replace('"id": "coin', '"id": "con'), "got none for any of 20"),
        ("weights", lambda text: "", "got none for any of 20"),
        ("glove", lambda text: "the 1 2\ncoin nan 2\n", "finite numbers after 'coin'"),
        ("glove", lambda text: "the 1 2\ncoin inf 2\n", ":2"),
        ("glove", lambda text: "400 2\nthe 1 2\n", ":1"),
        ("glove", lambda text: "the 1 2\ncoin 1\n", ":2"),
        ("glove", lambda text: "zzzz 1 2\n", "got none"),
    ],
)
def test_a_damaged_file_is_reported_before_anything_is_written(
    kind: str, change: Any, message: str, weights: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = change(weights.read_text())
    (tmp_path / "bad").write_bytes(text if isinstance(text, bytes) else text.encode())
    given = [] if kind == "weights" else ["--model.weights", weights]
    assert run("fit", *OWN, *given, f"--model.{kind}", tmp_path / "bad") == 2
    err = capsys.readouterr().err.strip()
    assert f"{tmp_path / 'bad'}" in err
    assert message in err
    assert err.count("\n") == 0
    assert not (tmp_path / "tiny").exists()


def test_masks_that_collapse_are_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "KeypointWeighter", "--model.alpha", 50, "--trainer.max_epochs", 40, "--evaluate", "false"]
    assert run("fit", *words, "--model.train_predictor", "false", "--trainer.limit_val_batches", 0) == 0
    out = capsys.readouterr().out
    assert "masks collapsed" in out
    assert "lower alpha" in out
    means = [float(mean) for mean in re.findall(r"mean ([\d.]+) after epoch \d+", out)]
    assert len(means) == 40  # it can be watched
    assert means[0] > 0.3
    assert means[-1] < 0.01
    before, _, after = out.partition("warning:")
    assert "after epoch" in before  # there was none while there was nothing to warn of
    assert "after epoch" in after  # and it came before the end


def test_a_transformer_that_is_not_trained_on_is_what_the_warm_up_left(run: Run, tmp_path: Path) -> None:
    def learned(name: str, *words: str | float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        own = ["--model", "KeypointWeighter", "--trainer.max_epochs", 3, "--trainer.gradient_clip_val", 1.0]
        assert run("fit", "--run", name, *own, *words, "--evaluate", "false") == 0
        weights = _state(tmp_path / name)["state_dict"]
        student, masks = ([weights[k] for k in weights if k.startswith(part)] for part in ("student.", "generator."))
        return student, masks

    def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    left = ["--model.train_predictor", "false"]
    cheap, cheap_masks = learned("cheap", "--model.warmup_epochs", 1, "--model.alpha", 0.1, *left)
    dear, dear_masks = learned("dear", "--model.warmup_epochs", 1, "--model.alpha", 5, *left)
    longer, _ = learned("longer", "--model.warmup_epochs", 2, "--model.alpha", 0.1, *left)
    on, _ = learned("on", "--model.warmup_epochs", 1, "--model.alpha", 0.1)
    assert same(cheap, dear)
    assert not same(cheap_masks, dear_masks)
    assert not same(cheap, longer)
    assert not same(cheap, on)


def test_wrong_settings_are_refused_by_the_class_itself() -> None:
    with pytest.raises(UserError, match="weighter_epochs"):
        KPOD(student=FromScratch(), weighter_epochs=0)
    with pytest.raises(UserError, match="alpha"):
        KeypointWeighter(student=FromScratch(), alpha=-1)


# -------------------------------------------------------------------------------- the measure of weights


def test_the_measure_of_weights_knows_core_tokens_and_the_area_under_the_curve(
    oracle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import runpy

    from conftest import ROOT

    script = runpy.run_path(str(ROOT / "experiments" / "keypoints.py"))
    # Pairs (positive, negative): (3, 1), (3, 2), (2, 1) are in order, (2, 2) is a tie: 3.5 of 4.
    assert script["auc"](np.array([1.0, 2.0, 3.0, 2.0]), np.array([False, True, True, False])) == 3.5 / 4
    tokens, text = [" Add", " 1", "2", " and", " 3", "."], "Add 12 and 3."
    found = script["core_tokens"](tokens, text, [[4, 6], [11, 12]])  # "12" is two tokens, "3" shares none with "."
    assert found == [False, True, True, False, True, False]
    path = oracle / "weighter" / "annotations.jsonl"
    words = ["keypoints.py", "--file", str(path), "--task", "coin_flip", "--size", "24"]
    monkeypatch.setattr("sys.argv", words)
    script["main"]()
    assert "area under the ROC curve: 0." in capsys.readouterr().out


def test_weights_that_were_learned_otherwise_are_not_taken(
    oracle: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was left after its weighter, and is started again with other settings of it."""
    shutil.copytree(oracle / "weighter", tmp_path / "tiny" / "weighter")
    for words, message in (
        (["--model.weighter.alpha", 0.3], "model.init_args.alpha"),
        (["--model.weighter_epochs", 3], "trainer.max_epochs"),
    ):
        assert run("fit", *OWN, *words) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Remove that folder" in err
    assert run("fit", *OWN, "--evaluate", "false") == 0
    assert "first: KeypointWeighter" not in capsys.readouterr().out


def test_the_weighter_begins_with_the_student_that_is_begun_with(run: Run, tmp_path: Path) -> None:
    assert run("fit", "--run", "base", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    start = tmp_path / "base" / "checkpoints" / "last.ckpt"
    still = ["--model.weighter.optimizer", "{class_path: torch.optim.SGD, init_args: {lr: 0.0}}"]
    assert run("fit", *OWN, *still, "--model.start_from", start, "--evaluate", "false") == 0
    began, held = (_state(tmp_path / name)["state_dict"] for name in ("base", "tiny/weighter"))
    ours = {name: value for name, value in held.items() if name in began}
    assert len(ours) == len(began)
    assert all(torch.equal(value, began[name]) for name, value in ours.items())
