"""Laws of the encoding, on two real tokenizers and on a byte-level one that is trained here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipthinking.data import encoding
from skipthinking.data.encoding import Chat, Codec, Plain, Template, step_spans
from skipthinking.data.steps import Pattern, Sentences, StepSplitter
from skipthinking.records import DataError, Encoded, Example, UserError
from skipthinking.students.base import tokenizer_from_json
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import generate

SHARED = Path(__file__).parents[2].parent / "shared" / "tokenizers"
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real tokenizers are absent: {SHARED}")
GPT2, T5 = pytest.param("gpt2", marks=REAL), pytest.param("flan-t5", marks=REAL)
BYTE_LEVEL = pytest.mark.parametrize("name", ["trained", GPT2])
EVERY = pytest.mark.parametrize("name", ["trained", GPT2, T5])

# All answers are 7, so that every completion ends with this.
ANSWER = " Therefore, the answer is 7."
LATIN = [
    "x",
    "He has 3.5 eggs. He buys 1,234 more, i.e. $12.50 each.",
    "Step 1: He has 3 eggs.\n\nStep 2: 3 + 4 = 7.\nStep 3: It is 7",
    "  \n x = 5.\nSo!  Go 5.Then\tstop.  \n",
    "1. Add 3.\r\n2. Multiply.\r\n   3. Done?!? Yes...",
    "(a) It's 7; isn't it? - Yes.\n- No.",
]
OTHER = [
    "日本語。テスト。 Step 1: 😀 and 👩\u200d👩\u200d👧. Go!",
    "😀😀. Ünï cödé ½ … “so”. ✓ Done.",
    "a\u00a0b. C\u3000d.\u2028E. e\u0301. ﬁ \u200bx.",
]
CHAT = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<assistant>{{ '\n' }}"


@cache
def tokenizer(name: str) -> Any:
    if name == "trained":
        rows = generate("arithmetic", split="train", size=50)
        return train_tokenizer([f"{row.question} {row.rationale} {ANSWER} so?!? ?!" for row in rows], 700, 20)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHARED / name)


def changed(**settings: Any) -> Any:
    """A copy of the trained tokenizer with other settings."""
    return tokenizer_from_json(tokenizer("trained").backend_tokenizer.to_str(), **settings)


def beginning_with_end() -> Any:
    """A copy of the trained tokenizer that puts its special token in front, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    made = changed(eos_token="<|end|>", bos_token="<|end|>")
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", made.eos_token_id)]
    )
    return made


def codec(
    name: str, template: Template | None = None, splitter: StepSplitter | None = None, prefixes: Sequence[str] = ("",)
) -> Codec:
    return Codec(
        tokenizer=tokenizer(name),
        template=template or Plain(),
        splitter=splitter or Sentences(),
        prefixes=tuple(prefixes),
    )


def example(rationale: str, id: str = "a", question: str = "How many?") -> Example:
    return Example(id=id, question=question, rationale=rationale, answer="7", task="gsm8k")


def encode(coder: Codec, rationale: str, **settings: Any) -> Encoded:
    (row,) = coder.encode([example(rationale)], **settings)
    return row


def text_of(name: str, ids: Any) -> str:
    return tokenizer(name).decode(ids, clean_up_tokenization_spaces=False)


def ids_of(name: str, text: str, special: bool = False) -> list[int]:
    return tokenizer(name)(text, add_special_tokens=special)["input_ids"]


def random_texts(size: int) -> list[str]:
    dice = random.Random(0)
    parts = [
        *"aB1.!?:;)(-\n\t \"'é日😀½",
        " ",
        " ",
        ". ",
        "\n\n",
        "The",
        " Step 2:",
        "3.5",
        "1,000",
        " is",
        "\r\n",
        "e\u0301",
    ]
    texts = ["".join(dice.choices(parts, k=dice.randint(1, 40))) for _ in range(size)]
    return [text for text in texts if text.strip()]


# --------------------------------------------------------------------------------------------- spans and text


