"""Laws of compiled students: the losses and gradients of plain ones, the same names of weights, the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from skipthinking.students import FromScratch, compiling


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects what torch captures, and runs it as it is: a kernel compiler takes half a minute."""
    seen: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch._dynamo.reset()
    return seen


def test_compiled_equals_plain(graphs: list[Any], tmp_path: Path) -> None:
    settings = {"lora": tiny.adapter(), "gradient_checkpointing": True}
    plain, compiled = (tiny.scratch("llama", compile=flag, **settings).train() for flag in (False, True))
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    found = []
    for student in (plain, compiled):
        for count in (5, 4):  # two shapes
            student.zero_grad()
            nll_N = student.token_nll(tiny.batch_of(student, tiny.instances(student, count)))
            (nll_N * torch.linspace(0.5, 1.5, len(nll_N))).sum().backward()
        found.append((nll_N.detach(), tiny.gradients(student)))
        assert bool(graphs) == (student is compiled)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    trained = len(graphs)
    prompts = tiny.prompts(plain, [3, 7, 5])
    assert compiled.eval().generate(prompts, 6) == plain.eval().generate(prompts, 6)
    with compiled.frozen():
        compiled.token_nll(tiny.batch_of(compiled, tiny.instances(compiled, 3)))
    assert len(graphs) == trained  # neither answers nor scores compile anything
    for student, name in ((plain, "plain"), (compiled, "compiled")):
        student.export(tmp_path / name)
    weights = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "compiled")]
    assert weights[0] == weights[1]
    loaded = tiny.pretrained(str(tmp_path / "compiled"))
    assert loaded.generate(prompts, 6) == plain.generate(prompts, 6)


def test_layers_of_a_kind_share_a_compilation(graphs: list[Any]) -> None:
    config = {**tiny.CONFIGS["llama"], "num_hidden_layers": 4}
    student = tiny.ready(FromScratch("llama", config, vocab_size=600, compile=True)).train()
    student.token_nll(tiny.batch_of(student, tiny.instances(student)))
    assert 0 < len(graphs) < 4
