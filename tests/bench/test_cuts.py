"""Bisection against the linear search for the shortest valid prefix: costs and different results."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from skipthinking.data.batches import collate
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import BlankLines
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods import LongCoT
from skipthinking.methods.long_cot.cuts import BinaryCut, shortest_prefixes
from skipthinking.students import FromScratch, engine
from skipthinking.tasks import generate, get_task


def linear(steps: int) -> Generator[int, bool, int | None]:
    """Adds one step at a time until a prefix is valid; always finds the shortest valid prefix."""
    for count in range(1, steps + 1):
        if (yield count):
            return count
    return None


@pytest.mark.parametrize("steps", [8, 32, 128, 512])
def test_validations_grow_with_the_logarithm(steps: int) -> None:
    rng = random.Random(0)
    first = {str(n): rng.randint(1, steps) for n in range(500)}

    def judge(asked: Mapping[str, int]) -> dict[str, bool]:
        return {id: k >= first[id] for id, k in asked.items()}

    (ours, few), (theirs, many) = (
        shortest_prefixes(dict.fromkeys(first, steps), judge, *how) for how in ((), (linear,))
    )
    print(f"\n{steps} steps: {few / 500:.1f} validations a trace, linear {many / 500:.1f}")
    assert ours == theirs == first
    assert few <= 500 * math.ceil(math.log2(steps + 1))
    assert many > 2 * few or steps < 16


class World:
    """A student of the quickstart's size, trained on 48 long traces, half of the time broken off early."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.rows = generate("long_arithmetic", split="train", size=48)
        config = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "max_position_embeddings": 4096}  # fmt: skip
        self.student: Any = FromScratch("llama", config)
        self.student.prepare([f"{row.question} {row.rationale}" for row in self.rows])
        self.student.build()
        self.codec = Codec(tokenizer=self.student.tokenizer, template=Plain(), splitter=BlankLines())
        method = LongCoT(student=self.student)
        method.connect(self.codec, AverageChunks())
        encoded = list(self.codec.encode(self.rows))
        self.traces = [method.trace(row) for row in encoded]
        optimizer, rng = torch.optim.AdamW(self.student.parameters(), lr=2e-3), random.Random(0)
        for _ in range(150):
            shown = []
            for row in rng.sample(encoded, 16):
                early = rng.randint(1, len(row.steps)) if rng.random() < 0.5 else None
                shown.append(method._broken_off(row, early) if early else method.instance_of(row, None))
            batch = collate(shown, pad_id=self.student.pad_id, encoder_decoder=False)
            self.student.token_nll(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        self.forwards = 0
        self.student.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.forwards += kwargs["input_ids"].numel()

    @property
    def context(self) -> SearchContext:
        golds = {row.id: row.answer for row in self.rows}
        task = get_task("long_arithmetic")
        return SearchContext(
            student=self.student, mentioned=lambda id, tokens: False,
            right=lambda id, tokens: task.grade(self.codec.decode(tokens), golds[id]).correct,
        )  # fmt: skip

    def judge(self, asked: Mapping[str, int]) -> dict[str, bool]:
        by_id = {trace.id: trace for trace in self.traces}
        engine = BinaryCut._engine([by_id[id] for id in asked], self.context, None)
        return BinaryCut()._valid([(by_id[id], steps) for id, steps in asked.items()], self.context, engine)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("more", [0, 32, 128])
def test_a_trace_is_read_once(more: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares with reading each prefix from scratch; longer traces repeat their last paragraphs."""
    longer = [replace(trace, steps=[*trace.steps, *(trace.steps[-3:] * more)[:more]]) for trace in world.traces]
    traces, costs, results = longer[:: 4 if more > 99 else 1], [], []
    for kept in (True, False):
        with monkeypatch.context() as patch:
            if not kept:
                patch.setattr(engine, "why_no_cache", lambda *_: "of this test")
            world.forwards, began = 0, time.perf_counter()
            results.append(BinaryCut().cut(traces, world.context))
            costs.append((world.forwards / len(traces), time.perf_counter() - began))
    (few, seconds), (many, plain) = costs
    read = sum(len(trace.prompt) + len(trace.prefix(len(trace.steps))) for trace in traces) / len(traces)
    print(
        f"\n{len(traces)} traces of {sum(len(trace.steps) for trace in traces) / len(traces):.1f} steps, {read:.0f} "
        f"tokens: {few:.0f} token-forwards a trace, from scratch {many:.0f}; {plain / seconds:.1f} times as fast"
    )
    assert results[0] == results[1]
    assert many > few
    assert many > 3 * few or not more


def test_bisection_costs_fewer_validations_and_may_keep_more(world: World) -> None:
    sizes = {trace.id: len(trace.steps) for trace in world.traces}
    costs, results = [], {}
    for name, how in {"bisection": (), "linear": (linear,)}.items():
        world.forwards = 0
        results[name], validations = shortest_prefixes(sizes, world.judge, *how)
        costs.append(
            f"{name} {validations / len(sizes):.1f} validations, {world.forwards / len(sizes):.0f} token-forwards"
        )
    ours, theirs = results["bisection"], results["linear"]
    extra = Counter((steps or 0) - (theirs[id] or 0) for id, steps in ours.items() if steps is not None)
    none = [sum(steps is None for steps in kept.values()) for kept in (ours, theirs)]
    print(
        f"\n{len(sizes)} traces of {sum(sizes.values()) / len(sizes):.1f} steps: {'; '.join(costs)}. "
        f"No valid prefix found for {none[0]}, by the linear search for {none[1]}. "
        f"Extra steps compared with the linear search, and number of traces: {dict(sorted(extra.items()))}"
    )
    assert min(extra) >= 0  # never shorter than the shortest
    assert none[0] >= none[1]
    assert extra[0] > len(sizes) / 3
