"""What a training command says of an exception that the user can do something about."""

from __future__ import annotations

import errno
import tempfile
import traceback

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from skipthinking.command_line.out_of_memory import out_of_memory_message
from skipthinking.records import UserError
from skipthinking.students.memory import is_out_of_memory

__all__ = ["explain"]

_DISK = {
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM,
    errno.EFBIG, errno.EIO,
}  # fmt: skip


def explain(error: Exception) -> str | None:
    """Returns the message for an error that the user can fix, or None for any other."""
    if isinstance(error, ValueError) and (own := _user_error(error)):
        return str(own)
    if isinstance(error, MisconfigurationException) or (isinstance(error, ValueError) and _is_lightnings(error)):
        return f"Expected settings that Lightning can run, got: {' '.join(str(error).split())}"
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return out_of_memory_message(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        return (
            f"Expected to be able to write, got {error}. Free some space and start the same command again (fit: with "
            "--ckpt_path last); or choose another folder by --run, --runs_dir and --ckpt_path CHECKPOINT, or for "
            f"temporary files by the variable TMPDIR (now {tempfile.gettempdir()})."
        )
    return None


def _user_error(error: BaseException | None) -> UserError | None:
    """The user's error that an exception wraps; the parser wraps what constructors raise."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def _is_lightnings(error: ValueError) -> bool:
    """Whether Lightning's trainer raised the error, as it does for settings that do not fit the data."""
    *_, (last, _) = traceback.walk_tb(error.__traceback__)
    return str(last.f_globals.get("__name__")).startswith("lightning.pytorch.")
