"""Annotator of the number of steps that are given as input, from step difficulty and KPOD's schedule."""

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
    """Number of steps of every example that are given as input in progress stages 0..T, shape (T + 1,) (Eq. 9-13).

    Args:
        schedule: Settings of the schedule.
        difficulty: Annotator of the step difficulty.
        clusters: Number of clusters of questions, K.
        glove: File of GloVe vectors for clustering; None for the student's mean input embedding.
    """

    name = "given"
    needs = ("difficulty",)
    block_tokens = None
    dtype = "int64"

    def __init__(self, schedule: Schedule, difficulty: Difficulty, clusters: int, glove: str | None) -> None:
        self.schedule, self.difficulty, self.clusters, self.glove = schedule, difficulty, clusters, glove

    def settings(self) -> Mapping[str, Any]:
        """Settings of the schedule and of the clusters."""
        return {**asdict(self.schedule), "clusters": self.clusters, "glove": self.glove}

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.int64]]:
        """Clusters questions and plans the schedule, in order of ids, so that the order of the data does not matter."""
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
        return {row.id: given[:, column] for column, row in enumerate(rows)}

    def report(self, values: Mapping[str, NDArray[np.int64]], rows: Sequence[Encoded], context: Context) -> str:
        """The share of steps that are targets in the first progress stage."""
        targets = 1 - sum(int(given[0]) for given in values.values()) / sum(len(row.steps) for row in rows)
        return f"schedule: {self.schedule.stages} stages from {targets:.1%} of all steps to all of them"

    def draw(self, value: NDArray[np.int64], encoded: Encoded, codec: Any) -> Drawing:
        """The number of given steps, per progress stage."""
        return {"given": value.tolist()}
