"""KPOD: key tokens weigh more, and the rationale is learned from its end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from skipthinking.annotate.store import fingerprint, remembered
from skipthinking.methods.base import Distiller
from skipthinking.methods.kpod.clusters import check_clusters, cluster, glove_embeddings, input_embeddings
from skipthinking.methods.kpod.difficulty import difficulties
from skipthinking.methods.kpod.schedule import Schedule, plan_inputs
from skipthinking.methods.kpod.weighter import KeypointWeighter
from skipthinking.methods.kpod.weights import check_weights, pack, read_weights, unpack, weight_rows
from skipthinking.ranks import gather
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students import Student

if TYPE_CHECKING:
    from skipthinking.data.module import RationaleDataModule

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
        self.token_weights: dict[str, NDArray[np.float32]] | None = None
        self.difficulty: dict[str, NDArray[np.float64]] | None = None
        self.plan: dict[str, NDArray[np.int64]] | None = None

    # ------------------------------------------------------------------------------ what comes before

    @property
    def needs_weights(self) -> bool:
        """Whether any part looks at token weights."""
        return self.weigh_tokens or (self.progressive and self.weigh_difficulty)

    def first_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> dict[str, Any] | None:
        """The run that learns the token weights: on the same data, with the same trainer, from this run's own config.

        It is a run by itself, so that it is logged, killed, resumed and spread over processes as any other; it ends
        before this one begins, so that neither knows of the other's optimiser or epochs. Only the command line starts
        it: a trainer by itself needs ``weights``.
        """
        if self.progressive:
            self._schedule(config["trainer"]["max_epochs"])
            check_clusters(self.clusters, len(data.examples["train"]))
            if self.glove is not None:
                self._embeddings({row.id: row.question for row in data.examples["train"]})
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

    # ------------------------------------------------------------------------------------ annotations

    def own_notes(self, epoch: int, encoded: Sequence[Encoded]) -> Mapping[str, Mapping[str, Any]]:
        """The token weights of every example, and how many steps of it are given in this epoch."""
        self.know(encoded)
        if self.needs_weights and self.token_weights is None:
            self.token_weights = read_weights(self._weights_path(Path(self.trainer.default_root_dir)), encoded)
        if self.progressive and self.plan is None:
            self._make_plan(encoded)
        weights = self.token_weights if self.weigh_tokens else None
        return {
            row.id: {
                "weights": None if weights is None else weights[row.id],
                "given": 0 if self.plan is None else int(self.plan[row.id][min(epoch, len(self.plan[row.id]) - 1)]),
            }
            for row in encoded
        }

    def _make_plan(self, encoded: Sequence[Encoded]) -> None:
        """Difficulty, clusters and schedule; in the order of the ids, so that the data's own plays no role."""
        rows = sorted(encoded, key=lambda row: row.id)
        schedule = self._schedule(self.trainer.max_epochs)
        self.difficulty = {id: np.array(steps) for id, steps in self._difficulty(rows).items()}
        questions = {row.id: row.question for row in self.data.examples["train"]}
        vectors = self._embeddings({row.id: questions[row.id] for row in rows})
        # One process clusters: sums over threads may differ in the last bit, and with them a border between clusters.
        found = gather(cluster(vectors, self.clusters, self.data.seed) if self.trainer.is_global_zero else {})
        given = plan_inputs(
            [self.difficulty[row.id] for row in rows],
            np.array([found[row.id] for row in rows]),
            schedule,
            quiet=not self.trainer.is_global_zero,
        )
        self.plan = {row.id: given[:, place] for place, row in enumerate(rows)}
        asked = 1 - given[0].sum() / sum(len(row.steps) for row in rows)
        self.say(f"schedule: {schedule.stages} stages from {asked:.1%} of all steps to all of them")

    def _difficulty(self, rows: Sequence[Encoded]) -> dict[str, list[float]]:
        weights = self.token_weights if self.weigh_difficulty else None
        told = hashlib.blake2b(digest_size=16)
        for row in rows:
            told.update(b"" if weights is None else weights[row.id].tobytes())
        return remembered(
            self.annotations / "difficulty.jsonl",
            fingerprint(rows, {"weights": told.hexdigest()}, self.student),
            lambda: difficulties(
                self.student, rows, weights, rank=self.global_rank, ranks=self.trainer.world_size
            ),
        )  # fmt: skip

    def _embeddings(self, questions: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
        if self.glove is not None:
            return glove_embeddings(Path(self.glove), questions)
        return input_embeddings(self.student, questions)

    def annotate(self) -> list[dict[str, Any]]:
        """Token weights, step difficulty and schedule of every training example, as the run had them."""
        notes, codec = self.own_notes(0, self.data.encoded), self.codec
        assert codec is not None
        ones = {row.id: np.ones(row.answer[0], dtype=np.float32) for row in self.data.encoded}
        questions = {row.id: row.question for row in self.data.examples["train"]}
        rows = weight_rows(self.data.encoded, self.token_weights or ones, questions, codec)
        assert len(notes) == len(rows)
        for row in rows:
            if self.difficulty is not None and self.plan is not None:
                row["difficulty"] = [round(float(step), 4) for step in self.difficulty[row["id"]]]
                row["given"] = self.plan[row["id"]].tolist()
        return rows

    # ------------------------------------------------------------------------------------ the instances

    def cut(self, encoded: Encoded, notes: Mapping[str, Any]) -> list[Instance]:
        """One instance: the steps that are given, then the rest with their tokens' weights, then the answer."""
        weights = np.ones(len(encoded.tokens), dtype=np.float32)
        if notes["weights"] is not None:
            weights[: encoded.answer[0]] = self.floor + (1 - self.floor) * notes["weights"]
        if notes["given"]:
            weights[: encoded.steps[notes["given"] - 1][1]] = 0
        return [Instance(id=encoded.id, prompt=encoded.prompts[""], tokens=encoded.tokens, weights=weights)]

    # ------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds weights, difficulty and schedule."""
        super().on_save_checkpoint(checkpoint)
        kept = {"weights": self.token_weights, "difficulty": self.difficulty, "plan": self.plan}
        checkpoint["skipthinking"]["kpod"] = {name: value and pack(value) for name, value in kept.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores them, so that a resumed run neither computes them again nor differs."""
        super().on_load_checkpoint(checkpoint)
        kept = {name: value and unpack(value) for name, value in checkpoint["skipthinking"]["kpod"].items()}
        self.token_weights, self.difficulty, self.plan = kept["weights"], kept["difficulty"], kept["plan"]


def _check_same(run: Mapping[str, Any], path: Path) -> None:
    """Sees that the weights of an earlier start of this run were learned as they would be now.

    Raises:
        UserError: They were not.
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
            f"{', '.join(other)} differs. Remove that folder to learn them anew, or give another --run."
        )


def _differing(asked: Any, was: Any, place: str = "") -> list[str]:
    """Keys of ``asked`` that are otherwise in ``was``."""
    if isinstance(asked, Mapping) and isinstance(was, Mapping):
        return [key for name in asked for key in _differing(asked[name], was.get(name), f"{place}.{name}".strip("."))]
    same = asked == was or str(asked) == str(was) or (asked in ({}, None) and was in ({}, None))
    return [] if same else [place]
