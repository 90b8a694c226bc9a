"""Runs with ``trainer.fast_dev_run``: everything happens, on a few batches, and nothing is left of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from skipthinking.runs.folder import last_checkpoint

__all__ = ["discard", "scratch"]

_NAME = ".fast_dev_run"
_OPEN: list[tuple[Path, list[Path]]] = []  # folders to remove, with the parents that exist only for them


def scratch(command: str, settings: Any) -> Path | None:
    """The folder that stands in for the run folder of a fast_dev_run; None for a real run.

    ``fit`` moves to it completely, with the runs that it starts. The other commands read the run folder and write here.

    Args:
        command: The command.
        settings: Its namespace, in which ``runs_dir`` and ``ckpt_path`` of ``fit`` are changed.
    """
    if not settings.trainer.fast_dev_run:
        return None
    runs = Path(settings.runs_dir)
    if _NAME in runs.parts:  # a run that another one starts
        return runs / settings.run
    folder = runs / _NAME / settings.run
    _OPEN.append((folder, [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]))
    if command == "fit":
        if settings.ckpt_path == "last":
            last = last_checkpoint(runs / settings.run)
            settings.ckpt_path = str(last) if last.exists() else None
        settings.runs_dir = str(folder.parent)
    return folder


def discard(first_rank: bool) -> None:
    """Removes what the fast_dev_runs of this process wrote, and says so."""
    while _OPEN:
        folder, parents = _OPEN.pop()
        if first_rank:
            if folder.exists():
                print("fast_dev_run: nothing is kept", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            for path in parents:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
