"""Draws the picture of the README: a rationale with its skipped chunks struck out, and accuracy against tokens.

The rationale is the first training example of ``quickstart.yaml`` (2026-11-27, seed 0), as ``annotate`` writes it: the
first line of the run's annotations.jsonl is ``figures/rationale.jsonl``. The points are those of the table of
``suites/skip.yaml`` in the log, README.md.

    python experiments/first_page.py
"""

from __future__ import annotations

import json
import re
import textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PICTURE = HERE / "figures" / "first_page.svg"
METHODS = {
    "full_cot": "full rationales",
    "stt": "STT",
    "no_skip": "no skips",
    "random_skip": "random skips",
    "answer_only": "answers alone",
}
_STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 15px; fill: #1f2328 }
.title { font-weight: 600 } .dim { fill: #59636e } .small { font-size: 13px } .end { text-anchor: end }
.middle { text-anchor: middle } .struck { fill: #59636e; text-decoration: line-through }
.ours { fill: #0a58ad; font-weight: 600 }
.card { fill: #ffffff; stroke: #d1d9e0 } .grid { stroke: #d1d9e0 } .dot { fill: #59636e } .dot.ours { fill: #0a58ad }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .dim, .struck { fill: #9198a1 } .ours { fill: #6cb6ff } .card { fill: #0d1117; stroke: #3d444d }
.grid { stroke: #3d444d } .dot { fill: #9198a1 } .dot.ours { fill: #6cb6ff }
}
"""


def read_log(log: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Reads accuracy and new tokens of every task and method from the log's table of ``suites/skip.yaml``.

    A row, where an empty first cell repeats the task::

        | arithmetic | full_cot | 97.0% (94.5 to 99.0) | | 129.7 | | 4.3%, 145.1 tokens | 5.7M |
    """
    table = log.split("**Does skipping pay?**")[1].split("\n\n")[1]
    results: dict[str, dict[str, tuple[str, str]]] = {}
    task = ""
    for line in table.splitlines()[2:]:
        first, method, accuracy, _, tokens, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        task = first.split(",")[0] or task
        if percent := re.match(r"([\d.]+)% \(", accuracy):
            results.setdefault(task, {})[re.split("[,:]", method)[0]] = (percent[1], tokens)
    return results


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _rationale(row: dict) -> list[str]:
    """The example; chunks that the search removed are struck through."""
    parts = [_text(24, 38, "A teacher's rationale after the skip search", "title")]
    lines = textwrap.wrap(row["question"], 72)
    parts += [_text(24, 66 + 20 * number, line, "dim") for number, line in enumerate(lines)]
    y = 82 + 20 * len(lines)
    for number, (first, end) in enumerate(row["chunks"]):
        kind = "" if number in row["kept"] else "struck"
        parts.append(_text(24, y, f"[{number + 1}]", "dim small"))
        parts.append(_text(54, y, " ".join(row["steps"][first:end]), kind))
        y += 26
    return [*parts, _text(54, y, row["answer"])]


def _points(results: dict[str, tuple[str, str]]) -> list[str]:
    """Accuracy, from 0 to 100%, against new tokens per answer, from 0 to 160."""
    left, right, top, bottom = 640, 968, 70, 340
    parts = [_text(left - 44, 38, "Arithmetic stories, mean of three seeds", "title")]
    for percent in (0, 25, 50, 75, 100):
        y = bottom - (bottom - top) * percent / 100
        parts.append(f'<path class="grid" d="M{left} {y:g}H{right}"/>')
        parts.append(_text(left - 8, y + 5, f"{percent}%", "dim small end"))
    for tokens in (0, 40, 80, 120, 160):
        parts.append(_text(left + (right - left) * tokens / 160, bottom + 20, str(tokens), "dim small middle"))
    parts.append(_text((left + right) / 2, bottom + 42, "new tokens per answer", "dim small middle"))
    for method, name in METHODS.items():
        accuracy, tokens = map(float, results[method])
        x, y = left + (right - left) * tokens / 160, bottom - (bottom - top) * accuracy / 100
        ours = " ours" if method == "stt" else ""
        place = "end" if x > right - 40 else "middle" if x > left + 40 else ""
        parts.append(f'<circle class="dot{ours}" cx="{x:g}" cy="{y:g}" r="6"/>')
        parts.append(_text(x + (8 if place == "end" else 0 if place else -8), y + 24, name, f"small {place}{ours}"))
    return parts


def draw(log: str, row: dict) -> str:
    """The picture as SVG, on a card of its own, in the reader's light or dark colors."""
    label = "Left: a rationale whose skipped chunks are struck out. Right: accuracy against new tokens of five methods."
    body = [*_rationale(row), *_points(read_log(log)["arithmetic"])]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 400" role="img" aria-label="{label}">'
    card = '<rect class="card" x="0.5" y="0.5" width="999" height="399" rx="8"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", card, *body, "</svg>", ""])


def main() -> None:
    """Writes the picture."""
    row = json.loads((HERE / "figures" / "rationale.jsonl").read_text())
    PICTURE.write_text(draw((HERE / "README.md").read_text(), row))


if __name__ == "__main__":
    main()
