"""The scripts under experiments/cluster, run with stand-ins for SLURM's commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY

CLUSTER = ROOT / "experiments" / "cluster"


def _command(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_scripts_are_bash_and_say_how_to_be_called(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert f"experiments/cluster/{path.name}" in text
    assert subprocess.run(["bash", path], capture_output=True).returncode != 0  # no word, no work
    for name in re.findall(r"experiments/[\w/]+\.(?:yaml|sh|sbatch)", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("how", ["requeue", "terminate"])
def test_a_job_of_two_tasks_stops_and_goes_on_where_it_was(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning takes this for SLURM; one of the two tasks gets the signal, both stop at the same step.

    SLURM itself queues a job again whose nodes it takes away.
    """
    _command(tmp_path, "python", f'exec {sys.executable} "$@"')
    _command(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/asked')
    _command(tmp_path, "srun", """[ "$1 $2" = "--cpus-per-task 1" ] && shift 2
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & jobs[$rank]=$!
done
code=0
for job in ${jobs[@]}; do wait $job || code=$?; done
exit $code""")  # fmt: skip
    slurm = {"JOB_ID": 42, "JOB_NAME": "fit", "NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "NODEID": 0,
             "NODELIST": "localhost"}  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = ["--trainer.callbacks+=interruptions.Interrupt", "--trainer.callbacks.how", how,
            "--trainer.callbacks.step", "2", "--trainer.callbacks.rank", "1"]  # fmt: skip
    line = ["bash", CLUSTER / "fit.sbatch", TINY, "--runs_dir", tmp_path, "--trainer.max_epochs", "1", *told]

    first = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert first.returncode == 130, first.stderr
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 42\n" if how == "requeue" else "")
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert not list((tmp_path / "tiny").glob("hpc*"))  # Lightning's own handler saves these, wherever the step is

    second = subprocess.run(line, capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stderr
    assert "resumed at step 2" in second.stdout
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["steps"] == 3
    assert len((tmp_path / "tiny" / "predictions.jsonl").read_text().splitlines()) == 5
