"""What the teacher is asked: a question becomes the messages of a chat.

A text has places in braces: ``{question}`` with the task's own wording, ``{ending}`` for the answer sentence with X
in the answer's place, and those that a class names. Every one of its own must be there; other braces are plain text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice

from skipthinking.data.phrases import question_key
from skipthinking.data.sources import Files
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import get_task

__all__ = ["FewShot", "Message", "Prompt", "Rationalise", "Rewrite", "ZeroShot"]

Message = dict[str, str]
"""A turn of a chat: its "role" (system, user or assistant) and its "content"."""

_HOW = "Write plain sentences without Markdown or LaTeX, one step per sentence. End with: {ending}"
_PLACE = re.compile(r"\{(question|ending|answer|rationale|steps)\}")


class Prompt(ABC):
    """How a question is put to the teacher.

    Args:
        text: The user's turn; empty for the class's own.
        system: The system's turn; empty for none.

    Raises:
        UserError: A place is missing in the text.
    """

    own_text: str
    """The user's turn where none is given."""
    places: tuple[str, ...] = ("question",)
    """What the text must have."""

    def __init__(self, text: str = "", system: str = "") -> None:
        text = text or self.own_text
        for place in self.places:
            if f"{{{place}}}" not in text:
                raise UserError(f"Expected a text with {{{place}}} in it, got {text!r} (prompt.text). Add it.")
        self.text, self.system = text, system

    def suits(self, example: Example) -> bool:
        """Whether the example has what the prompt shows; the others are left out and counted."""
        return True

    @abstractmethod
    def values(self, example: Example) -> Mapping[str, str]:
        """What stands in the places, beside question and ending."""

    def shots(self, example: Example) -> list[Message]:
        """Turns before the question."""
        return []

    def user(self, example: Example) -> Message:
        """The user's turn for an example."""
        task = get_task(example.task)
        ending = task.answer.replace("{answer}", "X")
        filled = {"question": task.ask(example.question), "ending": ending, **self.values(example)}
        # In one pass: what a question says in braces is the question's.
        return {"role": "user", "content": _PLACE.sub(lambda found: filled.get(found[1], found[0]), self.text)}

    def messages(self, example: Example) -> list[Message]:
        """The chat that the teacher is to continue."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.shots(example), self.user(example)]


class ZeroShot(Prompt):
    """The question alone, with the request to think step by step (Kojima et al., 2022, arXiv 2205.11916).

    A student that was trained on the Plain template is its own teacher with the text it was trained on, as in
    experiments/teach/student.yaml.

    Args:
        text: The user's turn; empty for "{question} Let's think step by step. ...".
        system: The system's turn; empty for none.
    """

    own_text = f"{{question}}\n\nLet's think step by step. {_HOW}"

    def values(self, example: Example) -> Mapping[str, str]:
        """Nothing more."""
        return {}


class FewShot(ZeroShot):
    """Solved questions as earlier turns of the chat, then the question (Wei et al., 2022, arXiv 2201.11903).

    A question is never shown as its own exemplar.

    Args:
        exemplars: File of questions with rationales and answers, in any format that ``fit`` reads.
        shots: Number of exemplars, from the top of the file.
        text: The user's turn, for exemplars too; empty for that of ZeroShot.
        system: The system's turn; empty for none.
    """

    def __init__(self, exemplars: str, shots: int = 8, text: str = "", system: str = "") -> None:
        super().__init__(text, system)
        if shots < 1:
            raise UserError(f"Expected at least 1 exemplar, got prompt.shots={shots}. Use ZeroShot for none.")
        self.exemplars, self.count = exemplars, shots
        self._solved: dict[str, list[tuple[str, list[Message]]]] = {}

    def shots(self, example: Example) -> list[Message]:
        """The exemplars, each as a question and its solution."""
        if example.task not in self._solved:
            task = get_task(example.task)
            self._solved[example.task] = [
                (
                    question_key(row.question),
                    [
                        self.user(row),
                        {"role": "assistant", "content": f"{row.rationale} {task.answer_sentence(row.answer)}"},
                    ],
                )
                for row in self._load(example.task)
            ]
        asked = question_key(example.question)
        others = (turns for key, turns in self._solved[example.task] if key != asked)
        return [turn for turns in islice(others, self.count) for turn in turns]

    def _load(self, task: str) -> list[Example]:
        rows = Files(self.exemplars, task).load().examples
        if len(rows) < self.count:
            raise DataError(
                f"Expected {self.count} exemplars, got {len(rows)} ({self.exemplars}). Add some or lower prompt.shots."
            )
        bare = next((row.id for row in rows if not row.rationale.strip()), None)
        if bare is not None:
            raise DataError(f"Expected exemplars with rationales, got {bare!r} without one ({self.exemplars}).")
        return rows


class Rationalise(Prompt):
    """The answer is given, and a rationale for it is asked for (STaR's hint; Zelikman et al., 2022, arXiv 2203.14465).

    Args:
        text: The user's turn, with {answer}; empty for the class's own.
        system: The system's turn; empty for none.
    """

    own_text = (
        "{question}\n\nThe correct answer is {answer}. Explain step by step how to find it, as if you did not know it "
        f"beforehand. {_HOW}"
    )
    places = ("question", "answer")

    def values(self, example: Example) -> Mapping[str, str]:
        """The answer as it stands in an answer sentence."""
        return {"answer": get_task(example.task).grader.show(example.answer)}


class Rewrite(Prompt):
    """The source's rationale is rewritten in a wanted number of steps.

    Args:
        steps: The number.
        text: The user's turn, with {rationale} and {steps}; empty for the class's own.
        system: The system's turn; empty for none.
    """

    own_text = (
        "{question}\n\nThis is a solution:\n{rationale}\n\nRewrite it in {steps} steps of one sentence each, with "
        f"nothing left out that the answer needs. {_HOW}"
    )
    places = ("question", "rationale", "steps")

    def __init__(self, steps: int, text: str = "", system: str = "") -> None:
        super().__init__(text, system)
        if steps < 1:
            raise UserError(f"Expected at least 1 step, got prompt.steps={steps}.")
        self.steps = steps

    def suits(self, example: Example) -> bool:
        """Whether there is a rationale."""
        return bool(example.rationale.strip())

    def values(self, example: Example) -> Mapping[str, str]:
        """The rationale and the number of steps."""
        return {"rationale": example.rationale, "steps": str(self.steps)}
