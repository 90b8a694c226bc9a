"""Rows of two benchmark files that are no tables: lines of implicit chain-of-thought, and ASDiv's XML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from skipthinking.files import read_text
from skipthinking.records import DataError

__all__ = ["read_lines", "read_problems"]


def read_lines(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yields a row for every line of a text file: "2+3?||<<2+3=5>> #### 5".

    Raises:
        DataError: No line has this form.
    """
    lines = re.split(r"\r\n?|\n", read_text(path))
    if not any("||" in line for line in lines):
        raise DataError(
            f"Expected lines of the form question||rationale #### answer, got other text in {path.name!r} ({path}). "
            "Write the rows to a file of .jsonl, .json, .csv, .tsv or .parquet."
        )
    return (({"text": line}, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())


def read_problems(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Yields a row for every problem of ASDiv's XML: <Problem ID="a"><Body>He has 2.</Body><Question>...</Question>.

    Raises:
        DataError: The file is not XML.
    """
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as error:
        raise DataError(f"Expected XML, got {error} ({path}:{error.position[0]}). Replace the file.") from error
    for number, problem in enumerate(root.iter("Problem"), 1):
        yield {**problem.attrib, **{part.tag: part.text or "" for part in problem}}, f"{path}: row {number}"
