"""Which module may import which, and what starts without torch."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# Rooms from the ground up: a room imports from itself and from the rooms before it. Type-checking imports count.
ORDER = (
    "records", "files", "settings", "losses", "checkpoints", "ranks",
    "tasks", "annotate", "data", "students", "evaluation", "methods", "diagnosis", "runs", "teacher", "report",
    "command_line", "__main__",
)  # fmt: skip


def _imports() -> list[tuple[str, str]]:
    """Pairs of a file and a module of this package that it imports, for type checking and inside functions too."""
    found = []
    for path in sorted((ROOT / "skipthinking").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [(str(path.relative_to(ROOT)), name) for name in names if name.startswith("skipthinking.")]
    return found


def _file_of(module: str) -> str:
    path = ROOT / module.replace(".", "/")
    return str((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(ROOT))


def test_arrows_point_one_way() -> None:
    found = _imports()
    assert len(found) > 50
    rooms = [(file, file.split("/")[1].removesuffix(".py"), module.split(".")[1]) for file, module in found]
    assert [row for row in rooms if row[1] != "__init__" and ORDER.index(row[2]) > ORDER.index(row[1])] == []


def test_no_circle_of_files() -> None:
    arrows: dict[str, set[str]] = {}
    for file, module in _imports():
        arrows.setdefault(file, set()).add(_file_of(module))
    while arrows:
        free = [file for file, targets in arrows.items() if not targets & arrows.keys() - {file}]
        assert free, f"a circle among {sorted(arrows)}"
        for file in free:
            del arrows[file]


def test_only_students_import_transformers() -> None:
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
