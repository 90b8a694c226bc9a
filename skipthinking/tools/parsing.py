"""The tools' command lines: what is wrong in one line, with the nearest valid key."""

from __future__ import annotations

import re
import sys
from typing import NoReturn

from jsonargparse import ArgumentParser

from skipthinking.hints import in_one_line, nearest_key

__all__ = ["ToolParser"]

_GUESS = re.compile(r"^.*Expected a path but .* either not accessible or invalid\n", re.MULTILINE)


class ToolParser(ArgumentParser):
    """A parser of one tool."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with code 2.

        That a class is no path is left out: nobody meant one, and it would repeat all settings of the class.
        """
        if not self.exit_on_error:  # a parser of one class's settings: whoever asked it tells
            super().error(message, ex)
        message = _GUESS.sub("", message)
        print(f"error: {in_one_line(message)}{nearest_key(message, self)}", file=sys.stderr)
        sys.exit(2)
