"""Independent solvers: each reads the question's words only."""

import datetime as dt
import re


def arithmetic(question: str) -> str:
    first, *changes = question.split(". Then ")
    value = int(re.findall(r"\d+", first)[0])
    changes[-1] = changes[-1].partition(".")[0]
    for change in changes:
        numbers = [int(number) for number in re.findall(r"\d+", change)]
        if "half" in change:
            assert value % 2 == 0
            value //= 2
        elif "times as many" in change:
            value *= numbers[0]
        elif re.search(r"more| gets ", change):
            value += numbers[0]
        else:
            assert re.search(r"gives|loses|sells|takes|drops", change), change
            value -= numbers[0]
        assert 0 <= value <= 100
    return str(value)


long_arithmetic = arithmetic


def coin_flip(question: str) -> str:
    flips = len(re.findall(r"\w+ (?:flips the coin|turns the coin over)\.", question))
    return "yes" if flips % 2 == 0 else "no"


def last_letter(question: str) -> str:
    quoted = question.split('"')[1]
    return " ".join(word[-1] for word in quoted.split())


def shuffled_objects(question: str) -> str:
    has = dict(re.findall(r"(\w+) has the (\w+)", question))
    for a, b in re.findall(r"Then (\w+) (?:and|trades with) (\w+)", question):
        has[a], has[b] = has[b], has[a]
    asked = re.findall(r"What does (\w+) have", question)[0]
    return has[asked]


def date_understanding(question: str) -> str:
    month, day, year = (int(part) for part in re.findall(r"Today is (\d\d)/(\d\d)/(\d{4})", question)[0])
    dates = {"today": dt.date(year, month, day)}
    for event, n, unit, side, anchor in re.findall(
        r"The (\w+) (?:is|takes place) (\d+) (day|week|month)s? (after|before) (?:the )?(\w+)\.", question
    ):
        sign, start = (1 if side == "after" else -1), dates[anchor]
        if unit == "month":
            index = start.year * 12 + start.month - 1 + sign * int(n)
            dates[event] = dt.date(index // 12, index % 12 + 1, start.day)
        else:
            dates[event] = start + sign * dt.timedelta(**{f"{unit}s": int(n)})
    asked = re.findall(r"What is the date of the (\w+) in", question)[0]
    return dates[asked].strftime("%m/%d/%Y")
