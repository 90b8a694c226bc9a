"""STT's two modes: what each is trained on, that evaluation asks as training did, and that both have results."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spies

from skipthinking.annotate.annotator import Notes
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Chat, Codec, Plain, Template
from skipthinking.data.prompts import Prompts
from skipthinking.data.steps import Sentences
from skipthinking.methods import STT
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.report.compare import compare
from skipthinking.students import FromScratch
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate

ROWS = generate("arithmetic", split="train", size=40)
CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
TEMPLATES = {"plain": Plain(), "chat": Chat("Think.")}
SEARCHED = 3  # the first epoch after the search


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    trained = train_tokenizer([f"{row.question} {row.rationale}" for row in ROWS], 600, 50)
    trained.chat_template, trained.bos_token = CHAT, "<|end|>"
    return trained


def connected(tokenizer: Any, template: Template, **settings: Any) -> tuple[STT, list[Encoded]]:
    """A method with a codec, and the encoded examples."""
    method = STT(student=FromScratch(), warmup_epochs=SEARCHED, gap_epochs=1, **settings)
    codec = Codec(tokenizer=tokenizer, template=template, splitter=Sentences(), prefixes=method.prompt_prefixes)
    method.connect(codec, AverageChunks(3), "all")
    return method, list(codec.encode(ROWS))


def made(method: STT, rows: list[Encoded], epoch: int) -> dict[str, Instance]:
    """The instances of an epoch, in which a search has kept the first and the last of three chunks."""
    values = [{"chunks": AverageChunks(3).chunk(row), "skips": [0, 2]} for row in rows]
    notes = [Notes(epoch=epoch, values=value, stage_sampling="all") for value in values]
    return {row.id: method.make_instances(row, note)[0] for row, note in zip(rows, notes, strict=True)}


def as_lists(instance: Instance) -> tuple[list[Any], ...]:
    return instance.prompt.tolist(), instance.tokens.tolist(), instance.weights.tolist()


@pytest.mark.parametrize("name", TEMPLATES)
def test_full_mode_has_every_chunk_and_skip_mode_the_kept_ones_after_its_text(name: str, tokenizer: Any) -> None:
    method, rows = connected(tokenizer, TEMPLATES[name], replay=0.3)
    before, after = {"plain": ("Question: ", "\nAnswer:"), "chat": ("<|end|><system>Think.\n<user>", "\n<assistant>")}[
        name
    ]
    modes = []
    for epoch in range(SEARCHED, SEARCHED + 6):
        for row, (id, found) in zip(ROWS, made(method, rows, epoch).items(), strict=True):
            assert row.id == id
            markers = [number for number in (1, 2, 3) if f"[{number}]" in tokenizer.decode(found.tokens)]
            full = tokenizer.decode(found.prompt) == f"{before}{row.question}{after}"
            assert full or tokenizer.decode(found.prompt) == f"{before}[skip] {row.question}{after}"
            assert markers == ([1, 2, 3] if full else [1, 3])
            assert found.weights.all()  # the text is in the prompt, which is never a target
            modes.append(full)
    assert 0.2 < sum(modes) / len(modes) < 0.4  # 240 draws: a share of 0.3 has a deviation of 0.03


@pytest.mark.parametrize("settings", [{}, {"control": "no_skip", "replay": 0.5}, {"control": "random_skip"}], ids=str)
def test_one_mode_has_no_text(settings: dict[str, Any], tokenizer: Any) -> None:
    method, rows = connected(tokenizer, Plain(), **settings)
    assert method.prompt_prefixes == ("",)
    for epoch in range(SEARCHED + 2):
        for row, found in zip(rows, made(method, rows, epoch).values(), strict=True):
            assert found.prompt.tolist() == tokenizer(f"Question: {row.example.question}\nAnswer:")["input_ids"]
            if epoch >= SEARCHED:  # the answer, and the tokens of each kept chunk after its marker
                kept = [1, 2, 3] if settings.get("control") == "no_skip" else [1, 3]
                spans = [AverageChunks(3).chunk(row)[number - 1] for number in kept]
                steps = [row.tokens[row.steps[i][0] : row.steps[j - 1][1]].tolist() for i, j in spans]
                marked = [[*method.codec.inline(f" [{n}]"), *step] for n, step in zip(kept, steps, strict=True)]
                shown = [*itertools.chain(*marked), *row.tokens[row.answer[0] :].tolist()]
                assert found.tokens.tolist() == shown


def test_replay_changes_nothing_before_the_search(tokenizer: Any) -> None:
    one, rows = connected(tokenizer, Plain())
    two, rows_of_two = connected(tokenizer, Plain(), replay=0.5)
    for epoch in range(SEARCHED):
        ours, theirs = made(one, rows, epoch), made(two, rows_of_two, epoch)
        assert {id: as_lists(row) for id, row in ours.items()} == {id: as_lists(row) for id, row in theirs.items()}


@pytest.mark.parametrize("mode", ["skip", "full"])
@pytest.mark.parametrize("name", [*TEMPLATES, "t5"])
def test_evaluation_asks_as_the_instances_of_its_mode_do(name: str, mode: Any, tokenizer: Any) -> None:
    """Token for token; an encoder-decoder student reads the text in its encoder."""
    from tokenizers.processors import TemplateProcessing

    end = [("<|end|>", tokenizer.eos_token_id)]
    old = tokenizer.backend_tokenizer.post_processor
    if name == "t5":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <|end|>", special_tokens=end)
    try:
        method, rows = connected(tokenizer, TEMPLATES.get(name, Plain()), replay=0.5, mode=mode)
        prompts = Prompts()
        prompts.encode(method.codec, "test/t", ROWS, method.prompt_prefixes[0])
    finally:
        tokenizer.backend_tokenizer.post_processor = old
    asked = {id: ids.tolist() for b in prompts.loader(["test/t"], 8, 0, 1) for id, ids in zip(b.ids, b.prompts)}  # noqa: B905
    trained = made(method, rows, SEARCHED)
    same = {id for id, found in trained.items() if found.prompt.tolist() == asked[id]}
    in_mode = {id for id, found in trained.items() if ("[2]" in tokenizer.decode(found.tokens)) == (mode == "full")}
    assert same == in_mode
    assert 0 < len(same) < len(ROWS)


def test_a_mode_that_was_not_trained_is_refused() -> None:
    for wrong in ({"mode": "full"}, {"replay": 1.0}, {"mode": "full", "control": "random_skip"}):
        with pytest.raises(UserError, match="replay"):
            STT(student=FromScratch(), **wrong)
    STT(student=FromScratch(), mode="full", control="no_skip")  # has no other


def test_both_modes_of_one_student_have_results(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "STT", "--model.warmup_epochs", 1, "--model.gap_epochs", 0, "--model.replay", 0.5,
             "--model.verifier", "verifiers.EveryOther", "--data.val_size", 0]  # fmt: skip
    home, change = tmp_path / "tiny", ["--model.mode", "full"]
    spies.SEEN.clear()
    assert run("fit", *words, "--trainer.callbacks+=spies.Prompts") == 0
    asked = {"skip": spies.SEEN.pop("test")}
    before = {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()}
    assert run("test", *change, config=home / "config.yaml") == 0
    asked["full"] = spies.SEEN["test"]
    assert len(asked["skip"]) == 5
    assert not [prompt for prompt in asked["skip"] if prompt in asked["full"]]
    (tmp_path / "q.txt").write_text("Is it heads?\n")
    assert run("predict", "--questions", tmp_path / "q.txt", *change, config=home / "config.yaml") == 0
    start, end = (asked["full"][0][at] for at in (0, -1))
    assert [(prompt[0], prompt[-1]) for prompt in spies.SEEN["predict"]] == [(start, end)]
    # What is there of the run's own mode is as it was.
    assert {path.name: path.read_bytes() for path in home.iterdir() if path.is_file()} == before
    own = home / "mode=full"
    assert {path.name for path in own.iterdir()} == {"predictions.jsonl", "summary.json", "answers.jsonl"}
    capsys.readouterr()
    compare(str(home), differences=True)
    out = capsys.readouterr().out
    assert re.search(r"STT, mode=full .*\n", out)
    assert '| model.init_args.mode | "skip" | "full" |' in out


def test_a_student_with_one_mode_is_not_asked_for_two(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "STT", "--model.warmup_epochs", 1, "--model.gap_epochs", 0, "--data.val_size", 0,
             "--model.verifier", "verifiers.EveryOther", "--evaluate", "false"]  # fmt: skip
    assert run("fit", *words) == 0
    config = tmp_path / "tiny" / "config.yaml"
    for change in (["--model.mode", "full", "--model.replay", 0.3], ["--model.replay", 0.3]):
        assert run("test", *change, config=config) == 2
        assert "Leave out model.replay and model.mode" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "mode=full").exists()
    assert run("test", config=config) == 0
    # A run that starts from it may learn the other mode.
    start = ["--model.start_from", tmp_path / "tiny" / "checkpoints" / "last.ckpt", "--run", "two"]
    assert run("fit", *words, *start, "--model.replay", 0.5) == 0
    assert run("test", "--model.mode", "full", config=tmp_path / "two" / "config.yaml") == 0
