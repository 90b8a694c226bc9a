"""Shared machinery of the built-in tasks: draws problems, assigns them to splits, and writes verbose rationales.

A problem is drawn as *content* (the numbers, names and moves that determine its answer) and then put into words. A hash
of the content alone assigns the split, so no wording, seed or size can move a problem from training into a test set.
"""

from __future__ import annotations

import hashlib
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from skipthinking.records import DataError, Example, UserError

__all__ = ["Deck", "Generator", "Kind", "Level", "Split", "Step", "Story", "Teacher", "draw_examples", "split_of"]

Kind = Literal["reasoning", "transition", "summary", "detour"]
Split = Literal["train", "test", "ood"]
Level = tuple[int, int]
"""Lowest and highest number of operations, both included."""
Phrases = Sequence[str]

C = TypeVar("C")
_PATIENCE = 20_000  # draws in a row without a new problem after which the space counts as exhausted


class Step(NamedTuple):
    """One sentence of the rationale; square brackets mark its core tokens and are removed later.

    Attributes:
        kind: Role of the sentence. A detour follows the step that reaches the answer, and the answer does not need it.
        text: The sentence.
        opens: Whether the sentence begins a paragraph.
    """

    kind: Kind
    text: str
    opens: bool = False


class Story(NamedTuple):
    """A problem in words."""

    question: str
    steps: list[Step]
    answer: str


class Generator(ABC, Generic[C]):
    """Draws the problems of one built-in task and puts them into words.

    Attributes:
        levels: Numbers of operations in "train" and "test".
        ood: Numbers of operations in "ood"; higher.
        unit: What a level counts, for messages.
        lowest: The smallest level that makes sense.
    """

    levels: ClassVar[Level]
    ood: ClassVar[Level]
    unit: ClassVar[str]
    lowest: ClassVar[int] = 1

    @abstractmethod
    def draw(self, rng: random.Random, level: int) -> C:
        """Draws a problem's content: a tuple of plain values with a stable ``repr``."""

    @abstractmethod
    def count(self, level: int) -> int:
        """Returns the number of different problems of a level."""

    @abstractmethod
    def write(self, rng: random.Random, content: C) -> Story:
        """Puts a problem into words, with a verbose rationale."""


class Deck:
    """Deals phrases at random; no phrase repeats before all have been dealt."""

    def __init__(self, rng: random.Random, phrases: Phrases) -> None:
        self._rng = rng
        self._phrases = phrases
        self._left: list[str] = []

    def deal(self) -> str:
        """Returns the next phrase."""
        if not self._left:
            self._left = self._rng.sample(self._phrases, len(self._phrases))
        return self._left.pop()


class Teacher:
    """Writes a verbose rationale: reasoning, surrounded by sentences that the answer does not need.

    Phrases are format strings. A :class:`Deck` does not repeat itself; a plain sequence may. The order of the calls is
    the order of the random draws, so another order gives other examples for the same seed.

    Args:
        rng: Source of all draws.
        openings: Phrases of the first sentence, which is written at once.
        moves: Phrases that lead over to the next event.
        interims: Phrases that sum up an event.
        endings: Phrases that close the rationale.
    """

    def __init__(
        self, rng: random.Random, *, openings: Phrases, moves: Phrases, interims: Phrases, endings: Phrases
    ) -> None:
        self._rng = rng
        self._moves, self._interims, self._endings = (Deck(rng, phrases) for phrases in (moves, interims, endings))
        self.steps: list[Step] = []
        self.say("transition", Deck(rng, openings))

    def say(self, kind: Kind, phrases: Deck | Phrases, chance: float = 1, /, **slots: object) -> None:
        """Writes one of the phrases, with probability ``chance``."""
        if chance == 1 or self._rng.random() < chance:
            phrase = phrases.deal() if isinstance(phrases, Deck) else self._rng.choice(phrases)
            self.steps.append(Step(kind, phrase.format(**slots)))

    def restate(self, phrases: Phrases, counts: Sequence[int], **slots: object) -> None:
        """Restates the question in some of the phrases; their number is one of the equally likely ``counts``."""
        chosen = self._rng.sample(phrases, self._rng.choice(counts))
        self.steps += [Step("transition", phrase.format(**slots)) for phrase in chosen]

    def move_on(self) -> None:
        """Leads over to the next event, in 60% of the cases."""
        self.say("transition", self._moves, 0.6)

    def sum_up(self, chance: float = 0.4, /, **slots: object) -> None:
        """Sums the event up, with probability ``chance``."""
        self.say("summary", self._interims, chance, **slots)

    def close(self, counts: Sequence[int] = (1, 2, 2), /, **slots: object) -> list[Step]:
        """Closes the rationale and returns its steps; the number of endings is one of the equally likely ``counts``."""
        for _ in range(self._rng.choice(counts)):
            self.say("summary", self._endings, **slots)
        return self.steps


