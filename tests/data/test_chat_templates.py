"""By the chat template of an exported student, a raw question becomes the prompt of a test, token for token."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from itertools import product
from typing import Any

import jinja2
import pytest
from conftest import ROOT

from skipthinking.data.chat_templates import chat_template_of, prompt_variables
from skipthinking.data.encoding import Chat, Codec, Plain, Template
from skipthinking.data.steps import Sentences
from skipthinking.records import Example
from skipthinking.students.scratch import train_tokenizer
from skipthinking.tasks import get_task

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>{% if think %}<think>{% endif %}"
DATED = "{{ strftime_now('%d %b %Y') }}\n" + TURNS
MODES = ("mode", {"skip": "[skip] ", "full": ""})
RATIOS = ("ratio", {0.5: "[50%] ", 0.9: "[90%] ", 1.0: ""})
NONE: tuple[str, Mapping[Any, str]] = ("", {})
# Not those that the package itself tries: a raw question is any text.
QUESTIONS = ["How many?", "\n 5 apples,\u00a0and\n\n- 7.50 €?\n", "Answer:", "{{ 1 }} {% if %} \\boxed{3}", "¿Qué?  x"]


@cache
def trained() -> Any:
    return train_tokenizer(["Question: How many? Answer: It is 7. So 7 < 8 > 6.", *QUESTIONS], 600, 10)


def sentence_piece(scheme: str) -> Any:
    """A tokenizer of Llama 2's kind: a space before the first word, and <s> before the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(["Question: How many apples?\nAnswer: It is 7.", *QUESTIONS], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def around(single: str) -> Any:
    """A copy of the trained tokenizer that adds its special token to texts."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = type(trained().backend_tokenizer).from_str(trained().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single=single, special_tokens=[("<|end|>", trained().eos_token_id)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<|end|>")


@cache
def from_shared(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT.parent / "shared" / "tokenizers" / name)


TOKENIZERS = {
    "trained": trained,
    "with <s>": lambda: around("<|end|> $A"),
    "with both": lambda: around("<|end|> $A <|end|>"),
    "space before the text": lambda: sentence_piece("first"),
    "space before every part": lambda: sentence_piece("always"),
    "t5": lambda: from_shared("flan-t5"),
}
TEMPLATES: dict[str, Template] = {
    "plain": Plain(),
    "own": Plain("Q {question} of {x}, A:"),
    "bare": Plain("{question}"),
    "chat": Chat(),
    "chat with all": Chat("Think {hard}.", {"think": True}, '{question}\nBe "brief".'),
}


def codec_of(tokenizer: Any, template: Template, source: str = TURNS) -> Codec:
    if isinstance(template, Chat):
        tokenizer.chat_template = source
    return Codec(tokenizer=tokenizer, template=template, splitter=Sentences())


def asked(codec: Codec, source: str, question: str, **given: Any) -> list[int]:
    """What a user gets, who knows the question alone."""
    turns = [{"role": "user", "content": question}]
    ids: list[int] = codec.tokenizer.apply_chat_template(turns, chat_template=source, **given)["input_ids"]
    return ids


PAIRS = {
    *product(TOKENIZERS, ["plain", "chat with all"]),
    *product(["with both", "space before every part"], TEMPLATES),
}


@pytest.mark.parametrize(("of", "name"), sorted(PAIRS))
def test_a_raw_question_becomes_the_prompt_of_the_test(of: str, name: str) -> None:
    """For every method's prefix and every wording of a task, with and without naming it."""
    codec = codec_of(TOKENIZERS[of](), TEMPLATES[name])
    for (variable, prefixes), tasks in [(NONE, ["gsm8k"]), (MODES, ["strategy_qa"]), (RATIOS, ["aqua", "gsm8k"])]:
        default = next(iter(prefixes.values()), "")
        source = chat_template_of(codec, prompt_variables((variable, prefixes), default, tasks, tasks))
        assert source is not None
        for question in QUESTIONS:
            for value, prefix in [*prefixes.items(), (None, default)]:
                for task in tasks:
                    example = Example(id="a", question=question, rationale="", answer="7", task=task)
                    given = {variable: value} if value is not None else {}
                    given |= {"task": task} if len(tasks) > 1 else {}
                    (expected,) = codec.prompts([example], prefix)
                    assert asked(codec, source, question, **given) == expected.tolist()
                    if any(get_task(task).question != "{question}" for task in tasks):  # `teach` adds the wording
                        worded = get_task(task).ask(question)
                        assert asked(codec, source, worded, **{**given, "task": ""}) == expected.tolist()


