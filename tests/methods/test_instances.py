"""What each method makes targets of, on examples encoded by a real tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.methods import CWT, AnswerOnly, FullCoT, MultiTask
from skipthinking.methods.base import Distiller
from skipthinking.methods.skip_thinking.stages import stage_tokens
from skipthinking.records import Encoded, UserError
from skipthinking.students.scratch import FromScratch, train_tokenizer
from skipthinking.tasks import generate


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [f"{row.question} {row.rationale}" for row in generate("arithmetic", split="train", size=50)]
    return train_tokenizer(texts, 600, 50)


def _method(kind: type[Distiller], tokenizer: Any, **settings: Any) -> tuple[Distiller, list[Encoded]]:
    method = kind(student=FromScratch(), **settings)
    codec = Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences(), prefixes=method.prefixes)
    method.use_codec(codec)
    rows = generate("arithmetic", split="train", size=12)
    return method, list(codec.encode(rows, rationales=method.needs_rationale))


def _targets(found: Any) -> list[int]:
    return found.tokens[found.weights > 0].tolist()


def test_full_cot_makes_every_completion_token_a_target(tokenizer: Any) -> None:
    method, rows = _method(FullCoT, tokenizer)
    for row in rows:
        (found,) = method.cut(row, {})
        assert _targets(found) == row.tokens.tolist()
        assert found.prompt.tolist() == row.prompts[""].tolist()
        assert found.tokens[-1] == tokenizer.eos_token_id


def test_answer_only_shows_no_token_of_the_rationale(tokenizer: Any) -> None:
    method, rows = _method(AnswerOnly, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        (found,) = method.cut(row, {})
        assert tokenizer.decode(found.tokens) == f" Therefore, the answer is {source.answer}.<|end|>"
        assert _targets(found) == found.tokens.tolist()


def test_multi_task_has_a_label_and_a_rationale_behind_their_own_prompts(tokenizer: Any) -> None:
    method, rows = _method(MultiTask, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        label, rationale = method.cut(row, {})
        assert tokenizer.decode(label.prompt).startswith("Question: [label] ")
        assert tokenizer.decode(label.tokens) == f" Therefore, the answer is {source.answer}.<|end|>"
        assert tokenizer.decode(rationale.prompt).startswith("Question: [rationale] ")
        assert tokenizer.decode(rationale.tokens) == f" {source.rationale}<|end|>"
        assert (label.term, rationale.term) == (0, 1)


@pytest.mark.parametrize("chunks", [1, 2, 4, 99])
def test_stages_partition_the_targets(chunks: int, tokenizer: Any) -> None:
    method, rows = _method(CWT, tokenizer, stage_marker=None)
    for row in rows:
        spans = AverageChunks(chunks).chunk(row)
        cuts = [method.cut(row, {"chunks": spans, "stage": stage})[0] for stage in range(len(spans) + 1)]
        assert [token for cut in cuts for token in _targets(cut)] == row.tokens.tolist()
        for stage, cut in enumerate(cuts):  # the context is what the earlier stages taught, in full
            shown = cut.tokens[: len(cut.tokens) - len(_targets(cut))]
            assert shown.tolist() == [token for earlier in cuts[:stage] for token in _targets(earlier)]
            assert not cut.weights[: len(shown)].any()


def test_with_markers_the_stages_partition_the_marked_rationale(tokenizer: Any) -> None:
    method, rows = _method(CWT, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        spans = AverageChunks(3).chunk(row)
        cuts = [method.cut(row, {"chunks": spans, "stage": stage})[0] for stage in range(len(spans) + 1)]
        texts = [tokenizer.decode(_targets(cut)) for cut in cuts]
        for number, text in enumerate(texts[:-1], 1):
            assert text.startswith(f" [{number}] ")
        unmarked = "".join(text.removeprefix(f" [{number}]") for number, text in enumerate(texts, 1))
        assert unmarked == f" {source.rationale} Therefore, the answer is {source.answer}.<|end|>"
        assert max(len(cut.prompt) + len(cut.tokens) for cut in cuts) == method.room(row, spans)


def test_one_chunk_is_full_cot(tokenizer: Any) -> None:
    full, _ = _method(FullCoT, tokenizer)
    _, rows = _method(CWT, tokenizer, stage_marker=None)
    for row in rows:
        (oracle,) = full.cut(row, {})
        stages = stage_tokens(row, AverageChunks(1).chunk(row))
        assert len(stages) == 2
        whole = instance(row.id, row.prompts[""], stages, {0, 1})
        for name in ("prompt", "tokens", "weights"):
            assert np.array_equal(getattr(whole, name), getattr(oracle, name))


@pytest.mark.parametrize(
    ("completion", "answer", "stages"),
    [
        ("[1] First. [3] Last 7. Therefore, the answer is 7.", "First. Last 7. Therefore, the answer is 7.",
         [("[1]", "First."), ("[3]", "Last 7. Therefore, the answer is 7.")]),
        ("Therefore, the answer is 7.", "Therefore, the answer is 7.", [("rationale", "Therefore, the answer is 7.")]),
        ("Lead. [2] So 4 + 3 = 7.", "Lead. So 4 + 3 = 7.", [("rationale", "Lead."), ("[2]", "So 4 + 3 = 7.")]),
    ],
)  # fmt: skip
def test_stages_that_the_student_names_are_told_apart(
    completion: str, answer: str, stages: list[tuple[str, str]], tokenizer: Any
) -> None:
    method, _ = _method(CWT, tokenizer)
    assert method.answer_text(completion).strip() == answer
    assert method.stages_of(completion) == stages


@pytest.mark.parametrize("marker", ["[{}]", " [x]", " {}{}"])
def test_a_marker_without_one_place_for_its_number_is_refused(marker: str) -> None:
    with pytest.raises(UserError, match="stage_marker"):
        CWT(student=FromScratch(), stage_marker=marker)


def test_a_negative_rationale_weight_is_refused() -> None:
    with pytest.raises(UserError, match="rationale_weight"):
        MultiTask(student=FromScratch(), rationale_weight=-1)