def split_of(name: str, content: object) -> Split:
    """Returns the split that a problem belongs to: 80 % train, 10 % test, 10 % ood.

    >>> split_of("arithmetic", (3, (("+", 4),)))
    'train'
    """
    bucket = int(hashlib.sha1(f"{name}:{content!r}".encode()).hexdigest(), 16) % 10
    return "train" if bucket < 8 else "test" if bucket == 8 else "ood"


def draw_examples(
    name: str, generator: Generator[Any], *, split: Split, size: int, seed: int, levels: Sequence[int] | None
) -> list[Example]:
    """Draws different problems of one split; see :func:`skipthinking.tasks.generate`."""
    low, high = _checked(name, generator, split, size, levels)
    space = sum(generator.count(level) for level in range(low, high + 1))
    if size > space:
        raise _exhausted(name, generator, split, size, (low, high), space, None)
    rng = random.Random(f"{name}:{split}:{seed}")
    contents: dict[str, tuple[int, Any]] = {}
    missed = 0
    while len(contents) < size:
        level = rng.randint(low, high)
        content = generator.draw(rng, level)
        key = repr(content)
        if key in contents or split_of(name, content) != split:
            missed += 1
            if missed > _PATIENCE:
                raise _exhausted(name, generator, split, size, (low, high), space, len(contents))
            continue
        missed = 0
        contents[key] = level, content
    return [_example(name, split, level, generator.write(rng, content)) for level, content in contents.values()]


def _checked(name: str, generator: Generator[Any], split: str, size: int, levels: Sequence[int] | None) -> Level:
    if split not in ("train", "test", "ood"):
        raise UserError(f"Expected split train, test or ood, got {split!r} (task {name}). Choose one of them.")
    if size < 1:
        raise UserError(f"Expected a size of at least 1, got {size} (task {name}). Set size: 1 or more.")
    chosen = tuple(levels) if levels is not None else generator.ood if split == "ood" else generator.levels
    if len(chosen) != 2 or not generator.lowest <= chosen[0] <= chosen[1]:
        raise UserError(
            f"Expected levels as two numbers of {generator.unit}, lowest and highest, from {generator.lowest} up, "
            f"got {list(chosen)} (task {name}). Set levels: {list(generator.levels)}, for example."
        )
    return chosen[0], chosen[1]


def _exhausted(
    name: str, generator: Generator[Any], split: Split, size: int, levels: Level, space: int, drawn: int | None
) -> DataError:
    share = 0.8 if split == "train" else 0.1
    most = f"about {round(share * space)}" if drawn is None else str(drawn)
    return DataError(
        f"Expected a size of at most {most}, got {size} (task {name}, split {split}: its share of the {space} problems "
        f"with {levels[0]} to {levels[1]} {generator.unit}). Ask for fewer examples or wider levels."
    )


def _example(name: str, split: Split, level: int, story: Story) -> Example:
    rationale, steps, core = assemble(story.steps)
    digest = hashlib.sha1(story.question.encode()).hexdigest()[:12]
    return Example(
        id=f"{name}-{split}-{digest}",
        question=story.question,
        rationale=rationale,
        answer=story.answer,
        task=name,
        meta={"level": level, "steps": steps, "core": core, **_sufficient(story.steps)},
    )


def _sufficient(steps: Sequence[Step]) -> dict[str, int]:
    """Number of paragraphs up to the last reasoning step; the answer needs no later one."""
    if not any(step.opens for step in steps):
        return {}
    last = max(place for place, step in enumerate(steps) if step.kind == "reasoning")
    return {"sufficient": sum(step.opens for step in steps[: last + 1])}


def assemble(steps: Iterable[Step]) -> tuple[str, list[dict[str, Any]], list[list[int]]]:
    """Joins sentences with spaces and paragraphs with blank lines.

    Returns:
        The rationale; the character span and kind of every step, its leading white space included, so that the steps
        partition the rationale; the character spans of the core tokens.

    >>> assemble([Step("transition", "Go."), Step("reasoning", "[2] + [3] = [5].")])[2]
    [[4, 5], [8, 9], [12, 13]]
    """
    text, spans, core = "", [], []
    for kind, marked, opens in steps:
        start = len(text)
        text += ("\n\n" if opens else " ") if text else ""
        for index, piece in enumerate(re.split(r"[\[\]]", marked)):
            if index % 2:
                core.append([len(text), len(text) + len(piece)])
            text += piece
        spans.append({"start": start, "end": len(text), "kind": kind})
    return text, spans, core
