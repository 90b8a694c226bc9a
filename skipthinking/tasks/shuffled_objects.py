"""Tracking shuffled objects: three people swap three objects; who has what at the end?"""

from __future__ import annotations

import math
import random
from typing import NamedTuple

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Generator, Story, Teacher
from skipthinking.tasks.graders import Text
from skipthinking.tasks.words import NAMES, OBJECTS

__all__ = ["SHUFFLED_OBJECTS", "ShuffledObjects"]


class Content(NamedTuple):
    """A problem: who has which object, who swaps with whom, and the index of the person whose object is asked for."""

    people: tuple[str, ...]
    objects: tuple[str, ...]
    swaps: tuple[tuple[int, int], ...]
    asked: int


_PEOPLE = NAMES[:12]
_PAIRS = ((0, 1), (0, 2), (1, 2))
_SWAPS = ["{a} and {b} swap", "{a} trades with {b}", "{a} and {b} trade objects"]
_OPENINGS = [
    "Let us follow the objects step by step.",
    "Let us think about this carefully.",
    "We take the swaps one at a time.",
    "To answer this, we keep track of who has what.",
    "There are three people and three objects here.",
]
_GIVEN = [
    "At the start, {holdings}.",
    "The question says that {holdings}.",
    "We want to know what {asked} has at the end.",
    "The question asks about {asked}.",
]
_MOVES = [
    "Now we move on to the next swap.",
    "Let us see what comes next.",
    "We keep this in mind and go on.",
    "With that clear, we can go on.",
    "Next, we look at who trades.",
]
_RESTATED = ["The question says that {event}.", "We are told that {event}.", "We read that {event}."]
_WORKED = [
    "Since {event}, {holdings}.",
    "After that, {holdings}.",
    "When {event}, we get that {holdings}.",
]
_INTERIM = [
    "That takes care of this swap.",
    "This swap is done.",
    "So for now {asked} has the {thing}.",
]
_ENDINGS = [
    "So we have gone through all of the swaps.",
    "In the end, {asked} has the {thing}.",
    "There are no more swaps.",
    "To sum up, the {thing} is with {asked} at the end.",
    "That is everything the question tells us.",
]


class ShuffledObjects(Generator[Content]):
    """Three of twelve people, three of ten objects, any pair swaps."""

    levels = (2, 4)
    ood = (5, 7)
    unit = "swaps"

    def draw(self, rng: random.Random, level: int) -> Content:
        swaps = tuple(rng.choice(_PAIRS) for _ in range(level))
        return Content(tuple(rng.sample(_PEOPLE, 3)), tuple(rng.sample(OBJECTS, 3)), swaps, rng.randrange(3))

    def count(self, level: int) -> int:
        return math.perm(len(_PEOPLE), 3) * math.perm(len(OBJECTS), 3) * len(_PAIRS) ** level * 3

    def write(self, rng: random.Random, content: Content) -> Story:
        people, held, asked = content.people, list(content.objects), content.people[content.asked]
        pairs = [rng.sample(swap, 2) for swap in content.swaps]
        events = [rng.choice(_SWAPS).format(a=people[a], b=people[b]) for a, b in pairs]
        start = _holdings(people, held)
        sentences = [f"{start}.", *(f"Then {event}." for event in events), f"What does {asked} have at the end?"]
        question = " ".join(sentences)
        teacher = Teacher(rng, openings=_OPENINGS, moves=_MOVES, interims=_INTERIM, endings=_ENDINGS)
        teacher.restate(_GIVEN, (1, 2), holdings=start, asked=asked)
        for (a, b), event in zip(pairs, events, strict=True):
            teacher.move_on()
            teacher.say("transition", _RESTATED, 0.6, event=event)
            held[a], held[b] = held[b], held[a]
            holdings = _holdings(people, [f"[{thing}]" for thing in held])
            teacher.say("reasoning", _WORKED, event=event, holdings=holdings)
            teacher.sum_up(asked=asked, thing=held[content.asked])
        answer = held[content.asked]
        return Story(question, teacher.close(asked=asked, thing=answer), answer)


def _holdings(people: tuple[str, ...], held: list[str]) -> str:
    a, b, c = (f"{person} has the {thing}" for person, thing in zip(people, held, strict=True))
    return f"{a}, {b} and {c}"


SHUFFLED_OBJECTS = Task(
    name="shuffled_objects",
    grader=Text(pattern="|".join(OBJECTS)),
    generator=ShuffledObjects(),
)
