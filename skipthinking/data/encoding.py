"""Encodes text: one tokenization per example, and the token spans of its steps and answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.data.steps import StepSplitter
from skipthinking.data.store import characters
from skipthinking.data.templates import Chat, Plain, Template
from skipthinking.records import DataError, Encoded, Example, Span, UserError
from skipthinking.tasks import get_task

__all__ = ["Chat", "Codec", "Plain", "Template", "step_spans"]

_BATCH = 1000  # texts per tokenizer call: large enough for its threads, small enough for a live progress bar
_CHARACTERS = 2**20  # and their characters: a token's id and offsets take 150 bytes as Python objects


def step_spans(starts: Sequence[int], token_starts: NDArray[np.int64]) -> tuple[Span, ...]:
    """Maps segments of a text to the tokens that begin in them.

    Args:
        starts: First character of every segment, ascending, the first one 0.
        token_starts: First character of every token, shape (T,).

    Returns:
        One half-open token span per segment in which at least one token begins; together they cover all T tokens. A
        token that begins in one segment and ends in the next (".\\n\\n" is one token of some vocabularies) belongs to
        the first.

    >>> step_spans([0, 5], np.array([0, 2, 4, 5, 8]))
    ((0, 3), (3, 5))
    """
    owner = np.maximum.accumulate(np.searchsorted(np.asarray(starts), token_starts, side="right") - 1)
    edges = np.flatnonzero(np.diff(owner, prepend=-1))
    return tuple(zip(edges.tolist(), [*edges[1:].tolist(), len(token_starts)], strict=True))


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Groups examples for the tokenizer, long ones in small groups."""
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += characters(example)
        if len(batch) == _BATCH or size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Encodes examples as token ids, and decodes token ids.

    Prompt and completion are tokenized separately, the completion after an anchor that stands for the last character of
    the prompt. So the prompt ids in training are exactly those that generation starts from, and the completion starts
    with the token that running text would have there, for byte-level BPE and SentencePiece.

    Attributes:
        tokenizer: A fast Hugging Face tokenizer with an EOS token.
        template: The prompt template.
        splitter: Splits rationales into steps.
        prefixes: Texts that the method adds before the question; multi-task methods have several.
        encodes_conclusion: Whether the conclusion of an example is encoded, between the last step and the answer.
        closes_thinking: Whether a completion closes the thinking that its prompt opens, before conclusion and answer.
    """

    tokenizer: Any
    template: Template
    splitter: StepSplitter
    prefixes: tuple[str, ...] = ("",)
    encodes_conclusion: bool = False
    closes_thinking: bool = True

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(
                f"Expected a fast tokenizer (character offsets are needed), got {type(self.tokenizer).__name__}."
            )
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"Expected a tokenizer with an EOS token, got {self.tokenizer.name_or_path!r} without one.")
        self.template.check(self.tokenizer)

    @cached_property
    def closing(self) -> str:
        """Text that closes the thinking in a completion; empty if the prompt opens none, or the method closes it."""
        return self.template.closing(self.tokenizer) if self.closes_thinking else ""

    def inline(self, text: str) -> NDArray[np.int64]:
        """Returns the token ids of a text between two words, for stage markers."""
        return self._after_anchor([text + " b"], text_end=len(text))[0][0]

    def prompts(self, examples: Sequence[Example], prefix: str = "") -> list[NDArray[np.int64]]:
        """Returns the prompt ids of every example, special tokens included."""
        return self.prompt_ids([prefix + get_task(example.task).ask(example.question) for example in examples])

    def prompt_ids(self, questions: Sequence[str]) -> list[NDArray[np.int64]]:
        """Returns the prompt ids of questions that already have their prefix and the wording of their task."""
        texts = [self.template.render(question, self.tokenizer) for question in questions]
        ids: list[NDArray[np.int64]] = []
        for at in range(0, len(texts), _BATCH):
            encoded = self.tokenizer(
                texts[at : at + _BATCH],
                add_special_tokens=self.template.special_tokens,
                # "<s>" in a question is text, but the special tokens of a chat template are special tokens.
                split_special_tokens=self.template.special_tokens,
            )
            ids.extend(np.asarray(row, dtype=np.int64) for row in encoded["input_ids"])
        return ids

    def encode(
        self, examples: Iterable[Example], *, rationales: bool = True, leave_out: bool = False
    ) -> Iterator[Encoded]:
        """Encodes training examples, a batch at a time.

        Args:
            examples: The examples.
            rationales: Whether to encode rationales, which then need at least one step; else only the answer.
            leave_out: Whether an example whose rationale has no steps is left out; else it is an error.

        Raises:
            DataError: A rationale has no steps, or a text contains the end token.
        """
        for batch in _batches(examples):
            completions = [(example, self._completion(example, rationales, leave_out)) for example in batch]
            rows = [example for example, completion in completions if completion is not None]
            if not rows:
                continue
            prompts = {prefix: self.prompts(rows, prefix) for prefix in self.prefixes}
            texts, starts = zip(*(completion for _, completion in completions if completion is not None), strict=True)
            for i, (tokens, token_starts) in enumerate(self._after_anchor(texts)):
                spans = step_spans(starts[i], token_starts)
                eos = len(tokens)
                if self.tokenizer.eos_token_id in tokens:
                    raise DataError(
                        f"Expected a rationale without the end token {self.tokenizer.eos_token!r}, got one with it "
                        f"(example {rows[i].id!r}). Remove the token or the example."
                    )
                yield Encoded(
                    example=rows[i],
                    prompts={prefix: ids[i] for prefix, ids in prompts.items()},
                    tokens=np.append(tokens, self.tokenizer.eos_token_id),
                    steps=spans[: -2 if self._conclusion(rows[i], rationales) else -1],
                    answer=(spans[-1][0], eos + 1),
                )

    def offsets(self, example: Example) -> tuple[str, NDArray[np.int64]]:
        """Returns the text of an example's completion, and the first character of every token of it but EOS."""
        completion = self._completion(example, rationales=True)
        assert completion is not None
        text, _ = completion
        return text, self._after_anchor([text])[0][1]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of generated ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def token_texts(self, ids: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Returns the text of every token after another token: SentencePiece drops the space of a first one."""
        before = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = len(self.tokenizer.decode(before))
        texts = {int(id): self.tokenizer.decode([*before, int(id)])[start:] for id in set(map(int, ids))}
        return [texts[int(id)] for id in ids]

    def _completion(self, example: Example, rationales: bool, leave_out: bool = False) -> tuple[str, list[int]] | None:
        """Returns the completion, and where its steps, its conclusion (if any) and its answer sentence begin.

        None for a rationale without steps that is left out.
        """
        answer = get_task(example.task).answer_sentence(example.answer)
        rationale = example.rationale.strip() if rationales else ""
        spans = self.splitter.spans(rationale)
        if rationales and not spans:
            if leave_out:
                return None
            raise DataError(
                f"Expected a rationale with at least one step, got {example.rationale!r} (example {example.id!r}). "
                "Set data.without_steps: leave_out, or train with AnswerOnly."
            )
        lead = self.template.lead
        if not rationale:
            return (self.closing or lead) + answer, [0]
        starts = [0, *(len(lead) + start for start, _ in spans[1:]), len(lead) + len(rationale)]
        conclusion = self._conclusion(example, rationales)
        if not conclusion:
            return f"{lead}{rationale}{self.closing or ' '}{answer}", starts
        text = f"{lead}{rationale}{self.closing.rstrip()}{conclusion}"
        return f"{text} {answer}", [*starts, len(text)]

    def _conclusion(self, example: Example, rationales: bool) -> str:
        """Returns the text between the steps and the answer sentence; empty without a conclusion."""
        conclusion = example.conclusion.strip() if self.encodes_conclusion and rationales else ""
        return conclusion and f"\n\n{conclusion}"

    def _after_anchor(
        self, texts: Sequence[str], text_end: int | None = None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Tokenizes texts that follow other text: ids and first characters of the tokens, up to ``text_end``."""
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
