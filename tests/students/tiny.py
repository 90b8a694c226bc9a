"""Tiny random students of several architectures, and slow plain references for what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipthinking.data.batches import Batch, collate
from skipthinking.data.epoch_instances import SIZES, EpochInstances, sizes
from skipthinking.records import Instance
from skipthinking.students import FromScratch, LoRA, Pretrained, Student

CONTEXT = 48  # positions of the causal students
TEXTS = [f"Ann has {n} apples and buys {2 * n} more. Therefore, the answer is {3 * n}." for n in range(40)]

# Weights ten times wider than usual, so that greedy answers are not one token over and over.
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": CONTEXT,
        "initializer_range": 0.3,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "phi3": _LLAMA,
    "t5": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0},
}
ARCHITECTURES = tuple(CONFIGS)
CAUSAL = tuple(name for name in ARCHITECTURES if name != "t5")


def ready(student: Student, trained: bool = True) -> Any:
    """The student with tokenizer and weights, in evaluation mode."""
    student.prepare(TEXTS)
    student.build(trained)
    return student.eval()


def scratch(architecture: str, seed: int = 0, more: dict[str, Any] | None = None, **settings: Any) -> Any:
    """A student from scratch; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = {**CONFIGS.get(architecture, {"init_std": 0.3} if architecture == "bart" else _LLAMA), **(more or {})}
        student = ready(FromScratch(architecture, config, vocab_size=600, **settings))
        # Norms, biases and adapters start at one or zero, where mistakes are not seen.
        for name, parameter in student.named_parameters():
            if parameter.dim() == 1 or "lora_B" in name or architecture == "t5":
                torch.nn.init.normal_(parameter, mean=float("norm" in name or "ln_" in name), std=0.3)
            if "wpe" in name:
                torch.nn.init.normal_(parameter, std=3.0)
        return student


def saved(student: Any, folder: Path, **generation: Any) -> str:
    """Writes model and tokenizer with transformers alone, with settings for the hub's generation config."""
    from transformers import GenerationConfig

    known = {"eos_token_id": student.tokenizer.eos_token_id, "pad_token_id": student.pad_id}
    if student.encoder_decoder:
        known["decoder_start_token_id"] = student.config.decoder_start_token_id
    student.model.generation_config = GenerationConfig(**{**known, **generation})
    student.model.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return str(folder)


def pretrained(folder: str, trained: bool = True, **settings: Any) -> Any:
    """A student from a folder."""
    return ready(Pretrained(folder, **settings), trained)


def adapter(**settings: Any) -> LoRA:
    """A small adapter."""
    return LoRA(**{"r": 2, "alpha": 4, **settings})


def instances(student: Any, count: int = 5, seed: int = 0) -> list[Instance]:
    """Instances of many lengths: context between targets, EOS in prompts and as the last target."""
    rng, end = np.random.default_rng(seed), student.tokenizer.eos_token_id
    rows = []
    for n in range(count):
        prompt = rng.integers(1, student.config.vocab_size, size=3 + 4 * n % 11)
        tokens = rng.integers(1, student.config.vocab_size, size=2 + 5 * n % 13)
        prompt[1], tokens[-1] = end, end
        weights = rng.choice([0.0, 0.5, 1.0], size=len(tokens)).astype(np.float32)
        weights[-1] = 1.0
        rows.append(Instance(id=f"e{n}", prompt=prompt, tokens=tokens, weights=weights))
    return rows


def batch_of(student: Any, rows: Sequence[Instance]) -> Batch:
    """The rows as one batch."""
    return collate(rows, pad_id=student.pad_id, encoder_decoder=student.encoder_decoder)


def plain_nll(student: Any, row: Instance) -> Tensor:
    """NLL of the targets of one instance, from all logits of one unpadded sequence, one token after the other."""
    prompt, tokens = row.prompt.tolist(), row.tokens.tolist()
    if student.encoder_decoder:
        ids = [student.config.decoder_start_token_id, *tokens[:-1]]
        logits = student.model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([ids])).logits[0]
        before = 0  # the start token predicts the first token
    else:
        logits = student.model(input_ids=torch.tensor([prompt + tokens])).logits[0]
        before = len(prompt) - 1  # the last prompt token predicts the first token
    shares = logits.double().log_softmax(dim=-1)
    return torch.stack([-shares[before + i, token] for i, token in enumerate(tokens) if row.weights[i] > 0])


@torch.no_grad()
def plain_greedy(student: Any, prompt: Tensor, limit: int, ends: Sequence[int] = ()) -> list[int]:
    """The likeliest token again and again: the complete sequence is read again for each, without padding or cache."""
    ends, made = set(ends) or {student.tokenizer.eos_token_id}, []
    while len(made) < limit and not (made and made[-1] in ends):
        if student.encoder_decoder:
            ids = torch.tensor([[student.config.decoder_start_token_id, *made]])
            logits = student.model(input_ids=prompt[None], decoder_input_ids=ids).logits
        else:
            logits = student.model(input_ids=torch.tensor([[*prompt.tolist(), *made]])).logits
        made.append(int(logits[0, -1].argmax()))
    return made


def prompts(student: Any, lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    """Random prompts of given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, student.config.vocab_size, (n,), generator=generator) for n in lengths]


def gradients(model: Any) -> dict[str, Tensor]:
    """Gradients of all trainable parameters; those that were not reached count zero."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def epoch_instances(rows: Sequence[Instance]) -> EpochInstances:
    """Instances of an epoch, each as the only one of an example."""
    found = [np.empty(0, SIZES), *(sizes(place, [row]) for place, row in enumerate(rows))]
    return EpochInstances(lambda place: [rows[place]], [row.id for row in rows], np.concatenate(found))
