"""Where the weights of a pretrained student come from, and under which license, as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Origin", "origin_of"]

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SECONDS = 5.0  # for the hub to answer; a run does not wait longer for a license


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The base of a student.

    Attributes:
        hub: Hub name of the base; None if it is not known.
        license: The base's license as its own card or file names it; None if it is not known.
        text: The base in words, for a reader.
    """

    hub: str | None = None
    license: str | None = None
    text: str = "random weights"


def origin_of(name: str, revision: str | None, gguf: tuple[Path, Mapping[str, Any]] | None) -> Origin:
    """The origin of a model.

    Args:
        name: Hub name or folder.
        revision: Branch, tag or commit on the hub.
        gguf: The GGUF file that the model is read from, and its metadata.
    """
    on_hub = not Path(name).exists() and _HUB_NAME.fullmatch(name) is not None
    if gguf is not None:
        path, known = gguf
        source = re.search(r"huggingface\.co/([\w.-]+/[\w.-]+)", str(known.get("general.base_model.0.repo_url", "")))
        hub = source[1] if source else name if on_hub else None
        by = known.get("general.organization")
        text = f"{path.name}{f' by {by}' if by else ''}, a GGUF file that was dequantized"
        return Origin(hub=hub, license=known.get("general.license"), text=text)
    if on_hub:
        return Origin(hub=name, license=_license_on_hub(name, revision), text=name)
    card = _card_in(Path(name))
    hub = card.get("base_model")
    license = card.get("license")
    return Origin(
        hub=hub if isinstance(hub, str) else None,
        license=license if isinstance(license, str) else None,
        text=f"the model in {Path(name).name}/" + (f", from {hub}" if isinstance(hub, str) else ""),
    )


def _card_in(folder: Path) -> Mapping[str, Any]:
    """Metadata of the model card in a folder; empty without one that can be read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    try:
        return ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, YAMLError):
        return {}


def _license_on_hub(name: str, revision: str | None) -> str | None:
    """The license that a model's card on the hub names; None out of reach of the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        card = HfApi().model_info(name, revision=revision, timeout=_SECONDS).card_data
    except (OSError, ValueError, HTTPError):
        return None
    license = card.get("license") if card else None
    return license if isinstance(license, str) else None
