"""Chat templates: dates, settings, system messages, tags that open the thinking, and errors in one sentence."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

import pytest

from skipthinking.data.encoding import Chat, Codec, Plain, Template
from skipthinking.data.steps import Sentences
from skipthinking.records import Example, UserError
from skipthinking.students.scratch import train_tokenizer

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
# As templates of the hub use the date: Llama 3.x, gpt-oss (in a macro), Mistral (computed from), SmolLM3, Granite.
DATED = [
    """{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string }}
""",
    """{%- macro system() -%}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n" }}
{%- endmacro -%}
{{- system() }}""",
    "{% set f = '%Y' %}{{ strftime_now(f)|int - 1 }}, {{ strftime_now('%B %d, %-H:%M, 100%% %%d') }}",
    "  {% if true %}\n  {{ strftime_now('%A %a %j %p %I %y %f %U %w %c %x %X %F %T %e') }}\n{% endif %}\n",
    "\n{{ strftime_now('%d/%m/%Y') }}",
    *(f"{{{{ strftime_now('%{part}') }}}}" for part in "dBAHpyMj"),
]
THINKS = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{{ '' }}{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS


@cache
def trained() -> Any:
    return train_tokenizer(["Question: How many? Answer: It is 7. So 7 < 8 > 6."], 512, 10)


def chat(source: str | None) -> Any:
    tokenizer = trained()
    tokenizer.chat_template = source
    return tokenizer


# ------------------------------------------------------------------------------------------------------ dates


@pytest.mark.parametrize("source", DATED)
def test_a_prompt_shows_the_date_as_transformers_would_have_on_that_day(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.utils.chat_template_utils as hub

    tokenizer, day = chat(source + TURNS), datetime(2024, 2, 3, 14, 5, 6, 7)
    clock = [datetime(2031, 12, 30, 1, 2, 3)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return clock[0]

    monkeypatch.setattr(hub, "datetime", Clock)
    template = Chat()
    template.run_date = day
    prompt = template.render("Is 1% of 3 {{ 2 }}?", tokenizer)
    assert Chat().render("x", tokenizer) != template.render("x", tokenizer)  # without a day it is the present one
    clock[0] = day
    turns = [{"role": "user", "content": "Is 1% of 3 {{ 2 }}?"}]
    assert prompt == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert template.shows_date(tokenizer)


def test_a_prompt_of_ones_own_is_the_users_turn() -> None:
    tokenizer = chat(TURNS)
    template = Chat(prompt="{question}\nBe {concise}.", system="Think.")
    turns = [{"role": "system", "content": "Think."}, {"role": "user", "content": "Is {x} 2?\nBe {concise}."}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert template.render("Is {x} 2?", tokenizer) == expected
    template.check(tokenizer)
    for prompt in ("Be concise.", "{question} {question}", "{question} "):
        with pytest.raises(UserError, match=r"one \{question\} .*Fix data\.template\.init_args\.prompt"):
            Chat(prompt=prompt)


def test_a_date_that_is_given_is_no_date_of_the_run() -> None:
    template = Chat(settings={"date_string": "1 May 2025"})
    assert not template.shows_date(chat(DATED[0] + TURNS))
    assert "Today Date: 1 May 2025" in template.render("x", trained())
    assert not Chat().shows_date(chat(TURNS))
    assert not Plain().shows_date(trained())


# ---------------------------------------------------------------------------------- settings and system messages


def test_settings_reach_the_chat_template() -> None:
    tokenizer = chat(TURNS + THINKS)
    assert Chat().render("x", tokenizer) == Chat(settings={"enable_thinking": True}).render("x", tokenizer)
    assert Chat(settings={"enable_thinking": False}).render("x", tokenizer).endswith("<think>\n\n</think>\n\n")
    assert Chat(system="Think.").render("x", tokenizer) == "<system>Think.\n<user>x\n<assistant>"


EFFORT = "{% if effort is defined %}{{ 'a' + effort }}{% endif %}" + TURNS
OFF = {"enable_thinking": False}
NONE, PLAIN = "(data.template.settings). Leave it out", "Use data.template: Plain"
# (chat template, template, what the error must say, the template that the error asks for)
MISFITS: list[tuple[str | None, Template, list[str], Template]] = [
    (NO_SYSTEM, Chat("Think."), ["a system message, got: System role not supported (data.template.system)"], Chat()),
    ("{{ messages[-1].content }}:", Chat("Think."), ["ignores 'Think.' (data.template.system). Leave it out"], Chat()),
    (TURNS + THINKS, Chat(None, {"enable_thinkng": False}), ["mean 'enable_thinking'?"], Chat(None, OFF)),
    (TURNS, Chat(None, OFF), ["uses (none), got 'enable_thinking'", NONE], Chat()),
    (TURNS, Chat(None, {"messages": []}), ["got 'messages'", NONE], Chat()),
    (TURNS, Chat(None, {"tokenize": True}), ["got 'tokenize'", NONE], Chat()),
    (EFFORT, Chat(None, {"effort": 3}), ["got {'effort': 3}", "data.template.settings"], Chat(None, {"effort": "b"})),
    ("{{ raise_exception('Only tools') }}", Chat(), ["a user message, got: Only tools", PLAIN], Plain()),
    ("{% for m in messages %}", Chat(), ["got: Unexpected end of template", PLAIN], Plain()),
    ("{{ messages[0].content[0].text }}", Chat(), ["shows a question given as text", PLAIN], Plain()),
    (None, Chat("Think."), ["a chat template, got ''", PLAIN], Plain()),
]


@pytest.mark.parametrize(("source", "template", "parts", "right"), MISFITS)
def test_a_template_that_does_not_fit_is_a_user_error_whose_remedy_works(
    source: str | None, template: Template, parts: list[str], right: Template
) -> None:
    tokenizer = chat(source)
    with pytest.raises(UserError) as caught:
        Codec(tokenizer=tokenizer, template=template, splitter=Sentences())
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)
    codec = Codec(tokenizer=tokenizer, template=right, splitter=Sentences())
    assert "7?" in tokenizer.decode(codec.prompts([example("7?")])[0])


# ---------------------------------------------------------------------------------------------------- thinking


def example(question: str = "How many?", conclusion: str = "") -> Example:
    return Example(
        id="a", question=question, rationale="It is 7. So 7.", answer="7", task="gsm8k", conclusion=conclusion
    )


TAGS = [
    ("<think>", "</think>"),
    ("<thinking>\n", "</thinking>"),
    ("<|begin_of_thought|>\n\n", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
]


@pytest.mark.parametrize(("tag", "end"), TAGS)
@pytest.mark.parametrize("plain", [True, False])
def test_a_completion_closes_the_thinking_that_its_prompt_opens(tag: str, end: str, plain: bool) -> None:
    tokenizer = chat(f"{TURNS}{{{{ {tag!r} }}}}")
    template = Plain(f"{{question}} {tag.strip()}") if plain else Chat()
    codec = Codec(tokenizer=tokenizer, template=template, splitter=Sentences())
    (row,) = codec.encode([example()])
    lead = " " if plain else ""
    assert [tokenizer.decode(row.tokens[start:stop]) for start, stop in (*row.steps, row.answer)] == [
        f"{lead}It is 7.",
        " So 7.",
        f"\n{end}\n\nTherefore, the answer is 7.<|end|>",
    ]
    assert tokenizer.decode(row.prompts[""]).rstrip().endswith(tag.strip())
    (row,) = codec.encode([example()], rationales=False)
    assert tokenizer.decode(row.tokens) == f"\n{end}\n\nTherefore, the answer is 7.<|end|>"
    # A method that closes the thinking itself, and the conclusion, which is no thinking.
    own = Codec(tokenizer=tokenizer, template=template, splitter=Sentences(), closes_thinking=False)
    (row,) = own.encode([example()])
    assert tokenizer.decode(row.tokens) == f"{lead}It is 7. So 7. Therefore, the answer is 7.<|end|>"
    both = Codec(tokenizer=tokenizer, template=template, splitter=Sentences(), encodes_conclusion=True)
    (row,) = both.encode([example(conclusion="Seven.")])
    assert tokenizer.decode(row.tokens) == f"{lead}It is 7. So 7.\n{end}\n\nSeven. Therefore, the answer is 7.<|end|>"
    assert tokenizer.decode(row.tokens[slice(*row.answer)]) == " Therefore, the answer is 7.<|end|>"


@pytest.mark.parametrize("end", ["", "<think>\\n\\n</think>\\n\\n", "Use <think> tags:", "<thinker>"])
def test_a_prompt_that_opens_nothing_changes_no_completion(end: str) -> None:
    codec = Codec(tokenizer=chat(TURNS + end), template=Chat(), splitter=Sentences())
    (row,) = codec.encode([example()])
    assert trained().decode(row.tokens) == "It is 7. So 7. Therefore, the answer is 7.<|end|>"
