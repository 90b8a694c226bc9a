"""Memory and time by the number of long traces: ``python tests/bench/scale.py 500 1000 2000``.

For every size, traces of about 5,000 tokens are written to a file, and three processes train on them for one step: the
first start reads and tokenizes them, the second one finds them in the cache, the third one runs with its own examples
in memory, as small data do (up to ``--in-memory`` traces). The threshold below which data stay in memory is 0 for the
others. Memory is the peak of anonymous memory (Pss_Anon of /proc/PID/smaps_rollup, every 50 ms, with all child
processes): what the system cannot drop. Mapped pages of files, which it can drop and which all ranks of a machine
share, are in a column of their own. Times are processor seconds, of all processes that tokenize together,
because they do not depend on what else runs. The last lines extrapolate to 220,000 traces by a linear fit over the
sizes; take 800 and more, because memory that does not grow (64 examples that are encoded at once) is filled first.

Methods can be compared on the same traces: ``--methods FullCoT CWT TokenSkip``. CWT has average chunks, which are not
stored. TokenSkip has a number per rationale token, drawn at random in place of the student's, so that its start is that
of the storage; its files are in the column ``values``. A checkpoint is measured without weights: annotations, plan and
position.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS, TARGET = 5000, 220_000


def write_traces(path: Path, count: int) -> None:
    """Writes traces of sentences from a built-in task, about 25 tokens each, with an answer of their own."""
    from skipthinking.tasks import generate

    rng, rows = random.Random(0), generate("long_arithmetic", split="train", size=500)
    sentences = [part for row in rows for part in re.split(r"(?<=\.) ", row.rationale)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            trace = " ".join(rng.choices(sentences, k=TOKENS // 25))
            question = f"{row.question} Case {number}."
            file.write(json.dumps({"question": question, "rationale": trace, "answer": row.answer}) + "\n")


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from tree(int(child))


class Peak(threading.Thread):
    """The peak of anonymous memory of this process and its children, and of the files they map, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = self.files = 0.0
        self.start()

    def run(self) -> None:
        while True:
            totals = {"Pss_Anon": 0, "Pss_File": 0}
            for pid in tree(os.getpid()):
                try:
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:  # it has ended
                    continue
                for name in totals:
                    totals[name] += int(re.search(rf"{name}: +(\d+)", text)[1])  # type: ignore[index]
            self.anonymous = max(self.anonymous, totals["Pss_Anon"] / 1024)
            self.files = max(self.files, totals["Pss_File"] / 1024)
            time.sleep(0.05)


