"""KPOD: key tokens weigh more, and the rationale is learned from its end."""

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

_WEIGHTER = "weighter"  # the run of the token weighter, in the run folder


class KPOD(Distiller):
    r"""Keypoint-based progressive distillation (KPOD, Feng et al., ICML 2024, arXiv 2405.16064).

    1. Token weights, by mask learning (KeypointWeighter): a run of its own in the run folder, or a file. 2. The
    difficulty of every step, with the student before it is trained (Eq. 8). 3. A schedule that at first gives most
    steps as input and asks for the last ones, and from stage T on gives nothing (Eq. 9-13). 4. Training on what is not
    given, each rationale token with its weight, each token of the answer with weight 1 (Eq. 15). A stage is an epoch.

    Ablations of the paper: ``weigh_tokens: false``, ``weigh_difficulty: false``, ``progressive: false`` and
    ``diversity: 0``.

    Departures: see KeypointWeighter and :func:`skipthinking.methods.kpod.schedule.plan_inputs`; questions are clustered
    by the mean input embedding of the student unless there is a GloVe file; the loss is normalized by the weights of
    the whole step, as everywhere here.

    Args:
        student: The student.
        weights: File of token weights that a run of KeypointWeighter left; learned first if there is none.
        weighter: How they are learned.
        weighter_epochs: Epochs of that.
        predictor: Transformer that predicts the answer there; by default a copy of the student.
        weigh_tokens: Whether the loss weighs the tokens of the rationale.
        floor: Least weight of a token in the loss (ours; the paper's is 0). Weights w become floor + (1 - floor) w. A
            student that cannot write yet, one from scratch, must learn the words between the key tokens too.
        weigh_difficulty: Whether the difficulty does.
        progressive: Whether steps are given at all.
        stages: T; half of the epochs by default.
        steps_per_stage: By how many steps a chosen question falls; by default as few as reach nothing in T stages.
        exponent: p of the growth of the difficulty.
        start_share: Share of the difficulty that the first stage asks for.
        diversity: Beta, the worth of questions unlike those chosen.
        clusters: K, clusters of questions.
        glove: File of GloVe vectors to cluster by.
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
            raise UserError(f"Expected at least 1 epoch, got model.weighter_epochs={weighter_epochs}.")
        if not 0 <= floor <= 1:
            raise UserError(f"Expected a weight from 0 to 1, got model.floor={floor}.")
        self.weights_file, self.weighter_epochs, self.floor = weights, weighter_epochs, floor
        self.weigh_tokens, self.weigh_difficulty, self.progressive = weigh_tokens, weigh_difficulty, progressive
        self.stages, self.clusters, self.glove = stages, clusters, glove
        self._predictor = (predictor,)  # in a tuple, so that it is no part of this model
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
        """Whether any part looks at token weights."""
        return self.weigh_tokens or (self.progressive and self.weigh_difficulty)

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> dict[str, Any] | None:
        """The run that learns the token weights: on the same data, with the same trainer, from this run's own config.

        It is a run by itself, so that it is logged, killed, resumed and spread over processes as any other; it ends
        before this one begins, so that neither knows of the other's optimiser or epochs. Only the command line starts
        it: a trainer by itself needs ``weights``.
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
        own = config["model"]["init_args"]
        weighter = own["weighter"]
        if isinstance(weighter, str):
            weighter = {"class_path": weighter}
        trainer = {
            **config["trainer"], "max_epochs": self.weighter_epochs, "min_epochs": None, "limit_val_batches": 0,
            "callbacks": None, "logger": None,
        }  # fmt: skip
        predictor = own["predictor"]
        begun = {"student": predictor or own["student"], "start_from": None if predictor else own["start_from"]}
        return {
            "seed_everything": config["seed_everything"], "run": _WEIGHTER, "runs_dir": str(folder), "evaluate": False,
            "checkpoint_every": config["checkpoint_every"], "trainer": trainer, "data": config["data"],
            "model": {**weighter, "init_args": {**weighter.get("init_args", {}), **begun}},
        }  # fmt: skip

    def _check_predictor(self) -> None:
        """Sees that the weights will be of the student's tokens, where both tokenizers are there to be compared.

        Raises:
            UserError: They will not.
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
        """The schedule of a run of so many epochs.

        Raises:
            UserError: The run ends before everything was asked for.
        """
        stages = self.stages
        if stages is None:
            if not epochs or epochs < 2:
                raise UserError(
                    "Expected at least 2 epochs, half of them for the stages of KPOD, got "
                    f"trainer.max_epochs={epochs}. Raise it, set model.stages, or model.progressive: false."
                )
            stages = epochs // 2
        if epochs and 0 < epochs <= stages:
            raise UserError(
                f"Expected epochs after the last stage, got trainer.max_epochs={epochs} and model.stages={stages}. "
                "Raise the first or lower the second."
            )
        return replace(self.schedule, stages=stages)

    # ---------------------------------------------------------------------------------- annotations

    def annotators(self) -> Sequence[Annotator[Any]]:
        """Token weights, step difficulty, and how many steps are given per progress stage, as far as they are used."""
        found: list[Annotator[Any]] = []
        if self.needs_weights:
            self.token_weights = TokenWeights(self._weights_path(Path(self.trainer.default_root_dir)))
            found.append(self.token_weights)
        if self.progressive:
            difficulty = Difficulty(self.token_weights if self.weigh_difficulty else None)
            self.given = GivenSteps(self._schedule(self.trainer.max_epochs), difficulty, self.clusters, self.glove)
            found += [difficulty, self.given]
        return found

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: the steps that are given, then the rest with their tokens' weights, then the answer."""
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
    """Checks that the weights of an earlier start of this run were learned as they would be now.

    Raises:
        UserError: They were learned otherwise.
    """
    if not path.exists():
        return
    try:
        was = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"Expected the config of a run, got {' '.join(str(error).split())} ({path}). Remove the folder."
        ) from error
    asked = {"model": run["model"], "trainer": {"max_epochs": run["trainer"]["max_epochs"]}}
    other = _differing(asked, was)
    if other:
        raise UserError(
            f"Expected token weights that were learned with these settings, got those of {path.parent}, where "
            f"{', '.join(other)} differs. Remove that folder to learn them again, or give another --run."
        )


def _differing(asked: Any, was: Any, place: str = "") -> list[str]:
    """Keys of ``asked`` that are otherwise in ``was``."""
    if isinstance(asked, Mapping) and isinstance(was, Mapping):
        return [key for name in asked for key in _differing(asked[name], was.get(name), f"{place}.{name}".strip("."))]
    same = asked == was or str(asked) == str(was) or (asked in ({}, None) and was in ({}, None))
    return [] if same else [place]
