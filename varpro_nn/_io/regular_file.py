"""Regular files, opened for reading.

A path may lead to a pipe, which waits for a writer for ever, or to a device such as ``/dev/zero``,
which has no end.
"""

import errno
import os
import stat
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        The file cannot be opened, or is a folder, a pipe, a device or a socket.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    # Non-blocking: to open a pipe would wait for its writer. Regular files do not know the flag.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
    raise OSError(errno.EINVAL, f"it is {kind}; expected a regular file", path)
