"""What to say when a GPU's memory does not suffice: for what, who held it, and what to change."""

from __future__ import annotations

import re
import traceback

__all__ = ["out_of_memory_message"]

# Module and function of a frame of the traceback, and what the memory was for. The first that is there counts: a search
# within training is a search.
_PLACES = (
    ("skipthinking.annotate", "", "a search"),
    ("skipthinking.evaluation", "", "generation"),
    ("skipthinking.diagnosis", "", "the diagnosis"),
    ("skipthinking", "configure_model", "the student's weights"),
    ("lightning.pytorch", "model_to_device", "the student's weights"),
    ("lightning.pytorch.accelerators", "", "the student's weights"),
    ("lightning.pytorch.loops.fit_loop", "", "a training step"),
)
_REMEDIES = {
    "a training step": (
        "lower data.batch_size (a higher trainer.accumulate_grad_batches keeps the steps as they are) or "
        "data.batch_tokens, or set model.student.gradient_checkpointing: true (fit --plan prints what a step needs)"
    ),
    "generation": "lower data.eval_batch_size",
    "a search": "lower data.max_length",  # blocks are halved: a single example did not fit
    "the diagnosis": "lower data.max_length",
}
_UNITS = {"bytes": 2**-30, "KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0}
_SIZE = rf"([\d.]+) ({'|'.join(_UNITS)})"
# "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 14.57 GiB of which 1.58 GiB is free.
# Of the allocated memory 734.07 MiB is allocated by PyTorch, and 33.93 MiB is reserved by PyTorch but unallocated. ..."
_NUMBERS = re.compile(
    rf"allocate {_SIZE}\. GPU (\d+) .*? capacity of {_SIZE} of which {_SIZE} is free\."
    rf".* memory {_SIZE} is allocated by PyTorch.* {_SIZE} is reserved by PyTorch"
)
_CUDA = 1.0  # GiB that CUDA itself takes at most; more, beside the tensors of this process, is of other processes


def out_of_memory_message(error: BaseException) -> str:
    """The message for an error that :func:`skipthinking.students.memory.is_out_of_memory` recognizes.

    Numbers are those in torch's text: the memory has been released since.
    """
    frames, text = _frames(error), str(error)
    place = _place(frames)
    match = _NUMBERS.search(text)
    if match is None:  # of the driver, such as "CUDA error: out of memory", where torch itself got nothing
        what, others = f"{text.partition(chr(10))[0].rstrip('.')}.", _CUDA
    else:
        needed, total, free, held, unused = (float(match[at]) * _UNITS[match[at + 1]] for at in (1, 4, 6, 8, 10))
        others = max(0.0, total - free - held - unused)
        allowed = re.search(rf"{_SIZE} allowed;", text)  # torch.cuda.set_per_process_memory_fraction
        limit = f", of the {allowed[1]} {allowed[2]} that it may take" if allowed else ""
        pieces = " (in pieces, or freed since)" if free >= needed else ""
        what = (
            f"{_size(free)}{pieces} of its {_size(total)} left where {_size(needed)} were needed: this process held "
            f"{_size(held + unused)}{limit}, others and CUDA {_size(others)}."
        )
    gpu = f"GPU {match[3]}" if match else "the GPU"
    fewer = ["run fewer processes on it at a time (suite: a lower --jobs)"] if others >= _CUDA else []
    remedies = [*fewer, *([_REMEDIES[place]] if place in _REMEDIES else [])]
    remedy = ", or ".join(remedies or ["use a smaller student, or a GPU with more memory"])
    on = (
        " The run goes on with --ckpt_path last."
        if ("lightning.pytorch.trainer.trainer", "fit") in _frames(error)
        else ""
    )
    return f"Expected enough memory on {gpu} for {place}, got {what} {remedy[0].upper()}{remedy[1:]}.{on}"


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{1024 * gib:.0f} MiB"


def _frames(error: BaseException) -> set[tuple[str, str]]:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return {(str(frame.f_globals.get("__name__")), frame.f_code.co_name) for frame in frames}


def _place(known: set[tuple[str, str]]) -> str:
    for module, function, place in _PLACES:
        if any(name.startswith(module) and function in ("", own) for name, own in known):
            return place
    return "this command"
