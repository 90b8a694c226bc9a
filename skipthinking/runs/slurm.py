"""Requeues a SLURM job."""

from __future__ import annotations

import os
import subprocess
import sys

__all__ = ["requeue"]


def requeue() -> None:
    """Puts this job, or this task of an array job, back into SLURM's queue; does nothing outside of a job."""
    job, array = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
        message = (
            f"job {job} is queued again" if code == 0 else f"job {job} could not be queued again: exit code {code}"
        )
    except OSError as error:
        message = f"job {job} could not be queued again: {error}"
    print(message, file=sys.stderr, flush=True)
