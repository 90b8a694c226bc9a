"""``python -m skipthinking``: tools answer at once; training commands import torch first."""

from __future__ import annotations

import importlib
import os
import select
import sys

from skipthinking.records import UserError, did_you_mean

TOOLS = {
    "compare": "skipthinking.report.compare:compare",
    "generate": "skipthinking.command_line.generate:generate",
    "show": "skipthinking.report.show:show",
    "suite": "skipthinking.command_line.suite:suite",
    "summary": "skipthinking.report.summary:summary",
    "teach": "skipthinking.command_line.teach:teach",
}
TRAINING = ("fit", "validate", "test", "predict", "annotate", "diagnose")
HELP = """usage: python -m skipthinking COMMAND [--config FILE] [options]

Distill chain-of-thought rationales into small language models that reason better and answer sooner.

training commands (options: COMMAND --help, or all of them: COMMAND --help=all):
  fit        train a student, test it, and export it
  validate   answer the validation examples
  test       answer the test sets
  predict    answer --question "..." or a file, --questions FILE
  annotate   search chunks, skips or cuts of the training examples, or weigh their tokens, and write them
  diagnose   measure gradient shares of core tokens, and sharpness of the minimum

tools:
  generate   write examples of a built-in task as JSONL
  summary    print the summary of a finished run
  compare    compare finished runs: compare runs/*
  suite      methods x tasks x seeds: run what is not done yet, and compare
  teach      ask a teacher for rationales, and write those with the right answer
  show       draw annotated examples: stages, loss per step, skipped chunks, cuts, token weights

examples:
  python -m skipthinking fit --config experiments/quickstart.yaml
  python -m skipthinking test --config runs/NAME/config.yaml
"""


def main(args: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: Its words; those of the command line by default.

    Returns:
        The exit code; 130 after Ctrl-C, 141 if the reader of the output (``| head``) has closed it.
    """
    try:
        code = _command(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _output_closed():
            raise  # the pipe of another process
        return 141
    except SystemExit as stop:  # rich makes one of a closed pipe
        if isinstance(stop.__context__, BrokenPipeError):
            return 141
        raise
    except KeyboardInterrupt:  # while packages are imported, or in a tool
        print("stopped", file=sys.stderr)
        return 130
    return code


def _output_closed() -> bool:
    """Whether nobody reads the standard output any more; what is left of it then goes nowhere."""
    output, events = sys.stdout.fileno(), select.poll()
    events.register(output, 0)
    if not any(event & select.POLLERR for _, event in events.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def _command(words: list[str]) -> int:
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
        known = [*TRAINING, *TOOLS]
        hint = did_you_mean(words[0], known)
        print(f"error: Expected a command ({', '.join(known)}), got {words[0]!r}.{hint}", file=sys.stderr)
        return 2
    if {"-h", "--help"} & {*words}:
        from skipthinking.command_line.short_help import short_help

        print(short_help(words[0]))
        return 0
    from skipthinking.command_line.cli import main as train

    return train(["--help" if word == "--help=all" else word for word in words] if "--help=all" in words else words)


def _tool(name: str, words: list[str]) -> int:
    from skipthinking.command_line.parsing import call

    module, function = TOOLS[name].split(":")
    try:
        code = call(getattr(importlib.import_module(module), function), f"skipthinking {name}", words)
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
