"""Accuracy within a budget is that of a run with this limit on new tokens; what is skipped is counted where known."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from students.tiny import prompts, scratch
from test_metrics import drawn

from skipthinking.evaluation.answers import budgets_up_to
from skipthinking.evaluation.metrics import AnswerScores, scores
from skipthinking.evaluation.module import AnsweringModule
from skipthinking.records import Prediction, UserError
from skipthinking.students import Student


class Written:
    """In place of generation: yes, after more or fewer words."""

    def __init__(self, student: Any, at_once: int) -> None:
        self.tokenizer, self.done = student.tokenizer, {}

    def add(self, index: int, prompt: Any, max_new_tokens: int) -> None:
        text = f"{' Hm.' * (len(prompt) % 4)} Therefore, the answer is yes."
        ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
        self.done[index] = ids[:max_new_tokens]

    def run(self, finish: bool) -> dict[int, list[int]]:
        done, self.done = self.done, {}
        return done


def test_answers_within_a_budget_are_those_of_a_lower_limit(run: Callable[..., int], tmp_path: Path) -> None:
    limits = [*range(1, 30), 60]
    seen: dict[int, dict[str, bool]] = {}
    graded = AnsweringModule._graded

    def spy(self: Any, example: Any, ids: list[int]) -> Prediction:
        budgets, self.budgets = self.budgets, ()
        for limit in limits:
            seen.setdefault(limit, {})[example.id] = graded(self, example, ids[:limit]).correct
        self.budgets = budgets
        return graded(self, example, ids)

    words = ["--model", "AnswerOnly", "--model.max_new_tokens", 60, "--model.budgets", str(limits[::-1])]
    few = ["--data.val_size", 0, "--data.test.flips.size", 16, "--trainer.max_steps", 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnsweringModule, "_graded", spy)
        patch.setattr(Student, "completions", lambda self, at_once: Written(self, at_once))
        assert run("fit", *words, *few) == 0
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "predictions.jsonl").read_text().splitlines()]
    assert {row["id"]: row["correct_at"] for row in rows} == {
        id: {str(limit): seen[limit][id] for limit in limits} for id in seen[1]
    }
    shares = {limit: sum(seen[limit].values()) / len(rows) for limit in limits}
    found = json.loads((tmp_path / "tiny" / "summary.json").read_text())["test"]["flips"]
    assert found["accuracy_at"] == {str(limit): pytest.approx(share) for limit, share in shares.items()}
    assert len(set(shares.values())) > 3  # none, some, and those whose answer is yes
    assert shares[60] == found["accuracy"]
    assert "test/accuracy_at_60" in (tmp_path / "tiny" / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_lower_limit_gives_the_beginning_of_the_same_answer(architecture: str) -> None:
    student = scratch(architecture)
    asked = prompts(student, [3, 9, 5, 20])
    answers = student.generate(asked, 12)
    for limit in (1, 4, 11):
        assert student.generate(asked, limit) == [ids[:limit] for ids in answers]


@pytest.mark.parametrize(
    ("limit", "given", "budgets"),
    [
        (256, None, (32, 64, 128, 256)),
        (100, None, (32, 64)),
        (8, None, ()),
        (100, [], ()),
        (100, [100, 7, 7], (7, 100)),
    ],
)
def test_budgets_are_those_that_the_limit_allows(limit: int, given: list[int] | None, budgets: tuple[int, ...]) -> None:
    assert budgets_up_to(limit, given) == budgets


@pytest.mark.parametrize("wrong", [[0], [-1, 5], [11]])
def test_a_budget_outside_of_the_limit_is_refused(wrong: list[int]) -> None:
    with pytest.raises(UserError, match=r"model\.budgets"):
        budgets_up_to(10, wrong)


@pytest.mark.parametrize("seed", range(3))
def test_budgets_and_known_skips_are_counted_over_ranks(seed: int) -> None:
    rng, budgets = random.Random(seed), (4, 16)
    predictions = [
        replace(
            row,
            correct_at={budget: rng.random() < 0.5 for budget in budgets},
            chunks=(chunks := rng.choice([None, 4])),
            skipped=None if chunks is None else rng.choice([None, 0.0, 0.25, 1.0]),
        )
        for row in drawn(seed, 40)
    ]
    named = [p.skipped for p in predictions if p.skipped is not None]
    expected = {
        "skipped": sum(named) / len(named),
        "skipped_known": len(named) / len([p for p in predictions if p.chunks == 4]),
        **{f"accuracy_at_{b}": [p.correct_at[b] for p in predictions].count(True) / 40 for b in budgets},
    }
    ranks = [AnswerScores(budgets) for _ in range(3)]
    for row in predictions:
        rng.choice(ranks).update([row])
    for other in ranks[1:]:
        ranks[0].merge_state(other)
    values = {name: float(value) for name, value in ranks[0].compute().items()}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    found = scores(predictions)
    within = {str(b): expected.pop(f"accuracy_at_{b}") for b in budgets}
    assert found["accuracy_at"] == pytest.approx(within)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_method_whose_answers_name_no_stage_has_an_unknown_skip() -> None:
    rows = [replace(row, chunks=4) for row in drawn(0, 5)]
    found = scores(rows)
    assert found["skipped_known"] == 0
    assert "skipped" not in found
    assert "skipped_known" not in scores(drawn(0, 5))  # no stages, nothing to know
