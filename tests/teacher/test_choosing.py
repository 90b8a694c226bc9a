"""Completions become rationales: the verdict, the text before the answer, and the selection among several."""

from __future__ import annotations

import itertools
import random

import pytest

from skipthinking.records import Example, UserError
from skipthinking.tasks import generate, get_task
from skipthinking.teacher.choosing import (
    Candidate,
    Correct,
    Diverse,
    Everything,
    Keep,
    Shortest,
    Verdict,
    distance,
    grade_completion,
    trigrams,
)
from skipthinking.teacher.client import Completion


def _example(task: str = "gsm8k", answer: str = "18") -> Example:
    return Example(id="a", question="How many?", rationale="", answer=answer, task=task)


def _judged(text: str, finish: str | None = "stop", task: str = "gsm8k", answer: str = "18", lenient: bool = False):
    row = grade_completion(_example(task, answer), 0, Completion(text=text, finish=finish), lenient)
    return row.verdict, row.rationale


@pytest.mark.parametrize(
    ("text", "verdict", "rationale"),
    [
        ("She has 9. 9 * 2 = 18. Therefore, the answer is 18.", "correct", "She has 9. 9 * 2 = 18."),
        ("She has 9.\n\nTherefore, the answer is **18**.", "correct", "She has 9."),
        ("She has 9.\n\n**Therefore, the answer is 18.**", "correct", "She has 9."),  # no lone ** is left
        ("It is **9** twice. So the answer is $18.00.", "correct", "It is **9** twice."),
        # text after the answer is not part of the reasoning
        ("She has 9. Therefore, the answer is 18. I hope this helps! Ask me more.", "correct", "She has 9."),
        ("So far the answer is 9, but twice. The answer is 18.", "correct", "So far the answer is 9, but twice."),
        ("She has 9. Therefore, the answer is 17.", "wrong", "She has 9."),
        ("She has 9. Therefore, the answer is", "unparsable", "She has 9."),
        ("Therefore, the answer is 18.", "correct", ""),
        ("No idea.", "unparsable", "No idea."),
        ("", "unparsable", ""),
    ],
)
def test_a_rationale_is_the_text_before_the_answer(text: str, verdict: str, rationale: str) -> None:
    assert _judged(text) == (verdict, rationale)


@pytest.mark.parametrize(
    ("text", "verdict", "rationale", "conclusion"),
    [
        ("<think>Hm, the answer is 9? No.</think>\n\nTwice 9. The answer is 18.", "correct",
         "Hm, the answer is 9? No.", "Twice 9."),
        ("9 * 2 = 18</think>Therefore, the answer is 18.", "correct", "9 * 2 = 18", ""),  # opened by the chat template
        ("<think>The answer is 18.</think>No idea.", "unparsable", "No idea.", ""),
        ("<think>\n\n</think>\n\nTwice 9. The answer is 18.", "correct", "Twice 9.", ""),  # thinking turned off
        ("<think>Hm. The answer is 18.", "cut off", "<think>Hm.", ""),
    ],
)  # fmt: skip
def test_thoughts_are_the_rationale_and_are_not_graded(
    text: str, verdict: str, rationale: str, conclusion: str
) -> None:
    row = grade_completion(_example(), 0, Completion(text=text, finish="stop"), False)
    assert (row.verdict, row.rationale, row.conclusion) == (verdict, rationale, conclusion)


@pytest.mark.parametrize(("finish", "verdict"), [("length", "cut off"), ("content_filter", "cut off"),
                                                 ("stop", "correct"), (None, "correct")])  # fmt: skip
def test_an_incomplete_completion_is_cut_off_whatever_it_states(finish: str | None, verdict: str) -> None:
    assert _judged("I add. Therefore, the answer is 18.", finish)[0] == verdict


def test_lenient_grading_takes_the_last_answer_anywhere() -> None:
    assert _judged("9 * 2\n#### 18") == ("unparsable", "9 * 2")
    assert _judged("9 * 2\n#### 18", lenient=True) == ("correct", "9 * 2")
    assert _judged("9 * 2 makes 18", lenient=True) == ("correct", "9 * 2 makes 18")
    assert _judged("The answer is 17. I first had 18", lenient=True)[0] == "wrong"  # the stated answer wins


