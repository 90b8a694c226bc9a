"""What a run writes and says: its config, its log, its results, and what it trains on."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from skipthinking.metrics import by_group, scores
from skipthinking.records import Prediction
from skipthinking.report.files import write_json, write_jsonl, write_text

if TYPE_CHECKING:
    from skipthinking.data.module import RationaleDataModule
    from skipthinking.methods import Distiller

__all__ = ["Answers", "Interrupts", "Results", "RunConfig", "RunLogger", "StartReport", "checkpoints"]


class _Writer(ExperimentWriter):
    """Goes on with the metrics file of a resumed run, where Lightning's would delete it."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as lines:
                self.metrics_keys = next(csv.reader(lines), [])

    def forget_from(self, step: int) -> None:
        """Drops the rows that a resumed run is going to write again."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="") as lines:
            rows = list(csv.reader(lines))
        at = rows[0].index("step")
        kept = [rows[0], *(row for row in rows[1:] if row[at] and float(row[at]) < step)]
        write_text(path, "".join(",".join(row) + "\n" for row in kept))


class RunLogger(CSVLogger):
    """``metrics.csv`` in the run folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=str(folder), name="", version="")

    @property
    def log_dir(self) -> str:
        """The run folder itself."""
        return self._save_dir

    @property
    def experiment(self) -> Any:
        """The writer; on other ranks a writer that does nothing."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._experiment = _Writer(log_dir=self.log_dir)
        return self._experiment if getattr(rank_zero_only, "rank", 0) == 0 else super().experiment


class RunConfig(SaveConfigCallback):
    """Writes config.yaml into the run folder and sends the whole config to every logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Only for ``fit``: the other commands read the config of a run, they do not change it."""
        if stage != "fit":
            return
        text = self.parser.dump(self.config, skip_unset=False)
        write_text(Path(trainer.default_root_dir) / "config.yaml", text)
        config = json.loads(self.parser.dump(self.config, format="json", skip_unset=False))
        for logger in trainer.loggers:
            if not isinstance(logger, RunLogger):
                logger.log_hyperparams(config)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the config in the checkpoint, to be compared on the next load; it is never applied."""
        checkpoint.setdefault("skipthinking", {})["config"] = self.parser.dump(
            self.config, format="json", skip_unset=False
        )


def checkpoints(folder: Path, every: int) -> list[Callback]:
    """Callbacks that keep ``checkpoints/last.ckpt`` fresh: every so many optimiser steps, and after each epoch."""
    common: dict[str, Any] = {
        "dirpath": folder / "checkpoints", "save_top_k": 0, "save_last": True, "enable_version_counter": False
    }  # fmt: skip
    return [
        ModelCheckpoint(every_n_train_steps=every, **common),
        ModelCheckpoint(every_n_epochs=1, save_on_train_epoch_end=True, **common),
    ]


