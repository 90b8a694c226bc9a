"""Chunk search, rollouts and skip search, each against a plain reference in the same run, with the same result."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.data.batches import collate
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods.skip_thinking.chunks import SearchChunks
from skipthinking.methods.skip_thinking.skips import search_skips
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.methods.skip_thinking.verifiers import Likelihood
from skipthinking.records import Encoded
from skipthinking.students import FromScratch, measures
from skipthinking.students.engine import Engine
from skipthinking.students.scoring import score
from skipthinking.tasks import generate

MARKER = " [{}]"


class World:
    """A student of the quickstart's size, trained with gaps on stories.

    Args:
        size: Number of stories.
        steps: Number of training steps.
        at_once: Stories per step.
        falling: Whether the learning rate decays to zero; else it is constant.
    """

    def __init__(self, size: int, steps: int, at_once: int, falling: bool = False) -> None:
        torch.manual_seed(0)
        rows = generate("arithmetic", split="train", size=size)
        config = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
                  "max_position_embeddings": 512}  # fmt: skip
        self.student: Any = FromScratch("llama", config)
        self.student.prepare([f"{r.question} {r.rationale}" for r in rows], [MARKER.format(m) for m in range(1, 13)])
        self.student.build()
        codec = Codec(tokenizer=self.student.tokenizer, template=Plain(), splitter=Sentences())
        self.encoded = list(codec.encode(rows))
        self.stages = Stages(MARKER, codec.inline)
        self.chunks = {row.id: AverageChunks(12).chunk(row) for row in self.encoded}
        optimizer, rng = torch.optim.AdamW(self.student.parameters(), lr=2e-3), random.Random(0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if falling else None
        for _ in range(steps):
            shown = []
            for row in self.encoded if at_once == size else rng.sample(self.encoded, at_once):
                stages = self.stages.tokens(row, self.chunks[row.id])
                kept = [s for s in range(len(stages)) if s == len(stages) - 1 or rng.random() > 0.2]
                shown.append(instance(row.id, row.prompts[""], [stages[s] for s in kept], range(len(kept))))
            batch = collate(shown, pad_id=self.student.pad_id, encoder_decoder=False)
            self.student.token_nll(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule:
                schedule.step()
        self.student.eval()
        self.forwards = 0
        self.student.model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        self.forwards += kwargs["input_ids"].numel()


@pytest.fixture(scope="module", autouse=True)
def _whole_machine() -> Iterator[None]:
    """Gives both sides of a comparison all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world() -> World:
    """A student that has memorized its 24 stories."""
    return World(24, 300, 24)


@pytest.fixture(scope="module")
def trained() -> World:
    """A student that has seen 2,000 stories eight times, as after a warm-up; trains for some minutes."""
    return World(2000, 1000, 16, falling=True)


def _timed(world: World, work: Any) -> tuple[Any, float, int]:
    world.forwards = 0
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start, world.forwards


def test_chunk_search_equals_scoring_each_chunking_separately(world: World) -> None:
    rows = [row for row in world.encoded if len(row.steps) >= 10][:4]
    rows = [_first_steps(row, 10) for row in rows]

    def losses(encoded: Any, chunks: Any) -> Any:
        whole = [instance(row.id, row.prompts[""], [row.tokens], {0}) for row in encoded]
        scores = score(world.student, whole, measures.nll)
        return {row.id: np.array([scores[row.id][i:j].sum(dtype=np.float64) for i, j in row.steps]) for row in encoded}

    def plain() -> dict[str, Any]:
        """Runs a forward pass for each of the 84 ways to split 10 steps into 4 chunks."""
        best = {}
        for row in rows:
            found = []
            for cut in combinations(range(1, 10), 3):
                spans = tuple(pairwise([0, *cut, 10]))
                whole = [instance(row.id, row.prompts[""], [row.tokens], {0})]
                nll = score(world.student, whole, measures.nll)[row.id][:, 0].astype(np.float64)
                found.append((np.mean([nll[row.steps[i][0] : row.steps[j - 1][1]].mean() for i, j in spans]), spans))
            best[row.id] = min(found)[1]
        return best

    search = SearchChunks(4, search="exact")
    ours, seconds, forwards = _timed(world, lambda: search.search(rows, {}, losses))
    theirs, plain_seconds, plain_forwards = _timed(world, plain)
    print(
        f"\nchunk search, {len(rows)} examples, S = 10, M = 4: {plain_forwards / forwards:.0f} times fewer "
        f"token-forwards, {plain_seconds / seconds:.0f} times as fast"
    )
    assert ours == theirs
    assert plain_forwards >= 10 * forwards
    assert plain_seconds >= 10 * seconds


