"""Coin flip: is the coin still heads up after some people flipped it and others did not?"""

from __future__ import annotations

import math
import random

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Generator, Story, Teacher
from skipthinking.tasks.graders import YesNo
from skipthinking.tasks.words import NAMES

__all__ = ["COIN_FLIP", "CoinFlip"]

Content = tuple[tuple[str, bool], ...]
"""One pair per person: the name, and whether this person flips the coin."""

_FLIPS = ["{name} flips the coin", "{name} turns the coin over"]
_LEAVES = ["{name} does not flip the coin", "{name} leaves the coin alone"]
_OPENINGS = [
    "Let us follow the coin step by step.",
    "Let us think about this carefully.",
    "We look at one person at a time.",
    "To answer this, we keep track of the side that is up.",
    "There are a few people here who may flip the coin.",
]
_GIVEN = [
    "The question says that the coin is heads up at the start.",
    "At the start the coin is heads up.",
    "We want to know if the coin is still heads up at the end.",
    "The question is which side is up at the end.",
]
_MOVES = [
    "Now we move on to the next person.",
    "Let us see who comes next.",
    "We keep this in mind and go on.",
    "Next, we look at what happens to the coin.",
    "With that clear, we can go on.",
]
_RESTATED = ["The question says that {event}.", "We are told that {event}.", "We read that {event}."]
_FLIPPED = [
    "Since {event}, it goes from {a} to {b}.",
    "Because {event}, the coin is now {b} up and not {a} up.",
    "When {event}, {a} becomes {b}.",
]
_KEPT = [
    "Since {event}, it stays {b} up.",
    "Because {event}, the coin is still {b} up.",
    "When {event}, the side that is up stays {b}.",
]
_INTERIM = ["So at this point the coin is {b} up.", "That takes care of this person.", "For now, {b} is on top."]
_ENDINGS = [
    "So we have gone through all of the people.",
    "In the end, the coin is {b} up.",
    "Nobody else does anything with the coin.",
    "To sum up, the side on top at the end is {b}.",
    "That is everything the question tells us.",
]


class CoinFlip(Generator[Content]):
    """Every person flips the coin with probability 1/2, so half of the problems of each level have the answer yes."""

    levels = (2, 4)
    ood = (5, 7)
    unit = "flips"

    def draw(self, rng: random.Random, level: int) -> Content:
        return tuple((name, rng.random() < 0.5) for name in rng.sample(NAMES, level))

    def count(self, level: int) -> int:
        return math.perm(len(NAMES), level) * 2**level

    def write(self, rng: random.Random, content: Content) -> Story:
        events = [rng.choice(_FLIPS if flips else _LEAVES).format(name=name) for name, flips in content]
        question = " ".join(["A coin is heads up.", *(f"{event}." for event in events), "Is the coin still heads up?"])
        teacher = Teacher(rng, openings=_OPENINGS, moves=_MOVES, interims=_INTERIM, endings=_ENDINGS)
        teacher.restate(_GIVEN, (0, 1, 2))
        side = "heads"
        for event, (_, flips) in zip(events, content, strict=True):
            teacher.move_on()
            teacher.say("transition", _RESTATED, 0.4, event=event)
            before, side = side, _other(side) if flips else side
            teacher.say("reasoning", _FLIPPED if flips else _KEPT, event=event, a=f"[{before}]", b=f"[{side}]")
            teacher.sum_up(0.3, b=side)
        return Story(question, teacher.close((1, 2), b=side), "yes" if side == "heads" else "no")


def _other(side: str) -> str:
    return "tails" if side == "heads" else "heads"


COIN_FLIP = Task(name="coin_flip", grader=YesNo(), generator=CoinFlip())
