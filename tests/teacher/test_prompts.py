"""The chats that the teacher reads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from skipthinking.records import DataError, Example, UserError
from skipthinking.teacher.prompts import FewShot, Prompt, Rationalise, Rewrite, ZeroShot

EXAMPLE = Example(id="a", question="What is {answer} + 1?", rationale="We {question} add.", answer="18.0", task="gsm8k")


def _shots(folder: Path, count: int = 3) -> str:
    path = folder / "shots.jsonl"
    rows = [{"question": f"What is {i} + 1?", "rationale": f"Add 1 to {i}.", "answer": i + 1} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_placeholders_are_filled_once_and_braces_of_the_data_stay() -> None:
    turns = ZeroShot("Q: {question} {steps} {ending}", system="You add.").messages(EXAMPLE)
    assert turns == [
        {"role": "system", "content": "You add."},
        {"role": "user", "content": "Q: What is {answer} + 1? {steps} Therefore, the answer is X."},
    ]
    assert Rewrite(4, "{question}|{rationale}|{steps}").messages(EXAMPLE)[0]["content"] == (
        "What is {answer} + 1?|We {question} add.|4"
    )
    assert Rationalise("{question}|{answer}").messages(EXAMPLE)[0]["content"] == "What is {answer} + 1?|18"


def test_the_question_has_the_wording_of_its_task() -> None:
    example = Example(id="a", question="Can fish fly?", rationale="", answer="no", task="strategy_qa")
    assert ZeroShot("{question}").messages(example)[0]["content"] == "Can fish fly? Answer yes or no."
    assert (
        "\\boxed{X}"
        in ZeroShot().messages(Example(id="a", question="?", rationale="", answer="1", task="math"))[0]["content"]
    )


@pytest.mark.parametrize("prompt", [ZeroShot(), Rationalise(), Rewrite(3)])
def test_every_default_text_has_the_question_and_the_ending(prompt: Prompt) -> None:
    text = prompt.messages(EXAMPLE)[0]["content"]
    assert EXAMPLE.question in text
    assert text.endswith("End with: Therefore, the answer is X.")


def test_only_rationalise_shows_the_answer_and_only_rewrite_the_rationale() -> None:
    example = Example(id="a", question="How many?", rationale="Secret words.", answer="4711", task="gsm8k")
    texts = {type(prompt): prompt.messages(example)[0]["content"] for prompt in (ZeroShot(), Rationalise(), Rewrite(3))}
    assert [kind for kind, text in texts.items() if "4711" in text] == [Rationalise]
    assert [kind for kind, text in texts.items() if "Secret words." in text] == [Rewrite]


def test_exemplars_are_earlier_turns_with_the_answer_sentence(tmp_path: Path) -> None:
    turns = FewShot(_shots(tmp_path), shots=2, text="{question}").messages(EXAMPLE)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert turns[2]["content"] == "What is 1 + 1?"
    assert turns[3]["content"] == "Add 1 to 1. Therefore, the answer is 2."


def test_a_question_is_never_its_own_exemplar(tmp_path: Path) -> None:
    example = Example(id="a", question="what is  1 + 1?", rationale="", answer="2", task="gsm8k")
    turns = FewShot(_shots(tmp_path), shots=2, text="{question}").messages(example)
    assert [turn["content"] for turn in turns[::2]] == ["What is 0 + 1?", "What is 2 + 1?", "what is  1 + 1?"]


def test_prompts_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Expected 4 exemplars, got 3"):
        FewShot(_shots(tmp_path), shots=4).messages(EXAMPLE)
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"id": "b", "question": "Why?", "rationale": " ", "answer": "1"}) + "\n")
    with pytest.raises(DataError, match="'b' without one"):
        FewShot(str(bare), shots=1).messages(EXAMPLE)
    for kind, text in ((Rationalise, "{question}"), (ZeroShot, "{quest}"), (partial(Rewrite, 3), "{question} {steps}")):
        with pytest.raises(UserError, match=r"prompt\.text"):
            kind(text=text)
    with pytest.raises(UserError, match=r"prompt\.shots=0"):
        FewShot("x.jsonl", shots=0)
