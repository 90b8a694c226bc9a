"""Chunk search: costs from prefix sums, the optimum, and what greedy and average chunks reach beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.methods.skip_thinking.chunks import (
    SearchChunks,
    chunk_costs,
    greedy_partition,
    objective,
    spread_costs,
    stage_losses,
    step_losses,
)
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.records import Encoded, Example, Span, UserError
from skipthinking.students import FromScratch
from skipthinking.students.measures import nll as nll_of
from skipthinking.students.scoring import score
from skipthinking.tasks import generate, get_task, task_names


def _random(seed: int, steps: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 20, steps)
    return rng.gamma(1.0, 2.0, steps) * tokens, tokens


def _encoded(tokens: NDArray[np.int64], id: str = "a") -> Encoded:
    edges = [0, *np.cumsum(tokens).tolist()]
    example = Example(id=id, question="", rationale="", answer="", task="gsm8k")
    return Encoded(
        example=example, prompts={"": np.zeros(3, dtype=np.int64)},
        tokens=np.zeros(edges[-1] + 2, dtype=np.int64), steps=tuple(pairwise(edges)), answer=(edges[-1], edges[-1] + 2),
    )  # fmt: skip


def _says(nll: NDArray[np.float64]) -> Any:
    """A pass that finds these step losses."""
    return lambda encoded, chunks: {"a": nll}


def _all_partitions(steps: int, groups: int) -> list[tuple[Span, ...]]:
    return [tuple(pairwise([0, *cut, steps])) for cut in combinations(range(1, steps), groups - 1)]


def _plain_objective(chunks: tuple[Span, ...], nll: NDArray[np.float64], tokens: NDArray[np.int64]) -> float:
    """J from the definition: each chunk scored by itself."""
    return float(np.mean([nll[i:j].sum() / tokens[i:j].sum() for i, j in chunks]))


@pytest.mark.parametrize(("steps", "n_chunks"), [(1, 2), (5, 1), (6, 3), (8, 4)])
def test_spread_is_the_best_of_all_partitions_by_tokens(steps: int, n_chunks: int) -> None:
    """Oracle: every token carries the mean NLL of its step; numpy's variance over the tokens of a chunk."""
    for seed in range(5):
        nll, tokens = _random(seed, steps)
        per_token = [np.full(n, x / n) for x, n in zip(nll, tokens, strict=True)]

        def spread(cut: tuple[Span, ...], values: Any = per_token) -> float:
            chunks = [np.concatenate(values[i:j]) for i, j in cut]
            return sum(chunk.var() * len(chunk) for chunk in chunks)

        costs = spread_costs(nll, tokens)
        cuts = _all_partitions(steps, min(n_chunks, steps))
        for cut in cuts:
            assert sum(costs[i, j] for i, j in cut) == pytest.approx(spread(cut), abs=1e-9)
        chunker = SearchChunks(n_chunks, search="exact", minimize="spread")
        found = chunker.search([_encoded(tokens)], {}, _says(nll))["a"]
        assert spread(found) == pytest.approx(min(map(spread, cuts)), abs=1e-9)
    assert chunker.settings() != SearchChunks(n_chunks, search="exact").settings()


def test_the_mean_nll_by_tokens_is_the_same_for_all_chunks() -> None:
    """Why ``spread`` is not J with chunks weighted by tokens."""
    nll, tokens = _random(1, 7)
    for cut in _all_partitions(7, 3):
        weighted = sum(chunk_costs(nll, tokens)[i, j] * tokens[i:j].sum() for i, j in cut) / tokens.sum()
        assert weighted == pytest.approx(nll.sum() / tokens.sum())


def test_costs_from_prefix_sums_are_those_of_each_chunk_by_itself() -> None:
    nll, tokens = _random(0, 9)
    costs = chunk_costs(nll, tokens)
    for i in range(9):
        for j in range(i + 1, 10):
            assert costs[i, j] == pytest.approx(nll[i:j].sum() / tokens[i:j].sum())


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("n_chunks", [1, 2, 3, 4, 8])
def test_exact_is_the_best_of_all_partitions(steps: int, n_chunks: int) -> None:
    for seed in range(10):
        nll, tokens = _random(seed, steps)
        row = _encoded(tokens)
        found = SearchChunks(n_chunks, search="exact").search([row], {}, _says(nll))["a"]
        best = min(_plain_objective(cut, nll, tokens) for cut in _all_partitions(steps, min(n_chunks, steps)))
        assert _plain_objective(found, nll, tokens) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("improvement", [0.0, 0.01, 0.2])