class Interrupts(Callback):
    """On Ctrl-C finishes the optimiser step, saves it, and says how to go on; a second Ctrl-C stops at once.

    With several processes there is no moment that all of them know of: the last regular checkpoint counts.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkpoints" / "last.ckpt"
        self.asked = self.saved = False
        self._before: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listens."""
        if trainer.world_size > 1 or threading.current_thread() is not threading.main_thread():
            return

        def ask(number: int, frame: Any) -> None:
            if self.asked or not trainer.training:
                raise KeyboardInterrupt
            self.asked = True
            print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)

        self._before = signal.signal(signal.SIGINT, ask)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Saves where an optimiser step is complete."""
        if self.asked and not trainer.fit_loop.epoch_loop._should_accumulate():
            trainer.save_checkpoint(self.path)
            self.saved = True

    def on_train_batch_start(self, *args: Any) -> None:
        """Stops before the next micro-batch, when the step is logged."""
        if self.saved:
            raise KeyboardInterrupt

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Says how to go on."""
        self.on_train_end(trainer, pl_module)
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero and trainer.state.fn == "fit":
            how = "Go on: the same command with --ckpt_path last." if self.path.exists() else "No checkpoint yet."
            print(f"stopped at step {trainer.global_step}. {how}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops listening."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class StartReport(Callback):
    """Says once what the run trains on, and shows one instance with its targets marked."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the report; a resumed run first drops the log rows that it is going to repeat."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.experiment.forget_from(trainer.global_step)
        method: Distiller = pl_module  # type: ignore[assignment]
        data: RationaleDataModule = trainer.datamodule  # type: ignore[attr-defined]
        console = Console(highlight=False)
        total = sum(p.numel() for p in method.student.parameters())
        trained = sum(p.numel() for p in method.student.parameters() if p.requires_grad)
        console.print(f"[bold]{type(method).__name__}[/] in {trainer.default_root_dir}")
        console.print(f"student: {total:,} parameters, {trained:,} trained, {len(method.student.tokenizer):,} tokens")
        for line in data.report:
            console.print(line, markup=False)
        if trainer.global_step:
            console.print(f"resumed at step {trainer.global_step}, epoch {trainer.current_epoch}")
        if data.first is not None:
            console.print(f"an instance ({data.first.id}), its targets between « »:")
            console.print(self._marked(method, data.first), markup=False, style="dim")

    @staticmethod
    def _marked(method: Any, instance: Any) -> str:
        """The instance as text; every run of target tokens between guillemets."""
        decode = method.student.tokenizer.decode
        edges = [
            0,
            *(i for i in range(1, len(instance.tokens)) if (instance.weights[i] > 0) != (instance.weights[i - 1] > 0)),
        ]
        text = decode(instance.prompt.tolist())
        for start, end in zip(edges, [*edges[1:], len(instance.tokens)], strict=True):
            part = decode(instance.tokens[start:end].tolist())
            text += f"«{part}»" if instance.weights[start] > 0 else part
        return text


class Results(Callback):
    """Writes predictions.jsonl and summary.json after a test, and counts the wall time of training.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds, self._since = 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The seconds trained so far."""
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.seconds = state_dict["seconds"]

    def _elapsed(self) -> float:
        return self.seconds + (time.monotonic() - self._since if self._since else 0.0)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._since = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self.seconds, self._since = self._elapsed(), 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After ``validate``: predictions_val.jsonl."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            write_jsonl(self.folder / "predictions_val.jsonl", map(asdict, pl_module.predictions))  # type: ignore[arg-type]

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After a test: predictions.jsonl with every example once, and summary.json."""
        if not trainer.is_global_zero:
            return
        method: Distiller = pl_module  # type: ignore[assignment]
        data: RationaleDataModule = trainer.datamodule  # type: ignore[attr-defined]
        set_of = {row.id: name for name, rows in data.test_sets.items() for row in rows}
        order = {id: place for place, id in enumerate(set_of)}
        predictions = sorted(method.predictions, key=lambda p: order[p.id])
        write_jsonl(self.folder / "predictions.jsonl", ({"set": set_of[p.id], **asdict(p)} for p in predictions))
        sets = by_group(predictions, set_of)
        write_json(self.folder / "summary.json", {
            "method": type(method).__name__,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "steps": trainer.global_step or self._steps(trainer),
            "target_tokens": method.target_tokens,
            "context_tokens": method.context_tokens,
            "fit_seconds": round(self.seconds, 1),
            "latency_seconds": method.latency,
            "device": _device_name(method.device),
            "test": {name: self._scores(data, name, rows) for name, rows in sets.items()},
        })  # fmt: skip

    @staticmethod
    def _steps(trainer: L.Trainer) -> int:
        return trainer.fit_loop.epoch_loop.global_step

    @staticmethod
    def _scores(data: Any, name: str, predictions: Sequence[Prediction]) -> dict[str, Any]:
        values: dict[str, Any] = scores(predictions)
        tasks = by_group(predictions, {p.id: p.task for p in predictions})
        if len(tasks) > 1:
            values["tasks"] = {task: scores(rows) for task, rows in tasks.items()}
        told = [row for row in data.test_sets[name] if row.rationale]
        if told:
            values["teacher_tokens"] = sum(len(row.tokens) for row in data.codec.encode(told)) / len(told)
        return values


class Answers(Callback):
    """Shows the answers of ``predict``, stage by stage, and writes answers.jsonl when a file was asked.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Prediction] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Collects."""
        self.rows += outputs

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the first answers on the first rank, and writes all of them."""
        from skipthinking.annotate.scoring import gather

        answers = gather({row.id: row for row in self.rows})
        if not trainer.is_global_zero:
            return
        method: Distiller = pl_module  # type: ignore[assignment]
        data: RationaleDataModule = trainer.datamodule  # type: ignore[attr-defined]
        rows = [answers[example.id] for example in data.examples["predict"]]
        console = Console(highlight=False)
        for row in rows[:10]:
            console.print(row.question, style="bold", markup=False)
            for name, text in method.stages_of(row.completion):
                console.print(f"  {name:>9}  {text}", markup=False)
            console.print(
                f"  {'answer':>9}  {row.extracted or row.extracted_lenient or 'none'} ({row.new_tokens} new tokens)\n"
            )
        if data.questions:
            path = self.folder / "answers.jsonl"
            write_jsonl(path, ({**asdict(row), "stages": method.stages_of(row.completion)} for row in rows))
            console.print(f"{len(rows)} answers in {path}")


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
