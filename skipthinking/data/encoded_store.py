"""Encoded examples in memory-mapped Arrow files: tokenized once, in parallel, and mapped by every later start."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipthinking.annotate.fingerprints import digest_of
from skipthinking.data.encoding import Codec
from skipthinking.data.store import ExampleStore, MappedTable, complete, ids_of, key_of
from skipthinking.records import Encoded, Lazy

__all__ = ["EncodedStore", "unknown_tokens"]

_ROWS = 64  # examples that a process encodes at once


def unknown_tokens(row: Encoded, tokenizer: Any) -> int:
    """Number of completion tokens that are unknown to the tokenizer."""
    # Without the last token, EOS: some tokenizers use the same id for unknown tokens.
    unknown = tokenizer.unk_token_id
    return 0 if unknown is None else int((row.tokens[:-1] == unknown).sum())


class EncodedStore(Lazy[Encoded]):
    """Encoded examples in files; each is made when it is asked for, in 50 microseconds at 5,000 tokens.

    Tokens are int32 in the files. All processes of a machine map the same pages, which the system may drop at any time,
    so the memory of a process does not depend on the length of the examples.

    Args:
        table: Row of the example, tokens, prompts, ends of the steps, start of the answer, and digest.
        examples: The examples.
        prefixes: Prompt prefixes, in the order of the columns ``prompt0``, ``prompt1``, ...
    """

    def __init__(self, table: MappedTable, examples: ExampleStore, prefixes: Sequence[str]) -> None:
        self.table, self.examples, self.prefixes = table, examples, tuple(prefixes)

    @classmethod
    def of(cls, codec: Codec, examples: ExampleStore, *, rationales: bool, leave_out: bool) -> EncodedStore:
        """Encodes examples, unless it was done before with the same examples, tokenizer and settings.

        Args:
            codec: The codec.
            examples: The examples.
            rationales: See :meth:`Codec.encode`.
            leave_out: See :meth:`Codec.encode`.
        """
        undated = copy.copy(codec.template)
        undated.run_date = None  # the sample has the date, if prompts show it
        settings = {
            "examples": examples.key, "rationales": rationales, "leave_out": leave_out, "prefixes": codec.prefixes,
            "conclusion": codec.encodes_conclusion, "closing": codec.closing,
            "prompt": codec.template.sample(codec.tokenizer), "tokenizer": _digest_of(codec.tokenizer),
        }  # fmt: skip
        write = partial(_write, codec, examples, rationales, leave_out)
        folder = complete(key_of(settings, codec.splitter, undated), write)
        return cls(MappedTable(sorted(folder.glob("*.arrow"))), examples, codec.prefixes)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, place: int) -> Encoded:
        """The example at a place."""
        tokens = self.table.array("tokens", place)
        return Encoded(
            example=self.examples[int(self._rows[place])],
            prompts={prefix: self.table.array(f"prompt{k}", place) for k, prefix in enumerate(self.prefixes)},
            tokens=tokens,
            steps=tuple(pairwise([0, *self.table.array("ends", place).tolist()])),
            answer=(int(self.answers[place]), len(tokens)),
        )

    @cached_property
    def _rows(self) -> NDArray[np.int32]:
        return self.table.numbers("row")

    @cached_property
    def answers(self) -> NDArray[np.int32]:
        """First token of every example's answer, shape (N,)."""
        return self.table.numbers("answer")

    @property
    def unknown(self) -> int:
        """Number of completion tokens that are unknown to the tokenizer."""
        return int(self.table.numbers("unknown").sum())

    @cached_property
    def ids(self) -> list[str]:
        """Id of every example."""
        ids = list(ids_of(self.examples))
        return [ids[row] for row in self._rows.tolist()]

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Hash of each example's tokens and steps, shape (N, 8); see :mod:`skipthinking.annotate.fingerprints`."""
        return self.table.numbers("digest").view(np.uint8).reshape(len(self), -1)


def _digest_of(tokenizer: Any) -> str:
    """Hash of all of a tokenizer that ids depend on."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


def _write(codec: Codec, examples: ExampleStore, rationales: bool, leave_out: bool, folder: Path) -> None:
    """Encodes all examples into files of a folder, in as many processes as this one may use."""
    import datasets

    integers = datasets.List(datasets.Value("int32"))
    prompts = {f"prompt{k}": integers for k in range(len(codec.prefixes))}
    numbers = {"row": "int32", "answer": "int32", "unknown": "int32", "digest": "int64"}
    columns = {name: datasets.Value(kind) for name, kind in numbers.items()}
    features = datasets.Features({**columns, "tokens": integers, "ends": integers, **prompts})
    processes = min(len(os.sched_getaffinity(0)), -(-len(examples) // _ROWS))
    datasets.Dataset.from_dict({"at": np.arange(len(examples))}).map(
        partial(_encode, codec, examples, rationales, leave_out),
        batched=True, batch_size=_ROWS, remove_columns=["at"], features=features, writer_batch_size=_ROWS,
        num_proc=processes if processes > 1 else None, cache_file_name=str(folder / "tokens.arrow"),
        load_from_cache_file=False, new_fingerprint="tokens", desc="Tokenizing",
    )  # fmt: skip


def _encode(
    codec: Codec, examples: ExampleStore, rationales: bool, leave_out: bool, batch: dict[str, list[int]]
) -> dict[str, list[Any]]:
    """Columns of a batch of examples, given their rows; in a process that other ones run beside."""
    rows = {example.id: (row, example) for row in batch["at"] for example in [examples[row]]}
    encoded_rows: list[dict[str, Any]] = []
    for encoded in codec.encode([example for _, example in rows.values()], rationales=rationales, leave_out=leave_out):
        encoded_rows.append({
            "row": rows[encoded.id][0],
            "answer": encoded.answer[0],
            "unknown": unknown_tokens(encoded, codec.tokenizer),
            "digest": int.from_bytes(digest_of(encoded), "little", signed=True),
            "tokens": encoded.tokens.astype(np.int32),
            "ends": np.array([end for _, end in encoded.steps], dtype=np.int32),
            **{f"prompt{k}": encoded.prompts[p].astype(np.int32) for k, p in enumerate(codec.prefixes)},
        })  # fmt: skip
    names = [
        "row",
        "answer",
        "unknown",
        "digest",
        "tokens",
        "ends",
        *(f"prompt{k}" for k in range(len(codec.prefixes))),
    ]
    return {name: [row[name] for row in encoded_rows] for name in names}
