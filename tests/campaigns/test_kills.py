"""A campaign: 50 runs are stopped at random moments, go on, and end with the bits of a run that nothing stopped.

    make campaign                         # about 15 minutes on two cores
    KILLS=200 SEED=1 make campaign

Signals are SIGKILL, SIGTERM and SIGINT. The moment is uniform over the run, from the first line that it prints, so that
stops fall into searches, steps, checkpoints (after every step), validation, tests and the export.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
KILLS, SEED = int(os.environ.get("KILLS", "50")), int(os.environ.get("SEED", "0"))
COINS = "[{class_path: Generated, init_args: {task: coin_flip, split: train, size: 64}}]"
LONG = "[{class_path: Generated, init_args: {task: long_arithmetic, split: train, size: 32}}]"
LONG_TEST = "{long: {class_path: Generated, init_args: {task: long_arithmetic, split: test, size: 5}}}"
METHODS: dict[str, list[str]] = {
    "FullCoT": ["--model", "FullCoT", "--data.train", COINS, "--trainer.max_epochs", "8"],
    "STT": [
        "--model", "STT", "--model.warmup_epochs", "2", "--model.gap_epochs", "1", "--data.train", COINS,
        "--data.stage_sampling", "loss", "--trainer.max_epochs", "6",
    ],
    "KPOD": ["--model", "KPOD", "--model.weighter_epochs", "2", "--data.train", COINS, "--trainer.max_epochs", "5"],
    "LongCoT": [
        "--model", "LongCoT", "--model.cutter", "cutters.ByPlace", "--model.warmup_epochs", "2",
        "--model.sft_epochs", "2", "--trainer.max_epochs", "6",
        "--data.splitter", "BlankLines", "--data.train", LONG, "--data.test", LONG_TEST,
        "--model.student.vocab_size", "800",
    ],
}  # fmt: skip
SIGNALS = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}


def _start(method: str, folder: Path, resume: bool, workers: int = 0) -> subprocess.Popen[str]:
    words = [
        "fit", "--config", "tests/conf/tiny.yaml", "--runs_dir", str(folder), "--checkpoint_every", "1",
        *METHODS[method], "--data.num_workers", str(workers), *(["--ckpt_path", "last"] if resume else []),
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    log = (folder / "log").open("a")
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "skipthinking", *words], cwd=ROOT, env=env, text=True, stdout=log, stderr=log
    )


def _until_it_speaks(process: subprocess.Popen[str], log: Path, size: int) -> None:
    while process.poll() is None and log.stat().st_size == size:
        time.sleep(0.02)


def _moment(folder: Path) -> str:
    """What a stopped run was doing, as far as its files tell."""
    log = (folder / "log").read_text(errors="replace")
    saved = (folder / "tiny" / "checkpoints" / "last.ckpt").exists()
    if (folder / "tiny" / "predictions.jsonl").exists():
        return "export"
    if any((folder / "tiny").rglob("*.partial")):
        return "a file half written"
    return "training or testing" if saved else "before the first checkpoint" if log else "start"


def _end(folder: Path) -> tuple[Any, ...]:
    """All that must be the same: weights, moments, losses by step, answers, token counts."""
    run = folder / "tiny"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    with (run / "metrics.csv").open(newline="") as lines:
        losses = [(row["step"], row["epoch"], row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]
    summary = json.loads((run / "summary.json").read_text())
    moments = [value for each in state["optimizer_states"][0]["state"].values() for value in each.values()]
    counts = {name: summary[name] for name in ("steps", "target_tokens", "context_tokens", "test")}
    return list(state["state_dict"].values()) + moments, losses, (run / "predictions.jsonl").read_text(), counts


@pytest.mark.parametrize("method", METHODS)
def test_runs_stopped_at_random_moments_end_with_the_same_bits(method: str, tmp_path: Path) -> None:
    rng = random.Random(f"{SEED}/{method}")
    oracle = tmp_path / "oracle"
    oracle.mkdir()
    (oracle / "log").touch()
    process = _start(method, oracle, resume=False)
    _until_it_speaks(process, oracle / "log", 0)
    begun = time.monotonic()
    assert process.wait() == 0, (oracle / "log").read_text()
    length = time.monotonic() - begun
    tensors, losses, answers, counts = _end(oracle)
    assert [int(step) for step, *_ in losses] == list(range(len(losses)))

    kills = -(-KILLS // len(METHODS))
    moments: Counter[str] = Counter()
    signals: Counter[str] = Counter()
    finished = 0
    while signals.total() < kills:
        folder = tmp_path / f"run{finished}"
        folder.mkdir()
        log = folder / "log"
        log.touch()
        resume = False
        while True:
            process = _start(method, folder, resume, workers=rng.choice([0, 0, 2]))
            _until_it_speaks(process, log, log.stat().st_size)
            number = rng.choice(list(SIGNALS))
            if signals.total() < kills:
                time.sleep(rng.uniform(0, length))
                process.send_signal(number)
                code = process.wait()
            else:
                code = process.wait()
            resume = True
            if code == 0:
                break
            assert code in SIGNALS[number], log.read_text()
            signals[signal.Signals(number).name] += 1
            moments[_moment(folder)] += 1
        found, steps, predictions, summary = _end(folder)
        assert len(found) == len(tensors)
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found, tensors, strict=True))
        assert (steps, predictions, summary) == (losses, answers, counts)
        finished += 1
    print(
        f"\n{method}: {signals.total()} stops ({dict(signals)}; {dict(moments)}), {finished} runs of {length:.0f} s "
        "ended with the same bits"
    )
