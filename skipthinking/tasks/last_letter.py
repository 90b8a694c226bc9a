"""Last-letter concatenation: put the last letters of some names together.

The letters of an answer are separated by blanks ("n k"), so that a student that reads whole words can write any answer.
"""

from __future__ import annotations

import math
import random

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Deck, Generator, Step, Story
from skipthinking.tasks.graders import Text
from skipthinking.tasks.words import FIRST_NAMES

__all__ = ["LAST_LETTER", "LastLetter"]

Content = tuple[str, ...]
"""The names, in order."""

_ASKED = [
    'Take the last letters of the words in "{words}" and put them together.',
    'What do the last letters of the words in "{words}" give together?',
    'Join the last letters of the words in "{words}" with blanks.',
]
_OPENINGS = [
    "Let us go through the words one by one.",
    "Let us think about this step by step.",
    "We take the words in order.",
    "To answer this, we look at the end of each word.",
    "This is a task about letters.",
]
_GOALS = [
    "We want to put the last letters together.",
    "The question asks for the last letters only.",
    "There are {n} words to look at here.",
]
_MOVES = [
    "Now we move on to the next word.",
    "Let us see which word comes next.",
    "We keep this letter in mind and go on.",
    "With that done, we can go on.",
    "Next, we look at one more word.",
]
_RESTATED = [
    "The next word in the question is {word} here.",
    "We read the word {word} now.",
    "Here we have {word} to do.",
]
_WORKED = [
    "The last letter of [{word}] is [{letter}], so we have [{so_far}] now.",
    "The word [{word}] ends in [{letter}], which makes it [{so_far}] so far.",
    "Since [{word}] has [{letter}] at the end, we write [{so_far}] down.",
]
_INTERIM = ["So the letters are {so_far} for now.", "That takes care of this word.", "This word is done."]
_ENDINGS = [
    "So we have looked at all of the words.",
    "In the end, we have {so_far} here.",
    "There are no more words left.",
    "To sum up, the letters are {so_far} in this order.",
    "That is every word in the question.",
]


class LastLetter(Generator[Content]):
    """Different names drawn from a list of 150; at least two, as one letter alone cannot be told from a word."""

    levels = (2, 3)
    ood = (4, 5)
    unit = "words"
    lowest = 2

    def draw(self, rng: random.Random, level: int) -> Content:
        return tuple(rng.sample(FIRST_NAMES, level))

    def count(self, level: int) -> int:
        return math.perm(len(FIRST_NAMES), level)

    def write(self, rng: random.Random, content: Content) -> Story:
        openings, moves, interim, endings = (Deck(rng, pool) for pool in (_OPENINGS, _MOVES, _INTERIM, _ENDINGS))
        steps = [Step("transition", openings.deal())]
        if rng.random() < 0.6:
            steps.append(Step("transition", rng.choice(_GOALS).format(n=len(content))))
        letters: list[str] = []
        for word in content:
            if rng.random() < 0.6:
                steps.append(Step("transition", moves.deal()))
            if rng.random() < 0.4:
                steps.append(Step("transition", rng.choice(_RESTATED).format(word=word)))
            letters.append(word[-1])
            so_far = " ".join(letters)
            steps.append(Step("reasoning", rng.choice(_WORKED).format(word=word, letter=word[-1], so_far=so_far)))
            if rng.random() < 0.4:
                steps.append(Step("summary", interim.deal().format(so_far=so_far)))
        answer = " ".join(letters)
        steps += [Step("summary", endings.deal().format(so_far=answer)) for _ in range(rng.choice((1, 2, 2)))]
        return Story(rng.choice(_ASKED).format(words=" ".join(content)), steps, answer)


LAST_LETTER = Task(name="last_letter", grader=Text(pattern="[a-z](?: [a-z])+"), generator=LastLetter())
