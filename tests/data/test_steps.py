"""Laws of the step splitters, on nasty strings and on real rationales."""

from __future__ import annotations

import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest

from skipthinking.data.steps import BlankLines, Pattern, Sentences, StepSplitter
from skipthinking.records import UserError
from skipthinking.tasks import generate, get_task, task_names

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SPLITTERS = [Sentences(), BlankLines(), Pattern(r"Step \d+:"), Pattern(r"(?<=[;.])"), Pattern("")]
NASTY = [
    "x",
    " x ",
    "\n\n1.\n\n",
    "1. 2. 3.",
    "1) 2) 3)",
    "-\n-\n-",
    "...\n...",
    "a\r\nb\rc\n",
    "a\u2028b\u00a0\u3000c. D",
    "5.Then 6.Then",
    "1.A 2.B 3.C",
    "\\[\nx = 5.\n\\]\n",
    "日本語。テスト。 Step 1: 😀. Go!",
    "The end.)\n)\n]",
    "e.g.",
    "Mr.\nMr. Smith.",
    "Step 1:\n\nStep 2:\n\n",
    "?!?! (1) (2) (3)",
]


def pieces(splitter: StepSplitter, text: str) -> list[str]:
    return [text[start:end] for start, end in splitter.spans(text)]


def assert_partition(splitter: StepSplitter, text: str) -> None:
    spans = splitter.spans(text)
    steps = [text[start:end] for start, end in spans]
    assert "".join(steps) == text
    assert all(step.strip() for step in steps)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    # White space belongs to the front: only the last step may end with it.
    assert all(step == step.rstrip() for step in steps[:-1])


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda splitter: type(splitter).__name__)
@pytest.mark.parametrize("text", NASTY)
def test_spans_partition_nasty_text(splitter: StepSplitter, text: str) -> None:
    assert_partition(splitter, text)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda splitter: type(splitter).__name__)
def test_spans_partition_random_text(splitter: StepSplitter) -> None:
    dice = random.Random(0)
    alphabet = [
        "a",
        "The",
        "B",
        "1",
        "2",
        "12",
        ".",
        ".",
        "!",
        ":",
        ")",
        "(",
        "-",
        " ",
        " ",
        "\n",
        "\t",
        "Step",
        "\r\n",
        '"',
    ]
    for _ in range(500):
        text = "".join(dice.choices(alphabet, k=dice.randint(1, 40)))
        if text.strip():
            assert_partition(splitter, text)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=lambda splitter: type(splitter).__name__)
