"""Laws of the HTML report: it says what the table says, needs nothing else, and works in a browser."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folders import EVIL, write_comparison, write_run

from skipthinking.__main__ import main
from skipthinking.report.canvas import COLORS, SHAPES, Chart
from skipthinking.report.charts import draw_charts
from skipthinking.report.comparing import compare_runs
from skipthinking.report.page import page
from skipthinking.report.tables import cells

pytest.importorskip("matplotlib")


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """The runs of :func:`write_comparison`."""
    return write_comparison(tmp_path)


class Seen(HTMLParser):
    """Tags, attributes and text of a page; closing tags must fit."""

    VOID = ("meta", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))


def test_page_is_one_file_that_asks_for_nothing(folders: list[str]) -> None:
    text = page(compare_runs(folders), 60)
    seen = Seen(text)
    for tag, attributes in seen.tags:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        assert not {"src", "href", "srcset", "data"} & attributes.keys()
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_no_text_of_a_run_becomes_markup(folders: list[str]) -> None:
    for file in ("predictions.jsonl", "annotations.jsonl"):
        path = Path(folders[0], file)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row.update(question=EVIL, answer=EVIL)
            row["stages" if "stages" in row else "steps"] = [[EVIL, EVIL]] if "stages" in row else [EVIL] * 3
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = Seen(page(compare_runs(folders, allow_different_tests=True), 60))
    assert sum(tag == "script" for tag, _ in seen.tags) == 1
    assert sum(EVIL in words for _, words in seen.words) > 10


def test_page_shows_the_table_the_notes_and_what_is_left_out(folders: list[str], tmp_path: Path) -> None:
    comparison = compare_runs([*folders, str(tmp_path / "nowhere")], "CWT")
    words = [text.strip() for _, text in Seen(page(comparison, 60)).words]
    headings, rows = cells(comparison)
    for cell in [*headings, *(cell for row in rows for cell in row)]:
        assert cell in words
    assert any("on the same test examples" in text for text in words)
    assert any("nowhere" in text for text in words)


def test_skipped_chunks_are_struck_out(folders: list[str]) -> None:
    text = page(compare_runs(folders), 60)
    chunks = re.findall(r'<span class="chunk( gone)?"><b>\d</b>(.*?)\n', text)
    assert [bool(gone) for gone, _ in chunks] == [True, False]
    assert ["We see." in chunks[0][1], "one is 2." in chunks[1][1]] == [True, True]
    assert re.findall(r'class="step (\w+)"', chunks[0][1] + chunks[1][1]) == [
        "red", "green", "dark_orange"  # 0.9, 0.03 and 0.3 nats
    ]  # fmt: skip


def test_weights_are_a_heat_map(folders: list[str]) -> None:
    row = {"id": "a", "question": "1 + 1?", "tokens": ["One", " and", " <b>", " two"], "weights": [0.1, 0, 1, 0.55],
           "steps": [[0, 2], [2, 4]], "answer": "So 2."}  # fmt: skip
    Path(folders[0], "annotations.jsonl").write_text(json.dumps(row) + "\n")
    text = page(compare_runs(folders), 0)
    shown = re.findall(r'style="--w: ([\d.]+)" title="([\d.]+)">(.*?)</span>', text)
    assert shown == [("0.1", "0.1", "One"), ("0", "0", " and"), ("1", "1", " &lt;b&gt;"), ("0.55", "0.55", " two")]
    assert 'class="chunk' not in text
    for wrong in ({"weights": [0.1, 0, 1]}, {"weights": [2, 0, 0, 0]}, {"steps": [[0, 9]]}, {"tokens": [1, 2, 3, 4]}):
        Path(folders[0], "annotations.jsonl").write_text(json.dumps({**row, **wrong}) + "\n")
        assert "--w: 0.55" not in page(compare_runs(folders), 0)


def test_cuts_of_long_traces_are_struck_out(folders: list[str]) -> None:
    row = {"id": "a", "question": "1 + 1?", "steps": ["One.", "So 2.", "Wait."], "nll": [0.1, 0.2, 0.3], "kept": [0, 1],
           "chunks": [[0, 1], [1, 2], [2, 3]], "cut": 2, "pair": [-1.5, -9.0], "answer": "2."}  # fmt: skip
    dropped = {**row, "cut": None, "kept": [], "pair": None}
    Path(folders[0], "annotations.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(dropped) + "\n")
    text = page(compare_runs(folders), 0)
    assert "<small>3 steps, the first 2 kept</small>" in text
    assert "<small>3 steps, no valid prefix, dropped</small>" in text
    gone = [bool(gone) for gone in re.findall(r'<span class="chunk( gone)?"><b>\d</b><span', text)]
    assert gone == [False, False, True, True, True, True]


def test_page_shows_as_many_answers_as_asked_for(folders: list[str]) -> None:
    assert len(re.findall("<article", page(compare_runs(folders), 60))) == 5 + 2
    assert len(re.findall("<article", page(compare_runs(folders), 1))) == 1 + 1
    assert "<article" not in page(compare_runs(folders), 0)


def test_same_runs_give_the_same_bytes(folders: list[str]) -> None:
    assert page(compare_runs(folders), 60) == page(compare_runs(folders), 60)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"step,train/loss\n1,nan\n2,x\n", b'{"id": 1}\n', b"[[\n"])
def test_damaged_logs_and_annotations_cost_a_picture_only(damage: bytes, folders: list[str]) -> None:
    for folder in folders:
        for name in ("metrics.csv", "annotations.jsonl"):
            Path(folder, name).write_bytes(damage)
    text = page(compare_runs(folders), 60)
    assert "training loss" not in text
    assert 'class="chunk' not in text


# -------------------------------------------------------------------------------------------------- charts


def test_ticks_are_in_order_and_inside(folders: list[str]) -> None:
    for chart in draw_charts(compare_runs(folders)):
        for axis in (chart.figure.axes[0].xaxis, chart.figure.axes[0].yaxis):
            low, high = axis.get_view_interval()
            places = [place for place in axis.get_ticklocs() if low <= place <= high]
            assert places == sorted(places)
            assert 3 <= len(places) <= 12
            for place, text in zip(places, axis.get_major_formatter().format_ticks(places), strict=True):
                assert float(text.replace("\u2212", "-")) == pytest.approx(place, rel=0.01)


def _points(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """Points of a chart's lines and dots by their tip."""
    lines = {line.get_gid(): line.get_xydata().tolist() for line in chart.figure.axes[0].lines}
    return {tip: [tuple(point) for point in lines[gid]] for gid, tip in chart.tips.items()}


