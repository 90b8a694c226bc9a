"""The runs of a suite as processes: N at a time, stopped and resumed without loss."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import lock_descriptor
from tqdm import tqdm

from skipthinking.command_line.plan import Planned, Suite
from skipthinking.files import write_json
from skipthinking.report.run_folders import SUITE_FILE
from skipthinking.runs.slurm import requeue

__all__ = ["run_all"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_TAIL = 12  # lines of a failed run's log
_HELD = (
    "Another process is at it, maybe left by a suite that was killed: wait for it, or stop it, and start the same "
    "command again."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A run under way.

    Attributes:
        run: The run.
        process: Its process, which leads a process group.
        since: When it was started, in seconds.
    """

    run: Planned
    process: subprocess.Popen[bytes]
    since: float


@dataclass(slots=True)
class _Queue:
    """The runs of a suite by what has become of them.

    Attributes:
        waiting: Those that are not started.
        under_way: Those that run.
        failed: Why runs failed, by name.
        codes: Exit codes of those that ended.
        errors: Last lines of those that ended with exit code 2.
    """

    waiting: list[Planned]
    under_way: list[Running] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    codes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def next(self) -> Planned | None:
        """Takes the first waiting run whose needs are done; those that need a failed one fail, too."""
        for run in list(self.waiting):
            unfinished = {other.name for other in self.waiting} | {one.run.name for one in self.under_way}
            lost = [name for name in run.after if name in self.failed]
            if not lost and unfinished & {*run.after}:
                continue
            self.waiting.remove(run)
            if not lost:
                return run
            self.failed[run.name] = f"It needs {lost[0]}, which failed."
        return None

    def end(self, one: Running, tail: list[str]) -> None:
        """Takes note of a run that ended; after a second one with the same error and no success, the others fail.

        Args:
            one: The run.
            tail: Last lines of its log, if it failed.
        """
        self.codes.append(one.process.returncode)
        self.errors += tail[-1:] if one.process.returncode == 2 else []
        if 0 not in self.codes and len(self.errors) > len({*self.errors}):
            self.failed |= {run.name: "Not started: two runs failed with one error." for run in self.waiting}
            self.waiting.clear()


def run_all(
    plan: Suite, runs: Sequence[Planned], commands: Mapping[str, list[str]], at_once: int
) -> tuple[dict[str, str], bool]:
    """Runs what is left of a suite; a run waits for those that it needs.

    If two runs end with exit code 2 and the same error and none has succeeded, the fault is the suite's, such as a data
    file that is missing: no other run is started.

    Args:
        plan: The suite.
        runs: The runs that are not finished, each after those that it needs.
        commands: Words after ``python`` by name.
        at_once: Runs at a time.

    Returns:
        Why runs failed, by name, and whether Ctrl-C or SIGTERM stopped the rest.
    """
    queue, began = _Queue(list(runs)), time.monotonic()
    with _Stop(queue.under_way) as stop, tqdm(total=len(runs), unit="run", leave=False, disable=None) as bar:
        while queue.under_way or (queue.waiting and not stop.signals):
            while len(queue.under_way) < at_once and not stop.signals and (run := queue.next()):
                if started := _start(plan, run, commands[run.name], at_once):
                    stop.follow(started)
                else:
                    queue.failed[run.name] = _HELD
            for one in [one for one in queue.under_way if one.process.poll() is not None]:
                queue.under_way.remove(one)
                outcome = _close(plan, one, queue.failed, stopped=bool(stop.signals))
                tail = _tail(plan.runs_dir / one.run.name / "log.txt") if one.run.name in queue.failed else []
                queue.end(one, tail)
                left = len(queue.waiting) + len(queue.under_way)
                minutes = (time.monotonic() - began) / (len(runs) - left) * left / 60
                eta = f", about {minutes:.0f} min left" if left and not stop.signals else ""
                bar.update()
                bar.write("\n  | ".join([f"{len(runs) - left}/{len(runs)} {outcome}{eta}", *tail]))
                sys.stdout.flush()
            time.sleep(0.1)
            bar.refresh()
        stop.close(queue.codes)
    return queue.failed, bool(stop.signals)


class _Stop:
    """Passes signals on to the runs under way, which end their step and save it: SIGTERM and Ctrl-C as Ctrl-C.

    SIGUSR1 is SLURM's word that time is over. A run that gets it has the job requeued; :meth:`close` does where none
    could.
    """

    def __init__(self, under_way: list[Running]) -> None:
        self.under_way, self.signals, self.time_over = under_way, 0, False
        self._last = 0  # signal
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signals, self._last = self.signals + 1, number
        self.time_over |= number == signal.SIGUSR1
        for one in self.under_way:
            self._tell(one)

    def follow(self, one: Running) -> None:
        """Passes on signals to a run that was just started, including a signal that came meanwhile."""
        signals = self.signals
        self.under_way.append(one)
        if signals:
            self._tell(one)

    def _tell(self, one: Running) -> None:
        if one.process.poll() is None and self._last == signal.SIGUSR1:
            one.process.send_signal(self._last)  # to the first process alone; its workers would die of it
        elif one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGINT)

    def close(self, codes: Sequence[int]) -> None:
        """Requeues the job if no run did: SIGUSR1 kills a run that does not handle it yet."""
        if self.time_over and 130 not in codes:
            requeue()


def _start(plan: Suite, run: Planned, words: Sequence[str], at_once: int) -> Running | None:
    """Starts a run, unless another process holds it: the lock on its log lives as long as the run does."""
    folder = plan.runs_dir / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        if not lock_descriptor(log.fileno(), blocking=False):
            return None
        _note(plan, run, finished=False)
        log.write(f"$ {shlex.join(['python', *words])}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={"TQDM_MININTERVAL": "60", **os.environ, **_threads(at_once)},  # seconds: bars in a log
        )  # fmt: skip
    return Running(run=run, process=process, since=time.monotonic())


def _threads(at_once: int) -> dict[str, str]:
    """Shares the cores among runs."""
    if at_once == 1:
        return {}
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(given) if given.isdigit() else len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, cores // at_once))}


def _close(plan: Suite, one: Running, failed: dict[str, str], stopped: bool) -> str:
    """Records that a run is finished, or why not; returns a line about it."""
    name, code, folder = one.run.name, one.process.returncode, plan.runs_dir / one.run.name
    last = folder / ("summary.json" if one.run.evaluate else "checkpoints/last.ckpt")
    if code == 0 and last.exists():
        _note(plan, one.run, finished=True)
        return f"{name}: done in {time.monotonic() - one.since:.0f} s"
    if stopped:
        return f"{name}: stopped"
    failed[name] = f"exit code {code}, see {folder / 'log.txt'}"
    return f"{name}: failed with exit code {code}"


def _note(plan: Suite, run: Planned, finished: bool) -> None:
    about = {key: value for key, value in asdict(run).items() if key not in ("name", "words")}
    write_json(plan.runs_dir / run.name / SUITE_FILE, {"suite": plan.name, **about, "finished": finished})


def _tail(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return lines[-_TAIL:]
