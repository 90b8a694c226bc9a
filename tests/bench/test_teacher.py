"""10,000 questions to a loopback server through the openai client do not make the process grow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "teacher"))
from loopback import Loopback, arguments, rows

pytest.importorskip("openai")

COUNT = 10_000


def _resident(process: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_ten_thousand_questions_take_no_more_memory_than_a_thousand(tmp_path: Path) -> None:
    with Loopback() as server:
        server.remember = False
        words = [*arguments(tmp_path, server.url, COUNT), "--client.concurrency", "32"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        start = time.monotonic()
        command = [sys.executable, "-m", "skipthinking", "teach", *words]
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        memory: dict[int, float] = {}
        while process.poll() is None and server.count < COUNT:
            thousands = server.count // 1000
            if thousands not in memory and thousands:
                memory[thousands] = size = _resident(process.pid)
                print(f"{thousands * 1000:6d} requests, {size:6.1f} MiB, {time.monotonic() - start:5.0f} s")
            time.sleep(0.02)
        assert process.wait(timeout=120) == 0
    assert server.count == COUNT
    assert len(rows(tmp_path / "out.jsonl")) == COUNT
    assert memory[9] - memory[1] < 4  # MiB; the records take 2
