"""``python -m skipthinking``: tools answer at once; training commands import torch first."""

from __future__ import annotations

import importlib
import sys

TOOLS = {
    "generate": "skipthinking.tools.generate:generate",
    "show": "skipthinking.report.show:show",
    "summary": "skipthinking.report.summary:summary",
}
TRAINING = ("fit", "validate", "test", "predict", "annotate")
HELP = """usage: python -m skipthinking COMMAND [--config FILE] [options]

Distil chain-of-thought rationales into small language models that reason better and answer sooner.

training commands (options: COMMAND --help):
  fit        train a student, test it, and export it
  validate   answer the validation examples
  test       answer the test sets
  predict    answer --question "..." or a file, --questions FILE
  annotate   search chunks and skips of the training examples, or weigh their tokens, and write them

tools:
  generate   write examples of a built-in task as JSONL
  summary    print the summary of a finished run
  show       draw annotated examples: stages, loss per step, skipped chunks, token weights

examples:
  python -m skipthinking fit --config experiments/quickstart.yaml
  python -m skipthinking test --config runs/NAME/config.yaml
"""


def main(args: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: Its words; those of the command line by default.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if args is None else args
    if not words or words[0] in {"-h", "--help", "help"}:
        print(HELP)
        return 0
    if words[0] == "--version":
        from skipthinking import __version__

        print(__version__)
        return 0
    if words[0] in TOOLS:
        return _tool(words[0], words[1:])
    if words[0] not in TRAINING:
        import difflib

        near = difflib.get_close_matches(words[0], [*TRAINING, *TOOLS], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(f"error: Expected a command ({', '.join([*TRAINING, *TOOLS])}), got {words[0]!r}.{hint}", file=sys.stderr)
        return 2
    from skipthinking.cli import main as train

    return train(args)


def _tool(name: str, words: list[str]) -> int:
    from jsonargparse import auto_cli

    from skipthinking.records import UserError

    module, function = TOOLS[name].split(":")
    try:
        auto_cli(
            getattr(importlib.import_module(module), function),
            args=words,
            as_positional=False,
            prog=f"skipthinking {name}",
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
