"""Binary cutting against plain references: every prefix judged by itself, and plain greedy generation."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from searches import on_ranks, search

from skipthinking.data.batches import collate
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import BlankLines
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods import LongCoT
from skipthinking.methods.long_cot.annotators import Cuts
from skipthinking.methods.long_cot.cuts import (
    BinaryCut,
    Cutter,
    FirstAnswer,
    FullTrace,
    RandomCut,
    Trace,
    shortest_prefixes,
)
from skipthinking.records import UserError
from skipthinking.students import FromScratch, engine
from skipthinking.students.engine import Engine
from skipthinking.tasks import generate, get_task


def _searched(truth: Mapping[str, list[bool]]) -> tuple[dict[str, int | None], int, dict[str, list[int]], int]:
    """What bisection keeps where k steps are valid if truth[k - 1]; what it asked, and its rounds."""
    asked: dict[str, list[int]] = {id: [] for id in truth}
    rounds = []

    def judge(questions: Mapping[str, int]) -> dict[str, bool]:
        rounds.append(len(questions))
        for id, steps in questions.items():
            asked[id].append(steps)
        return {id: truth[id][steps - 1] for id, steps in questions.items()}

    found, validations = shortest_prefixes({id: len(valid) for id, valid in truth.items()}, judge)
    assert validations == sum(rounds) == sum(map(len, asked.values()))
    return found, validations, asked, len(rounds)


def test_literal_search() -> None:
    # 10 steps, valid from the 4th on. Open are 1..10 and "none" (11): 5 is valid, 2 is not, 3 is not, 4 is.
    found, _, asked, rounds = _searched({"a": [False] * 3 + [True] * 7})
    assert (found["a"], asked["a"], rounds) == (4, [5, 2, 3, 4], 4)


@pytest.mark.parametrize("steps", range(1, 20))
def test_bisection_finds_the_shortest_valid_prefix_where_validity_is_monotone(steps: int) -> None:
    truth = {str(first): [k >= first for k in range(1, steps + 1)] for first in range(1, steps + 2)}
    found, _, asked, rounds = _searched(truth)
    for first in range(1, steps + 2):
        assert found[str(first)] == (first if first <= steps else None)
        assert len(asked[str(first)]) <= math.ceil(math.log2(steps + 1))
    assert rounds == math.ceil(math.log2(steps + 1))


@pytest.mark.parametrize("steps", range(1, 9))
def test_what_is_kept_was_itself_validated_and_nothing_shorter_that_was_asked_is_valid(steps: int) -> None:
    """Over every pattern of validity there is, monotone or not."""
    truth = {str(bits): list(bits) for bits in itertools.product([False, True], repeat=steps)}
    found, _, asked, _ = _searched(truth)
    longer = 0
    for id, valid in truth.items():
        approved = [k for k in asked[id] if valid[k - 1]]
        assert found[id] == (min(approved) if approved else None)
        assert len(set(asked[id])) == len(asked[id])
        if valid[-1]:
            assert found[id] is not None  # a valid full trace is never dropped
        if found[id] is not None:
            longer += found[id] > valid.index(True) + 1
    assert (longer > 0) == (steps > 2)  # bisection may miss the shortest: that is known, and its docstring says so


# ------------------------------------------------------------------------------------------- with a student

ROWS = generate("long_arithmetic", split="train", size=12, levels=[1, 2])


class World:
    """A small student that has memorized most of its traces, broken off anywhere."""

    def __init__(self) -> None:
        config = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "max_position_embeddings": 512}  # fmt: skip
        self.student: Any = FromScratch("llama", config, vocab_size=700)
        self.student.prepare([f"{row.question} {row.rationale}" for row in ROWS])
        torch.manual_seed(0)
        self.student.build()
        self.codec = Codec(tokenizer=self.student.tokenizer, template=Plain(), splitter=BlankLines())
        self.method = LongCoT(student=self.student, close_thinking="!")
        self.method.connect(self.codec, AverageChunks())
        self.trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
        self.method.trainer = self.trainer
        self.encoded = list(self.codec.encode(ROWS))
        self.traces = [self.method.trace(row) for row in self.encoded]
        self.by_id = {row.id: row for row in ROWS}
        self._train()

    def _train(self) -> None:
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=4e-3)
        rng = random.Random(0)
        for _ in range(70):
            rows = []
            for trace in self.traces[:9]:
                steps = rng.randint(2, len(trace.steps))
                rows.append(instance(trace.id, trace.prompt, [trace.completion(steps)], {0}))
            batch = collate(rows, pad_id=self.student.pad_id, encoder_decoder=False)
            self.student.token_nll(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def grade(self, id: str, tokens: list[int]) -> Any:
        return get_task("long_arithmetic").grade(self.codec.decode(tokens), self.by_id[id].answer)

    def context(self, **other: Any) -> SearchContext:
        judges = {"right": lambda id, tokens: self.grade(id, tokens).correct,
                  "mentioned": lambda id, tokens: self.grade(id, tokens).correct_lenient}  # fmt: skip
        return SearchContext(**{"student": self.student, **judges, **other})

    def cut(self, cutter: Cutter) -> dict[str, int | None]:
        """The cuts of all traces."""
        found = cutter.cut(self.traces, self.context())
        return cutter.finish(found, {trace.id: len(trace.steps) for trace in self.traces})

    @torch.no_grad()
    def says(self, trace: Trace, steps: int) -> tuple[str, float]:
        """What it says greedily after the prefix and the phrase, and how likely; all is read again for every token."""
        self.student.eval()
        ids = [*trace.prompt, *trace.opening, *itertools.chain(*trace.steps[:steps]), *trace.closing]
        ids += self.codec.inline(" Therefore, the answer is").tolist()
        begun, likely = len(ids), 1.0
        while len(ids) < begun + 32 and ids[-1] != self.student.tokenizer.eos_token_id:
            shares = self.student.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
            ids.append(int(shares.argmax()))
            likely *= float(shares.max())
        return self.codec.decode(ids[begun:]), likely


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_trace_is_the_encoded_example_in_parts(world: World) -> None:
    for trace, row in zip(world.traces, world.encoded, strict=True):
        whole = np.concatenate([*trace.steps, trace.closing, trace.conclusion, trace.answer])
        assert world.codec.decode(trace.closing.tolist()) == "!"
        assert trace.completion(len(trace.steps)).tolist() == whole.tolist()
        assert np.concatenate([*trace.steps, trace.answer]).tolist() == row.tokens.tolist()
        assert world.codec.decode(trace.answer[: trace.phrase].tolist()) == "Therefore, the answer is"
        asked = world.codec.decode([*trace.prefix(2), *trace.answer_cue])
        paragraphs = world.by_id[row.id].rationale.split("\n\n")
        assert asked == "\n\n".join(paragraphs[:2]) + "! Therefore, the answer is"


def test_binary_cut_is_bisection_with_plain_greedy_answers(world: World) -> None:
    said = {trace.id: [world.says(trace, k) for k in range(1, len(trace.steps) + 1)] for trace in world.traces}
    right = {
        id: [get_task("long_arithmetic").grade(f"The answer is {text}", world.by_id[id].answer).correct
             for text, _ in row]
        for id, row in said.items()
    }  # fmt: skip
    likelihoods = sorted(likely for id in said for ok, (_, likely) in zip(right[id], said[id], strict=True) if ok)
    third = len(likelihoods) // 3
    levels = [0.0, *(float(np.mean(likelihoods[at : at + 2])) for at in (third, 2 * third))]
    found = {}
    for sure in levels:
        truth = {
            id: [ok and likely >= sure for ok, (_, likely) in zip(right[id], said[id], strict=True)] for id in said
        }
        found[sure] = BinaryCut(confidence=sure).cut(world.traces, world.context())
        assert found[sure] == _searched(truth)[0]
        verdicts = {valid for row in truth.values() for valid in row}
        assert verdicts == {True, False}
    assert any(steps is not None and steps < len(said[id]) for id, steps in found[0.0].items())
    assert [found[level] for level in levels[:2]] != [found[level] for level in levels[1:]]


def test_a_student_that_is_never_right_leaves_nothing(world: World) -> None:
    found = BinaryCut().cut(world.traces, world.context(right=lambda id, tokens: False))
    assert set(found.values()) == {None}


@pytest.mark.parametrize("sure", [0.0, 0.2])
def test_keys_that_are_kept_change_no_verdict(world: World, sure: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cutter = BinaryCut(confidence=sure)
    whole = cutter.cut(world.traces, world.context())
    monkeypatch.setattr(BinaryCut, "block_tokens", 300)  # blocks of one or two traces
    assert cutter.cut(world.traces, world.context()) == whole
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_complete_plain", lambda *_: pytest.fail("a prefix was read again"))
        cutter.cut(world.traces, world.context())
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_complete_cached", lambda *_: pytest.fail("keys were kept"))
        patch.setattr(world.student.config, "sliding_window", 100, raising=False)  # shorter than a trace
        assert cutter.cut(world.traces, world.context()) == whole


@pytest.mark.parametrize(("cutter", "kept"), [(BinaryCut, True), (BinaryCut, False), (RandomCut, True)])
def test_any_number_of_ranks_finds_the_same(
    cutter: type[Cutter], kept: bool, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the KV cache of a trace is kept or every prefix is read again, and whether cuts are dealt among all."""
    if not kept:
        monkeypatch.setattr(engine, "why_no_cache", lambda *_: "of this test")
        monkeypatch.setattr(Engine, "_complete_cached", lambda *_: pytest.fail("keys were kept"))
    parts: list[list[str]] = [[] for _ in range(3)]

    class Noted(cutter):  # type: ignore[valid-type, misc]
        block_tokens = 600  # blocks of a few traces

        def __init__(self, rank: int) -> None:
            super().__init__()
            self._rank = rank

        def settings(self) -> dict[str, Any]:
            return cutter().settings()  # they are the same on every rank

        def cut(self, traces: Any, context: Any) -> dict[str, int | None]:
            parts[self._rank].extend(trace.id for trace in traces)
            return super().cut(traces, context)

    students = [copy.deepcopy(world.student) for _ in range(3)]

    def on_rank(rank: int) -> dict[str, int | None]:
        annotator = Cuts(0, Noted(rank), world.method)
        return search([annotator], world.encoded, student=students[rank], folder=tmp_path, codec=world.codec)["cuts"]

    assert on_ranks(monkeypatch, 3, on_rank) == [world.cut(cutter())] * 3
    assert all(parts)  # each had its share
    assert sorted(id for part in parts for id in part) == sorted(trace.id for trace in world.traces)


