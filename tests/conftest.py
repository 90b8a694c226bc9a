"""Fixtures that many tests share: tiny runs through the command line, in this process or in a separate one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "conf" / "tiny.yaml"

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Limits torch to one thread: on tiny tensors a second thread costs more time than it saves."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """Runs ``python -m skipthinking`` in this process on tests/conf/tiny.yaml, with runs under tmp_path."""
    from skipthinking.__main__ import main

    def call(command: str, *words: Any, config: Path = TINY) -> int:
        try:
            return main([command, "--config", str(config), "--runs_dir", str(tmp_path), *map(str, words)])
        except SystemExit as stop:
            return int(stop.code or 0)

    return call


@pytest.fixture
def spawn(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python -m skipthinking`` in a separate process on tests/conf/tiny.yaml, with runs under tmp_path."""

    def call(command: str, *words: Any, config: Path = TINY) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "skipthinking", command, "--config", str(config), "--runs_dir", str(tmp_path)]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        return subprocess.run([*line, *map(str, words)], env=env, capture_output=True, text=True, timeout=240)

    return call
