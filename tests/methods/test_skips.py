"""The skip search against plain references: one unbatched pass per variant, and plain greedy generation."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import torch
from searches import on_ranks, search

from skipthinking.annotate.annotator import Context, Notes
from skipthinking.annotate.columns import frames
from skipthinking.data.batches import collate
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.evaluation.answers import SearchContext
from skipthinking.methods.skip_thinking import verifiers
from skipthinking.methods.skip_thinking.chunks import Chunks
from skipthinking.methods.skip_thinking.skips import Skips, Solved, search_skips, shuffled_skips, solved
from skipthinking.methods.skip_thinking.stages import Stages
from skipthinking.methods.skip_thinking.surprisal import FirstTokens, Perplexity
from skipthinking.methods.skip_thinking.verifiers import Answer, Likelihood, Rationale, Rollout, Trial, Verifier
from skipthinking.records import Encoded, Example, UserError
from skipthinking.students import FromScratch
from skipthinking.students.engine import Engine
from skipthinking.tasks import generate, get_task

ROWS = generate("coin_flip", split="train", size=6, levels=[2, 2])
MARKER = " [{}]"


class World:
    """A small student that has memorized most of its examples, with and without gaps."""

    def __init__(self) -> None:
        config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "max_position_embeddings": 512}  # fmt: skip
        self.student: Any = FromScratch("llama", config, vocab_size=600)
        texts = [f"{row.question} {row.rationale}" for row in ROWS]
        self.student.prepare(texts, [MARKER.format(m) for m in range(1, 13)])
        torch.manual_seed(0)
        self.student.build()
        self.codec = Codec(tokenizer=self.student.tokenizer, template=Plain(), splitter=Sentences())
        self.encoded = list(self.codec.encode(ROWS))
        self.stages = Stages(MARKER, self.codec.inline)
        self.chunks = {row.id: AverageChunks(4).chunk(row) for row in self.encoded}
        self._train()

    def _train(self) -> None:
        optimizer = torch.optim.AdamW(self.student.parameters(), lr=5e-3)
        rng = random.Random(0)
        for _ in range(100):
            rows = []
            for row in self.encoded[:5]:  # one is left unknown
                stages = self.stages.tokens(row, self.chunks[row.id])
                kept = [s for s in range(len(stages)) if s == len(stages) - 1 or rng.random() > 0.25]
                rows.append(instance(row.id, row.prompts[""], [stages[s] for s in kept], range(len(kept))))
            batch = collate(rows, pad_id=self.student.pad_id, encoder_decoder=False)
            self.student.token_nll(batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def right(self, id: str, tokens: list[int]) -> bool:
        row = next(row for row in ROWS if row.id == id)
        text = self.codec.decode(tokens)
        for m in range(1, 13):
            text = text.replace(MARKER.format(m).strip(), "")
        return get_task(row.task).grade(text, row.answer).correct

    def context(self, **other: Any) -> SearchContext:
        return SearchContext(**{"student": self.student, "right": self.right, "max_new_tokens": 200, **other})

    def search(self, verifier: Verifier, **other: Any) -> dict[str, list[int]]:
        settings = {"stages": self.stages, "verifier": verifier, "context": self.context(), **other}
        return search_skips(self.encoded, self.chunks, **settings)

    def search_as_run(self, verifier: Verifier, folder: Path, student: Any = None) -> dict[str, list[int]]:
        """The search by the runner, as in training."""
        student = student or self.student
        chunks = Chunks(AverageChunks(4), self.stages)
        skips = Skips(
            0, chunks, self.stages, verifier, lambda row, tokens: self.right(row.id, tokens), 200, True, None
        )  # fmt: skip
        return search([skips, chunks], self.encoded, student=student, folder=folder, codec=self.codec)["skips"]

    @torch.no_grad()
    def logits(self, row: Encoded, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities at the positions that predict the tokens, and the tokens."""
        self.student.eval()
        ids = torch.tensor([[*row.prompts[""].tolist(), *tokens]])
        shares = self.student.model(input_ids=ids).logits[0].double().log_softmax(-1)
        return shares[len(row.prompts[""]) - 1 : -1], torch.tensor(tokens)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def _flat(stages: list[Any], kept: list[int]) -> list[int]:
    return [int(token) for stage in kept for token in stages[stage]]


