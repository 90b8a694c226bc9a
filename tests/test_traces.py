"""Traces of reasoning models, from the file to the run: what is read, trained on and reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipthinking.annotate.annotator import Notes
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import BlankLines
from skipthinking.methods import LongCoT
from skipthinking.records import Example
from skipthinking.students import FromScratch

Run = Callable[..., int]
THOUGHTS = "One and one.\n\nThat makes 2.\n\nWait, is it?\n\nYes."
GOOD = {"prompt": "1 + 1?", "completion": f"<think>\n{THOUGHTS}\n</think>\n\nWe add.\n\nSo it is $\\boxed{{2}}$."}


def _words(path: Path, *rows: dict[str, Any], **settings: Any) -> list[Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = [{"class_path": "Files", "init_args": {"path": str(path), "task": "gsm8k", **settings}}]
    return ["--model", "LongCoT", "--model.cutter", "cutters.ByPlace", "--model.sft_epochs", 1, "--data.splitter",
            "BlankLines", "--data.train", json.dumps(source), "--data.val_size", 0, "--trainer.max_epochs", 1,
            "--evaluate", "false"]  # fmt: skip


def test_conclusions_are_encoded_after_the_last_step_for_methods_that_need_them(tmp_path: Path) -> None:
    student: Any = FromScratch("llama", {}, vocab_size=600)
    student.prepare([THOUGHTS, "We add. So it is. Therefore, the answer is 2."])
    row = Example(id="a", question="1 + 1?", rationale=THOUGHTS, answer="2", task="gsm8k", conclusion="We add.\n\nOk.")
    settings = {"tokenizer": student.tokenizer, "template": Plain(), "splitter": BlankLines()}
    (with_, without) = (next(iter(Codec(**settings, encodes_conclusion=on).encode([row]))) for on in (True, False))
    decode = student.tokenizer.decode
    assert decode(without.tokens[:-1]) == f" {THOUGHTS} Therefore, the answer is 2."
    assert decode(with_.tokens[:-1]) == f" {THOUGHTS}\n\nWe add.\n\nOk. Therefore, the answer is 2."
    assert with_.steps == without.steps  # a conclusion is not a step: it is never pruned
    assert len(with_.steps) == 4
    assert decode(with_.tokens[with_.steps[-1][1] : with_.answer[0]]).strip() == "We add.\n\nOk."
    method = LongCoT(student=student, open_thinking=" <think>", close_thinking="\n</think>")
    method.connect(Codec(**settings, encodes_conclusion=True), AverageChunks())
    (pruned,) = method.make_instances(with_, Notes(values={"cuts": 2}))
    assert decode(pruned.tokens[:-1]) == (
        " <think> One and one.\n\nThat makes 2.\n</think>\n\nWe add.\n\nOk. Therefore, the answer is 2."
    )


def test_a_file_of_traces_is_trained_on(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{**GOOD, "prompt": f"{n} + {n}?"} for n in range(6)]
    assert run("fit", *_words(tmp_path / "t.jsonl", *rows), "--model.warmup_epochs", 1, "--trainer.max_epochs", 2) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "format prompt_completion (detected)" in out
    assert "Yes. We add. So it is $\\boxed{2}$. Therefore, the answer is 2.<|end|>»" in out
    assert "cut: 3 of 6 traces shortened (50.0%), 1 kept in full (16.7%), 2 dropped" in out


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        ("<think>One and one. The answer is 2.", "thoughts that end in </think>"),
        ("<think>One and one.</think>I am\nnot sure.", "<think>rationale</think>X"),
        ("<think>One and one.</think>", "<think>rationale</think>X"),
        ("<think>\n\n</think>2", "at least one step"),
    ],
    ids=["no end", "no answer", "nothing after", "empty"],
)
def test_a_broken_trace_is_named_or_left_out_and_counted(
    completion: str, message: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**GOOD, "prompt": "2 + 0?"}, GOOD, {"prompt": "3 - 1?", "completion": completion}]
    path = tmp_path / "t.jsonl"
    assert run("fit", *_words(path, *rows)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{path}:3" in error or message == "at least one step"
    assert not (tmp_path / "tiny").exists() or message == "at least one step"
    words = [*_words(path, *rows, bad_rows="leave_out"), "--data.without_steps", "leave_out", "--run", "less"]
    assert run("fit", *words) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 row without a readable answer left out" in out or "dropped 1 (33.3%): no steps" in out


def test_a_trace_longer_than_the_context_is_dropped_and_counted(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"prompt": "2 * 1?", "completion": "<think>" + "Hm.\n\n" * 400 + "Two.</think>2"}
    assert run("fit", *_words(tmp_path / "t.jsonl", {**GOOD, "prompt": "2 + 0?"}, GOOD, long)) == 0
    assert "kept 2 of 3 training examples; dropped 1 (33.3%): longer than 512 tokens" in capsys.readouterr().out


def test_traces_of_ten_thousand_tokens_are_pruned_and_trained_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The student itself judges the prefixes, and no padded batch is larger than the longest pair."""
    paragraph = " ".join(str(n) for n in range(500, 570)) + "\n\n"
    rows = [{"prompt": f"{n}?", "completion": f"<think>{paragraph * steps}So.</think>{n}"}
            for n, steps in enumerate([1, 2, 90, 1, 2])]  # fmt: skip
    widths: list[tuple[int, int]] = []
    step = LongCoT.training_step

    def spy(self: Any, batch: Any, place: int) -> Any:
        widths.append(tuple(batch.tokens_BL.shape))
        return step(self, batch, place)

    monkeypatch.setattr(LongCoT, "training_step", spy)
    config = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
              "max_position_embeddings": 20000}  # fmt: skip
    words = [*_words(tmp_path / "t.jsonl", *rows), "--model.cutter", "cutters.Indulgent",
             "--model.student.architecture", "llama", "--model.student.config", json.dumps(config),
             "--data.batch_tokens", 3000, "--data.batch_size", 8, "--model.sft_epochs", 1, "--model.warmup_epochs", 1,
             "--trainer.max_epochs", 3]  # fmt: skip
    assert run("fit", *words) == 0
    assert "cut: 5 of 5 traces shortened" in " ".join(capsys.readouterr().out.split())
    longest = max(width for _, width in widths)
    assert longest > 10_000
    assert all(rows * width <= max(3000, 2 * longest) for rows, width in widths)
    assert (2, longest) in widths  # the pair of the longest trace, alone in its batch
    assert (1, longest) in widths  # and its full trace in the warm-up
    assert (4, longest) not in widths
