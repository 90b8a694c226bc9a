"""A GPU whose memory does not suffice: a line that says for what, who held it and what to do; the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from skipthinking.command_line.out_of_memory import out_of_memory_message
from skipthinking.records import UserError
from skipthinking.students import FromScratch, Pretrained
from skipthinking.students.base import Student
from skipthinking.students.completions import Completions
from skipthinking.students.gguf_files import GGUF
from skipthinking.students.memory import is_device_error, is_out_of_memory
from skipthinking.students.token_classifier import TokenClassifier
from skipthinking.students.weights import load_start

# As torch writes it, with a driver that names processes, and with one that does not.
SHARED = (
    "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 79.11 GiB of which 512.00 MiB is "
    "free. Process 17 has 12.02 GiB memory in use. Including non-PyTorch memory, this process has 21.00 GiB memory in "
    "use. Of the allocated memory 4.50 GiB is allocated by PyTorch, and 16.00 GiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True "
    "to avoid fragmentation."
)
ALONE = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 3 has a total capacity of 14.57 GiB of which 0 bytes is free."
    " Of the allocated memory 13.00 GiB is allocated by PyTorch, with 1.00 GiB allocated in private pools (e.g., CUDA "
    "Graphs), and 1.25 GiB is reserved by PyTorch but unallocated."
)
ALLOWED = SHARED.replace("Of the allocated", "8.00 GiB allowed; Of the allocated")
DRIVER = "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call."
LIBRARY = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # 79.11 - 0.5 - 4.5 - 16 = 58.11 GiB are neither free nor this process's.
        (
            SHARED,
            "GPU 0 for this command, got 512 MiB of its 79.1 GiB left where 1.9 GiB were needed: this process held",
        ),
        (
            SHARED,
            "held 20.5 GiB, others and CUDA 58.1 GiB. Run fewer processes on it at a time (suite: a lower --jobs).",
        ),
        (ALLOWED, "this process held 20.5 GiB, of the 8.00 GiB that it may take, others"),
        (ALONE, "GPU 3 for this command, got 0 MiB of its 14.6 GiB left where 20 MiB were needed: this process held"),
        (ALONE, "held 14.2 GiB, others and CUDA 328 MiB. Use a smaller student, or a GPU with more memory."),
        (
            ALONE.replace("0 bytes", "31.00 MiB"),
            "got 31 MiB (in pieces, or freed since) of its 14.6 GiB left where 20 MiB",
        ),
        (DRIVER, "the GPU for this command, got CUDA error: out of memory. Run fewer processes on it at a time"),
        (LIBRARY, "Run fewer processes on it at a time"),
    ],
)
def test_the_message_has_the_numbers_of_torch(text: str, expected: str) -> None:
    assert expected in out_of_memory_message(RuntimeError(text))


def test_what_is_a_lack_of_memory() -> None:
    full = [torch.OutOfMemoryError(ALONE), RuntimeError(DRIVER), RuntimeError(LIBRARY), torch.AcceleratorError(DRIVER)]
    broken = [torch.AcceleratorError("CUDA error: device-side assert"), RuntimeError("CUDA error: unknown")]
    others = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), OSError(DRIVER)]
    assert all(map(is_out_of_memory, full))
    assert all(map(is_device_error, full + broken))
    assert not any(map(is_out_of_memory, broken + others))
    assert not any(map(is_device_error, others))


@pytest.mark.parametrize(
    ("kind", "name", "call", "words", "expected"),
    [
        (Student, "measure", 7, [], "for a training step, got 512 MiB of its"),  # 5 steps per epoch
        (Student, "measure", 1, ["--model", "CWT", "--data.stage_sampling", "loss"], "for a search"),
        (Completions, "run", 1, [], "for generation"),
        (FromScratch, "make_model", 1, [], "for the student's weights"),
    ],
)
def test_a_run_that_lacks_memory_says_so_and_goes_on(
    kind: type, name: str, call: int, words: list[str], expected: str,
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, calls = getattr(kind, name), [0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] >= call:
            raise torch.OutOfMemoryError(SHARED)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, fail)
        assert run("fit", *words) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert expected in error
    assert "Run fewer processes on it at a time" in error
    assert not list(tmp_path.rglob("*.tmp"))
    if name == "measure" and call == 7:
        released = list[str]()
        monkeypatch.setattr(Student, "release_memory", lambda self: released.append("once"))
        assert torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
        assert run("fit", *words, "--ckpt_path", "last") == 0
        assert "resumed at step 5" in capsys.readouterr().out
        assert len(released) == 2  # after a validation and after the test


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(ALONE), RuntimeError(DRIVER)], ids=["torch", "driver"])
def test_a_full_gpu_is_no_fault_of_a_file(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    def start() -> None:
        student: Any = SimpleNamespace(lora=None, load_state_dict=fail, named_parameters=lambda: [])
        load_start(student, "start.ckpt")

    monkeypatch.setattr("skipthinking.students.weights.read_checkpoint", lambda *_: {"state_dict": {}})
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", fail)
    for load in (
        lambda: Pretrained(str(tmp_path))._load(SimpleNamespace(from_pretrained=fail)),
        lambda: GGUF(path=tmp_path)._load(fail),
        lambda: TokenClassifier(str(tmp_path), "a", None, torch.device("cpu")),
        start,
    ):
        with pytest.raises(type(error)) as raised:
            load()
        assert raised.value is error
    with pytest.raises(UserError, match="a folder with a model"):
        Pretrained(str(tmp_path))._load(SimpleNamespace(from_pretrained=lambda *_, **__: int("no number")))