def _plain_likelihood(world: World, row: Encoded, max_rise: float, cumulative: bool) -> list[int]:
    """The rule from the text: two passes per chunk, one with it and one without, each by itself."""
    stages = world.stages.tokens(row, world.chunks[row.id])
    last = len(stages) - 1
    kept = list(range(last + 1))

    def scores(shown: list[int]) -> tuple[dict[int, Any], dict[int, Any]]:
        shares, tokens = world.logits(row, _flat(stages, shown))
        nll, hit = -shares[torch.arange(len(tokens)), tokens], shares.argmax(-1) == tokens
        edges = np.cumsum([0, *(len(stages[s]) for s in shown)])
        names = [1 if s == last else len(world.stages.markers(last)[s]) for s in shown]
        spans = {s: slice(edges[i] + names[i], edges[i + 1]) for i, s in enumerate(shown)}
        return {s: nll[span] for s, span in spans.items()}, {s: hit[span] for s, span in spans.items()}

    whole = scores(kept)
    if not whole[1][last].all():
        return kept[:-1]
    result = list(kept)
    for drop in range(last):
        shown = kept if cumulative else list(range(last + 1))
        without = [s for s in shown if s != drop]
        later = [s for s in without if s > drop]
        before, after = scores(shown)[0], scores(without)
        rise = torch.cat([after[0][s] - before[s] for s in later])
        lost = (after[0][last] - whole[0][last] > max_rise).any()
        for s in later[:-1]:
            sure = whole[0][s] < np.log(2)
            lost = lost or (after[0][s] - whole[0][s] > 10 * max_rise)[sure].any()
        if after[1][last].all() and rise.mean() < max_rise and not lost:
            result.remove(drop)
            if cumulative:
                kept = list(result)
    return result[:-1]


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("max_rise", [0.02, 0.05, 0.3, 2.0])
def test_likelihood_search_is_the_plain_rule(max_rise: float, cumulative: bool, world: World) -> None:
    found = world.search(Likelihood(max_rise), cumulative=cumulative)
    for row in world.encoded:
        assert found[row.id] == _plain_likelihood(world, row, max_rise, cumulative), row.id


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("max_ratio", [1.02, 1.3, 3.0])
def test_perplexity_search_is_one_pass_per_trial(max_ratio: float, cumulative: bool, world: World) -> None:
    """Perplexities of the text after the chunk, without stage names, by a full pass per trial."""
    found, left = world.search(Perplexity(max_ratio), cumulative=cumulative), []
    for row in world.encoded:
        stages = world.stages.tokens(row, world.chunks[row.id])
        last = len(stages) - 1

        def perplexity(shown: list[int], drop: int) -> float:
            shares, tokens = world.logits(row, _flat(stages, shown))  # noqa: B023
            nll = -shares[torch.arange(len(tokens)), tokens]
            parts = nll.split([len(stages[s]) for s in shown])  # noqa: B023
            names = [1 if s == last else len(world.stages.markers(last)[s]) for s in shown]  # noqa: B023
            rest = [part[name:] for part, name, s in zip(parts, names, shown, strict=True) if s > drop]
            return float(torch.cat(rest).mean().exp())

        kept = list(range(last + 1))
        for drop in range(last):
            shown = [s for s in (kept if cumulative else range(last + 1)) if s != drop]
            if perplexity(shown, drop) < max_ratio * perplexity(list(range(last + 1)), drop):
                kept.remove(drop)
        assert found[row.id] == kept[:-1], row.id
        left.append(len(kept) - 1)
    assert 0 < sum(left) < 4 * len(left) or max_ratio == 3  # some are removed, some are kept


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize(("max_surprisal", "tokens"), [(0.01, 1), (1.0, 1), (0.5, 3), (0.5, 99)])
def test_first_token_search_is_one_pass_per_chunk(
    max_surprisal: float, tokens: int, cumulative: bool, world: World
) -> None:
    found = world.search(FirstTokens(max_surprisal, tokens), cumulative=cumulative)
    removed = 0
    for row in world.encoded:
        stages = world.stages.tokens(row, world.chunks[row.id])
        kept = list(range(len(stages) - 1))
        for drop in range(len(stages) - 1):
            before = [s for s in (kept if cumulative else range(drop)) if s < drop]
            name = len(world.stages.markers(len(stages) - 1)[drop])
            shares, targets = world.logits(row, _flat(stages, [*before, drop]))
            nll = -shares[torch.arange(len(targets)), targets][-len(stages[drop]) :]
            if nll[name : name + tokens].mean() < max_surprisal:
                kept.remove(drop)
                removed += 1
        assert found[row.id] == kept, row.id
    assert bool(removed) == (max_surprisal > 0.01)


