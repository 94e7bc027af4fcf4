"""The kind of a data file, from its first bytes, not from its name."""

import os
from typing import Literal, TypeAlias

from varpro_nn._io.regular_file import open_regular
from varpro_nn.errors import DatasetError

FileKind: TypeAlias = Literal["npy", "zip", "gzip", "idx", "other"]
_MAGIC: dict[FileKind, bytes] = {"npy": b"\x93N", "zip": b"PK", "gzip": b"\x1f\x8b"}
_IDX_TYPES = (0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E)


def kind_of_file(path: str | os.PathLike[str]) -> FileKind:
    """Tell the kind of a file; pictures are ``"other"``.

    Raises
    ------
    DatasetError
        The file cannot be read.
    """
    try:
        with open_regular(path) as stream:
            start = stream.read(4)
    except FileNotFoundError as error:
        msg = f"{os.fspath(path)}: there is no such file or folder; check the path."
        raise DatasetError(msg) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        msg = f"{os.fspath(path)}: cannot be read: {getattr(error, 'strerror', None) or error}."
        raise DatasetError(msg) from error
    for kind, magic in _MAGIC.items():
        if start.startswith(magic):
            return kind
    # Of the pictures that begin with two zeros, none has both a type of IDX and a rank.
    if start[:2] == b"\0\0" and len(start) == 4 and start[2] in _IDX_TYPES and start[3]:
        return "idx"
    return "other"
