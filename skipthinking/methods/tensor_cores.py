"""Float32 products on the tensor cores of a GPU."""

from __future__ import annotations

import torch

from skipthinking.annotate.runner import say

__all__ = ["use_tensor_cores"]

_TF32 = (8, 0)  # compute capability of the first GPUs with TF32, Ampere


def use_tensor_cores(device: torch.device) -> None:
    """Lets float32 products round their factors to TF32 (10 bits of mantissa), several times as fast, and reports it.

    A precision that was set before is left alone.
    """
    if device.type != "cuda" or torch.get_float32_matmul_precision() != "highest":
        return
    if torch.cuda.get_device_capability(device) >= _TF32:
        torch.set_float32_matmul_precision("high")
        say("float32 products use TF32 on this GPU (NVIDIA_TF32_OVERRIDE=0 in the environment turns it off)")
