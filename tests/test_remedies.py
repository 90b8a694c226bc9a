"""The remedy of every message that names a setting works when it is followed to the letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from remedies import LEAVE_OUT, heard, messages, remedies, unknown_names
from remedy_cases import CASES, OTHERS, WORLD, Case


@pytest.mark.parametrize("case", CASES, ids=[case.part for case in CASES])
def test_the_remedy_works(case: Case, tmp_path: Path) -> None:
    for name, text in WORLD.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    message = heard(case.provoke, tmp_path, {})
    assert case.part in message
    ways = case.by_hand or remedies(message)
    assert ways, message
    for way in ways:
        for name, value in way.items():
            assert value is LEAVE_OUT or name.rpartition(".")[2] in message or str(value) in message, message
        then = heard(case.provoke, tmp_path, {name: _here(value, tmp_path) for name, value in way.items()})
        assert not then or (case.later and case.later in then), f"{message}\n{way}\n{then}"


def _here(value: Any, world: Path) -> Any:
    return value.replace("WORLD", str(world)) if isinstance(value, str) else value


def test_every_message_that_names_a_setting_has_a_case() -> None:
    known = [case.part for case in CASES] + list(OTHERS)
    without = [text for text in messages() if not any(part in text for part in known)]
    assert without == []


def test_every_setting_that_a_message_names_exists() -> None:
    tools = ("usage:", "#!/bin/bash")  # these have options of other programs too
    unknown = {text: unknown_names(text) for text in messages() if not text.startswith(tools)}
    assert {text: names for text, names in unknown.items() if names} == {}
    assert unknown_names("Set data.batchsize: 3, or --modle.") == ["--modle", "data.batchsize"]


def test_a_remedy_is_read_from_a_message() -> None:
    message = "got a.b=3. Set a.b: 2 or more, c.d: ' [{}]', or e: 1 with f: null, for example."
    assert remedies(message) == [{"a.b": 2}, {"c.d": " [{}]"}, {"e": 1, "f": None}]
    assert remedies("got --a b. Use --a c --b d/e.") == [{"a": "c", "b": "d/e"}]
