"""Speed of training in the log and the progress bar, or as text: tokens/s, examples/s, MFU, peak memory, time left."""

from __future__ import annotations

import math
import resource
import sys
import time
import warnings
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback, RichProgressBar

from skipthinking.annotate.runner import say
from skipthinking.methods.base import Distiller
from skipthinking.methods.schedules import logs_step

__all__ = ["RunProgressBar", "Throughput", "compute_dtype", "flops_per_step", "peak_flops", "short_time"]

# Peaks in 16 bits, TF32 and float32, by a part of the device's name in small letters, where Lightning has none (H200,
# GH200), those of two GPUs (H100 NVL), or those of an L4 (L40, L40S).
_NVL = 835.5e12, 417.7e12, 60e12
_PEAKS = {
    "h100 nvl": _NVL,
    "h200 nvl": _NVL,
    "h200": (989.4e12, 494.7e12, 66.9e12),
    "l40s": (362.05e12, 183e12, 91.6e12),
    "l40": (181.05e12, 90.5e12, 90.5e12),
}
_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}  # by the start of Lightning's names of precisions


class Throughput(Callback):
    """Logs the speed of training at the first step, every ``log_every_n_steps`` steps, and the last one.

    The clock runs in training epochs only, not in searches or validation. Nothing waits for the device: on a GPU the
    speed of a window is exact up to the few steps that the host is ahead. Columns of metrics.csv:

    - ``train/tokens_per_second``: target and context tokens, without padding, of all processes;
    - ``train/examples_per_second``: training instances of all processes;
    - ``train/mfu``: model FLOPs utilization, :func:`flops_per_step` over the peak FLOPs of the devices in the
      precision of training (Chowdhery et al., arXiv 2204.02311, Appendix B); absent where the peak is not known, as
      for CPUs;
    - ``train/peak_memory_gib``: most memory allocated on this process's GPU so far; on a CPU, of the process;
    - ``train/lr``: learning rate of the first parameter group.

    Without a progress bar in a terminal, the same is printed as a line of text.
    """

    def __init__(self) -> None:
        self.speed: dict[str, float] = {}
        self.left: float | None = None  # seconds
        self._since = math.nan
        self._seconds = 0.0  # of the window, before ``_since``
        self._steps = self._tokens = self._targets = self._examples = 0
        self._step = 0
        self._rate = math.nan  # learning rate of the step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts counting, at the step of a resumed run, which may be in the middle of an epoch."""
        self._step, self._since = trainer.global_step, time.monotonic()
        self._clear()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, after the searches of the epoch."""
        self._since = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops the clock."""
        self._seconds += time.monotonic() - self._since

    on_validation_start = on_train_epoch_end
    on_validation_end = on_train_epoch_start

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Notes the learning rate of the step, before its schedule changes it."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a micro-batch, and reports after a step that is logged."""
        self._tokens += batch.targets + batch.contexts
        self._targets += batch.targets
        self._examples += len(batch.ids) * trainer.world_size
        if trainer.global_step == self._step:
            return
        self._steps += 1
        self._step = trainer.global_step
        if not logs_step(trainer, self._step):
            return
        method = cast("Distiller", pl_module)
        now = time.monotonic()
        seconds = self._seconds + now - self._since
        self.speed = self._measure(trainer, method, max(seconds, 1e-9))
        total = steps_in_all(trainer, self._step, batch_idx)
        self.left = (total - self._step) * seconds / self._steps if total is not None else None
        self._report(trainer, total)
        self._clear()
        self._since = time.monotonic()

    def _clear(self) -> None:
        self._steps = self._tokens = self._targets = self._examples = 0
        self._seconds = 0.0

    def _measure(self, trainer: L.Trainer, method: Distiller, seconds: float) -> dict[str, float]:
        speed = {
            "train/tokens_per_second": self._tokens / seconds,
            "train/examples_per_second": self._examples / seconds,
            "train/peak_memory_gib": _peak_memory(method.device) / 2**30,
            "train/lr": self._rate,
        }
        peak = peak_flops(method.device, compute_dtype(trainer))
        if peak:
            used = flops_per_step(method.student, self._tokens, self._targets, self._examples)
            speed["train/mfu"] = used / seconds / peak / trainer.world_size
        return speed

    def _report(self, trainer: L.Trainer, total: int | None) -> None:
        if not trainer.is_global_zero:
            return
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        row = {"epoch": trainer.current_epoch, **logged, **self.speed}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=self._step - 1)
        bar: Any = trainer.progress_bar_callback
        if bar is None or not sys.stdout.isatty():
            say(self.line(trainer, total, row["train/loss"]))

    def line(self, trainer: L.Trainer, total: int | None, loss: float) -> str:
        """The report as text.

        ``step 50/176, epoch 1: loss 0.655, 1,410 tokens/s, 12.1 examples/s, 5.9 GiB, lr 4.1e-05, 12:30 left``
        """
        mfu = f", MFU {self.speed['train/mfu']:.1%}" if "train/mfu" in self.speed else ""
        left = f", {short_time(self.left)} left" if self.left is not None else ""
        step = f"{self._step}/{total}" if total is not None else str(self._step)
        return (
            f"step {step}, epoch {trainer.current_epoch}: loss {loss:.3f}, "
            f"{self.speed['train/tokens_per_second']:,.0f} tokens/s, "
            f"{self.speed['train/examples_per_second']:.1f} examples/s{mfu}, "
            f"{self.speed['train/peak_memory_gib']:.1f} GiB, lr {self.speed['train/lr']:.1e}{left}"
        )