@pytest.mark.parametrize("task", ["arithmetic", "coin_flip", "last_letter", "shuffled_objects", "date_understanding"])
def test_a_solved_example_is_correct_and_returns_its_rationale(task: str) -> None:
    for example in generate(task, split="train", size=30):
        sentence = get_task(task).answer_sentence(example.answer)
        row = grade_completion(example, 0, Completion(text=f"{example.rationale} {sentence}", finish="stop"))
        assert row.verdict == "correct"
        assert row.rationale == example.rationale.strip()


@pytest.mark.parametrize(("task", "answer", "text"), [
    ("aqua", "B", "It is the second. Therefore, the answer is (B)."),
    ("strategy_qa", "yes", "It is the second. Therefore, the answer is yes."),
    ("math", r"\frac{1}{2}", r"It is the second. Therefore, the answer is $\boxed{\frac{1}{2}}$."),
])  # fmt: skip
def test_every_kind_of_answer_is_removed(task: str, answer: str, text: str) -> None:
    if task == "math":
        pytest.importorskip("math_verify")
    assert _judged(text, task=task, answer=answer) == ("correct", "It is the second.")


# ----------------------------------------------------------------------------------------------- selection


def _row(sample: int, text: str, verdict: Verdict = "correct") -> Candidate:
    return Candidate(sample=sample, rationale=text, verdict=verdict)


ROWS = [
    _row(0, "one two three four"),
    _row(1, "one two"),
    _row(2, "One  two"),  # the same, but for case and white space
    _row(3, "wrong words", "wrong"),
    _row(4, "", "correct"),
    _row(5, "five six seven"),
    _row(6, "one two three", "cut off"),
    _row(7, "eight", "unparsable"),
]


@pytest.mark.parametrize(
    ("keep", "samples"),
    [
        (Correct(), [0, 1, 5]),
        (Shortest(), [1]),
        (Shortest(2), [1, 5]),
        (Shortest(9), [0, 1, 5]),
        (Diverse(2), [1, 5]),  # 0 and 5 share no trigram with 1; the shorter one comes first
        (Diverse(9), [0, 1, 5]),
        (Everything(), [0, 1, 3, 5, 6, 7]),
    ],
)
def test_which_candidates_are_kept(keep: Keep, samples: list[int]) -> None:
    selected, duplicates = keep.choose(ROWS)
    assert [row.sample for row in selected] == samples
    assert duplicates == 1
    assert keep.choose([]) == ([], 0)


def test_the_selection_does_not_depend_on_the_order() -> None:
    for keep in (Correct(), Shortest(2), Diverse(2), Everything()):
        for seed in range(5):
            shuffled = random.Random(seed).sample(ROWS, len(ROWS))
            assert keep.choose(shuffled) == keep.choose(ROWS)


def test_fewer_than_one_per_question_is_refused() -> None:
    for kind in (Shortest, Diverse):
        with pytest.raises(UserError, match=r"keep\.k=0"):
            kind(0)


def test_the_distance_is_the_fraction_of_the_union_in_one_set_only() -> None:
    # {abc, bcd} and {bcd, cde}: one of three in common
    assert distance(trigrams("a b c d"), trigrams("B c d e")) == pytest.approx(2 / 3)
    assert distance(trigrams("a b"), trigrams("A  b")) == 0
    assert distance(trigrams("a b"), trigrams("a c")) == 1


def test_diverse_is_at_least_half_as_spread_as_the_best_selection() -> None:
    rng, better = random.Random(0), 0
    for _ in range(60):
        texts = [" ".join(rng.choices("abc", k=rng.randint(5, 9))) for _ in range(8)]
        rows = [_row(i, text) for i, text in enumerate(dict.fromkeys(texts))]

        def spread(selected: tuple[Candidate, ...]) -> float:
            parts = [trigrams(row.rationale) for row in selected]
            return min(distance(a, b) for a, b in itertools.combinations(parts, 2))

        selected, _ = Diverse(3).choose(rows)
        every = [spread(subset) for subset in itertools.combinations(rows, 3)]
        assert len(selected) == 3
        assert spread(tuple(selected)) >= max(every) / 2
        better += spread(tuple(selected)) > sorted(every)[len(every) // 2]
    assert better > 45  # and usually better than the median selection
