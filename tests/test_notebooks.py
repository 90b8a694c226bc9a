"""The notebooks run on less data; the committed ones ran once from the top, without errors or paths of a machine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conftest import ROOT
from random_model import random_model

from skipthinking.tasks import generate

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"quickstart", "chunks_and_skips", "own_method", "real_student"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_complete(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run once, from the top
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert not re.search(r"/(?:tmp|home|root|Users|work)/", path.read_text())


def _stand_ins(folder: Path) -> dict[str, str]:
    """What stands for the student and the data that one fetches: a random model, and rationales in the same format."""
    rows = generate("arithmetic", size=12, split="train")
    answers = [f"{row.rationale} The answer is {row.answer}." for row in rows]
    data = [{"instruction": row.question, "output": answer} for row, answer in zip(rows, answers, strict=True)]
    (folder / "rationales.json").write_text(json.dumps(data))
    return {
        "../experiments": f"{ROOT}/experiments",
        "../students/smollm2-135m": str(random_model(folder / "student", positions=256)),
        "../data/svamp/chatgpt_level4.json": str(folder / "rationales.json"),
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    less = {
        "size: 420": "size: 36",
        "size=420": "size=36",
        "size: 60": "size: 4",
        "max_new_tokens: 120": "max_new_tokens: 9",
        **(_stand_ins(tmp_path) if path.stem == "real_student" else {}),
    }
    for cell in notebook.cells:
        for much, little in less.items():
            cell.source = cell.source.replace(much, little)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute()
    results = [output for cell in notebook.cells for output in cell.get("outputs", ())
               if output.output_type == "execute_result" and "text/plain" in output.data]  # fmt: skip
    assert any(output.data["text/plain"] == "0" for output in results)
    assert not any(output.data["text/plain"] in ("1", "2", "130") for output in results)  # a command's exit code
