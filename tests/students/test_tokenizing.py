"""A causal student's tokenizer adds nothing after a text, also once it is saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from skipthinking.records import UserError
from skipthinking.students import FromScratch
from skipthinking.students.base import tokenizer_from_json
from skipthinking.students.scratch import train_tokenizer

AROUND = {"single": "<s> $A </s>", "pair": "<s> $A </s> $B </s>", "special_tokens": [("<s>", 1), ("</s>", 2)]}
BEFORE = {"single": "<s> $A", "pair": "<s> $A $B", "special_tokens": [("<s>", 1)]}


def made(processor: Any = None, **settings: Any) -> Any:
    backend = train_tokenizer(["a b"], 512, 10).backend_tokenizer
    backend.add_special_tokens(["<s>", "</s>"])
    known = tokenizer_from_json(backend.to_str(), bos_token="<s>", eos_token="</s>", **settings)
    if processor is not None:
        shift = [(token, backend.token_to_id(token)) for token, _ in processor["special_tokens"]]
        template = processors.TemplateProcessing(**{**processor, "special_tokens": shift})
        known.backend_tokenizer.post_processor = (
            processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
            if "pair" in processor
            else template
        )
    return known


# name: how to make it, the tokens before a text
KINDS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "nothing": (made, []),
    "before": (lambda: made(BEFORE), ["<s>"]),
    "around, in a sequence": (lambda: made(AROUND), ["<s>"]),
    "around, alone": (lambda: made({name: AROUND[name] for name in ("single", "special_tokens")}), ["<s>"]),
    "add_eos_token": (lambda: made(add_eos_token=True), []),
    "both by settings": (lambda: made(add_bos_token=True, add_eos_token=True), ["<s>"]),
}


SHARED = Path(__file__).parents[2].parent / "shared" / "tokenizers" / "flan-t5"
T5 = pytest.param(  # its class adds </s> again when it is loaded
    "T5's",
    marks=pytest.mark.skipif(not SHARED.is_dir(), reason=f"the tokenizer is absent: {SHARED}"),
)


def flan_t5() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHARED)


@pytest.mark.parametrize("name", [*KINDS, T5])
def test_a_causal_tokenizer_adds_nothing_after_a_text(name: str, tmp_path: Path) -> None:
    make, before = KINDS.get(name, (flan_t5, []))
    original = make()
    added = original("So 7.")["input_ids"]
    assert (added[-1] == original.eos_token_id) == (name not in ("nothing", "before"))  # the input is as described
    original.save_pretrained(tmp_path / "given")
    small = {"n_embd": 8, "n_layer": 1, "n_head": 1}
    student = FromScratch("gpt2", small, str(tmp_path / "given"))
    student.prepare()
    student.build()
    student.export(tmp_path / "exported")
    from transformers import AutoTokenizer

    text = original("So 7.", add_special_tokens=False)["input_ids"]
    for tokenizer in (student.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "exported")):
        assert tokenizer("So 7.")["input_ids"] == [*original.convert_tokens_to_ids(before), *text]
        assert tokenizer("So 7.", "So 7.")["input_ids"][-1] == text[-1]
        assert tokenizer.decode(tokenizer("So 7.")["input_ids"], skip_special_tokens=True) == "So 7."


def test_an_encoder_keeps_what_its_tokenizer_adds(tmp_path: Path) -> None:
    original = made(AROUND)
    original.save_pretrained(tmp_path)
    student = FromScratch("t5", {"d_model": 8, "num_layers": 1}, str(tmp_path))
    student.prepare()
    assert student.tokenizer("So 7.")["input_ids"] == original("So 7.")["input_ids"]


def test_what_cannot_be_left_out_is_a_user_error(tmp_path: Path) -> None:
    tokenizer = made()
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="adds nothing after a text"):
        FromScratch("gpt2", tokenizer=str(tmp_path)).prepare()
