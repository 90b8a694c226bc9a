"""Clusters of similar questions: k-means over mean word vectors (KPOD, arXiv 2405.16064, section 3.3)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipthinking.records import DataError, UserError

__all__ = ["check_clusters", "cluster", "glove_embeddings", "input_embeddings"]

Vectors = dict[str, NDArray[np.float32]]


def cluster(embeddings: Mapping[str, NDArray[Any]], clusters: int, seed: int) -> dict[str, int]:
    """Clusters questions by k-means.

    Args:
        embeddings: A vector per example id; the result does not depend on their order.
        clusters: Number of clusters K.
        seed: Seed of the initial centers.

    Returns:
        Cluster by example id, from 0.

    Raises:
        UserError: See :func:`check_clusters`.
    """
    check_clusters(clusters, len(embeddings))
    from sklearn.cluster import KMeans

    ids = sorted(embeddings)
    points = np.stack([embeddings[id] for id in ids]).astype(np.float64)
    distinct = len(np.unique(points, axis=0))
    labels = KMeans(n_clusters=min(clusters, distinct), n_init=4, random_state=seed % 2**32).fit_predict(points)
    return dict(zip(ids, labels.tolist(), strict=True))


def check_clusters(clusters: int, questions: int) -> None:
    """Checks that questions can be clustered.

    Raises:
        UserError: scikit-learn is not installed, or ``clusters`` is not between 1 and the number of questions.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "KPOD clusters questions with scikit-learn, which is not installed. Install it by pip install "
            "'skipthinking[kpod]', or set model.progressive: false."
        )
    if not 1 <= clusters <= questions:
        raise UserError(
            f"Expected 1 to {questions} clusters (as many as there are training questions), got "
            f"model.clusters={clusters}. Set model.clusters: {min(questions, max(1, clusters))}."
        )


@torch.no_grad()
def input_embeddings(student: Any, questions: Mapping[str, str]) -> Vectors:
    """Mean input embedding of each question's tokens under the student."""
    encoded = student.tokenizer(list(questions.values()), add_special_tokens=False)["input_ids"]
    return {
        id: student.embeddings(torch.tensor(ids, device=student.device)).float().mean(dim=0).cpu().numpy()
        for id, ids in zip(questions, encoded, strict=True)
    }


def glove_embeddings(path: Path, questions: Mapping[str, str]) -> Vectors:
    """Mean GloVe vector of each question's words; words that are not in the file are ignored.

    Args:
        path: Text file with a word and its vector per line, such as ``coin 0.12 -0.4 ...``.
        questions: Questions by example id.

    Raises:
        UserError: The file is missing.
        DataError: The file is malformed, or contains no word of any question.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"Expected a GloVe file, got {str(path)!r}, which {what}. Fix model.glove, or leave it out.")
    words_of = {id: re.findall(r"[a-z]+|\d+|[^\sa-z\d]", text.lower()) for id, text in questions.items()}
    vectors = _read_glove(path, {word for words in words_of.values() for word in words})
    if not vectors:
        raise DataError(f"Expected words of the questions, got none ({path}). Is it a GloVe file in their language?")
    zero = np.zeros_like(next(iter(vectors.values())))
    result = {}
    for id, words in words_of.items():
        known = [vectors[word] for word in words if word in vectors]
        result[id] = np.mean(known, axis=0) if known else zero
    return result


def _read_glove(path: Path, vocabulary: set[str]) -> Vectors:
    vectors: Vectors = {}
    size = 0
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            # Split from the right, because some words in the large files contain spaces, such as ". . . 0.1 0.2".
            size = size or line.count(" ")
            word, *values = line.rstrip().rsplit(" ", size)
            if size < 2 or len(values) != size:
                raise DataError(
                    f"Expected a word and {max(2, size)} or more numbers, as in the first line, got {line[:40]!r} "
                    f"({path}:{number}). Give a text file of GloVe vectors."
                )
            if word in vocabulary:
                try:
                    vectors[word] = np.array(values, dtype=np.float32)
                except ValueError as error:
                    raise DataError(f"Expected numbers after {word!r}, got {error} ({path}:{number}).") from error
                if not np.isfinite(vectors[word]).all():
                    raise DataError(f"Expected finite numbers after {word!r}, got {line[:40]!r} ({path}:{number}).")
    return vectors