def spent() -> float:
    """Processor seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(path: Path, method: str, in_memory: bool) -> dict[str, Any]:
    """One start of a run, up to a checkpoint after one step, in this process."""
    import lightning as L
    import torch

    import skipthinking.methods as methods
    from skipthinking.annotate import Annotator, Context, columns
    from skipthinking.data import store
    from skipthinking.data.module import RationaleDataModule
    from skipthinking.data.sources import Files
    from skipthinking.records import Encoded
    from skipthinking.students import FromScratch
    from skipthinking.tasks import generate

    class Drawn(Annotator[NDArray[np.float32]]):
        """A random number per rationale token."""

        name, dtype = "importance", "float32"

        def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float32]]:
            return {row.id: np.random.default_rng(0).random(row.answer[0], dtype=np.float32) for row in rows}

    store._IN_MEMORY = 2**60 if in_memory else 0
    if method == "TokenSkip":
        columns._IN_MEMORY = store._IN_MEMORY
    config = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    L.seed_everything(0, verbose=False)  # the second start finds the annotations of the first one
    student = FromScratch("llama", {**config, "max_position_embeddings": 3 * TOKENS}, vocab_size=2048)
    student.prepare([row.rationale for row in generate("long_arithmetic", split="train", size=300)])
    model = getattr(methods, method)(student=student, **({"importance": Drawn()} if method == "TokenSkip" else {}))
    data = RationaleDataModule(train=[Files(str(path), "arithmetic")], batch_size=1)
    times: dict[str, float] = {}

    def timed(owner: Any, name: str, label: str) -> None:
        call = getattr(owner, name)

        def wrapper(*args: Any, **settings: Any) -> Any:
            begun = spent()
            result = call(*args, **settings)
            times[label] = times.get(label, 0) + spent() - begun
            return result

        setattr(owner, name, wrapper)

    timed(data, "setup", "start")
    timed(data, "train_dataloader", "plan")
    peak = Peak()
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=path.parent, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    state = data.state_dict()
    torch.save(state, path.parent / "state.pt")
    mapped = Path("/proc/self/maps").read_text()
    return {
        **times,
        "memory": peak.anonymous,
        "files": peak.files,
        "checkpoint": (path.parent / "state.pt").stat().st_size / 2**20,
        "values": sum(file.stat().st_size for file in path.parent.glob("annotations/*")) / 2**20,
        "tokens": float(np.mean([len(row.tokens) for row in data.encoded[:50]])),
        "inodes": sorted({line.split()[4] for line in mapped.splitlines() if line.endswith(".arrow")}),
    }


def start(path: Path, method: str, in_memory: bool = False) -> dict[str, Any]:
    """Measures in a process of its own."""
    words = [sys.executable, __file__, "--measure", str(path), "--methods", method, *(["--lists"] if in_memory else [])]
    env = {**os.environ, "HF_DATASETS_CACHE": str(path.parent / "cache"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    result = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=[2000, 5000, 10_000, 20_000])
    parser.add_argument("--methods", nargs="+", default=["FullCoT"], help="FullCoT, CWT, TokenSkip")
    parser.add_argument("--in-memory", type=int, default=1000, help="largest size that is also tried in memory")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lists", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, *args.methods, args.lists)))
        return
    print(f"{len(os.sched_getaffinity(0))} processor(s), memory and files in MB, times in processor seconds")
    names = [
        "traces", "tokens", "first start", "memory", "second start", "memory", "mapped", "plan", "checkpoint", "values",
    ]  # fmt: skip
    print(" | ".join([f"{'method':>10}", *(f"{name:>12}" for name in names), "in memory: start, memory"]))
    rows: dict[str, list[list[float]]] = {method: [] for method in args.methods}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "traces.jsonl"
            write_traces(path, size)
            for method in args.methods:
                rows[method].append(compare(path, method, size, lists=size <= args.in_memory))
    for method, found in rows.items() if len(args.sizes) > 1 else ():
        slope, intercept = np.polyfit(args.sizes, np.array(found), 1)
        numbers = [f"{n:12.2f}" for n in intercept + slope * TARGET]
        print(" | ".join([f"{method:>10}", f"{TARGET:12,}", f"{'a + b n':>12}", *numbers]))
        print(
            " | ".join([f"{method:>10}", f"{'KB, ms each':>12}", f"{'b':>12}", *(f"{1000 * n:12.3f}" for n in slope)])
        )


def compare(path: Path, method: str, size: int, *, lists: bool) -> list[float]:
    """Prints and returns the numbers of a method's first and second start."""
    shutil.rmtree(path.parent / "annotations", ignore_errors=True)  # of another method
    first, second = start(path, method), start(path, method)
    beside = start(path, method, in_memory=True) if lists else None
    assert first["inodes"] == second["inodes"] != [], "every process maps the same files"
    row: list[float] = [
        first["start"] + first["plan"], first["memory"], second["start"], second["memory"], second["files"],
        second["plan"], second["checkpoint"], second["values"],
    ]  # fmt: skip
    told = f"{beside['start']:.1f}, {beside['memory']:.0f}" if beside else ""
    print(
        " | ".join([f"{method:>10}", f"{size:12,}", f"{second['tokens']:12,.0f}", *(f"{n:12.2f}" for n in row), told])
    )
    sys.stdout.flush()
    return row


if __name__ == "__main__":
    main()
