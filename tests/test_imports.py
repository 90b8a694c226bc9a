"""Which module may know which, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# records <- tasks <- data <- annotate <- methods <- cli; students, losses and metrics know records and batches only.
RANKS = {
    "records": 0, "hints": 0, "slurm": 0, "layers": 1, "sharding": 1,
    "checkpoints": 1, "report": 1, "tasks": 1, "losses": 1, "schedules": 1,
    "metrics": 1, "data": 2, "students": 3, "annotate": 4, "methods": 5, "runs": 6, "interrupts": 6,
    "callbacks": 6, "wandb_tables": 6, "cli": 7, "tools": 7, "teacher": 4, "__main__": 8,
}  # fmt: skip


def _imports() -> list[tuple[str, str, str]]:
    """(file, package that imports, package that is imported), type-checking blocks left out."""
    found = []
    for path in sorted((ROOT / "skipthinking").rglob("*.py")):
        name = path.relative_to(ROOT / "skipthinking").with_suffix("").parts[0]
        tree = ast.parse(path.read_text())
        hidden = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and node not in hidden:
                names = [node.module or ""]
            elif isinstance(node, ast.Import) and node not in hidden:
                names = [alias.name for alias in node.names]
            parts = [n.split(".")[1] for n in names if n.startswith("skipthinking.")]
            found += [(str(path.relative_to(ROOT)), name, part) for part in parts]
    return found


def test_arrows_point_one_way() -> None:
    found = _imports()
    assert len(found) > 50
    wrong = [row for row in found if row[1] != "__init__" and RANKS[row[2]] > RANKS[row[1]]]
    assert wrong == []


def test_only_students_know_transformers() -> None:
    for path in sorted((ROOT / "skipthinking").rglob("*.py")):
        if path.parent.name != "students":
            assert "import transformers" not in path.read_text(), path
            assert "from transformers" not in path.read_text(), path


@pytest.mark.parametrize(
    "line",
    [
        "import skipthinking",
        "from skipthinking.__main__ import main; main(['--help'])",
        "from skipthinking.__main__ import main; main(['generate', '--help'])",
        "from skipthinking.__main__ import main; main('generate --task coin_flip --size 3 --out x.jsonl'.split())",
        "from skipthinking.__main__ import main; main(['summary', '--run', 'nowhere'])",
        "from skipthinking.__main__ import main; main(['compare', 'nowhere'])",
        "from skipthinking.__main__ import main; main(['suite', '--config', 'nowhere.yaml'])",
        "from skipthinking.__main__ import main; main(['teach', '--help'])",
    ],
)  # fmt: skip
def test_tools_start_without_torch(line: str, tmp_path: object) -> None:
    code = f"import sys, atexit\natexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n{line}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=str(tmp_path), env=_env())
    assert done.stderr.splitlines()[-1] == "False", done.stderr


def _env() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
