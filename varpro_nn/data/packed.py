"""The bytes of files and archive members, compressed or not, and never more than a limit.

A compressed file can claim to hold anything. Nothing here asks for memory on the strength of a
header: content is read in pieces, so memory grows with what is really there, up to the limit.
Archives are read member by member and never unpacked to paths that they name.
"""

import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

from varpro_nn._io.regular_file import open_regular
from varpro_nn.errors import DatasetError

FileOrBytes: TypeAlias = str | os.PathLike[str] | bytes
"""A path, or the content itself."""


class Readable(Protocol):
    """An open binary file, compressed or not."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""


DEFLATE_RATIO = 1032
"""Bytes that one byte of a deflated stream (zip, gzip) can unpack to, at most."""
_PIECE = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def describe(file: FileOrBytes) -> str:
    """Say in an error message where bytes came from."""
    return f"<{len(file)} bytes>" if isinstance(file, bytes) else os.fspath(file)


@contextmanager
def open_packed(file: FileOrBytes) -> Iterator[Readable]:
    """Open a file (or bytes) for reading, through gzip if its first bytes say so.

    Raises
    ------
    DatasetError
        The file cannot be opened or read, or its compressed data is damaged or truncated; also
        for what is read inside the ``with`` block.
    """
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else open_regular(file) as plain:
            magic = plain.read(len(_GZIP_MAGIC))
            plain.seek(0)
            if magic == _GZIP_MAGIC:
                with gzip.GzipFile(fileobj=plain, mode="rb") as unpacked:
                    yield unpacked
            else:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{describe(file)}: cannot be read: {error}"
        raise DatasetError(msg) from error


def read_limited(stream: Readable, limit: int) -> bytes:
    """Read to the end of ``stream``, but no more than ``limit`` bytes."""
    content = bytearray()
    while len(content) < limit:
        piece = stream.read(min(_PIECE, limit - len(content)))
        if not piece:
            break
        content += piece
    return bytes(content)


def archive_members(path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Read chosen members of a zip file (a wheel, say) or a tar file, however compressed.

    ``limits`` has the maximum size of each member in bytes, by the last part of its path. Each name
    comes at most once, in the order of the archive.

    Raises
    ------
    DatasetError
        The archive is damaged, truncated, neither zip nor tar.
    """
    wanted = dict(limits)
    try:
        for name, read in _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path):
            last = PurePosixPath(name).name
            if last in wanted:
                yield last, read(wanted.pop(last))
            if not wanted:
                return
    except (OSError, EOFError, RuntimeError, zlib.error, tarfile.TarError) as error:
        msg = f"{path}: not a readable archive: {error}"
        raise DatasetError(msg) from error
    except zipfile.BadZipFile as error:
        msg = f"{path}: damaged zip file: {error}"
        raise DatasetError(msg) from error


def _zip_members(path: Path) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():

            def read(limit: int, member: zipfile.ZipInfo = member) -> bytes:
                with archive.open(member) as content:
                    return read_limited(content, limit)

            if not member.is_dir():
                yield member.filename, read


def _tar_members(path: Path) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    with tarfile.open(path, mode="r|*") as archive:  # "|": forwards only, nothing is kept
        for member in archive:

            def read(limit: int, member: tarfile.TarInfo = member) -> bytes:
                content = archive.extractfile(member)
                return b"" if content is None else read_limited(content, limit)

            if member.isfile():
                yield member.name, read
