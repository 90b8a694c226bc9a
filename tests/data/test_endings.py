"""Laws of the endings of rationales: the statement of the answer goes, once, and nothing else goes with it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from skipthinking.data.phrases import closing, strip_closing
from skipthinking.tasks import generate, get_task, task_names

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

REASONING = [
    "500 bags give 125.",
    "Let x be the cost.\n3x = 24, so x = 8.",
    "x + 5 = 13\n=> x = 8",
    "1. He has $5.\n2. He buys 3 for $2 each: 3 * 2 = 6.",
    "The answer cannot be negative, since \\[ x^2 = 4 \\] has x > 0.",
    "Option B is too small (2 < 3), the others are not.",
]

# Phrases from AQuA's own rationales, from completions of language models, and from prompts of the field.
LETTERS = [
    "Answer is {}", "The answer is {}", "Answer: {}", "Answer : {}", "Answer:{}", "ANSWER:{}", "ANSWER :{}",
    "ANSWER IS {}", "answer {}", "Answer {}", "Answer = {}", "Answer - {}", "answer.{}", "Ans. {}", "ANS:{}",
    "Ans: {}", "Ans - {}", "Ans {}", "Ans is {}", "correct answer {}", "Correct answer : {}", "Correct answer - {}",
    "Correct Option: {}", "correct option: {}", "CORRECT OPTION:OPTION {}", "correct option is {}", "Option {}",
    "option {}", "Option: {}", "Choice {}", "Answer: Option {}", "ANSWER : OPTION {}", "Answer :(Option {})",
    "Answer choice {}", "Answer is Option {}", "The correct answer is {}", "The correct option is {}",
    "correct choice is {}", "So, answer is {}", "So answer is {}", "Hence answer is {}", "Hence, answer will be {}",
    "Hence, the correct answer will be {}", "The Answer is, {}", "Therefore, the answer is {}",
    "Therefore {} is correct", "Hence, option {} is correct", "So option {} is correct", "{} is the answer",
    "{} is the correct choice", "Hence {} is correct answer", "Answer {} is correct option", "Option {} is correct",
    "Thus, {} is the correct answer", "Thus {}", "{}", "Final Answer:\n{}", "**Final Answer**\n\n{}", "(ANSWER {})",
    "==> the correct answer is {}", "The answer is option {}", "the most accurate answer is {}",
    "Thus, the best answer choice is {}", "Our answer is {}", "Among the choices, {} is the most plausible answer",
]  # fmt: skip
PLAIN = [
    "The answer is {}", "So the answer is: {}", "Thus, our answer is {}", "Answer: {}", "**Answer:** {}",
    "**Answer: {}**", "Ans: {}", "Answer is {}", "#### {}", "### Final Answer\n\n{}", "**Final Answer**\n\n{}",
    "Final answer: {}", "A: {}", "The final answer is:\n\n{}",
    "Final Answer: The final answer is {}. I hope it is correct", "The answers is {}",
    "Step 5: Therefore, the final answer is {}", "**Conclusion:** The answer is {}", "The correct answer is {}",
    "The answer to this question is {}", "Hence, the answer would be {}", "Thus, {} is our answer",
    "**The answer is {}**", "\n---\n\n**Final Answer:** {}", "It follows that the answer equals {}",
    "(The answer is {})",
]  # fmt: skip
WRITTEN_LETTERS = ["D", "(D)", "**D**", "$\\boxed{D}$"]
WRITTEN_NUMBERS = [
    "18", "-3.5", "$1,234.50", "75%", "$\\boxed{18}$", "\\boxed{\\frac{1}{2}}", "**18**", "\\[\n\\boxed{18}\n\\]",
]  # fmt: skip
CASES = [
    *(
        pair
        for pair in itertools.product(LETTERS, WRITTEN_LETTERS)
        if pair[0] not in ("{}", "Thus {}") or "boxed" not in pair[1]  # a line that is only a box stays
    ),
    *(
        (phrase, answer)
        for phrase, answer in itertools.product(PLAIN, WRITTEN_NUMBERS)
        # forms of one line, and forms of a plain number
        if not ("\n" in answer and phrase.startswith(("####", "A:", "Thus, {}", "Final Answer: The", "(")))
        and not ("boxed" in answer and phrase.startswith("A:"))
        and not ("frac" in answer and phrase.startswith("Thus, {}"))
    ),
]


def core(answer: str) -> str:
    """The answer without marks around it, by a rule of this file."""
    return re.sub(r"\\boxed|[*$\\()\[\]{}\s.,]", "", answer)


@pytest.mark.parametrize(("phrase", "answer"), CASES)
def test_reasoning_with_an_ending_is_the_reasoning(phrase: str, answer: str) -> None:
    ending = phrase.format(answer)
    same_line = phrase[0] not in "{#*A\n" and not phrase.startswith(("Thus {}", "Ans", "Final")) and "\n" not in ending
    gaps = ("\n", "\n\n", " ") if same_line else ("\n", "\n\n")
    for reasoning, gap, end in itertools.product(REASONING, gaps, ("", ".", " .", "\n")):
        if gap == " " and not reasoning.endswith("."):
            continue
        text = f"{reasoning}{gap}{ending}{end}"
        assert strip_closing(text) == reasoning
        stated = closing(text)
        assert stated is not None
        assert (stated[0], core(stated[1])) == (reasoning, core(answer))
        twice = f"{reasoning}\nThe answer is {answer}.\n\n{ending}{end}"  # both statements go
        assert strip_closing(twice) == reasoning


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        # the working stays, the phrase goes
        (r"Alike. The answer is $\frac{8!}{4} = \boxed{10080}$.", r"Alike. $\frac{8!}{4} = \boxed{10080}$.", "10080"),
        ("So we add.\nThe answer is 4 + 79 = 83", "So we add.\n4 + 79 = 83", "83"),
        ("Half of it, so the answer is 30 / 2 = 15.", "Half of it, 30 / 2 = 15.", "15"),
        ("Bags.\nAnswer: 500 * 0.25 = 125", "Bags.\n500 * 0.25 = 125", "125"),
        ("Bags.\nThat gives the answer: 100-95=5\nAnswer is B", "Bags.\n100-95=5", "B"),
        ("Bags.\nThe answer is C, 3 * 5 = 15.", "Bags.\n3 * 5 = 15.", "C,"),
        ("Bags.\nThe answer is C. x + y = 15", "Bags.\nx + y = 15", "C."),
        ("The answer is y = 2x + 1.", "y = 2x + 1.", "y = 2x + 1"),
        # sentences of working are left as they are
        ("The answer is the sum: 5 + 3 = 8.", "The answer is the sum: 5 + 3 = 8.", "the sum: 5 + 3 = 8"),
        ("The answer is B, because 3 * 5 = 15.", "The answer is B, because 3 * 5 = 15.", "B"),
        ("The answer is 25 (since 24 is too small)", "The answer is 25 (since 24 is too small)", "25"),
        ("The answer is 25 (24 is not possible)", "The answer is 25 (24 is not possible)", "25"),
        # a choice with its text
        ("Bags.\nAnswer C)59, 43", "Bags.", "C)59, 43"),
        ("Bags.\nANSWER D 8000", "Bags.", "D 8000"),
        ("Bags.\nAnswer: D) 109 rolls", "Bags.", "D) 109 rolls"),
        ("Hot. The answer is B. New York.", "Hot.", "B. New York"),
        ("Hot. The correct answer is B: the desert", "Hot.", "B: the desert"),
        ("Hot.\nHence answer is a.\nAnswer:B", "Hot.", "B"),
        ("Hot. The answer is St. Louis.", "Hot.", "St. Louis"),
        ("Two roots. Thus the answer is not true.", "Two roots.", "not true"),
    ],
)  # fmt: skip
def test_endings_on_literal_cases(text: str, reasoning: str, answer: str) -> None:
    assert strip_closing(text) == reasoning
    assert closing(text) == (reasoning, answer)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is C\n3x = 9\nx = 3",
        "Answer: C\n3x = 9\nx = 3",
        "We can get the answer\nP = 5",
        "The answer is 5 or 6",
        "The answer is $x = 3$ or $x = 5$.",
        "The answer is x = 3, x = 5",
        "The answer is A or B.",
        "The answer is 7, but the correct one is 8.",
        "The answer is not 5.",
        "The answer is 5?",
        "I don't think the answer is 5.",
        "Check whether the answer is 5.",
        "Since the answer is in meters, divide by 100: 3600 / 100 = 36 meters.",
        "So the answer must be a place.",
        "The best option is to sell it at a market.",
        "Option B is 5 km long.",
        "Answer the question step by step.",
        "Then he took option B of the list",
        "The letters are:\nA",
        "B: 20\nA: 26",
        "x = 5\ny = 3\nz =\nA",
        "12 - 5 = 7 C",
        r"\[ \text{The answer is } 5 \]",
        "This is an answer.",
        "Breathe answer is 5",
    ],
)
def test_text_without_one_stated_answer_is_unchanged(text: str) -> None:
    assert strip_closing(text) == text
    assert closing(text) is None


def test_every_equation_stays() -> None:
    equation = re.compile(r"\d+ [-+*/] [\d.]+ = [\d.]*\d")
    texts = [
        f"{reasoning}{gap}{phrase.format(working)}{end}"
        for reasoning, gap, end in itertools.product(REASONING, ("\n", " "), ("", "."))
        for phrase, working in itertools.product(
            [*LETTERS, *PLAIN], ("4 + 79 = 83", "$4 + 79 = 83$", "C. 4 + 79 = 83", "x, with 4 + 79 = 83")
        )
    ]  # fmt: skip
    for file in sorted(SHARED.glob("*/*_level*.json")):
        texts += [row["output"] for row in json.loads(file.read_text("utf-8"))[::150]]
    for text in texts:
        stripped = strip_closing(text)
        assert strip_closing(stripped) == stripped
        assert equation.findall(stripped) == equation.findall(text), text


@pytest.mark.parametrize("task", [name for name in task_names() if get_task(name).generator])
def test_generated_rationales_are_unchanged(task: str) -> None:
    for example in generate(task, split="train", size=200):
        assert strip_closing(example.rationale) == example.rationale
        sentence = get_task(task).answer_sentence(example.answer)
        assert strip_closing(f"{example.rationale} {sentence}") == example.rationale
