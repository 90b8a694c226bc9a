"""The skip search: which chunks of a rationale the student does not need, by verifiers that can be exchanged."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from skipthinking.annotate.rollout import complete
from skipthinking.annotate.scoring import score_tokens
from skipthinking.data.cutting import Stages
from skipthinking.records import Encoded, Instance, Span, UserError

__all__ = ["Answer", "Likelihood", "Rationale", "Rollout", "Scene", "Verifier", "search_skips", "shuffled_skips"]

_FIRST = "Skip search: who is right"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rationale:
    """An example in stages.

    Attributes:
        encoded: The example.
        stages: Tokens of every stage, markers included; the answer is the last.
        openings: Tokens at the head of every stage that name it.
    """

    encoded: Encoded
    stages: list[NDArray[np.int64]]
    openings: list[int]

    @property
    def id(self) -> str:
        """The example's id."""
        return self.encoded.id

    @property
    def prompt(self) -> NDArray[np.int64]:
        """Prompt ids."""
        return self.encoded.prompts[""]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Who judges, and how answers are graded.

    Attributes:
        student: The student, frozen by whoever scores with it.
        right: Whether a completion answers the example of that id correctly.
        max_new_tokens: Most tokens of a completion.
        rank: This process.
        ranks: Number of processes.
    """

    student: Any
    right: Callable[[str, list[int]], bool]
    max_new_tokens: int
    rank: int = 0
    ranks: int = 1

    def score(self, rows: Sequence[Instance], what: str | None = None) -> Mapping[str, Any]:
        """Scores of the target tokens of every instance, with a progress bar if it has a label."""
        return score_tokens(self.student, rows, rank=self.rank, ranks=self.ranks, what=what)


class Verifier(ABC):
    """Judges whether the student can do without a chunk. One is used for one search after the other."""

    @abstractmethod
    def begin(self, rows: Sequence[Rationale], scene: Scene) -> set[str]:
        """Looks at whole rationales, and returns the ids of those that the student answers correctly."""

    @abstractmethod
    def verify(self, trials: Sequence[tuple[Rationale, list[int], int]], scene: Scene) -> dict[str, bool]:
        """Whether each rationale can do without a stage.

        Args:
            trials: (rationale, its stages that are still there, the one of them to do without).
            scene: Who judges.
        """

    def settle(self, id: str, removed: bool) -> None:
        """Is told what became of a trial, before the next one of the same rationale."""
        return

    def settings(self) -> dict[str, Any]:
        """What the judgement depends on."""
        return {"verifier": type(self).__name__, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}


def _shown(row: Rationale, kept: Sequence[int], drop: int) -> tuple[NDArray[np.int64], list[int]]:
    """Tokens without a stage, and the stages behind it; the first of these opens at once."""
    rest = [stage for stage in kept if stage != drop]
    return np.concatenate([row.stages[stage] for stage in rest]), [stage for stage in rest if stage > drop]


class Likelihood(Verifier):
    """Default: the teacher's remaining text stays likely (ours).

    With the name of the next stage forced and the teacher's remaining text following, the answer must still be right
    greedily, the mean NLL of the remaining tokens must rise by less than ``max_rise``, and that of no token by more
    than ten times as much, against the same text with the chunk. Nothing is generated: a chunk costs one scored pass,
    because the text that it is compared with is the one of the last removal.

    Args:
        max_rise: Nats per token.
    """

    def __init__(self, max_rise: float = 0.05) -> None:
        if max_rise <= 0:
            raise UserError(f"Expected a rise above 0, got model.verifier.init_args.max_rise={max_rise}.")
        self.max_rise = max_rise
        self._with: dict[str, list[NDArray[np.float32]]] = {}  # NLL per stage, as the rationale now is
        self._without: dict[str, list[NDArray[np.float32]]] = {}

    def begin(self, rows: Sequence[Rationale], scene: Scene) -> set[str]:
        """One pass over the whole rationales."""
        whole = [_instance(row, np.concatenate(row.stages), 0) for row in rows]
        scores = scene.score(whole, _FIRST)
        right = set()
        for row in rows:
            self._with[row.id] = np.split(scores[row.id].nll, np.cumsum([len(stage) for stage in row.stages])[:-1])
            if scores[row.id].hit[-len(row.stages[-1]) :].all():
                right.add(row.id)
        return right

    def verify(self, trials: Sequence[tuple[Rationale, list[int], int]], scene: Scene) -> dict[str, bool]:
        """One pass over the texts without the chunks."""
        rows, behind = [], {}
        for row, kept, drop in trials:
            tokens, behind[row.id] = _shown(row, kept, drop)
            rows.append(_instance(row, tokens, len(tokens) - sum(len(row.stages[stage]) for stage in behind[row.id])))
        scores = scene.score(rows)
        found = {}
        for row, _, _ in trials:
            later = behind[row.id]
            parts = np.split(scores[row.id].nll, np.cumsum([len(row.stages[stage]) for stage in later])[:-1])
            forced = row.openings[later[0]]
            before = np.concatenate([self._with[row.id][stage] for stage in later])[forced:]
            rise = np.concatenate(parts)[forced:] - before
            answer = scores[row.id].hit[-len(row.stages[-1]) :][forced if len(later) == 1 else 0 :]
            ok = bool(answer.all()) and rise.mean() < self.max_rise and rise.max() <= 10 * self.max_rise
            found[row.id] = bool(ok)
            self._without[row.id] = list(self._with[row.id])
            for stage, part in zip(later, parts, strict=True):
                self._without[row.id][stage] = part
        return found

    def settle(self, id: str, removed: bool) -> None:
        """The text without the chunk is what the next one is compared with."""
        if removed:
            self._with[id] = self._without[id]


class Answer(Verifier):
    """The answer stage, given the question and all remaining chunks of the teacher, is right greedily.

    A last chunk that states the result makes every earlier one look skippable.
    """

    def begin(self, rows: Sequence[Rationale], scene: Scene) -> set[str]:
        """The answer behind whole rationales."""
        scores = scene.score([self._asked(row, list(range(len(row.stages))), -1) for row in rows], _FIRST)
        return {row.id for row in rows if scores[row.id].hit.all()}

    def verify(self, trials: Sequence[tuple[Rationale, list[int], int]], scene: Scene) -> dict[str, bool]:
        """The answer behind what remains."""
        scores = scene.score([self._asked(*trial) for trial in trials])
        found = {}
        for row, kept, drop in trials:
            forced = row.openings[-1] if kept[-2:] == [drop, len(row.stages) - 1] else 0
            found[row.id] = bool(scores[row.id].hit[forced:].all())
        return found

    @staticmethod
    def _asked(row: Rationale, kept: Sequence[int], drop: int) -> Instance:
        tokens, _ = _shown(row, kept, drop)
        return _instance(row, tokens, len(tokens) - len(row.stages[-1]))


class Rollout(Verifier):
    """With the name of the next stage forced, what the student writes from there on is graded (a reading of the paper).

    Without the forced name it would write the chunk again, and everything would look skippable. The teacher's remaining
    text is the draft, see :func:`skipthinking.annotate.rollout.complete`.
    """

    def begin(self, rows: Sequence[Rationale], scene: Scene) -> set[str]:
        """What the student writes from the question alone."""
        whole = [(row, np.empty(0, dtype=np.int64), np.concatenate(row.stages)) for row in rows]
        return self._right(whole, scene, _FIRST)

    def verify(self, trials: Sequence[tuple[Rationale, list[int], int]], scene: Scene) -> dict[str, bool]:
        """What the student writes from the next stage on."""
        asked = []
        for row, kept, drop in trials:
            tokens, behind = _shown(row, kept, drop)
            begun = len(tokens) - sum(len(row.stages[stage]) for stage in behind) + row.openings[behind[0]]
            asked.append((row, tokens[:begun], tokens[begun:]))
        right = self._right(asked, scene)
        return {row.id: row.id in right for row, _, _ in asked}

    @staticmethod
    def _right(
        asked: Sequence[tuple[Rationale, NDArray[np.int64], NDArray[np.int64]]], scene: Scene, what: str | None = None
    ) -> set[str]:
        made = complete(
            scene.student,
            {row.id: row.prompt for row, _, _ in asked},
            {row.id: begun for row, begun, _ in asked},
            {row.id: draft for row, _, draft in asked},
            max_new_tokens=scene.max_new_tokens, rank=scene.rank, ranks=scene.ranks, what=what,
        )  # fmt: skip
        return {row.id for row, begun, _ in asked if scene.right(row.id, begun.tolist() + made[row.id])}


def _instance(row: Rationale, tokens: NDArray[np.int64], context: int) -> Instance:
    weights = np.repeat(np.array([0, 1], dtype=np.float32), [context, len(tokens) - context])
    return Instance(id=row.id, prompt=row.prompt, tokens=tokens, weights=weights)


def search_skips(
    encoded: Sequence[Encoded],
    chunks: Mapping[str, Sequence[Span]],
    *,
    stages: Stages,
    verifier: Verifier,
    scene: Scene,
    cumulative: bool = True,
) -> dict[str, list[int]]:
    """The chunks that every example keeps (Skip-Thinking, arXiv 2505.18642).

    Chunks are tried in order; a removed one stays removed while the later ones are tried, or with ``cumulative`` off
    each is tried by itself. An example that the student answers wrongly keeps all; the answer stage always stays.

    Args:
        encoded: The examples.
        chunks: Step spans of their chunks.
        stages: How stages become tokens.
        verifier: Judges a removal.
        scene: Who judges.
        cumulative: See above.

    Returns:
        Indices of the chunks that are kept, ascending, by example id.
    """
    rows = [
        Rationale(
            encoded=row,
            stages=stages.tokens(row, chunks[row.id]),
            openings=[stages.opening(stage, len(chunks[row.id])) for stage in range(len(chunks[row.id]) + 1)],
        )
        for row in encoded
    ]
    right = verifier.begin(rows, scene)
    kept = {row.id: list(range(len(row.stages))) for row in rows}
    alive = [row for row in rows if row.id in right]
    longest = max((len(row.stages) for row in alive), default=1) - 1
    for drop in tqdm(range(longest), desc="Skip search: chunk", delay=2, leave=False, disable=scene.rank > 0):
        tried = [row for row in alive if drop < len(row.stages) - 1]
        now = {row.id: kept[row.id] if cumulative else list(range(len(row.stages))) for row in tried}
        verdicts = verifier.verify([(row, now[row.id], drop) for row in tried], scene)
        for row in tried:
            verifier.settle(row.id, verdicts[row.id] and cumulative)
            if verdicts[row.id]:
                kept[row.id] = [stage for stage in kept[row.id] if stage != drop]
    return {row.id: kept[row.id][:-1] for row in rows}


def shuffled_skips(kept: Mapping[str, Sequence[int]], chunks: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Control: every example loses as many chunks as the search took, but random ones.

    Args:
        kept: What the search kept.
        chunks: Number of chunks of every example.
        seed: Seed.
    """
    return {id: sorted(random.Random(f"{seed}/{id}").sample(range(chunks[id]), len(left))) for id, left in kept.items()}
