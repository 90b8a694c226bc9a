"""The host never waits for the device before a forward pass, and at most once for a micro-batch after it."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from skipthinking.methods import Distiller
from skipthinking.methods.finite import _OnItsWay

# The mode's own warning at its first use, "Synchronization debug mode ... does not yet detect all synchronizing
# operations", comes once per process and is no wait.
WAITED = "called a synchronizing CUDA operation"
_READ = {"_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "unique", "_unique2"}


class _Reads(TorchDispatchMode):
    """Counts what needs a value of the device: a number, or a size that depends on values.

    On a CPU it stands in for torch's sync debug mode. ``item``, ``bool`` and ``float`` of a tensor arrive here as
    _local_scalar_dense, and an index by a mask as an index with booleans. ``tolist`` and ``numpy`` arrive nowhere.
    Tensors that are made of Python numbers, and what is computed of them alone, are on the host; others count as on the
    device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self._host = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        host = bool(tensors) and all(tensor in self._host for tensor in tensors)
        masks = [i for i in (args[1] if name in {"index", "index_put", "index_put_"} else ()) if i is not None]
        if not host and (name in _READ or any(mask.dtype == torch.bool for mask in masks)):
            self.seen[name] += 1
        result = func(*args, **(kwargs or {}))
        if host or name == "lift_fresh":
            self._host.update({leaf: True for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)})
        return result


@contextmanager
def _waits(device: torch.device, reads: _Reads) -> Iterator[None]:
    """Counts what made the host wait: by torch's debug mode on a GPU, else by the operations that would."""
    if device.type == "cuda":
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
        reads.seen.update(f"{one.filename}:{one.lineno}" for one in record if WAITED in str(one.message))
        return
    names = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy")}

    def spy(name: str) -> Any:
        return lambda self, *args, **kwargs: (reads.seen.update([name]), names[name](self, *args, **kwargs))[1]

    with pytest.MonkeyPatch.context() as patch, reads:
        for name in names:
            patch.setattr(torch.Tensor, name, spy(name))
        patch.setattr(_OnItsWay, "read", lambda self: names["tolist"](self._value))  # the host's copy, when it is there
        yield


STUDENTS = {
    "gpt2": [],
    "llama": ["--model.student.architecture", "llama", "--model.student.config",
              "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"],
    "t5": ["--model.student.architecture", "t5", "--model.student.config",
           "{d_model: 16, d_ff: 32, d_kv: 8, num_layers: 1, num_heads: 2}"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "student", "words"),
    [
        ("FullCoT", "gpt2", ["--trainer.accumulate_grad_batches", "2"]),
        ("CWT", "llama", ["--data.packing", "true", "--data.bucket", "false"]),
        ("FullCoT", "llama", ["--trainer.precision", "bf16-mixed", "--data.num_workers", "1"]),
        ("MultiTask", "t5", []),
        ("LongCoT", "gpt2", ["--model.sft_epochs", "0", "--model.cutter", "cutters.ByPlace"]),
    ],
)
def test_training_does_not_wait(
    method: str, student: str, words: list[str],
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before, earlier, reads = Counter[str](), Counter[str](), _Reads()
    held, kinds, waiting = ExitStack(), Counter[str](), []
    start, end = Distiller.on_train_batch_start, Distiller.on_train_epoch_end

    def leave() -> None:
        held.close()
        waiting.append(bool(reads.seen - earlier))

    def enter(self: Distiller, batch: Any, index: int) -> None:
        leave()  # the micro-batch before, with its log and its line in the bar
        kinds.update(pairs=batch.pairs, packed=batch.packed is not None)
        earlier.clear()
        earlier.update(reads.seen)
        held.enter_context(_waits(self.device, reads))
        held.callback(
            self.student.model.register_forward_pre_hook(lambda *_: before.update(reads.seen - earlier)).remove
        )
        start(self, batch, index)

    def finish(self: Distiller) -> None:
        leave()
        end(self)

    monkeypatch.setattr(Distiller, "on_train_batch_start", enter)
    monkeypatch.setattr(Distiller, "on_train_epoch_end", finish)
    words = [
        *words,
        "--trainer.gradient_clip_val",
        "1.0",
        "--data.val_size",
        "0",
        "--trainer.enable_progress_bar",
        "true",
    ]
    quiet = ["--evaluate", "false", "--trainer.max_epochs", "1", "--trainer.accelerator", "auto"]
    quiet += ["--trainer.log_every_n_steps", "3"]
    assert run("fit", "--model", method, *words, *STUDENTS[student], *quiet) == 0
    assert bool(kinds["pairs"]) == (method == "LongCoT")
    assert bool(kinds["packed"]) == ("--data.packing" in words)
    assert before == Counter()
    with (tmp_path / "tiny" / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert 0 < len(logged) < len(waiting) - 1  # of which the first is before the first micro-batch
    # What a logged step writes is read after it, all at once: the first number waits, and nothing is left for others.
    assert sum(waiting) <= len(logged), reads.seen


def test_what_would_wait_is_counted() -> None:
    reads, value = _Reads(), torch.ones(3)  # made outside: on the device
    with _waits(value.device, reads):
        for wait in (
            lambda: value.sum().item(), lambda: bool(value[0] > 0), lambda: value[value > 0], lambda: value.nonzero(),
            lambda: value.tolist(), lambda: float(value[0]), lambda: value.masked_select(value > 0),
            lambda: torch.equal(value, value),
        ):  # fmt: skip
            count = sum(reads.seen.values())
            wait()
            assert sum(reads.seen.values()) > count
        before = reads.seen.copy()
        assert float(torch.tensor(2.0) * 3) == 6  # a number of the host
        assert reads.seen == before