@EVERY
@pytest.mark.parametrize("template", [Plain(), Chat()], ids=["Plain", "Chat"])
def test_steps_and_answer_partition_the_completion(
    name: str, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer(name), "chat_template", CHAT)
    texts = [*LATIN, *OTHER, *random_texts(40)]
    for splitter in (Sentences(), Pattern("(?<=[;?])"), Pattern("")):
        for row in codec(name, template, splitter).encode([example(text, str(i)) for i, text in enumerate(texts)]):
            covered = [i for start, end in (*row.steps, row.answer) for i in range(start, end)]
            assert covered == list(range(len(row.tokens)))
            assert all(start < end for start, end in (*row.steps, row.answer))
            assert row.tokens.dtype == np.int64


@BYTE_LEVEL
@pytest.mark.parametrize("question", ["How many?", "  日本 {question} é 😀?\n\n 3.5 {} "])
def test_tokens_decode_to_the_text(name: str, question: str) -> None:
    texts = [*LATIN, *OTHER, *random_texts(100)]
    for row, text in zip(codec(name).encode([example(text, question=question) for text in texts]), texts, strict=True):
        whole = np.concatenate([row.prompts[""], row.tokens[:-1]])
        assert text_of(name, whole) == f"Question: {question}\nAnswer: {text.strip()}{ANSWER}"


@REAL
def test_unigram_tokens_decode_to_the_text_but_for_white_space() -> None:
    for text in LATIN:
        row = encode(codec("flan-t5"), text)
        assert text_of("flan-t5", row.prompts[""]) == "Question: How many? Answer:</s>"
        assert text_of("flan-t5", row.tokens) == " ".join(f"{text}{ANSWER}</s>".split())


@BYTE_LEVEL
def test_the_tokens_of_a_step_decode_to_the_step(name: str) -> None:
    for text in [*LATIN, *OTHER]:
        row = encode(codec(name), text)
        steps = [text.strip()[start:end] for start, end in Sentences().spans(text.strip())]
        # The blank before the completion belongs to the first step, the one before the answer to the answer.
        steps[0] = " " + steps[0]
        assert [text_of(name, row.tokens[start:end]) for start, end in row.steps] == steps
        assert text_of(name, row.tokens[slice(*row.answer)][:-1]) == ANSWER


@BYTE_LEVEL
def test_the_tokens_of_a_step_on_a_literal_case(name: str) -> None:
    row = encode(codec(name), "Step 1: 3.5 + 1.\n\nStep 2: 日本 😀. Done.\n")
    assert [text_of(name, row.tokens[start:end]) for start, end in row.steps] == [
        " Step 1: 3.5 + 1.",
        "\n\nStep 2: 日本 😀.",
        " Done.",
    ]


@REAL
def test_the_unigram_tokens_of_a_step_decode_to_the_step_but_for_white_space() -> None:
    for text in LATIN:
        row = encode(codec("flan-t5"), text)
        steps = [" ".join(text.strip()[start:end].split()) for start, end in Sentences().spans(text.strip())]
        assert [text_of("flan-t5", row.tokens[start:end]).strip() for start, end in row.steps] == steps
        assert text_of("flan-t5", row.tokens[slice(*row.answer)]) == ANSWER.strip() + "</s>"


@BYTE_LEVEL
def test_a_token_across_a_border_belongs_to_the_step_where_it_begins(name: str) -> None:
    assert "?!" in tokenizer(name).get_vocab()
    row = encode(codec(name, splitter=Pattern(r"(?<=\?)")), "So?! It is.")
    # Cut behind "?", in the middle of the token "?!".
    assert [text_of(name, row.tokens[start:end]) for start, end in row.steps] == [" So?!", " It is."]
    # A step that owns no token is none: "!" is the second step by characters.
    row = encode(codec(name, splitter=Pattern("!| It")), "So?! It is.")
    assert [text_of(name, row.tokens[start:end]) for start, end in row.steps] == [" So?!", " It is."]


