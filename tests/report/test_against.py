"""Laws of a method against the baseline: pairing by warm-up, margins, tokens saved, scores."""

from __future__ import annotations

import csv
import io
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from skipthinking.__main__ import main
from skipthinking.evaluation.intervals import spread
from skipthinking.report.against import e3_score, pareto_front
from skipthinking.report.comparing import Comparison, compare_runs
from skipthinking.report.tables import FORMATS, notes

RIGHT = {
    ("A", 0): [1, 1, 1, 1, 0, 1],
    ("A", 1): [1, 1, 0, 1, 0, 1],
    ("B", 0): [1, 0, 1, 1, 0, 1],
    ("B", 1): [1, 0, 0, 1, 0, 0],
}


def warm_up(folder: Path) -> str:
    write_run(folder, "CWT", seed=int(folder.name[-1]), correct=[1, 0, 0, 0, 0, 1])
    (folder / "metrics.csv").write_text("step,train/target_tokens,train/context_tokens\n1,100,10\n")
    return str(folder / "checkpoints" / "last.ckpt")


def compared(tmp_path: Path, starts: dict[tuple[str, int], str], **options: float) -> Comparison:
    for (method, seed), right in RIGHT.items():
        settings = {"start_from": starts[method, seed]} if (method, seed) in starts else {}
        tokens = 10 if method == "A" else 20
        write_run(tmp_path / f"{method}-{seed}", method, seed, right, tokens=tokens, settings=settings)
    return compare_runs([str(tmp_path / f"{method}-{seed}") for method, seed in RIGHT], "B", **options)


@pytest.mark.parametrize("exists", [True, False])
def test_runs_from_one_warm_up_are_paired_by_it_whatever_their_seeds(exists: bool, tmp_path: Path) -> None:
    paths = [tmp_path / "warm-0", tmp_path / "warm-1"]
    first, second = (warm_up(path) if exists else str(path / "checkpoints" / "last.ckpt") for path in paths)
    # Seed 0 of A goes with seed 1 of B.
    comparison = compared(tmp_path, {("A", 0): first, ("A", 1): second, ("B", 0): second, ("B", 1): first})
    row = comparison.rows[0]
    differences = np.array([RIGHT["A", 0], RIGHT["A", 1]]) - np.array([RIGHT["B", 1], RIGHT["B", 0]])
    assert row.difference is not None
    assert row.difference_low == pytest.approx(row.difference - float(spread(differences.astype(float)).half))
    assert row.detectable == pytest.approx(float(spread(differences.astype(float)).detectable))
    assert row.seeds_paired
    assert any(note == "Seed by seed against the run of B from the same warm-up: A." for note in notes(comparison))


def test_a_run_is_paired_with_the_run_that_it_started_from(tmp_path: Path) -> None:
    starts = {}
    for seed in (0, 1):
        starts["A", seed] = str(tmp_path / f"B-{seed}" / "checkpoints" / "last.ckpt")
    assert compared(tmp_path, starts).rows[0].seeds_paired


@pytest.mark.parametrize("shared", ["nothing", "one for all", "one pair"])
def test_other_runs_are_not_paired(shared: str, tmp_path: Path) -> None:
    start = str(tmp_path / "warm-0" / "checkpoints" / "last.ckpt")
    starts = {
        "nothing": {},
        "one for all": dict.fromkeys(RIGHT, start),
        "one pair": {key: start if key[1] == 0 else f"{key[0]}.ckpt" for key in RIGHT},
    }[shared]
    row = compared(tmp_path, starts).rows[0]
    ours, theirs = (np.array([RIGHT[method, seed] for seed in (0, 1)], dtype=float) for method in "AB")
    assert row.difference is not None
    assert row.difference_low == pytest.approx(row.difference - float(spread(ours, theirs).half))
    assert not row.seeds_paired


def test_seeds_of_one_origin_and_single_seeds_are_named(tmp_path: Path) -> None:
    """Two seeds of A from one warm-up, one seed of B: the interval has no variance between warm-ups or seeds of B."""
    start = str(tmp_path / "warm-0" / "checkpoints" / "last.ckpt")
    comparison = compared(tmp_path, {("A", seed): start for seed in (0, 1)})
    fewer = compare_runs([str(tmp_path / name) for name in ("A-0", "A-1", "B-0")], "B")
    ours, theirs = (np.array([RIGHT[key] for key in keys], dtype=float) for keys in ((("A", 0), ("A", 1)), (("B", 0),)))
    row = fewer.rows[0]
    assert row.difference is not None
    assert row.difference_low == pytest.approx(row.difference - float(spread(ours, theirs).half))
    named = "All seeds come from one run, and the intervals say nothing about others: A."
    single = "One seed, so differences hold for that run and not for other seeds: B."
    assert (named in notes(comparison), single in notes(comparison)) == (True, False)
    assert (named in notes(fewer), single in notes(fewer)) == (True, True)


