"""How many tokens fit into the memory of a student's device: in a KV cache, and in a pass without gradients."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from skipthinking.ranks import ranks

__all__ = [
    "PASS",
    "cache_bytes",
    "cache_tokens",
    "free_bytes",
    "is_device_error",
    "is_out_of_memory",
    "padding_worth",
    "pass_bytes",
    "pass_tokens",
    "release_unused",
    "search_tokens",
]

PASS = {"cpu": 96}  # tokens that cost as much time as a pass by itself: so much padding is better than another pass
_PASS_ELSEWHERE = 4096

_SHARE = 2  # of free memory, one part in two is used; the rest is for kernels, fragments and what is not estimated
_HOST_LEAST, _HOST_MOST = 2**28, 2**32  # bytes of host memory that a process plans with: 256 MiB to 4 GiB
_ENOUGH = {"cpu": 2**13}  # tokens of a pass, of which more take as much time per token
_ENOUGH_ELSEWHERE = 2**17
# Tokens whose keys and values are kept at once, of which more fill passes little better. On a GPU these are 6 GB of
# SmolLM2-135M in bfloat16; half of the free memory would be too much beside other processes.
_KEPT = {"cpu": 2**17}
_KEPT_ELSEWHERE = 2**18


def free_bytes(device: torch.device) -> int:
    """Bytes that tensors may take on a device; on the CPU a process's share of what is available, 256 MiB to 4 GiB."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)  # by torch's allocator, for tensors that are or may come
        allowed = int(_fraction(device) * total) - reserved
        return max(0, min(free, allowed)) + reserved - torch.cuda.memory_allocated(device)
    return max(_HOST_LEAST, min(_HOST_MOST, _host_bytes() // ranks()))


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU failed or has too little memory: nothing is wrong with what was read or computed."""
    kinds = [torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError)]  # torch 2.8
    return isinstance(error, tuple(kinds)) or (isinstance(error, RuntimeError) and "CUDA error:" in str(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU has too little memory, for torch's allocator, for the driver or for a library."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        is_device_error(error) and ("out of memory" in text or "ALLOC_FAILED" in text)
    )


def release_unused(device: torch.device) -> None:
    """Gives memory that torch's allocator holds for no tensor back to a GPU: for training, and for other processes.

    For the end of a search or of a validation: it waits for the GPU, and the next step allocates its memory again.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _fraction(device: torch.device) -> float:
    """Share of a GPU's memory that this process may take: torch.cuda.set_per_process_memory_fraction."""
    get = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # older versions of torch do not tell
    return float(get(device)) if get else 1.0


def cache_bytes(student: Any) -> int:
    """Bytes of a token's keys and values in all layers: 2 x layers x key-value heads x head size x bytes per number.

    SmolLM2-135M in float32: 2 x 30 x 3 x 64 x 4 = 46,080.
    """
    config = student.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * _number(student))


def pass_bytes(student: Any) -> int:
    """About the most bytes of a token's activations in a pass without gradients, logits left out.

    A layer holds its input, its normed input, queries, keys, values and their rotated copies, and the results of
    attention (8 hidden sizes), or gate, up projection, activation and product (4 intermediate sizes).
    """
    config = student.config.get_text_config(decoder=True)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "d_ff", None) or 4 * config.hidden_size
    return int((8 * config.hidden_size + 4 * inner) * _number(student))


def cache_tokens(student: Any) -> int:
    """Tokens whose keys and values fit into half of the free memory, at most as many as make passes efficient."""
    return max(1, min(free_bytes(student.device) // _SHARE // cache_bytes(student), _kept(student)))


def padding_worth(student: Any) -> int:
    """Tokens of padding that cost less time than another pass."""
    return PASS.get(student.device.type, _PASS_ELSEWHERE)


def pass_tokens(student: Any) -> int:
    """Tokens of a pass that fit into half of the free memory, at most as many as make it efficient (8,192 on a CPU).

    A power of two, so that small changes of the free memory change nothing.
    """
    return min(_power(free_bytes(student.device) // _SHARE // pass_bytes(student)), _enough(student))


def search_tokens(student: Any) -> int:
    """Tokens whose keys and values fit into half of the free memory with a copy of them, for a block of a search.

    At most as many as make passes efficient (131,072 on a CPU), and a power of two, as of :func:`pass_tokens`.
    """
    fitting = free_bytes(student.device) // _SHARE // (2 * cache_bytes(student))
    return min(_power(fitting), _kept(student))


def _enough(student: Any) -> int:
    return _ENOUGH.get(student.device.type, _ENOUGH_ELSEWHERE)


def _kept(student: Any) -> int:
    return _KEPT.get(student.device.type, _KEPT_ELSEWHERE)


def _power(number: int) -> int:
    """The largest power of two that is not larger, at least 1."""
    return int(2 ** (max(1, number).bit_length() - 1))


def _number(student: Any) -> int:
    """Bytes of a number: of the weights' type, or less under autocast."""
    kind = student.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student.model.dtype
    return int(dtype.itemsize)


def _host_bytes() -> int:
    """Available host memory, of the machine and of its control group (a container or a job of a cluster)."""
    limits = [_HOST_MOST]
    with suppress(OSError, ValueError, KeyError):  # not Linux
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)  # "MemAvailable:   14680064 kB"
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    with suppress(OSError, ValueError):  # no control group, or "max": no limit
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return min(limits)
