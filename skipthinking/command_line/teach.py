"""Asks a teacher for rationales, and writes those that its answers bear out."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import lazy_instance

from skipthinking.data.importing import count
from skipthinking.data.sources import Files, Source
from skipthinking.records import UserError
from skipthinking.teacher.choosing import Keep, Shortest
from skipthinking.teacher.client import Client, Sampling
from skipthinking.teacher.endpoint import Endpoint
from skipthinking.teacher.job import Job
from skipthinking.teacher.local import Local
from skipthinking.teacher.prompts import Prompt, ZeroShot

_PROMPT, _KEEP = lazy_instance(ZeroShot), lazy_instance(Shortest)

__all__ = ["Endpoint", "Local", "teach"]


def teach(
    questions: Source,
    client: Client,
    out: str,
    prompt: Prompt = _PROMPT,
    samples: int = 1,
    temperature: float = 0.7,
    max_tokens: int = 512,
    seed: int = 0,
    keep: Keep = _KEEP,
    lenient: bool = False,
    stop_after: int = 10,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> None:
    """Asks a teacher for rationales of questions, and writes a file that ``fit`` trains on.

    Every completion is written to a .records file beside it as it comes. The same command goes on from there after a
    stop or kill, asks nothing twice, and only filters where all has been asked.

    Args:
        questions: Where questions and answers come from: Files, Hub or Generated.
        client: Whom to ask: an Endpoint, or a Local model.
        out: Rationale file to write, .jsonl.
        prompt: What is asked: ZeroShot by default, FewShot, Rationalise or Rewrite.
        samples: Completions per question.
        temperature: 0 is greedy.
        max_tokens: Most new tokens of a completion.
        seed: Another seed gives other samples.
        keep: Which rationales are kept: the Shortest correct one by default, Correct, Diverse or Everything.
        lenient: Whether an answer counts that is stated without the task's answer phrase.
        stop_after: Failures in a row that end the run.
        retry_failed: Ask again what has failed, and only that.
        dry_run: Show the first prompt and the number of requests; ask nobody.

    Raises:
        UserError: A setting makes no sense, the teacher is out of reach, or nothing can be kept.
    """
    if not out.endswith(".jsonl") or Path(out).is_dir():
        raise UserError(f"Expected a file of JSON lines, got --out {out!r}. Name it .jsonl.")
    if isinstance(questions, Files) and Path(out).resolve() in [path.resolve() for path in questions.paths()]:
        raise UserError(f"Expected questions from other files than --out {out!r} itself. Give another --out.")
    if stop_after < 1:
        raise UserError(f"Expected at least 1 failure that ends the run, got stop_after={stop_after}.")
    sampling = Sampling(samples=samples, temperature=temperature, max_tokens=max_tokens, seed=seed)
    loaded = questions.load()
    print(f"questions: {loaded.description}", file=sys.stderr)
    examples = [example for example in loaded.examples if prompt.suits(example)]
    unfit = len(loaded.examples) - len(examples)
    if not examples:
        raise UserError(
            f"Expected questions that {type(prompt).__name__} can show, got {unfit} without a rationale. Use a source "
            "that has rationales, or another prompt."
        )
    if unfit:
        print(f"left out {count(unfit, 'question')} without a rationale", file=sys.stderr)
    job = Job(
        examples=examples,
        client=client,
        prompt=prompt,
        sampling=sampling,
        keep=keep,
        lenient=lenient,
        stop_after=stop_after,
        out=Path(out),
    )
    if dry_run:
        job.show(retry_failed)
        return
    try:
        job.run(retry_failed)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
