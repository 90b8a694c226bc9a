"""From text to tokens: templates, one tokenization per example, and token spans for steps and answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.steps import StepSplitter
from skipthinking.records import DataError, Encoded, Example, Span, UserError
from skipthinking.tasks import get_task

__all__ = ["Chat", "Codec", "Plain", "Template", "step_spans"]

_BATCH = 1000  # texts per tokenizer call: large enough for its threads, small enough for a live progress bar


class Template(ABC):
    """How a question becomes a prompt. Training and evaluation use the same one."""

    lead: str
    """What stands between the prompt and the first character of the completion."""
    special_tokens: bool
    """Whether the tokenizer adds its special tokens around the rendered prompt."""

    @abstractmethod
    def render(self, question: str, tokenizer: Any) -> str:
        """Returns the prompt text for a question that already carries its task's wording."""


class Plain(Template):
    """A text prompt for base models and models trained from scratch.

    Args:
        prompt: Prompt with one ``{question}`` place. It must not end in white space: the blank that follows it
            belongs to the completion.
    """

    lead = " "
    special_tokens = True

    def __init__(self, prompt: str = "Question: {question}\nAnswer:") -> None:
        if prompt.count("{question}") != 1 or prompt != prompt.rstrip():
            raise UserError(
                f"Expected a prompt with one {{question}} and no trailing white space, got {prompt!r}. "
                "Mend data.template.init_args.prompt."
            )
        self.prompt = prompt

    def render(self, question: str, tokenizer: Any) -> str:
        """Fills the question in; braces in it are plain text."""
        return self.prompt.replace("{question}", question)


