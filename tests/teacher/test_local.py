"""A local model as teacher: it samples from its softmax, and completions do not influence each other."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import rows
from random_model import CHAT, random_model

from skipthinking.__main__ import main
from skipthinking.records import Example, UserError
from skipthinking.students import Student
from skipthinking.tasks import generate
from skipthinking.teacher.client import Sampling, make_request
from skipthinking.teacher.dispatch import Outcome, dispatch
from skipthinking.teacher.local import Local
from skipthinking.teacher.prompts import ZeroShot

PLAIN = "Question: {question}\nAnswer:"  # the Plain template, which the students here are trained on


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny", positions=128)


def _examples(count: int) -> list[Example]:
    words = ["Two", "Two and two", "Many more words than that", "Why?"]
    return [Example(id=f"q{i}", question=words[i % 4], rationale="", answer="1", task="gsm8k") for i in range(count)]


def _texts(client: Local, examples: list[Example], **sampling: Any) -> dict[str, str]:
    """The client's completion per example and sample."""
    texts: dict[str, str] = {}

    def record(outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            assert outcome.reply is not None, outcome.error
            key = f"{outcome.request.example.id}/{next(iter(outcome.request.samples))}"
            texts[key] = outcome.reply.completions[0].text

    async def go() -> None:
        await client.open()
        settings = Sampling(**{"samples": 1, "temperature": 1.0, "max_tokens": 8, "seed": 0, **sampling})
        requests = (make_request(client, ZeroShot("{question}"), example, settings) for example in examples)
        await dispatch(client, (part for request in requests for part in request.split(1)), record, 1)
        await client.close()

    asyncio.run(go())
    return texts


def test_a_completion_does_not_depend_on_its_batch(folder: Path) -> None:
    alone = _texts(Local(str(folder), batch_size=1), _examples(12), samples=2)
    assert len(set(alone.values())) > 12
    assert _texts(Local(str(folder), batch_size=5), _examples(12), samples=2) == alone
    assert _texts(Local(str(folder), batch_size=24), _examples(12), samples=2) == alone


def test_batches_are_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, generate = [], Student.generate

    def spy(self: Any, prompts: Any, *args: Any, **settings: Any) -> Any:
        sizes.append(len(prompts))
        return generate(self, prompts, *args, **settings)

    monkeypatch.setattr(Student, "generate", spy)
    _texts(Local(str(folder), batch_size=5), _examples(4), samples=6)
    assert sizes == [5, 5, 5, 5, 4]


def test_another_seed_gives_other_samples_and_temperature_0_is_greedy(folder: Path) -> None:
    one, two = (_texts(Local(str(folder)), _examples(8), seed=seed) for seed in (0, 1))
    assert sum(one[id] != two[id] for id in one) >= 7
    cold, colder = (_texts(Local(str(folder)), _examples(4), temperature=t) for t in (0.0, 1e-4))
    assert cold == colder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("Two", return_tensors="pt")
    ids = hub.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert cold["q0/0"] == tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_first_token_is_drawn_from_the_softmax(temperature: float, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("Two", return_tensors="pt")).logits[0, -1]
    shares = (logits / temperature).softmax(-1)
    expected = Counter[str]()
    for token, share in enumerate(shares.tolist()):
        expected[tokenizer.decode([token], skip_special_tokens=True).strip()] += share  # type: ignore[assignment]
    count = 1500
    settings = {"samples": count, "max_tokens": 1, "temperature": temperature}
    drawn = Counter(_texts(Local(str(folder), batch_size=256), _examples(1), **settings).values())
    assert drawn.total() == count
    for text, share in expected.most_common(5):
        assert abs(drawn[text] / count - share) < 4 * (share * (1 - share) / count) ** 0.5  # four standard errors


def test_a_chat_template_is_used_if_there_is_one(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    client = Local(str(folder))
    asyncio.run(client.open())
    turns = [{"role": "user", "content": "Q: <|end|>"}, {"role": "assistant", "content": "A."},
             {"role": "user", "content": "Q2 "}]  # fmt: skip
    tokenizer = client._student.tokenizer
    assert tokenizer.decode(client._encode(turns)) == "Q: <|end|> A.\n\nQ2"
    assert tokenizer.eos_token_id not in client._encode(turns)  # spelled out in a question, it is plain text
    chatty = AutoTokenizer.from_pretrained(folder)
    chatty.chat_template = CHAT
    client._student.tokenizer = chatty
    assert chatty.decode(client._encode(turns)) == "<|user|>Q: <|end|><|assistant|>A.<|user|>Q2 <|assistant|>"
    chatty.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}" + CHAT
    with pytest.raises(UserError, match=r"got: No system \(client\.name\)\. Leave prompt\.system out"):
        client._encode([{"role": "system", "content": "Think."}, *turns])
    assert client._encode(turns)  # the remedy


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory")]
)
def test_a_full_gpu_is_named_with_what_to_change(
    folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Local, "_generate", fail)
        with pytest.raises(UserError, match=r"Lower client\.batch_size \(it is 16\)"):
            _texts(Local(str(folder)), _examples(2))
    monkeypatch.setattr(torch.nn.Module, "to", fail)
    with pytest.raises(
        UserError, match=r"Expected enough memory on cpu for .*: CUDA .*out of memory\.? Stop what else"
    ):
        asyncio.run(Local(str(folder), device="cpu").open())


