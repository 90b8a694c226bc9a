"""An epoch of FullCoT beside TRL's SFTTrainer: the same weights, tokens and optimizer, no checkpointing."""

from __future__ import annotations

import pytest
from steps import main


def test_an_epoch_takes_less_time_and_memory_than_with_trl() -> None:
    pytest.importorskip("trl", reason="trl is not installed (pip install -e '.[oracles]')")
    ours, theirs = main(["table", "padded", "trl", "--rows", "16", "--batch", "8"])
    faster, smaller = ours["tokens/s"] / theirs["tokens/s"], ours["peak GiB"] / theirs["peak GiB"]
    print(f"\n{faster:.2f} times the speed of TRL, {smaller:.2f} of the memory")
    assert faster >= 2
    assert smaller <= 0.7
