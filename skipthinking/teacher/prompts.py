"""Prompts: how a question becomes the messages of a chat.

A template has placeholders in braces: ``{question}`` with the task's own wording, ``{ending}`` for the answer sentence
with X as the answer, and those that a class requires. Other braces are plain text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice

from skipthinking.data.phrases import question_key
from skipthinking.data.sources import Files
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import get_task

__all__ = ["FewShot", "Message", "Prompt", "Rationalise", "Rewrite", "ZeroShot"]

Message = dict[str, str]
"""A turn of a chat: its "role" (system, user or assistant) and its "content"."""

_HOW = "Write plain sentences without Markdown or LaTeX, one step per sentence. End with: {ending}"
_PLACEHOLDER = re.compile(r"\{(question|ending|answer|rationale|steps)\}")


class Prompt(ABC):
    """How a question is presented to the teacher.

    Args:
        text: Template of the user's turn; empty for the default of the class.
        system: The system's turn; empty for none.

    Raises:
        UserError: The template lacks a placeholder.
    """

    default_text: str
    """Template of the user's turn if none is given."""
    placeholders: tuple[str, ...] = ("question",)
    """Placeholders that a template must have."""

    def __init__(self, text: str = "", system: str = "") -> None:
        self.text, self.system = text or self.default_text, system
        for name in self.placeholders:
            if f"{{{name}}}" not in self.text:
                raise UserError(f"Expected a text with {{{name}}} in it, got {self.text!r} (prompt.text). Add it.")

    def suits(self, example: Example) -> bool:
        """Whether the example has all that the prompt shows; other examples are left out and counted."""
        return True

    @abstractmethod
    def values(self, example: Example) -> Mapping[str, str]:
        """Values of the placeholders besides question and ending."""

    def shots(self, example: Example) -> list[Message]:
        """The turns before the question."""
        return []

    def user(self, example: Example) -> Message:
        """The user's turn for an example."""
        task = get_task(example.task)
        ending = task.answer.replace("{answer}", "X")
        values = {"question": task.ask(example.question), "ending": ending, **self.values(example)}
        # In one pass, so that braces of a question are not filled.
        return {"role": "user", "content": _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.text)}

    def messages(self, example: Example) -> list[Message]:
        """The chat that the teacher continues."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.shots(example), self.user(example)]


class ZeroShot(Prompt):
    """The question alone, with the request to think step by step (Kojima et al., 2022, arXiv 2205.11916).

    For an exported student, whose chat template makes its prompt, give the text "{question}", as
    experiments/teach/student.yaml does.

    Args:
        text: Template of the user's turn; empty for "{question} Let's think step by step. ...".
        system: The system's turn; empty for none.
    """

    default_text = f"{{question}}\n\nLet's think step by step. {_HOW}"

    def values(self, example: Example) -> Mapping[str, str]:
        """No further placeholders."""
        return {}


class FewShot(ZeroShot):
    """Solved questions as earlier turns of the chat, then the question (Wei et al., 2022, arXiv 2201.11903).

    A question is never its own exemplar.

    Args:
        exemplars: File of questions with rationales and answers, in any format that ``fit`` reads.
        shots: Number of exemplars, from the top of the file.
        text: Template of the user's turn, also for exemplars; empty for that of ZeroShot.
        system: The system's turn; empty for none.
    """

    def __init__(self, exemplars: str, shots: int = 8, text: str = "", system: str = "") -> None:
        super().__init__(text, system)
        if shots < 1:
            raise UserError(f"Expected at least 1 exemplar, got prompt.shots={shots}. Use ZeroShot for none.")
        self.exemplars, self.count = exemplars, shots
        self._solved: dict[str, list[tuple[str, list[Message]]]] = {}  # per task: question key and the two turns

    def shots(self, example: Example) -> list[Message]:
        """The exemplars, each as a question and its solution."""
        if example.task not in self._solved:
            self._solved[example.task] = [(question_key(row.question), self._turns(row)) for row in self._load(example)]
        key = question_key(example.question)
        others = (turns for other, turns in self._solved[example.task] if other != key)
        return [turn for turns in islice(others, self.count) for turn in turns]

    def _turns(self, row: Example) -> list[Message]:
        solution = f"{row.rationale} {get_task(row.task).answer_sentence(row.answer)}"
        return [self.user(row), {"role": "assistant", "content": solution}]

    def _load(self, example: Example) -> Sequence[Example]:
        rows = Files(self.exemplars, example.task).load().examples
        if len(rows) < self.count:
            raise DataError(
                f"Expected {self.count} exemplars, got {len(rows)} ({self.exemplars}). Add some, or set prompt.shots: "
                f"{len(rows)}."
            )
        for row in rows:
            if not row.rationale.strip():
                raise DataError(f"Expected exemplars with rationales, got {row.id!r} without one ({self.exemplars}).")
        return rows


class Rationalise(Prompt):
    """The question with its answer; the teacher explains it (STaR's hint; Zelikman et al., 2022, arXiv 2203.14465).

    Args:
        text: Template of the user's turn, with {answer}; empty for the default.
        system: The system's turn; empty for none.
    """

    default_text = (
        "{question}\n\nThe correct answer is {answer}. Explain step by step how to find it, as if you did not know it "
        f"beforehand. {_HOW}"
    )
    placeholders = ("question", "answer")

    def values(self, example: Example) -> Mapping[str, str]:
        """The answer as an answer sentence shows it."""
        return {"answer": get_task(example.task).grader.show(example.answer)}


class Rewrite(Prompt):
    """The question with the source's rationale, which the teacher rewrites in a given number of steps.

    Args:
        steps: Number of steps.
        text: Template of the user's turn, with {rationale} and {steps}; empty for the default.
        system: The system's turn; empty for none.
    """

    default_text = (
        "{question}\n\nThis is a solution:\n{rationale}\n\nRewrite it in {steps} steps of one sentence each, with "
        f"nothing left out that the answer needs. {_HOW}"
    )
    placeholders = ("question", "rationale", "steps")

    def __init__(self, steps: int, text: str = "", system: str = "") -> None:
        super().__init__(text, system)
        if steps < 1:
            raise UserError(f"Expected at least 1 step, got prompt.steps={steps}. Set prompt.steps: 5, for example.")
        self.steps = steps

    def suits(self, example: Example) -> bool:
        """Whether the example has a rationale."""
        return bool(example.rationale.strip())

    def values(self, example: Example) -> Mapping[str, str]:
        """The rationale and the number of steps."""
        return {"rationale": example.rationale, "steps": str(self.steps)}
