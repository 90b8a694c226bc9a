"""Last-letter concatenation: put the last letters of some names together.

Spaces separate the letters of an answer ("n k"), so that a student with a vocabulary of words can write any answer.
"""

from __future__ import annotations

import math
import random

from skipthinking.tasks.base import Task
from skipthinking.tasks.generation import Generator, Story, Teacher
from skipthinking.tasks.graders import Text
from skipthinking.tasks.words import FIRST_NAMES

__all__ = ["LAST_LETTER", "LastLetter"]

Content = tuple[str, ...]
"""The names, in order."""

_QUESTIONS = [
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
    """At least two different names from a list of 150: one letter alone would look like the word "a" or "I"."""

    levels = (2, 3)
    ood = (4, 5)
    unit = "words"
    lowest = 2

    def draw(self, rng: random.Random, level: int) -> Content:
        return tuple(rng.sample(FIRST_NAMES, level))

    def count(self, level: int) -> int:
        return math.perm(len(FIRST_NAMES), level)

    def write(self, rng: random.Random, content: Content) -> Story:
        teacher = Teacher(rng, openings=_OPENINGS, moves=_MOVES, interims=_INTERIM, endings=_ENDINGS)
        teacher.say("transition", _GOALS, 0.6, n=len(content))
        letters: list[str] = []
        for word in content:
            teacher.move_on()
            teacher.say("transition", _RESTATED, 0.4, word=word)
            letters.append(word[-1])
            so_far = " ".join(letters)
            teacher.say("reasoning", _WORKED, word=word, letter=word[-1], so_far=so_far)
            teacher.sum_up(so_far=so_far)
        answer = " ".join(letters)
        steps = teacher.close(so_far=answer)
        return Story(rng.choice(_QUESTIONS).format(words=" ".join(content)), steps, answer)


LAST_LETTER = Task(name="last_letter", grader=Text(pattern="[a-z](?: [a-z])+"), generator=LastLetter())
