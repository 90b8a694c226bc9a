"""ICoT: what each epoch removes, what the limits equal, and when the optimizer starts from zero."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from interruptions import PulledPlugError

from skipthinking.__main__ import main
from skipthinking.annotate import Notes
from skipthinking.methods import AnswerOnly, FullCoT, ICoT
from skipthinking.records import Encoded, Example, UserError
from skipthinking.students import FromScratch

Run = Callable[..., int]


def _row(rationale: int, id: str = "a") -> Encoded:
    """A rationale of N tokens, numbered from 1, and an answer of three, 101 to 103."""
    tokens = np.array([*range(1, rationale + 1), 101, 102, 103])
    example = Example(id=id, question="?", rationale="", answer="", task="gsm8k")
    return Encoded(
        example=example, prompts={"": np.array([200])}, tokens=tokens, steps=((0, rationale),),
        answer=(rationale, rationale + 3),
    )  # fmt: skip


def _method(**settings: Any) -> ICoT:
    return ICoT(student=FromScratch(), **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),  # tokens that epochs 0, 1, 2, ... remove of a rationale of 20
    [
        ({}, [0, 8, 16, 20, 20]),  # 8 more in each, then all
        ({"remove_per_epoch": 3, "full_epochs": 2}, [0, 0, 3, 6, 9, 12, 15, 18, 20]),
        ({"full_epochs": 0}, [8, 16, 20]),
        ({"remove_per_epoch": 5, "remove_all_from": 10}, [0, 5, 20, 20]),  # 10 would be removed: all are
    ],
)
def test_literal_counts(settings: dict[str, Any], expected: list[int]) -> None:
    method = _method(smoothing=math.inf, **settings)
    for epoch, count in enumerate(expected):
        (made,) = method.make_instances(_row(20), Notes(epoch=epoch))
        assert made.tokens.tolist() == [*range(count + 1, 21), 101, 102, 103]  # from the start, never of the answer
        assert (made.weights == 1).all()


@pytest.mark.parametrize(("epoch", "oracle"), [(0, FullCoT), (9, AnswerOnly)])
def test_it_begins_as_full_cot_and_ends_as_answer_only(epoch: int, oracle: Any) -> None:
    (made,) = _method().make_instances(_row(20), Notes(epoch=epoch))
    (expected,) = oracle(student=FromScratch()).make_instances(_row(20), Notes(epoch=epoch))
    for name in ("prompt", "tokens", "weights"):
        assert np.array_equal(getattr(made, name), getattr(expected, name))


@pytest.mark.parametrize("rate", [0.5, 1.0, 4.0])
def test_smoothing_removes_o_more_with_probability_proportional_to_exp_of_minus_lambda_o(rate: float) -> None:
    method, n = _method(smoothing=rate, full_epochs=1), 4000
    offsets: Counter[int] = Counter()
    for i in range(n):
        (made,) = method.make_instances(_row(60, id=str(i)), Notes(epoch=1, seed=3))
        offsets[60 - 8 - (len(made.tokens) - 3)] += 1
    total = sum(math.exp(-rate * o) for o in range(200))
    for o in range(4):
        expected = math.exp(-rate * o) / total
        assert offsets[o] / n == pytest.approx(expected, abs=4 * math.sqrt(expected / n))  # 4 standard deviations
    assert not any(len(method.make_instances(_row(60, str(i)), Notes())[0].tokens) < 63 for i in range(n))  # full epoch


def test_an_offset_depends_on_epoch_and_id_alone() -> None:
    method = _method(smoothing=0.1)

    def lengths(epoch: int, order: Any) -> dict[str, int]:
        return {str(i): len(method.make_instances(_row(90, str(i)), Notes(epoch=epoch))[0].tokens) for i in order}

    assert lengths(1, range(20)) == lengths(1, reversed(range(20)))
    assert lengths(2, range(20)) != {id: length - 8 for id, length in lengths(1, range(20)).items()}


# 20 training examples, 4 per micro-batch, 2 of these per step: 3 steps per epoch. Adam counts its steps in its state.
RUN = ["--model", "ICoT", "--trainer.max_epochs", 3, "--trainer.accumulate_grad_batches", 2, "--evaluate", "false"]


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("oracle")
    assert main(["fit", "--config", str(TINY), "--runs_dir", str(folder), *map(str, RUN)]) == 0
    return folder / "tiny"


def _steps(state: dict[str, Any]) -> set[int]:
    return {int(moments["step"]) for moments in state["optimizer_states"][0]["state"].values()}


def test_the_optimizer_starts_from_zero_in_every_epoch_and_the_schedule_goes_on(oracle: Path) -> None:
    assert _steps(_state(oracle)) == {3}
    assert _state(oracle)["lr_schedulers"][0]["last_epoch"] == 9


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["--model.remove_all_from", 8], 6),  # epoch 1 removes all, so that epoch 2 removes no more
        (["--model.remove_per_epoch", 1000], 6),  # the count rises, but no rationale is left
        (["--model.reset_optimizer", "false"], 9),
    ],
)
def test_the_optimizer_goes_on_where_nothing_more_is_removed(
    words: list[Any], steps: int, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *RUN, *words) == 0
    assert _steps(_state(tmp_path / "tiny")) == {steps}
    partial = "internalization is partial: the last epoch removes 16 tokens, and 20 of 20" in capsys.readouterr().out
    assert partial == (steps == 9)  # the start report has the lengths of this run


@pytest.mark.parametrize("step", [3, 4])  # the last one of epoch 0, and one within epoch 1
def test_a_killed_run_resumes_bit_equal(step: int, oracle: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(PulledPlugError):
        run("fit", *RUN, "--checkpoint_every", 1, "--trainer.callbacks+=interruptions.Interrupt",
            "--trainer.callbacks.step", step)  # fmt: skip
    assert run("fit", *RUN, "--ckpt_path", "last") == 0
    found, expected = _state(tmp_path / "tiny"), _state(oracle)
    assert all(torch.equal(found["state_dict"][name], value) for name, value in expected["state_dict"].items())
    for place, moments in expected["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(found["optimizer_states"][0]["state"][place][name], value)


@pytest.mark.parametrize(
    ("settings", "epochs", "says"),
    [
        ({}, 4, "epoch 3 removes the longest rationale, 20 tokens"),  # 24 of 20
        ({}, 3, "removes 16 tokens, and 1 of 2 rationales are longer (up to 20). To remove all, set {}: 4."),
        ({}, 1, "removes 0 tokens, and 2 of 2 rationales are longer (up to 20). To remove all, set {}: 4."),
        ({"remove_per_epoch": 3, "full_epochs": 2}, 3, "set {}: 9."),  # 7 epochs for 20 tokens, after 2
        ({"remove_all_from": 9}, 3, "epoch 2 removes the longest rationale"),
        ({"remove_all_from": 9}, 2, "set {}: 3."),
    ],
)
def test_the_start_report_says_what_is_not_removed(settings: dict[str, Any], epochs: int, says: str) -> None:
    assert says.format("trainer.max_epochs") in _method(**settings).shortfall(epochs, [12, 20])


@pytest.mark.parametrize(
    "wrong", [{"remove_per_epoch": 0}, {"remove_all_from": 0}, {"full_epochs": -1}, {"smoothing": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        _method(**wrong)
