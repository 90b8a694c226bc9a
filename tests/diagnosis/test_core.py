"""Which tokens are core, and where the tokens of a method's instances come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipthinking.annotate.annotator import Notes
from skipthinking.data.chunkers import AverageChunks
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.instances import instance
from skipthinking.data.steps import Sentences
from skipthinking.diagnosis.core import core_by_truth, core_by_weight, origins
from skipthinking.methods import CWT, STT, AnswerOnly, FullCoT, ICoT, MultiTask, TokenSkip
from skipthinking.methods.base import Distiller
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students.scratch import FromScratch, train_tokenizer
from skipthinking.tasks import generate

ROWS = generate("arithmetic", split="train", size=4)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([f"{row.question} {row.rationale}" for row in ROWS], 600, 50)


def _encoded(method: Distiller, tokenizer: Any) -> list[Encoded]:
    codec = Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences(), prefixes=method.prompt_prefixes)
    method.connect(codec, AverageChunks(3))
    return list(codec.encode(ROWS))


def test_core_tokens_spell_the_calculations(tokenizer: Any) -> None:
    # "Ana has 4 + 3 = 7 books.": core are 4, +, 3 and 7; some token may hold two of them, as " 20/" does.
    method = FullCoT(student=FromScratch())
    for row in _encoded(method, tokenizer):
        assert method.codec is not None
        core = core_by_truth(row, method.codec)
        assert core is not None
        spelled = "".join(method.codec.token_texts(row.tokens[core])).replace(" ", "")
        assert spelled == "".join(row.example.rationale[start:end] for start, end in row.example.meta["core"])
        assert not core[row.answer[0] :].any()


def test_core_by_weight_are_the_heaviest_fifth(tokenizer: Any) -> None:
    row = _encoded(FullCoT(student=FromScratch()), tokenizer)[0]
    weights = np.zeros(row.answer[0], dtype=np.float32)
    weights[[7, 3]] = 0.9, 0.5
    assert np.flatnonzero(core_by_weight(row, weights, 2 / len(weights))).tolist() == [3, 7]
    assert core_by_weight(row, weights, 0.2).sum() == -(-len(weights) // 5)  # rounded up


SETTINGS: dict[type[Distiller], dict[str, Any]] = {STT: {"warmup_epochs": 0, "gap_epochs": 0}}


@pytest.mark.parametrize("kind", [FullCoT, AnswerOnly, MultiTask, ICoT, CWT, STT, TokenSkip])
def test_tokens_of_instances_are_found_again_in_the_example(kind: type[Distiller], tokenizer: Any) -> None:
    method = kind(student=FromScratch(), **SETTINGS.get(kind, {}))
    for row in _encoded(method, tokenizer):
        importance = np.random.default_rng(0).random(row.answer[0])
        values = {"chunks": ((0, 2), (2, 4), (4, len(row.steps))), "skips": [0, 2], "surprisal": importance}
        for epoch in range(3):
            for made, places in origins(method, row, Notes(epoch=epoch, values=values)):
                known = places >= 0
                assert (row.tokens[places[known]] == made.tokens[known]).all()
                assert (np.diff(places[known]) > 0).all()  # in order, none twice
                added = method.codec.decode(made.tokens[~known].tolist()) if method.codec else ""
                assert not added.strip("[]0123456789 "), added  # stage markers


class _ByText(Distiller):
    """A method that looks at token ids."""

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        return [instance(encoded.id, encoded.prompts[""], [np.sort(encoded.tokens)], {0})]


def test_a_method_that_reads_token_ids_is_refused(tokenizer: Any) -> None:
    method = _ByText(student=FromScratch())
    with pytest.raises(UserError, match="do not depend on token ids, got others of _ByText"):
        origins(method, _encoded(method, tokenizer)[0], Notes())
