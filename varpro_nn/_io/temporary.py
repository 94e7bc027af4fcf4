"""Temporary folders. The next start removes those of killed processes.

A process holds the lock of a file in each of its folders. The system frees the lock when the
process ends in any way, so a folder whose lock is free has no owner.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX = ".varpro_nn.owned-"
_UNLOCKED = ".varpro_nn.made-"
_LOCK = ".varpro_nn.lock"


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder for the length of a ``with`` block.

    If the folder cannot be removed at the end, because a worker has a file open, the next start
    removes it.

    Parameters
    ----------
    parent : Path, optional
        Where the folder is made; by default among the temporary files of the system.

    Raises
    ------
    OSError
        The folder cannot be made.
    """
    remove_left(parent)
    made = Path(tempfile.mkdtemp(prefix=_UNLOCKED, dir=parent))
    lock = _lock_of(made)
    # Where the file system knows no locks, nobody can find out that the folder has no owner.
    with suppress(OSError):
        lock.acquire()
    # Locked by now, so that nobody takes it for one without owner.
    folder = made.rename(made.with_name(made.name.replace(_UNLOCKED, _PREFIX)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_left(parent: Path | None = None) -> None:
    """Remove the folders whose owners were killed; those of other users stay."""
    folder = Path(tempfile.gettempdir() if parent is None else parent)
    found = list(folder.glob(f"{_PREFIX}*"))
    if not found:
        return
    from filelock import Timeout  # not at the top: slow to load

    for left in found:
        with suppress(OSError, Timeout):
            status = left.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                with _lock_of(left):
                    shutil.rmtree(left, ignore_errors=True)


def _lock_of(folder: Path) -> Any:
    from filelock import FileLock  # not at the top: slow to load

    return FileLock(folder / _LOCK, timeout=0, fallback_to_soft=False)
