"""Reserve the space of a file before the work that fills it."""

import errno
import os
from typing import IO

_ZEROS = bytes(2**20)


def reserve(file: IO[bytes], n_bytes: int) -> None:
    """Reserve ``n_bytes`` on the disk for an empty file. Its position is undefined afterwards.

    A full disk is then found before the work starts.

    Raises
    ------
    OSError
        The disk has less.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except AttributeError:  # macOS
        pass
    except OSError as error:  # a file system without it: zeros instead
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    else:
        return
    for start in range(0, n_bytes, len(_ZEROS)):
        file.write(_ZEROS[: n_bytes - start])
    file.flush()
