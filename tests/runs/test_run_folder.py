"""Laws of runs from Python: RunFolder leaves what the command line leaves, and checkpoints come back as methods."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from skipthinking.__main__ import main
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Generated
from skipthinking.methods import CWT, STT, FullCoT
from skipthinking.records import UserError
from skipthinking.runs.run_folder import RunFolder
from skipthinking.settings import config_of
from skipthinking.students import FromScratch, LoRA

GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512}
TEST = {"flips": Generated("coin_flip", "test", size=5)}


def _method(kind: Any = CWT, **settings: Any) -> Any:
    student = FromScratch("gpt2", GPT2, vocab_size=512, lora=settings.pop("lora", None))
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    return kind(**{"student": student, "optimizer": optimizer, "max_new_tokens": 8, "latency_examples": 2, **settings})


def _data(**settings: Any) -> RationaleDataModule:
    return RationaleDataModule(train=[Generated("coin_flip", size=24)], val_size=4, test=TEST, batch_size=4, **settings)


def _trainer(folder: Path, *callbacks: L.Callback, **settings: Any) -> L.Trainer:
    own = {"max_epochs": 2, "log_every_n_steps": 1, **settings}
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[*callbacks], **own,
    )  # fmt: skip


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run from Python."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    L.seed_everything(0)
    torch.manual_seed(7)  # whatever ran before in this process
    method, data, trainer = _method(), _data(), _trainer(folder, RunFolder())
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    return folder


def test_a_run_from_python_is_the_run_of_its_config(mine: Path, tmp_path: Path) -> None:
    """The oracle is the command line, with the config.yaml that RunFolder wrote."""
    assert main(["fit", "--config", str(mine / "config.yaml"), "--run", "cli", "--runs_dir", str(tmp_path)]) == 0
    cli = tmp_path / "cli"
    names = [{p.relative_to(home) for p in home.rglob("*") if p.suffix != ".lock"} for home in (mine, cli)]
    assert names[0] == names[1]
    # The README names the run folder, where the student is.
    cards = [(home / "student" / "README.md").read_text().replace(str(home), "RUN") for home in (mine, cli)]
    assert "flips" in cards[0]
    assert cards[0].splitlines()[:5] == cards[1].splitlines()[:5]
    weights, others = _weights(mine), _weights(cli)
    assert weights.keys() == others.keys()
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert _rows(mine / "predictions.jsonl") == _rows(cli / "predictions.jsonl")
    headers = [(home / "metrics.csv").read_text().splitlines()[0] for home in (mine, cli)]
    assert headers[0] == headers[1]
    for name in ("train/loss", "train/target_tokens", "val/accuracy", "test/accuracy"):
        columns = [_column(home / "metrics.csv", name) for home in (mine, cli)]
        assert columns[0] == columns[1] != []
    times = dict.fromkeys(("latency_seconds", "fit_seconds"), 0)
    one, two = ({**json.loads((home / "summary.json").read_text()), **times} for home in (mine, cli))
    assert one == two


def _column(path: Path, name: str) -> list[str]:
    header, *lines = [line.split(",") for line in path.read_text().splitlines()]
    return [line[header.index(name)] for line in lines if line[header.index(name)]]


def test_the_tools_read_a_run_from_python(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _rows(mine / "predictions.jsonl")
    assert main(["test", "--config", str(mine / "config.yaml")]) == 0
    assert _rows(mine / "predictions.jsonl") == before
    assert main(["compare", str(mine)]) == 0
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", [CWT, FullCoT])
def test_a_checkpoint_is_its_method(kind: Any, mine: Path) -> None:
    path = mine / "checkpoints" / "last.ckpt"
    if kind is FullCoT:
        with pytest.raises(UserError, match=r"got one of CWT .* Use CWT\.load_from_checkpoint"):
            kind.load_from_checkpoint(path)
        return
    method = kind.load_from_checkpoint(path, max_new_tokens=5)
    assert method.max_new_tokens == 5
    assert method.steps_before == 10
    saved = _weights(mine)
    assert saved.keys() == method.state_dict().keys()
    assert all(torch.equal(value, saved[name]) for name, value in method.state_dict().items())
    before = _rows(mine / "predictions.jsonl")
    other = RationaleDataModule(train=[Generated("coin_flip", size=3)], test=TEST)  # another tokenizer, if trained
    _trainer(mine, enable_checkpointing=False).test(method, datamodule=other, verbose=False)
    answers = {row.id: row.completion for row in method.predictions}
    assert all(row["completion"].startswith(answers[row["id"]][:10]) for row in before)
    predictor = RationaleDataModule(question=before[0]["question"], task="coin_flip")
    _trainer(mine, enable_checkpointing=False).predict(method, datamodule=predictor)
    assert method.predictions[0].completion == answers[before[0]["id"]]


def test_an_adapter_comes_back_on_the_base_that_it_was_trained_on(tmp_path: Path) -> None:
    L.seed_everything(3)
    method, data = _method(FullCoT, lora=LoRA(r=2)), _data()
    _trainer(tmp_path / "a", RunFolder(export=False), max_epochs=1).fit(method, datamodule=data)
    torch.manual_seed(11)
    again = FullCoT.load_from_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")
    theirs = again.state_dict()
    assert any("lora" not in name for name in theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in method.state_dict().items())


def test_a_class_without_an_import_path_comes_back_with_its_arguments(tmp_path: Path) -> None:
    class Own(FullCoT):
        """A method of a notebook cell."""

    L.seed_everything(0)
    trainer = _trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    method = _method(Own)
    trainer.fit(method, datamodule=_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    student = FromScratch("gpt2", GPT2, vocab_size=512)
    again = Own.load_from_checkpoint(tmp_path / "a.ckpt", student=student)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in method.state_dict().items())


def test_a_run_from_python_is_never_overwritten_but_goes_on(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Expected a new run") as error:
        _trainer(mine, RunFolder()).fit(_method(), datamodule=_data())
    last = str(error.value).split("ckpt_path='")[1].split("'")[0]
    before = (mine / "config.yaml").read_text()
    method = _method()
    _trainer(mine, RunFolder(export=False)).fit(method, datamodule=_data(), ckpt_path=last)  # as the message says
    assert method.trainer.global_step == 10
    saved = _weights(mine)
    assert all(torch.equal(value, saved[name]) for name, value in method.state_dict().items())
    assert (mine / "config.yaml").read_text() == before
    other = RationaleDataModule(train=[Generated("coin_flip", size=3)], test=TEST)
    with pytest.raises(UserError, match=r"got one that was trained on other examples\. Make the .* CWT\.load_from"):
        _trainer(tmp_path).test(_method(), datamodule=other, ckpt_path=last)
    with pytest.raises(UserError, match="Expected a run folder, got the current one"):
        _trainer(Path.cwd(), RunFolder()).fit(_method(), datamodule=_data())


def test_what_no_config_can_hold_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = _method(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    _trainer(tmp_path / "a", RunFolder(export=False), max_steps=1).fit(method, datamodule=_data())
    assert "config.yaml lacks model.init_args.optimizer," in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert "optimizer" not in config["model"]["init_args"]


def test_the_config_of_an_object_makes_an_equal_one() -> None:
    from jsonargparse import ArgumentParser

    from skipthinking.methods import Distiller

    method = _method(STT, warmup_epochs=3, gap_epochs=1, lora=LoRA(r=4))
    config, missing = config_of(method)
    assert missing == []
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Distiller, "model")
    again: Callable[..., Any] = parser.instantiate(parser.parse_object({"model": config})).model
    assert json.loads(json.dumps(config)) == config
    theirs, missing = config_of(again)
    assert missing == []
    # The parser completes the settings of the optimizer.
    complete = theirs["init_args"].pop("optimizer")
    own = config["init_args"].pop("optimizer")
    assert complete["init_args"] | own["init_args"] == complete["init_args"]
    assert theirs == config


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_have_the_config_of_the_original(copied: Any) -> None:
    source = Generated("coin_flip", "test", size=7, seed=3)
    assert config_of(copied(source)) == config_of(source)
    if copied not in (copy.copy, copy.deepcopy):
        return  # methods cannot be pickled
    method = _method(lora=LoRA(r=2))
    again = copied(method)
    assert config_of(again) == config_of(method)
    assert (again.student is method.student) == (copied is copy.copy)


def test_a_run_that_its_method_refuses_does_not_start(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", RunFolder())
    with pytest.raises(UserError, match=r"warmup_epochs=2"):
        trainer.fit(_method(STT, warmup_epochs=2, gap_epochs=1), datamodule=_data())
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_the_config_has_the_trainer_settings_that_change_what_is_learned(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", RunFolder(), limit_train_batches=2, gradient_clip_algorithm="value")
    trainer.fit(_method(), datamodule=_data())
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"]
    assert (settings["limit_train_batches"], settings["gradient_clip_algorithm"]) == (2, "value")
