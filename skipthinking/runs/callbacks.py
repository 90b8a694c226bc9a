"""Callbacks that print and write reports of a run: training data, results, answers and annotations."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from skipthinking.evaluation.metrics import by_group, scores
from skipthinking.files import write_json, write_jsonl
from skipthinking.methods.base import Distiller
from skipthinking.ranks import gather
from skipthinking.records import Prediction
from skipthinking.runs.log import RunLogger

__all__ = ["Annotations", "Answers", "Results", "SearchLog", "StartReport"]


_TIMES: dict[str, type | tuple[type, ...]] = {"fit_seconds": (int, float), "latency_seconds": float, "device": str}


class StartReport(Callback):
    """Prints at the start what the run trains on, and one instance with its targets marked."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the report; a resumed run first removes log rows of steps that it will repeat."""
        self._forget(trainer)
        if not trainer.is_global_zero:
            return
        method = cast("Distiller", pl_module)
        data = method.data
        console = Console(highlight=False)
        total = sum(p.numel() for p in method.student.parameters())
        trained = sum(p.numel() for p in method.student.parameters() if p.requires_grad)
        console.print(f"[bold]{type(method).__name__}[/] in {trainer.default_root_dir}")
        console.print(f"student: {total:,} parameters, {trained:,} trained, {len(method.student.tokenizer):,} tokens")
        if method.student.lora is not None:
            console.print(method.student.lora.describe())
        for line in [*data.report, *data.template.describe(method.student.tokenizer)]:
            console.print(line, markup=False)
        if trainer.global_step:
            console.print(f"resumed at step {trainer.global_step}, epoch {trainer.current_epoch}")
        if data.first is not None:
            console.print(f"an instance ({data.first.id}), its targets between « »:")
            console.print(self._marked(method, data.first), markup=False, style="dim")

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Removes the log row of an earlier test of the same run."""
        self._forget(trainer)

    @staticmethod
    def _forget(trainer: L.Trainer) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, RunLogger):
                logger.forget_from(trainer.global_step)

    @staticmethod
    def _marked(method: Any, instance: Any) -> str:
        """The instance as text, with contiguous target tokens between guillemets: question«target»context."""
        decode = method.student.tokenizer.decode
        text = decode(instance.prompt.tolist())
        for is_target, group in groupby(zip(instance.tokens, instance.weights, strict=True), lambda row: row[1] > 0):
            part = decode([int(token) for token, _ in group])
            text += f"«{part}»" if is_target else part
        return text


class SearchLog(Callback):
    """Logs the searches of every epoch: ``search/NAME`` of metrics.csv is the number of annotated examples.

    The row is that of the epoch's first step. The charts of ``compare`` mark it.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs what the annotators have just done."""
        searched = cast("Distiller", pl_module).data.runner.searched
        if searched and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics({f"search/{name}": n for name, n in searched.items()}, step=trainer.global_step)


