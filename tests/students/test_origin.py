"""What a model card may say of a student's base: only what the base itself says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from skipthinking.students.origin import Origin, origin_of


def on_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Lets the hub give a card, or raise."""

    def model_info(self: Any, name: str, **_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(card_data=answer)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


@pytest.mark.parametrize(
    ("answer", "license"),
    [
        ({"license": "mit"}, "mit"),
        ({}, None),
        (None, None),
        ({"license": ["a", "b"]}, None),
        (OSError("offline"), None),
    ],
)
def test_a_model_of_the_hub_has_the_license_of_its_card(
    answer: Any, license: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hub(monkeypatch, answer)
    assert origin_of("owner/model", None, None) == Origin(hub="owner/model", license=license, text="owner/model")


@pytest.mark.parametrize(
    ("card", "hub", "license"),
    [
        ("---\nbase_model: a/b\nlicense: mit\n---\n# M\n", "a/b", "mit"),
        ("---\nbase_model: [a/b, c/d]\n---\n", None, None),
        ("no metadata", None, None),
        ("---\n: [\n---\n", None, None),
        (None, None, None),
    ],
)
def test_a_folder_has_what_its_card_says(
    card: str | None, hub: str | None, license: str | None, tmp_path: Path
) -> None:
    """An exported student that is trained further hands its base on. A folder is no name of the hub."""
    folder = tmp_path / "student"
    folder.mkdir()
    if card is not None:
        (folder / "README.md").write_text(card)
    found = origin_of(str(folder), None, None)
    assert (found.hub, found.license) == (hub, license)
    assert str(tmp_path) not in found.text


def test_a_gguf_file_has_what_its_metadata_says() -> None:
    known = {"general.license": "apache-2.0", "general.organization": "Org"}
    found = origin_of("M.gguf", None, (Path("M.gguf"), known))
    assert found == Origin(license="apache-2.0", text="M.gguf by Org, a GGUF file that was dequantized")
    known = {"general.base_model.0.repo_url": "https://huggingface.co/Org/M"}
    assert origin_of("m.gguf", None, (Path("m.gguf"), known)).hub == "Org/M"
