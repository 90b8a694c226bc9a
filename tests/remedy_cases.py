"""Messages that name a setting: what brings each of them about, and what it says to do."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from conftest import TINY
from jsonargparse import Namespace
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, StrategyRegistry
from remedies import (
    LEAVE_OUT,
    Provoke,
    build,
    checked,
    command,
    method,
    prior,
    settings_of,
    source,
    splits,
)

from skipthinking.command_line.checks import check_precision, check_run_name, check_training, check_writable
from skipthinking.command_line.generate import generate
from skipthinking.command_line.suite import suite
from skipthinking.command_line.teach import teach
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.importing import Loaded
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.planning import plan_epoch
from skipthinking.data.questions import read_questions
from skipthinking.data.sources import Files, Generated, Hub, Source
from skipthinking.data.templates import Plain
from skipthinking.diagnosis import Diagnosis, GradientShares, Sharpness
from skipthinking.methods import CWT, KPOD, STT, FullCoT, KeypointWeighter, LongCoT, MultiTask, StepEntropy, TokenSkip
from skipthinking.methods.icot import ICoT
from skipthinking.methods.long_cot.annotators import Cuts
from skipthinking.methods.long_cot.cuts import BinaryCut
from skipthinking.methods.schedules import Warmup, optimizers
from skipthinking.methods.skip_thinking.chunks import SearchChunks
from skipthinking.methods.skip_thinking.surprisal import FirstTokens, Perplexity
from skipthinking.methods.skip_thinking.verifiers import Likelihood
from skipthinking.report.compare import compare
from skipthinking.report.show import show
from skipthinking.runs.hub import check_push
from skipthinking.runs.wandb_tables import ChunkTables, PredictionTables
from skipthinking.students import FromScratch, Pretrained
from skipthinking.students.compiling import compile_layers
from skipthinking.students.packing import layout_of
from skipthinking.students.sharding import Sharded, check_strategy
from skipthinking.tasks import generate as generate_examples
from skipthinking.tasks import get_task
from skipthinking.teacher.choosing import Shortest
from skipthinking.teacher.client import Sampling
from skipthinking.teacher.endpoint import Endpoint
from skipthinking.teacher.local import Local
from skipthinking.teacher.prompts import FewShot, Rewrite, ZeroShot
from skipthinking.teacher.retries import RetryPolicy, TransientError

ANNOTATED = {"id": "a", "question": "2?", "steps": ["It is 2."], "answer": "2"}
GOOD = {"question": "What is 1 + 1?", "rationale": "One and one. That makes 2.", "answer": "2"}
NO_RATIONALE = {"question": "What is 1 + 1?", "answer": "2"}
FEW = ["--data.val_size", "0", "--data.test", "{}"]
SUMS, COINS = Generated("arithmetic", size=3), Generated("coin_flip", size=3)
WORLD = {  # files that a remedy may name
    "good.jsonl": json.dumps(GOOD),
    "q.txt": "2?",
    "own.yaml": "data: {init_args: {template: {class_path: Plain, init_args: {prompt: 'Q: {question}'}}}}",
    "student/config.json": '{"model_type": "gpt2"}',
    "bare.jsonl": json.dumps(NO_RATIONALE),
    "steps.jsonl": f"{json.dumps(GOOD)}\n{json.dumps({**GOOD, 'question': 'What is 2?', 'rationale': ' '})}",
}
SPARE = {"samples": 1, "temperature": 0.7, "max_tokens": 9, "seed": 0}
SECRET = "https://user:password@127.0.0.1/v1"


@dataclass(frozen=True)
class Case:
    """A message, what brings it about, and what it says to do where the message itself has no value for it."""

    part: str
    provoke: Provoke
    by_hand: list[dict[str, Any]] = field(default_factory=list)
    later: str = ""  # words of the error that comes next


def _file(name: str, text: str) -> Any:
    def write(world: Path) -> str:
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        (world / name).write_text(text)
        return str(world / name)

    return write


def _rows(name: str, *rows: dict[str, Any]) -> Any:
    return _file(name, "".join(f"{json.dumps(row)}\n" for row in rows))


def _train(name: str) -> str:
    return json.dumps([{"class_path": "Files", "init_args": {"path": f"WORLD/{name}", "task": "gsm8k"}}])


def _ask(row: dict[str, Any]) -> Provoke:
    """A file that is read for training, or as the remedy says by predict --questions."""

    def provoke(world: Path, settings: dict[str, Any]) -> None:
        source(row)(world, {})

    return lambda world, settings: bool(read_questions(world / "rows.jsonl")) if settings else provoke(world, {})


def _diagnosed(world: Path, settings: dict[str, Any]) -> None:
    trainer: Any = SimpleNamespace(world_size=settings.get("trainer.devices", 2))
    Diagnosis().setup(trainer, L.LightningModule(), "fit")


def _config(student: Pretrained) -> bool:
    return bool(student.config)


def _two_files(world: Path) -> str:
    _file("pair/a.gguf", "")(world)
    return str(Path(_file("pair/b.gguf", "")(world)).parent)


def _loaded(files: Files) -> str:
    return files.load().unread


class _Empty(Source):
    def load(self) -> Loaded:
        return Loaded(examples=[], description="empty")


def _placed(hub: Hub) -> None:
    hub._place(get_task(hub.task))


def _without_sklearn(world: Path, settings: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda *_: None)
        _stages(4)(world, settings)


def _prepared(made: FromScratch) -> None:
    made.prepare(["It is 7."])
    assert made.config


def _packed(world: Path, settings: dict[str, Any]) -> None:
    student = FromScratch("t5", {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_layers": 1, "num_heads": 2}, vocab_size=512)
    student.prepare(["It is 7."])
    student.build()
    layout_of(student, settings.get("data.packing", True))


def _no_layers(world: Path, settings: dict[str, Any]) -> None:
    if settings.get("model.student.compile", True):
        compile_layers(torch.nn.Linear(1, 1))


def _sharded(world: Path, settings: dict[str, Any]) -> None:
    student = SimpleNamespace(model=torch.nn.Linear(1, 1), compiled=settings.get("model.student.compile", True))
    strategy = Sharded()
    strategy._lightning_module = SimpleNamespace(student=student, named_parameters=lambda: [])  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skipthinking.students.sharding.fully_shard", lambda *_, **__: None)
        patch.setattr(Sharded, "device_mesh", {"data_parallel": None})
        patch.setattr(Sharded.__base__, "setup", lambda *_: None)
        strategy.setup(None)  # type: ignore[arg-type]


def _strategy(world: Path, settings: dict[str, Any]) -> None:
    known = {"fsdp": FSDPStrategy, "ddp": DDPStrategy, "fsdp2": lambda: StrategyRegistry.get("fsdp2")}
    check_strategy(known[settings.get("trainer.strategy", "fsdp")]())


def _shots(prompt: FewShot) -> None:
    prompt.shots(SUMS.load().examples[0])


def _compared(**wrong: Any) -> Provoke:
    return lambda world, settings: compare("nowhere", **{**wrong, **settings})


def _writable(world: Path, settings: dict[str, Any]) -> None:
    check_writable(Path(settings.get("runs_dir", "/proc/nowhere")))


def _pushed(token: str, repository: str = "me/student", evaluate: bool = True) -> Provoke:
    def provoke(world: Path, settings: dict[str, Any]) -> None:
        wanted = settings.get("push_to_hub", repository)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_TOKEN", settings.get("HF_TOKEN", token))
            patch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(world / "none"))
            if wanted is not LEAVE_OUT:
                check_push(wanted, settings.get("evaluate", evaluate) in (True, LEAVE_OUT))

    return provoke


def _proxy(world: Path, settings: dict[str, Any]) -> None:
    pytest.importorskip("openai")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HTTP_PROXY": "nowhere://a", **settings}.items():
            patch.setenv(name, value)
        asyncio.run(Endpoint("m", base_url="http://127.0.0.1:1/v1").open())


def _own_output(world: Path, settings: dict[str, Any]) -> None:
    questions = Files(_rows("questions.jsonl", GOOD)(world), "gsm8k")
    build(teach, questions=questions, client=Endpoint("m"), out=questions.path, dry_run=True)(world, settings)


class _Words(FromScratch):
    """A student with a tokenizer of its own."""

    trains_tokenizer = property(lambda self: False, lambda self, value: None)

    def make_tokenizer(self, *_: Any) -> Any:
        return SimpleNamespace(get_vocab=lambda: {self.architecture: 0})


def _predictor(made: KPOD) -> None:
    made.student = _Words("gpt2")
    made._check_predictor()


def _stages(epochs: int | None, **wrong: Any) -> Provoke:
    return prior(KPOD, epochs, weigh_tokens=False, weigh_difficulty=False, clusters=wrong.pop("clusters", 2), **wrong)


def _internalization(world: Path, settings: dict[str, Any]) -> str:
    note = ICoT(student=FromScratch()).shortfall(settings.get("trainer.max_epochs", 3), [12, 20])
    return note if "partial" in note else ""


def _thinking(made: LongCoT) -> None:
    template = SimpleNamespace(closing=lambda _: "</think>")
    made.codec = SimpleNamespace(template=template, tokenizer=None, inline=None)
    made.annotators()


def _cut(world: Path, settings: dict[str, Any]) -> None:
    """An epoch whose cuts shorten no trace, in a run that ends with DPO."""
    trainer = SimpleNamespace(max_epochs=settings.get("trainer.max_epochs", 5))
    owner = SimpleNamespace(trainer=trainer, warmup_epochs=1, sft_epochs=2, prefers=lambda epoch: epoch >= 3)
    row = SimpleNamespace(id="a", steps=[(0, 3), (3, 5)])
    Cuts(1, BinaryCut(), owner).report({"a": 2}, [row], None)


def _optimizers(world: Path, settings: dict[str, Any]) -> None:
    values = {"trainer.max_epochs": -1, "trainer.max_steps": -1, "model.optimizer": {"lr": 0.1}, **settings}
    total = values.get("model.scheduler.init_args.total_steps")
    trainer = SimpleNamespace(max_epochs=values["trainer.max_epochs"], max_steps=values["trainer.max_steps"])
    optimizers(
        [torch.nn.Parameter(torch.zeros(1))],
        lambda parameters: torch.optim.SGD(parameters, **values["model.optimizer"]),
        lambda optimizer: Warmup(optimizer, total_steps=total),
        trainer,
    )


def _bad_optimizer(world: Path, settings: dict[str, Any]) -> None:
    _optimizers(world, {"trainer.max_epochs": 1, "model.optimizer": {"lr": -1.0}, **settings})


def _pause(world: Path, settings: dict[str, Any]) -> None:
    longest = settings.get("client.longest_pause", 0)

    async def send() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise TransientError("busy", retry_after=0.01)

    calls: list[int] = []
    asyncio.run(RetryPolicy(2, 0.0, 0.0, longest).call(send))


def _suite(name: str, **wrong: Any) -> Provoke:
    """A suite of one run, whose folder may hold another one."""

    def provoke(world: Path, settings: dict[str, Any]) -> int:
        held = world / "runs" / "t-a-0"
        held.mkdir(parents=True, exist_ok=True)
        (held / name).write_text("")
        plan = {"methods": {"a": {}}, "tasks": {"t": {"config": str(TINY)}}, "seeds": [0]}
        path = _file("suite.yaml", json.dumps({**plan, "runs_dir": str(world / "runs")}))(world)
        return suite(path, dry_run=True, **{**wrong, **settings})

    return provoke


TEACH: dict[str, Any] = {"questions": SUMS, "client": Endpoint("m"), "out": "out.jsonl", "dry_run": True}
COLON = ["--data.template.prompt", "Q: {question}"]
DEV = ["--trainer.fast_dev_run", "1"]
ONCE = "{class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}"
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

# fmt: off
CASES = [
    # the command line
    Case("got seed_everything=", settings_of(seed_everything=-1)),
    Case("got checkpoint_every=", settings_of(checkpoint_every=0)),
    Case("got trainer.precision=",
         build(L.Trainer, check_precision, precision="bf16-true", accelerator="cpu", logger=False)),
    *(Case("Expected the name of a folder, got --run", checked(lambda settings, _: check_run_name(settings), run=run))
      for run in ("a/b", "..", "")),
    Case("got trainer.max_epochs=0", checked(check_training, trainer__max_epochs=0)),
    Case("got trainer.max_steps=0", checked(check_training, trainer__max_steps=0)),
    Case("got trainer.gradient_clip_val=", checked(check_training, trainer__gradient_clip_val=-1.0)),
    *(Case("got trainer.limit_train_batches=",
           checked(check_training, trainer__limit_train_batches=limit, trainer__accumulate_grad_batches=2))
      for limit in (1, 3, 0.5)),
    Case("got trainer.devices=", checked(check_training, trainer__devices=9999)),
    Case("for a diagnosis", _diagnosed),
    Case("of gradient shares", build(GradientShares, steps=0, core_share=0.5), [{"steps": LEAVE_OUT}]),
    Case("Expected at least 1 instance", build(Sharpness, noise=0), [{"noise": LEAVE_OUT}]),
    Case("Expected settings of the Trainer by their names", settings_of(trainer=5),
         [{"trainer": Namespace(max_epochs=10)}]),
    Case("Expected a run folder that can be written", _writable,
         [{"runs_dir": "WORLD/other"}]),
    Case("Expected a new run, got --run", command("fit", before=_file("runs/tiny/metrics.csv", "")),
         [{"ckpt_path": "last"}, {"run": "other"}]),
    Case("Expected a trained run, got no checkpoint", command("validate"), [{"untrained": True}]),
    Case("Expected --plan with fit", command("validate", "--untrained", "true", "--plan"), [{"plan": LEAVE_OUT}]),
    Case("is YAML on the command line", command("fit", "--data.template", "Plain", *COLON),
         [{"data.template": LEAVE_OUT, COLON[0][2:]: LEAVE_OUT, "config": "WORLD/own.yaml"}]),
    Case("in a file, got it in a text", command("fit", "--config", "config: own.yaml"), [{"config": "WORLD/own.yaml"}]),
    Case("got --jobs", _suite("note.txt", jobs=0)),
    Case("got --only", _suite("note.txt", only="b*"), [{"only": "t-a-0"}]),
    Case("to hold a run with the settings of", _suite("metrics.csv"), [{"runs_dir": "WORLD/other"}]),
    Case("(size). Set size: 1 or more", build(generate, task="coin_flip", size=0)),
    Case("Expected a file of JSON lines, got --out", build(teach, **{**TEACH, "out": "o.json"}), [{"out": "o.jsonl"}]),
    Case("Expected an output file other than the questions", _own_output, [{"out": "WORLD/out.jsonl"}]),
    Case("Expected stop_after of at least 1", build(teach, **TEACH, stop_after=0)),
    # files
    Case("Set rationale_key: ", source({**GOOD, "solution": "One plus one is two. It is 2."}), later="columns not"),
    Case(", set rationale_key: ", source({**NO_RATIONALE, "my_reasoning": "One and one makes two, I think. " * 4})),
    Case("Expected at least one path, got none", build(Files, _loaded, path=[], task="gsm8k"),
         [{"path": "WORLD/good.jsonl"}]),
    Case("Expected a format, got", source(GOOD, format="nope"), [{"format": "auto"}]),
    Case("Expected a row in a known format", _ask({"question": "What is 2?", "foo": 1}), [{"questions": ""}]),
    Case("Expected gold answers, got none", _ask({"question": "What is 2?", "answer": ""}), [{"questions": ""}]),
    Case("Expected a limit of at least 1", source(GOOD, limit=0), [{"limit": LEAVE_OUT}]),
    Case("Expected error or leave_out", source(GOOD, bad_rows="skip"), [{"bad_rows": "leave_out"}]),
    Case("To leave such rows out, set bad_rows: leave_out", source(GOOD, {**GOOD, "answer": "none"})),
    Case("Set task: ", source({"question": "Heads?", "rationale": "It is.", "answer": "yes", "task": "coin_flip"})),
    Case("Expected the id of a data set on the hub", build(Hub, _placed, task="coin_flip"), [{"name": "a/b"}]),
    # splits
    Case("Expected validation examples", splits("validate", train=[SUMS])),
    Case("Expected at least one test set", splits("test")),
    Case("Expected at least one training source", splits("fit")),
    Case("Expected at least one test example", splits("fit", train=[SUMS], test={"a": _Empty()}), [{"data.test": {}}]),
    Case("Expected each id in one test set", splits("test", test={"a": SUMS, "b": SUMS}), [{"data.test": {"a": SUMS}}]),
    Case("Expected at least one training example", splits("fit", train=[SUMS], test={"a": SUMS}),
         [{"data.train": [COINS]}, {"data.test": {"a": COINS}}]),
    Case("Expected the task of the questions", splits("predict", question="2?")),
    Case("a file of questions, got none", splits("predict", task="gsm8k"),
         [{"question": "2?"}, {"questions": "WORLD/q.txt"}]),
    Case("a file of questions, got both", splits("predict", task="gsm8k", question="2?", questions="q.txt"),
         [{"questions": LEAVE_OUT}, {"question": LEAVE_OUT, "questions": "WORLD/q.txt"}]),
    Case("got an empty text in --question", splits("predict", task="gsm8k", question=" "), [{"question": "2?"}]),
    Case("Expected a file of questions, got", splits("predict", task="gsm8k", questions="nowhere.txt"),
         [{"questions": "WORLD/q.txt"}]),
    *(Case("or a fraction below 1, got", splits("fit", train=[SUMS], val_size=size)) for size in (1.5, -1, -0.5)),
    *(Case("Expected examples on both sides of a split", splits("fit", train=[Generated("arithmetic", size=size)],
           val_size=wanted)) for size, wanted in ((3, 3), (3, 0.99), (1, 1), (1, 0.5))),
    # data
    Case("got n_chunks=", build(AverageChunks, n_chunks=0)),
    Case("Expected a model with a list of layers", _no_layers),
    Case("Expected layers that are not compiled", _sharded),
    Case("Expected a causal student that keeps packed instances apart", _packed),
    Case("got data.num_workers=", build(RationaleDataModule, num_workers=-1), [{"data.num_workers": 0}]),
    Case("got data.batch_size=", build(RationaleDataModule, batch_size=0), [{"data.batch_size": 1}]),
    Case("Expected a batch of at least 1, got batch_size=",
         build(plan_epoch, lengths=np.array([3]), seed=0, epoch=0, batch_size=0), [{"batch_size": 1}]),
    Case("Set data.without_steps: leave_out", command("fit", *DEV, "--data.train", _train("steps.jsonl"), *FEW)),
    Case("Expected training examples with rationales", command("fit", *DEV, "--data.train", _train("bare.jsonl"), *FEW),
         [{"model": "AnswerOnly"}]),
    Case("Set data.max_length: ", command("fit", *DEV, "--data.max_length", "5")),
    Case("got a GradientAccumulationScheduler", command("fit", *DEV, "--trainer.callbacks", ONCE),
         [{"trainer.callbacks": LEAVE_OUT, "trainer.accumulate_grad_batches": 2}]),
    Case("Choose another --model, for example CWT", command("annotate"), [{"model": "CWT"}],
         later="Expected a trained run"),
    Case("Fix data.template.init_args.prompt", build(Plain, prompt="2?"),
         [{"data.template.init_args.prompt": "{question}"}]),
    # methods
    Case("got model.max_new_tokens=", method(FullCoT, max_new_tokens=0)),
    Case("got model.budgets=", method(FullCoT, max_new_tokens=40, budgets=[0, 32, 64])),
    Case("got model.mode=full", method(STT, mode="full")),
    Case("got model.rationale_weight=", method(MultiTask, rationale_weight=-1.0)),
    Case("Expected remove_per_epoch and", method(ICoT, remove_per_epoch=0), [{"remove_per_epoch": LEAVE_OUT}]),
    Case("got model.smoothing=", method(ICoT, smoothing=0.0)),
    Case("internalization is partial", _internalization),
    Case("got model.share=", method(StepEntropy, share=2.0)),
    Case("got model.ratio=", method(TokenSkip, ratio=0.55), [{"model.ratio": 0.5}]),
    Case("Expected a marker with one {}", method(CWT, stage_marker="[{}]")),
    Case("Expected a marker with a character", method(CWT, stage_marker=" {}")),
    Case("got data.chunker: refresh_every_n_epochs=", build(SearchChunks, refresh_every_n_epochs=0),
         [{"refresh_every_n_epochs": LEAVE_OUT}]),
    Case("Expected a warm-up of 0 epochs or more", method(STT, warmup_epochs=-1),
         [{"model.warmup_epochs": LEAVE_OUT}]),
    Case("Expected gap epochs to be a part", method(STT, gap_epochs=9)),
    Case("shares from 0 to below 1", method(STT, replay=2.0), [{"model.replay": LEAVE_OUT}]),
    *(Case("Expected epochs after the warm-up, got trainer.max_epochs=", prior(STT, epochs)) for epochs in (1, 2, 6)),
    Case("got model.verifier.init_args.max_rise=", build(Likelihood, max_rise=0.0)),
    Case("got model.verifier.init_args.max_ratio=", build(Perplexity, max_ratio=1.0)),
    Case("got model.verifier.init_args: max_surprisal=", build(FirstTokens, max_surprisal=0.0),
         [{"model.verifier.init_args.max_surprisal": LEAVE_OUT}]),
    Case("got model.warmup_epochs=", method(LongCoT, sft_epochs=-1), [{"model.sft_epochs": 0}]),
    Case("got model.beta=", method(LongCoT, beta=0.0), [{"model.beta": LEAVE_OUT}]),
    Case("got model.open_thinking=", method(LongCoT, _thinking, open_thinking="<think>")),
    Case("Expected at least the warm-up", prior(LongCoT, 2, warmup_epochs=3)),
    Case("Expected shortened traces for DPO", _cut),
    Case("got model.cutter: answer_tokens=", build(BinaryCut, answer_tokens=0)),
    Case("got model.cutter: confidence=", build(BinaryCut, confidence=1.0)),
    Case("got model.scheduler: decay=", build(Warmup, optimizer=OPTIMIZER, decay="slow")),
    Case("got model.scheduler: warmup=", build(Warmup, optimizer=OPTIMIZER, warmup=2.0), [{"warmup": LEAVE_OUT}]),
    Case("Expected a run with an end", _optimizers),
    Case("Fix model.optimizer", _bad_optimizer, [{"model.optimizer": {"lr": 0.1}}]),
    Case("Expected a plateau schedule", command("fit", *DEV, "--model.scheduler", PLATEAU)),
    # KPOD
    Case("got model.weighter_epochs=", method(KPOD, weighter_epochs=0)),
    Case("got model.floor=", method(KPOD, floor=2.0)),
    Case("got model.stages=", method(KPOD, stages=0), [{"model.stages": 1}]),
    Case("got model.exponent=", method(KPOD, exponent=-1.0), [{"model.exponent": LEAVE_OUT}]),
    *(Case("half of them for the stages of KPOD", _stages(epochs)) for epochs in (1, None, -1)),
    *(Case("Expected epochs after the last stage", _stages(epochs, stages=epochs)) for epochs in (1, 3)),
    *(Case("got model.clusters=", _stages(4, clusters=clusters)) for clusters in (0, 9)),
    Case("set model.progressive: false", _without_sklearn),
    Case("Fix model.glove", _stages(4, glove="nowhere"), [{"model.glove": LEAVE_OUT}]),
    Case("for model.predictor, or leave it out", method(KPOD, _predictor, predictor=_Words("llama")),
         [{"model.predictor": LEAVE_OUT}]),
    Case("Fix model.weights, or leave it out", prior(KPOD, 4, clusters=2, weights="nowhere"),
         [{"model.weights": LEAVE_OUT}]),
    Case("of KeypointWeighter. Leave out", method(KeypointWeighter, alpha=-1.0), [{"alpha": LEAVE_OUT}]),
    Case("in KPOD model.weighter_epochs", prior(KeypointWeighter, 2, warmup_epochs=2)),
    # students
    Case("got model.student.init_args.dtype=",
         build(Pretrained, lambda made: bool(made.make_model(True)), name="nowhere", dtype="bfloat16"),
         [{"model.student.init_args.dtype": LEAVE_OUT}], later="Fix model.student.name"),
    Case("Fix model.student.name, check the network", build(Pretrained, _config, name="nowhere"),
         [{"model.student.name": "WORLD/student"}]),
    Case("fetch the file again", build(Pretrained, _config, name=_file("bad.gguf", "")),
         [{"model.student.name": "WORLD/student"}]),
    Case("a folder or a hub name beside gguf_file",
         build(Pretrained, _config, name=_file("bad.gguf", ""), gguf_file="bad.gguf"),
         [{"model.student.gguf_file": LEAVE_OUT}], later="fetch the file again"),
    Case("a GGUF file, got", build(Pretrained, _config, name="nowhere.gguf"),
         [{"model.student.name": "WORLD/student"}]),
    Case("leave it out for a model in another format",
         build(Pretrained, _config, name=lambda world: str(world / "student"), gguf_file="x.gguf"),
         [{"model.student.gguf_file": LEAVE_OUT}]),
    Case("Expected one GGUF file", build(Pretrained, _config, name=_two_files), later="fetch the file again"),
    Case("got model.student: vocab_size=", build(FromScratch, vocab_size=5), [{"vocab_size": LEAVE_OUT}]),
    Case("Fix model.student.config", build(FromScratch, _prepared, architecture="gpt2", config={"n_hed": 2}),
         [{"model.student.config": {"n_head": 2}}]),
    Case("gathers weights for evaluation", _strategy, [{"trainer.strategy": "ddp"}, {"trainer.strategy": "fsdp2"}]),
    # tables and reports
    Case("got ChunkTables.rationales=", build(ChunkTables, rationales=0)),
    Case("got PredictionTables.rows=", build(PredictionTables, rows=0)),
    Case("Expected a number of examples, got --examples", _compared(examples=-1), later="Expected finished runs"),
    Case("in points above 0, got --margin", _compared(margin=0.0, baseline="A"), later="Expected finished runs"),
    Case("got --figures", _compared(figures=""), [{"figures": "WORLD/figures"}], later="Expected finished runs"),
    Case("Fix --id, --start or --n", build(show, file=_rows("a.jsonl", ANNOTATED), start=9), [{"start": 0}]),
    # tasks
    Case("Set size: 1 or more", build(generate_examples, task="coin_flip", split="train", size=0)),
    Case("Expected a limit from 1 to the size",
         build(generate_examples, task="coin_flip", split="train", size=2, limit=3)),
    Case("beside data.test_size", splits("fit", train=[COINS], test={"held_out": SUMS}, test_size=2),
         [{"data.test": {"mine": SUMS}}]),
    Case("Set levels: ", build(generate_examples, task="coin_flip", split="train", size=1, levels=[3])),
    Case("Expected the name of a task", build(Hub, _placed, task="gsm9k"), [{"task": "gsm8k"}]),
    Case("Expected a task that can be generated", build(generate_examples, task="gsm8k", split="train", size=1),
         [{"task": "coin_flip"}]),
    # the teacher
    Case("Expected at least 1 sample and 1 token", build(Sampling, **{**SPARE, "samples": 0}), [{"samples": 1}]),
    Case("Expected a temperature of 0 or more", build(Sampling, **{**SPARE, "temperature": -1.0})),
    Case("Expected 1 sample at temperature 0", build(Sampling, **{**SPARE, "samples": 2, "temperature": 0.0})),
    Case("got keep.k=", build(Shortest, k=0)),
    Case("got client: concurrency=", build(Endpoint, model="m", concurrency=0), [{"client.concurrency": 1}]),
    Case("Remove it from client.extra", build(Endpoint, model="m", extra={"model": "x"}), [{"client.extra": {}}]),
    Case("(client.base_url, not shown)", build(Endpoint, model="m", base_url=SECRET),
         [{"client.base_url": "https://127.0.0.1/v1", "client.key_env": "MY_KEY"}]),
    Case("Expected an address such as", build(Endpoint, model="m", base_url="localhost:8000"),
         [{"client.base_url": "http://127.0.0.1:8000/v1"}]),
    Case("(client.key_env, not shown)", build(Endpoint, model="m", key_env="sk-1"), [{"client.key_env": "MY_KEY"}]),
    Case("got client: tries=", build(Endpoint, model="m", tries=0), [{"tries": LEAVE_OUT}]),
    Case("Expected a usable proxy", _proxy, [{"HTTP_PROXY": ""}]),
    Case("set client.longest_pause: ", _pause),
    Case("got evaluate=false with push_to_hub=", _pushed("hf_x", evaluate=False),
         [{"evaluate": LEAVE_OUT}, {"push_to_hub": LEAVE_OUT}]),
    Case("got push_to_hub=", _pushed("hf_x", "a/b/c")),
    Case("Expected a token of the hub", _pushed(""), [{"HF_TOKEN": "hf_x"}]),
    Case("got client.batch_size=", build(Local, name="m", batch_size=0)),
    Case("(prompt.text). Add it", build(ZeroShot, text="Think."), [{"prompt.text": "{question} Think."}]),
    Case("got prompt.shots=", build(FewShot, exemplars="a.jsonl", shots=0), [{"prompt.shots": 1}]),
    Case("set prompt.shots: ", build(FewShot, _shots, exemplars=_rows("shots.jsonl", GOOD), shots=2)),
    Case("got prompt.steps=", build(Rewrite, steps=0)),
]
# fmt: on

OTHERS = {  # words of a message: why it has no case here
    "Give token weights by --gradients.weights FILE": "tests/diagnosis/test_diagnose.py",
    "Expected attention with a second derivative": "needs flash attention, so a GPU",
    "usage: python -m skipthinking": "help, no fault",
    "usage: skipthinking": "help, no fault",
    "Name of the run: its folder is": "help, no fault",
    "Suite {name}: {count} runs": "a script of SLURM, no fault",
    "nothing is kept": "no fault",
    "chosen by a hash of the question": "a report, no fault",
    "that data.test_size holds out": "the remedy is to rename an id",
    "got default_root_dir=": "tests/runs/test_run_folder.py follows it",
    "Expected a run folder, got the current one": "tests/runs/test_run_folder.py",
    "got none. Give them in a file": "the remedy is a config, the quickstart's for fit, which test_experiments.py runs",
    "Give a config by --config": "tests/command_line/test_cli.py; the remedy is the file that was given",
    "Expected test sets by name": "tests/command_line/test_bad_input.py follows it",
    "Expected a W&B server for a sweep": "needs that server",
    "set student.turns = ": "a line of a chat template, no message",
    "look at some: python -m skipthinking show": "no fault",
    "log-likelihood under the reference": "a drawing, no fault",
    "in other batches; the rest has": "no fault",
    "model.stages: ": "a part of another message",
    "so that the run ends with SFT": "a part of another message",
    "Keep data, data.template and data.splitter unchanged": "the remedy is to undo a change",
    "by the variable TMPDIR": "needs a full disk",
    "a higher trainer.accumulate_grad_batches keeps": "needs a full GPU",
    "run fewer processes on it at a time": "needs a full GPU",
    "The run goes on with --ckpt_path last.": "tests/command_line/test_out_of_memory.py follows it",
    "Choose another --runs_dir.": "a part of another message",
    "Write to another one: --run NAME --runs_dir FOLDER": "tests/runs/test_disk.py follows it",
    "trainer.max_time ended the run": "tests/test_resume.py follows it",
    "no other process trains in": "needs another process",
    "the same command with --ckpt_path last": "tests/test_resume.py",
    "(data.template.": "tests/data/test_templates.py",
    "Use data.template: Plain": "tests/data/test_templates.py",
    "clip gradients (trainer.gradient_clip_val)": "depends on the data and the learning rate",
    "The masks collapsed": "depends on the data",
    "Expected traces with a valid prefix": "depends on the student",
    "Remove that folder to learn them again": "tests/methods/test_kpod.py",
    "Add --baseline METHOD": "tests/report/test_against.py",
    "Expected a GGUF file in a folder or on the hub": "needs the hub",
    "Fix --baseline": "tests/report/test_compare.py",
    "--allow_different_tests": "tests/report/test_compare.py",
    "Expected all weights of": "needs a damaged model; the remedy is that of a missing one",
    "which also trains": "needs several processes",
    "do not see the files of process 0": "needs several nodes; tests/annotate/test_runner.py stands in for them",
    "Expected an adapter like this student's": "the settings are those of another run",
    "Fix model.start_from or model.student": "the settings are those of another run",
    "a checkpoint that holds an adapter": "the settings are those of another run",
    "that another process writes": "needs another process",
    "If the file is no record file, give another --out": "the remedy is another file",
    "a line without key and text": "the remedy is another file",
    "--retry_failed": "tests/teacher/test_endpoint.py",
    "Fix client.model, client.base_url": "needs a server that refuses the key",
    "set keep or lenient": "depends on the teacher's answers",
    "got client.device=": "needs a machine without that device",
    "does not fit into memory": "needs a full memory",
    "Stop what else uses it": "needs a full memory",
    "Expected a list of sources": "tests/command_line/test_bad_input.py",
    "(client.name). ": "tests/teacher/test_local.py",
    "takes no custom masks": "a note; tests/students/test_continuous.py follows it",
    "it does not know the control text": "needs a trained student; tests/methods/test_modes.py",
    "Expected a token classifier": "needs a classifier; tests/methods/test_token_importance.py",
    "a label of ": "needs a classifier; tests/methods/test_token_importance.py",
}
