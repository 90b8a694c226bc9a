"""The parser of the training commands, and the classes that a config can name without their full path."""

from __future__ import annotations

import re
from typing import Any

import yaml
from jsonargparse import get_loader
from lightning.pytorch.cli import LightningArgumentParser

import skipthinking.data.chunkers
import skipthinking.data.encoding
import skipthinking.data.sources
import skipthinking.data.steps
import skipthinking.methods
import skipthinking.methods.long_cot.cuts
import skipthinking.methods.schedules
import skipthinking.methods.skip_thinking.chunks
import skipthinking.methods.skip_thinking.skips
import skipthinking.runs.wandb_tables
import skipthinking.students  # noqa: F401
from skipthinking.command_line.class_paths import current_class_paths
from skipthinking.command_line.hints import OneLineErrors
from skipthinking.command_line.layers import KEY

__all__ = ["Parser"]


class Parser(OneLineErrors, LightningArgumentParser):
    """Reads config files that build on others, and those of older versions; reports errors in one line."""

    def parse_args(self, args: Any = None, namespace: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parses a command line. With a namespace: one setting of a class, where jsonargparse writes null as None."""
        if namespace is not None:
            args = [re.sub("=None$", "=null", word) for word in args]
        return super().parse_args(args, namespace, *more, **kwargs)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Any:
        """Parses a config's own keys; the files that it builds on are on the command line before it."""
        content = current_class_paths(content)
        keys = get_loader("yaml")(content) if KEY in content else None
        if isinstance(keys, dict) and keys.pop(KEY, None):
            # Everything in quotes with its type: jsonargparse reads 1e3 as a number, PyYAML writes it as a text.
            content = yaml.safe_dump(keys, default_style='"', sort_keys=False)
        return super().parse_string(content, *args, **kwargs)
