"""Date understanding: a chain of events, each some days, weeks or a month before or after the previous one.

Days and months always have two digits (MM/DD/YYYY), also in the sums of the rationale, so that each is one token.
"""

from __future__ import annotations

import calendar
import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator
from functools import cache

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Generator, Step, Story, Teacher
from skipthinking.tasks.graders import Text

__all__ = ["DATE_UNDERSTANDING", "DateUnderstanding"]

Shift = tuple[str, int, str]
"""A direction (``+`` or ``-``), a number and a unit."""
Content = tuple[str, tuple[Shift, ...]]
"""Today's date (ISO), and one shift per event."""

_FIRST, _LAST = dt.date(2018, 1, 1), dt.date(2023, 12, 31)
_SPAN = (_LAST - _FIRST).days + 1
_AMOUNTS = [*((n, "days") for n in range(2, 11)), (1, "week"), (2, "weeks"), (1, "month")]
_SHIFTS = tuple((sign, n, unit) for sign in "+-" for n, unit in _AMOUNTS)

_EVENTS = ["party", "trip", "game", "exam", "visit", "concert", "race", "meeting", "dinner", "sale"]
_PLACED = ["The {event} is {shift} {anchor}.", "The {event} takes place {shift} {anchor}."]
_OPENINGS = [
    "Let us work this out step by step.",
    "Let us think about this carefully.",
    "We take the events one at a time.",
    "To answer this, we count from today.",
    "This is a question about dates.",
]
_GIVEN = [
    "The question says that today is {today}.",
    "We know that today is {today}.",
    "We want to know the date of the {asked}.",
    "The question asks for the {asked}.",
]
_MOVES = [
    "Now we move on to the next event.",
    "Let us see what comes next.",
    "We keep this in mind and go on.",
    "With that clear, we can go on.",
    "Next, we look at one more event.",
]
_RESTATED = [
    "The question says that the {event} is {shift} {anchor}.",
    "We are told that the {event} is {shift} {anchor}.",
    "We read that the {event} is {shift} {anchor}.",
]
_ARRIVED = [
    "So the {event} is on {date}.",
    "This puts the {event} on {date}.",
    "That makes the date of the {event} {date}.",
]
_INTERIM = ["That takes care of this event.", "This event is done.", "We now have the date {plain} in hand."]
_ENDINGS = [
    "So we have gone through all of the events.",
    "In the end, we have {plain} for the {asked}.",
    "There are no more events to look at.",
    "To sum up, the {asked} is on {plain}.",
    "That is everything the question tells us.",
]


class DateUnderstanding(Generator[Content]):
    """Days of the years 2018 to 2023; shifts by 2 to 10 days, 1 or 2 weeks, or 1 month."""

    levels = (1, 2)
    ood = (3, 4)
    unit = "date steps"

    def draw(self, rng: random.Random, level: int) -> Content:
        today = date = _FIRST + dt.timedelta(days=rng.randrange(_SPAN))
        shifts: list[Shift] = []
        while len(shifts) < level:
            shift = rng.choice(_SHIFTS)
            if _possible(date, shift):
                shifts.append(shift)
                date = move(date, shift)
        return today.isoformat(), tuple(shifts)

    def count(self, level: int) -> int:
        return _count(level)

    def write(self, rng: random.Random, content: Content) -> Story:
        today, shifts = dt.date.fromisoformat(content[0]), content[1]
        events = rng.sample(_EVENTS, len(shifts))
        anchors = ["today", *(f"the {event}" for event in events)]  # each event is dated from the one before it
        placed = [
            {"event": event, "shift": f"{n} {unit} {'after' if sign == '+' else 'before'}", "anchor": anchor}
            for event, (sign, n, unit), anchor in zip(events, shifts, anchors, strict=False)
        ]
        asked = events[-1]
        sentences = [f"Today is {written(today)}.", *(rng.choice(_PLACED).format(**place) for place in placed)]
        question = " ".join([*sentences, f"What is the date of the {asked} in MM/DD/YYYY?"])
        teacher = Teacher(rng, openings=_OPENINGS, moves=_MOVES, interims=_INTERIM, endings=_ENDINGS)
        teacher.restate(_GIVEN, (1, 2), today=written(today), asked=asked)
        date = today
        for shift, place in zip(shifts, placed, strict=True):
            teacher.move_on()
            teacher.say("transition", _RESTATED, 0.6, **place)
            teacher.steps += [Step("reasoning", text) for text in _worked(date, shift)]
            date = move(date, shift)
            teacher.say("reasoning", _ARRIVED, event=place["event"], date=f"[{written(date)}]")
            teacher.sum_up(plain=written(date))
        return Story(question, teacher.close(plain=written(date), asked=asked), written(date))


def written(date: dt.date) -> str:
    """Returns the date as MM/DD/YYYY."""
    return f"{date.month:02d}/{date.day:02d}/{date.year}"


def move(date: dt.date, shift: Shift) -> dt.date:
    """Returns the date after a shift."""
    direction = 1 if shift[0] == "+" else -1
    if shift[2] == "month":
        months = date.year * 12 + date.month - 1 + direction
        return date.replace(year=months // 12, month=months % 12 + 1)
    return date + dt.timedelta(days=direction * _days(shift))


def _days(shift: Shift) -> int:
    return shift[1] * (1 if shift[2] == "days" else 7)


def _possible(date: dt.date, shift: Shift) -> bool:
    """Whether the shift is unambiguous: a month after 01/31, there is no day 31."""
    return shift[2] != "month" or date.day <= 28


def _worked(date: dt.date, shift: Shift) -> Iterator[str]:
    """Yields the sums that lead from a date to the next; brackets mark the core tokens."""
    sign, n, unit = shift
    moved = move(date, shift)
    if unit == "month":
        month = date.month + (1 if sign == "+" else -1)
        yield f"For the month we get [{date.month:02d}] [{sign}] [1] = [{month:02d}] here."
        if month != moved.month:
            yield f"That is month [{moved.month:02d}] of the year [{moved.year}]."
        return
    days = _days(shift)
    if unit != "days":
        yield f"A week has 7 days, so this is [{n}] * [7] = [{days}] days."
    if date.month == moved.month:
        yield f"For the day we get [{date.day:02d}] [{sign}] [{days}] = [{moved.day:02d}] here."
    elif sign == "+":
        length = calendar.monthrange(date.year, date.month)[1]
        total = date.day + days
        yield f"For the day we get [{date.day:02d}] + [{days}] = [{total}] here."
        yield f"Month [{date.month:02d}] has [{length}] days, so [{total}] - [{length}] = [{moved.day:02d}] is left."
    else:
        length = calendar.monthrange(moved.year, moved.month)[1]
        total = date.day + length
        yield f"Month [{moved.month:02d}] has [{length}] days, so we use [{date.day:02d}] + [{length}] = [{total}]."
        yield f"For the day we get [{total}] - [{days}] = [{moved.day:02d}] then."


@cache
def _count(level: int) -> int:
    """Counts the chains of ``level`` possible shifts from every first day: a sum over the dates that they reach."""
    reached = Counter(_FIRST + dt.timedelta(days=day) for day in range(_SPAN))
    for _ in range(level):
        following: Counter[dt.date] = Counter()
        for date, chains in reached.items():
            for shift in _SHIFTS:
                if _possible(date, shift):
                    following[move(date, shift)] += chains
        reached = following
    return sum(reached.values())


DATE_UNDERSTANDING = Task(
    name="date_understanding",
    grader=Text(pattern=r"[0-9]{2}/[0-9]{2}/[0-9]{4}"),
    generator=DateUnderstanding(),
)