def _first_steps(row: Encoded, count: int) -> Encoded:
    end = row.steps[count - 1][1]
    tokens = np.concatenate([row.tokens[:end], row.tokens[slice(*row.answer)]])
    return replace(row, tokens=tokens, steps=row.steps[:count], answer=(end, len(tokens)))


def test_rollouts_from_drafts_equal_plain_generation(world: World) -> None:
    prompts = {row.id: row.prompts[""] for row in world.encoded}
    stages = {row.id: world.stages.tokens(row, world.chunks[row.id]) for row in world.encoded}
    begun = {id: np.concatenate([*parts[:1], parts[2][:1]]) for id, parts in stages.items()}  # skips the second
    drafts = {id: np.concatenate([parts[2][1:], *parts[3:]]) for id, parts in stages.items()}

    def by_draft() -> dict[str, list[int]]:
        made = Engine(world.student, list(prompts.values())).complete(
            list(begun.values()), list(drafts.values()), [200 - len(part) for part in begun.values()]
        )
        return {id: row.tokens for id, row in zip(prompts, made, strict=True)}

    ours, seconds, _ = _timed(world, by_draft)

    def plain() -> dict[str, list[int]]:
        ids = list(prompts)
        texts = world.student.generate(
            [torch.from_numpy(prompts[id]) for id in ids], 200, prefixes=[torch.from_numpy(begun[id]) for id in ids]
        )
        return {id: text[: 200 - len(begun[id])] for id, text in zip(ids, texts, strict=True)}

    theirs, plain_seconds, _ = _timed(world, plain)
    agreed = np.mean([ours[id] == drafts[id].tolist() for id in ours])
    print(f"\nrollouts, {len(ours)}, {agreed:.0%} as drafted: {plain_seconds / seconds:.1f} times as fast")
    assert ours == theirs
    assert plain_seconds >= 3 * seconds


@pytest.mark.parametrize(("name", "rows"), [("trained", 96), ("world", 24)])
def test_skip_search_equals_one_pass_per_variant(name: str, rows: int, request: pytest.FixtureRequest) -> None:
    """A student that has memorized everything needs few chunks, and each removal has to read all the text after it.

    The search then reads 3.0 times fewer tokens than the reference and is only sometimes 5 times as fast, on 2 cores.
    """
    world: World = request.getfixturevalue(name)
    encoded, verifier = world.encoded[:rows], Likelihood()
    context = SearchContext(student=world.student, right=lambda id, tokens: True, max_new_tokens=200)

    def search() -> dict[str, list[int]]:
        return search_skips(encoded, world.chunks, stages=world.stages, verifier=verifier, context=context)

    def plain() -> dict[str, list[int]]:
        return {row.id: _plain_skips(world, row, verifier.max_rise) for row in encoded}

    rounds = [(_timed(world, search), _timed(world, plain)) for _ in range(3)]  # alternating; the best of each
    (ours, _, forwards), (theirs, _, plain_forwards) = rounds[0]
    seconds, plain_seconds = (min(one[side][1] for one in rounds) for side in range(2))
    share = 1 - sum(map(len, ours.values())) / sum(len(world.chunks[id]) for id in ours)
    print(
        f"\nskip search, {name}, {len(ours)} stories, {share:.0%} skipped: {plain_forwards / forwards:.1f} times fewer "
        f"token-forwards, {plain_seconds / seconds:.1f} times as fast"
    )
    assert ours == theirs
    assert plain_seconds >= 5 * seconds


