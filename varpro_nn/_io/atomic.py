"""Write files whole or not at all, one writer to a folder, and JSON that every reader takes.

A file is written under a temporary name in its own folder, flushed to the disk and renamed. So a
file under its final name is complete, whatever interrupts, and two processes that write the same
file at the same time replace each other's.

Temporary names and the lock begin with ``.varpro_nn``, so that they never match a file of the user.
Their length does not depend on the name of the file, which may be the longest that is allowed.
"""

import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from varpro_nn.errors import BusyError

_UNFINISHED = re.compile(r"\.varpro_nn\.\d+\.[0-9a-f]{8}\.part")
"""Names that :func:`write_atomically` gives to what is not whole yet."""
_LOCK = ".varpro_nn.lock"


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Name ``path`` in an OSError of the ``with`` block.

    An error of ``write`` on a full disk has no file name, and temporary names do not help the user.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that it is there whole or not at all.

    Raises
    ------
    OSError
        The file, which the error names, cannot be written; nothing of it is left, and an older one
        stays.
    """
    # Not mkstemp: its files are readable by their owner alone, and these folders are shared.
    unfinished = path.with_name(f".varpro_nn.{os.getpid()}.{secrets.token_hex(4)}.part")
    with errors_named(path):
        try:
            with open(unfinished, "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; it is made if need be.

    The system frees the lock of a process that ends, whatever ended it. What a killed process left
    of files of :func:`write_atomically` is removed first, and at the end the folders that were
    made and are empty still.

    Raises
    ------
    BusyError
        Another process holds it.
    OSError
        The folder cannot be written, or its file system knows no locks.
    """
    from filelock import FileLock, Timeout  # not at the top: slow to load

    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    path = folder / _LOCK
    # Time to look again: the last holder may remove the file between our opening and locking it.
    lock = FileLock(path, timeout=0.1, fallback_to_soft=False)
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):  # not found: the last holder has just removed the folder
        msg = f"{folder}: another process works on this run folder."
        raise BusyError(msg) from None
    try:
        for left in folder.iterdir():
            if _UNFINISHED.fullmatch(left.name):
                left.unlink(missing_ok=True)
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for each in made:
                each.rmdir()
        lock.release()


def strict_json(value: Any) -> bytes:
    """Write JSON values on one line; what is no finite number becomes null."""
    return json.dumps(_finite(value), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
