"""Tokenizers of causal students: nothing follows a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipthinking.files import parse_json, read_text, write_json
from skipthinking.records import UserError

__all__ = ["leave_open", "same_tokens", "save_without_class"]


def leave_open(tokenizer: Any) -> bool:
    """Stops a tokenizer from adding tokens after a text, as those with ``add_eos_token`` do.

    A causal student continues its prompt, and no continuation follows a token that ends a text. An exported student
    has the changed tokenizer.

    Returns:
        Whether its post-processor was changed, which its class may not read when it is loaded.
    """
    if not tokenizer.is_fast or not _tokens_after(tokenizer):
        return False
    by_setting = getattr(tokenizer, "add_eos_token", False)
    if by_setting:
        tokenizer.add_eos_token = False
    else:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        processor = state["post_processor"]
        for part in processor.get("processors", [processor]):
            for name in ("single", "pair") if part["type"] == "TemplateProcessing" else ():
                last = max(i for i, piece in enumerate(part[name]) if "Sequence" in piece)
                part[name] = part[name][: last + 1]
        tokenizer.backend_tokenizer.post_processor = (
            type(tokenizer.backend_tokenizer).from_str(json.dumps(state)).post_processor
        )
    if after := _tokens_after(tokenizer):
        raise UserError(
            "Expected a tokenizer that adds nothing after a text, for a causal student, got one that adds "
            f"{tokenizer.convert_ids_to_tokens(after)} ({tokenizer.name_or_path!r}). Change its post-processor, save "
            "it, and give that folder."
        )
    return not by_setting


def save_without_class(folder: Path) -> None:
    """Makes a saved tokenizer load from tokenizer.json alone; T5Tokenizer, for one, has a post-processor of its own."""
    path = folder / "tokenizer_config.json"
    write_json(path, {**parse_json(read_text(path)), "tokenizer_class": "PreTrainedTokenizerFast"})


def same_tokens(one: str, other: str | None) -> bool:
    """Whether two tokenizers, as JSON, have the same vocabulary and merges."""
    states = [json.loads(state) for state in (one, other or "{}")]
    return len({json.dumps([state.get(name) for name in ("model", "added_tokens")]) for state in states}) == 1


def _tokens_after(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer adds after a text."""
    text: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    complete: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(complete)) if complete[i : i + len(text)] == text)
    return complete[start + len(text) :]
