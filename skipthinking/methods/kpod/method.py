"""KPOD: key tokens get larger loss weights, and rationales are learned from their last steps backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from skipthinking.annotate.annotator import Annotator, Notes
from skipthinking.data.module import RationaleDataModule
from skipthinking.methods.base import Distiller
from skipthinking.methods.kpod.clusters import check_clusters, glove_embeddings
from skipthinking.methods.kpod.difficulty import Difficulty
from skipthinking.methods.kpod.given import GivenSteps
from skipthinking.methods.kpod.schedule import Schedule
from skipthinking.methods.kpod.weighter import KeypointWeighter
from skipthinking.methods.kpod.weights import TokenWeights, check_weights
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students import Student

__all__ = ["KPOD"]

_WEIGHTER = "weighter"  # name of the token weighter's run, inside the run folder


class KPOD(Distiller):
    r"""Keypoint-based progressive distillation (KPOD, Feng et al., ICML 2024, arXiv 2405.16064).

    1. Token weights by mask learning (KeypointWeighter), from a separate run in the run folder, or from a file.
    2. Difficulty of every step under the untrained student (Eq. 8).
    3. A schedule that at first gives most steps as input, so that only the last ones are targets, and from progress
       stage T on gives no step (Eq. 9-13). A progress stage is an epoch.
    4. Training on the steps that are not given, with token weights for the rationale, and weight 1 for the answer
       (Eq. 15).

    Ablations of the paper: ``weigh_tokens: false``, ``weigh_difficulty: false``, ``progressive: false`` and
    ``diversity: 0``.

    Departures: see KeypointWeighter and :func:`skipthinking.methods.kpod.schedule.plan_inputs`; questions are clustered
    by the student's mean input embedding unless ``glove`` is set; the loss is normalized by the sum of weights of the
    optimizer step, as in all methods of this framework.

    Args:
        student: The student.
        weights: File of token weights written by KeypointWeighter; by default, token weights are learned first.
        weighter: The method that learns token weights.
        weighter_epochs: Epochs of that run.
        predictor: Transformer that predicts the answer in that run; by default a copy of the student.
        weigh_tokens: Whether token weights apply to the loss.
        floor: Minimum weight of a token in the loss (ours; the paper's is 0). Weights w become floor + (1 - floor) w. A
            student from scratch must learn the words between the key tokens too.
        weigh_difficulty: Whether token weights apply to the step difficulty.
        progressive: Whether to use the schedule; if not, no step is ever given.
        stages: T; half of the epochs by default.
        steps_per_stage: Number of steps by which the input of a selected question shrinks; by default the smallest
            number that reaches 0 within T progress stages.
        exponent: p, the growth of the difficulty budget.
        start_share: Share of the total difficulty in the targets of the first progress stage.
        diversity: Beta, the bonus for selecting questions from different clusters.
        clusters: Number of clusters of questions, K.
        glove: File of GloVe vectors for clustering.
        kwargs: See Distiller.
    """

    def __init__(
        self,
        student: Student,
        weights: str | None = None,
        weighter: Callable[[Student], KeypointWeighter] = KeypointWeighter,
        weighter_epochs: int = 5,
        predictor: Student | None = None,
        weigh_tokens: bool = True,
        floor: float = 0.0,
        weigh_difficulty: bool = True,
        progressive: bool = True,
        stages: int | None = None,
        steps_per_stage: int | None = None,
        exponent: float = 0.5,
        start_share: float = 0.3,
        diversity: float = 12.0,
        clusters: int = 5,
        glove: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, **kwargs)
        if weighter_epochs < 1:
            raise UserError(
                f"Expected at least 1 epoch, got model.weighter_epochs={weighter_epochs}. Set model.weighter_epochs: "
                "5, for example."
            )
        if not 0 <= floor <= 1:
            raise UserError(
                f"Expected a weight from 0 to 1, got model.floor={floor}. Set model.floor: 0.1, for example."
            )
        self.weights_file, self.weighter_epochs, self.floor = weights, weighter_epochs, floor
        self.weigh_tokens, self.weigh_difficulty, self.progressive = weigh_tokens, weigh_difficulty, progressive
        self.stages, self.clusters, self.glove = stages, clusters, glove
        self._predictor = (predictor,)  # in a tuple, so that it is not registered as a submodule
        self.schedule = Schedule(
            stages=1 if stages is None else stages,
            exponent=exponent,
            start_share=start_share,
            diversity=diversity,
            steps_per_stage=steps_per_stage,
        )
        self.token_weights: TokenWeights | None = None
        self.given: GivenSteps | None = None

    # ------------------------------------------------------------------------------ what comes before

    @property
    def needs_weights(self) -> bool:
        """Whether the loss or the step difficulty uses token weights."""
        return self.weigh_tokens or (self.progressive and self.weigh_difficulty)

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> dict[str, Any] | None:
        """Config of the run that learns token weights, with the same data and trainer; None if weights are available.

        A separate run is logged, resumed and distributed like any other, and shares no optimizer or epoch counter with
        this one. Only the command line starts it: with a Trainer alone, ``weights`` is required.
        """
        if self.progressive:
            self._schedule(config["trainer"]["max_epochs"])
            check_clusters(self.clusters, len(data.examples["train"]))
            if self.glove is not None:
                glove_embeddings(Path(self.glove), {row.id: row.question for row in data.examples["train"]})
        if not self.needs_weights:
            return None
        path = self._weights_path(folder)
        if self.weights_file is None:
            self._check_predictor()
            before = self._weighter_run(config, folder)
            if not path.exists():
                return before
            _check_same(before, folder / _WEIGHTER / "config.yaml")
        check_weights(path, {row.id for row in data.examples["train"]})
        return None

    def _weighter_run(self, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        settings = config["model"]["init_args"]
        weighter = settings["weighter"]
        if isinstance(weighter, str):
            weighter = {"class_path": weighter}
        trainer = {
            **config["trainer"], "max_epochs": self.weighter_epochs, "min_epochs": None, "limit_val_batches": 0,
            "callbacks": None, "logger": None,
        }  # fmt: skip
        predictor = settings["predictor"]
        # ``start_from`` is a checkpoint of the student, which a separate predictor could not load.
        model = {
            "student": predictor or settings["student"],
            "start_from": None if predictor else settings["start_from"],
        }
        return {
            "seed_everything": config["seed_everything"], "run": _WEIGHTER, "runs_dir": str(folder), "evaluate": False,
            "checkpoint_every": config["checkpoint_every"], "trainer": trainer, "data": config["data"],
            "model": {**weighter, "init_args": {**weighter.get("init_args", {}), **model}},
        }  # fmt: skip

    def _check_predictor(self) -> None:
        """Checks that predictor and student have the same tokenizer, if neither has yet to train its own.

        Raises:
            UserError: The vocabularies differ.
        """
        (predictor,) = self._predictor
        if predictor is None or predictor.trains_tokenizer or self.student.trains_tokenizer:
            return
        if predictor.make_tokenizer((), ()).get_vocab() != self.student.make_tokenizer((), ()).get_vocab():
            raise UserError(
                "Expected a predictor with the student's tokenizer, got one with another vocabulary. Choose a model of "
                "the student's family for model.predictor, or leave it out."
            )

    def _weights_path(self, folder: Path) -> Path:
        return Path(self.weights_file) if self.weights_file is not None else folder / _WEIGHTER / "annotations.jsonl"

    def _schedule(self, epochs: int | None) -> Schedule:
        """The schedule of a run of N epochs.

        Raises:
            UserError: The run ends before progress stage T, in which all steps are targets.
        """
        stages = self.stages
        if stages is None:
            if not epochs or epochs < 2:
                stages_too = "" if epochs == 1 else "model.stages: 1, "  # for runs that end by steps or time
                raise UserError(
                    "Expected at least 2 epochs, half of them for the stages of KPOD, got trainer.max_epochs="
                    f"{epochs}. Set trainer.max_epochs: 2 or more, {stages_too}or model.progressive: false."
                )
            stages = epochs // 2
        if epochs and 0 < epochs <= stages:
            raise UserError(
                f"Expected epochs after the last stage, got trainer.max_epochs={epochs} and model.stages={stages}. "
                f"Set trainer.max_epochs: {stages + 1} or more, "
                f"{f'model.stages: {epochs - 1} or less, ' if epochs > 1 else ''}or model.progressive: false."
            )
        return replace(self.schedule, stages=stages)

    # ---------------------------------------------------------------------------------- annotations

    def annotators(self) -> Sequence[Annotator[Any]]:
        """Annotators of token weights, step difficulty and given steps, as far as the settings use them."""
        used: list[Annotator[Any]] = []
        if self.needs_weights:
            self.token_weights = TokenWeights(self._weights_path(Path(self.trainer.default_root_dir)))
            used.append(self.token_weights)
        if self.progressive:
            difficulty = Difficulty(self.token_weights if self.weigh_difficulty else None)
            trial = getattr(self.trainer, "fast_dev_run", False)  # a few batches of one epoch
            schedule = self.schedule if trial else self._schedule(self.trainer.max_epochs)
            self.given = GivenSteps(schedule, difficulty, self.clusters, self.glove)
            used += [difficulty, self.given]
        return used

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: given steps with weight 0, the other steps with token weights, the answer with weight 1."""
        weights = np.ones(len(encoded.tokens), dtype=np.float32)
        if self.weigh_tokens and self.token_weights is not None:
            weights[: encoded.answer[0]] = self.floor + (1 - self.floor) * notes[self.token_weights]
        if self.given is not None:
            stages = notes[self.given]
            given = int(stages[min(notes.epoch, len(stages) - 1)])
            if given:
                weights[: encoded.steps[given - 1][1]] = 0
        return [Instance(id=encoded.id, prompt=encoded.prompts[""], tokens=encoded.tokens, weights=weights)]


def _check_same(run: Mapping[str, Any], path: Path) -> None:
    """Checks that existing token weights of this run folder were learned with the present settings.

    Raises:
        UserError: The settings differ.
    """
    if not path.exists():
        return
    try:
        earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"Expected the config of a run, got {' '.join(str(error).split())} ({path}). Remove the folder."
        ) from error
    now = {"model": run["model"], "trainer": {"max_epochs": run["trainer"]["max_epochs"]}}
    differing = _differing(now, earlier)
    if differing:
        raise UserError(
            f"Expected token weights that were learned with these settings, got those of {path.parent}, where "
            f"{', '.join(differing)} differs. Remove that folder to learn them again, or give another --run."
        )


def _differing(now: Any, earlier: Any, key: str = "") -> list[str]:
    """Dotted keys of ``now`` with another value in ``earlier``, such as ``model.init_args.alpha``."""
    if isinstance(now, Mapping) and isinstance(earlier, Mapping):
        return [path for k in now for path in _differing(now[k], earlier.get(k), f"{key}.{k}".strip("."))]
    same = now == earlier or str(now) == str(earlier) or (now in ({}, None) and earlier in ({}, None))
    return [] if same else [key]
