"""An exported student answers a raw question as ``test`` did, and its model card says what is so."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub
import lightning as L
import pytest
from huggingface_hub import ModelCard
from tokenizers.processors import TemplateProcessing

from skipthinking.data.encoding import Chat, Plain
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Files
from skipthinking.methods import CWT, STT, FullCoT, MultiTask, TokenSkip
from skipthinking.records import Example, UserError
from skipthinking.runs.callbacks import Results
from skipthinking.runs.export import export_run
from skipthinking.runs.hub import push
from skipthinking.students import FromScratch
from skipthinking.students.scratch import train_tokenizer
from skipthinking.teacher.local import Local
from skipthinking.teacher.prompts import ZeroShot

TURNS = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
# Weights wider than usual, so that answers differ.
LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 256, "initializer_range": 0.5}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256, "initializer_range": 0.5}
T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2, "initializer_factor": 3.0}
WORDING = " Answer yes or no."  # of strategy_qa
# architecture, its config, tokenizer, template, method, its settings, and by the value of its variable the text of the
# prompt without special tokens
CASES: dict[str, tuple[str, dict[str, Any], str, Any, Any, dict[str, Any], dict[Any, str]]] = {
    "gpt2": ("gpt2", GPT2, "open", Plain(), FullCoT, {}, {None: "Question: Q\nAnswer:"}),
    "llama_bos": ("llama", LLAMA, "start", Plain("Q: {question} A:"), CWT, {}, {None: "Q: Q A:"}),
    "stt": ("qwen2", LLAMA, "open", Plain(), STT, {"replay": 0.5},
            {"skip": "Question: [skip] Q\nAnswer:", "full": "Question: Q\nAnswer:"}),
    "full": ("llama", LLAMA, "start", Chat("Think."), STT, {"replay": 0.5, "mode": "full"},
             {"full": f"<|end|><system>Think.\n<user>Q{WORDING}\n<assistant>",
              "skip": f"<|end|><system>Think.\n<user>[skip] Q{WORDING}\n<assistant>"}),
    "ratio": ("phi3", LLAMA, "open", Plain(), TokenSkip, {"ratio": 0.7},
              {0.7: "Question: [70%] Q\nAnswer:", 1.0: "Question: Q\nAnswer:"}),
    "t5": ("t5", T5, "both", Plain(), MultiTask, {},
           {"label": "Question: [label] Q\nAnswer:", "rationale": "Question: [rationale] Q\nAnswer:"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tokenizers: "open" adds nothing to a text, "start" a token before it, "both" one after it, too."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, single in {"open": "$A", "start": "<|end|> $A", "both": "<|end|> $A <|end|>"}.items():
        made = train_tokenizer(["Question: Is the coin still heads up? Answer: yes. no. Therefore,"], 512, 10)
        ends = [("<|end|>", made.eos_token_id)]
        made.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ends)
        made.chat_template, made.bos_token = TURNS, "<|end|>"
        made.save_pretrained(folder / name)
    return folder


def untrained(folder: Path, tokenizers: Path, name: str) -> list[dict[str, Any]]:
    """Tests and exports a random student, and returns its answers."""
    architecture, config, tokenizer, template, kind, settings, texts = CASES[name]
    student = FromScratch(architecture, config, str(tokenizers / tokenizer), 512)
    method = kind(student=student, max_new_tokens=9, latency_examples=0, **settings)
    rows = [{"id": f"{n}", "question": text, "answer": "yes"} for n, text in enumerate(["Q", "Is 3 < 4?", " é \n"])]
    task = "strategy_qa" if WORDING in "".join(texts.values()) else "coin_flip"
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = RationaleDataModule(test={"own": Files(str(folder / "rows.jsonl"), task)}, template=template)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                        default_root_dir=folder, callbacks=[Results(folder)])  # fmt: skip
    L.seed_everything(3, verbose=False)
    trainer.test(method, datamodule=data, verbose=False)
    export_run(folder, method, data, None, None)
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def answers(folder: Path, questions: list[str]) -> list[str]:
    """What a user of transformers gets, who knows the folder and the questions."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    chats = [[{"role": "user", "content": question}] for question in questions]
    if json.loads((folder / "config.json").read_text()).get("is_encoder_decoder"):
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        inputs = [tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True) for chat in chats]
        return [tokenizer.decode(model.generate(**one)[0], skip_special_tokens=True).strip() for one in inputs]
    ask = pipeline("text-generation", str(folder))
    return [ask(chat, return_full_text=False)[0]["generated_text"].strip() for chat in chats]


@pytest.mark.parametrize("name", CASES)
def test_a_raw_question_gets_the_answer_of_the_test(name: str, tokenizers: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    rows = untrained(tmp_path, tokenizers, name)
    assert answers(tmp_path / "student", [row["question"] for row in rows]) == [row["completion"] for row in rows]
    assert len({row["completion"] for row in rows}) > 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    start, end = {"open": ("", ""), "start": ("<|end|>", ""), "both": ("<|end|>", "<|end|>")}[CASES[name][2]]
    start = "" if isinstance(CASES[name][3], Chat) else start  # the chat template writes it
    for value, text in CASES[name][6].items():
        given = {{"ratio": "ratio"}.get(name, "mode"): value} if value is not None else {}
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Q"}], tokenize=False, **given)
        assert prompt == f"{start}{text}{end}"
    # The card's own code, as it stands there.
    card = ModelCard.load(tmp_path / "student" / "README.md")
    out = StringIO()
    with redirect_stdout(out):
        exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1], {})  # type: ignore[index]
    assert out.getvalue().strip() == rows[0]["completion"]
    assert next(iter(CASES[name][6].values())) in card.text
    assert_teach_sends(tmp_path / "student", rows[0]["question"], f"{start}{next(iter(CASES[name][6].values()))}{end}")


