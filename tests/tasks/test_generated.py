"""Laws of the built-in tasks."""

import dataclasses
import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import task_oracles as oracles
from nltk.tokenize.punkt import PunktSentenceTokenizer

from skipthinking.command_line.generate import generate as write_examples
from skipthinking.records import DataError, Example, UserError
from skipthinking.tasks import generate, get_task, task_names
from skipthinking.tasks.generation import Split, split_of
from skipthinking.tasks.words import FIRST_NAMES

NAMES = ("arithmetic", "coin_flip", "last_letter", "shuffled_objects", "date_understanding", "long_arithmetic")
SUMS = ("arithmetic", "date_understanding", "long_arithmetic")
each_task = pytest.mark.parametrize("name", NAMES)
each_split = pytest.mark.parametrize("split", ["train", "test", "ood"])


@cache
def drawn(name: str, split: Split, size: int = 200, seed: int = 0) -> tuple[Example, ...]:
    return tuple(generate(name, split=split, size=size, seed=seed))


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def texts(example: Example, kind: str) -> list[str]:
    steps = example.meta["steps"]
    return [example.rationale[step["start"] : step["end"]] for step in steps if step["kind"] == kind]


def test_every_built_in_task_is_tested() -> None:
    assert {name for name in task_names() if get_task(name).generator} == set(NAMES)


@each_task
@each_split
def test_answer_follows_from_the_question(name: str, split: Split) -> None:
    for example in drawn(name, split):
        assert getattr(oracles, name)(example.question) == example.answer, example


