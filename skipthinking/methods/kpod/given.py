"""How many steps of every rationale are given as input, from the difficulty of its steps and KPOD's schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.annotator import Annotator, Context, Drawing
from skipthinking.methods.kpod.clusters import cluster, glove_embeddings, input_embeddings
from skipthinking.methods.kpod.difficulty import Difficulty
from skipthinking.methods.kpod.schedule import Schedule, plan_inputs
from skipthinking.records import Encoded

__all__ = ["GivenSteps"]


class GivenSteps(Annotator[NDArray[np.int64]]):
    """How many steps of every example are given as input, per progress stage (Eq. 9-13), from 0 to T.

    Args:
        schedule: Settings of the schedule.
        difficulty: The step difficulty.
        clusters: K, clusters of questions.
        glove: File of GloVe vectors to cluster by; by default the student's mean input embedding.
    """

    name = "given"
    needs = ("difficulty",)
    block_tokens = None
    dtype = "int64"

    def __init__(self, schedule: Schedule, difficulty: Difficulty, clusters: int, glove: str | None) -> None:
        self.schedule, self.difficulty, self.clusters, self.glove = schedule, difficulty, clusters, glove

    def settings(self) -> Mapping[str, Any]:
        """Those of schedule and clusters."""
        return {**asdict(self.schedule), "clusters": self.clusters, "glove": self.glove}

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.int64]]:
        """Clusters and schedule, in the order of the ids, so that the order of the data plays no role."""
        rows = sorted(rows, key=lambda row: row.id)
        questions = {row.id: row.example.question for row in rows}
        vectors = (
            glove_embeddings(Path(self.glove), questions)
            if self.glove is not None
            else input_embeddings(context.student, questions)
        )
        cluster_of = cluster(vectors, self.clusters, context.seed)
        given = plan_inputs(
            [context.notes[row.id][self.difficulty] for row in rows],
            np.array([cluster_of[row.id] for row in rows]),
            self.schedule,
            quiet=False,
        )
        return {row.id: given[:, place] for place, row in enumerate(rows)}

    def report(self, values: Mapping[str, NDArray[np.int64]], rows: Sequence[Encoded], context: Context) -> str:
        """How much the first stage asks for."""
        asked = 1 - sum(int(given[0]) for given in values.values()) / sum(len(row.steps) for row in rows)
        return f"schedule: {self.schedule.stages} stages from {asked:.1%} of all steps to all of them"

    def draw(self, value: NDArray[np.int64], encoded: Encoded, codec: Any) -> Drawing:
        """The stage from which on each step is a target."""
        return {"given": value.tolist()}