@pytest.mark.parametrize("text", ["", " ", "\n\t \n"])
def test_blank_text_has_no_steps(splitter: StepSplitter, text: str) -> None:
    assert splitter.spans(text) == []


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real rationales are absent: {SHARED}")
def test_spans_partition_real_rationales() -> None:
    splitter = Sentences()
    texts = [json.loads(line)["answer"] for line in (SHARED / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines()]
    for file in sorted(SHARED.glob("*/*_level*.json")):
        texts += [row["output"] for row in json.loads(file.read_text("utf-8"))[::4]]  # a quarter, for time
    assert len(texts) > 20_000
    for text in texts:
        assert_partition(splitter, text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # Decimals and amounts are whole.
        ("He paid 3.5 dollars. Then he paid $12.50 more.", ["He paid 3.5 dollars.", " Then he paid $12.50 more."]),
        # List markers are no steps.
        ("Step 1: Add 3 and 4. Step 2: Multiply", ["Step 1: Add 3 and 4.", " Step 2: Multiply"]),
        ("Step 1. Add 3. Step 2. Multiply", ["Step 1. Add 3.", " Step 2. Multiply"]),
        ("**Step 3:**\nAdd.", ["**Step 3:**\nAdd."]),
        ("1. Add 3 and 4.\n2. Multiply", ["1. Add 3 and 4.", "\n2. Multiply"]),
        ("(1) Add 3.\n(2) Add 4.", ["(1) Add 3.", "\n(2) Add 4."]),
        ("1) Add 3.\n2) Add 4.", ["1) Add 3.", "\n2) Add 4."]),
        ("- Add 3.\n- Add 4.\n* Done", ["- Add 3.", "\n- Add 4.", "\n* Done"]),
        ("First.\n1.", ["First.\n1."]),
        # Abbreviations end no sentence.
        (
            "I see e.g. an apple. Mr. Smith has approx. 5 dollars vs. 6.",
            ["I see e.g. an apple.", " Mr. Smith has approx. 5 dollars vs. 6."],
        ),
        ("He has 3 lbs. of rice and 5 lbs. Bob has none.", ["He has 3 lbs. of rice and 5 lbs.", " Bob has none."]),
        ("Is it so? No. He took train no. 5 home.", ["Is it so?", " No.", " He took train no. 5 home."]),
        (
            "J. K. Rowling wrote. The option is B. This fits.",
            ["J. K. Rowling wrote.", " The option is B.", " This fits."],
        ),
        ('He said "Go!" and ran. Then "Stop." Then', ['He said "Go!" and ran.', ' Then "Stop."', " Then"]),
        # Lines and blank lines.
        ("First line\nSecond line.\n\nThird ", ["First line", "\nSecond line.", "\n\nThird "]),
        # Displayed formulas, drawings, code.
        ("So:\n\\[\n3 + 4 = 7\n\\]\nDone.", ["So:\n\\[\n3 + 4 = 7\n\\]", "\nDone."]),
        ("We have\n$$\n3 + 4\n= 7.\n$$\nso 7.", ["We have\n$$\n3 + 4\n= 7.\n$$", "\nso 7."]),
        (
            "Add:\n\\begin{align*}\nx &= 3 + 4 \\\\[2pt]\n&= 7.\n\\end{align*}\nDone.",
            ["Add:", "\n\\begin{align*}\nx &= 3 + 4 \\\\[2pt]\n&= 7.\n\\end{align*}", "\nDone."],
        ),
        (
            '[asy]\ndraw(A);\n\nlabel("B");\n[/asy]\nIt is 5. So.',
            ['[asy]\ndraw(A);\n\nlabel("B");\n[/asy]\nIt is 5.', " So."],
        ),
        ("It is 5.\n[asy]\ndraw(A);\n[/asy]\nSo.", ["It is 5.\n[asy]\ndraw(A);\n[/asy]", "\nSo."]),
        ("Run it.\n```python\nx = 5\ny = 8\n```\nDone.", ["Run it.", "\n```python\nx = 5", "\ny = 8\n```", "\nDone."]),
        # A heading with content is one; bold text with a number is not.
        ("### Step 2. Divide it.\nHalf is 2.", ["### Step 2. Divide it.\nHalf is 2."]),
        ("**5 apples**\nare left.", ["**5 apples**", "\nare left."]),
        ("There are 3! ways. Then 2*3!*3!=72.", ["There are 3! ways.", " Then 2*3!*3!=72."]),
        ("J.K. Rowling paid Rs. 50 for 3 sq. ft. of it.", ["J.K. Rowling paid Rs. 50 for 3 sq. ft. of it."]),
        # Lost white space.
        ("She has 5.Then she buys 3. 5 + 3 = 8.", ["She has 5.", "Then she buys 3.", " 5 + 3 = 8."]),
        ("let x = 5. so y = 3. done", ["let x = 5.", " so y = 3.", " done"]),
        (
            "In detail:1. First, it is 290.2. We have 2 groups.3. When we divide: 290 / 2 = 145.",
            ["In detail:", "1. First, it is 290.", "2. We have 2 groups.", "3. When we divide: 290 / 2 = 145."],
        ),
        # One number is no list; without a list in progress, 290.2 is a decimal.
        ("The total: 1. So it is done.", ["The total: 1.", " So it is done."]),
        ("It is 290.2. We have 2.", ["It is 290.2.", " We have 2."]),
    ],
)
def test_sentences_on_literal_cases(text: str, steps: list[str]) -> None:
    assert pieces(Sentences(), text) == steps