def steps_in_all(trainer: L.Trainer, step: int, micro_batch: int) -> int | None:
    """Optimizer steps of the run if later epochs are as long as this one; None if it is unlimited.

    Args:
        trainer: The trainer.
        step: Steps so far.
        micro_batch: Index of the last micro-batch in the epoch.
    """
    accumulate, epochs = trainer.accumulate_grad_batches, trainer.max_epochs
    of_epoch = math.ceil(trainer.num_training_batches / accumulate)
    bounds = [trainer.max_steps] if trainer.max_steps > 0 else []
    if epochs is not None and epochs > 0:
        left = of_epoch - math.ceil((micro_batch + 1) / accumulate)
        bounds.append(step + max(0, left) + of_epoch * max(0, epochs - 1 - trainer.current_epoch))
    return min(bounds, default=None)


class RunProgressBar(RichProgressBar):
    """Lightning's progress bar, with the speed of training and the time left of the run, searches not counted."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Any:
        """The metrics beside the bar."""
        items = super().get_metrics(trainer, pl_module)
        meter = next(
            (callback for callback in cast("Any", trainer).callbacks if isinstance(callback, Throughput)), None
        )
        if meter is not None and meter.speed:
            items["tokens/s"] = f"{meter.speed['train/tokens_per_second']:,.0f}"
            if meter.left is not None:
                items["left"] = short_time(meter.left)
        return items


def flops_per_step(student: Any, tokens: int, targets: int, examples: int) -> float:
    """FLOPs that training needs for so many tokens, without those of recomputation.

    6 per token and weight (2 forward, 4 backward; 4 for a frozen weight, whose gradient is not computed), the input
    embeddings not counted and the output embeddings for target tokens only, plus attention, 12 L D T per token for L
    layers of width D and T tokens per example (Chowdhery et al., arXiv 2204.02311, Appendix B, which does not halve it
    for the causal mask).

    Args:
        student: The student, built.
        tokens: Tokens without padding, all processes.
        targets: Those of them that are targets.
        examples: Instances.
    """
    config = student.config.get_text_config(decoder=True)
    inner = student.model.get_base_model() if student.lora else student.model
    # An encoder reads prompts, a decoder completions: about the context and the target tokens.
    encoder = inner.get_encoder().parameters() if student.encoder_decoder else ()
    read = {id(weight): tokens - targets for weight in encoder}
    others = targets if student.encoder_decoder else tokens
    embeddings = {id(student.model.get_input_embeddings().weight), id(student.model.get_output_embeddings().weight)}
    body = sum(
        parameter.numel() * (6 if parameter.requires_grad else 4) * read.get(id(parameter), others)
        for parameter in student.parameters()
        if id(parameter) not in embeddings
    )
    head = student.model.get_output_embeddings().weight
    attention = 12 * config.num_hidden_layers * config.hidden_size * tokens / max(1, examples)
    return body + tokens * attention + targets * head.numel() * (6 if head.requires_grad else 4)


def short_time(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> short_time(75), short_time(3675), short_time(200_000)
    ('1:15', '1:01:15', '2d 7:33:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours or days else f"{minutes}:{rest:02}"
    return f"{days}d {text}" if days else text


def compute_dtype(trainer: L.Trainer) -> torch.dtype:
    """Type of numbers that the trainer's precision computes in."""
    return _DTYPES.get(str(trainer.precision).split("-")[0], torch.float32)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOPs per second of dense products on a device, by the data sheets; None where it is not known.

    Products in float32 are those of tensor cores (TF32) where torch may use them.
    """
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    for part, (sixteen_bits, tf32, float32) in _PEAKS.items():
        if part in name:
            full = float32 if torch.get_float32_matmul_precision() == "highest" else tf32
            return sixteen_bits if dtype in _DTYPES.values() else full
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every device that it does not know
        return get_available_flops(device, dtype)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
