"""Laws of the page for readers with a keyboard, a screen reader, weak eyes, paper, or no JavaScript (WCAG 2.1 AA)."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_folders import change_answers, write_comparison

from skipthinking.report.comparing import compare_runs
from skipthinking.report.page import page

pytest.importorskip("matplotlib")

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
AXE = Path(os.environ.get("AXE_CORE", "axe.min.js"))
WEIGHTED = {"id": "w", "question": "1 + 1?", "tokens": ["So", " 2"], "weights": [0.1, 1], "steps": [[0, 1], [1, 2]],
            "answer": "2."}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every part that a page can have."""
    folder = tmp_path_factory.mktemp("runs")
    folders = write_comparison(folder)
    change_answers(folders[0], lambda row: {"rationale": "We count.", "finished": row["gold"] != "2"})
    Path(folders[2], "annotations.jsonl").write_text(json.dumps(WEIGHTED) + "\n")
    return page(compare_runs([*folders, str(folder / "nowhere")], "CWT", margin=3), 60)


Tag = tuple[str, dict[str, str | None], tuple[str, ...]]


class _Tags(HTMLParser):
    """Every tag with its attributes and the tags that it stands in."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[Tag] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "input"):
            self.open.pop()


@pytest.fixture(scope="module")
def tags(text: str) -> list[Tag]:
    """The page's tags."""
    return _Tags(text).tags


def test_everything_has_a_name(text: str, tags: list[Tag]) -> None:
    assert ("html", {"lang": "en"}, ()) in tags
    assert re.search(r"<title>\S.*</title>", text)
    kinds = {tag for tag, *_ in tags}
    assert {"input", "select", "svg", "table", "th", "article", "details", "caption"} <= kinds
    for tag, attributes, around in tags:
        if tag in ("input", "select"):
            assert attributes.get("aria-label") or "label" in around, attributes
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
    assert len(re.findall("<table", text)) == len(re.findall(r'role="region" aria-label="[^"]+">\s*<table', text))


