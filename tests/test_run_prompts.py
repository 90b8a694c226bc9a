"""A run has one prompt per question: the one that fit prints is the one that predict sends, on any later day."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import spies
from tokenizers.processors import TemplateProcessing

from skipthinking.data.encoding import Chat
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Generated
from skipthinking.methods import FullCoT
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


# ---------------------------------------------------------------------------------------- the date of a run


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Moves the clock of this process to LATER."""
    import transformers.utils.chat_template_utils as hub

    import skipthinking.data.module as own

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Later:
            return cls.fromisoformat(LATER.isoformat())

    return lambda: [monkeypatch.setattr(module, "datetime", Later) for module in (hub, own)] and None


def days(folder: Path, prompts: Sequence[Sequence[int]]) -> set[str]:
    from transformers import AutoTokenizer

    decode = AutoTokenizer.from_pretrained(folder).decode
    return {decode(prompt).partition("\n")[0] for prompt in prompts}


DATED = ["--data.template", "Chat", "--model", "CWT", "--data.chunker", "SearchChunks",
         "--data.chunker.refresh_every_n_epochs", 1, "--evaluate", "false"]  # fmt: skip


def test_a_run_keeps_the_date_on_which_it_began(
    fit: Callable[..., dict[str, Any]], later: Callable[[], None], tokenizers: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    before = datetime.now()
    seen = fit("fit", "date", *DATED)
    (began,) = days(tokenizers / "date", seen["train"])
    assert before.replace(microsecond=0) <= datetime.strptime(began, "Today: %d %b %Y %H:%M:%S") <= datetime.now()
    assert f"in this run always its first day, {before:%Y-%m-%d}" in " ".join(capsys.readouterr().out.split())
    later()
    again = fit("fit", "date", *DATED, "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert again["train"] == seen["train"]
    assert days(tokenizers / "date", fit("predict", None, "--question", "Heads?")["predict"]) == {began}
    fit("annotate", None)  # which would refuse examples with another date
    # Another run of the same day is reused by one that starts from it, with its date; a new run has the new date.
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    warm = fit("fit", "date", *DATED, "--run", "warm", "--model.start_from", last)
    assert warm["train"] == seen["train"]
    new = fit("fit", "date", *DATED, "--run", "new")
    assert days(tokenizers / "date", new["train"]) == {"Today: 02 Jan 2031 03:04:05"}


def test_a_run_from_python_keeps_the_date_on_which_it_began(
    later: Callable[[], None], tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def parts() -> tuple[FullCoT, RationaleDataModule, L.Trainer]:
        method = FullCoT(
            student=FromScratch("gpt2", {"n_embd": 8, "n_layer": 1, "n_head": 1}, str(tokenizers / "date"), 512),
            max_new_tokens=2,
        )
        data = RationaleDataModule(
            train=[Generated("coin_flip", size=6)], test={"flips": Generated("coin_flip", "test", size=2)},
            template=template,
        )  # fmt: skip
        return method, data, L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=tmp_path, enable_checkpointing=False, callbacks=[spies.Prompts()],
        )  # fmt: skip

    template, epochs = Chat(), 1
    method, data, trainer = parts()
    trainer.fit(method, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    (began,) = days(tokenizers / "date", spies.SEEN["train"])
    later()
    epochs = 2
    method, data, trainer = parts()
    trainer.fit(method, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step > 0
    assert days(tokenizers / "date", [*spies.SEEN["train"], data.first.prompt.tolist()]) == {began}
    spies.SEEN.clear()
    trainer.test(method, datamodule=data, verbose=False)  # the same day in the same process
    method, data, trainer = parts()
    trainer.test(method, datamodule=data, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert days(tokenizers / "date", spies.SEEN["test"]) == {began}
    assert len(spies.SEEN["test"]) == 4
    assert "note:" not in capsys.readouterr().out
    template = Chat("Think.")  # as if the model's own chat template had changed
    method, data, trainer = parts()
    trainer.test(method, datamodule=data, ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert re.search(
        r"note: a prompt is .*<system>Think\..* here and '(?!.*Think).* in the checkpoint", capsys.readouterr().out
    )
    assert template.run_date is None  # a template that two runs share has the date of neither
