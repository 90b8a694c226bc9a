"""Every YAML under experiments/ is parsed, built with a tiny random model of its architecture, and stepped once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoint_notes import annotation
from conftest import ROOT

from skipthinking.command_line.layers import layers
from skipthinking.data import sources
from skipthinking.data.templates import Chat
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
SHARED = sorted((ROOT / "experiments" / "shared").glob("*.yaml"))  # files that several experiments extend
ADDED = sorted((ROOT / "experiments" / "with").glob("*.yaml"))  # files that are added to another config
OTHERS = {"shared", "with", "suites", "sweeps", "teach", "harness"}  # not experiments; most are tested elsewhere
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
STUDENTS = {  # hub name: architecture and config of its stand-in; None: only a tokenizer
    "microsoft/Phi-3-mini-4k-instruct": ("phi3", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                                  "num_attention_heads": 2, "num_key_value_heads": 2}),
    "microsoft/Phi-3-mini-128k-instruct": ("phi3", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                                    "num_attention_heads": 2, "num_key_value_heads": 2}),
    "Qwen/Qwen2-1.5B-Instruct": ("qwen2", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                           "num_attention_heads": 2, "num_key_value_heads": 2}),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                           "num_attention_heads": 2, "num_key_value_heads": 2}),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                                   "num_attention_heads": 2, "num_key_value_heads": 2}),
    "openai-community/gpt2": ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2}),
    "huggyllama/llama-7b": ("llama", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                      "num_attention_heads": 2, "num_key_value_heads": 2}),
    "google/flan-t5-large": ("t5", {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    "google/flan-t5-base": ("t5", {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}),
    "google/flan-t5-small": None,
    "students/smollm2-135m": ("llama", {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                                        "num_attention_heads": 2, "num_key_value_heads": 2}),
}  # fmt: skip


def _stand_in(folder: Path, model: tuple[str, dict[str, Any]] | None) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    rows = generate("arithmetic", split="train", size=30)
    tokenizer = train_tokenizer([f"{row.question} {row.rationale}" for row in rows], 600, 50)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    if model is not None:
        ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = AutoConfig.for_model(model[0], vocab_size=len(tokenizer), **ends, **model[1])
        if model[0] == "t5":
            config.decoder_start_token_id = tokenizer.pad_token_id
        torch.manual_seed(0)
        kind = AutoModelForSeq2SeqLM if model[0] == "t5" else AutoModelForCausalLM
        kind.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small stand-ins at the hub names and data paths of the experiments."""
    folder = tmp_path_factory.mktemp("world")
    for name, model in STUDENTS.items():
        _stand_in(folder / name, model)
    train, test = (generate("arithmetic", split=split, size=12) for split in ("train", "test"))
    svamp, gsm8k, hub = folder / "data" / "svamp", folder / "data" / "gsm8k", folder / "openai" / "gsm8k"
    for path in (svamp, gsm8k, hub / "main"):
        path.mkdir(parents=True)
    rationales = [{"instruction": r.question, "output": f" {r.rationale} The answer is {r.answer}"} for r in train]
    for level in (4, 5, 6):
        (svamp / f"chatgpt_level{level}.json").write_text(json.dumps(rationales))
    lines = [{"question": r.question, "rationale": r.rationale, "answer": r.answer} for r in train]  # as teach writes
    (svamp / "concise_smollm2.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    problems = [{"ID": f"chal-{i}", "Body": r.question.rpartition(". ")[0] + ".", "Equation": "",
              "Question": r.question.rpartition(". ")[2], "Answer": float(r.answer), "Type": ""}
             for i, r in enumerate(test)]  # fmt: skip
    (svamp / "test.json").write_text(json.dumps(problems))
    for split, rows in {"train": train, "test": test}.items():
        lines = [json.dumps({"question": r.question, "answer": f"{r.rationale}\n#### {r.answer}"}) for r in rows]
        (gsm8k / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        shutil.copy(gsm8k / f"{split}.jsonl", hub / "main" / f"{split}.jsonl")
    _reasoning_traces(folder)
    files = "".join(f"  - split: {split}\n    path: main/{split}.jsonl\n" for split in ("train", "test"))
    (hub / "README.md").write_text(f"---\nconfigs:\n- config_name: main\n  data_files:\n{files}---\n")
    return folder


def _reasoning_traces(folder: Path) -> None:
    """Writes rows in the formats of OpenR1-Math and MATH-500."""
    train, test = (generate("long_arithmetic", split=split, size=12, levels=[1, 1]) for split in ("train", "test"))
    rows = {"open-r1/OpenR1-Math-220k": ("train", [
        {"problem": r.question, "solution": r.rationale, "answer": r.answer, "is_reasoning_complete": [True],
         "generations": [f"<think>\n{r.rationale}\n</think>\n\nSo it is \\boxed{{{r.answer}}}."],
         "correctness_math_verify": [True]} for r in train
    ]), "HuggingFaceH4/MATH-500": ("test", [
        {"problem": r.question, "solution": r.rationale, "answer": r.answer, "level": 1} for r in test
    ])}  # fmt: skip
    for name, (split, lines) in rows.items():
        (folder / name / "data").mkdir(parents=True)
        (folder / name / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        files = f"  data_files:\n  - split: {split}\n    path: data/{split}.jsonl\n"
        (folder / name / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{files}---\n")


def _own_words(path: Path) -> list[str]:
    """Options for long CoT: a random student is never right, so a cutter that asks it would drop every trace."""
    text = "".join(file.read_text() for file in layers(path))
    return ["--model.cutter", "cutters.ByPlace"] if "class_path: LongCoT" in text else []


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated sets of 100 examples at most: annotators process the full training set before the first step."""

    def fewer(task: str, *, size: int, **settings: Any) -> Any:
        return generate(task, size=min(size, 100), **settings)

    monkeypatch.setattr(sources, "generate", fewer)


def test_there_are_experiments() -> None:
    names = {path.stem for path in EXPERIMENTS}
    students = ("phi3", "qwen2", "gpt2", "flan_t5")
    assert names >= {
        f"{method}_{student}" for method in ("full_cot", "answer_only", "cwt", "stt", "kpod") for student in students
    }
    assert names >= {"quickstart", "full_cot_svamp", "cwt_svamp", "full_cot_gsm8k_t5"}
    assert names >= {"kpod_quick", "kpod_llama7b", "kpod_flan_t5_large", "kpod_svamp"}
    assert names >= {f"long_cot_{student}" for student in ("quick", "phi3", "qwen2", "qwen2.5_7b", "llama3.1_8b")}
    shown = ("full_cot", "answer_only", "cwt", "stt", "kpod", "long_cot", "icot", "token_skip", "step_entropy")
    assert names >= {f"{method}_smollm2{data}" for method in shown for data in ("", "_gsm8k")}
    assert names >= {"icot_qwen2", "token_skip_qwen2", "step_entropy_qwen2", "concise_smollm2"}
    assert {path.stem for path in ADDED} >= {"wandb", "svamp_level6"}
    assert {path.stem for path in ADDED} >= {f"prompt_{name}" for name in ("plain", "step_by_step", "concise", "draft")}
    folders = {
        path.parent.relative_to(ROOT / "experiments").as_posix() for path in (ROOT / "experiments").rglob("*.yaml")
    }
    assert folders <= {".", *OTHERS}


def test_every_shared_file_is_used_at_least_twice() -> None:
    layers_of_each = [layers(path) for path in EXPERIMENTS]
    for part in SHARED:
        used = sum(part.resolve() in {file.resolve() for file in files} for files in layers_of_each)
        assert used >= 2, part.name


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_takes_a_step_and_is_tested(
    path: Path, world: Path, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(world)
    words = ["--run", "it", "--trainer.max_steps", 1, "--trainer.accelerator", "cpu", "--data.val_size", 2]
    short = ["--model.max_new_tokens", 4, "--model.latency_examples", 1, "--trainer.enable_progress_bar", "false"]
    assert run("fit", *words, *short, *_own_words(path), config=path) == 0
    found = json.loads((tmp_path / "it" / "summary.json").read_text())
    assert found["steps"] == 1
    assert found["target_tokens"] > 0
    assert (tmp_path / "it" / "student" / "config.json").exists()
    assert "chunk search: none" not in capsys.readouterr().out  # configs with chunk search do search


@pytest.mark.parametrize("path", [path for path in EXPERIMENTS if _own_words(path)], ids=lambda path: path.stem)
def test_long_cot_trains_with_sft_and_then_dpo(
    path: Path, world: Path, run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(world)
    words = ["--run", "it", "--trainer.accelerator", "cpu", "--data.val_size", 2, "--data.batch_size", 4,
             "--model.warmup_epochs", 0, "--model.sft_epochs", 1, "--trainer.max_epochs", 2, "--evaluate", "false",
             "--trainer.enable_progress_bar", "false", "--trainer.accumulate_grad_batches", 1,
             "--trainer.limit_train_batches", 2]  # fmt: skip
    assert run("fit", *words, *_own_words(path), config=path) == 0
    assert " pairs; " in capsys.readouterr().out
    assert any(annotation(tmp_path / "it", "reference").values())


def test_every_experiment_says_how_to_run_it() -> None:
    for path in EXPERIMENTS:
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        name = path.relative_to(ROOT)
        assert any(line == f"#   python -m skipthinking fit --config {name}" for line in header), name


@pytest.mark.parametrize(
    "path", [path for path in ADDED if path.stem.startswith("prompt_")], ids=lambda path: path.stem
)
def test_every_prompt_asks_the_question(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())["data"]["init_args"]["template"]
    assert settings["class_path"] == "Chat"
    tokenizer = train_tokenizer(["2"], 512, 0)
    tokenizer.chat_template = CHAT
    assert "<|user|>Is it 2?" in Chat(**settings["init_args"]).render("Is it 2?", tokenizer)
    assert f"--config {path.relative_to(ROOT)} --untrained true" in path.read_text()


def test_an_untrained_student_answers_a_prompt_of_its_own(
    run: Callable[..., int], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    added = ["--config", ROOT / "experiments" / "with" / "prompt_draft.yaml", "--untrained", "true"]
    short = ["--model.max_new_tokens", 4, "--model.latency_examples", 0, "--trainer.accelerator", "cpu"]
    assert run("test", *added, *short, config=ROOT / "experiments" / "full_cot_smollm2.yaml") == 0
    assert (tmp_path / "prompt_draft" / "predictions.jsonl").exists()


def test_wandb_gets_the_full_config_offline(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    seen: list[dict[str, Any]] = []
    finish = wandb.sdk.wandb_run.Run.finish
    monkeypatch.setattr(
        wandb.sdk.wandb_run.Run, "finish", lambda self, *a, **k: (seen.append(dict(self.config)), finish(self, *a, **k))
    )
    added = ROOT / "experiments" / "with" / "wandb.yaml"
    assert run("fit", "--config", added, "--trainer.max_epochs", 1) == 0
    wandb.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    config = seen[0]
    assert config["model"]["class_path"] == "skipthinking.methods.FullCoT"
    assert config["data"]["init_args"]["batch_size"] == 4
    assert config["data"]["init_args"]["stage_sampling"] == "cycle"  # defaults too
    assert (tmp_path / "tiny" / "metrics.csv").exists()
