"""Laws of tags: every family is read alike, broken tags are refused, and ``teach`` reads what the formats read."""

from __future__ import annotations

import pytest

from skipthinking.data.thoughts import THOUGHTS, BadTags, Stated, Tagged, split_tags, split_thoughts
from skipthinking.records import Example
from skipthinking.teacher.choosing import grade_completion
from skipthinking.teacher.client import Completion

R = "Each pen is 3.\n\n6*3=18."
PAIRS = list(THOUGHTS.items())


@pytest.mark.parametrize(("open_", "close"), [*PAIRS, ("<THINK>", "</Think>")])
@pytest.mark.parametrize(
    ("end", "answer", "conclusion"),
    [
        ("\n\n18", "18", ""),
        ("\n\n**18**.", "18", ""),
        ("The answer is 18.", "18", ""),
        ("\nSo 6 pens.\n\nThe answer is 18.", "18", "So 6 pens."),
        ("<answer>18</answer>", "18", ""),
        ("\n<answer>\n18\n</answer>\n", "18", ""),
        ("So 6 pens. <answer>18</answer>", "18", "So 6 pens."),
        ("<answer>\nSo \\boxed{18} coins.\n</answer>", "18", "So \\boxed{18} coins."),
        ("<answer>So 6 pens. The answer is 18.</answer>", "18", "So 6 pens."),
        ("\n<|begin_of_solution|>\n\nSo\n\n$\\boxed{18}$\n\n<|end_of_solution|>", "18", "So\n\n$\\boxed{18}$"),
        ("So $\\boxed{18}$.<|im_end|>\n", "18", "So $\\boxed{18}$."),
        ("I do\nnot know.", "", "I do\nnot know."),
    ],
)
def test_all_families_of_tags_are_read_alike(open_: str, close: str, end: str, answer: str, conclusion: str) -> None:
    for start in (f"{open_}\n", f" {open_}", ""):  # the chat template may have opened the thoughts
        assert split_thoughts(f"{start}{R}\n{close}{end}") == Stated(R, answer, conclusion)
    # a model whose thinking is turned off: the text after the tags is the reasoning
    assert split_thoughts(f"{open_}\n\n{close}{end}") == Stated(conclusion, answer)


def test_channels_of_gpt_oss() -> None:
    text = f"<|channel|>analysis<|message|>{R}<|end|><|start|>assistant<|channel|>final<|message|>The answer is 18."
    for end in ("", "<|return|>", "<|end|>"):
        assert split_thoughts(text + end) == Stated(R, "18")
    with pytest.raises(BadTags, match="channel"):
        split_tags(text.replace("final", "commentary"))


@pytest.mark.parametrize(
    ("text", "expected", "unended"),
    [
        ("<think>a", "</think>", True),
        ("a <think>b", "</think>", True),
        ("<think>a</thinking>5", "</think>", True),
        ("<think>a</think><answer>5", "</answer>", True),
        ("<think>a</think>b<think>c</think>5", "one block of thoughts", False),
        ("<think>a<think>b</think>5", "one block of thoughts", False),
        ("<think>a</think>b</think>5", "one block of thoughts", False),
        ("Sure. <think>a</think>5", "one block of thoughts", False),
        ("<think>a</think><reasoning>b</reasoning>5", "one block of thoughts", False),
        ("a<answer>5</answer><answer>6</answer>", "one answer", False),
        ("a<answer>5</answer> Bye.", "one answer", False),
        ("a 5</answer>", "one answer", False),
        ("a<answer>5</solution>", "one answer", False),
    ],
)
def test_tags_out_of_order_are_refused(text: str, expected: str, unended: bool) -> None:
    with pytest.raises(BadTags) as caught:
        split_thoughts(text)
    assert expected in caught.value.expected
    assert caught.value.unended == unended


@pytest.mark.parametrize("text", ["", "2 < 3 > 1", "a <b>bold</b> word", "[1, 2]", " spaces \n"])
def test_text_without_tags_is_not_changed(text: str) -> None:
    assert split_tags(text) == Tagged(None, text)


@pytest.mark.parametrize(("open_", "close"), PAIRS)
@pytest.mark.parametrize("thoughts", ["", "\n\n", R])
@pytest.mark.parametrize(
    "end", ["The answer is 18.", "So 6 pens.\n\nTherefore, the answer is 18.", "<answer>18</answer>",
            "So 6 pens. <answer>18</answer>", "<answer>So 6 pens. The answer is 18.</answer>"],
)  # fmt: skip
def test_teach_reads_what_the_formats_read(open_: str, close: str, thoughts: str, end: str) -> None:
    text = f"{open_}{thoughts}{close}\n{end}"
    example = Example(id="a", question="?", rationale="", answer="18", task="gsm8k")
    row, stated = grade_completion(example, 0, Completion(text=text, finish="stop")), split_thoughts(text)
    assert (row.verdict, row.rationale, row.conclusion) == ("correct", stated.reasoning, stated.conclusion)


@pytest.mark.parametrize(
    ("text", "verdict"), [("<think>a</think>b<think>c</think>The answer is 18.", "unparsable"),
                          ("<think>a</think><answer>18", "cut off")],
)  # fmt: skip
def test_teach_keeps_no_completion_whose_tags_are_out_of_order(text: str, verdict: str) -> None:
    example = Example(id="a", question="?", rationale="", answer="18", task="gsm8k")
    assert grade_completion(example, 0, Completion(text=text, finish="stop")).verdict == verdict
