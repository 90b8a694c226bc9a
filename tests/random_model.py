"""A model folder for tests: a tiny Llama-type model with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from skipthinking.students import FromScratch
from skipthinking.tasks import generate

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip


def random_model(folder: Path, positions: int, serve: bool = False) -> Path:
    """Writes the model; to be served it needs a chat template and do_sample, or the server is greedy."""
    torch.manual_seed(0)
    student = FromScratch("llama", {**TINY, "max_position_embeddings": positions}, vocab_size=600)
    student.prepare([f"{row.question} {row.rationale}" for row in generate("arithmetic", size=30, split="train")])
    student.build()
    student.model.generation_config.do_sample = serve
    student.tokenizer.chat_template = CHAT if serve else None
    student.export(folder)
    return folder
