"""The command ``suite``: runs methods x tasks x seeds as far as they are not finished, then compares them."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
import os
import shlex
import sys
from pathlib import Path

from skipthinking.command_line.plan import Planned, Suite, read_suite
from skipthinking.command_line.processes import run_all
from skipthinking.files import write_text
from skipthinking.records import UserError
from skipthinking.report.comparing import compare_runs
from skipthinking.report.run_folders import SUITE_FILE
from skipthinking.report.tables import FORMATS

__all__ = ["suite"]


def suite(
    config: str,
    only: list[str] | str | None = None,
    jobs: int = 1,
    runs_dir: str | None = None,
    dry_run: bool = False,
    slurm: bool = False,
) -> int:
    """Runs a suite: every method on every task with every seed, one run after the other, then compares them.

    Finished runs are skipped and interrupted ones resumed. Ctrl-C stops; the same command resumes.

    Args:
        config: The suite's YAML file.
        only: Names of runs (TASK-METHOD-SEED), with * and ?; the runs that they need are run too.
        jobs: Runs at a time; they share the processor's cores.
        runs_dir: Folder of run folders, in place of the file's own.
        dry_run: Print the commands instead.
        slurm: Print a script that submits the runs as SLURM arrays instead.

    Returns:
        0; 1 if a run failed; 130 after Ctrl-C.

    Raises:
        UserError: The file is wrong, ``fit`` does not take the words of a run, or a folder holds a run with other
            settings.
    """
    if jobs < 1:
        raise UserError(f"Expected at least 1 run at a time, got --jobs {jobs}. Use --jobs 1, for example.")
    plan = read_suite(Path(config), runs_dir)
    chosen = _chosen(plan, [only] if isinstance(only, str) else only)
    left = [run for run in chosen if not _finished(plan, run)]
    _check_words(plan, left)
    if slurm:
        print(_slurm_script(plan, left), end="")
        return 0
    if dry_run:
        for run in chosen:
            print(shlex.join(["python", *command(run)]) if run in left else f"# {run.name} is finished")
        return 0
    failed, stopped = run_all(plan, left, {run.name: command(run) for run in left}, jobs)
    if "SLURM_ARRAY_TASK_ID" not in os.environ:  # there the last job compares
        _compare(plan)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if stopped:
        print("stopped. Go on: the same command.", file=sys.stderr)
    return 130 if stopped else int(bool(failed))


def command(run: Planned) -> list[str]:
    """The words after ``python``, the same for a first start and for a resume."""
    quiet = ["--trainer.enable_progress_bar", "false"]
    return ["-m", "skipthinking", "fit", *run.words, *quiet, "--ckpt_path", "last"]


def _chosen(plan: Suite, only: list[str] | None) -> list[Planned]:
    """The runs that match the patterns and those that they need, in order."""
    patterns = ["*"] if only is None else only
    names = {name for name in plan.runs for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
    if not names:
        raise UserError(f"Expected some of {', '.join(plan.runs)}, got --only {' '.join(patterns)}. Fix it.")
    for run in reversed(list(plan.runs.values())):
        if run.name in names:
            names.update(run.after)
    return [run for run in plan.runs.values() if run.name in names]


def _finished(plan: Suite, run: Planned) -> bool:
    """Whether a run is done.

    Raises:
        UserError: Its folder holds another run.
    """
    folder = plan.runs_dir / run.name
    if not any((folder / name).exists() for name in ("checkpoints", "metrics.csv", "summary.json")):
        return False  # nothing that could be lost
    path = folder / SUITE_FILE
    try:
        note = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        note = {}  # not ours to write over
    if not isinstance(note, dict) or note.get("settings") != run.settings:
        raise UserError(
            f"Expected {folder} to hold a run with the settings of {plan.path}, got one with others. Remove the folder "
            "to run it again, or choose another --runs_dir."
        )
    return bool(note.get("finished")) and ((folder / "summary.json").exists() or not run.evaluate)


def _check_words(plan: Suite, runs: list[Planned]) -> None:
    """Parses the words of every task and every method as ``fit`` will, before the first run starts.

    Each is parsed with one of the others: 28 runs stand for the 100 pairs of experiments/suites/real.yaml. Words that
    are wrong in one pair alone end its run when it starts.

    Raises:
        UserError: ``fit`` refuses them.
    """
    parsed: set[tuple[str, str]] = set()
    for run in runs:
        parts = {("task", run.task), ("method", run.method)}
        if parts <= parsed:
            continue
        parsed |= parts
        from skipthinking.command_line.cli import main as train

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            try:
                code: object = train(["fit", *run.words, "--print_config"])
            except SystemExit as stop:
                code = stop.code
        if code:
            reason = errors.getvalue().strip().rpartition("\n")[2].removeprefix("error: ")
            raise UserError(f"Expected words that fit takes, got those of {run.name}: {reason} Fix {plan.path}.")


def _compare(plan: Suite) -> None:
    """Writes comparison.csv and comparison.md into the runs folder, and prints the table."""
    tested = [run for run in plan.runs.values() if run.evaluate]
    done = []
    for run in tested:
        try:
            done += [run] if _finished(plan, run) else []
        except UserError as error:  # not chosen, and changed since
            print(f"left out: {error}", file=sys.stderr)
    if not done:
        return
    baseline = plan.baseline if any(run.method == plan.baseline for run in done) else None
    comparison = compare_runs([str(plan.runs_dir / run.name) for run in done], baseline)
    for folder, reason in comparison.left_out.items():
        print(f"left out: {folder}: {reason}", file=sys.stderr)
    for name in ("csv", "markdown"):
        write_text(plan.runs_dir / f"comparison.{'csv' if name == 'csv' else 'md'}", FORMATS[name](comparison))
    print(f"\n{FORMATS['table'](comparison)}\n{len(done)} of {len(tested)} runs; "
          f"also in {plan.runs_dir / 'comparison.md'} and .csv")  # fmt: skip


_SLURM = """#!/bin/bash
# Suite {name}: {count} runs as SLURM arrays, one task a run. Runs that need others wait, and the comparison for all.
# Submit: bash THIS_FILE [options for sbatch, such as --partition gpu --gres gpu:1 --time 4:00:00]
# A task that is requeued, and a suite that is submitted again, go on where they were.
set -euo pipefail
options=("$@") job=
mkdir -p {runs_dir}
submit() {{
  job=$(sbatch --parsable "${{options[@]}}" ${{job:+--dependency=afterany:$job}} --job-name {name} --requeue \\
    --open-mode append --signal B:USR1@180 "$@")
}}
level() {{
  submit --array "0-$(($# - 1))" --output {runs_dir}/slurm-%A_%a.txt \\
    --wrap "set -- $*; shift \\$SLURM_ARRAY_TASK_ID; exec {again} --only \\$1"
}}
{levels}
submit --output {runs_dir}/slurm-%j.txt \\
  --wrap "exec python -m skipthinking compare {runs_dir}/*{baseline} --out {runs_dir}/comparison.md"
"""


def _slurm_script(plan: Suite, left: list[Planned]) -> str:
    depth: dict[str, int] = {}
    for run in left:
        depth[run.name] = 1 + max((depth.get(name, -1) for name in run.after), default=-1)
    levels = [[name for name in depth if depth[name] == level] for level in sorted(set(depth.values()))]
    folder = shlex.quote(str(plan.runs_dir))
    return _SLURM.format(
        name=shlex.quote(plan.name),
        count=len(left),
        runs_dir=folder,
        again=f"python -m skipthinking suite --config {shlex.quote(str(plan.path))} --runs_dir {folder}",
        levels="\n".join(" \\\n  ".join(["level", *names]) for names in levels),
        baseline=f" --baseline {plan.baseline}" if plan.baseline else "",
    )
