"""Laws of annotations.jsonl: what a row may lack, how its numbers are drawn, and that no damaged row is drawn."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from skipthinking.__main__ import main
from skipthinking.records import UserError
from skipthinking.report.annotations import draw, read_annotations
from skipthinking.report.comparing import compare_runs

ROW = {"id": "a", "question": "1 + 1?", "steps": ["We see.", "1 + 1 = 2."], "answer": "So 2."}
PER_STEP = {**ROW, "per_step": {"entropy": [1.25, 0.3], "count": [120, 2e-5]}}
TOKENS = {**ROW, "tokens": ["We", " see.", " 1 + 1", " = 2."], "steps": [[0, 2], [2, 4]]}
CHUNKED = {
    **ROW,
    "nll": [0.5, 0.1],
    "tokens": [2, 6],
    "chunks": [[0, 1], [1, 2]],
    "kept": [1],
    "cut": 1,
    "pair": [-1.0, -2.0],
}
WEIGHTED = {**TOKENS, "weights": [0, 0.25, 1, 0.5], "difficulty": [1.0, 0.5], "given": [1, 0]}
PER_TOKEN = {**TOKENS, "per_token": {"logit": [-4, 0, 2, 4], "mask": [0, 1, 1, 0]}, "lines": ["One."]}


def _shown(row: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert main(["show", "--file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert main(["show", str(tmp_path)]) == 0  # its folder
    assert capsys.readouterr().out == shown
    return shown.splitlines()


def _on_page(row: dict[str, Any], tmp_path: Path) -> str:
    pytest.importorskip("matplotlib")
    from skipthinking.report.page import page

    folder = write_run(tmp_path / "run")
    (folder / "annotations.jsonl").write_text(json.dumps(row) + "\n")
    (drawn,) = re.findall("<details.*?</details>", page(compare_runs([str(folder)]), 0), re.S)
    return str(drawn)


def test_steps_are_drawn_with_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.strip() for line in _shown(PER_STEP, tmp_path, capsys)]
    assert lines == [
        "a  (2 steps)",
        "1 + 1?",
        "[1] We see. entropy 1.25, count 120",
        "[2] 1 + 1 = 2. entropy 0.3, count 2e-05",
        "So 2.",
        "",
    ]
    text = _on_page(PER_STEP, tmp_path)
    assert '">We see.</span><sub>entropy 1.25, count 120</sub>' in text
    assert '">1 + 1 = 2.</span><sub>entropy 0.3, count 2e-05</sub>' in text


def test_tokens_are_shaded_by_values_scaled_to_0_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = draw(PER_TOKEN)
    assert not drawing.steps  # the lines of tokens are the steps
    shades = {name: [token.shade for line in lines for token in line.pieces] for name, lines in drawing.tokens.items()}
    assert shades == {"logit": [0, 0.5, 0.75, 1], "mask": [0, 1, 1, 0]}  # -4..4 becomes 0..1; 0..1 stays
    lines = _shown(PER_TOKEN, tmp_path, capsys)
    assert lines[2:8] == ["  logit:", "  We see.", "   1 + 1 = 2.", "  mask:", "  We see.", "   1 + 1 = 2."]
    assert any(line.startswith("token logit, scaled to 0..1: up to 0.1") for line in lines)
    text = _on_page(PER_TOKEN, tmp_path)
    assert re.findall(r'--w: ([\d.]+)" title="([-\d.]+)"', text)[:4] == [
        ("0.0", "-4"), ("0.5", "0"), ("0.75", "2"), ("1.0", "4")
    ]  # fmt: skip


def test_equal_values_have_one_shade() -> None:
    assert [token.shade for token in draw({**PER_TOKEN, "per_token": {"x": [3, 3, 3, 3]}}).tokens["x"][0].pieces] == [
        0,
        0,
    ]


def test_tokens_of_steps_that_are_texts_follow_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**PER_TOKEN, "steps": ROW["steps"], "kept": [0]}
    lines = [line.strip() for line in _shown(row, tmp_path, capsys)]
    assert lines[2:6] == ["[1] We see.", "[2] 1 + 1 = 2.   skipped", "logit:", "We see. 1 + 1 = 2."]


def test_lines_stand_under_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {**ROW, "lines": ["[b]One[/b].", "Two."]}
    assert [line.strip() for line in _shown(row, tmp_path, capsys)][4:7] == ["So 2.", "[b]One[/b].", "Two."]
    assert re.findall('<p class="note">(.*?)</p>', _on_page(row, tmp_path)) == ["[b]One[/b].", "Two."]


@pytest.mark.parametrize(
    ("change", "extent", "kept"),
    [
        ({}, "2 steps", [True, True]),
        ({"kept": [1]}, "2 steps, 1 skipped", [False, True]),  # of steps
        ({"kept": []}, "2 steps, 2 skipped", [False, False]),
        ({"chunks": [[0, 2]]}, "1 chunks", [True]),
        ({"chunks": [[0, 2]], "kept": []}, "1 chunks, 1 skipped", [False]),
    ],
)
def test_only_what_is_not_kept_is_struck_out(
    change: dict[str, Any], extent: str, kept: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {**PER_STEP, **change}
    assert [line.kept for line in draw(row).steps] == kept
    lines = _shown(row, tmp_path, capsys)
    assert lines[0] == f"a  ({extent})"
    assert sum(line.endswith("skipped") for line in lines) == kept.count(False)
    assert _on_page(row, tmp_path).count(" gone") == kept.count(False)
    if "chunks" not in change:
        tokens = draw({**PER_TOKEN, **change}).tokens["mask"]
        assert [line.kept for line in tokens] == kept


NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "wrong", "key"),
    [
        *((PER_STEP, {"per_step": values}, "per_step") for values in (
            [1, 2], {"x": [1]}, {"x": [1, 2, 3]}, {"x": [1, "2"]}, {"x": [1, None]}, {"x": [1, True]}, {"x": [1, NAN]},
            {"x": 1}, None,
        )),
        *((PER_TOKEN, {"per_token": values}, "per_token") for values in (
            [1] * 4, {"x": [1] * 3}, {"x": [1, 1, 1, "1"]}, {"x": [1, 1, 1, float("inf")]}, None,
        )),
        (ROW, {"per_token": {"x": [1, 2]}}, "per_token"),  # there are no tokens
        (CHUNKED, {"per_token": {"x": [1, 2]}}, "per_token"),  # only their counts
        (CHUNKED, {"tokens": [1, 2, 3]}, "tokens"),
        *((ROW, {"lines": lines}, "lines") for lines in ("One.", [1], None)),
        *((ROW, {"steps": steps}, "steps") for steps in ("One.", [1], [[0, 1]], None, [["One."]], ["One.", [0, 0]])),
        *((TOKENS, {"steps": steps}, "steps") for steps in ([[0, 5]], [[2, 1]], [[-1, 1]], [[0]], [[0, 1.0]])),
        *((ROW, {"kept": kept}, "kept") for kept in ([2], [-1], ["0"], [True], 1)),
        *((ROW, {"nll": nll}, "loss") for nll in ([1], [1, -1], [1, NAN], [1, "1"])),
        *((ROW, {"chunks": chunks}, "chunks") for chunks in ([[0, 3]], [[0]], [0, 1], [[1, 0]])),
        *((CHUNKED, {"pair": pair}, "pair") for pair in ([-1.0], [-1, -2], 1)),
        (CHUNKED, {"cut": "1"}, "cut"),
        *((WEIGHTED, {"weights": weights}, "weights") for weights in ([0, 1], [0, 0, 0, 2], [0, 0, 0, "1"])),
        *((WEIGHTED, {"tokens": tokens}, "tokens") for tokens in ([1, 2, 3, 4], "We s")),
        *((WEIGHTED, {"given": given}, "given") for given in ([1], ["0"], 0)),
        (WEIGHTED, {"difficulty": [1.0]}, "difficulty"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_line(
    row: dict[str, Any], wrong: dict[str, Any], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "annotations.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, **wrong}) + "\n")
    assert main(["show", "--file", str(path)]) == 2
    err = capsys.readouterr().err
    assert f"{path}:2" in err
    assert key in err
    assert err.count("\n") == 1


def test_no_damage_crashes_a_drawing(tmp_path: Path) -> None:
    """Values exchanged at random: a row is drawn, or refused."""
    rng, path, refused = random.Random(0), tmp_path / "annotations.jsonl", 0
    values = [
        None,
        [],
        {},
        0,
        1,
        -1.5,
        True,
        "x",
        ["x"],
        [0],
        [1, 0],
        [[0, 1]],
        [[0, 1], [1, 2]],
        {"x": [1, 2]},
        [0.1, 0.2],
    ]
    for _ in range(1500):
        row = dict(rng.choice([PER_STEP, PER_TOKEN, CHUNKED, WEIGHTED]))
        for key in rng.sample([*row, "per_step", "per_token", "lines"], 2):
            row[key] = rng.choice([*values, PER_TOKEN.get(key), CHUNKED.get(key)])
        path.write_text(json.dumps(row) + "\n")
        try:
            rows = read_annotations(path)
        except UserError:
            refused += 1
            continue
        draw(rows[0])
    assert 300 < refused < 1500