@each_task
@each_split
def test_equations_of_the_rationale_hold(name: str, split: Split) -> None:
    sums = 0
    for example in drawn(name, split):
        for a, sign, b, c in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", example.rationale):
            x, y = int(a), int(b)
            assert int(c) == {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[sign], example
            sums += 1
    assert (sums > 0) == (name in SUMS)


@pytest.mark.parametrize("name", ["arithmetic", "long_arithmetic"])
@each_split
def test_last_equation_of_arithmetic_is_the_answer(name: str, split: Split) -> None:
    for example in drawn(name, split):
        results = [re.findall(r"= (\d+)", text) for text in texts(example, "reasoning")]
        assert len(results) == example.meta["level"]
        assert all(len(found) == 1 for found in results)
        assert results[-1] == [example.answer]


@each_task
@each_split
def test_reasoning_alone_ends_in_the_answer(name: str, split: Split) -> None:
    for example in drawn(name, split):
        last = texts(example, "reasoning")[-1]
        if name == "coin_flip":
            side = re.findall(r"heads|tails", last.replace("and not heads up", "").replace("and not tails up", ""))[-1]
            assert (side == "heads") == (example.answer == "yes")
        else:
            assert re.search(rf"(?<!\w){re.escape(example.answer)}(?!\w)", last), example


@each_task
def test_splits_share_no_problem_whatever_the_seeds_and_levels(name: str) -> None:
    seen: dict[str, str] = {}
    for seed in range(6):
        for split in ("train", "test", "ood"):
            for example in generate(name, split=split, size=40, seed=seed, levels=(2, 2)):
                key = problem(name, example.question)
                assert seen.setdefault(key, split) == split, example


def problem(name: str, question: str) -> str:
    """What decides the answer, without the wording: recovered from the text, independently of the generator."""
    if name in ("arithmetic", "long_arithmetic"):
        signs = {"half": "/", "times": "*", "more": "+", "gets": "+"}
        moves = question.split(". Then ")
        kinds = [next((sign for word, sign in signs.items() if f" {word} " in move), "-") for move in moves[1:]]
        return str((kinds, re.findall(r"\d+", question)))
    if name == "coin_flip":
        return re.sub(
            r"turns the coin over",
            "flips the coin",
            re.sub("leaves the coin alone", "does not flip the coin", question),
        )
    if name == "last_letter":
        return question.split('"')[1]
    if name == "shuffled_objects":
        moves = re.findall(r"Then (\w+) (?:and|trades with) (\w+)", question)
        return str((question.split(".")[0], [sorted(pair) for pair in moves], question.split()[-5:]))
    return str(re.findall(r"\d+ \w+ (?:after|before)|[\d/]{10}", question))


@each_task
def test_questions_are_unique_and_ids_too(name: str) -> None:
    for split in ("train", "test"):
        examples = drawn(name, split)
        assert len({example.question for example in examples}) == len(examples)
        assert len({example.id for example in examples}) == len(examples)
        assert all(example.id.startswith(f"{name}-{split}-") for example in examples)


@each_task
def test_same_seed_same_examples_another_seed_others(name: str) -> None:
    assert generate(name, split="train", size=30, seed=3) == generate(name, split="train", size=30, seed=3)
    assert generate(name, split="train", size=30, seed=3) != generate(name, split="train", size=30, seed=4)


@each_task
def test_a_limit_takes_the_first_examples_and_another_size_the_same_problems(name: str) -> None:
    full = drawn(name, "test", 60)
    for limit in (1, 20, 60):
        assert tuple(generate(name, split="test", size=60, limit=limit)) == full[:limit]
    fewer = generate(name, split="test", size=20)
    assert [(row.answer, row.meta["level"]) for row in fewer] == [(row.answer, row.meta["level"]) for row in full[:20]]
    with pytest.raises(UserError, match="limit from 1 to the size, got limit=61, size=60"):
        generate(name, split="test", size=60, limit=61)


def test_examples_are_the_same_on_every_platform() -> None:
    # Written down once; a change of a word list or of the drawing order changes it, and with it everybody's data.
    first = {name: drawn(name, "train")[0].id for name in NAMES}
    assert first == FIRST_IDS


GAPS = dict.fromkeys(NAMES, " ") | {"long_arithmetic": r"(?: |\n\n)"}  # between two steps
FIRST_IDS = {
    "arithmetic": "arithmetic-train-e4eedac5e08f",
    "coin_flip": "coin_flip-train-d7a9208a8f1c",
    "last_letter": "last_letter-train-657f8784836c",
    "shuffled_objects": "shuffled_objects-train-fcfdf33d1077",
    "date_understanding": "date_understanding-train-7aafff2078dd",
    "long_arithmetic": "long_arithmetic-train-f06df6182c12",
}


@each_task
@each_split
def test_steps_partition_the_rationale(name: str, split: Split) -> None:
    for example in drawn(name, split):
        steps = example.meta["steps"]
        assert (steps[0]["start"], steps[-1]["end"]) == (0, len(example.rationale))
        assert all(a["end"] == b["start"] for a, b in pairwise(steps))
        for step in steps:
            text = example.rationale[step["start"] : step["end"]]
            assert re.fullmatch(rf"{GAPS[name]}?[A-Z][^.!?\n]*\.", text), example
            assert (text[0] in " \n") == (step["start"] > 0)


@each_task
@each_split
def test_punkt_finds_the_same_steps(name: str, split: Split) -> None:
    punkt = PunktSentenceTokenizer()
    for example in drawn(name, split):
        starts = [start for start, _ in punkt.span_tokenize(example.rationale)]
        told = [example.rationale[step["start"] : step["end"]] for step in example.meta["steps"]]
        gaps = [len(text) - len(text.lstrip()) for text in told]
        assert starts == [step["start"] + gap for step, gap in zip(example.meta["steps"], gaps, strict=True)], example


@each_task
@each_split
def test_core_tokens_lie_in_reasoning_steps_and_are_whole_words(name: str, split: Split) -> None:
    for example in drawn(name, split):
        reasoning = [step for step in example.meta["steps"] if step["kind"] == "reasoning"]
        counts = Counter[int]()
        for start, end in example.meta["core"]:
            inside = [index for index, step in enumerate(reasoning) if step["start"] <= start < end <= step["end"]]
            assert len(inside) == 1
            counts[inside[0]] += 1
            around = example.rationale[start - 1] + example.rationale[end]
            assert not re.search(r"\w", around), example
        assert len(counts) == len(reasoning)
        assert not re.search(r"[\[\]{}]", example.question + example.rationale)


@each_task
def test_teacher_is_verbose(name: str) -> None:
    share = Counter[str]()
    kinds = {"reasoning", "transition", "summary"} | ({"detour"} if name == "long_arithmetic" else set())
    for example in drawn(name, "train"):
        for kind in kinds:
            share[kind] += len(words(" ".join(texts(example, kind))))
        assert example.meta["steps"][0]["kind"] == "transition"
        assert example.meta["steps"][-1]["kind"] == "summary"
    assert set(share) == kinds
    assert {step["kind"] for example in drawn(name, "train") for step in example.meta["steps"]} == kinds
    assert 0.3 < share["reasoning"] / share.total() < 0.5
    assert len({len(example.meta["steps"]) for example in drawn(name, "train")}) > 3


@each_split
def test_what_suffices_of_a_long_trace_ends_with_the_paragraph_of_the_last_result(split: Split) -> None:
    needless = Counter[int]()
    for example in drawn("long_arithmetic", split):
        paragraphs, enough = example.rationale.split("\n\n"), example.meta["sufficient"]
        worked = [i for i, text in enumerate(paragraphs) if re.search(r"(?:we get|becomes) \d+ [-+*/] \d+ = \d+", text)]
        assert len(worked) == example.meta["level"]
        assert enough == worked[-1] + 1 < len(paragraphs)
        assert re.findall(r"= (\d+)", paragraphs[enough - 1]) == [example.answer]
        needless[len(paragraphs) - enough] += 1
    assert set(needless) == set(range(1, 8))  # the close, and up to six paragraphs before it


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_task_of_short_rationales_has_no_paragraphs(name: str) -> None:
    assert not any("\n" in example.rationale or "sufficient" in example.meta for example in drawn(name, "train"))


@each_task
def test_rationale_does_not_hold_the_answer_sentence(name: str) -> None:
    task = get_task(name)
    for example in drawn(name, "train"):
        assert "the answer is" not in example.rationale.lower()
        assert task.grade(example.rationale, example.answer).extracted is None
        completion = f"{example.rationale} {task.answer_sentence(example.answer)}"
        assert task.grade(completion, example.answer).correct


@each_task
def test_ood_problems_are_longer(name: str) -> None:
    longest = max(example.meta["level"] for split in ("train", "test") for example in drawn(name, split))
    assert min(example.meta["level"] for example in drawn(name, "ood")) > longest
    long, short = (sum(len(example.rationale) for example in drawn(name, split)) / 200 for split in ("ood", "train"))
    assert long > short


@each_task
def test_vocabulary_is_small(name: str) -> None:
    vocabulary = {
        word
        for split in ("train", "test", "ood")
        for example in drawn(name, split, size=1000)
        for word in words(f"{example.question} {example.rationale}")
    }
    assert len(vocabulary) <= 400


def test_coin_answers_are_balanced() -> None:
    for split in ("train", "test", "ood"):
        yes = sum(example.answer == "yes" for example in drawn("coin_flip", split, size=1000))
        assert 430 < yes < 570  # 4.4 standard deviations


def test_last_letter_names_are_150_different_ones() -> None:
    assert len(set(FIRST_NAMES)) == len(FIRST_NAMES) == 150


@each_task
def test_split_shares_are_eight_one_one(name: str) -> None:
    shares = Counter(split_of(name, (n,)) for n in range(5000))
    assert 0.77 < shares["train"] / 5000 < 0.83
    assert 0.08 < shares["test"] / 5000 < 0.12


def test_whole_space_can_be_drawn_but_no_more() -> None:
    arithmetic = get_task("arithmetic").generator
    assert arithmetic is not None
    with pytest.raises(
        DataError, match=r"size of at most (\d+), got 340 .*share of the 344 problems with 1 to 1"
    ) as error:
        generate("arithmetic", split="train", size=340, levels=(1, 1))
    most = int(re.findall(r"at most (\d+)", str(error.value))[0])
    assert len(generate("arithmetic", split="train", size=most, levels=(1, 1))) == most
    assert 250 < most < 300
    with pytest.raises(DataError, match="got 1000000000"):
        generate("arithmetic", split="train", size=10**9)


def test_count_is_the_number_of_problems() -> None:
    # 2 * 20 coins with one flip: all are found, in the three splits together.
    found = set()
    for split in ("train", "test", "ood"):
        with pytest.raises(DataError) as error:
            generate("coin_flip", split=split, size=40, levels=(1, 1))
        most = int(re.findall(r"at most (\d+)", str(error.value))[0])
        found |= {
            problem("coin_flip", e.question) for e in generate("coin_flip", split=split, size=most, levels=(1, 1))
        }
    assert len(found) == 40


@pytest.mark.parametrize("levels", [(3, 2), (0, 1), (2,), (1, 2, 3)])
def test_levels_that_make_no_sense_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="lowest and highest"):
        generate("arithmetic", split="train", size=1, levels=levels)


def test_levels_can_be_chosen() -> None:
    assert {example.meta["level"] for example in generate("arithmetic", split="test", size=20, levels=(1, 1))} == {1}


def test_benchmarks_cannot_be_generated() -> None:
    with pytest.raises(UserError, match="Choose one of arithmetic"):
        generate("gsm8k", split="train", size=1)


def test_tool_writes_one_example_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "data.jsonl"
    write_examples("coin_flip", "test", 7, 1, None, str(path))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [dataclasses.asdict(example) for example in generate("coin_flip", split="test", size=7, seed=1)]
    assert set(lines[0]) == {"id", "question", "rationale", "answer", "task", "meta", "conclusion"}
    assert [file.name for file in path.parent.iterdir()] == ["data.jsonl"]  # no temporary file is left
    out, err = capsys.readouterr()
    assert out == ""
    assert "Wrote 7 examples" in err
    write_examples("coin_flip", "test", 7, 1)
    assert capsys.readouterr().out == path.read_text(encoding="utf-8")


def test_tool_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        write_examples(size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can be written"):
        write_examples(size=1, out=str(tmp_path / "file" / "data.jsonl"))