# Text around a step (@) that carries nothing.
BLOCKS = ["@", "\\[\n@\n\\]", "$$\n@\n$$", "\\begin{align*}\n@\n\\end{align*}", "```python\n@\n```", "```\n@\n```"]
PROSE = [
    "@", "Let's think step by step.\n@", "Let's break this down:\n@", "Here's how we proceed:\n\n@", "Therefore:\n@",
    "Then,\n@", "Hence\n@", "**Solution:**\n@", "## Solution\n\n@", "**Step 1:**\n@", "**Step 1: Add**\n@", "@\n---",
    "### Step 2: Adding up.\n@", "Solution:\n@", "<solution>\n@\n</solution>", "1.\n@", "@\n<br>",
    "\\begin{itemize}\n\\item @\n\\end{itemize}",
    "[asy]\ndraw((0,0)--(1,1));\n\ndot(A);\n[/asy]\n@", "@\n[asy]\ndraw((0,0)--(1,1));\n[/asy]",
]  # fmt: skip


@pytest.mark.parametrize("splitter", [Sentences(), BlankLines()], ids=lambda splitter: type(splitter).__name__)
def test_every_step_carries_something(splitter: StepSplitter) -> None:
    dice = random.Random(0)
    for _ in range(300):
        frames = [dice.choice(PROSE) for _ in range(dice.randint(1, 6))]
        frames = [frame.replace("@", dice.choice([*BLOCKS, *PROSE])) for frame in frames]
        text = "\n\n".join(frame.replace("@", f"we add {i} + 1 = {i + 1}") for i, frame in enumerate(frames))
        assert_partition(splitter, text)
        assert [step.count("we add") for step in pieces(splitter, text)] == [1] * len(frames), text


@pytest.mark.parametrize("task", [name for name in task_names() if get_task(name).generator])
def test_generated_rationales_are_split_at_their_sentences(task: str) -> None:
    for example in generate(task, split="train", size=100):
        sentences = re.split(r"(?<=[.?!])(?=\s)", example.rationale)
        assert pieces(Sentences(), example.rationale) == sentences


def test_steps_of_a_text_do_not_depend_on_other_texts() -> None:
    text = "Each has 5. Each costs 2. The total is 10."
    before = Sentences().spans(text)
    for other in NASTY:
        Sentences().spans(other)
    assert Sentences().spans(text) == before == [(0, 11), (11, 25), (25, 42)]


def test_blank_lines_keep_paragraphs_whole() -> None:
    assert pieces(BlankLines(), "One. Two.\nThree.\n\n\nFour.\r\n \r\nFive\n\n") == [
        "One. Two.\nThree.",
        "\n\n\nFour.",
        "\r\n \r\nFive\n\n",
    ]


def test_pattern_opens_a_step_with_what_it_matches() -> None:
    assert pieces(Pattern(r"Step \d+:"), "So. Step 1: a. b. Step 2: c") == ["So.", " Step 1: a. b.", " Step 2: c"]
    assert pieces(Pattern(r"(?<=;)"), "a; b;c;") == ["a;", " b;", "c;"]
    assert pieces(Pattern(r"^-"), "x\n- a\n- b - c") == ["x", "\n- a", "\n- b - c"]


def test_bad_pattern_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"Expected a regular expression, got '\('.*Fix"):
        Pattern("(")


@pytest.mark.parametrize(
    "line",
    [
        "1. Add 3 and 4.", "{k}. Add {k}.", "{r}) Add {k}.", "- Add {k}.", "{k}.", r"\begin{{align}} x = {k}",
        r"\begin{{align}} x \end{{align}}", "[asy] draw", "$$x$$ So.", r"\[ x \] So.", "## Part {k}",
        '"Go!" she said.\t',
    ],
)  # fmt: skip
def test_the_work_grows_with_the_length_of_a_text(line: str) -> None:
    """Ten times the lines take about ten times as long; with all pairs of lines it would be a hundred times."""

    def work(lines: int) -> float:
        separator = "" if line.endswith("\t") else "\n"
        text = separator.join(line.format(k=k, r=k % 5 + 1) for k in range(1, lines + 1))
        started = time.process_time()
        Sentences().spans(text)
        return time.process_time() - started

    work(10)
    small = min(work(300) for _ in range(3))
    assert min(work(3000) for _ in range(2)) < 35 * small
