"""Laws of the package that users install: all that the source has, and nothing that only the repository needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

import skipthinking

PARTS = ("skipthinking", "experiments", "docs", "notebooks")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of wheel and sdist, built from a copy of the source."""
    home = tmp_path_factory.mktemp("source")
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy(file, home)
    for name in PARTS:
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    subprocess.run([sys.executable, "-c", BUILD], cwd=home, check=True, capture_output=True)
    return home / "dist"


def test_the_wheel_is_the_package_with_its_templates_and_license(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"skipthinking-{skipthinking.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(f"skipthinking-{skipthinking.__version__}.dist-info/METADATA").decode()
        scripts = wheel.read(f"skipthinking-{skipthinking.__version__}.dist-info/entry_points.txt").decode()
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "skipthinking").rglob("*") if file.is_file()}
    source = {name for name in files if "__pycache__" not in name}
    assert any(not name.endswith(".py") for name in source)
    assert {name for name in names if ".dist-info/" not in name} == source
    assert any(name.endswith("LICENSE") for name in names)
    assert "Requires-Dist: torch" in metadata
    assert "skipthinking = skipthinking.__main__:main" in scripts


def test_the_sdist_has_what_its_readme_names(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "setup.cfg", "pyproject.toml"} <= names
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert {link for link in links if link.rstrip("/") not in names} == set()


def test_the_changelog_begins_with_this_version() -> None:
    found = re.findall(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found[0] == skipthinking.__version__
    assert len(found) > 1
