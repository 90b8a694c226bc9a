"""lm-evaluation-harness and our ``test`` grade every answer of an exported student alike."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from skipthinking.__main__ import main
from skipthinking.data.encoding import Plain
from skipthinking.tasks import get_task

pytest.importorskip("lm_eval", reason="needs the extra `harness`")
TASKS = ROOT / "experiments" / "harness"
STUDENT = ["--model", "CWT", "--model.student.architecture", "llama", "--model.student.config",
           "{hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4}",
           "--model.optimizer.lr", 3e-3, "--model.scheduler.decay", "cosine",
           "--model.max_new_tokens", 250, "--data.stage_sampling", "all"]  # fmt: skip


def _commands(path: Path) -> list[list[str]]:
    """The commands in the header of a file, without the interpreter."""
    lines = [line[4:] for line in path.read_text().splitlines() if line.startswith("#   ")]
    return [shlex.split(line.removeprefix("python -m skipthinking ")) for line in lines]


def _stories(**settings: Any) -> str:
    about = {"path": "data/arithmetic_test.jsonl", "task": "arithmetic", **settings}
    return json.dumps({"class_path": "Files", "init_args": about})


def test_the_harness_agrees_with_test_on_every_answer(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student memorizes half of the stories, so that some answers are right and some wrong."""
    monkeypatch.chdir(tmp_path)
    generate, score = _commands(TASKS / "arithmetic.yaml")
    generate[generate.index("--size") + 1] = "24"
    assert main([*generate, "--levels", "[1,1]"]) == 0
    words = ["--run", "quickstart", "--data.val_size", 0, "--trainer.max_epochs", 120, "--data.batch_size", 4]
    assert run("fit", *STUDENT, *words, "--data.train", f"[{_stories(limit=12)}]", "--data.test", "{}") == 0
    config = str(tmp_path / "quickstart" / "config.yaml")
    assert main(["test", "--config", config, "--data.test", f"{{arithmetic: {_stories()}}}"]) == 0
    ours = [json.loads(line) for line in (tmp_path / "quickstart" / "predictions.jsonl").read_text().splitlines()]
    right = sum(row["correct"] for row in ours)
    assert 8 <= right < 24

    (tmp_path / "runs").symlink_to(tmp_path)
    score[score.index("--include_path") + 1] = str(TASKS)
    env = {**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *score, "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]["skipthinking_arithmetic"]
    assert scores["exact_match,strict"] == pytest.approx(right / 24)
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    theirs = {row["doc"]["id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    assert theirs.keys() == {row["id"] for row in ours}
    for row in ours:
        found = theirs[row["id"]]
        assert found["resps"][0][0].strip() == row["completion"]
        assert (found["filtered_resps"][0] if row["extracted"] else None) == row["extracted"]
        assert bool(found["exact_match"]) == row["correct"]


def test_gsm8k_has_the_prompt_and_grader_of_our_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    rows = tmp_path / "openai" / "gsm8k" / "main"
    rows.mkdir(parents=True)
    row = {"question": "Ann has 3,000 nuts and eats 10. How many are left?", "answer": "3,000 - 10 = 2,990\n#### 2,990"}
    (rows / "test.jsonl").write_text(json.dumps(row) + "\n")
    about = "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: test, path: main/test.jsonl}\n---\n"
    (rows.parent / "README.md").write_text(about)
    monkeypatch.chdir(tmp_path)
    task = TaskManager(include_path=str(TASKS), include_defaults=False).load(["skipthinking_gsm8k"])["tasks"][
        "skipthinking_gsm8k"
    ]
    (doc,) = task.test_docs()
    benchmark = get_task("gsm8k")
    assert task.doc_to_text(doc) == Plain().render(benchmark.ask(row["question"]), None)
    assert benchmark.grader.read(task.doc_to_target(doc)) == "2990"
    (regex, _) = task._filters[0].filters
    text = "[2] It is 7. " + benchmark.answer_sentence("2990")
    completions = [[text], ["The answer is: 2,990."], ["none"], ["the answer is 1. The answer is -2.5."]]
    assert [found[0] for found in regex().apply(completions, [doc] * 4)] == ["2990", "2,990", "[invalid]", "-2.5"]
