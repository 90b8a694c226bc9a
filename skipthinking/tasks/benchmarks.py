"""Benchmarks: prompt, answer sentence, grader, and the id on the hub; without an id, the rows come from a file."""

from __future__ import annotations

from skipthinking.tasks.base import HubSource, Task
from skipthinking.tasks.expressions import Expressions
from skipthinking.tasks.graders import Choices, Text, YesNo
from skipthinking.tasks.numbers import Numbers

__all__ = ["BENCHMARKS"]

_BOTH = {"train": "train", "test": "test"}
_LETTER = "{question}\nAnswer with the letter of one option."

BENCHMARKS = (
    Task(name="gsm8k", grader=Numbers(), hub=HubSource(path="openai/gsm8k", config="main", splits=_BOTH)),
    Task(name="svamp", grader=Numbers(), hub=HubSource(path="ChilleD/SVAMP", splits=_BOTH)),
    # The hub's only split is called validation and has all problems.
    Task(name="asdiv", grader=Numbers(), hub=HubSource(path="EleutherAI/asdiv", splits={"test": "validation"})),
    Task(name="multiarith", grader=Numbers(), hub=HubSource(path="ChilleD/MultiArith", splits=_BOTH)),
    Task(name="addsub", grader=Numbers()),
    Task(name="singleeq", grader=Numbers()),
    Task(
        name="aqua",
        grader=Choices(labels="ABCDE"),
        question=_LETTER,
        hub=HubSource(path="deepmind/aqua_rat", config="raw", splits=_BOTH),
    ),
    # The 500 test problems of "Let's Verify Step by Step"; seven configurations elsewhere hold the training problems.
    Task(
        name="math",
        grader=Expressions(),
        answer="Therefore, the answer is \\boxed{{answer}}.",
        hub=HubSource(path="HuggingFaceH4/MATH-500", splits={"test": "test"}),
    ),
    # The hub's test split has no gold answers.
    Task(
        name="commonsense_qa",
        grader=Choices(labels="ABCDE"),
        question=_LETTER,
        hub=HubSource(path="tau/commonsense_qa", splits={"train": "train", "test": "validation"}),
    ),
    Task(
        name="strategy_qa",
        grader=YesNo(),
        question="{question} Answer yes or no.",
        hub=HubSource(path="ChilleD/StrategyQA", splits=_BOTH),
    ),
    # A word, a name or a short phrase, by exact match, as in the tasks of BIG-Bench Hard without choices.
    Task(name="short_answer", grader=Text()),
)
