"""Methods with a search of their own, in one short file each, have all that the runner gives to any method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import ROOT
from interruptions import PulledPlugError

from skipthinking.__main__ import main
from skipthinking.annotate import Notes
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Generated
from skipthinking.methods import StepEntropy, TokenSkip
from skipthinking.records import UserError
from skipthinking.students import FromScratch

Run = Callable[..., int]
METHODS = {"StepEntropy": "entropy", "TokenSkip": "surprisal"}
CONFIG = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def _assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_one_file_of_sixty_lines(name: str) -> None:
    file = {"StepEntropy": "step_entropy", "TokenSkip": "token_skip"}[name]
    assert len((ROOT / "skipthinking" / "methods" / f"{file}.py").read_text().splitlines()) <= 60


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_bit_equal_and_is_annotated_and_shown(
    name: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--model", name, "--trainer.max_epochs", 3]
    assert run("fit", *own, "--run", "oracle") == 0
    with pytest.raises(PulledPlugError):
        run("fit", *own, "--checkpoint_every", 2, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", 7)  # fmt: skip
    assert run("fit", *own, "--ckpt_path", "last") == 0
    _assert_equal(_weights(tmp_path / "tiny"), _weights(tmp_path / "oracle"))
    files = [tmp_path / folder / "annotations" / f"{METHODS[name]}.jsonl" for folder in ("tiny", "oracle")]
    assert files[0].read_text() == files[1].read_text()

    assert main(["annotate", "--config", str(tmp_path / "tiny" / "config.yaml")]) == 0
    lines = (tmp_path / "tiny" / "annotations.jsonl").read_text().splitlines()
    cached = dict(_cached(files[0]))
    for row in map(json.loads, lines):
        drawn = row["per_step" if name == "StepEntropy" else "per_token"][METHODS[name]]
        assert drawn == cached[row["id"]]  # those of the untrained student, from the checkpoint
    capsys.readouterr()
    assert main(["show", "--file", str(tmp_path / "tiny" / "annotations.jsonl"), "--n", "1"]) == 0
    assert json.loads(lines[0])["id"] in capsys.readouterr().out


def _cached(file: Path) -> list[tuple[str, list[float]]]:
    return [(row["id"], row["value"]) for row in map(json.loads, file.read_text().splitlines()[1:])]


@pytest.mark.parametrize("kind", [StepEntropy, TokenSkip])
def test_python_trains_as_the_command_line_does(kind: Any, tmp_path: Path) -> None:
    """Nothing but a Trainer, a method, and a data module; annotations are cached in its default_root_dir."""

    def fit(folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
        L.seed_everything(0)
        method = kind(student=FromScratch("gpt2", CONFIG, vocab_size=512), max_new_tokens=8)
        data = RationaleDataModule(train=[Generated("coin_flip", split="train", size=12)], batch_size=4)
        trainer = L.Trainer(
            default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(method, datamodule=data, **settings)
        return {name: value.clone() for name, value in method.state_dict().items()}

    first = fit(tmp_path / "one")
    last = next((tmp_path / "one" / "checkpoints").glob("*.ckpt"))
    assert list((tmp_path / "one" / "annotations").glob("*.jsonl"))
    _assert_equal(fit(tmp_path / "two", ckpt_path=last), first)  # ends at once, with the weights of the checkpoint
    _assert_equal(fit(tmp_path / "one"), first)  # from the cache


def _method(kind: Any, **settings: Any) -> tuple[Any, list[Any]]:
    """A method that knows its codec, and some encoded examples."""
    from skipthinking.data.chunkers import AverageChunks
    from skipthinking.data.encoding import Codec, Plain
    from skipthinking.data.steps import Sentences
    from skipthinking.tasks import generate

    rows = generate("coin_flip", split="train", size=6)
    student = FromScratch("gpt2", CONFIG, vocab_size=512)
    student.prepare([f"{row.question} {row.rationale}" for row in rows])
    student.build()
    method = kind(student=student, **settings)
    codec = Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences(), prefixes=method.prompt_prefixes)
    method.connect(codec, AverageChunks())
    return method, list(codec.encode(rows))


@pytest.mark.parametrize("control", [None, "highest", "random"])
def test_step_entropy_skips_the_share_of_least_entropy(control: Any) -> None:
    method, rows = _method(StepEntropy, share=0.5, control=control)
    for row in rows:
        values = np.arange(len(row.steps), dtype=np.float64)[::-1].copy()  # the last step has the least
        (made,) = method.make_instances(row, Notes(values={"entropy": values}))
        text = method.codec.tokenizer.decode(made.tokens)
        gone = len(row.steps) // 2
        assert text.count("[SKIP]") == gone
        assert (made.weights == 1).all()
        steps = [method.codec.tokenizer.decode(row.tokens[start:end]) for start, end in row.steps]
        kept = {None: steps[: len(steps) - gone], "highest": steps[gone:], "random": []}[control]
        assert all(step in text for step in kept)
        assert text.endswith(method.codec.tokenizer.decode(row.tokens[slice(*row.answer)]))


def test_step_entropy_is_the_entropy_of_all_logits() -> None:
    method, rows = _method(StepEntropy)
    from skipthinking.annotate import Context

    with method.student.frozen():
        context = Context(student=method.student, codec=method.codec, notes={}, seed=0)
        found = method.entropies.annotate(rows, context)
        for row in rows:
            ids = torch.tensor([[*row.prompts[""].tolist(), *row.tokens.tolist()]])
            shares = method.student.model(input_ids=ids).logits[0].double().log_softmax(-1)
            entropy = -(shares.exp() * shares).sum(-1)[len(row.prompts[""]) - 1 :]
            expected = [float(entropy[start:end].sum()) for start, end in row.steps]
            assert found[row.id].tolist() == pytest.approx(expected, rel=1e-4)


def test_token_skip_drops_what_matters_least_and_states_the_ratio() -> None:
    method, rows = _method(TokenSkip, ratio=0.7)
    assert method.prompt_prefixes[0] == "[70%] "
    seen = set()
    for epoch in range(12):
        for row in rows:
            end = row.answer[0]
            importance = np.random.default_rng(epoch).permutation(end).astype(np.float32)
            (made,) = method.make_instances(row, Notes(epoch=epoch, values={"surprisal": importance}))
            prefix = next(text for text, ids in row.prompts.items() if ids is made.prompt)
            ratio = int(prefix[1:3]) / 100 if prefix else 1.0
            seen.add(ratio)
            kept = len(made.tokens) - (len(row.tokens) - end)
            assert abs(kept - ratio * end) <= 1
            assert made.tokens[:kept].tolist() == row.tokens[:end][np.sort(np.argsort(-importance)[:kept])].tolist()
            assert made.tokens[kept:].tolist() == row.tokens[end:].tolist()
    assert seen == {0.5, 0.6, 0.7, 0.8, 0.9, 1.0}


@pytest.mark.parametrize(("kind", "wrong"), [(StepEntropy, {"share": 1.5}), (TokenSkip, {"ratio": 0.55})])
def test_settings_that_make_no_sense_are_refused(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        kind(student=FromScratch("gpt2", CONFIG), **wrong)


def test_token_skip_takes_its_importance_by_class_path(run: Run, tmp_path: Path) -> None:
    """KPOD's learned weights serve as importance: any annotator of a number per rationale token does."""
    weigher = ["--model", "KeypointWeighter", "--run", "weigher", "--evaluate", "false"]
    assert run("fit", *weigher) == 0
    own = ["--model", "TokenSkip", "--model.importance", "skipthinking.methods.kpod.weights.TokenWeights",
           "--model.importance.path", tmp_path / "weigher" / "annotations.jsonl"]  # fmt: skip
    assert run("fit", *own, "--evaluate", "false") == 0
    assert main(["annotate", "--config", str(tmp_path / "tiny" / "config.yaml")]) == 0
    learned, used = (
        {row["id"]: row["weights"] for row in map(json.loads, (tmp_path / name / "annotations.jsonl").open())}
        for name in ("weigher", "tiny")
    )
    assert used
    assert used == {id: learned[id] for id in used}