@pytest.mark.parametrize("gone", [True, False])
def test_a_removal_is_compared_with_the_text_as_it_is(gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two removals that cost 0.08 nats a token each: the second is too much only where the first is not made."""
    # Three chunks of a token each, none of them sure, and two tokens of the answer.
    script = iter([[1, 1, 1, 1, 1], [1.16, 1.16, 1, 1], [1.4, 1, 1]])

    class Scripted(Engine):
        def score(self, texts: Any, *_: Any, first: Any = (0,), stop_early: Any = None) -> list[Any]:
            nll = np.array(next(script), dtype=np.float32)
            assert [len(nll)] == [len(text) - start for text, start in zip(texts, first, strict=True)]
            return [np.stack([nll, np.ones_like(nll)], axis=-1)]

    monkeypatch.setattr(verifiers, "Engine", lambda student, prompts, longest: Scripted(student, prompts))
    tokens = np.arange(5)
    example = Example(id="one", question="", rationale="", answer="", task="arithmetic")
    encoded = Encoded(
        example=example, prompts={"": tokens}, tokens=tokens, steps=((0, 1), (1, 2), (2, 3)), answer=(3, 5)
    )
    row = Rationale(encoded=encoded, stages=[tokens[:1], tokens[1:2], tokens[2:3], tokens[3:]], openings=[0] * 4)
    trials = [[Trial(row=row, before=[], drop=drop, after=list(range(drop + 1, 4)))] for drop in (0, 1)]
    verifier = Likelihood(0.1)
    assert verifier.begin([row], SearchContext(student=None, right=lambda id, tokens: True, max_new_tokens=9)) == [True]
    assert verifier.verify(trials[0]) == [True]
    verifier.settle(trials[0], [gone])
    assert verifier.verify(trials[1]) == [gone]


def test_some_chunks_go_and_a_looser_bound_lets_more_go(world: World) -> None:
    left = [sum(map(len, world.search(Likelihood(rise)).values())) for rise in (1e-6, 0.05, 1.0)]
    assert left[0] > left[2]
    assert left[0] >= left[1] >= left[2]


@torch.no_grad()
def _greedy(world: World, row: Encoded, begun: list[int], limit: int) -> list[int]:
    world.student.eval()
    made = list(begun)
    while len(made) < limit and (not made or made[-1] != world.student.tokenizer.eos_token_id):
        ids = torch.tensor([[*row.prompts[""].tolist(), *made]])
        made.append(int(world.student.model(input_ids=ids).logits[0, -1].argmax()))
    return made


def test_rollout_search_is_that_of_plain_generation(world: World) -> None:
    found = world.search(Rollout(), context=world.context(max_new_tokens=150))
    decisions = set()
    for row in world.encoded:
        stages = world.stages.tokens(row, world.chunks[row.id])
        kept = list(range(len(stages)))
        if world.right(row.id, _greedy(world, row, [], 150)):
            for drop in range(len(stages) - 1):
                without = [s for s in kept if s != drop]
                following = next(s for s in without if s > drop)
                name = 1 if following == len(stages) - 1 else len(world.stages.markers(len(stages) - 1)[following])
                begun = _flat(stages, [s for s in without if s < drop]) + stages[following][:name].tolist()
                good = world.right(row.id, _greedy(world, row, begun, 150))
                decisions.add(good)
                kept = without if good else kept
        assert found[row.id] == kept[:-1], row.id
    assert decisions == {True, False}


def test_answer_search_asks_for_the_answer_alone(world: World) -> None:
    found = world.search(Answer())
    for row in world.encoded:
        stages = world.stages.tokens(row, world.chunks[row.id])
        last = len(stages) - 1
        kept = list(range(last + 1))

        def hits(shown: list[int]) -> torch.Tensor:
            shares, tokens = world.logits(row, _flat(stages, shown))  # noqa: B023
            return (shares.argmax(-1) == tokens)[1 - len(stages[last]) :]  # noqa: B023

        if hits(kept).all():
            for drop in range(last):
                without = [s for s in kept if s != drop]
                if hits(without).all():
                    kept = without
        assert found[row.id] == kept[:-1], row.id


@pytest.mark.parametrize("verifier", [Likelihood(9.0), Rollout(), Answer()], ids=lambda v: type(v).__name__)
def test_nothing_is_skipped_when_no_answer_is_ever_correct(verifier: Verifier, world: World) -> None:
    weight = world.student.model.get_output_embeddings().weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():  # a student that says EOS to everything
            weight.zero_()
            weight[0, 0] = 0.0
        found = world.search(verifier, context=world.context(right=lambda id, tokens: False))
        assert found == {row.id: list(range(len(world.chunks[row.id]))) for row in world.encoded}
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_examples_that_the_student_gets_wrong_keep_every_chunk(world: World) -> None:
    found = world.search(Rollout(), context=world.context(right=lambda id, tokens: id != ROWS[0].id))
    assert found[ROWS[0].id] == list(range(len(world.chunks[ROWS[0].id])))
    assert found[ROWS[1].id] == []  # and whoever is always right needs none: the answer stage is all that is left


def test_the_gate_is_plain_generation_after_the_question_alone(world: World) -> None:
    drafts = {row.id: np.concatenate(world.stages.tokens(row, world.chunks[row.id])) for row in world.encoded}
    found = solved(world.encoded, drafts, world.context(max_new_tokens=150))
    assert found == {row.id: world.right(row.id, _greedy(world, row, [], 150)) for row in world.encoded}
    assert set(found.values()) == {True, False}
    graded: dict[str, list[int]] = {}

    def right(id: str, tokens: list[int]) -> bool:
        graded[id] = tokens
        return False

    others = [drafts[row.id] for row in world.encoded[1:]] + [drafts[world.encoded[0].id]]
    swapped = {row.id: draft for row, draft in zip(world.encoded, others, strict=True)}
    solved(world.encoded, swapped, world.context(max_new_tokens=150, right=right))
    assert graded == {row.id: _greedy(world, row, [], 150) for row in world.encoded}  # the drafts leave no trace


@pytest.mark.parametrize("verifier", [Likelihood(9.0), Rollout(), Answer()], ids=lambda v: type(v).__name__)
def test_an_example_behind_the_gate_keeps_every_chunk_and_the_others_do_not_notice(
    verifier: Verifier, world: World
) -> None:
    every = {row.id: list(range(len(world.chunks[row.id]))) for row in world.encoded}
    for searched in (set(), set(list(every)[::2]), set(every)):
        found, free = world.search(verifier, searched=searched), world.search(verifier)
        assert free != every
        assert found == {id: free[id] if id in searched else every[id] for id in every}


@pytest.mark.parametrize(
    ("gate", "known", "left", "line"),
    [
        # 12 chunks; the student knows 2 of 3 examples with 4 chunks each, 2 of whose 8 go.
        (True, [1, 0, 1], [3, 4, 3], "2 of 3 rationales are answered right by the student; 25.0% of their 8 chunks can "
         "be skipped (16.7% of all)"),
        (True, [0, 0, 0], [4, 4, 4], "0 of 3 rationales are answered right by the student; it answers nothing "
         "correctly yet, so no chunk can be skipped"),
        (True, [1, 1, 0], [4, 4, 4], "2 of 3 rationales are answered right by the student; 0.0% of their 8 chunks can "
         "be skipped (0.0% of all)"),
        (False, [], [3, 4, 3], "16.7% of 12 chunks can be skipped"),
        (False, [], [4, 4, 4], "0.0% of 12 chunks can be skipped; the student answers nothing correctly yet, or needs "
         "all of them"),
    ],
)  # fmt: skip
def test_the_report_counts_who_passed_the_gate(
    gate: bool, known: list[int], left: list[int], line: str, world: World
) -> None:
    def right(row: Encoded, tokens: list[int]) -> bool:
        return False

    chunks, rows = Chunks(AverageChunks(4), world.stages), world.encoded[:3]
    door = Solved(0, chunks, world.stages, right, 9) if gate else None
    skips = Skips(0, chunks, world.stages, Likelihood(), right, 9, True, None, door)
    spans = {row.id: tuple((m, m + 1) for m in range(4)) for row in rows}
    values: dict[str, Any] = {row.id: {"chunks": spans[row.id]} for row in rows}
    for row, one in zip(rows, known, strict=False):
        values[row.id]["solved"] = bool(one)
    notes = {id: Notes(values=own) for id, own in values.items()}
    kept = {row.id: list(range(count)) for row, count in zip(rows, left, strict=True)}
    assert skips.report(kept, rows, Context(student=None, codec=None, notes=notes, seed=0)) == f"skip search: {line}"
    assert ("solved" in skips.needs) == gate


def test_the_report_of_a_verifier_without_a_gate_tells_nothing_of_answers(world: World) -> None:
    chunks, rows = Chunks(AverageChunks(4), world.stages), world.encoded[:3]
    skips = Skips(0, chunks, world.stages, Perplexity(), lambda row, tokens: False, 9, True, None)
    notes = {row.id: Notes(values={"chunks": tuple((m, m + 1) for m in range(4))}) for row in rows}
    context = Context(student=None, codec=None, notes=notes, seed=0)
    report = skips.report({row.id: [0, 1, 2, 3] for row in rows}, rows, context)
    assert report == "skip search: 0.0% of 12 chunks can be skipped; the verifier allows none"


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_finds_the_same(
    ranks: int, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    searched: list[list[str]] = [[] for _ in range(ranks)]

    class Noted(Likelihood):
        block_tokens = 300  # several blocks

        def __init__(self, rank: int) -> None:
            super().__init__()
            self._rank = rank

        def begin(self, rows: Any, context: Any) -> list[bool]:
            searched[self._rank] += [row.id for row in rows]
            return super().begin(rows, context)

    students = [copy.deepcopy(world.student) for _ in range(ranks)]
    found = on_ranks(monkeypatch, ranks, lambda rank: world.search_as_run(Noted(rank), tmp_path, students[rank]))
    assert found == [world.search(Likelihood())] * ranks
    assert all(searched)  # each had its share
    assert sorted(id for part in searched for id in part) == sorted(world.chunks)


@pytest.mark.parametrize("verifier", [Likelihood(), Rollout(), Answer()], ids=lambda v: type(v).__name__)
def test_who_is_searched_together_changes_nothing(
    verifier: Verifier, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = world.search(verifier)
    monkeypatch.setattr(type(verifier), "block_tokens", 1)  # one by one
    assert world.search(verifier) == together


def test_a_search_leaves_no_keys_behind(world: World) -> None:
    for verifier in (Likelihood(), Answer()):
        world.search(verifier)
        assert not any(isinstance(value, Engine) for value in vars(verifier).values())


def test_a_search_that_runs_out_of_memory_finds_the_same_in_smaller_blocks(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, score, engines = world.search(Likelihood(max_rise=0.5)), Engine.score, WeakSet[Engine]()

    def short_of_memory(self: Engine, texts: Any, **settings: Any) -> Any:
        engines.add(self)
        if len(texts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(self, texts, **settings)

    held, verifier = list[int](), Likelihood(max_rise=0.5)
    monkeypatch.setattr(Engine, "score", short_of_memory)
    monkeypatch.setattr(world.student, "release_memory", lambda: held.append(len(engines)))
    assert world.search_as_run(verifier, tmp_path) == expected
    assert held == [0, *[0] * (len(held) - 1)]  # no keys and values are left when a block is halved
    assert len(held) > 2


def test_random_skips_take_as_many_chunks_from_each_example() -> None:
    kept = {f"e{n}": list(range(n % 6)) for n in range(300)}
    counts = dict.fromkeys(kept, 6)
    found = shuffled_skips(kept, counts, seed=0)
    assert {id: len(left) for id, left in found.items()} == {id: len(left) for id, left in kept.items()}
    assert all(left == sorted(set(left)) and set(left) <= set(range(6)) for left in found.values())
    assert found == shuffled_skips(kept, counts, seed=0)
    assert found != shuffled_skips(kept, counts, seed=1)
    share = np.bincount([chunk for left in found.values() for chunk in left], minlength=6)
    assert share.min() > 0.8 * share.mean()  # every place alike


def test_a_rise_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="max_rise"):
        Likelihood(0.0)


@pytest.mark.parametrize(
    ("verifier", "settings"),
    [(Perplexity, {"max_ratio": 1.0}), (FirstTokens, {"max_surprisal": 0.0}), (FirstTokens, {"tokens": 0})],
)
def test_bounds_that_allow_nothing_are_refused(verifier: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        verifier(**settings)


def test_reading_everything_each_time_finds_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring = (Likelihood(0.3), Answer(), Perplexity(1.3), FirstTokens())
    cached = [world.search(verifier) for verifier in scoring]
    monkeypatch.setattr(verifiers, "Engine", lambda student, prompts, longest: Engine(student, prompts))
    assert [world.search(verifier) for verifier in scoring] == cached


@pytest.mark.parametrize("verifier", [Likelihood(9.0), Rollout(), Answer()], ids=lambda v: type(v).__name__)
def test_encoder_decoder_students_are_searched(verifier: Verifier, world: World) -> None:
    config = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    student: Any = FromScratch("t5", config, vocab_size=600)
    student.prepare([row.question for row in ROWS], [MARKER.format(m) for m in range(1, 13)])
    student.build()
    codec = Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences())
    encoded = list(codec.encode(ROWS))
    chunks = {row.id: AverageChunks(4).chunk(row) for row in encoded}
    context = world.context(student=student, right=lambda id, tokens: id != ROWS[0].id, max_new_tokens=60)
    found = search_skips(encoded, chunks, stages=Stages(MARKER, codec.inline), verifier=verifier, context=context)
    assert found.keys() == chunks.keys()
    assert found[ROWS[0].id] == list(range(len(chunks[ROWS[0].id])))  # a random student is wrong


@pytest.mark.parametrize("altered", [False, True])
def test_a_killed_search_finds_the_same(altered: bool, world: World, tmp_path: Path) -> None:
    """What was found before the kill is not searched again, except where its journal was altered since."""

    class Blocks(Likelihood):
        block_tokens = 1  # every rationale is one
        _left = 3
        _begun = 0

        def begin(self, rows: Any, context: Any) -> list[bool]:
            if self._begun == self._left:
                raise KeyboardInterrupt
            self._begun += 1
            return super().begin(rows, context)

    expected = world.search(Likelihood())
    verifiers = [Blocks(), Blocks()]
    with pytest.raises(KeyboardInterrupt):
        world.search_as_run(verifiers[0], tmp_path)
    (journal,) = (tmp_path / "annotations").glob("skips.*.part")
    first, *others = frames(journal)
    assert [len(frame.ids) for frame in (first, *others)] == [1, 1, 1]
    if altered:
        written = journal.read_bytes()
        journal.write_bytes(written[: first.start] + bytes([written[first.start] ^ 3]) + written[first.start + 1 :])
        verifiers[1]._left = 4
    assert world.search_as_run(verifiers[1], tmp_path) == expected
    assert [verifier._begun for verifier in verifiers] == [3, len(ROWS) - 3 + altered]
    assert not journal.exists()