def test_a_prompt_that_fills_the_context_is_a_failed_question(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    questions = {"a": "Two?", "b": "x " * 200}
    lines = [json.dumps({"id": id, "question": text, "answer": "#### 2"}) for id, text in questions.items()]
    path.write_text("\n".join(lines) + "\n")
    assert _teach(path, folder, tmp_path, "--keep", "Everything", "--prompt.text", "{question}") == 0
    results = {row["id"]: row for row in rows(tmp_path / "out.records")}
    assert "the context has 128" in results["b"]["error"]
    assert results["a"]["finish"] in ("stop", "length")
    assert len(rows(tmp_path / "out.jsonl")) == 1


def _teach(path: Path, model: Path, out: Path, *words: str) -> int:
    source = {"class_path": "Files", "init_args": {"path": str(path), "task": "gsm8k"}}
    client = {"class_path": "Local", "init_args": {"name": str(model), "batch_size": 4}}
    try:
        return main(["teach", "--questions", json.dumps(source), "--client", json.dumps(client),
                     "--out", str(out / "out.jsonl"), "--max_tokens", "12", *words])  # fmt: skip
    except SystemExit as stop:
        return int(stop.code or 0)


def _teach_student(model: Path, out: Path, size: int, *words: str) -> int:
    source = {"class_path": "Generated", "init_args": {"task": "coin_flip", "size": size}}
    client = {"class_path": "Local", "init_args": {"name": str(model)}}
    prompt = {"class_path": "ZeroShot", "init_args": {"text": "{question}"}}
    return main(["teach", "--questions", json.dumps(source), "--client", json.dumps(client), "--prompt",
                 json.dumps(prompt), "--out", str(out / "own.jsonl"), "--max_tokens", "12", "--temperature", "0",
                 "--keep", "Everything", *words])  # fmt: skip


def test_a_student_is_its_own_teacher(run: Callable[..., int], tmp_path: Path) -> None:
    """It is prompted with its training template, and a student is trained on its completions."""
    assert run("fit", "--trainer.max_epochs", 1) == 0
    assert _teach_student(tmp_path / "tiny" / "student", tmp_path, 10, "--samples", "2", "--temperature", "1") == 0
    assert len(rows(tmp_path / "own.jsonl")) > 10
    own = json.dumps([{"class_path": "Files", "init_args": {"path": str(tmp_path / "own.jsonl"), "task": "coin_flip"}}])
    assert run("fit", "--run", "again", "--data.train", own, "--trainer.max_epochs", 1, "--evaluate", "false") == 0


def test_stage_markers_of_a_student_are_removed(run: Callable[..., int], tmp_path: Path) -> None:
    """The student does write them: transformers shows them in the same completions."""
    words = ["--data.stage_sampling", "all", "--data.test", "null", "--trainer.max_epochs", 15]
    assert run("fit", "--model", "CWT", *words) == 0
    folder = tmp_path / "tiny" / "student"
    assert _teach_student(folder, tmp_path, 10) == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    named = 0
    questions = {row.id: row.question for row in generate("coin_flip", split="train", size=10)}
    for row in rows(tmp_path / "own.records"):
        prompt = tokenizer(PLAIN.format(question=questions[row["id"]]), return_tensors="pt")
        ids = hub.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        named += "[1]" in text
        assert row["text"] == " ".join(re.sub(r"\[\d+\]", "", text).split())
    assert named > 5


def test_the_prompt_of_a_student_is_its_training_prompt(folder: Path) -> None:
    from skipthinking.data.encoding import Codec, Plain
    from skipthinking.data.steps import Sentences

    client, example = Local(str(folder)), generate("coin_flip", split="train", size=1)[0]
    asyncio.run(client.open())
    codec = Codec(tokenizer=client._student.tokenizer, template=Plain(), splitter=Sentences())
    turns = ZeroShot(PLAIN).messages(example)
    assert client._encode(turns) == codec.prompts([example])[0].tolist()


def test_a_retrained_student_is_asked_again(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "Two?", "answer": "#### 2"}) + "\n")
    counts = []
    for change in (0.0, 0.0, 0.1):
        weights = load_file(copy / "model.safetensors")
        save_file(
            {name: value + change for name, value in weights.items()}, copy / "model.safetensors", {"format": "pt"}
        )
        assert _teach(path, copy, tmp_path, "--keep", "Everything") == 0
        counts.append(len(rows(tmp_path / "out.records")))
    assert counts == [1, 1, 2]


def test_an_unavailable_device_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "Two?", "answer": "#### 2"}) + "\n")
    assert _teach(path, folder, tmp_path, "--client.device", "cuda:77") == 2
    assert "client.device=cuda:77" in capsys.readouterr().err.splitlines()[-1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "Two?", "answer": "#### 2"}) + "\n")
    assert _teach(path, tmp_path / "nowhere", tmp_path) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "nowhere" in message
    assert "Fix client.name" in message
    assert "model.student" not in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["q.jsonl"]
    with pytest.raises(UserError, match="batch_size"):
        Local("x", batch_size=0)