def test_dots_and_curves_are_the_numbers_of_the_runs(folders: list[str]) -> None:
    comparison = compare_runs(folders)
    charts = draw_charts(comparison)
    assert [chart.title for chart in charts] == [
        "sums: accuracy and length",
        "words: accuracy and length",
        "training loss",
    ]  # a single value is no curve
    dots = _points(charts[0])
    assert [tip.split(":")[0] for tip in dots] == ["CWT, seed 0", "CWT, seed 1", "CWT", EVIL]
    one, other, mean, second = (point for (point,) in dots.values())
    assert mean[0] < second[0]  # fewer tokens
    assert mean == pytest.approx(((one[0] + other[0]) / 2, (one[1] + other[1]) / 2))
    assert second == pytest.approx((comparison.rows[1].new_tokens, 100 * comparison.rows[1].accuracy))
    axes = charts[0].figure.axes[0]
    for x, y in (one, other, mean, second):
        assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
        assert axes.get_ylim()[0] < y < axes.get_ylim()[1]
    crosses = [lines.get_segments() for lines in axes.collections]
    row = comparison.rows[0]
    assert crosses[0][0].ravel() == pytest.approx([row.new_tokens_low, mean[1], row.new_tokens_high, mean[1]])
    assert crosses[1][0].ravel() == pytest.approx([mean[0], 100 * row.accuracy_low, mean[0], 100 * row.accuracy_high])
    curves = [line.get_xydata().tolist() for line in charts[2].figure.axes[0].lines]
    assert len(curves) == 4
    assert [len(curve) for curve in curves] == [30] * 4
    assert curves[0] == [[step, 4 / (step + 1)] for step in range(30)]


def test_charts_say_their_numbers_and_follow_the_theme(folders: list[str]) -> None:
    text = page(compare_runs(folders), 0)
    tips = re.findall("<title>(.*?)</title>", text)
    assert "CWT, seed 1: 40.0%, 14.0 new tokens" in tips
    assert 'aria-label="training loss: train/loss over optimizer steps"' in text
    charts = "".join(re.findall("<svg.*?</svg>", text, re.S))
    assert {f"var(--{name})" for name in ("k0", "k1", "ink", "dim", "card")} == set(re.findall(r"var\(.*?\)", charts))
    assert not re.search(r"#[0-9a-f]{6}[;\"]", charts)
    ids = re.findall(r' id="(.*?)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'xlink:href="#(.*?)"', text)) <= set(ids)


@pytest.mark.parametrize("option", ["--html", "--figures"])
def test_missing_matplotlib_is_named_in_one_line(
    option: str, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", *folders, option, str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: Expected matplotlib")
    assert "pip install 'skipthinking[report]'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- figures


def test_command_writes_page_and_figures(folders: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    words = ["--html", str(out / "report.html"), "--figures", str(out), "--baseline", "CWT"]
    assert main(["compare", *folders, *words]) == 0
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(made) == {
        "report.html",
        *(f"{n}.{k}" for n in ("accuracy_sums", "accuracy_words", "difference_sums", "loss") for k in ("svg", "pdf")),
    }  # fmt: skip
    assert made["loss.pdf"].startswith(b"%PDF")
    assert b"<svg" in made["accuracy_sums.svg"]
    assert main(["compare", *folders, *words]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made


def test_no_two_methods_look_alike_in_charts_or_names(tmp_path: Path) -> None:
    names = [f"m{number:02}" for number in range(20)]
    comparison = compare_runs([str(write_run(tmp_path / name, name)) for name in names])
    text = page(comparison, 0)
    chips = {name: set(re.findall(rf'<span class="chip (k\d s\d)">{name}</span>', text)) for name in names}
    assert all(len(looks) == 1 for looks in chips.values())
    assert len({look for looks in chips.values() for look in looks}) == 20
    lines = {line.get_label()[:3]: line for line in draw_charts(comparison)[0].figure.axes[0].lines}
    for name in names:
        look = f"k{COLORS.index(lines[name].get_color())} s{SHAPES.index(lines[name].get_marker())}"
        assert chips[name] == {look}
    assert text.index('<p class="methods">') < text.index("<svg")  # the legend of all charts
