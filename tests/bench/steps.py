"""Training steps and answers of one student, each way in a separate process, as a table.

    python tests/bench/steps.py table padded trl                  # on this machine, a small student from scratch
    python tests/bench/steps.py table padded packed compiled trl trl_packed trl_padding_free answers \
        --model Qwen/Qwen2-1.5B --batch 16 --rows 512 --precision bf16-mixed --attention flash_attention_2

All ways train the same weights on the same tokens with AdamW, clipped to 1, without checkpointing: an epoch that is not
timed, then one that is. TRL gets the tokens as they are; it draws batches at random, and projects all positions.
MFU is (6 x parameters + 12 x layers x hidden size x tokens per row) x tokens per second / the peak of the GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

WAYS = ("padded", "packed", "compiled", "trl", "trl_packed", "trl_padding_free", "answers")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}  # bf16, dense
SMALL = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024, "vocab_size": 50257}
COLUMNS = ("way", "rows/s", "tokens/s", "seconds", "peak GiB", "MFU", "waits")


def encoded(args: argparse.Namespace) -> list[Any]:
    """The tokens of all rows, as every way trains on them."""
    from skipthinking.data.encoding import Codec
    from skipthinking.data.steps import Sentences
    from skipthinking.data.templates import Plain
    from skipthinking.students import Pretrained

    tokenizer = Pretrained(args.model).make_tokenizer()
    return list(
        Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences()).encode(_source(args).load().examples)
    )


def _source(args: argparse.Namespace) -> Any:
    from skipthinking.data.sources import Files, Generated

    if args.data:
        return Files(args.data, args.task, limit=args.rows)
    return Generated("arithmetic", split="train", size=args.rows)


class Meter:
    """Seconds and peak memory of the second epoch, and how often the host waited for the device in it.

    On a CPU these are seconds of the process on all cores, which other processes change less than those of a clock.
    """

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda.is_available()
        self._clock = time.perf_counter if self.cuda else time.process_time
        self.seconds, self._since, self._caught = 0.0, 0.0, warnings.catch_warnings(record=True)
        self._before, self._seen, self.waits = 0 if self.cuda else _memory("VmRSS"), [], 0

    def start(self, epoch: int) -> None:
        """Starts the clock in the second epoch."""
        import torch

        if epoch != 1 or self._since:
            return
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._seen = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        self._since = self._clock()

    def stop(self) -> None:
        """Stops the clock."""
        import torch

        if self.cuda:
            torch.cuda.set_sync_debug_mode("default")
            self.waits = sum("called a synchronizing CUDA operation" in str(one.message) for one in self._seen)
            self._caught.__exit__(None, None, None)
            torch.cuda.synchronize()
        self.seconds = self._clock() - self._since

    @property
    def peak(self) -> int:
        """Peak bytes: of the GPU, or what the process grew by."""
        import torch

        return torch.cuda.max_memory_allocated() if self.cuda else _memory("VmHWM") - self._before


def _memory(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def ours(args: argparse.Namespace, way: str) -> Meter:
    """Trains FullCoT."""
    import lightning as L
    import torch
    from lightning.pytorch.callbacks import Callback

    from skipthinking.data.module import RationaleDataModule
    from skipthinking.methods import FullCoT
    from skipthinking.students import Pretrained

    meter = Meter()

    class Clock(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            meter.start(trainer.current_epoch)

        def on_train_end(self, *_: Any) -> None:
            meter.stop()

    student = Pretrained(args.model, attention=args.attention, compile=way == "compiled")
    method = FullCoT(student=student, optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-5))
    data = RationaleDataModule(train=[_source(args)], batch_size=args.batch, packing=way == "packed", seed=0)
    L.Trainer(
        max_epochs=2, precision=args.precision, gradient_clip_val=1.0, callbacks=[Clock()], devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=10**9,
        use_distributed_sampler=False,
    ).fit(method, datamodule=data)  # fmt: skip
    return meter


def trl(args: argparse.Namespace, way: str) -> Meter:
    """Trains TRL's SFTTrainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    meter, rows = Meter(), []
    for row in encoded(args):
        prompt, tokens = row.prompts[""].tolist(), row.tokens.tolist()
        mask = [0] * len(prompt) + [1] * len(tokens)
        rows.append({"input_ids": prompt + tokens, "completion_mask": mask})

    class Clock(TrainerCallback):
        def on_step_begin(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            meter.start(int(state.epoch + 1e-6))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            meter.stop()

    longest = max(len(row["input_ids"]) for row in rows)
    # A packed row of TRL is as long as a batch of rows would be, one per batch, so that steps have as many tokens.
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    packs, flat = way == "trl_packed", way == "trl_padding_free"
    length = int(max(longest, mean * args.batch)) if packs else None if flat else longest
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), num_train_epochs=2, per_device_train_batch_size=1 if packs else args.batch,
        learning_rate=1e-5, lr_scheduler_type="constant", weight_decay=0.01, max_grad_norm=1.0, report_to="none",
        gradient_checkpointing=False, bf16="bf16" in args.precision, use_cpu=not torch.cuda.is_available(),
        packing=packs, padding_free=flat, completion_only_loss=True, save_strategy="no",
        max_length=length, logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(args.model, attn_implementation=args.attention, dtype=torch.float32)
    SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), callbacks=[Clock()],
        processing_class=AutoTokenizer.from_pretrained(args.model),
    ).train()  # fmt: skip
    return meter


