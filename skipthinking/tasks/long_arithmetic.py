"""Long arithmetic: the stories of ``arithmetic`` with a teacher who continues to think after reaching the answer.

A trace consists of paragraphs: an opening, one per change in the story, some that the answer does not need (checks,
another way, second thoughts, detours), and a closing one. The paragraphs up to the last result suffice; ``meta`` holds
their number as "sufficient".
"""

from __future__ import annotations

import random

from skipthinking.tasks.arithmetic import Arithmetic, Content, events_of, question_of, results_of
from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Deck, Step, Story
from skipthinking.tasks.numbers import Numbers
from skipthinking.tasks.words import NAMES, PLACES, THINGS

__all__ = ["LONG_ARITHMETIC", "LongArithmetic"]

_OPENINGS = [
    "Let us work through this step by step.",
    "Okay, let us go through the story in order.",
    "Alright, we take the changes one at a time.",
]
_STARTING = ["At the start, {name} has {n} {things}.", "{name} starts with {n} {things}."]
_MOVES = ["Now for the next change.", "Next, we look at what happens.", "Here we need to be careful."]
_WORKED = [
    "Since {event}, we get [{a}] [{sign}] [{n}] = [{b}] {things}.",
    "When {event}, the count becomes [{a}] [{sign}] [{n}] = [{b}] {things}.",
]
_CHECKS = ["Let me check this again.", "Let me go over the numbers once more."]
_UNDONE = ["Another way is to go back from the end.", "We can also undo the changes."]
_DOUBTS = [
    "Wait, maybe I missed a change. No, the story has {changes} changes and we took all of them.",
    "Hmm, maybe the order matters. But we did go in the order of the story.",
    "Wait, is it {b} or something else, I wonder. The last line did say {b} {things}.",
]
_DETOURS = [
    "Maybe the {place} plays a role here. No, the {place} changes nothing.",
    "It does not matter who {other} is. Only the {things} count.",
    "We could also draw the {things} on paper. That would take long and change nothing.",
]
_ENDINGS = ["So in the end {name} has {b} {things}.", "All of this leaves {name} with {b} {things}."]
_MOST_NEEDLESS = 6  # paragraphs that the answer does not need, without the closing one


class LongArithmetic(Arithmetic):
    """Stories with traces of 4 to 13 paragraphs, of which 3 to 6 suffice."""

    def write(self, rng: random.Random, content: Content) -> Story:
        start, operations = content
        name, other = rng.sample(NAMES, 2)
        slots = {"name": name, "other": other, "things": rng.choice(THINGS), "place": rng.choice(PLACES)}
        events = events_of(rng, operations, slots)
        question, values = question_of(rng, start, slots, events), results_of(content)
        steps = [Step("transition", rng.choice(_OPENINGS), opens=True)]
        steps.append(Step("transition", rng.choice(_STARTING).format(n=start, **slots)))
        for (sign, n), event, a, b in zip(operations, events, values, values[1:], strict=False):
            moved = rng.random() < 0.6
            if moved:
                steps.append(Step("transition", rng.choice(_MOVES), opens=True))
            worked = rng.choice(_WORKED).format(event=event, a=a, b=b, sign=sign, n=n, **slots)
            steps.append(Step("reasoning", worked, opens=not moved))
        return Story(question, steps + _needless(rng, slots, values, operations), str(values[-1]))


def _needless(
    rng: random.Random, slots: dict[str, str], values: list[int], operations: tuple[tuple[str, int], ...]
) -> list[Step]:
    """Writes the paragraphs after the last result, and the closing one."""
    slots = {"b": str(values[-1]), "changes": str(len(operations)), **slots}
    doubts, detours = Deck(rng, _DOUBTS), Deck(rng, _DETOURS)
    forward = [f"{a} {sign} {n} = {b}" for (sign, n), a, b in zip(operations, values, values[1:], strict=False)]
    undo = {"+": "-", "-": "+", "*": "/", "/": "*"}
    backward = [f"{b} {undo[sign]} {n} = {a}" for (sign, n), a, b in zip(operations, values, values[1:], strict=False)]
    steps: list[Step] = []
    # Functions, because only the chosen one may draw from a deck.
    kinds = [
        lambda: f"{rng.choice(_CHECKS)} First we have {' and '.join(forward)}.",
        lambda: f"{rng.choice(_UNDONE)} Then we have {' and '.join(reversed(backward))}.",
        lambda: doubts.deal().format(**slots),
        lambda: detours.deal().format(**slots),
    ]
    for _ in range(rng.randint(0, _MOST_NEEDLESS)):
        first, second = rng.choice(kinds)().split(". ")
        steps += [Step("detour", f"{first}.", opens=True), Step("detour", second)]
    return [*steps, Step("summary", rng.choice(_ENDINGS).format(**slots), opens=True)]


LONG_ARITHMETIC = Task(name="long_arithmetic", grader=Numbers(), generator=LongArithmetic())
