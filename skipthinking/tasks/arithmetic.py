"""Multi-step arithmetic stories: the number of somebody's things changes, and the question asks for the last one.

All numbers are integers, and every intermediate result is between 2 and 40. That makes 660 facts in total, so a student
of less than a million parameters learns them from a few thousand examples. The story states the operations in order.
"""

from __future__ import annotations

import random
from functools import cache

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Deck, Generator, Story, Teacher
from skipthinking.tasks.numbers import Numbers
from skipthinking.tasks.words import NAMES, PLACES, THINGS

__all__ = ["ARITHMETIC", "Arithmetic", "events_of", "question_of", "results_of"]

Content = tuple[int, tuple[tuple[str, int], ...]]
"""The first number, and the operations as (sign, operand) with the signs ``+ - * /``."""

SMALLEST, LARGEST = 2, 40  # the things are always plural
_STARTS = range(2, 21)
_OPERANDS = {"+": range(2, 11), "-": range(2, 11), "*": range(2, 6), "/": range(2, 3)}

_EVENTS = {
    "+": [
        "{name} finds {n} more {things}",
        "{name} buys {n} more {things}",
        "{name} gets {n} {things} from {other}",
        "{other} gives {name} {n} more {things}",
        "{name} picks up {n} more {things}",
    ],
    "-": [
        "{name} gives {n} {things} to {other}",
        "{name} loses {n} {things}",
        "{name} sells {n} {things}",
        "{other} takes {n} of the {things}",
        "{name} drops {n} of the {things}",
    ],
    "*": [
        "the number of {things} grows to {n} times as many",
        "{name} trades and now has {n} times as many {things}",
        "{other} helps {name} to get {n} times as many {things}",
    ],
    "/": [
        "{name} gives half of the {things} to {other}",
        "{name} loses half of the {things}",
        "{name} sells half of the {things}",
    ],
}
_OPENINGS = [
    "Let us work through this step by step.",
    "Let us think about this carefully.",
    "We go through the story in order.",
    "We can follow the story from the start.",
    "This is a problem about keeping count.",
    "First, let us look at what is asked.",
    "We take the changes one at a time.",
]
_GOALS = [
    "We want to know how many {things} are left.",
    "The question asks for the {things} at the end.",
    "The goal is to count the {things} of {name}.",
]
_STARTING = [
    "At the start, {name} has {n} {things}.",
    "{name} starts with {n} {things}.",
    "We know that {name} has {n} {things} at first.",
]
_MOVES = [
    "Now we move on to the next part.",
    "Next, we look at what happens.",
    "Let us see what comes next.",
    "We keep this in mind and go on.",
    "With that in hand, we can go on.",
    "Here we need to be careful.",
    "Now for the next change.",
]
_RESTATED = [
    "The story says that {event}.",
    "We are told that {event}.",
    "We read that {event}.",
]
_WORKED = [
    "Since {event}, we get [{a}] [{sign}] [{n}] = [{b}] {things}.",
    "As {event}, there are now [{a}] [{sign}] [{n}] = [{b}] {things}.",
    "After that, {name} has [{a}] [{sign}] [{n}] = [{b}] {things}.",
    "When {event}, the count becomes [{a}] [{sign}] [{n}] = [{b}] {things}.",
]
_INTERIM = [
    "So at this point {name} has {b} {things}.",
    "This part of the story is now done.",
    "That takes care of this change.",
    "The count stands at {b} {things} for now.",
]
_ENDINGS = [
    "So we have covered all of the changes.",
    "In the end, {name} is left with {b} {things}.",
    "There are no more changes in the story.",
    "To sum up, all of this leaves {b} {things}.",
    "That is everything the story tells us.",
    "We have now gone through the whole story.",
]


class Arithmetic(Generator[Content]):
    """Stories with additions, subtractions, small multiplications and exact halving."""

    levels = (2, 3)
    ood = (4, 5)
    unit = "operations"

    def draw(self, rng: random.Random, level: int) -> Content:
        start = value = rng.choice(_STARTS)
        operations: list[tuple[str, int]] = []
        while len(operations) < level:
            sign = rng.choices("+-*/", (4, 4, 2, 1))[0]
            possible = _possible(sign, value)
            if possible:  # an addition or a subtraction always is, so the loop ends
                operations.append((sign, rng.choice(possible)))
                value = apply(sign, value, operations[-1][1])
        return start, tuple(operations)

    def count(self, level: int) -> int:
        return sum(_count(value, level) for value in _STARTS)

    def write(self, rng: random.Random, content: Content) -> Story:
        start, operations = content
        name, other = rng.sample(NAMES, 2)
        slots = {"name": name, "other": other, "things": rng.choice(THINGS)}
        events = events_of(rng, operations, slots)
        slots["place"] = rng.choice(PLACES)
        question, values = question_of(rng, start, slots, events), results_of(content)
        teacher = Teacher(rng, openings=_OPENINGS, moves=_MOVES, interims=_INTERIM, endings=_ENDINGS)
        restated, worked = Deck(rng, _RESTATED), Deck(rng, _WORKED)
        teacher.say("transition", _GOALS, 0.6, **slots)
        teacher.say("transition", _STARTING, 0.6, n=values[0], **slots)
        for (sign, n), event, a, b in zip(operations, events, values, values[1:], strict=False):
            teacher.move_on()
            teacher.say("transition", restated, 0.4, event=event)
            teacher.say("reasoning", worked, event=event, a=a, b=b, sign=sign, n=n, **slots)
            teacher.sum_up(b=b, **slots)
        return Story(question, teacher.close(b=values[-1], **slots), str(values[-1]))


def events_of(rng: random.Random, operations: tuple[tuple[str, int], ...], slots: dict[str, str]) -> list[str]:
    """Puts the operations into words."""
    return [rng.choice(_EVENTS[sign]).format(n=n, **slots) for sign, n in operations]


def question_of(rng: random.Random, start: int, slots: dict[str, str], events: list[str]) -> str:
    """Returns the story and its question."""
    opening = [
        "{name} is at the {place} and has {n} {things}.",
        "At the {place}, {name} has {n} {things}.",
        "{name} starts at the {place} with {n} {things}.",
    ]
    sentences = [rng.choice(opening).format(n=start, **slots), *(f"Then {event}." for event in events)]
    return " ".join([*sentences, "How many {things} does {name} have at the end?".format(**slots)])


def results_of(content: Content) -> list[int]:
    """Returns the number at the start and after every operation."""
    start, operations = content
    values = [start]
    for sign, n in operations:
        values.append(apply(sign, values[-1], n))
    return values


def apply(sign: str, value: int, n: int) -> int:
    """Returns ``value sign n``; the division is exact."""
    return {"+": value + n, "-": value - n, "*": value * n, "/": value // n}[sign]


def _possible(sign: str, value: int) -> list[int]:
    """Returns the operands that give an integer from ``SMALLEST`` to ``LARGEST``."""
    exact = [n for n in _OPERANDS[sign] if sign != "/" or value % n == 0]
    return [n for n in exact if SMALLEST <= apply(sign, value, n) <= LARGEST]


@cache
def _count(value: int, level: int) -> int:
    if level == 0:
        return 1
    return sum(_count(apply(sign, value, n), level - 1) for sign in _OPERANDS for n in _possible(sign, value))


ARITHMETIC = Task(name="arithmetic", grader=Numbers(), generator=Arithmetic())
