"""Temporary folders, of which the next start removes what a killed process left.

A process holds the lock of a file in each of its folders. The system frees the lock when the
process ends, whatever ends it, so a folder whose lock is free has no owner.
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

    What cannot be removed at the end is left for the next start: a worker elsewhere may still have
    a file open.

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
    from filelock import Timeout  # not at the top: slow to load

    for folder in Path(tempfile.gettempdir() if parent is None else parent).glob(f"{_PREFIX}*"):
        with suppress(OSError, Timeout):
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                with _lock_of(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _lock_of(folder: Path) -> Any:
    from filelock import FileLock  # not at the top: slow to load

    return FileLock(folder / _LOCK, timeout=0, fallback_to_soft=False)