@pytest.mark.parametrize(("margin", "shown"), [(60.0, "not shown"), (99.0, "yes")])
def test_no_worse_is_a_lower_end_above_minus_the_margin(
    margin: float, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write_run(tmp_path / "a", "A", correct=[1, 0, 1, 1])
    base = write_run(tmp_path / "b", "B", correct=[1, 1, 0, 1])
    words = ["compare", str(ours), str(base), "--baseline", "B", "--margin", str(margin)]
    assert main([*words, "--format", "csv"]) == 0
    row, reference = csv.DictReader(io.StringIO(capsys.readouterr().out))
    low = -1.96 * (2 / 3 / 4) ** 0.5  # differences 0, -1, 1, 0: their variance is 2/3
    assert float(row["difference_low"]) == pytest.approx(low, abs=1e-4)
    assert (row["no_worse"], reference["no_worse"]) == (str(100 * low > -margin), "")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert shown in out.splitlines()[2]
    assert f"less than {margin:g} points below B's" in out


@pytest.mark.parametrize("words", [["--margin", "2"], ["--baseline", "A", "--margin", "0"], ["--margin", "-1"]])
def test_a_margin_without_a_baseline_or_size_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(write_run(tmp_path / "a", "A")), *words]) == 2
    assert "--margin" in capsys.readouterr().err


def test_tokens_saved_and_front_are_in_every_format(tmp_path: Path) -> None:
    comparison = compared(tmp_path, {})
    ours, base = comparison.rows
    assert ours.saved == pytest.approx(1 - 12.5 / 22.5)  # tokens 10 to 15 and 20 to 25
    assert (base.saved, base.e3, base.detectable) == (None, None, None)
    assert (ours.pareto, base.pareto) == (True, False)
    for name, text in {name: show(comparison) for name, show in FORMATS.items()}.items():
        for heading, key in (("saved %", "saved"), ("E3", "e3"), ("front", "pareto"), ("MDE", "detectable")):
            assert (key if name == "csv" else heading.replace("%", "\\%") if name == "latex" else heading) in text
    assert "One seed" not in FORMATS["table"](comparison)
    assert "Two seeds say little" in FORMATS["table"](comparison)


@pytest.mark.parametrize(("answers", "saved"), [(4, 1 - 1.5 / 6.5), (1, None)])
def test_an_answer_may_have_no_tokens_but_not_all_of_them(tmp_path: Path, answers: int, saved: float | None) -> None:
    """Answers of 0, 1, 2 and 3 tokens against 5, 6, 7 and 8; the first of each alone has no ratio."""
    runs = [
        write_run(tmp_path / name, name, correct=[1, 0, 1, 0][:answers], tokens=n) for name, n in (("A", 0), ("B", 5))
    ]
    row = compare_runs(map(str, runs), "B").rows[0]
    assert row.saved == (None if saved is None else pytest.approx(saved))
    assert (row.e3 is None) == (saved is None)


def test_e3_is_the_harmonic_mean_of_gains() -> None:
    assert e3_score(0.9 / 1.9, 0.5, 10.0) == pytest.approx(1 / (0.5 / 0.9 + 0.5 / 10))
    for accuracy, shorter in itertools.product((0.2, 0.7), (0.5, 3.0)):
        assert e3_score(accuracy, accuracy, 1.0) == pytest.approx(1)  # the baseline itself
        assert e3_score(accuracy, accuracy, shorter) == pytest.approx(1 / (accuracy + (1 - accuracy) / shorter))
    assert e3_score(0.0, 0.5, 2.0) == pytest.approx(e3_score(1e-12, 0.5, 2.0), abs=1e-9)
    assert e3_score(1.0, 0.5, 2.0) == pytest.approx(e3_score(1 - 1e-12, 0.5, 2.0))
    assert e3_score(0.5, 1.0, 2.0) is None
    assert e3_score(0.5, 0.0, 2.0) is None


def test_the_front_is_what_a_search_over_all_pairs_leaves() -> None:
    rng = random.Random(0)
    for _ in range(200):
        points = [(rng.randrange(4) / 4, float(rng.randrange(4))) for _ in range(rng.randrange(1, 7))]
        front = pareto_front(points)
        assert any(front)
        for (accuracy, tokens), on_front in zip(points, front, strict=True):
            better = [(a > accuracy and t <= tokens) or (a >= accuracy and t < tokens) for a, t in points]
            assert on_front == (not any(better))


def test_no_interval_of_tokens_saved_without_a_spread(tmp_path: Path) -> None:
    """One answer per run, or answers of one length, say nothing about other answers."""
    for method, tokens in (("A", 10), ("B", 20)):
        write_run(tmp_path / method, method, 0, [1], tokens=tokens)
    comparison = compare_runs([str(tmp_path / method) for method in "AB"], "B")
    row = comparison.rows[0]
    assert (row.saved, row.saved_low, row.saved_high) == (0.5, None, None)
    (line, _) = csv.DictReader(io.StringIO(FORMATS["csv"](comparison)))
    assert (line["saved"], line["saved_low"], line["saved_high"]) == ("0.5", "", "")
    assert "| 50.0 |" in FORMATS["markdown"](comparison)


def test_a_difference_lies_between_minus_100_and_100_points(tmp_path: Path) -> None:
    for seed, right in enumerate(([1, 1, 0], [0, 0, 0])):  # two seeds, as far apart as can be: 12.7 standard errors
        write_run(tmp_path / f"A-{seed}", "A", seed, right)
        write_run(tmp_path / f"B-{seed}", "B", seed, [0, 1, 0])
    comparison = compare_runs([str(path) for path in sorted(tmp_path.iterdir())], "B")
    assert "| +0.0 (-100.0 to +100.0) |" in FORMATS["markdown"](comparison)
