"""A training step on a model of 30M parameters with GPT-2's vocabulary: target-only against full logits.

Times are ratios within one run; memory is the peak resident set of separate processes.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from skipthinking.data.batches import Batch, collate
from skipthinking.data.planning import padding_share, plan_epoch
from skipthinking.records import Instance
from skipthinking.students.heads import measure_targets
from skipthinking.students.measures import nll
from skipthinking.tasks import generate

CONFIG = {"n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 512}


def _batch(size: int = 16) -> Batch:
    """CWT instances: a question of 60 tokens, 0 to 3 earlier chunks of 25 to 45, one target chunk of 25 to 45."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(size):
        context, target = int(rng.integers(0, 4)) * int(rng.integers(25, 46)), int(rng.integers(25, 46))
        tokens = rng.integers(0, 50257, context + target)
        weights = np.concatenate([np.zeros(context), np.ones(target)]).astype(np.float32)
        rows.append(Instance(id=str(i), prompt=rng.integers(0, 50257, 60), tokens=tokens, weights=weights))
    return collate(rows, pad_id=0, encoder_decoder=False)


def _model() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **CONFIG)).train()


def _full(model: Any, batch: Batch) -> torch.Tensor:
    """The reference: logits at all positions, then a mask."""
    logits = model(input_ids=batch.tokens_BL, use_cache=False).logits[:, :-1].float()
    labels_M = torch.full_like(batch.tokens_BL[:, 1:], -100).flatten()
    labels_M[batch.where.places_N] = batch.where.ids_N
    return F.cross_entropy(logits.flatten(0, 1), labels_M, reduction="sum")


def _targets(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {"input_ids": batch.tokens_BL[:, :-1]}
    return measure_targets(model, batch.where.places_N, batch.where.ids_N, inputs, nll).sum()


LOSSES: dict[str, Callable[[Any, Batch], torch.Tensor]] = {"full": _full, "targets": _targets}


def _peak(name: str, queue: Any) -> None:
    model, batch = _model(), _batch()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as in every later step
    before = _memory("VmRSS")
    LOSSES[name](model, batch).backward()
    queue.put(_memory("VmHWM") - before)


def _memory(name: str) -> int:
    """Bytes of the resident set now (VmRSS) or at its peak (VmHWM; getrusage would give that of the parent)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def test_target_logits_are_faster_and_smaller_than_full_ones() -> None:
    model, batch = _model(), _batch()
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    values = {}
    for _ in range(6):
        for name, loss in LOSSES.items():
            model.zero_grad()
            start = time.perf_counter()
            value = loss(model.train(False), batch)  # without dropout, so that the two losses can be compared
            value.backward()
            seconds[name].append(time.perf_counter() - start)
            values[name] = value.item()
    assert values["targets"] == pytest.approx(values["full"], rel=1e-4)
    faster = statistics.median(seconds["full"][1:]) / statistics.median(seconds["targets"][1:])
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name in LOSSES:
        queue = context.Queue()
        process = context.Process(target=_peak, args=(name, queue))
        process.start()
        peaks[name] = queue.get()
        process.join()
    smaller = peaks["targets"] / peaks["full"]
    size = sum(p.numel() for p in model.parameters())
    print(
        f"\ntraining step, {size / 1e6:.1f}M parameters, vocabulary 50257, {tuple(batch.tokens_BL.shape)} tokens, "
        f"{batch.targets} targets, {torch.get_num_threads()} threads: full logits "
        f"{statistics.median(seconds['full'][1:]):.2f} s and {peaks['full'] / 2**20:.0f} MiB, targets only "
        f"{statistics.median(seconds['targets'][1:]):.2f} s and {peaks['targets'] / 2**20:.0f} MiB: "
        f"{faster:.2f} times as fast, {smaller:.2f} of the memory"
    )
    assert faster >= 1.5
    assert smaller <= 0.6


@pytest.mark.parametrize("task", ["arithmetic", "shuffled_objects"])
def test_buckets_leave_little_padding(task: str) -> None:
    lengths = np.array([len((r.question + r.rationale).split()) for r in generate(task, split="train", size=4000)])
    shares = {}
    for bucket in (False, True):
        plan = plan_epoch(lengths, seed=0, epoch=0, batch_size=16, bucket=bucket)
        shares[bucket] = padding_share([micro for step in plan.steps for row in step for micro in row], lengths)
    print(
        f"\npadding, {task}, 4000 examples, batches of 16: {shares[False]:.1%} without buckets, {shares[True]:.1%} with"
    )
    assert shares[True] < shares[False] / 4