def template_for(template: Template, source: str = TURNS, choice: Any = MODES, tasks: Any = ("gsm8k",)) -> str:
    codec = codec_of(around("<|end|> $A"), template, source)
    text = chat_template_of(codec, prompt_variables(choice, "[skip] " if choice is MODES else "", tasks, tasks))
    assert text is not None
    return text


USER = {"role": "user", "content": "How many?"}
REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "a system message": ([{"role": "system", "content": "Think."}, USER], {}, "Send the question alone"),
    "earlier turns": ([USER, {"role": "assistant", "content": "7."}, USER], {}, "Send the question alone"),
    "a given beginning": ([USER, {"role": "assistant", "content": "It"}], {}, "Send the question alone"),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "2?"}]}], {}, "Send the question alone"),
    "the prompt": ([{"role": "user", "content": "Question: 2?\nAnswer:"}], {}, "which this chat template adds"),
    "a special token": ([{"role": "user", "content": "Is <|end|> 2?"}], {}, "special tokens, got one with <|end|>"),
    "an unknown mode": ([USER], {"mode": "fast"}, 'Expected mode: "skip" or "full", got fast. Give one of them.'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_plain_prompt_has_no_place_for_is_refused(name: str) -> None:
    turns, given, part = REFUSED[name]
    source = template_for(Plain())
    with pytest.raises(jinja2.TemplateError) as caught:
        trained().apply_chat_template(turns, chat_template=source, add_generation_prompt=True, tokenize=False, **given)
    assert part in str(caught.value)


def test_a_task_is_named_where_tasks_differ_in_their_wording() -> None:
    source = template_for(Plain(), tasks=("aqua", "gsm8k"))
    with pytest.raises(jinja2.TemplateError, match='Expected task: "aqua" or "gsm8k" or "", got None'):
        trained().apply_chat_template([USER], chat_template=source)


def test_a_chat_student_keeps_conversations_and_takes_another_system_message() -> None:
    source = template_for(TEMPLATES["chat with all"])
    turns = [{"role": "system", "content": "No."}, USER, {"role": "assistant", "content": "7."}, USER]
    text = trained().apply_chat_template(turns, chat_template=source, tokenize=False, think=False)
    one = '<user>[skip] How many?\nBe "brief".\n'
    assert text == f"<system>No.\n{one}<assistant>7.\n{one}<assistant>"
    assert trained().apply_chat_template([USER], chat_template=source, tokenize=False, mode="full") == (
        '<system>Think {hard}.\n<user>How many?\nBe "brief".\n<assistant><think>'
    )


def test_a_model_s_own_chat_template_that_gives_the_prompt_is_left_alone() -> None:
    assert template_for(Chat(), choice=NONE) == TURNS


def test_the_date_is_that_of_the_run() -> None:
    template = Chat()
    template.run_date = datetime(2024, 2, 3)
    source = template_for(template, DATED)
    text = trained().apply_chat_template([USER], chat_template=source, tokenize=False)
    assert text == "03 Feb 2024\n<user>[skip] How many?\n<assistant>"


class Shouting(Plain):
    """A template that changes the question, which no chat template here can."""

    def render(self, question: str, tokenizer: Any) -> str:
        """The question in capitals."""
        return super().render(question.upper(), tokenizer)


def test_a_prompt_that_no_chat_template_gives_has_none() -> None:
    assert chat_template_of(codec_of(trained(), Shouting()), prompt_variables(NONE, "", ["gsm8k"], [])) is None
    # Llama 2's tokenizer writes a space before the first word, unless there is one.
    bare = codec_of(sentence_piece("first"), Plain("{question}"))
    assert chat_template_of(bare, prompt_variables(NONE, "", ["gsm8k"], [])) is None
    clash = Chat()  # the model's chat template has a variable of the same name
    codec = codec_of(around("$A"), clash, TURNS + "{{ mode }}")
    assert chat_template_of(codec, prompt_variables(MODES, "[skip] ", ["gsm8k"], [])) is None