def test_headings_go_down_one_level_at_a_time(tags: list[Tag]) -> None:
    levels = [int(tag[1]) for tag, *_ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for tag, _, around in tags:
        if tag in ("article", "table", "form", "details"):
            assert "main" in around


def test_what_scrolls_can_be_reached_by_keyboard(text: str, tags: list[Tag]) -> None:
    scrolling = [attributes for _, attributes, _ in tags if "scroll" in (attributes.get("class") or "").split()]
    assert len(scrolling) >= 3
    assert all((one["tabindex"], one["role"]) == ("0", "region") for one in scrolling)
    assert text.count("tabindex") == len(scrolling)  # the order of focus is that of the page
    style = text[text.index("<style>") : text.index("</style>")]
    rules = [rule for rule in re.findall(r"([^{}]+)\{([^{}]*)\}", style) if re.search("overflow(-x)?: auto", rule[1])]
    assert [selector.split("*/")[-1].strip() for selector, _ in rules] == [".scroll"]


def test_page_can_be_read_without_javascript(text: str, tags: list[Tag]) -> None:
    hidden = [tag for tag, attributes, _ in tags if "hidden" in attributes]
    assert hidden == ["form"]  # the filters, which do nothing without it
    assert not any(name.startswith("on") for _, attributes, _ in tags for name in attributes)


def test_no_meaning_is_a_color_only(text: str) -> None:
    for kind, word in (
        ("right", "\u2713 right"),
        ("wrong", "\u2717 wrong"),
        ("cut_off", "\u25d0 gold answer, cut off"),
    ):
        shown = re.findall(rf'<span class="{kind}">(.*?)</span>', text)
        assert shown
        assert set(shown) == {word}
    for line in re.findall(r'<span class="chunk gone">.*', text):
        assert "<small>skipped</small>" in line


def _light(color: str) -> list[float]:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    return [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]


def _ratio(one: list[float], other: list[float]) -> float:
    """WCAG's contrast ratio of two colors."""

    def luminance(parts: list[float]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _mix(share: float, one: list[float], other: list[float]) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(one, other, strict=True)]


def test_every_color_of_text_is_readable_in_light_and_dark(text: str) -> None:
    themes = [dict(re.findall(r"--(\w+): (#\w{3,6});", part)) for part in re.findall(r":root \{(.*?)\}", text, re.S)]
    assert len(themes) == 2
    assert themes[0].keys() == themes[1].keys()
    tint = re.search(r"\.chunk \{[^}]*var\(--ink\) (\d+)%", text, re.S)
    assert tint
    for theme in ({name: _light(color) for name, color in theme.items()} for theme in themes):
        for name in ("ink", "dim", "right", "wrong", "cut", *(f"k{number}" for number in range(8))):
            for ground in ("card", "page"):
                assert _ratio(theme[name], theme[ground]) >= 4.5, (name, ground)
        for ground in ("card", "page"):  # the legend stands on the page
            chunk = _mix(int(tint[1]) / 100, theme["ink"], theme[ground])
            assert _ratio(theme["ink"], chunk) >= 4.5
            assert _ratio(theme["dim"], chunk) >= 4.5
            for weight in (0, 0.25, 0.5, 0.75, 1):
                assert _ratio(theme["ink"], _mix(weight, theme["weight"], theme[ground])) >= 4.5, weight


def test_paper_is_light_and_has_everything(text: str) -> None:
    assert re.findall(r"@media ([^{]*prefers-color-scheme: dark[^{]*) \{", text) == [
        "screen and (prefers-color-scheme: dark)"
    ]
    rules = text[text.index("@media print") : text.index("</style>")]
    assert "form { display: none }" in rules
    assert ".scroll { overflow: visible" in rules
    assert re.search(r'addEventListener\("beforeprint".*open = true', text)


# ------------------------------------------------------------------------------------------------- browser

PROBE = """<script>
const seen = {errors: []};
onerror = message => { seen.errors.push(message) };
const visible = selector => all(selector).filter(one => one.getClientRects().length);
const use = (id, value) => { by(id).value = value; by("filter").dispatchEvent(new Event("input")); };
const kinds = () => visible("article").map(one => one.dataset.test[0] + one.dataset.kind[0]).sort().join(" ");
seen.all = kinds();
use("outcome", "mixed"); seen.mixed = kinds();
use("outcome", "0-"); seen.first_wrong = kinds();
use("test", "words"); seen.words = kinds(); seen.count = by("count").textContent;
use("test", ""); use("outcome", ""); use("find", "3 + 1"); seen.matches = kinds();
use("find", ""); use("finished", "no"); seen.cut_off = kinds();
use("outcome", "0+"); seen.cut_off_and_right = kinds(); use("outcome", "");
use("finished", ""); all(".show")[1].checked = false; use("find", "");
seen.answers = visible(".answer").length;
seen.overflow = document.documentElement.scrollWidth - innerWidth;
seen.sideways = all(".scroll").map(one => one.scrollWidth > one.clientWidth);
seen.hint = visible(".swipe").length;
seen.ground = getComputedStyle(document.body).backgroundColor;
seen.charts = visible("svg").every(one => one.getBBox().width <= one.viewBox.baseVal.width);
parent.postMessage(seen, "*");
</script>"""
HOST = """<!DOCTYPE html><script>
const seen = {};
onmessage = message => {
  seen[[frames[0], frames[1]].indexOf(message.source)] = message.data;
  document.title = JSON.stringify(seen);
};
</script><iframe src="page.html" width="400" height="800"></iframe>
<iframe src="page.html" width="1280" height="800"></iframe>
"""


def _browse(path: Path, dark: bool, milliseconds: int) -> str:
    """The title of a page, after its scripts ran in a headless browser."""
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    line = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}",
        f"--blink-settings=preferredColorScheme={int(not dark)}", f"--virtual-time-budget={milliseconds}",
        "--window-size=1800,900", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=240)
    seen = re.search("<title>(.*?)</title>", done.stdout, re.S)
    assert seen, done.stderr
    return seen[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")


@pytest.fixture(scope="module")
def seen(text: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool, int], dict[str, Any]]:
    """What a script sees in the page, by theme and width."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(text.replace("</body>", f"{PROBE}</body>"))
    (folder / "host.html").write_text(HOST)
    found: dict[bool, dict[str, Any]] = {}

    def at(dark: bool, width: int) -> dict[str, Any]:
        if dark not in found:
            found[dark] = json.loads(_browse(folder / "host.html", dark, 3000))
        return dict(found[dark][{400: "0", 1280: "1"}[width]])

    return at


def test_filters_work_in_a_browser(seen: Callable[[bool, int], dict[str, Any]]) -> None:
    found = seen(False, 1280)
    # On sums CWT's first seed was right on 0, 1 (cut off) and 4, the other method on 0 and 2; only CWT answered words.
    assert found["all"] == "sm sm sm sr sw wr ww"
    assert found["mixed"] == "sm sm sm"
    assert found["first_wrong"] == "sm sw ww"
    assert (found["words"], found["count"]) == ("ww", "1 examples")
    assert found["matches"] == "sw"
    assert found["cut_off"] == "sm"
    assert found["cut_off_and_right"] == ""
    assert found["answers"] == 5 + 2  # without the second method's
    assert found["errors"] == []
    assert found["charts"]


@pytest.mark.parametrize("width", [400, 1280])
def test_page_fits_its_window_and_follows_the_theme(width: int, seen: Callable[[bool, int], dict[str, Any]]) -> None:
    light, dark = seen(False, width), seen(True, width)
    assert light["overflow"] <= 0
    assert light["ground"] == "rgb(246, 246, 244)"
    assert dark["ground"] == "rgb(21, 24, 28)"
    if width == 400:
        assert all(light["sideways"][:2])  # the tables scroll in the page, under a line that says so
        assert light["hint"] == 2
    else:
        assert light["hint"] == 0


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_fault(dark: bool, text: str, tmp_path: Path) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: run `npm pack axe-core`, unpack it, and set AXE_CORE to its axe.min.js")
    script = """for (const one of all("details")) one.open = true;
    axe.run().then(found => { document.title = JSON.stringify([found.passes.length, found.violations]); });"""
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", f"<script>{AXE.read_text()}</script><script>{script}</script></body>"))
    passes, violations = json.loads(_browse(path, dark, 60_000))
    assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in violations] == []
    assert passes > 20
