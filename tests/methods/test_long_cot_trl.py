"""DPO with an SFT term against TRL's own trainer, where TRL is installed (``pip install trl``)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.data.batches import collate
from skipthinking.methods import LongCoT
from skipthinking.records import Instance
from skipthinking.students import FromScratch
from skipthinking.students.measures import nll
from skipthinking.students.scoring import score

trl = pytest.importorskip("trl", reason="trl is not installed")

ROWS = [{"prompt": f"Ann has {n} and gets {n}.", "chosen": f" So {2 * n}.", "rejected": " Let me think. " * (1 + n)}
        for n in range(1, 5)]  # fmt: skip
CONFIG = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "max_position_embeddings": 128, "initializer_range": 0.3}  # fmt: skip


@pytest.mark.parametrize(("beta", "sft_weight"), [(0.1, 0.3), (1.0, 0.0), (0.02, 2.0)])
def test_the_loss_is_that_of_trl(beta: float, sft_weight: float, tmp_path: Path) -> None:
    student: Any = FromScratch("llama", CONFIG, vocab_size=600)
    student.prepare(["".join(row.values()) for row in ROWS])
    torch.manual_seed(0)
    student.build()
    reference = copy.deepcopy(student.model)
    with torch.no_grad():
        for weight in student.model.parameters():  # the student has moved away from its reference
            weight.add_(0.02 * torch.randn_like(weight))
    args = trl.DPOConfig(
        output_dir=str(tmp_path), beta=beta, loss_type=["sigmoid", "sft"], loss_weights=[1.0, sft_weight],
        per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
    )  # fmt: skip
    from datasets import Dataset

    trainer = trl.DPOTrainer(
        model=student.model, ref_model=reference, args=args, train_dataset=Dataset.from_list(ROWS),
        processing_class=student.tokenizer,
    )  # fmt: skip
    inputs = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(student.model, inputs)
    theirs.backward()
    their_gradients = [weight.grad.clone() for weight in student.model.parameters()]
    student.zero_grad()

    pairs = _pairs(inputs)
    frozen = copy.deepcopy(student)
    frozen.model = reference
    flat = [side for pair in pairs for side in pair]
    values = [-float(score(frozen, [side], nll)[side.id].sum(dtype=np.float64)) for side in flat]
    referenced = [Instance(**{**_fields(side), "reference": value}) for side, value in zip(flat, values, strict=True)]
    method = LongCoT(student=student, beta=beta, sft_weight=sft_weight)
    method.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = collate(referenced, pad_id=student.pad_id, encoder_decoder=False, terms=2)
    ours = method.micro_batch_loss(student.token_nll(batch), batch)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for weight, expected in zip(student.model.parameters(), their_gradients, strict=True):
        torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-5)


def _fields(side: Instance) -> dict[str, Any]:
    return {name: getattr(side, name) for name in ("id", "prompt", "tokens", "weights", "term")}


def _pairs(inputs: dict[str, Any]) -> list[list[Instance]]:
    """TRL's batch (first all chosen, then all rejected) as pairs."""
    sides = []
    for row, (ids, mask, seen) in enumerate(
        zip(inputs["input_ids"], inputs["completion_mask"], inputs["attention_mask"], strict=True)
    ):
        count = len(inputs["input_ids"]) // 2
        tokens = ids[mask.bool()].numpy()
        sides.append(
            Instance(
                id=str(row % count),
                prompt=ids[(seen - mask).bool()].numpy(),
                tokens=tokens,
                weights=np.ones(len(tokens), dtype=np.float32),
                term=row // count,
            )
        )
    return [[sides[i], sides[i + len(sides) // 2]] for i in range(len(sides) // 2)]