class Results(Callback):
    """Writes predictions.jsonl and summary.json after a test, and measures the wall time of training.

    Times are those of the first test of a student: a test on another machine, or from Python, does not change them.

    Args:
        folder: The run folder, or the folder in it for other answer settings.
        settings: Those settings by dotted key, written to the summary.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.settings = folder, dict(settings or {})
        self.seconds, self._since = 0.0, 0.0
        self._saved: float | None = None  # seconds in the last checkpoint, which a later test reports too

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far."""
        self._saved = self._elapsed()
        return {"seconds": self._saved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the seconds of training."""
        self.seconds = state_dict["seconds"]

    def _elapsed(self) -> float:
        return self.seconds + (time.monotonic() - self._since if self._since else 0.0)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, before the annotators of the first epoch run."""
        self._since = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self.seconds, self._since = self._saved if self._saved is not None else self._elapsed(), 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes predictions_val.jsonl after the command ``validate``."""
        if trainer.is_global_zero and trainer.state.fn == "validate":
            method = cast("Distiller", pl_module)
            write_jsonl(self.folder / "predictions_val.jsonl", map(asdict, method.predictions))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes predictions.jsonl, with every example once beside the teacher's rationale, and summary.json."""
        if not trainer.is_global_zero:
            return
        method = cast("Distiller", pl_module)
        data = method.data
        set_of = {row.id: name for name, rows in data.test_sets.items() for row in rows}
        teacher = {row.id: row.rationale for rows in data.test_sets.values() for row in rows}
        order = {id: place for place, id in enumerate(set_of)}
        predictions = sorted(method.predictions, key=lambda p: order[p.id])
        rows = ({"set": set_of[p.id], **asdict(p), "rationale": teacher[p.id]} for p in predictions)
        write_jsonl(self.folder / "predictions.jsonl", rows)
        sets = by_group(predictions, set_of)
        summary = {
            "method": type(method).__name__,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", 0)),
            "tested": datetime.now(timezone.utc).date().isoformat(),
            "parameters": sum(p.numel() for p in method.student.parameters()),
            "steps": trainer.global_step or method.steps_before,
            "target_tokens": method.target_tokens,
            "context_tokens": method.context_tokens,
            "fit_seconds": round(self.seconds, 1),
            "latency_seconds": method.latency,
            "device": _device_name(method.device),
            "max_new_tokens": method.max_new_tokens,
            "prompt": data.sample_prompt(),
            "settings": self.settings,
            "test": {name: self._scores(data, name, rows) for name, rows in sets.items()},
        }  # fmt: skip
        write_json(self.folder / "summary.json", summary | self._first_times(summary))

    def _first_times(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Times in the summary of an earlier test of the same student, with the device that they were measured on."""
        path = self.folder / "summary.json"
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            same = all(earlier[name] == summary[name] for name in ("method", "seed", "steps", "settings"))
            times = {name: earlier[name] for name in _TIMES}
        except (OSError, ValueError, TypeError, KeyError):  # none, or one that no command can read
            return {}
        if not (same and all(isinstance(times[name], kind) for name, kind in _TIMES.items())):
            return {}
        if summary["latency_seconds"] is not None:
            now, then = (f"{t['latency_seconds'] * 1000:.0f} ms ({t['device']})" for t in (summary, times))
            print(f"note: latency is {now} now; {path} keeps {then} of the first test. Remove it to measure again.")
        return times

    @staticmethod
    def _scores(data: Any, name: str, predictions: Sequence[Prediction]) -> dict[str, Any]:
        values: dict[str, Any] = scores(predictions)
        tasks = by_group(predictions, {p.id: p.task for p in predictions})
        if len(tasks) > 1:
            values["tasks"] = {task: scores(rows) for task, rows in tasks.items()}
        known = [(row.id, row.question) for row in data.test_sets[name]]
        lengths = [len(data.teacher[key].tokens) for key in known if key in data.teacher]
        if lengths:
            values["teacher_tokens"] = sum(lengths) / len(lengths)
        return values


class Answers(Callback):
    """Prints the answers of ``predict`` by stages, and writes answers.jsonl if the questions come from a file.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the first 10 answers on rank 0, and writes all of them."""
        method = cast("Distiller", pl_module)
        data = method.data
        if data.annotating:
            return
        answers = gather({row.id: row for row in method.predictions})
        if not trainer.is_global_zero:
            return
        rows = [answers[example.id] for example in data.examples["predict"]]
        console = Console(highlight=False)
        for row in rows[:10]:
            console.print(row.question, style="bold", markup=False)
            for name, text in row.stages:
                console.print(f"  {name:>9}  {text}", markup=False)
            size = f"{row.new_tokens} new tokens{'' if row.finished else ', unfinished'}"
            size = size if row.new_tokens else "the question fills the student's context"
            answer = row.extracted or row.extracted_lenient or "none can be read"
            how = "" if row.extracted or not row.extracted_lenient else ", not in the form of training"
            console.print(f"  {'answer':>9}  {answer}{how} ({size})\n", markup=False)
        odd = {
            "unfinished": sum(not row.finished for row in rows),
            "without an answer that can be read": sum(not (row.extracted or row.extracted_lenient) for row in rows),
            "not in the form of training": sum(bool(not row.extracted and row.extracted_lenient) for row in rows),
        }
        for what, n in odd.items():
            if n and len(rows) > 1:
                console.print(f"{n} of {len(rows)} answers {what}", markup=False)
        if data.splits.questions:
            path = self.folder / "answers.jsonl"
            write_jsonl(path, map(asdict, rows))
            console.print(f"{len(rows)} answers in {path}")


class Annotations(Callback):
    """Writes annotations.jsonl for the command ``annotate``.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs the annotators on all ranks, and writes on rank 0."""
        data = cast("Distiller", pl_module).data
        if not data.annotating:
            return
        with trainer.precision_plugin.forward_context():
            rows = data.annotation_rows()
        if trainer.is_global_zero:
            path = self.folder / "annotations.jsonl"
            write_jsonl(path, rows)
            print(f"{len(rows)} annotated examples in {path}\nlook at some: python -m skipthinking show {self.folder}")


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
