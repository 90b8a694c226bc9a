"""Every format: one literal row, what it reads, what it refuses, and what detection makes of it."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest

from skipthinking.data.fields import KEYS, Fields, UnreadableAnswer
from skipthinking.data.formats import FORMATS, Format, detect_format, get_format
from skipthinking.data.phrases import closing, plain_question, strip_closing
from skipthinking.data.questions import question_of
from skipthinking.records import DataError, UserError
from skipthinking.tasks.graders import boxed

CHOICES = "Where?\nAnswer Choices:\nA. race track\nB. the desert"

# (format, row, question, rationale, answer)
ROWS: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("qra", {"question": "2+3?", "rationale": "2+3=5.", "answer": 5}, "2+3?", "2+3=5.", "5"),
    ("qra", {"question": "2+3?", "rationale": None, "answer": "5"}, "2+3?", "", "5"),
    ("qra", {"question": "2+3?", "rationale": float("nan"), "answer": "5"}, "2+3?", "", "5"),
    ("qa", {"question": "2+3?", "answer": 5}, "2+3?", "", "5"),
    ("qa", {"question": "0.1+0.2?", "answer": 0.1 + 0.2}, "0.1+0.2?", "", "0.3"),
    ("qa", {"question": "pi?", "answer": 3.141592653589793}, "pi?", "", "3.141592653589793"),
    ("qa", {"question": "2+3?", "context": "", "answer": 5}, "2+3?", "", "5"),
    ("qa", {"question": "How many?", "context": "He has 5.", "answer": 5}, "He has 5.\nHow many?", "", "5"),
    ("qa", {"question": "He has 5. How many?", "passage": "He has 5.", "answer": 5}, "He has 5. How many?", "", "5"),
    ("strategy_qa", {"question": "Is it?", "passage": "It is.", "answer": False}, "It is.\nIs it?", "", "False"),
    (
        "aqua",
        {"question": "Q?", "options": "a ) rs . 4 , b ) 5 (b) , c ) none", "rationale": "So 5.", "correct": "b"},
        "Q?\nAnswer Choices:\nA. rs . 4\nB. 5 (b)\nC. none",
        "So 5.",
        "b",
    ),  # MathQA
    ("math", {"problem": "2+3?", "solution": "$\\boxed{5}$"}, "2+3?", "", "5"),
    ("math", {"problem": "2+3?", "solution": "5", "answer": "5"}, "2+3?", "", "5"),
    ("qa", {"question": "2+3?", "answer": "The answer is 5.", "level": 1}, "2+3?", "", "The answer is 5."),
    (
        "gsm8k",
        {"question": "2+3?", "answer": "She has 2+3 = $<<2+3=5>>5.\nSo 5.\n#### 1,005"},
        "2+3?",
        "She has 2+3 = $5.\nSo 5.",
        "1,005",
    ),
    ("instruction", {"instruction": "2+3?", "output": " 2+3=5. The answer is 5"}, "2+3?", "2+3=5.", "5"),
    (
        "instruction",
        {"instruction": "Add.", "input": "2 and 3", "output": "2+3=5.\n\nTherefore, the final answer is: **5**."},
        "Add.\n2 and 3",
        "2+3=5.",
        "5",
    ),
    ("instruction", {"instruction": "True?", "label": "False"}, "True?", "", "False"),
    ("instruction", {"instruction": "2+3?", "output": "2 --> 3", "label": "5"}, "2+3?", "2 --> 3", "5"),
    ("prompt_completion", {"prompt": "2+3?", "completion": "2 --> \\boxed{5}"}, "2+3?", "2 --> \\boxed{5}", "5"),
    (
        "instruction",
        {"instruction": "Where? Answer Choices:\nA. race track\nB. the desert\n", "output": "", "label": "A"},
        CHOICES,
        "",
        "A",
    ),
    (
        "instruction",
        {"instruction": "Q: Where? Answer choices: A: race track, B: the desert", "output": "Hot, so the answer is B"},
        CHOICES,
        "Hot",
        "B",
    ),
    ("prompt_completion", {"prompt": "2+3?", "completion": "2+3=5. The answer is 5."}, "2+3?", "2+3=5.", "5"),
    ("prompt_completion", {"prompt": "2+3? ###", "completion": " 2+3=5. --> 5 END"}, "2+3?", "2+3=5.", "5"),
    (
        "prompt_completion",
        {
            "prompt": "Q: 2+3?\n\nA: Let's think step by step.\n\n",
            "completion": "a --> b, so 5.\n\nTherefore the answer is 5",
        },
        "2+3?",
        "a --> b, so 5.",
        "5",
    ),
    ("prompt_completion", {"prompt": "2+3?", "completion": "<think>\n2+3=5\n</think>\n\n5"}, "2+3?", "2+3=5", "5"),
    (
        "prompt_completion",
        {"prompt": "2+3?", "completion": "<think>Two and\n\nthree.</think>So:\n\\boxed{5}\nas said."},
        "2+3?",
        "Two and\n\nthree.",
        "5",
    ),
    # the chat template of DeepSeek-R1 has written <think> into the prompt
    ("prompt_completion", {"prompt": "2+3?", "completion": "2+3=5\n</think>\n\n**5**"}, "2+3?", "2+3=5", "5"),
    ("prompt_completion", {"prompt": "2+3?", "completion": "<think>\n\n</think>\n\n5"}, "2+3?", "", "5"),
    ("prompt_completion", {"prompt": "2+3?", "completion": "It is \\boxed{5}."}, "2+3?", "It is \\boxed{5}.", "5"),
    (
        "messages",
        {
            "messages": [
                {"role": "system", "content": "Think."},
                {"role": "user", "content": "2+3?"},
                {"role": "assistant", "content": "<think>2+3=5.</think>The answer is 5."},
            ]
        },
        "2+3?",
        "2+3=5.",
        "5",
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": "2+3?"},
                {"role": "assistant", "reasoning_content": "Hm.\n\nWait.", "content": "It is 5.\n\n**Answer:** 5"},
            ]
        },
        "2+3?",
        "Hm.\n\nWait.",
        "5",
    ),
    (
        "open_r1",
        {
            "problem": "2+3?",
            "solution": "A human's.",
            "answer": "5",
            "generations": [
                "<think>\nLost",  # cut off
                "<think>2+3=6</think>\\boxed{6}",  # wrong
                "<think>\nAdd 2.\n\nAdd 3.\n</think>\n\nSo 2 + 3 is $\\boxed{5}$.",
            ],
            "is_reasoning_complete": [False, True, True],
            "correctness_math_verify": [False, False, True],
            "correctness_llama": None,
            "uuid": "u",
        },
        "2+3?",
        "Add 2.\n\nAdd 3.",
        "5",
    ),
    ("dss", {"input": "2+3?", "label": "5", "rationale": "2+3=5. The answer is 5."}, "2+3?", "2+3=5.", "5"),
    (
        "dss",
        {
            "input": "Where?\nAnswer Choices:\n(a) race track\n(b) the desert",
            "label": "the desert",
            "rationale": "Hot.",
        },
        CHOICES,
        "Hot.",
        "B",
    ),
    (
        "fine_tune_cot",
        {"question": "2+3?", "answer": "5", "reasoning_completion": "\n2+3=5.", "completion": " 5", "sample_index": 0},
        "2+3?",
        "2+3=5.",
        "5",
    ),
    ("svamp", {"Body": "Each costs 2 ", "Question": "How much?", "Answer": 51.0}, "Each costs 2 How much?", "", "51"),
    (
        "svamp",
        {"Body": "Each costs 2.", "Question": "How much?", "Answer": "2.50"},
        "Each costs 2. How much?",
        "",
        "2.50",
    ),
    ("asdiv", {"body": "He has 2.", "question": "How many?", "answer": "2 (apples)"}, "He has 2. How many?", "", "2"),
    ("multiarith", {"question": " 2+3?", "final_ans": "5"}, "2+3?", "", "5"),
    (
        "commonsense_qa",
        {
            "question": "Where?",
            "choices": {"label": ["A", "B"], "text": ["race track", "the desert"]},
            "answerKey": "B",
        },
        CHOICES,
        "",
        "B",
    ),
    (
        "aqua",
        {
            "question": "Where?",
            "options": ["A)race track", "B)the desert"],
            "rationale": "Hot.\nAnswer: B",
            "correct": "B",
        },
        CHOICES,
        "Hot.",
        "B",
    ),
    (
        "math",
        {"problem": "Half?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "level": "1"},
        "Half?",
        "It is $\\boxed{\\frac{1}{2}}$.",
        "\\frac{1}{2}",
    ),
    *[
        ("qra", {"problem": "2+3?", key: "2+3=5.", "final_answer": "5"}, "2+3?", "2+3=5.", "5")
        for key in KEYS["rationale"]
        if key != "solution"
    ],
    ("math", {"problem": "2+3?", "solution": "2+3=5.", "answer": "5"}, "2+3?", "2+3=5.", "5"),
    ("qra", {"question": "2+3?", "solution": "2+3=5.", "answer": "5"}, "2+3?", "2+3=5.", "5"),  # LIMO
    ("qra", {"question": "2+3?", "steps": ["<<1+1=2>>", "<<2+3=5>>"], "answer": "5"}, "2+3?", "1+1=2\n2+3=5", "5"),
    ("qra", {"question": "2+3?", "cot": "<think>2+3=5.</think>", "answer": "5"}, "2+3?", "2+3=5.", "5"),
    ("qra", {"question": "2+3?", "rationale": "", "reasoning": "2+3=5.", "answer": "5"}, "2+3?", "2+3=5.", "5"),
    ("qa", {"question": "2+3?", "answer": "5", "steps": 1}, "2+3?", "", "5"),  # the number of steps
    ("qa", {"question": "2+3?", "answer": "<think>2+3=5.</think>5"}, "2+3?", "2+3=5.", "5"),
    *[("qa", {key: "2+3?", "ground_truth": "5"}, "2+3?", "", "5") for key in KEYS["question"]],
    *[("qa", {"question": "2+3?", key: "5"}, "2+3?", "", "5") for key in KEYS["answer"] if key != "final_ans"],
    ("completion", {"question": "2+3?", "completion": "2+3=5. The answer is 5"}, "2+3?", "2+3=5.", "5"),
    *[
        ("completion", {"query": "2+3?", key: "2+3=5. The answer is: 5"}, "2+3?", "2+3=5.", "5")
        for key in KEYS["completion"]
    ],  # MetaMathQA
    ("completion", {"question": "2+3?", "response": "2+3=5.", "answer": "5"}, "2+3?", "2+3=5.", "5"),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "2+3=5. #### 5"}]},
        "2+3?",
        "2+3=5.",
        "5",
    ),
    (
        "sharegpt",
        {
            "system": "Think.",
            "conversations": [
                {"from": "system", "value": "x"},
                {"from": "user", "value": "2+3?"},
                {
                    "from": "assistant",
                    "value": "<|begin_of_thought|>\n\n2+3=5.\n\n<|end_of_thought|>\n\n"
                    "<|begin_of_solution|>\n\n5\n\n<|end_of_solution|>",
                },
            ],
        },
        "2+3?",
        "2+3=5.",
        "5",
    ),  # Bespoke-Stratos
    (
        "prompt_completion",
        {
            "prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "2+3?"}],
            "completion": [{"role": "assistant", "content": "2+3=5. The answer is 5"}],
        },
        "2+3?",
        "2+3=5.",
        "5",
    ),  # TRL
    (
        "prompt_completion",
        {"prompt": [{"role": "user", "content": "2+3?"}], "completion": "2+3=5. The answer is 5"},
        "2+3?",
        "2+3=5.",
        "5",
    ),
    *[
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": "2+3?"},
                    {"role": "assistant", "content": "The answer is 5", key: "2+3=5."},
                ]
            },
            "2+3?",
            "2+3=5.",
            "5",
        )
        for key in KEYS["rationale"]
    ],
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2+3?"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "2+3=5."}, {"type": "text", "text": "5"}],
                },
            ]
        },
        "2+3?",
        "2+3=5.",
        "5",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "2+3=5."}], "answer": "5"},
        "2+3?",
        "2+3=5.",
        "5",
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": "2+3?", "from": None}], "reasoning": "2+3=5.", "answer": 5},
        "2+3?",
        "2+3=5.",
        "5",
    ),  # Dolphin-R1
    (
        "messages",
        {
            "messages": [
                {"role": None, "from": "human", "content": None, "value": "2+3?"},
                {"role": None, "from": "gpt", "content": None, "value": "2+3=5. The answer is 5"},
            ]
        },
        "2+3?",
        "2+3=5.",
        "5",
    ),  # columns of two sources
    (
        "completion",
        {"input": [{"role": "user", "content": "2+3?"}], "output": "<think>2+3=5.</think>5", "reasoning": "on"},
        "2+3?",
        "2+3=5.",
        "5",
    ),  # Nemotron
    ("completion", {"input": "2+3?", "reasoning_content": "2+3=5.", "content": "5"}, "2+3?", "2+3=5.", "5"),
    ("completion", {"question": "2+3?", "thinking": "2+3=5.", "response": "The answer is 5"}, "2+3?", "2+3=5.", "5"),
    ("qa", {"question": "2+3?", "answer": "5", "cot": "math"}, "2+3?", "", "5"),  # the kind of question
    ("qa", {"question": "N_00+N_01?", "answer": "5", "nums": "2.0 3"}, "2+3?", "", "5"),
    ("qa", {"question": "[NUM1]+[NUM2]?", "answer": "5", "nums": [2, 3]}, "2+3?", "", "5"),
    ("qa", {"question": "the number1 song?", "answer": "5"}, "the number1 song?", "", "5"),
    ("addsub", {"iIndex": 1, "sQuestion": "2+3?", "lEquations": ["X=2+3"], "lSolutions": [5.0]}, "2+3?", "", "5"),
    (
        "mawps",
        {
            "Question": "number0 pens at number1 ?",
            "Numbers": "2 2.5",
            "Equation": "* number0 number1",
            "Answer": 5.0,
            "Body": "number0 pens",
            "Ques": "at number1 ?",
        },
        "2 pens at 2.5 ?",
        "",
        "5",
    ),
    (
        "svamp",
        {"Body": "He has 2.", "Question": "How many?", "Answer": "2 (apples)", "Formula": "2=2"},
        "He has 2. How many?",
        "",
        "2",
    ),  # ASDiv's XML
    ("svamp", {"Body": "He has  2.", "Question": "He has 2. How many?", "Answer": 2}, "He has 2. How many?", "", "2"),
    ("asdiv", {"body": "He has 2.", "question": "He has 2. How many?", "answer": "2"}, "He has 2. How many?", "", "2"),
    ("text", {"text": "2+3?||<<2+3=5>> <<5*1=5>> #### 5"}, "2+3?", "2+3=5 5*1=5", "5"),
    ("text", {"text": "2+3? || So <<2+3=5>>5. #### 5"}, "2+3?", "So 5.", "5"),
    (
        "commonsense_qa_files",
        {
            "answerKey": "B",
            "question": {
                "stem": "Where?",
                "choices": [{"label": "A", "text": "race track"}, {"label": "B", "text": "the desert"}],
            },
        },
        CHOICES,
        "",
        "B",
    ),
    (
        "qra",
        {"question": "Where?", "options": {"A": "race track", "B": "the desert"}, "explanation": "Hot.", "answer": "B"},
        CHOICES,
        "Hot.",
        "B",
    ),  # MedQA
    ("trace", {"question": "2+3?", "rationale": "2+3=5. The answer is 5"}, "2+3?", "2+3=5.", "5"),
    ("trace", {"question": "2+3?", "solution": "2+3=5. So \\boxed{5}"}, "2+3?", "2+3=5. So \\boxed{5}", "5"),
    (
        "trace",
        {"question": "2+3?", "solution": "5", "thinking_trajectories": ["Hm. 2+3=5."], "attempt": "So:\n5"},
        "2+3?",
        "Hm. 2+3=5.",
        "5",
    ),  # s1K
    (
        "trace",
        {
            "problem": "2+3?",
            "deepseek_reasoning": "Oh. 2+3=5.",
            "deepseek_solution": "So 5.",
            "ground_truth_solution": "Add.\n\\boxed{5}",
            "domain": "math",
        },
        "2+3?",
        "Oh. 2+3=5.",
        "5",
    ),  # OpenThoughts
    ("strategy_qa", {"question": "So?", "answer": True, "facts": ["A is.", "B is."]}, "So?", "A is. B is.", "True"),
    ("strategy_qa", {"question": "So?", "answer": False}, "So?", "", "False"),
]


# The text after the thoughts, by rationale; the phrase at its end that states the answer is removed.
CONCLUSIONS = {
    "Two and\n\nthree.": "So:\n\\boxed{5}\nas said.",
    "Hm.\n\nWait.": "It is 5.",
    "Hm. 2+3=5.": "So:\n5",
    "Oh. 2+3=5.": "So 5.",
    "Add 2.\n\nAdd 3.": "So 2 + 3 is $\\boxed{5}$.",
}


@pytest.mark.parametrize(("name", "row", "question", "rationale", "answer"), ROWS)
def test_format_reads_and_is_detected(
    name: str, row: dict[str, Any], question: str, rationale: str, answer: str
) -> None:
    read = get_format(name).read(row, "f:1")
    assert replace(read, conclusion="") == Fields(question=question, rationale=rationale, answer=answer)
    assert read.conclusion == CONCLUSIONS.get(rationale, "")
    assert detect_format(row, "f:1").name == name


@pytest.mark.parametrize("question", KEYS["question"])
@pytest.mark.parametrize("completion", KEYS["completion"])
def test_any_key_of_a_question_goes_with_any_key_of_a_completion(question: str, completion: str) -> None:
    for other in ({}, {"answer": "5"}):
        row = {question: "2+3?", completion: "2+3=5. The answer is 5.", **other}
        read = detect_format(row, "f:1").read(row, "f:1")
        assert replace(read, used=frozenset()) == Fields(question="2+3?", rationale="2+3=5.", answer="5")


def test_a_row_of_any_keys_and_values_is_read_or_refused() -> None:
    draw = random.Random(0)
    values = [value for _, row, *_ in ROWS for value in row.values()]
    values += [None, "", [], {}, float("nan"), True, [None], [1], {"a": 1}, [{"role": None}], "[1]", b"x", 10**400]
    errors: list[str] = []
    keys = sorted({key for _, row, *_ in ROWS for key in row} | {key for keys in KEYS.values() for key in keys})
    for _ in range(5000):
        row = {key: draw.choice(values) for key in draw.sample(keys, draw.randint(1, 5))}
        for read in (lambda row, where: detect_format(row, where).read(row, where), question_of):
            try:
                read(row, "f:1")
            except DataError as error:
                errors.append(str(error))
    assert len(errors) > 1000
    assert all("f:1" in error for error in errors)


def test_every_format_has_a_literal_case() -> None:
    assert {name for name, *_ in ROWS} == {known.name for known in FORMATS}


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_sample_row_in_the_docstring_has_the_format(known: Format) -> None:
    text = known.parse.__doc__ or ""
    rows = [json.JSONDecoder().raw_decode(text, match.end())[0] for match in re.finditer(r"Sample row: ", text)]
    assert known.name in [detect_format(row, "f:1").name for row in rows]
    for row in rows:
        assert detect_format(row, "f:1").read(row, "f:1").answer in ("5", "2", "A", "False")


def test_formats_do_not_change_their_row() -> None:
    for name, row, *_ in ROWS:
        before = repr(row)
        get_format(name).read(row, "f:1")
        assert repr(row) == before


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_missing_key_is_named_with_place_and_found_keys(known: Any) -> None:
    row = next(row for name, row, *_ in ROWS if name == known.name)
    for key in known.keys:
        short = {name: value for name, value in row.items() if name != key}
        with pytest.raises(DataError) as caught:
            known.read({**short, "other": 1}, "data.jsonl:7")
        for part in (f'"{key}"', "data.jsonl:7", known.name, '"other"'):
            assert part in str(caught.value)


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan"), ["5"]])
@pytest.mark.parametrize("key", ["question", "answer"])
def test_empty_field_is_named_with_place(key: str, empty: object) -> None:
    row = {"question": "2+3?", "rationale": "2+3=5.", "answer": "5", key: empty}
    with pytest.raises(DataError, match=rf'"{key}".*\(f\.jsonl:3\)'):
        get_format("qra").read(row, "f.jsonl:3")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("instruction", {"instruction": "2+3?", "output": "It is 5."}),
        ("instruction", {"instruction": "2+3?", "output": "The answer is 5. No, wait! It is 6."}),
        ("instruction", {"instruction": "2+3?", "output": "It is ... The answer is  "}),
        ("gsm8k", {"question": "2+3?", "answer": "5"}),
        ("gsm8k", {"question": "2+3?", "answer": "5 ####"}),
        ("prompt_completion", {"prompt": "2+3?", "completion": "It is 5."}),
        ("prompt_completion", {"prompt": "2+3?", "completion": "<think>2+3=5</think>"}),
        ("prompt_completion", {"prompt": "2+3?", "completion": "<think>2+3=5. The answer is 5."}),
        ("prompt_completion", {"prompt": "2+3?", "completion": "<think>2+3=5</think>I do not know.\nSorry."}),
        ("open_r1", {"problem": "2+3?", "generations": ["<think>a</think>\\boxed{5}"], "correctness_llama": [False]}),
        ("open_r1", {"problem": "2+3?", "generations": ["<think>a The answer is 5"]}),
        ("open_r1", {"problem": "2+3?", "generations": ["<think>a</think>b\nc"], "answer": "5"}),
        ("math", {"problem": "2+3?", "solution": "It is 5."}),
    ],
)
def test_text_without_a_stated_answer_is_unreadable(name: str, row: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer, match=r"\(f:1\)"):
        get_format(name).read(row, "f:1")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("messages", {"messages": "hello"}),
        ("open_r1", {"problem": "2+3?", "generations": "<think>a</think>5"}),
        ("messages", {"messages": [{"role": "user", "content": "2+3?"}]}),
        ("messages", {"messages": [{"role": r, "content": "x"} for r in ("user", "assistant", "user", "assistant")]}),
        ("commonsense_qa", {"question": "x", "choices": {"label": ["A"], "text": []}, "answerKey": "A"}),
        ("commonsense_qa", {"question": "x", "choices": {"label": None, "text": []}, "answerKey": "A"}),
        ("open_r1", {"problem": "x", "answer": "5", "generations": ["y"], "is_reasoning_complete": True}),
        ("open_r1", {"problem": "x", "answer": "5", "generations": ["y"], "correctness_math_verify": True}),
        ("open_r1", {"problem": "x", "answer": "5", "generations": ["y"], "correctness_math_verify": False}),
        ("open_r1", {"problem": "x", "answer": "5", "generations": ["y"], "correctness_llama": ["False"]}),
        ("open_r1", {"problem": "x", "answer": "5", "generations": ["y"], "is_reasoning_complete": False}),
        ("aqua", {"question": "x", "options": ["21"], "rationale": "", "correct": "A"}),
        ("math", {"problem": "x", "solution": "See above.", "answer": "proof"}),
        ("math", {"problem": "x", "solution": "It is 5.", "answer": "notfound"}),
        ("qa", {"question": "x", "context": {"title": ["a"], "sentences": [["b"]]}, "answer": "5"}),
    ],
)
def test_malformed_values_are_refused(name: str, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"Expected .* got .*\(f:1\)"):
        get_format(name).read(row, "f:1")


def test_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'gsm9k'.*auto, .*gsm8k"):
        get_format("gsm9k")


def test_undetectable_row_lists_formats_and_keys() -> None:
    with pytest.raises(DataError) as caught:
        detect_format({"q": 1, "a": 2}, "f:1")
    assert '"q", "a" (f:1)' in str(caught.value)
    assert all(known.name in str(caught.value) for known in FORMATS)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("2+3=5. The answer is 5", "2+3=5.", "5"),
        ("2+3=5.The answer is 5.", "2+3=5.", "5"),
        ("2+3 = 5 applesThe answer is 5", "2+3 = 5 apples", "5"),
        ("2+3 = 5. Therefore, the answer is 5. The answer is 5", "2+3 = 5.", "5"),
        ("2 < 3, so the answer is True>", "2 < 3", "True"),
        ("We add. The answer is 4 + 79 = 83.", "We add. 4 + 79 = 83.", "83"),
        ("Adding, we conclude that the correct answer is (B).", "Adding", "(B)"),
        ("2+3=5\n#### 1,234", "2+3=5", "1,234"),
        ("2+3=5\n**Answer:** 5", "2+3=5", "5"),
        ("The answer is 3, but wait, so the answer is 2", "The answer is 3, but wait", "2"),
        ("The answer is $3.50.", "", "$3.50"),
        ("It is -5. the answer is -5", "It is -5.", "-5"),
    ],
)
def test_closing_on_literal_cases(text: str, reasoning: str, answer: str) -> None:
    assert closing(text) == (reasoning, answer)


@pytest.mark.parametrize(
    "text", ["", "5", "The answer is 5. So we stop.", "The answer is here\nThen 6", "Breathe answer is"]
)
def test_no_answer_is_read_before_the_end(text: str) -> None:
    assert closing(text) is None
    assert strip_closing(text) == text


def test_strip_closing_is_idempotent() -> None:
    for _, row, *_ in ROWS:
        for value in row.values():
            once = strip_closing(str(value))
            assert strip_closing(once) == once


def test_boxed_balances_braces() -> None:
    assert boxed(r"a \boxed{1} b \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert boxed(r"\boxed{1") is None
    assert boxed("none") is None
    assert boxed(r"\boxed{1} or \boxed{2") is None  # the last box is never closed
    assert boxed(r"\fbox{3}") == "3"


@pytest.mark.parametrize(
    "written",
    [
        "Q: Where? Answer choices: A: race track, B: the desert",
        "Where? Answer Choices:\nA. race track\nB. the desert\n",
        "Where?\nAnswer Choices:\n(a) race track\n(b) the desert",
        "Question: Where? Options: (A) race track (B) the desert\nA:",
    ],
)
def test_choices_have_one_form(written: str) -> None:
    assert plain_question(written) == CHOICES


@pytest.mark.parametrize("text", ["What are the options: buy or sell?", "Answer choices: none", "Is it a Q: or an A:?"])
def test_questions_without_choices_are_kept(text: str) -> None:
    assert plain_question(text) == text


def test_thoughts_without_an_end_name_the_tag() -> None:
    row = {"prompt": "2+3?", "completion": "<think>2+3=5. The answer is 5."}
    with pytest.raises(UnreadableAnswer, match=r"thoughts that end in </think> in \"completion\""):
        get_format("prompt_completion").read(row, "f:1")
