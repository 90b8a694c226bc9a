"""A diagnosis as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["draw"]

_SHARES = ("tokens", "norm", "cosine", "projection", "per_token", "random", "nll")


def draw(results: Mapping[str, Any]) -> str:
    """The tables of gradient shares and of sharpness."""
    lines = [f"{results['method']}, seed {results['seed']}, step {results['step']}, epoch {results['epoch']}"]
    if gradients := results["gradients"]:
        by = f"top {gradients['core_share']:.0%} of weights" if gradients["weights"] else "ground truth"
        lines += [
            f"gradient shares of core tokens ({by}), steps of {gradients['step_size']} instances",
            f"{'unit':<8}{'n':>6}{'with core':>11}" + "".join(f"{name:>15}" for name in _SHARES),
        ]
        for unit in ("example", "step"):
            row = gradients[unit]
            cells = [f"{_spread(row['mean'].get(name), row['half'].get(name)):>15}" for name in _SHARES]
            lines.append(f"{unit:<8}{row['units']:>6}{row['with_core']:>11.1%}" + "".join(cells))
    if sharpness := results["sharpness"]:
        radii = [f"+loss at {radius}" for radius in sharpness["radii"]]
        lines.append(f"{'split':<8}{'n':>6}{'loss':>9}{'top eigenvalue (residual, products)':>38}"
                     + "".join(f"{radius:>17}" for radius in radii))  # fmt: skip
        for split in ("train", "test"):
            row = sharpness.get(split)
            if isinstance(row, str):
                lines.append(f"{split:<8}{row}")
            elif row:
                known = "eigenvalue" in row
                eigen = f"{row['eigenvalue']:.4g} ({row['residual']:.1%}, {row['products']})" if known else ""
                rises = [f"{_spread(rise['increase'], rise['sd']):>17}" for rise in row["noise"].values()]
                lines.append(f"{split:<8}{row['instances']:>6}{row['loss']:>9.4f}{eigen:>38}" + "".join(rises))
    return "\n".join(lines)


def _spread(mean: float | None, half: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" + ("" if half is None else f" ±{half:.3f}")
