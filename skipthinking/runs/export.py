"""The exported student of a run: model, tokenizer with chat template, generation settings, model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from skipthinking.annotate.runner import say
from skipthinking.data.chat_templates import chat_template_of, prompt_variables
from skipthinking.data.module import RationaleDataModule
from skipthinking.data.sources import Hub
from skipthinking.data.splits import Splits
from skipthinking.methods.base import Distiller
from skipthinking.runs.card import CardFacts, versions, write_card
from skipthinking.runs.card_results import Conditions, update_card
from skipthinking.tasks import get_task

__all__ = ["export_run", "update_results"]


def export_run(
    folder: Path, method: Distiller, data: RationaleDataModule, state: Mapping[str, Tensor] | None, model: str | None
) -> None:
    """Writes the student of a run to RUN/student, in the format of transformers.

    By its chat template and generation settings, ``pipeline`` and ``generate`` answer a raw question as ``test`` does.

    Args:
        folder: The run folder.
        method: The method, trained.
        data: Its data module.
        state: Full weights, if those of the model are sharded.
        model: Hub name of the student, for its card.
    """
    codec, student, limit = method.codec, method.student, method.max_new_tokens
    assert codec is not None
    tasks, tested = _tasks(data)
    variables = prompt_variables(method.prompt_choice, method.prompt_prefixes[0], tasks, tested)
    chat_template = chat_template_of(codec, variables)
    if chat_template is None:
        say("note: no chat template gives the prompts of this run, so student/ has none; its README.md has the prompt")
    student.export(
        folder / "student", state, method.completion_marks, chat_template=chat_template or "", max_new_tokens=limit
    )
    example = next(row for rows in [*data.test_sets.values(), data.examples.get("train", ())] for row in rows)
    question = method.prompt_prefixes[0] + get_task(example.task).ask(example.question)
    trainer = method.trainer
    facts = CardFacts(
        model=model or str(folder / "student"),
        method=type(method),
        origin=student.origin(),
        architecture=student.config.model_type,
        encoder_decoder=student.encoder_decoder,
        context=student.context_length,
        tasks=tasks,
        sources=[line for line in data.report if line.startswith(("train:", "test/"))],
        hub_names=hub_names(data.splits),
        question=example.question,
        prompt=codec.template.render(question, codec.tokenizer),
        variables=None if chat_template is None else variables,
        marks=method.completion_marks,
        training=[
            f"{trainer.global_step} optimizer steps, {method.target_tokens:,} target tokens, seed {data.seed}",
            f"precision {trainer.precision}" + (f", LoRA of rank {student.lora.r}, merged" if student.lora else ""),
            versions(),
        ],
    )
    write_card(folder, facts, conditions_of(method, data))


def conditions_of(method: Distiller, data: RationaleDataModule) -> Conditions:
    """The conditions under which a method answers."""
    steps = method.trainer.global_step or method.steps_before
    return Conditions(steps=steps, max_new_tokens=method.max_new_tokens, prompt=data.sample_prompt() or "")


def update_results(folder: Path, data: RationaleDataModule) -> None:
    """Writes the results of a test into the card of the exported student, see :func:`update_card`."""
    update_card(folder, hub_names(data.splits))


def _tasks(data: RationaleDataModule) -> tuple[list[str], list[str]]:
    """Names of all tasks of a run, and of those that it is tested on."""
    tested = list(dict.fromkeys(row.task for rows in data.test_sets.values() for row in rows))
    known = [source.task for source in data.splits.sources if hasattr(source, "task")]
    # A source of one's own may have no task as an attribute; its examples have.
    first = [] if known else [row.task for row in data.examples.get("train", ())[:1]]
    return list(dict.fromkeys([*tested, *known, *first])), tested


def hub_names(splits: Splits) -> dict[str, Any]:
    """Names of data sets on the hub: by test set, and of training as a list under "train"."""
    names: dict[str, Any] = {}
    for name, source in splits.test_sources.items():
        if isinstance(source, Hub) and source.hub_name not in names.values():
            names[name] = source.hub_name
    return {**names, "train": [source.hub_name for source in splits.sources if isinstance(source, Hub)]}
