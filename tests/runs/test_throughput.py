"""The speed of training: counts against those of the log, model FLOPs against PyTorch's own counter."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from skipthinking.runs.throughput import flops_per_step, peak_flops, short_time
from skipthinking.students import FromScratch, LoRA

Run = Callable[..., int]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return [*csv.DictReader(lines)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        # TFLOPs in bfloat16, TF32 and float32, of NVIDIA's data sheets; with sparsity they would be twice as much.
        ("NVIDIA H200", (989, 494, 66)),
        ("NVIDIA GH200 480GB", (989, 494, 66)),
        ("NVIDIA H100 80GB HBM3", (989, 494, 66)),
        ("NVIDIA H200 NVL", (835, 417, 60)),
        ("NVIDIA H100 NVL", (835, 417, 60)),
        ("NVIDIA A100-SXM4-80GB", (312, 156, 19)),
        ("NVIDIA L40S", (362, 183, 91)),
        ("NVIDIA L40", (181, 90, 90)),
        ("NVIDIA L4", (121, 60, 30)),
        ("NVIDIA Next 9000", (None, None, None)),  # and no warning
    ],
)
def test_peaks_are_those_of_dense_products(
    name: str, peaks: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = []
    for dtype, precision in ((torch.bfloat16, "highest"), (torch.float32, "high"), (torch.float32, "highest")):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda precision=precision: precision)
        flops = peak_flops(torch.device("cuda"), dtype)
        found.append(flops and int(flops / 1e12))
    assert tuple(found) == peaks


@pytest.mark.parametrize(("steps", "every", "logged"), [(2, 10, [0, 1]), (7, 3, [0, 2, 5, 6])])
def test_first_and_last_steps_are_logged_with_loss_and_speed(
    steps: int, every: int, logged: list[int], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.max_steps", steps, "--trainer.log_every_n_steps", every, "--evaluate", "false"]
    assert run("fit", *words, "--trainer.enable_progress_bar", "false", "--data.val_size", 0) == 0
    rows = _rows(tmp_path / "tiny")
    assert [int(row["step"]) for row in rows] == logged
    columns = ["loss", "tokens_per_second", "examples_per_second", "peak_memory_gib", "lr", "target_tokens"]
    assert all(float(row[f"train/{name}"]) >= 0 for row in rows for name in columns)
    # Where no terminal shows a bar, each logged step is a line of text.
    lines = re.findall(r"^step (\d+)/(\d+), epoch \d+: loss ([\d.]+), .* left$", capsys.readouterr().out, re.MULTILINE)
    assert [(int(step), int(total)) for step, total, _ in lines] == [(step + 1, steps) for step in logged]
    assert [loss for *_, loss in lines] == [f"{float(row['train/loss']):.3f}" for row in rows]


def test_tokens_per_second_are_those_of_the_window(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1, 10**6))
    monkeypatch.setattr("skipthinking.runs.throughput.time.monotonic", lambda: float(next(clock)))
    words = ["--trainer.max_steps", 6, "--trainer.log_every_n_steps", 2, "--evaluate", "false", "--data.val_size", 0]
    assert run("fit", *words) == 0
    rows = _rows(tmp_path / "tiny")
    counts = [int(float(row["train/target_tokens"]) + float(row["train/context_tokens"])) for row in rows]
    windows = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    # The clock ticks once per reading: one second per window.
    assert [float(row["train/tokens_per_second"]) for row in rows] == windows


@pytest.mark.parametrize("lora", [None, LoRA(r=4, target_modules="all-linear")])
def test_model_flops_equal_those_that_pytorch_counts(lora: LoRA | None) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    student = FromScratch(architecture="llama", config=config, vocab_size=512, lora=lora)
    student.prepare(["a b c d e f g h"] * 4)
    student.build()
    student.model.set_attn_implementation("eager")  # the counter knows no fused attention of CPUs
    student.model.get_output_embeddings().weight.requires_grad_(lora is None)
    examples, length = 4, 96
    ids = torch.randint(0, len(student.tokenizer), (examples, length))
    with FlopCounterMode(display=False) as counter:
        student.model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum().backward()
    ours = flops_per_step(student, examples * length, examples * length, examples)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_model_flops_of_an_encoder_and_a_decoder_are_those_of_their_tokens() -> None:
    config = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}
    student = FromScratch(architecture="t5", config=config, vocab_size=512)
    student.prepare(["a b c d e f g h"] * 4)
    student.build()
    prompt, completion = torch.zeros((4, 96), dtype=torch.long), torch.zeros((4, 64), dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        logits = student.model(input_ids=prompt, decoder_input_ids=completion, use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
    ours = flops_per_step(student, 4 * 160, 4 * 64, 4)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_a_run_that_goes_on_in_other_batches_counts_the_steps_that_are_left(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model.scheduler", "null", "--evaluate", "false", "--data.val_size", 0, "--trainer.max_epochs", 2]
    assert run("fit", *words, "--data.batch_size", 8, "--trainer.max_steps", 2) == 0  # 16 of the epoch's 24
    capsys.readouterr()
    assert run("fit", *words, "--data.batch_size", 2, "--trainer.max_steps", -1, "--ckpt_path", "last") == 0
    lines = re.findall(r"^step (\d+)/(\d+),.*?(-?\d+:\d\d) left$", capsys.readouterr().out, re.MULTILINE)
    assert int(lines[-1][0]) == int(lines[-1][1]) == 2 + 4 + 12
    assert not [left for *_, left in lines if left.startswith("-")]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (90061, "1d 1:01:01")])
def test_time_left_is_written_in_units_that_people_read(seconds: float, text: str) -> None:
    assert short_time(seconds) == text
