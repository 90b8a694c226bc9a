"""Laws of packing: packed equals padded, and a student that cannot keep packed instances apart is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from skipthinking.data.batches import Batch, collate
from skipthinking.data.packing import Layout, pack
from skipthinking.records import UserError
from skipthinking.students import FromScratch, packing

LAYOUTS: tuple[Layout, ...] = ("rows", "flat")
# Attention by sdpa and by eager code; sliding windows shorter than rows and instances, which must not leak either.
STUDENTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in tiny.CAUSAL},
    "mistral": {"sliding_window": 3},
    "gemma2": {"sliding_window": 3, "head_dim": 8},
}


def batch_of(student: Any, layout: Layout | None, count: int = 9) -> Batch:
    rows = tiny.instances(student, count)
    return collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder, packing=layout)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", STUDENTS)
def test_packed_equals_padded(name: str, layout: Layout, bf16: bool) -> None:
    student = tiny.scratch(name, more=STUDENTS[name])
    if name == "gemma2":
        student.model.set_attn_implementation("eager")
    found: dict[Layout | None, tuple[Tensor, dict[str, Tensor]]] = {}
    for each in (None, layout):
        student.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            nll_N = student.token_nll(batch_of(student, each))
        (nll_N * torch.linspace(0.5, 1.5, len(nll_N))).sum().backward()
        found[each] = nll_N.detach(), tiny.gradients(student)
    (padded, gradients), (packed, others) = found[None], found[layout]
    loose = {"rtol": 0.05, "atol": 0.1} if bf16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(packed, padded, **loose)
    for weight, gradient in gradients.items():
        scale = float(gradient.abs().max())
        assert float((others[weight] - gradient).abs().max()) <= (0.1 if bf16 else 1e-3) * scale, weight
    assert packing.isolates(student, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_embeddings_follow_their_instances(layout: Layout) -> None:
    student = tiny.scratch("llama")

    def change(embeddings_BLD: Tensor) -> Tensor:
        return embeddings_BLD * torch.linspace(0.5, 2.0, embeddings_BLD[..., 0].numel()).view_as(
            embeddings_BLD[..., :1]
        )

    padded, packed = (student.token_nll(batch_of(student, each), change) for each in (None, layout))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_position_is_packed_once_with_what_precedes_it(layout: Layout) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = rng.integers(1, 12, size=rng.integers(1, 9)).tolist()
        width = max(lengths) + 1
        packed, first = pack(lengths, width, layout)
        shape = tuple(packed.places_RW.shape)
        assert shape == (1, sum(lengths)) if layout == "flat" else shape[1] == max(lengths) and shape[0] <= len(lengths)
        places, positions = packed.places_RW.flatten().tolist(), packed.positions_RW.flatten().tolist()
        rows = [row.tolist() for row in packed.sequences_RW]
        numbers = [(r, number) for r, row in enumerate(rows) for number in row]
        used = set()
        for i, (at, length) in enumerate(zip(first.tolist(), lengths, strict=True)):
            assert places[at : at + length] == [i * width + t for t in range(length)]
            assert positions[at : at + length] == list(range(length))
            (number,) = set(numbers[at : at + length])
            assert numbers.count(number) == length  # nobody else is in this sequence
            used |= set(range(at, at + length))
        assert len(used) == sum(lengths)
        if packed.starts is not None:
            assert packed.starts.tolist() == [*first.tolist(), sum(lengths)]
        assert packed.longest == max(lengths)


_SMALL = {"hidden_size": 16, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("opt", {**_SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 2}),  # ignores positions
        ("bloom", {**_SMALL, "num_hidden_layers": 2}),  # takes no positions
        ("lfm2", {**tiny.CONFIGS["llama"], "layer_types": ["conv", "full_attention"]}),  # convolves over neighbors
        ("t5", tiny.CONFIGS["t5"]),
    ],
)
def test_students_that_mix_instances_are_refused(name: str, config: dict[str, Any]) -> None:
    student = tiny.ready(FromScratch(name, config, vocab_size=600))
    assert student.layout(False) == student.layout("auto") == (None, "")
    with pytest.raises(UserError, match=r"keeps packed instances apart, got .*Set data\.packing: false"):
        student.layout(True)


def test_the_probe_sees_a_model_that_is_not_told_of_its_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny.scratch("llama")
    assert student.layout(True) == ("rows", "packing: instances share rows, kept apart by masks")
    known = packing.packing_known
    monkeypatch.setattr("skipthinking.students.base.packing_known", lambda packed: known(None))
    assert not packing.isolates(student, "rows")
    assert not packing.isolates(student, "flat")


def test_transformers_is_as_it_was_after_a_pass() -> None:
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    student = tiny.scratch("llama")
    student.token_nll(batch_of(student, "rows"))
    assert masking_utils.find_packed_sequence_indices is before
    found = before(batch_of(student, "flat").packed.positions_RW)  # type: ignore[union-attr]
    assert torch.equal(found, batch_of(student, "flat").packed.sequences_RW)  # type: ignore[union-attr]


def test_passes_of_threads_do_not_meet() -> None:
    from transformers import masking_utils

    before, student = masking_utils.find_packed_sequence_indices, tiny.scratch("llama")
    packed, padded = batch_of(student, "rows").packed, batch_of(student, None).packed
    one, other = packing.packing_known(packed), packing.packing_known(padded)
    positions = torch.tensor([[0, 1, 0, 1]])
    one.__enter__()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: masking_utils.find_packed_sequence_indices(positions)).result()
        assert found.tolist() == [[0, 0, 1, 1]]  # this thread is in no pass yet
        pool.submit(other.__enter__).result()
        assert masking_utils.find_packed_sequence_indices(positions) is packed.sequences_RW  # type: ignore[union-attr]
        one.__exit__(None, None, None)
        pool.submit(other.__exit__, None, None, None).result()
    assert masking_utils.find_packed_sequence_indices is before


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_packed_run_ends_with_the_weights_of_a_padded_one(
    run: Callable[..., int], tmp_path: Path, precision: str
) -> None:
    quiet = "{n_embd: 16, n_layer: 1, n_head: 2, n_positions: 512, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}"
    weights = {}
    for packed in ("false", "true"):
        words = [
            "--model",
            "CWT",
            "--run",
            packed,
            "--data.packing",
            packed,
            "--evaluate",
            "false",
            "--data.bucket",
            "false",
        ]
        words += ["--model.student.config", quiet, "--trainer.precision", precision, "--trainer.max_epochs", "1"]
        words += ["--evaluate", "false"]
        sgd = "{class_path: torch.optim.SGD, init_args: {lr: 1.0}}"
        assert run("fit", *words, "--model.optimizer", sgd) == 0
        state = torch.load(tmp_path / packed / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        weights[packed] = torch.cat([value.flatten() for value in state.values()])
    moved = (weights["true"] - weights["false"]).norm() / weights["false"].norm()
    assert 0 < moved < (1e-2 if precision == "bf16-mixed" else 1e-5)


def test_rows_that_nobody_shares_are_padded() -> None:
    student = tiny.scratch("llama")
    rows = [row for row in tiny.instances(student, 9) if len(row.prompt) + len(row.tokens) > 14]
    assert len(rows) > 1
    batch = collate(rows, pad_id=student.pad_id, encoder_decoder=False, packing="rows")
    assert batch.packed is None
    assert torch.equal(student.token_nll(batch), student.token_nll(tiny.batch_of(student, rows)))
