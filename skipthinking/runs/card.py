"""The model card of an exported student: README.md in the format of the hub."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from skipthinking import __version__
from skipthinking.data.jinja_text import Variable
from skipthinking.runs.card_results import Conditions, results_metadata, results_section
from skipthinking.students.origin import Origin
from skipthinking.tasks import get_task

__all__ = ["CardFacts", "versions", "write_card"]

_LIBRARY = "transformers"  # which the code in the card imports, but not this room


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """What a model card says beside the results.

    Attributes:
        model: Name by which users load the student: a hub name or a folder.
        method: Class of the method.
        origin: Where the initial weights come from.
        architecture: ``model_type`` of transformers.
        encoder_decoder: Whether the student has an encoder.
        context: Maximum number of tokens of prompt and answer, of each for a student with an encoder.
        tasks: Names of the tasks.
        sources: The data in words, a line per source.
        hub_names: Names of the data sets on the hub, by test set; under "train" those of training.
        question: An example.
        prompt: Its prompt.
        variables: Variables of the chat template; None if the student has no chat template.
        marks: Regular expression of what is no text in an answer, such as stage markers.
        training: Lines about the training.
    """

    model: str
    method: type
    origin: Origin
    architecture: str
    encoder_decoder: bool
    context: int
    tasks: Sequence[str]
    sources: Sequence[str]
    hub_names: Mapping[str, Any]
    question: str
    prompt: str
    variables: Sequence[Variable] | None
    marks: str | None
    training: Sequence[str]


def write_card(folder: Path, facts: CardFacts, conditions: Conditions) -> None:
    """Writes the card of the student that is exported in a run folder.

    Args:
        folder: The run folder.
        facts: What the card says beside the results.
        conditions: Those of the exported student.
    """
    from huggingface_hub import ModelCard, ModelCardData

    results = results_metadata(
        folder, conditions, {name: id for name, id in facts.hub_names.items() if name != "train"}
    )
    method = facts.method.__name__
    data = ModelCardData(
        base_model=facts.origin.hub,
        datasets=sorted({*facts.hub_names.get("train", ())}) or None,
        license=facts.origin.license,
        library_name=_LIBRARY,
        pipeline_tag=None if facts.encoder_decoder else "text-generation",
        tags=["skipthinking", "chain-of-thought", "distillation", method],
        model_name=folder.name if results else None,
        eval_results=results,
    )
    parts = [
        f"# {folder.name}",
        f"A student of {method}: {facts.origin.text} ({facts.architecture}), trained by "
        f"skipthinking {_version('skipthinking')} on a teacher's rationales.",
        *_use(facts),
        *_prompt(facts),
        *_answers(facts, conditions.max_new_tokens),
        "## Results",
        results_section(folder, conditions),
        "## Method",
        _about(facts.method),
        "## Training",
        "\n".join(f"- {line}" for line in [*facts.sources, *facts.training]),
        *_limits(facts, conditions.max_new_tokens),
        "## License",
        f"That of the base is {facts.origin.license}."
        if facts.origin.license
        else "Not known here: look at the licenses of the data, and of the base if there is one, before you share it.",
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n").save(folder / "student" / "README.md")


def _use(facts: CardFacts) -> list[str]:
    """How to ask the student: code that runs as it is."""
    given = _given(facts.variables or ())
    if facts.variables is None:
        kind = "Seq2SeqLM" if facts.encoder_decoder else "CausalLM"
        ask = [f'inputs = tokenizer({facts.prompt!r}, return_tensors="pt")']
    elif facts.encoder_decoder:
        kind = "Seq2SeqLM"
        ask = [
            f'messages = [{{"role": "user", "content": {facts.question!r}}}]',
            f'inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True{given})',
        ]
    else:
        extra = f", tokenizer_encode_kwargs=dict({given.removeprefix(', ')})" if given else ""
        return [
            "## Use",
            "```python\n"
            f"from {_LIBRARY} import pipeline\n\n"
            f'student = pipeline("text-generation", {facts.model!r}, dtype="auto")\n'
            f'messages = [{{"role": "user", "content": {facts.question!r}}}]\n'
            f'print(student(messages, return_full_text=False{extra})[0]["generated_text"])\n'
            "```",
        ]
    answer = "output[0]" if facts.encoder_decoder else 'output[0, inputs["input_ids"].shape[1] :]'
    lines = [
        f"from {_LIBRARY} import AutoModelFor{kind}, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({facts.model!r})",
        f'model = AutoModelFor{kind}.from_pretrained({facts.model!r}, dtype="auto")',
        *ask,
        "output = model.generate(**inputs)",
        f"print(tokenizer.decode({answer}, skip_special_tokens=True))",
    ]
    return ["## Use", "\n".join(["```python", *lines, "```"])]


def _given(variables: Sequence[Variable]) -> str:
    """Arguments for the variables that have no default."""
    required = [one for one in variables if one.default is None]
    return "".join(f", {one.name}={next(iter(one.texts))!r}" for one in required)


def _prompt(facts: CardFacts) -> list[str]:
    shown = f"```text\n{facts.prompt.replace('```', chr(39) * 3)}\n```"
    if facts.variables is None:
        return ["## Prompt", "The student has no chat template. Its prompt, token for token as `test` made it:", shown]
    parts = [
        "## Prompt",
        "The chat template makes the prompt of the test, token for token, from a question alone:",
        shown,
    ]
    for one in facts.variables:
        if len(one.texts) == 1:
            continue
        lines = []
        for value, (before, after) in one.texts.items():
            default = " (default)" if value == one.default else ""
            around = f"`{before}{{question}}{after}`".replace("\n", "\\n")
            lines.append(f"- `{one.name}={value!r}`{default}: {around}")
        parts += [
            f"Its variable `{one.name}`, for `apply_chat_template({one.name}=...)` or "
            f"`pipeline(..., tokenizer_encode_kwargs={{{one.name!r}: ...}})`, chooses the text around the question:",
            "\n".join(lines),
        ]
    return parts


def _answers(facts: CardFacts, limit: int) -> list[str]:
    """How answers are generated and read."""
    parts = [
        "## Answers",
        f"Decoding is greedy, with at most {limit} new tokens, as in the test (generation_config.json).",
    ]
    lines = []
    for name in facts.tasks:
        task = get_task(name)
        kind = type(task.grader).__name__
        lines.append(f"- {name}: the text after the last `{task.cue}`, up to the end of the line or sentence ({kind})")
    parts += ["An answer is read by the rule of its task:", "\n".join(lines)]
    if facts.marks:
        parts.append(
            "Marks such as `[2]` name the stages of an answer and are no part of it; `completion_marks` in config.json "
            "is the regular expression that removes them."
        )
    return parts


def _about(method: type) -> str:
    """The method's docstring up to its arguments, with links to papers."""
    text = (inspect.getdoc(method) or "").partition("\nArgs:")[0].strip()
    return re.sub(r"arXiv[ :](\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text).replace("``", "`")


def _limits(facts: CardFacts, limit: int) -> list[str]:
    each = "of a prompt, and of an answer," if facts.encoder_decoder else "of prompt and answer together"
    return [
        "## Limitations",
        "\n".join([
            f"- It was trained on questions like that above ({', '.join(facts.tasks)}). On others it writes what looks "
            "like an answer.",
            "- A rationale may be wrong where the answer is right, and the other way round. A skipped step is not "
            "shown, so it cannot be checked.",
            f"- The student knows {facts.context} tokens {each}; `test` ends an answer there, `generate` does not.",
            "- Results are those of one seed. Another type of the weights, batch or device may change single answers.",
        ]),
    ]  # fmt: skip


def _version(package: str) -> str:
    if package == "skipthinking":
        return __version__  # the installed metadata may be older than an editable source tree
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree
        return ""


def versions() -> str:
    """The versions of the packages that made a student, in words."""
    names = ("skipthinking", "torch", "transformers", "tokenizers", "peft", "lightning")
    return ", ".join(f"{name} {version}" for name in names if (version := _version(name)))
