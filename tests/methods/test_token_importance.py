"""Importance by a token classifier: its words and the student's tokens meet at characters, whatever the tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import Sentences
from skipthinking.methods.token_importance import Classifier, token_means
from skipthinking.records import Example, UserError
from skipthinking.students.scratch import train_tokenizer

TEXTS = (
    "Ann has 1,234 nuts. She eats 17 of them, so 1,234 - 17 = 1,217 are left. \n\nThat is what is left.",
    "Zoë paid 3€ for thé 🍵. Then she had nothing.",
    " ".join(f"Step {n} adds {n} to it." for n in range(40)),  # several windows
)
WINDOW = {"bert": 32, "xlm-roberta": 34}


def _tokenizer(kind: str) -> Any:
    """A small WordPiece or Unigram tokenizer of the class that the hub's has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>"]
    if kind == "bert":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(TEXTS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(word, special.index(word)) for word in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=WINDOW[kind],
    )  # fmt: skip


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random token classifier with two labels."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    path = tmp_path_factory.mktemp(request.param)
    tokenizer = _tokenizer(request.param)
    config = AutoConfig.for_model(
        request.param, vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=40, pad_token_id=0, initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForTokenClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _oracle(folder: Path, text: str) -> list[float | None]:
    """Per character, the mean over the tokens of its word; one text at a time, one window at a time, nothing padded."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans, words = plain["input_ids"], plain["offset_mapping"], plain.word_ids()
    size = tokenizer.model_max_length
    body, overlap = size - 2, size // 4
    shares: dict[int, list[float]] = {}
    start = 0
    while True:
        part = range(start, min(start + body, len(ids)))
        row = torch.tensor([[tokenizer.bos_token_id, *(ids[t] for t in part), tokenizer.eos_token_id]])
        with torch.no_grad():
            found = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].double().exp()
        for place, t in enumerate(part, 1):
            shares.setdefault(words[t], []).append(float(found[place, 1] / found[place].sum()))
        if part.stop == len(ids):
            break
        start += body - overlap
    values: list[float | None] = [None] * len(text)
    for t, (first, last) in enumerate(spans):
        for place in range(first, last):
            if text[place].strip():
                values[place] = sum(shares[words[t]]) / len(shares[words[t]])
    return values


def _codec() -> Codec:
    tokenizer = train_tokenizer([TEXTS[0], TEXTS[2]], 300, 10)  # byte-level: a character of TEXTS[1] may be four tokens
    return Codec(tokenizer=tokenizer, template=Plain(), splitter=Sentences())


def test_a_token_has_the_mean_of_its_characters_which_have_the_mean_of_their_word(folder: Path) -> None:
    codec = _codec()
    examples = [Example(id=str(i), question="?", rationale=t, answer="1", task="gsm8k") for i, t in enumerate(TEXTS)]
    rows = list(codec.encode(examples))
    context: Any = SimpleNamespace(codec=codec, student=SimpleNamespace(device=torch.device("cpu")))
    found = Classifier(str(folder)).annotate(rows, context)
    assert found.keys() == {row.id for row in rows}
    for row in rows:
        text, end = f" {row.example.rationale} ", row.answer[0]
        offsets = codec.tokenizer(":" + text, add_special_tokens=False, return_offsets_mapping=True)
        values = _oracle(folder, text.rstrip())
        expected: list[float | None] = []
        for first, last in offsets["offset_mapping"][1 : end + 1]:
            own = [value for value in values[first - 1 : last - 1] if value is not None]
            before = expected[-1] if expected else None  # a line break has that of the token before it
            expected.append(sum(own) / len(own) if own else before)
        first_known = next(value for value in expected if value is not None)
        expected = [first_known if value is None else value for value in expected]  # a blank in front: of the first one
        assert found[row.id].shape == (end,)
        assert found[row.id].tolist() == pytest.approx(expected, abs=1e-5)
        assert len(set(expected)) > 3


@pytest.mark.parametrize(
    ("values", "starts", "expected"),
    [
        ([0.2, 0.4, 0.9], [0, 2], [0.3, 0.9]),
        ([np.nan, 0.4, np.nan], [0, 1, 2], [0.4, 0.4, 0.4]),  # blanks: as the token before, the first ones as the next
        ([0.2, 0.6], [0, 0, 0, 1], [0.2, 0.2, 0.2, 0.6]),  # a character of three tokens
        ([np.nan, np.nan], [0, 1], [0.0, 0.0]),  # nothing that the classifier reads
    ],
)
def test_literal_means(values: list[float], starts: list[int], expected: list[float]) -> None:
    assert token_means(np.array(values), np.array(starts)).tolist() == pytest.approx(expected)


def test_the_config_names_the_classifier(folder: Path, run: Callable[..., int], tmp_path: Path) -> None:
    own = ["--model", "TokenSkip", "--model.importance", "Classifier", "--model.importance.model", folder]
    assert run("fit", *own, "--evaluate", "false", "--trainer.max_epochs", 1) == 0
    _, *lines = (tmp_path / "tiny" / "annotations" / "importance.jsonl").read_text().splitlines()
    assert len(lines) == 20
    assert all(0 < value < 1 for line in lines for value in json.loads(line)["value"])


def test_what_is_no_classifier_or_no_label_is_refused(folder: Path, tmp_path: Path) -> None:
    context: Any = SimpleNamespace(codec=_codec(), student=SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(UserError, match="Did you mean 'LABEL_1'"):
        Classifier(str(folder), label="LABEL_2").annotate([], context)
    with pytest.raises(UserError, match=r"Fix model\.importance"):
        Classifier(str(tmp_path / "nowhere")).annotate([], context)


def test_a_model_without_a_classifier_is_refused(folder: Path, tmp_path: Path) -> None:
    """A language model lacks the last layer; transformers would draw it at random, and its labels would look right."""
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    context: Any = SimpleNamespace(codec=_codec(), student=SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(UserError, match=r"\(classifier\..*needs a token classifier"):
        Classifier(str(tmp_path)).annotate([], context)
