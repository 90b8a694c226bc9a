"""What is written in a format is read back exactly, or refused: for random questions, rationales and answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from skipthinking.data.fields import KEYS
from skipthinking.data.importing import import_rows
from skipthinking.data.phrases import plain_question
from skipthinking.data.rows import read_rows
from skipthinking.data.thoughts import THOUGHTS
from skipthinking.records import DataError
from skipthinking.tasks.base import Task
from skipthinking.tasks.graders import Text

ANY = Task(name="any", grader=Text())
QUICK = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

MARKERS = [
    "####", "#### 7", "The answer is 7. So", "-->", "--> 7 END", "<think>", "<thought>", "<answer>",
    "<answer>7</answer>",
    r"\boxed{7}", "||", "Answer: 7", "**Final Answer**", "<|begin_of_solution|>", "$x_1 = \\frac{1}{2}$", "\n\n", "{}",
    '"', "A) 7", "|", "<br>", "number1", "Q:", "</s>",
]  # fmt: skip
PLAIN = st.text(st.characters(exclude_categories=("C",), include_characters="\n\t", exclude_characters="|<>#-◁["))
MARKED = st.lists(st.one_of(PLAIN, st.sampled_from(MARKERS)), max_size=5).map(" ".join)
ANSWER = st.from_regex(r"-?[1-9][0-9]{0,3}(\.[0-9]*[1-9])?|[A-Za-z]{2,8}|\\frac\{[1-9]\}\{[1-9]\}", fullmatch=True)

Writer = Callable[[str, str, str], dict[str, Any]]
FORMATS: dict[str, Writer] = {
    "fine_tune_cot": lambda q, r, a: {"question": q, "reasoning_completion": r, "completion": a, "answer": a},
    "gsm8k": lambda q, r, a: {"question": q, "answer": f"{r}\n#### {a}"},
    "text": lambda q, r, a: {"text": f"{q}||{r}\n#### {a}"},
    "instruction": lambda q, r, a: {"instruction": q, "input": "", "output": f"{r}\nThe answer is {a}"},
    "label": lambda q, r, a: {"instruction": q, "output": r, "label": a},
    "dss": lambda q, r, a: {"input": q, "label": a, "rationale": r},
    "arrow": lambda q, r, a: {"prompt": f"{q} ###", "completion": f" {r} --> {a} END"},
    "trl": lambda q, r, a: {"prompt": [{"role": "user", "content": q}],
                            "completion": [{"role": "assistant", "content": f"{r}\nTherefore, the answer is {a}."}]},
    "sharegpt": lambda q, r, a: {"conversations": [{"from": "human", "value": q},
                                                   {"from": "gpt", "value": f"{r}\n#### {a}"}]},
    "answer tags": lambda q, r, a: {"query": q, "response": f"{r}\n<answer>{a}</answer>"},
    "no opening tag": lambda q, r, a: {"prompt": q, "completion": f"{r}\n</think>\n\n**{a}**"},
    "empty tags": lambda q, r, a: {"prompt": q, "completion": f"<think>\n\n</think>\n\n{r}\nThe answer is {a}."},
    "gpt-oss": lambda q, r, a: {"prompt": q, "completion":
        f"<|channel|>analysis<|message|>{r}<|end|><|start|>assistant<|channel|>final<|message|>{a}<|return|>"},
    "open_r1": lambda q, r, a: {"problem": q, "generations": ["?", f"<think>{r}</think>\\boxed{{{a}}}"], "answer": a,
                                "solution": "A human's."},
    "s1K": lambda q, r, a: {"question": q, "solution": a, "thinking_trajectories": [r], "cot": None},
    **{f"qra {key}": lambda q, r, a, key=key: {"question": q, key: r, "answer": a} for key in KEYS["rationale"]},
    **{f"messages {key}": lambda q, r, a, key=key: {"messages": [
        {"role": "system", "content": "x"}, {"role": "user", "content": q},
        {"role": "assistant", "content": f"The answer is {a}", key: r}]} for key in KEYS["rationale"]},
    **{open: lambda q, r, a, open=open, close=close: {"prompt": q, "completion": f"{open}\n{r}\n{close}\n\n{a}"}
       for open, close in THOUGHTS.items()},
}  # fmt: skip


def read(row: dict[str, Any]) -> tuple[str, str, str]:
    (example,) = import_rows([[(row, "f:1")]], name="f", task=ANY).examples
    return example.question, example.rationale, example.answer


@QUICK
@given(name=st.sampled_from(sorted(FORMATS)), question=PLAIN, rationale=PLAIN, answer=ANSWER)
def test_plain_text_is_read_back_exactly(name: str, question: str, rationale: str, answer: str) -> None:
    question, rationale = f"{question} Why?".strip(), f"{rationale}\nThat is it. We add, and it fits.".strip()
    assume(plain_question(question) == question)
    assert read(FORMATS[name](question, rationale, answer)) == (question, rationale, answer)


@QUICK
@given(name=st.sampled_from(sorted(FORMATS)), question=MARKED, rationale=MARKED, answer=ANSWER)
def test_text_with_markers_is_read_back_exactly_or_refused(
    name: str, question: str, rationale: str, answer: str
) -> None:
    """A closing tag without an opening one is left out: it is how templates that open the thoughts look."""
    question, rationale = f"{question} Why?".strip(), f"{rationale}\nThat is it. We add, and it fits.".strip()
    assume(plain_question(question) == question)
    try:
        result = read(FORMATS[name](question, rationale, answer))
    except DataError:
        return
    assert result == (question, rationale, answer)


@settings(QUICK, max_examples=20)
@given(rows=st.lists(st.tuples(MARKED, MARKED, ANSWER), min_size=1, max_size=5))
def test_files_keep_every_character(rows: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("rows")
    written = [dict(zip(("question", "rationale", "answer"), row, strict=True)) for row in rows]
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written), "utf-8")
    (folder / "a.json").write_text(json.dumps(written), "utf-8")
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ("question", "rationale", "answer"))
        table.writeheader()
        table.writerows(written)
    for kind in ("jsonl", "json", "csv"):
        assert [row for row, _ in read_rows(folder / f"a.{kind}")] == written
