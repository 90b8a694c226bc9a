"""Answers of the real student to GSM8K questions: continuous batching against transformers' generate, in one process.

ROWS questions in batches of AT_ONCE with at most TOKENS new tokens (environment; 60, 32 and 256 by default). The
untrained student rarely ends an answer, so the first line break ends it here. Both sides get the prompts longest first,
as evaluation does. Time is the CPU time of the process, or wall time on a GPU.
"""

from __future__ import annotations

import json
import os
import runpy
import time
from typing import Any

import pytest
import torch
from conftest import ROOT

from skipthinking.students import Pretrained
from skipthinking.students.completions import Completions
from skipthinking.tasks import generate

QUESTIONS = ROOT.parent / "shared" / "data" / "gsm8k" / "test.jsonl"
TOKENS, ROWS, AT_ONCE = (
    int(os.environ.get(name, size)) for name, size in (("TOKENS", 256), ("ROWS", 60), ("AT_ONCE", 32))
)


def _questions() -> list[str]:
    if QUESTIONS.exists():
        return [json.loads(line)["question"] for line in QUESTIONS.read_text().splitlines()[:ROWS]]
    return [row.question for row in generate("arithmetic", split="train", size=ROWS)]


@pytest.fixture(scope="module")
def student() -> Any:
    """SmolLM2-135M-Instruct in float32."""
    fetch = runpy.run_path(str(ROOT / "experiments" / "fetch_student.py"))["fetch"]
    student: Any = Pretrained(str(fetch()))
    student.prepare()
    student.build()
    ends = [id for token, id in student.tokenizer.get_vocab().items() if "Ċ" in token]  # line breaks
    student.model.generation_config.eos_token_id = [student.tokenizer.eos_token_id, *ends]
    return student.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def test_answers_equal_those_of_transformers_and_come_sooner(student: Any) -> None:
    prompts = [
        student.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt"
        ).input_ids[0]
        for question in _questions()
    ]
    prompts.sort(key=lambda prompt: -len(prompt))
    count = {"passes": 0, "rows": 0}

    def look(module: Any, args: Any, kwargs: Any) -> None:
        rows, width = kwargs["input_ids"].shape
        count["passes"] += 1
        count["rows"] += rows * (width == 1)

    handle = student.model.register_forward_pre_hook(look, with_kwargs=True)

    def timed(name: str, write: Any) -> tuple[list[list[int]], float]:
        count.update(passes=0, rows=0)
        clock = time.process_time if student.device.type == "cpu" else time.perf_counter  # other processes take no part
        start = clock()
        answers = write()
        seconds = clock() - start
        tokens = sum(map(len, answers))
        print(f"{name:>32}: {count['passes']:5} passes, {count['rows']:6} row-steps for {tokens:6} tokens, "
              f"{tokens / seconds:7.1f} tokens/s")  # fmt: skip
        return answers, seconds

    def plain() -> list[list[int]]:
        answers = []
        for at in range(0, len(prompts), AT_ONCE):
            queue = Completions(student, AT_ONCE, continuous=False)
            for place, prompt in enumerate(prompts[at : at + AT_ONCE]):
                queue.add(place, prompt, TOKENS)
            done = queue.run()
            answers += [done[place] for place in range(len(done))]
        return answers

    student.generate(prompts[:2], 2)  # a warm-up
    print(f"\n{len(prompts)} GSM8K questions, batches of {AT_ONCE}, at most {TOKENS} new tokens, {student.device}")
    ours, seconds = timed("continuous batching", lambda: student.generate(prompts, TOKENS, at_once=AT_ONCE))
    row_steps = count["rows"]
    batches = [ours[at : at + AT_ONCE] for at in range(0, len(ours), AT_ONCE)]
    wasteful = sum(len(batch) * (max(map(len, batch)) - 1) for batch in batches)  # each row until the longest one ends
    print(
        f"{'expected of transformers':>32}: {wasteful} row-steps, {wasteful / row_steps:.2f} times as many", flush=True
    )
    theirs, their_seconds = timed("transformers' generate", plain)
    handle.remove()
    print(f"{their_seconds / seconds:.2f} times as fast, {count['rows'] / row_steps:.2f} times fewer row-steps")
    assert count["rows"] == wasteful
    assert row_steps <= sum(map(len, ours))
    assert ours == theirs
    assert their_seconds >= 1.2 * seconds
