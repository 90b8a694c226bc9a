"""Whether Weights & Biases logs to its server or offline."""

from __future__ import annotations

import netrc
import os

from lightning.pytorch.utilities import rank_zero_only

from skipthinking.records import UserError

__all__ = ["prepare_wandb"]


def prepare_wandb(run: str, logged: bool) -> None:
    """Sets the name of the run, and has W&B log offline if it has no key.

    Args:
        run: The name.
        logged: Whether a logger of W&B is among the settings.

    Raises:
        UserError: The run belongs to a sweep but could not reach the server, for which its agent would wait in vain.
    """
    keyless = logged and not _has_key()
    if logged and "WANDB_SWEEP_ID" in os.environ and (keyless or os.environ.get("WANDB_MODE") == "offline"):
        raise UserError(
            "Expected a W&B server for a sweep, got a run without a key or with WANDB_MODE=offline. Run `wandb "
            "login` and remove WANDB_MODE; without a server, list the settings as methods of a suite: python -m "
            "skipthinking suite --config experiments/suites/quick.yaml is one."
        )
    if keyless and os.environ.setdefault("WANDB_MODE", "offline") == "offline":
        rank_zero_only(print)("W&B: no key found, logging offline; `wandb sync` uploads it later.", flush=True)
    os.environ.setdefault("WANDB_NAME", run)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
