"""Reserve the space of a file before the work that fills it."""

import errno
import os
from typing import IO

_ZEROS = bytes(2**20)


def reserve(file: IO[bytes], n_bytes: int) -> None:
    """Reserve ``n_bytes`` of the disk for an empty file; its position may be anywhere after.

    Now, not in the middle of the work, is the time to find the disk full.

    Raises
    ------
    OSError
        The disk has less.
    """
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except AttributeError:  # macOS
        pass
    except OSError as error:  # file systems that cannot say so
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    else:
        return
    for start in range(0, n_bytes, len(_ZEROS)):
        file.write(_ZEROS[: n_bytes - start])
    file.flush()