def test_step_spans_on_literal_cases() -> None:
    def spans(starts: list[int], tokens: list[int]) -> tuple[tuple[int, int], ...]:
        return step_spans(starts, np.array(tokens))

    assert spans([0], [0, 3, 4]) == ((0, 3),)
    assert spans([0, 4], [0, 3, 4, 9]) == ((0, 2), (2, 4))
    # The token at 3 covers the border at 4; the next one begins behind it.
    assert spans([0, 4], [0, 3, 6]) == ((0, 2), (2, 3))
    # The token at 3 covers the whole second segment, 4 to 5.
    assert spans([0, 4, 6], [0, 3, 6]) == ((0, 2), (2, 3))
    # Four tokens are the bytes of one character at 4.
    assert spans([0, 4, 5], [0, 4, 4, 4, 4, 5]) == ((0, 1), (1, 5), (5, 6))


def test_step_spans_group_tokens_by_the_segment_where_they_begin() -> None:
    dice = random.Random(0)
    for _ in range(300):
        starts = [0, *sorted(dice.sample(range(1, 30), dice.randint(0, 8)))]
        tokens = [0, *sorted(dice.choices(range(30), k=dice.randint(0, 20)))]
        segments = pairwise([*starts, 30])
        owners = [[token for token in tokens if start <= token < end] for start, end in segments]
        lengths = [len(owner) for owner in owners if owner]
        spans = step_spans(starts, np.array(tokens))
        assert [end - start for start, end in spans] == lengths
        assert [i for start, end in spans for i in range(start, end)] == list(range(len(tokens)))


# ------------------------------------------------------------------------------------------------------- EOS


@EVERY
def test_eos_is_the_last_target_and_part_of_the_answer(name: str) -> None:
    eos = tokenizer(name).eos_token_id
    for rationales in (True, False):
        for text in [*LATIN, *OTHER]:
            row = encode(codec(name), text, rationales=rationales)
            assert row.tokens[-1] == eos
            assert (row.tokens == eos).sum() == 1
            assert row.answer[1] == len(row.tokens)


@pytest.mark.parametrize("pad", ["<|end|>", "!", None])
def test_eos_is_there_whatever_pads(pad: str | None) -> None:
    made = changed(eos_token="<|end|>", pad_token=pad)
    assert (made.pad_token_id == made.eos_token_id) == (pad == "<|end|>")
    coder = Codec(tokenizer=made, template=Plain(), splitter=Sentences())
    for text, row in zip(LATIN, coder.encode([example(text) for text in LATIN]), strict=True):
        # The text's own "!" stays, also where it pads.
        assert text_of("trained", row.tokens) == f" {text.strip()}{ANSWER}<|end|>"


# ------------------------------------------------------------------------- one tokenization, as in running text


@EVERY
def test_prompts_of_training_are_those_of_generation(name: str) -> None:
    coder = codec(name, prefixes=["", "[label] "])
    examples = [example(text, str(i), f"{text[:9]}?") for i, text in enumerate([*LATIN, *OTHER])]
    for prefix in coder.prefixes:
        prompts = coder.prompts(examples, prefix)
        for row, asked, prompt in zip(coder.encode(examples), examples, prompts, strict=True):
            assert row.id == asked.id
            assert row.prompts[prefix].tolist() == prompt.tolist()
            assert prompt.tolist() == ids_of(name, f"Question: {prefix}{asked.question}\nAnswer:", special=True)
            assert prompt.dtype == row.prompts[prefix].dtype == np.int64


@BYTE_LEVEL
@pytest.mark.parametrize("prompt", ["Question: {question}\nAnswer:", "{question}", "Q ({question})", "{question} So"])
def test_prompt_and_completion_are_the_tokens_of_the_running_text(name: str, prompt: str) -> None:
    for text in [*LATIN, *OTHER, *random_texts(50)]:
        row = encode(codec(name, Plain(prompt)), text)
        running = ids_of(name, f"{prompt.replace('{question}', 'How many?')} {text.strip()}{ANSWER}")
        assert [*row.prompts[""], *row.tokens[:-1]] == running


@REAL
def test_a_unigram_completion_is_the_end_of_the_running_text() -> None:
    for text in [*LATIN, *OTHER]:
        row = encode(codec("flan-t5"), text)
        running = ids_of("flan-t5", f"How many? Answer: {text.strip()}{ANSWER}", special=True)
        assert running[-len(row.tokens) :] == row.tokens.tolist()  # T5 closes its texts with EOS by itself


