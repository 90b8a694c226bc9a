"""The command ``teach``: requests rationales from a teacher and writes those with a correct answer."""

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
    """Requests rationales from a teacher and writes a file that ``fit`` trains on.

    Every completion is appended to a .records file beside the output as it arrives. After a stop or kill the same
    command resumes from there and repeats no request; if every completion is recorded, it only selects again.

    Args:
        questions: Source of questions and answers: Files, Hub or Generated.
        client: The teacher: an Endpoint or a Local model.
        out: Rationale file to write, .jsonl.
        prompt: The prompt: ZeroShot by default, FewShot, Rationalise or Rewrite.
        samples: Completions per question.
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Maximum new tokens per completion.
        seed: Another seed gives other samples.
        keep: Which rationales are kept: the Shortest correct one by default, Correct, Diverse or Everything.
        lenient: Whether an answer without the task's answer phrase counts.
        stop_after: Number of consecutive failures after which the run stops.
        retry_failed: Repeat the requests that failed, and only those.
        dry_run: Show the first prompt and the number of requests; send nothing.

    Raises:
        UserError: A setting makes no sense, the teacher is out of reach, or nothing can be kept.
    """
    if not out.endswith(".jsonl") or Path(out).is_dir():
        raise UserError(f"Expected a file of JSON lines, got --out {out!r}. Name it .jsonl.")
    if isinstance(questions, Files) and Path(out).resolve() in [path.resolve() for path in questions.paths()]:
        raise UserError(f"Expected an output file other than the questions, got --out {out!r}. Give another --out.")
    if stop_after < 1:
        raise UserError(
            f"Expected stop_after of at least 1, got stop_after={stop_after}. Set stop_after: 10, for example."
        )
    sampling = Sampling(samples=samples, temperature=temperature, max_tokens=max_tokens, seed=seed)
    loaded = questions.load()
    print(f"questions: {loaded.description}", file=sys.stderr)
    examples = [example for example in loaded.examples if prompt.suits(example)]
    unfit = len(loaded.examples) - len(examples)
    if not examples:
        raise UserError(
            f"Expected questions with rationales for {type(prompt).__name__}, got {unfit} without a rationale. Use a "
            "source that has rationales, or another prompt."
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
        retry_failed=retry_failed,
        out=Path(out),
    )
    if dry_run:
        job.show()
        return
    try:
        job.run()
    except KeyboardInterrupt:
        print("stopped; run the same command to resume", file=sys.stderr)
        raise SystemExit(130) from None
