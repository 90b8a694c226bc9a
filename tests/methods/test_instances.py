"""What each method makes targets of, on examples encoded by a real tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import pytest

from skipthinking.annotate.annotator import Notes
from skipthinking.data.batches import instance_length
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.methods import CWT, KPOD, STT, AnswerOnly, FullCoT, KeypointWeighter, LongCoT, MultiTask
from skipthinking.methods.base import Distiller
from skipthinking.methods.skip_thinking.stages import Stages, split_stages, stage_tokens
from skipthinking.records import Encoded, Instance, Span, UserError
from skipthinking.students.scratch import FromScratch, train_tokenizer
from skipthinking.tasks import generate


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [f"{row.question} {row.rationale}" for row in generate("arithmetic", split="train", size=50)]
    return train_tokenizer(texts, 600, 50)


def _method(kind: type[Distiller], tokenizer: Any, **settings: Any) -> tuple[Distiller, list[Encoded]]:
    method = kind(student=FromScratch(), **settings)
    codec = Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences(), prefixes=method.prompt_prefixes)
    method.connect(codec, AverageChunks())
    rows = generate("arithmetic", split="train", size=12)
    return method, list(codec.encode(rows, rationales=method.needs_rationale))


def _every_stage(method: Any, row: Encoded, spans: Sequence[Span]) -> list[Instance]:
    """The instances of as many epochs as there are stages, in the order of the stages."""
    made = []
    for epoch in range(len(spans) + 1):
        made += method.make_instances(row, Notes(epoch=epoch, values={"chunks": spans}))
    return sorted(made, key=lambda found: len(found.tokens))


def _targets(found: Any) -> list[int]:
    return found.tokens[found.weights > 0].tolist()


def test_full_cot_makes_every_completion_token_a_target(tokenizer: Any) -> None:
    method, rows = _method(FullCoT, tokenizer)
    for row in rows:
        (found,) = method.make_instances(row, Notes())
        assert _targets(found) == row.tokens.tolist()
        assert found.prompt.tolist() == row.prompts[""].tolist()
        assert found.tokens[-1] == tokenizer.eos_token_id


def test_answer_only_shows_no_token_of_the_rationale(tokenizer: Any) -> None:
    method, rows = _method(AnswerOnly, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        (found,) = method.make_instances(row, Notes())
        assert tokenizer.decode(found.tokens) == f" Therefore, the answer is {source.answer}.<|end|>"
        assert _targets(found) == found.tokens.tolist()


def test_multi_task_has_a_label_and_a_rationale_after_their_own_prompts(tokenizer: Any) -> None:
    method, rows = _method(MultiTask, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        label, rationale = method.make_instances(row, Notes())
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
        cuts = _every_stage(method, row, spans)
        assert [token for cut in cuts for token in _targets(cut)] == row.tokens.tolist()
        for stage, cut in enumerate(cuts):  # the context is what the earlier stages taught, in full
            shown = cut.tokens[: len(cut.tokens) - len(_targets(cut))]
            assert shown.tolist() == [token for earlier in cuts[:stage] for token in _targets(earlier)]
            assert not cut.weights[: len(shown)].any()


def test_with_markers_the_stages_partition_the_marked_rationale(tokenizer: Any) -> None:
    method, rows = _method(CWT, tokenizer)
    for row, source in zip(rows, generate("arithmetic", split="train", size=12), strict=True):
        spans = AverageChunks(3).chunk(row)
        cuts = _every_stage(method, row, spans)
        texts = [tokenizer.decode(_targets(cut)) for cut in cuts]
        for number, text in enumerate(texts[:-1], 1):
            assert text.startswith(f" [{number}] ")
        unmarked = "".join(text.removeprefix(f" [{number}]") for number, text in enumerate(texts, 1))
        assert unmarked == f" {source.rationale} Therefore, the answer is {source.answer}.<|end|>"
        assert max(map(instance_length, cuts)) == method.chunks.tokens(row, Notes(values={"chunks": spans}))


def test_one_chunk_is_full_cot(tokenizer: Any) -> None:
    full, _ = _method(FullCoT, tokenizer)
    _, rows = _method(CWT, tokenizer, stage_marker=None)
    for row in rows:
        (oracle,) = full.make_instances(row, Notes())
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
def test_stages_that_the_student_names_are_separated(
    completion: str, answer: str, stages: list[tuple[str, str]], tokenizer: Any
) -> None:
    method, _ = _method(CWT, tokenizer)
    read = method.read_completion(completion, None)
    assert read.text.strip() == answer
    assert read.stages == stages


@pytest.mark.parametrize(
    ("completion", "skipped"),
    [
        ("[1] One. [3] Three. Therefore, the answer is 7.", 1 / 3),
        ("[2] Two. Therefore, the answer is 7.", 2 / 3),
        ("Therefore, the answer is 7.", 1.0),  # the answer phrase names the answer stage
        ("It is 7. Therefore, the answer is 7.", None),  # of which stage?
        ("The answer is 7.", None),
        ("", None),
    ],
)
def test_what_is_skipped_is_known_if_a_stage_is_named(completion: str, skipped: float | None, tokenizer: Any) -> None:
    method, rows = _method(CWT, tokenizer)
    method.chunker = AverageChunks(3)
    method.annotators()
    for row in rows:
        read = method.read_completion(completion, row)
        assert (read.skipped, read.chunks) == (pytest.approx(skipped) if skipped else None, 3)
    assert method.read_completion(completion, None).chunks is None
    plain, _ = _method(FullCoT, tokenizer)
    assert plain.read_completion(completion, rows[0]).chunks is None


@pytest.mark.parametrize("marker", ["[{}]", " [x]", " {}{}"])
def test_a_marker_without_one_place_for_its_number_is_refused(marker: str) -> None:
    with pytest.raises(UserError, match="stage_marker"):
        CWT(student=FromScratch(), stage_marker=marker)


@pytest.mark.parametrize("marker", [" {}", " {}]", " [{}", " 1{}]", " [{}2", " {} ", " [{} "])
def test_a_marker_without_a_non_digit_on_both_sides_of_its_number_is_refused(marker: str) -> None:
    """Without them numbers of the text would be taken for markers, and removed from the answer before grading."""
    with pytest.raises(UserError, match="stage_marker"):
        CWT(student=FromScratch(), stage_marker=marker)


@pytest.mark.parametrize("marker", [" [{}]", " <{}>", " Step {}:", " ({})."])
def test_an_accepted_marker_leaves_every_number_of_the_answer(marker: str) -> None:
    method = CWT(student=FromScratch(), stage_marker=marker)
    method.chunker = AverageChunks(12)  # with 4 chunks there is no stage 12
    read = method.read_completion(f"{marker.format(1)} 3 + 4 = 7.{marker.format(12)} So 12. The answer is 19.", None)
    assert read.text.strip() == "3 + 4 = 7. So 12. The answer is 19."


@pytest.mark.parametrize("control", [None, "no_skip"])
@pytest.mark.parametrize(("warmup", "gaps", "epochs"), [(10, 5, 15), (7, 3, 12), (3, 0, 8)])
def test_every_phase_shows_every_stage_equally_often(
    warmup: int, gaps: int, epochs: int, control: Any, tokenizer: Any
) -> None:
    method, rows = _method(STT, tokenizer, warmup_epochs=warmup, gap_epochs=gaps, control=control)
    for row, kept in zip(rows, [[], [0], [1, 3], [0, 1, 2], [0, 1, 2, 3]] * 2, strict=False):
        spans = AverageChunks(4).chunk(row)
        values = {"chunks": spans, "skips": kept}
        texts = [tokenizer.decode(stage) for stage in method.stages.tokens(row, spans)]
        kept = list(range(4)) if control else kept
        phases = [(0, warmup - gaps, range(5)), (warmup, epochs, [*kept, 4])]
        for start, end, stages in phases if gaps or not control else [(0, epochs, range(5))]:
            counts = Counter()
            for epoch in range(start, end):
                (cut,) = method.make_instances(row, Notes(epoch=epoch, seed=2, values=values))
                counts[texts.index(tokenizer.decode(_targets(cut)))] += 1
            low, rest = divmod(end - start, len(stages))
            assert set(counts) <= set(stages)
            assert all(low <= counts[stage] <= low + (rest > 0) for stage in stages)


@pytest.mark.parametrize(
    ("completion", "numbers", "text"),
    [
        # What is no stage start: a citation, an index, a list, a value, the answer itself.
        ("[1] As [2] says, 3 + 4 = 7. [3] So 7.", [1, 3], "As [2] says, 3 + 4 = 7. So 7."),
        ("[1] Take a[2] and b [3]. The list is [2] then.", [1], "Take a[2] and b [3]. The list is [2] then."),
        ("[1] Two items:\n[2] apples\n[3] pears", [1], "Two items:\n[2] apples\n[3] pears"),
        ("[1] x = [3]\nSo 3. [2] Done.", [1, 2], "x = [3]\nSo 3. Done."),
        ("[1] First. Therefore, the answer is [3].", [1], "First. Therefore, the answer is [3]."),
        ("[1] First. Therefore, the answer is: [3]", [1], "First. Therefore, the answer is: [3]"),
        ("[1] He wrote it. [2], says she.", [1], "He wrote it. [2], says she."),
        ("[1] The lists [2] [3] are equal. [4] So.", [1, 4], "The lists [2] [3] are equal. So."),
        # Numbers ascend strictly and are at most the number of chunks; names have no leading zero.
        ("[2] One. [1] Two. [2] Three. [4] Four.", [2, 4], "One. [1] Two. [2] Three. Four."),
        ("[1] One. [5] Five. [04] Four. [0] None.", [1], "One. [5] Five. [04] Four. [0] None."),
        ("[1] [1] [2] So 7. [2] [3] Yes.", [1, 2, 3], "[1] [2] So 7. Yes."),
        ("[1] [2] [4] So 7.", [1, 2, 4], "So 7."),
        # What is one: after any end of a step, and without a blank after it.
        ('[1] "So?" [2] Yes! [3]\nThen **7.** [4] So 7.', [1, 2, 3, 4], '"So?" Yes!\nThen **7.** So 7.'),
        ("[1] 3 + 4 = 7 [2]\n7 - 2 = 5 [3] Step 2: so [4]", [1, 2, 3], "3 + 4 = 7\n7 - 2 = 5 Step 2: so [4]"),
        ("[1] These steps: [2] 1. Add. [3]Then so. [4]", [1, 2, 3, 4], "These steps: 1. Add.Then so."),
        # After the heading of a list without its first items, as random gaps and skips leave it.
        ("[1] Follow these steps: [3] She has 16. [4] So.", [1, 3, 4], "Follow these steps: She has 16. So."),
        ("[1] Two steps: [2]   - Since so. [4] So.", [1, 2, 4], "Two steps:   - Since so. So."),
        ("[1] The indices are: [2] and [3] then.", [1], "The indices are: [2] and [3] then."),
    ],
)  # fmt: skip
def test_markers_are_found_at_stage_starts_only(completion: str, numbers: list[int], text: str) -> None:
    before, named = split_stages(completion, " [{}]", 4)
    assert [m for m, _ in named] == numbers
    assert (before + "".join(part for _, part in named)).strip() == text


@pytest.mark.parametrize("marker", [" [{}]", " <{}>", " Step {}:"])
@pytest.mark.parametrize("task", ["arithmetic", "date_understanding", "last_letter", "long_arithmetic"])
def test_the_stages_of_a_marked_rationale_are_found_again(task: str, marker: str, tokenizer: Any) -> None:
    codec = Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences())
    stages = Stages(marker, codec.inline)
    for row in codec.encode(generate(task, split="train", size=10)):
        parts = stages.tokens(row, AverageChunks(12).chunk(row))
        for skipped in (0, 1):  # all chunks, and every other one
            kept = [*range(0, len(parts) - 1, 1 + skipped), len(parts) - 1]
            text = codec.decode([int(token) for m in kept for token in parts[m]])
            before, named = split_stages(text, marker, len(parts) - 1)
            assert [m - 1 for m, _ in named] == kept[:-1]
            shown = [codec.decode(stage.tolist()) for stage in stage_tokens(row, AverageChunks(12).chunk(row))]
            oracle = [*(shown[m] for m in kept[:-2]), f"{shown[kept[-2]]} {shown[-1]}"]
            assert [before, *(part.strip() for _, part in named)] == ["", *oracle]


def test_rationales_that_name_stages_themselves_are_reported(tokenizer: Any) -> None:
    method, rows = _method(CWT, tokenizer)
    assert method._unreadable(rows) == []
    example = replace(rows[0].example, rationale="Rules. [3] says so. Then add. It is so. So 7. Yes. It is. Done.")
    assert method._unreadable(list(method.codec.encode([example]))) == [example.id]


def test_a_setting_with_the_name_of_a_hook_is_refused() -> None:
    """Else it would replace the hook without a word: a setting called micro_batch_loss the loss."""
    for hook in Distiller.HOOKS:

        class Shadowing(FullCoT):
            def __init__(self, name: str, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                setattr(self, name, 0.5)

        with pytest.raises(UserError, match=hook):
            Shadowing(hook, student=FromScratch())
    assert Shadowing("share", student=FromScratch()).share == 0.5  # a name that is no hook


def test_every_method_that_subclasses_override_is_a_protected_hook() -> None:
    """A hook that is added to Distiller is protected only if HOOKS names it."""
    assert all(callable(getattr(Distiller, name)) for name in Distiller.HOOKS)
    lightning = set(dir(L.LightningModule))
    for kind in (AnswerOnly, FullCoT, MultiTask, CWT, STT, KPOD, KeypointWeighter, LongCoT):
        overridden = {
            name
            for base in kind.__mro__[: kind.__mro__.index(Distiller)]
            for name, value in vars(base).items()
            if callable(value) and hasattr(Distiller, name) and not name.startswith("__")
        }
        assert overridden - lightning <= Distiller.HOOKS, kind


def test_a_negative_rationale_weight_is_refused() -> None:
    with pytest.raises(UserError, match="rationale_weight"):
        MultiTask(student=FromScratch(), rationale_weight=-1)