@torch.no_grad()
def _plain_skips(world: World, row: Encoded, max_rise: float) -> list[int]:
    """The documented rule: a pass with and a pass without each chunk, one at a time, with all logits."""
    stages = world.stages.tokens(row, world.chunks[row.id])
    last, kept = len(stages) - 1, list(range(len(stages)))

    def scores(shown: list[int]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        tokens = torch.from_numpy(np.concatenate([stages[s] for s in shown]))
        ids = torch.cat([torch.from_numpy(row.prompts[""]), tokens])[None]
        shares = world.student.model(input_ids=ids).logits[0].log_softmax(-1)[len(row.prompts[""]) - 1 : -1]
        nll, hit = -shares[torch.arange(len(tokens)), tokens], shares.argmax(-1) == tokens
        lengths = [len(stages[s]) for s in shown]
        parts = zip(nll.split(lengths), hit.split(lengths), strict=True)
        return {s: (part[1:], right[1:]) for s, (part, right) in zip(shown, parts, strict=True)}  # one marker token

    whole = scores(kept)
    if not whole[last][1].all():
        return kept[:-1]
    for drop in range(last):
        before, without = scores(kept), [s for s in kept if s != drop]
        after, later = scores(without), [s for s in without if s > drop]
        rise = torch.cat([after[s][0] - before[s][0] for s in later])
        lost = (after[last][0] - whole[last][0] > max_rise).any()
        for s in later[:-1]:
            lost = lost or (after[s][0] - whole[s][0] > 10 * max_rise)[whole[s][0] < np.log(2)].any()
        if after[last][1].all() and rise.mean() < max_rise and not lost:
            kept = without
    return kept[:-1]


def test_a_refresh_costs_a_fraction_of_an_epoch_and_grows_with_examples_and_steps(world: World) -> None:
    def step_losses(encoded: Any, chunks: Any) -> Any:
        whole = [
            instance(row.id, row.prompts[""], world.stages.tokens(row, chunks[row.id]), range(len(chunks[row.id]) + 1))
            for row in encoded
        ]
        scores = score(world.student, whole, measures.nll)
        return {row.id: np.ones(len(row.steps)) * scores[row.id].sum() for row in encoded}

    def refresh(rows: Any) -> tuple[float, float]:
        """Returns seconds, and token-forwards per example."""
        cut = {row.id: AverageChunks(4).chunk(row) for row in rows}
        _, seconds, read = _timed(world, lambda: SearchChunks(4).search(rows, cut, step_losses))
        return seconds, read / len(rows)

    def epoch() -> None:
        for at in range(0, len(world.encoded), 16):
            rows = world.encoded[at : at + 16]
            whole = [instance(row.id, row.prompts[""], [row.tokens], {0}) for row in rows]
            batch = collate(whole, pad_id=world.student.pad_id, encoder_decoder=False)
            world.student.token_nll(batch).mean().backward()

    _, training, _ = _timed(world, epoch)
    shares, forwards = [], []
    for share in (0.25, 0.5, 1.0):
        rows = world.encoded[: int(share * len(world.encoded))]
        seconds, read = refresh(rows)
        forwards.append(read)
        shares.append(f"{len(rows)} examples {seconds / training:.2f}")
    long = [row for row in world.encoded if len(row.steps) >= 10]
    by_steps = {steps: refresh([_first_steps(row, steps) for row in long]) for steps in (5, 10)}
    shares += [f"{len(long)} of {steps} steps {seconds / training:.2f}" for steps, (seconds, _) in by_steps.items()]
    context = SearchContext(student=world.student, right=lambda id, tokens: True, max_new_tokens=200)
    for chunks in (4, 12):
        cut = {row.id: AverageChunks(chunks).chunk(row) for row in world.encoded}
        _, seconds, _ = _timed(
            world,
            lambda cut=cut: search_skips(
                world.encoded, cut, stages=world.stages, verifier=Likelihood(), context=context
            ),
        )
        shares.append(f"skip search with M = {chunks} {seconds / training:.2f}")
    assert max(forwards) < 1.5 * min(forwards)  # linear in the examples, except for padding
    assert by_steps[10][1] < 2 * by_steps[5][1]  # at most linear in the steps: the question has the same length
    print(f"\nas a fraction of a training epoch of {len(world.encoded)} examples: {', '.join(shares)}")