def test_exact_is_no_worse_than_greedy_and_greedy_than_average(improvement: float) -> None:
    better = 0
    for seed in range(60):
        nll, tokens = _random(seed, 3 + seed % 10)
        row, average = _encoded(tokens), AverageChunks(4)
        greedy = SearchChunks(4, min_improvement=improvement).search([row], {}, _says(nll))["a"]
        exact = SearchChunks(4, search="exact").search([row], {}, _says(nll))["a"]
        j = [_plain_objective(cut, nll, tokens) for cut in (exact, greedy, average.chunk(row))]
        assert j[0] <= j[1] + 1e-12
        assert j[1] <= j[2] + 1e-12
        better += j[1] < j[2]
        for cut in (exact, greedy):  # every step in order, once
            assert [step for i, j in cut for step in range(i, j)] == list(range(len(tokens)))
            assert len(cut) == min(4, len(tokens))
    assert better > 10


def test_greedy_stops_where_no_border_saves_enough() -> None:
    for seed in range(30):
        nll, tokens = _random(seed, 9)
        costs = chunk_costs(nll, tokens)
        found = greedy_partition(AverageChunks(3).chunk(_encoded(tokens)), costs, 0.01)
        for place in range(2):
            left, right = found[place][0], found[place + 1][1]
            for cut in range(left + 1, right):
                moved = list(found)
                moved[place : place + 2] = [(left, cut), (cut, right)]
                assert objective(moved, costs) >= objective(found, costs) * 0.99 - 1e-12


def test_a_search_is_due_every_so_many_epochs_and_never_at_the_start() -> None:
    assert [epoch for epoch in range(10) if SearchChunks(refresh_every_n_epochs=3).due(epoch)] == [3, 6, 9]
    assert not any(AverageChunks().due(epoch) for epoch in range(10))


def test_chunks_are_average_before_the_first_search() -> None:
    for seed in range(10):
        row = _encoded(_random(seed, 7)[1])
        assert SearchChunks(3).chunk(row) == AverageChunks(3).chunk(row)


@pytest.mark.parametrize("wrong", [{"n_chunks": 0}, {"refresh_every_n_epochs": 0}, {"min_improvement": 1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SearchChunks(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [name for name in task_names() if get_task(name).generator])
def test_built_in_tasks_are_cut_better_from_average_to_exact(task: str) -> None:
    rows = generate(task, split="train", size=12)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    student = FromScratch("llama", small, vocab_size=600)
    student.prepare([f"{row.question} {row.rationale}" for row in rows])
    student.build()
    encoded = list(Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences()).encode(rows))
    scores = score(student, [instance(row.id, row.prompts[""], [row.tokens], {0}) for row in encoded], nll_of)
    for row in encoded:
        assert len(row.steps) > 4
        nll = np.array([scores[row.id][i:j].sum(dtype=np.float64) for i, j in row.steps])
        tokens = np.array([end - first for first, end in row.steps])
        cuts = [
            SearchChunks(4, search="exact").search([row], {}, lambda *_, nll=nll, row=row: {row.id: nll})[row.id],
            SearchChunks(4, search="greedy").search([row], {}, lambda *_, nll=nll, row=row: {row.id: nll})[row.id],
            AverageChunks(4).chunk(row),
        ]
        exact, greedy, average = (_plain_objective(cut, nll, tokens) for cut in cuts)
        assert exact <= greedy + 1e-12
        assert greedy <= average + 1e-12
        if len(row.steps) <= 8:
            best = min(_plain_objective(cut, nll, tokens) for cut in _all_partitions(len(row.steps), 4))
            assert exact == pytest.approx(best, rel=1e-12)


# ------------------------------------------------------------------------------- losses of steps and stages

MARKER = " [{}]"
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "initializer_range": 0.3},
    "t5": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2},
}  # fmt: skip


