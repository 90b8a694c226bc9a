"""Laws of the answers on the page: they represent the test set, and nothing is called right that is not finished."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import change_answers, write_run

from skipthinking.report.answers import paired_counts, sample
from skipthinking.report.comparing import compare_runs
from skipthinking.report.page import page


def test_shown_answers_are_as_often_right_as_all(tmp_path: Path) -> None:
    """At 96% right an order that takes the wrong ones first would show 8 of 20 right; chance shows 96% on average."""
    shown = []
    for number in range(30):
        folder = write_run(tmp_path / f"{number}", test=f"set {number}", correct=[n % 25 > 0 for n in range(200)])
        drawn = sample(compare_runs([str(folder)]), f"set {number}", 20)
        right = [question.kind == "right" for question in drawn.questions]
        assert drawn.accuracies["CWT"] == (sum(right) / 20, 0.96)
        shown += right
    assert abs(sum(shown) / len(shown) - 0.96) < 3.5 * (0.96 * 0.04 / len(shown)) ** 0.5


def test_the_same_questions_are_drawn_whatever_the_methods_and_more_of_them_begin_alike(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", correct=[1, 0] * 20)
    two = write_run(tmp_path / "b", "STT", correct=[0, 0] * 20)
    texts = [
        [question.question for question in sample(compare_runs(runs), "sums", count).questions]
        for runs, count in (([str(one)], 7), ([str(two), str(one)], 7), ([str(two)], 30), ([str(two)], 99))
    ]
    assert texts[0] == texts[1] == texts[2][:7] == texts[3][:7]
    assert len(set(texts[3])) == len(texts[3]) == 40
    assert texts[0] != sorted(texts[3])[:7]


def test_the_page_says_how_its_answers_were_chosen(tmp_path: Path) -> None:
    comparison = compare_runs([str(write_run(tmp_path / "a", correct=[1, 0, 0, 0]))])
    some, every = (" ".join(page(comparison, count).split()) for count in (1, 4))
    assert re.search(r"sums: 1 of 4 questions, drawn at random. Right: CWT (0|100).0% here, 25.0% of all.", some)
    assert "sums: all 4 questions, in random order. Right: CWT 25.0% here." in every


@pytest.mark.parametrize(
    ("values", "verdict", "label", "about"),
    [
        ({"correct": True}, "right", "\u2713 right", "10 tokens"),
        ({"correct": True, "finished": False}, "cut_off", "\u25d0 gold answer, cut off", "10 tokens"),
        ({"correct": False}, "wrong", "\u2717 wrong", "10 tokens"),
        ({"correct": False, "finished": False}, "wrong", "\u2717 wrong", "10 tokens, cut off"),
        ({"correct": False, "extracted": None}, "wrong", "\u2717 no answer", "10 tokens"),
        ({"correct": True, "skipped": 0.4, "chunks": 5}, "right", "\u2713 right", "10 tokens, skips 2 of 5 chunks"),
    ],
)
def test_right_is_said_only_of_a_finished_answer(
    values: dict[str, Any], verdict: str, label: str, about: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a", correct=[values["correct"]])
    change_answers(folder, lambda row: values)
    comparison = compare_runs([str(folder)])
    (question,) = sample(comparison, "sums", 1).questions
    (answer,) = question.answers
    assert (answer.verdict, answer.label, answer.about) == (verdict, label, about)
    assert answer.finished is values.get("finished", True)
    text = page(comparison, 1)
    article = text[text.index("<article") : text.index("</article>")]
    assert ("right" in article) is (verdict == "right")
    assert f'data-kind="{verdict}" data-finished="{"no" if "finished" in values else "yes"}"' in article
    assert f'data-marks="0{ {"right": "+", "wrong": "-", "cut_off": "~"}[verdict] } "' in article


def test_an_answer_says_how_many_seeds_were_right(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{n}", seed=n, correct=correct) for n, correct in enumerate(([1, 0], [1, 1], [0, 0]))]
    drawn = sample(compare_runs(list(map(str, runs))), "sums", 2)
    about = {question.question: question.answers[0].about for question in drawn.questions}
    assert about == {"0 + 1?": "10 tokens, right with 2 of 3 seeds", "1 + 1?": "11 tokens, right with 1 of 3 seeds"}


def test_the_teachers_rationale_stands_beside_the_answers(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", "STT")]
    assert 'class="teacher"' not in page(compare_runs(list(map(str, runs))), 4)
    change_answers(runs[1], lambda row: {"rationale": f"<We> count to {row['gold']}."})
    articles = page(compare_runs(list(map(str, runs))), 4).split("<article")[1:]
    for article in articles:
        gold = re.search(r"Gold: (\d)", article)
        assert gold
        assert article.count("<b>Teacher</b>") == 1
        assert f"&lt;We&gt; count to {gold[1]}." in article


def test_paired_counts_sum_to_the_table(tmp_path: Path) -> None:
    ours, theirs = [1, 1, 0, 1, 0, 0, 1], [1, 0, 0, 1, 1, 0, 0]
    runs = [write_run(tmp_path / "a", "STT", correct=ours), write_run(tmp_path / "b", correct=theirs)]
    comparison = compare_runs(list(map(str, runs)), "CWT")
    (counts,) = paired_counts(comparison, "sums")
    assert counts == ("STT", 2, 2, 1, 2)
    row = next(row for row in comparison.rows if row.method == "STT")
    assert (counts.both + counts.only_method) / row.n == pytest.approx(row.accuracy)
    assert (counts.only_method - counts.only_baseline) / row.n == pytest.approx(row.difference)
    assert paired_counts(compare_runs(list(map(str, runs))), "sums") == []
    text = page(comparison, 0)
    assert re.search(r"STT</span></th><td>2</td><td>2</td><td>1</td><td>2</td>", text)


def test_training_examples_stand_side_by_side(tmp_path: Path) -> None:
    """Chunks with skips, token weights and cuts of an example are in one card; the most annotated come first."""
    rows = [
        {"id": f"{n}", "question": f"{n} + 1?", "steps": ["One.", "Two."], "answer": f"{n + 1}."} for n in range(30)
    ]
    more = {
        "STT": [{**row, "chunks": [[0, 1], [1, 2]], "kept": [1]} for row in rows[::2]],
        "KPOD": [{**row, "tokens": ["One.", "Two."], "steps": [[0, 1], [1, 2]], "weights": [0.5, 1]} for row in rows],
        "LongCoT": [{**row, "kept": [0], "cut": 1} for row in rows],
    }
    runs = [write_run(tmp_path / method, method) for method in more]
    for run in runs:
        (run / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more[run.name]))
    text = page(compare_runs(list(map(str, runs))), 0)
    legend = text[text.index('<ul class="legend"') : text.index("<details")]
    words = ("chunk or step, numbered", ">skipped<", ">cut off<", "weight of a token", "mean loss per token")
    assert [word in legend for word in words] == [True, True, True, True, False]  # no losses here
    cards = re.findall("<details.*?</details>", text, re.S)
    assert len(cards) == 12
    assert all(word in cards[0] for word in ("1 skipped", "mean weight 0.75", "the first 1 kept"))
    counts = [card.count("<header>") for card in cards]
    assert counts == sorted(counts, reverse=True)
    shown = [int(number) for number in re.findall(r"<summary>(\d+) \+", "".join(cards))]
    assert sorted(shown) != list(range(12))  # not the first of the file


@pytest.mark.parametrize(
    ("methods", "baseline", "shown"),
    [
        (["CWT"], None, "none"),
        (["CWT", "STT"], None, "hint"),
        (["CWT", "STT"], "CWT", "counts"),
        (["CWT"], "CWT", "none"),
    ],
)
def test_differences_are_shown_or_asked_for(
    methods: list[str], baseline: str | None, shown: str, tmp_path: Path
) -> None:
    runs = [str(write_run(tmp_path / method, method)) for method in methods]
    text = page(compare_runs(runs, baseline), 0)
    assert ("Paired differences" in text) is (shown != "none")
    assert ("--baseline" in text) is (shown == "hint")
    assert ("only CWT" in text) is (shown == "counts")