@BYTE_LEVEL
def test_a_chat_completion_is_the_end_of_the_running_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer(name), "chat_template", CHAT)
    for text in [*LATIN, *OTHER]:
        row = encode(codec(name, Chat()), text)
        running = f"<user>How many?\n<assistant>\n{text.strip()}{ANSWER}"
        assert [*row.prompts[""], *row.tokens[:-1]] == ids_of(name, running)
        assert text_of(name, row.tokens[slice(*row.steps[0])])[0] == text.strip()[0]  # no blank in front


@BYTE_LEVEL
def test_an_inline_marker_has_the_tokens_of_the_running_text(name: str) -> None:
    coder = codec(name)
    for marker in [" [3]", " [12]", " <7>", " Step 3:", " ca", " ."]:
        marked = coder.inline(marker)
        assert text_of(name, marked) == marker
        for before, after in [("It is 5.", " So it is."), ("日本", " 7"), ("so", " [x]"), ("3", "\n\nStep 4: x")]:
            running = ids_of(name, before + marker + after)
            assert [*ids_of(name, before), *marked, *ids_of(name, after)] == running


@REAL
def test_an_inline_marker_has_the_unigram_tokens_of_the_running_text() -> None:
    coder = codec("flan-t5")
    for marker in [" [3]", " [12]", " Step 3:"]:
        marked = coder.inline(marker).tolist()
        assert text_of("flan-t5", marked) == marker.strip()
        running = ids_of("flan-t5", f"It is 5.{marker} So it is.")
        assert [*ids_of("flan-t5", "It is 5."), *marked, *ids_of("flan-t5", "So it is.")] == running


@EVERY
def test_an_example_is_encoded_the_same_in_any_company(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*LATIN, *OTHER]
    alone = [encode(codec(name), text) for text in texts]
    for batch in (1, 4, 1000):
        monkeypatch.setattr(encoding, "_BATCH", batch)
        rows = list(codec(name).encode([example(text, str(i)) for i, text in enumerate(texts)]))
        assert [row.id for row in rows] == [str(i) for i in range(len(texts))]
        for row, other in zip(rows, alone, strict=True):
            assert row.tokens.tolist() == other.tokens.tolist()
            assert row.prompts[""].tolist() == other.prompts[""].tolist()
            assert (row.steps, row.answer) == (other.steps, other.answer)


@EVERY
def test_decoding_gives_the_text_without_special_tokens(name: str) -> None:
    text = "He isn 't here , so . It is 3.5 , not 1,234 !"
    assert codec(name).decode(encode(codec(name), text).tokens) == text + ANSWER


def test_a_completion_has_no_second_blank_where_the_tokenizer_puts_one_in_front() -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers

    # As Llama's SentencePiece: a blank in front of every text, and blanks are "▁". One token per character.
    characters = {character: i for i, character in enumerate("▁<>:.,?\nabcdefghijklmnopqrstuvwxyzAHIQST0123456789")}
    made = Tokenizer(models.BPE(characters, []))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Replace("▁", " ")
    fast = tokenizer_from_json(made.to_str(), eos_token=">")
    coder = Codec(tokenizer=fast, template=Plain(), splitter=Sentences())
    row = encode(coder, "It is 5. So 7.")
    assert [fast.decode(row.tokens[start:end]) for start, end in (*row.steps, row.answer)] == [
        " It is 5.",
        " So 7.",
        ANSWER + ">",
    ]
    running = fast("Question: How many?\nAnswer: It is 5. So 7." + ANSWER)["input_ids"]
    assert [*row.prompts[""], *row.tokens[:-1]] == running
    assert fast.decode(coder.inline(" 3:")) == " 3:"


# ---------------------------------------------------------------------------------------- prefixes, rationales


@EVERY
def test_every_prefix_has_a_prompt(name: str) -> None:
    coder = codec(name, prefixes=["[label] ", "[rationale] "])
    row = encode(coder, "It is 7.")
    assert list(row.prompts) == ["[label] ", "[rationale] "]
    for prefix, prompt in row.prompts.items():
        assert prompt.tolist() == ids_of(name, f"Question: {prefix}How many?\nAnswer:", special=True)
    # The completion is the same.
    assert row.tokens.tolist() == encode(codec(name), "It is 7.").tokens.tolist()