class World:
    """A random student of an architecture, and rationales of several lengths with three chunks each."""

    def __init__(self, architecture: str, marker: str | None = MARKER) -> None:
        rows = generate("arithmetic", split="train", size=7)
        self.student: Any = FromScratch(architecture, SMALL[architecture], vocab_size=600)
        self.student.prepare([f"{row.question} {row.rationale}" for row in rows], [MARKER.format(1)])
        torch.manual_seed(0)
        self.student.build()
        self.codec = Codec(tokenizer=self.student.tokenizer, template=Plain(), splitter=Sentences())
        self.encoded = list(self.codec.encode(rows))
        self.stages = Stages(marker, self.codec.inline)
        self.chunks = {row.id: AverageChunks(3).chunk(row) for row in self.encoded}

    def parts(self, row: Encoded) -> list[tuple[int, int | None, list[int]]]:
        """(stage, step, tokens) of every marker, which is no step, of every step and of the answer, in order."""
        parts: list[tuple[int, int | None, list[int]]] = []
        for stage, (first, end) in enumerate(self.chunks[row.id]):
            if self.stages.marker:
                parts.append((stage, None, self.codec.inline(MARKER.format(stage + 1)).tolist()))
            parts += [(stage, step, row.tokens[slice(*row.steps[step])].tolist()) for step in range(first, end)]
        return [*parts, (len(self.chunks[row.id]), None, row.tokens[slice(*row.answer)].tolist())]

    @torch.no_grad()
    def plain_nll(self, row: Encoded) -> list[float]:
        """NLL of every completion token, markers included, from all logits of a pass over this row alone."""
        self.student.eval()
        prompt, tokens = row.prompts[""].tolist(), [token for _, _, part in self.parts(row) for token in part]
        if self.student.encoder_decoder:
            ids = [self.student.config.decoder_start_token_id, *tokens[:-1]]
            inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([ids])}
            shares = self.student.model(**inputs).logits[0].double().log_softmax(-1)
        else:
            inputs = {"input_ids": torch.tensor([prompt + tokens])}
            shares = self.student.model(**inputs).logits[0].double().log_softmax(-1)[len(prompt) - 1 :]
        return [-float(shares[place, token]) for place, token in enumerate(tokens)]


@pytest.fixture(scope="module", params=[*((name, MARKER) for name in sorted(SMALL)), ("gpt2", None)], ids=str)
def world(request: pytest.FixtureRequest) -> World:
    return World(*request.param)


def test_step_and_stage_losses_equal_an_unbatched_pass_with_full_logits(world: World) -> None:
    assert len({len(row.tokens) for row in world.encoded}) > 3  # rows of a batch are padded
    steps = step_losses(world.student, world.stages, world.encoded, world.chunks)
    stages = stage_losses(world.student, world.stages, world.encoded, world.chunks)
    for row in world.encoded:
        nll = iter(world.plain_nll(row))
        of_step, of_stage = np.zeros(len(row.steps)), np.zeros(len(world.chunks[row.id]) + 1)
        for stage, step, tokens in world.parts(row):
            total = sum(next(nll) for _ in tokens)
            of_stage[stage] += total
            if step is not None:
                of_step[step] += total
        np.testing.assert_allclose(steps[row.id], of_step, rtol=1e-4)
        np.testing.assert_allclose(stages[row.id], of_stage, rtol=1e-4)


def test_no_step_or_stage_loss_depends_on_later_tokens(world: World) -> None:
    """Other tokens after a step change neither its loss nor that of an earlier step, but those of later ones."""
    (row, *_), rng = world.encoded, np.random.default_rng(0)
    before = step_losses(world.student, world.stages, [row], world.chunks)[row.id]
    stages_before = stage_losses(world.student, world.stages, [row], world.chunks)[row.id]
    for step, (_, end) in enumerate(row.steps):
        changed = row.tokens.copy()
        changed[end:] = (changed[end:] + rng.integers(1, 500, len(changed) - end)) % 500
        other = [replace(row, tokens=changed)]
        after = step_losses(world.student, world.stages, other, world.chunks)[row.id]
        np.testing.assert_allclose(after[: step + 1], before[: step + 1], rtol=1e-5)
        assert (np.abs(after - before)[step + 1 :] > 1e-3).all()
        over = sum(last <= step + 1 for _, last in world.chunks[row.id])  # chunks that end with this step or before it
        stages_after = stage_losses(world.student, world.stages, other, world.chunks)[row.id]
        np.testing.assert_allclose(stages_after[:over], stages_before[:over], rtol=1e-5)
        assert (np.abs(stages_after - stages_before)[over:] > 1e-3).all()
