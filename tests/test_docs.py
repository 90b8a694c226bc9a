"""The pages build without a warning; the commands, files, configs and links that they name exist."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT

from skipthinking.__main__ import TOOLS, TRAINING
from skipthinking.annotate.annotator import Notes
from skipthinking.records import Encoded, Example
from skipthinking.tasks import task_names

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments" / "README.md", *sorted(DOCS.glob("*.md"))]
COMMAND = re.compile(r"python -m skipthinking ([\w-]+)(.*)")
YAML = re.compile(r"^( *)```yaml\n(.*?)```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` builds them, but nothing is written; links between pages and to headings are checked."""
    build = pytest.importorskip("sphinx.cmd.build")
    pytest.importorskip("myst_parser")
    assert build.build_main(["-q", "-W", "--keep-going", "-b", "dummy", str(DOCS), str(tmp_path)]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    assert {name for name, _ in COMMAND.findall(text)} <= {*TOOLS, *TRAINING, "--help"}
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`|^make (\w+)", text)) <= {pair for t in targets for pair in ((t, ""), ("", t))}
    files = (
        r"(?<![\w/])(?:experiments|skipthinking|tests|docs|notebooks)/[\w/.-]+\.(?:yaml|py|md|ipynb|sh|sbatch|svg|png)"
    )
    for name in re.findall(files, text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_of_tools_exist(page: Path) -> None:
    for name, words in COMMAND.findall(page.read_text()):
        module, _, function = TOOLS.get(name, "").partition(":")
        if module and name != "teach":  # its options are those of classes
            known = inspect.signature(getattr(importlib.import_module(module), function)).parameters
            assert set(re.findall(r"--(\w+)", words.split("`")[0])) <= {*known, "help"}, (name, words)


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_that_sphinx_does_not_read(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        if not path.startswith("https://"):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in map(_anchor, re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_other_sites_are_well_formed(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[\w%.~/-]*)?", link), link


def _configs() -> list[tuple[str, str]]:
    """The configs that pages show, with the page's name; in lists they are indented."""
    found = [(page.name, *match) for page in PAGES for match in YAML.findall(page.read_text())]
    return [(name, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)) for name, indent, text in found]


@pytest.mark.parametrize(("page", "text"), _configs())
def test_the_configs_of_the_pages_are_read(
    page: str, text: str, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    assert run("fit", "--print_config", config=path) == 0
    merged, own = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(text)
    sources = own["data"]["init_args"]["train"]
    assert [row["init_args"].get("path") for row in merged["data"]["init_args"]["train"]] == [
        row["init_args"].get("path") for row in sources
    ]
    assert merged["data"]["init_args"]["test"].keys() >= own["data"]["init_args"].get("test", {}).keys()
    if "config" not in own:  # complete in itself, so that it would train
        return
    method = Path(own["config"]).stem.rsplit("_", 1)[0].replace("_", "")  # cwt_qwen2, long_cot_qwen2
    assert merged["model"]["class_path"].split(".")[-1].lower() == method
    assert run("fit", config=path) == 2  # valid, but the file is missing and the hub is out of reach
    message = capsys.readouterr().err
    assert any(name in message for name in ["openai/gsm8k", *re.findall(r"path: (\S+?),", text)]), message


def _fits() -> list[str]:
    """The words after `fit --config experiments/...` with more options; tests/test_experiments.py has the others."""
    commands = [match for page in PAGES for match in COMMAND.findall(page.read_text())]
    words = {re.split("[`#]", words)[0].strip() for name, words in commands if name == "fit"}
    return sorted(line for line in words if line.startswith("--config experiments/") and len(line.split()) > 3)


@pytest.mark.parametrize("words", _fits())
def test_the_options_of_fit_in_the_pages_are_read(
    words: str, run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    config, *rest = words.replace("--config ", "", 1).split()
    assert run("fit", *rest, "--print_config", config=Path(config)) == 0
    assert "class_path" in capsys.readouterr().out


def test_the_method_of_the_docs_trains_on_every_token_once() -> None:
    block = re.search(r"```python\n(.*?)```", (DOCS / "new_method.md").read_text(), re.DOTALL)
    assert block
    names: dict[str, Any] = {}
    exec(compile(block[1], "new_method.md", "exec"), names)
    example = Example(id="a", question="?", rationale="One. Two.", answer="3", task="arithmetic")
    steps = ((0, 2), (2, 5))
    encoded = Encoded(example=example, prompts={"": np.array([9])}, tokens=np.arange(8), steps=steps, answer=(5, 8))
    instances = names["NextStep"].make_instances(None, encoded, Notes())  # uses nothing of the method
    assert len(instances) == 3
    assert np.concatenate([row.tokens[row.weights > 0] for row in instances]).tolist() == encoded.tokens.tolist()


def test_the_listed_tasks_exist() -> None:
    listed = (DOCS / "own_data.md").read_text().split("is read and graded: ")[1].split(", or a built-in")[0]
    assert {name.strip() for name in listed.replace("\n", " ").split(",")} <= set(task_names())


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
