"""A run has one prompt per question: the one that fit prints is the one that predict sends, on any later day."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import spies
import torch
from conftest import ROOT
from tokenizers.processors import TemplateProcessing

from skipthinking.data.encoding import Chat
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Files, Generated
from skipthinking.methods import FullCoT
from skipthinking.records import UserError
from skipthinking.students import FromScratch
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate, get_task

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
CHATS = {
    "chat": "{{ bos_token }}" + TURNS + "<assistant>{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}",
    # The seconds stand for the day of Llama 3.2's template.
    "date": "{% set d = strftime_now('%d %b %Y %H:%M:%S') %}Today: {{ d }}\n" + TURNS + "<assistant>",
    "r1": TURNS + "<assistant><think>{{ '\n' }}",
}
LATER = datetime(2031, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tokenizers: one per chat template, and one that adds tokens around every text."""
    folder = tmp_path_factory.mktemp("tokenizers")
    rows = generate("coin_flip", split="train", size=30)
    texts = [f"{row.question} {row.rationale} Question: Answer: <assistant> Today" for row in rows]
    for name in ("adding", *CHATS):
        made = train_tokenizer(texts, 512, 10)
        made.bos_token = "<|end|>"
        ends = [("<|end|>", made.eos_token_id)]
        if name == "adding":
            made.backend_tokenizer.post_processor = TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=ends)
        made.chat_template = CHATS.get(name)
        made.save_pretrained(folder / name)
    return folder


def student(folder: Path) -> list[str]:
    return ["--model.student.tokenizer", str(folder), "--model.student.vocab_size", "512"]


T5 = ["--model.student.architecture", "t5", "--model.student.config",
      "{d_model: 16, d_kv: 8, d_ff: 16, num_layers: 1, num_heads: 2}"]  # fmt: skip
SYSTEM = ["--data.template.system", "Think.", "--data.template.settings", "{enable_thinking: true}"]
# name: tokenizer (None: trained on the data), template, further words, (text before the question, text after it)
RUNS: dict[str, tuple[str | None, list[str], list[str], tuple[str, str]]] = {
    "plain": (None, [], [], ("Question: ", "\nAnswer:")),
    "adding": ("adding", [], [], ("<|end|>Question: ", "\nAnswer:")),
    "t5": ("adding", [], T5, ("<|end|>Question: ", "\nAnswer:<|end|>")),
    "prefixes": (None, [], ["--model", "MultiTask"], ("Question: [label] ", "\nAnswer:")),
    "chat": ("chat", ["--data.template", "Chat", *SYSTEM], [], ("<|end|><system>Think.\n<user>", "\n<assistant>")),
    "r1_chunks": ("r1", ["--data.template", "Chat"], ["--model", "CWT"], ("<user>", "\n<assistant><think>\n")),
    "r1_long_cot": ("r1", ["--data.template", "Chat"],
                    ["--model", "LongCoT", "--model.cutter", "cutters.ByPlace", "--data.splitter", "Sentences"],
                    ("<user>", "\n<assistant><think>\n")),
}  # fmt: skip


@pytest.fixture
def fit(run: Callable[..., int], tokenizers: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a command with the spy and returns the prompts that it saw."""

    def call(command: str, tokenizer: str | None, *words: Any, code: int = 0) -> dict[str, Any]:
        spies.SEEN.clear()
        of = student(tokenizers / tokenizer) if tokenizer else []
        sizes = ["--data.val_size", 0, "--data.test", "null", "--trainer.max_epochs", 1, "--model.max_new_tokens", 2]
        spy = ["--trainer.callbacks+=spies.Prompts"] if command == "fit" else []
        first = [*of, *sizes] if command == "fit" else []
        config = {} if command == "fit" else {"config": tmp_path / "tiny" / "config.yaml"}
        assert run(command, *first, *words, *spy, **config) == code
        return dict(spies.SEEN)

    return call


@pytest.mark.parametrize("name", RUNS)
def test_predict_sends_the_prompt_that_fit_printed(
    name: str, fit: Callable[..., dict[str, Any]], tokenizers: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tokenizer, template, method, (before, after) = RUNS[name]
    seen = fit("fit", tokenizer, *method, *template)
    (first,) = seen["first"]
    printed = capsys.readouterr().out.partition("its targets between « »:\n")[2]
    question = next(row.question for row in generate("coin_flip", split="train", size=24) if row.id == seen["id"])
    asked = get_task("coin_flip").ask(question)
    # An oracle that knows nothing of templates: the text as it is printed here, and its tokens.
    assert "".join(printed.split()).startswith("".join(f"{before}{asked}{after}".split()))
    predicted = fit("predict", None, "--question", question)["predict"]
    assert predicted == [first]
    exported = tmp_path / "tiny" / "student"
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(exported)
    assert loaded.decode(first) == f"{before}{asked}{after}"
    if "Chat" not in template:  # who loads the exported student writes the text of the prompt
        text = f"{before}{asked}{after}".replace("<|end|>", "")
        assert loaded(text, split_special_tokens=True)["input_ids"] == first
    elif name == "chat":
        turns = [{"role": "system", "content": "Think."}, {"role": "user", "content": asked}]
        text = loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        assert loaded(text, add_special_tokens=False)["input_ids"] == first