def test_random_cut_deals_the_shares_of_binary_cut(world: World) -> None:
    found, dealt = world.cut(BinaryCut()), world.cut(RandomCut(seed=1))
    sizes = {trace.id: len(trace.steps) for trace in world.traces}
    assert [id for id, steps in found.items() if steps is None] == [id for id, steps in dealt.items() if steps is None]
    assert all(1 <= steps <= sizes[id] for id, steps in dealt.items() if steps is not None)
    assert dealt != found
    shares = [sum((cut[id] or 0) / sizes[id] for id in sizes) / len(sizes) for cut in (found, dealt)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)  # whole steps only
    assert dealt == world.cut(RandomCut(seed=1))


def test_first_answer_is_the_first_paragraph_that_ends_on_it(world: World) -> None:
    found = FirstAnswer().cut(world.traces, world.context())
    for id, steps in found.items():
        row = world.by_id[id]
        numbers = [[word.strip(".,") for word in text.split() if word.strip(".,").isdigit()]
                   for text in row.rationale.split("\n\n")]  # fmt: skip
        ends = [place for place, named in enumerate(numbers, 1) if named and named[-1] == row.answer]
        assert steps == ends[0] <= row.meta["sufficient"]


def test_full_trace_keeps_every_step(world: World) -> None:
    assert FullTrace().cut(world.traces, world.context()) == {trace.id: len(trace.steps) for trace in world.traces}


def test_an_answer_needs_a_token() -> None:
    with pytest.raises(UserError, match="answer_tokens=0"):
        BinaryCut(answer_tokens=0)


def test_nobody_is_sure_beyond_doubt() -> None:
    with pytest.raises(UserError, match=r"confidence=1\.0"):
        RandomCut(confidence=1.0)