def assert_teach_sends(folder: Path, question: str, prompt: str) -> None:
    """As its own teacher, the student gets the prompt of the test from ZeroShot with the question alone."""
    client, ask = Local(str(folder)), ZeroShot("{question}")
    task = "strategy_qa" if WORDING in prompt else "coin_flip"
    asyncio.run(client.open())
    tokenizer = client._student.tokenizer
    messages = ask.messages(Example(id="a", question=question, rationale="", answer="yes", task=task))
    assert client._encode(messages) == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if prompt.startswith("Question: "):  # as configs for students without a chat template have it
        with pytest.raises(UserError, match=r"Use --prompt ZeroShot --prompt\.text '\{question\}'"):
            client._encode([{"role": "user", "content": f"Question: {question}\nAnswer:"}])


# ---------------------------------------------------------------------------------------------- the card of a run


class FakeHub:
    """Stands in for HfApi."""

    public, broken = False, False
    uploads: list[tuple[str, set[str]]] = []  # noqa: RUF012

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> Any:
        """Makes nothing."""
        if self.broken:
            raise huggingface_hub.errors.OfflineModeIsEnabled("no network")
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

    def repo_info(self, name: str) -> Any:
        """Whether the repository is private."""
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        """Records the upload."""
        FakeHub.uploads.append((repo_id, {path.name for path in Path(folder_path).iterdir()}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    fake = type("Hub", (FakeHub,), {})
    FakeHub.uploads.clear()
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    return fake


def card_of(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "student" / "README.md")


def metric(card: ModelCard, name: str) -> list[Any]:
    return [row.metric_value for row in card.data.eval_results if row.metric_name.startswith(f"{name} (")]


def test_a_card_is_true_after_every_test(
    run: Callable[..., int], hub: type[FakeHub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "STT", "--model.warmup_epochs", 1, "--model.gap_epochs", 0, "--model.verifier",
             "verifiers.EveryOther", "--model.replay", 0.5, "--model.latency_examples", 0]  # fmt: skip
    hub.broken = True  # a failed upload loses nothing
    assert run("fit", *words, "--push_to_hub", "me/student") == 0
    home = tmp_path / "tiny"
    said = " ".join(capsys.readouterr().out.split())
    assert "not pushed to me/student: no network" in said
    assert f"Upload it: hf upload me/student {home / 'student'}" in said

    def summary(folder: Path = home) -> Any:
        return json.loads((folder / "summary.json").read_text())["test"]["flips"]

    card, scores = card_of(home), summary()
    assert card.data.library_name == "transformers"
    assert {"skipthinking", "STT"} <= set(card.data.tags)
    assert metric(card, "accuracy") == [round(scores["accuracy"], 4)]
    assert metric(card, "new tokens per answer") == [round(scores["new_tokens"], 4)]
    low, high = scores["accuracy_low"], scores["accuracy_high"]
    assert f"| {scores['accuracy']:.1%} ({low:.1%} to {high:.1%}) |" in card.text
    for part in ("https://arxiv.org/abs/2505.18642", "train: coin_flip: 24 generated", "`mode='skip'` (default)",
                 '"me/student"'.replace('"', "'"), "the text after the last `the answer is`", "torch 2"):  # fmt: skip
        assert part in card.text

    # Another mode adds its rows; what a person wrote stays.
    path = home / "student" / "README.md"
    path.write_text(path.read_text().replace("# tiny\n", "# A name of ours\n"))
    config = home / "config.yaml"
    assert run("test", "--model.mode", "full", config=config) == 0
    both = card_of(home)
    assert "# A name of ours\n" in both.text
    assert metric(both, "accuracy, mode=full") == [round(summary(home / "mode=full")["accuracy"], 4)]
    assert metric(both, "accuracy") == metric(card, "accuracy")
    assert "| flips, mode=full | 5 |" in both.text
    # A test of more questions is the student's; one with another limit or prompt is not.
    more = {"class_path": "Generated", "init_args": {"task": "coin_flip", "split": "test", "size": 7, "seed": 1}}
    assert run("test", "--data.test", json.dumps({"flips": more}), config=config) == 0
    assert "| flips | 7 |" in card_of(home).text
    before = path.read_text()
    assert run("test", "--model.max_new_tokens", 5, config=config) == 0
    assert path.read_text() == before
    capsys.readouterr()
    assert run("test", "--data.template", "Plain", "--data.template.prompt", "Q {question}", config=config) == 0
    assert path.read_text() == before
    assert "stays as it is" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("public", "private", "done"), [(False, True, True), (True, True, False), (True, False, True)])
def test_a_student_is_pushed_but_never_shown_against_the_settings(
    public: bool, private: bool, done: bool, hub: type[FakeHub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.public = public
    (tmp_path / "README.md").write_text("a card")
    assert push(tmp_path, "me/student", private) is done
    assert hub.uploads == ([("me/student", {"README.md"})] if done else [])
    assert ("pushed to https://huggingface.co/me/student" if done else "which is public") in capsys.readouterr().out
