"""What a full or read-only disk leaves: files that are complete or absent, and a message that helps."""

from __future__ import annotations

import errno
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import get_crc32_options, set_crc32_options

from skipthinking.checkpoints import SafeCheckpointIO
from skipthinking.files import replacing_folder
from skipthinking.runs import log
from skipthinking.runs.log import RunLogger


@pytest.mark.parametrize("earlier", [None, "", "step,a\n0,1\n"])
def test_a_log_that_could_not_be_written_is_written_with_its_header_by_the_next_attempt(
    earlier: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning saves again after an error, perhaps when there is space again."""

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logger, path = RunLogger(tmp_path), tmp_path / "metrics.csv"
    if earlier is not None:
        path.write_text(earlier)
        logger.forget_from(7)
    logger.log_metrics({"b": 2}, step=7)
    with monkeypatch.context() as patch:
        patch.setattr(log, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            logger.save()
    logger.finalize("failed")
    assert path.read_text() == ("step,a,b\n0,1,\n7,,2\n" if earlier else "step,b\n7,2\n")


@pytest.mark.parametrize("computed", [True, False])
def test_a_checkpoint_without_checksums_is_read_to_the_bit_and_other_files_keep_theirs(
    computed: bool, tmp_path: Path
) -> None:
    state = {"weights": torch.randn(1000), "step": 3}
    before = get_crc32_options()
    try:
        set_crc32_options(computed)
        SafeCheckpointIO().save_checkpoint(state, tmp_path / "last.ckpt")
        with pytest.raises(TypeError):
            SafeCheckpointIO().save_checkpoint({"no pickle": (n for n in "a")}, tmp_path / "bad.ckpt")
        assert get_crc32_options() == computed
    finally:
        set_crc32_options(before)
    with zipfile.ZipFile(tmp_path / "last.ckpt") as file:
        (data,) = (name for name in file.namelist() if name.endswith("data/0"))
        with pytest.raises(zipfile.BadZipFile, match="CRC"):
            file.read(data)
    for mmap in (True, False):
        read = torch.load(tmp_path / "last.ckpt", weights_only=True, mmap=mmap)
        assert torch.equal(read["weights"], state["weights"])
        assert read["step"] == 3


def test_an_export_that_does_not_fit_on_the_disk_is_a_disk_error_and_leaves_the_last_one(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "model").write_text("old")

    def export() -> None:
        with replacing_folder(folder) as partial:
            partial.mkdir()
            raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors

    with pytest.raises(OSError, match="No space left") as raised:
        export()
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.rglob("*")] == ["student", "model"]


def test_results_of_a_run_folder_that_cannot_be_written_go_where_the_message_says(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", "--trainer.max_epochs", 1, "--evaluate", "false") == 0
    create = tempfile.NamedTemporaryFile

    def read_only(*args: Any, dir: Any = None, **kwargs: Any) -> Any:
        if dir == tmp_path / "tiny":
            raise OSError(errno.EROFS, "Read-only file system", str(dir))
        return create(*args, dir=dir, **kwargs)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    assert run("predict", "--question", "Heads?") == 0  # writes nothing
    assert run("test") == 2
    words = re.search(r"--run NAME --runs_dir FOLDER (--ckpt_path) (\S+)\.$", capsys.readouterr().err.strip())
    assert words is not None
    assert run("test", "--run", "elsewhere", "--runs_dir", tmp_path / "other", *words.groups()) == 0
    assert (tmp_path / "other" / "elsewhere" / "predictions.jsonl").exists()