@EVERY
@pytest.mark.parametrize("rationale", ["", "He has 3 eggs. So 7."])
def test_without_rationales_the_answer_is_all(name: str, rationale: str) -> None:
    row = encode(codec(name), rationale, rationales=False)
    assert row.steps == ()
    assert row.answer == (0, len(row.tokens))
    assert codec(name).decode(row.tokens) == ANSWER.strip()
    # The very tokens that close a completion with a rationale.
    whole = encode(codec(name), "He has 3 eggs. So 7.")
    assert whole.tokens[slice(*whole.answer)].tolist() == row.tokens.tolist()


@pytest.mark.parametrize("rationale", ["", " \n\t "])
def test_a_rationale_without_steps_is_a_data_error_with_the_id(rationale: str) -> None:
    rows = [example("It is 7.", "fine"), example(rationale, "gsm8k-17")]
    with pytest.raises(DataError, match=r"at least one step, got .*'gsm8k-17'.*data\.without_steps"):
        list(codec("trained").encode(rows))


# ------------------------------------------------------------------------------------------------- templates


def test_plain_fills_in_the_question_as_it_stands() -> None:
    assert Plain().render("What is {question} or {x}?", None) == "Question: What is {question} or {x}?\nAnswer:"
    assert Plain("Q: {question} A{:").render("1 + 1", None) == "Q: 1 + 1 A{:"


@pytest.mark.parametrize(
    "prompt", ["", "Question:", "{question} {question}", "{question} ", "Q: {question}\nA:\n", "{question}\u00a0", "{}"]
)
def test_a_bad_prompt_is_a_user_error(prompt: str) -> None:
    with pytest.raises(UserError, match=r"one \{question\} and no trailing white space"):
        Plain(prompt)


def test_chat_renders_the_tokenizers_template(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer("trained")
    monkeypatch.setattr(made, "chat_template", CHAT)
    assert Chat().render("How {many}?", made) == "<user>How {many}?\n<assistant>\n"
    assert Chat("Be brief.").render("How?", made) == "<system>Be brief.\n<user>How?\n<assistant>\n"


def test_chat_asks_for_the_generation_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer("trained"), "chat_template", "Q{% if add_generation_prompt %} then A{% endif %}")
    assert Chat().render("How?", tokenizer("trained")) == "Q then A"


def test_chat_without_a_chat_template_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"with a chat template.*Use data\.template: Plain"):
        codec("trained", Chat()).prompts([example("x")])


def test_special_tokens_are_not_doubled() -> None:
    made = beginning_with_end()
    made.chat_template = "<|end|>" + CHAT
    asked, end = [example("It is 7.")], made.eos_token_id
    for template, text in [
        (Plain(), "Question: How many?\nAnswer:"),  # the tokenizer adds the special token
        (Chat(), "<user>How many?\n<assistant>\n"),  # the template has it
    ]:
        coder = Codec(tokenizer=made, template=template, splitter=Sentences())
        assert coder.prompts(asked)[0].tolist() == [end, *ids_of("trained", text)]
        (row,) = coder.encode(asked)
        assert row.tokens.tolist().count(end) == 1
        assert end not in coder.inline(" [3]")


@REAL
def test_special_tokens_are_not_doubled_behind_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer("flan-t5"), "chat_template", CHAT + "</s>")
    for template in (Plain(), Chat()):
        prompt = codec("flan-t5", template).prompts([example("x")])[0].tolist()
        assert prompt[-1] == tokenizer("flan-t5").eos_token_id
        assert prompt.count(prompt[-1]) == 1


# ------------------------------------------------------------------------------------------------ tokenizers


def test_a_slow_tokenizer_is_a_user_error() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(UserError, match=r"Expected a fast tokenizer .* got ByT5Tokenizer"):
        Codec(tokenizer=ByT5Tokenizer(), template=Plain(), splitter=Sentences())


def test_a_tokenizer_without_eos_is_a_user_error() -> None:
    with pytest.raises(UserError, match="Expected a tokenizer with an EOS token"):
        Codec(tokenizer=changed(), template=Plain(), splitter=Sentences())