def answers(args: argparse.Namespace) -> tuple[Meter, int]:
    """Answers all prompts twice; returns the number of new tokens, too."""
    import torch

    from skipthinking.students import Pretrained

    prompts = [torch.from_numpy(row.prompts[""]) for row in encoded(args)]
    student: Any = Pretrained(args.model, attention=args.attention)
    student.prepare()
    student.build(trained=False)
    student.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    meter = Meter()
    for epoch in (0, 1):
        meter.start(epoch)
        with torch.autocast(student.device.type, torch.bfloat16, enabled="bf16" in args.precision):
            made = [
                ids for at in range(0, len(prompts), 64) for ids in student.generate(prompts[at : at + 64], args.new)
            ]
    meter.stop()
    return meter, sum(map(len, made))


def one(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """One way, in this process: a row of the table."""
    import torch
    from transformers import AutoConfig

    rows = encoded(args)
    tokens = sum(len(row.prompts[""]) + len(row.tokens) for row in rows)
    if way == "answers":
        meter, tokens = answers(args)
    else:
        meter = trl(args, way) if way.startswith("trl") else ours(args, way)
    config = AutoConfig.from_pretrained(args.model).get_text_config()
    name = torch.cuda.get_device_name() if meter.cuda else ""
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    per_token = 6 * _parameters(args) + 12 * config.num_hidden_layers * config.hidden_size * tokens / len(rows)
    train = way != "answers"
    return {
        "way": way,
        "rows/s": round(len(rows) / meter.seconds, 3),
        "tokens/s": round(tokens / meter.seconds, 1),
        "seconds": round(meter.seconds, 2),
        "peak GiB": round(meter.peak / 2**30, 2),
        "MFU": f"{per_token * tokens / meter.seconds / peak:.1%}" if peak and train else "",
        "waits": meter.waits if meter.cuda else "",
    }


def _parameters(args: argparse.Namespace) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(args.model)).num_parameters()


def small(folder: str) -> str:
    """A random model with GPT-2's vocabulary size, and a tokenizer of the rows, in a folder."""
    import torch

    from skipthinking.data.sources import Generated
    from skipthinking.students import FromScratch

    torch.manual_seed(0)
    student = FromScratch("gpt2", SMALL, vocab_size=2048)
    student.prepare([row.question + row.rationale for row in Generated("arithmetic", size=200).load().examples])
    student.build()
    student.export(Path(folder))
    return folder


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways, one process each; prints a line as soon as a way is done."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"\n{device}; {args.model}, {args.rows} rows, batches of {args.batch}, {args.precision}, "
          f"attention {args.attention or 'by default'}\n")  # fmt: skip
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    results = []
    for way in args.ways:
        words = [sys.executable, __file__, "one", way, *args.words]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=args.limit, check=False)
            failure = " ".join(done.stderr.split())[-200:] if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"more than {args.limit} s"
        if failure:
            print(f"| {way} | {failure} |", flush=True)
            continue
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print("| " + " | ".join(str(results[-1][name]) for name in COLUMNS) + " |", flush=True)
    return results


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["table", "one"])
    parser.add_argument("ways", nargs="+", choices=WAYS)
    parser.add_argument("--model", help="hub name or folder; by default a small model from scratch")
    parser.add_argument("--data", help="file of rows; by default arithmetic stories")
    parser.add_argument("--task", default="gsm8k")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new", type=int, default=64, help="new tokens of an answer")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--attention")
    parser.add_argument("--limit", type=int, default=600, help="seconds of one way")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        args.model = args.model or small(folder)
        names = ("model", "data", "task", "rows", "batch", "new", "precision", "attention")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        args.words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        if args.command == "table":
            return table(args)
        print(json.dumps(one(args, args.ways[0])))
        return []


if __name__ == "__main__":
    main()