class Chat(Template):
    """The tokenizer's own chat template, with the generation prompt added.

    Args:
        system: System message, if the template takes one.
    """

    lead = ""
    special_tokens = False

    def __init__(self, system: str | None = None) -> None:
        self.system = system

    def render(self, question: str, tokenizer: Any) -> str:
        """Renders one user turn.

        Raises:
            UserError: The tokenizer has no chat template.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"Expected a tokenizer with a chat template, got {getattr(tokenizer, 'name_or_path', '')!r} without "
                "one. Use data.template: Plain."
            )
        turns = [{"role": "system", "content": self.system}] if self.system else []
        turns.append({"role": "user", "content": question})
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def step_spans(starts: Sequence[int], token_starts: NDArray[np.int64]) -> tuple[Span, ...]:
    """Maps segments of a text to the tokens that begin in them.

    Args:
        starts: First character of every segment, ascending, the first one 0.
        token_starts: First character of every token, shape (T,).

    Returns:
        One half-open token span per segment that owns at least one token; together they cover all T tokens.
        A token that begins in one segment and ends in the next (".\\n\\n" is one token of some vocabularies) belongs
        to the one where it begins.

    >>> step_spans([0, 5], np.array([0, 2, 4, 5, 8]))
    ((0, 3), (3, 5))
    """
    owner = np.maximum.accumulate(np.searchsorted(np.asarray(starts), token_starts, side="right") - 1)
    edges = np.flatnonzero(np.diff(owner, prepend=-1))
    return tuple(zip(edges.tolist(), [*edges[1:].tolist(), len(token_starts)], strict=True))


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Turns examples into token ids and token ids into text.

    Prompt and completion are tokenized apart, the completion behind a stand-in for the prompt's last character. So the
    prompt's ids in training are exactly the ids that generation starts from, and the completion's first token is
    the one it would be in running text, for byte-level BPE and for SentencePiece alike.

    Attributes:
        tokenizer: A fast Hugging Face tokenizer with an EOS token.
        template: The prompt template.
        splitter: Splits rationales into steps.
        prefixes: Texts that the method puts in front of the question (multi-task methods have several).
        conclusions: Whether an example's conclusion is encoded, between the last step and the answer.
    """

    tokenizer: Any
    template: Template
    splitter: StepSplitter
    prefixes: tuple[str, ...] = ("",)
    conclusions: bool = False

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(
                f"Expected a fast tokenizer (character offsets are needed), got {type(self.tokenizer).__name__}."
            )
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"Expected a tokenizer with an EOS token, got {self.tokenizer.name_or_path!r} without one.")

    def inline(self, text: str) -> NDArray[np.int64]:
        """Token ids of a text as it is tokenized between two words, for stage markers."""
        return self._behind_anchor([text + " b"], text_end=len(text))[0][0]

    def prompts(self, examples: Sequence[Example], prefix: str = "") -> list[NDArray[np.int64]]:
        """Prompt ids of every example, special tokens included."""
        texts = [
            self.template.render(prefix + get_task(example.task).ask(example.question), self.tokenizer)
            for example in examples
        ]
        ids: list[NDArray[np.int64]] = []
        for at in range(0, len(texts), _BATCH):
            encoded = self.tokenizer(
                texts[at : at + _BATCH],
                add_special_tokens=self.template.special_tokens,
                # A question that spells a special token is text; a chat template's own ones are what they seem.
                split_special_tokens=self.template.special_tokens,
            )
            ids.extend(np.asarray(row, dtype=np.int64) for row in encoded["input_ids"])
        return ids

    def encode(self, examples: Sequence[Example], *, rationales: bool = True) -> Iterable[Encoded]:
        """Encodes training examples, a batch at a time.

        Args:
            examples: The examples.
            rationales: Whether every example must have a rationale. If not, only the answer is encoded.

        Raises:
            DataError: An example has no steps although rationales are needed, or its text holds the end token.
        """
        for at in range(0, len(examples), _BATCH):
            rows = examples[at : at + _BATCH]
            prompts = {prefix: self.prompts(rows, prefix) for prefix in self.prefixes}
            texts, starts = [], []
            for example in rows:
                text, first = self._completion(example, rationales)
                texts.append(text)
                starts.append(first)
            for i, (tokens, token_starts) in enumerate(self._behind_anchor(texts)):
                spans = step_spans(starts[i], token_starts)
                eos = len(tokens)
                if self.tokenizer.eos_token_id in tokens:
                    raise DataError(
                        f"Expected a rationale without the end token {self.tokenizer.eos_token!r}, got one with it in "
                        f"its text (example {rows[i].id!r}). Remove it, or leave the example out."
                    )
                yield Encoded(
                    example=rows[i],
                    prompts={prefix: ids[i] for prefix, ids in prompts.items()},
                    tokens=np.append(tokens, self.tokenizer.eos_token_id),
                    steps=spans[: -2 if self._conclusion(rows[i], rationales) else -1],
                    answer=(spans[-1][0], eos + 1),
                )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def token_texts(self, ids: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The text of every token as it stands after another one: alone, SentencePiece would drop its blank."""
        before = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = len(self.tokenizer.decode(before))
        texts = {int(id): self.tokenizer.decode([*before, int(id)])[start:] for id in set(map(int, ids))}
        return [texts[int(id)] for id in ids]

    def _completion(self, example: Example, rationales: bool) -> tuple[str, list[int]]:
        """The completion's text, and the first character of every step, of a conclusion, and of the answer sentence."""
        answer = get_task(example.task).answer_sentence(example.answer)
        rationale = example.rationale.strip() if rationales else ""
        spans = self.splitter.spans(rationale)
        if rationales and not spans:
            raise DataError(
                f"Expected a rationale with at least one step, got {example.rationale!r} (example {example.id!r}). "
                "Set data.without_steps: leave_out, or train with AnswerOnly."
            )
        lead = self.template.lead
        if not rationale:
            return lead + answer, [0]
        starts = [0, *(len(lead) + start for start, _ in spans[1:]), len(lead) + len(rationale)]
        text = f"{lead}{rationale}{self._conclusion(example, rationales)}"
        return f"{text} {answer}", starts if len(text) == starts[-1] else [*starts, len(text)]

    def _conclusion(self, example: Example, rationales: bool) -> str:
        """The example's conclusion as it stands behind the steps; empty without one."""
        found = example.conclusion.strip() if self.conclusions and rationales else ""
        return found and f"\n\n{found}"

    def _behind_anchor(
        self, texts: Sequence[str], text_end: int | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Ids and first characters of the tokens of texts that follow other text.

        With ``text_end`` only the tokens that begin before it are returned.
        """
        anchor = ":" if texts[0][:1].isspace() else ""
        encoded = self.tokenizer(
            [anchor + text for text in texts],
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        rows = []
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            start = np.asarray([first for first, _ in offsets], dtype=np.int64) - len(anchor)
            end = np.asarray([last for _, last in offsets], dtype=np.int64) - len(anchor)
            keep = end > 0 if anchor else np.ones(len(ids), dtype=bool)
            if text_end is not None:
                keep &= start < text_end
            rows.append((np.asarray(ids, dtype=np.int64)[keep], start[keep]))
        return rows
