"""Step difficulty against an unbatched pass, and clusters of questions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from searches import on_ranks, search

from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import Sentences
from skipthinking.methods.kpod.clusters import cluster, glove_embeddings, input_embeddings
from skipthinking.methods.kpod.difficulty import Difficulty, step_difficulty
from skipthinking.methods.kpod.weights import TokenWeights
from skipthinking.records import DataError, Encoded, UserError
from skipthinking.students import FromScratch
from skipthinking.tasks import generate

ROWS = generate("coin_flip", split="train", size=5, levels=[2, 2])


@pytest.fixture(scope="module")
def student() -> Any:
    made: Any = FromScratch("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.3}, vocab_size=600)
    made.prepare([f"{row.question} {row.rationale}" for row in ROWS])
    torch.manual_seed(0)
    made.build()
    return made.eval()


def test_difficulty_by_hand() -> None:
    # softmax of (0, ln 3) is (1/4, 3/4): 1/4 * 2 + 3/4 * 4 = 3.5; a step of one token is its NLL.
    found = step_difficulty(np.array([2.0, 4.0, 7.0]), np.array([0.0, np.log(3.0), 0.1]), [(0, 2), (2, 3)])
    np.testing.assert_allclose(found, [3.5, 7.0])


def test_equal_weights_make_it_the_mean() -> None:
    nll = np.arange(6.0)
    for weight in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(step_difficulty(nll, np.full(6, weight), [(0, 4), (4, 6)]), [1.5, 4.5])


class Known(TokenWeights):
    """Token weights without a file."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.weights = weights

    def annotate(self, rows: Sequence[Encoded], context: Any) -> Mapping[str, Any]:
        """Looks them up."""
        return {row.id: self.weights[row.id] for row in rows}


class Noted(Difficulty):
    """Step difficulty that remembers which examples it scored, two or three at once."""

    block_tokens = 200

    def __init__(self, weights: TokenWeights | None) -> None:
        super().__init__(weights)
        self.scored: list[str] = []

    def annotate(self, rows: Sequence[Encoded], context: Any) -> Mapping[str, Any]:
        """Scores them."""
        self.scored += [row.id for row in rows]
        return super().annotate(rows, context)


def test_difficulty_is_that_of_one_pass_per_example_whatever_the_order_and_the_ranks(
    student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences())
    encoded, rng = list(codec.encode(ROWS)), np.random.default_rng(0)
    weights = Known({row.id: rng.random(row.answer[0], dtype=np.float32) for row in encoded})

    def found_by(difficulty: Noted, rows: Sequence[Encoded], own: Any, folder: str) -> dict[str, list[float]]:
        values = search([difficulty, weights], rows, student=own, folder=tmp_path / folder)["difficulty"]
        return {id: steps.tolist() for id, steps in values.items()}

    found = found_by(Noted(weights), encoded, student, "one")
    assert found_by(Noted(weights), encoded[::-1], student, "turned") == found
    for row in encoded:
        ids = torch.tensor([[*row.prompts[""], *row.tokens]])
        with torch.no_grad():
            shares = student.model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(row.prompts[""])
        nll = [-float(shares[start + i - 1, token]) for i, token in enumerate(row.tokens[: row.answer[0]])]
        for place, (first, end) in enumerate(row.steps):
            own = weights.weights[row.id][first:end]
            expected = sum(np.exp(w) * x for w, x in zip(own, nll[first:end], strict=True)) / np.exp(own).sum()
            assert found[row.id][place] == pytest.approx(expected, rel=1e-4)
    ranks = [(Noted(weights), copy.deepcopy(student)) for _ in range(2)]
    spread = on_ranks(monkeypatch, 2, lambda rank: found_by(ranks[rank][0], encoded, ranks[rank][1], "two"))
    assert spread == [found, found]
    parts = [difficulty.scored for difficulty, _ in ranks]
    assert all(parts)  # each rank scored some
    assert sorted(id for part in parts for id in part) == sorted(row.id for row in encoded)  # and none twice


# ------------------------------------------------------------------------------------------- clusters


def test_clusters_do_not_depend_on_order() -> None:
    rng = np.random.default_rng(0)
    points = {f"q{i:03}": rng.normal(size=4) + 4 * (i % 3) for i in range(60)}
    turned = {id: points[id] for id in sorted(points, reverse=True)}
    found = cluster(points, 3, seed=1)
    assert found == cluster(turned, 3, seed=1)
    groups = [{found[f"q{i:03}"] for i in range(start, 60, 3)} for start in range(3)]
    assert all(len(group) == 1 for group in groups)
    assert len(set.union(*groups)) == 3
    cloud = {f"q{i:03}": rng.normal(size=4) for i in range(60)}  # here it would matter where k-means begins
    assert cluster(cloud, 5, seed=1) == cluster(dict(reversed(cloud.items())), 5, seed=1)


def test_questions_that_are_all_alike_are_one_cluster() -> None:
    assert set(cluster({f"q{i}": np.ones(3) for i in range(5)}, 3, seed=0).values()) == {0}


@pytest.mark.parametrize("clusters", [0, 6])
def test_more_clusters_than_questions_are_refused(clusters: int) -> None:
    with pytest.raises(UserError, match=r"model\.clusters"):
        cluster({f"q{i}": np.ones(3) for i in range(5)}, clusters, seed=0)


def test_question_embeddings_are_the_mean_of_their_tokens(student: Any) -> None:
    questions = {row.id: row.question for row in ROWS}
    found, table = input_embeddings(student, questions), student.model.get_input_embeddings().weight.detach()
    for id, question in questions.items():
        ids = student.tokenizer(question, add_special_tokens=False)["input_ids"]
        np.testing.assert_allclose(found[id], table[ids].mean(dim=0), rtol=1e-4, atol=1e-6)


def test_glove_vectors_are_averaged_over_the_words_that_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("how 1 0 0\nmany 0 1 0\n. . . 9 9 9\n? 0 0 4\n")
    found = glove_embeddings(path, {"a": "How MANY zebras?", "b": "zebras"})
    np.testing.assert_allclose(found["a"], [1 / 3, 1 / 3, 4 / 3])
    np.testing.assert_allclose(found["b"], [0, 0, 0])


@pytest.mark.parametrize(
    ("text", "told"),
    [("how 1 0\nmany 1\n", ":2"), ("how\n", ":1"), ("how one two\n", "'how'"), ("zebra 1 2\n", "no word|got none"),
     ("", "got none")],
)  # fmt: skip
def test_a_malformed_glove_file_is_told(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        glove_embeddings(path, {"a": "how many"})


def test_a_missing_glove_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.glove"):
        glove_embeddings(tmp_path / "nowhere.txt", {"a": "how"})
