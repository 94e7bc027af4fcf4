"""What a source of data files is, and those on the web: public mirrors.

A source is asked for some files and yields the contents of those that it has. It does not check
them (the caller compares digests, whatever the source) and does not store them.
"""

import io
import socket
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from varpro_nn._io.temporary import temporary_folder
from varpro_nn.data.packed import archive_members, open_packed, read_limited

_CONNECT_SECONDS = 5
_READ_SECONDS = 30


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a data set.

    Attributes
    ----------
    name : str
        Its usual name, without ``.gz``.
    size : int
        Bytes, uncompressed.
    sha256 : str
        Digest (hex) of the uncompressed content.
    other_names : tuple of str
        Other spellings in use.
    """

    name: str
    size: int
    sha256: str
    other_names: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the file may have, uncompressed ones first."""
        raw = (self.name, *self.other_names)
        return (*raw, *(f"{name}.gz" for name in raw))


Contents: TypeAlias = Generator[tuple[DataFile, bytes], None, None]
"""Files with their uncompressed contents."""


class SourceError(Exception):
    """A source does not answer, or does not have what it should; the text is the reason."""


class Source(Protocol):
    """Something that can be asked for files."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Yield the uncompressed content of the files that the source has, in any order.

        At most ``file.size + 1`` bytes each: enough to see that one is too long.

        Raises
        ------
        SourceError, DatasetError, OSError
            Why the source cannot serve; files that were yielded before stay good.
        """


@dataclass(frozen=True, slots=True)
class Mirror:
    """A folder on a web server that holds the files under their usual names, with ``.gz``."""

    url: str

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Download file by file; see `Source`."""
        for file in files:
            with (
                _downloaded(f"{self.url}{file.name}.gz", _packed_limit(file), progress) as path,
                open_packed(path) as stream,
            ):
                yield file, read_limited(stream, file.size + 1)


@dataclass(frozen=True, slots=True)
class MirrorArchive:
    """One archive on a web server that holds all files.

    Attributes
    ----------
    url : str
        Address of a zip or tar file.
    size_limit : int
        The download is given up beyond this number of bytes.
    """

    url: str
    size_limit: int

    @property
    def name(self) -> str:
        """The address."""
        return self.url

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Download and read the archive; see `Source`."""
        with _downloaded(self.url, self.size_limit, progress) as path:
            yield from from_archive(path, files)


def _packed_limit(file: DataFile) -> int:
    """Bytes that a file may have as it is or gzipped: more than it needs, and not endless."""
    return 2 * file.size + 4096


class _LimitedFile(io.BufferedWriter):
    """A file for pooch to download into, that refuses to grow beyond a limit."""

    def __init__(self, path: Path, size_limit: int):
        super().__init__(io.FileIO(path, "w"))
        self._left = size_limit

    def write(self, piece: bytes, /) -> int:  # type: ignore[override]
        self._left -= len(piece)
        if self._left < 0:
            msg = "the file is larger than it should be"
            raise SourceError(msg)
        return super().write(piece)


@contextmanager
def _downloaded(url: str, size_limit: int, progress: bool) -> Iterator[Path]:
    """Download to a temporary file.

    ``pooch.retrieve`` is no help here: it checks the file as the server packs it, of which mirrors
    have different ones, and it has no limit of size.
    """
    import pooch

    _check_connection(url)
    downloader = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=1 << 16, timeout=(_CONNECT_SECONDS, _READ_SECONDS)
    )
    with temporary_folder() as folder:
        path = folder / url.rpartition("/")[2]
        try:
            with _LimitedFile(path, size_limit) as file:
                downloader(url, file, None)
        except ValueError as error:  # an answer with headers that make no sense
            raise SourceError(str(error)) from error
        yield path


def _check_connection(url: str) -> None:
    """Give up after some seconds in all if the server cannot be reached.

    The timeout of ``requests`` is for each of the addresses of a server, of which there may be
    sixteen, and does not count the time to look them up.
    """
    from requests.utils import get_environ_proxies

    if get_environ_proxies(url):
        return  # only the proxy can tell
    server = urlsplit(url)
    faults: list[OSError] = []

    def connect() -> None:
        address = (server.hostname or "", server.port or 443)
        try:
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            faults.append(error)

    # A daemon: a lookup cannot be interrupted, and must not hold up the end of the program.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    if thread.is_alive():
        msg = f"no connection within {_CONNECT_SECONDS} s"
        raise SourceError(msg)
    if faults:
        msg = f"no connection: {faults[0].strerror or faults[0]}"
        raise SourceError(msg) from faults[0]


def from_archive(path: Path, files: Sequence[DataFile]) -> Contents:
    """Yield the files that a zip or tar file contains, in any folder, as they are or gzipped."""
    by_name = {name: file for file in files for name in file.names}
    limits = {name: _packed_limit(file) for name, file in by_name.items()}
    for name, content in archive_members(path, limits):
        file = by_name[name]
        with open_packed(content) as stream:
            yield file, read_limited(stream, file.size + 1)
