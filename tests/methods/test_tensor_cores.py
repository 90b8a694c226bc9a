"""Float32 products use TF32 where a GPU has it, and nobody has chosen a precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from skipthinking.methods.tensor_cores import use_tensor_cores


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("device", "capability", "chosen", "expected"),
    [
        ("cuda", (9, 0), "highest", "high"),  # H100
        ("cuda", (8, 0), "highest", "high"),  # A100
        ("cuda", (7, 5), "highest", "highest"),  # T4 has no TF32
        ("cuda", (9, 0), "medium", "medium"),
        ("cpu", (9, 0), "highest", "highest"),
    ],
)
def test_tf32_is_used_where_it_is(
    device: str, capability: tuple[int, int], chosen: str, expected: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    torch.set_float32_matmul_precision(chosen)
    use_tensor_cores(torch.device(device))
    assert torch.get_float32_matmul_precision() == expected
    assert ("TF32" in capsys.readouterr().out) == (expected != chosen)
