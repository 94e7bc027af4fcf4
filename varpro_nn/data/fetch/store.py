"""Find the files of a data set, fetch those that are missing, and keep them.

Files are looked for in the user's folder, in the cache, and in folders of the system; then each
source is asked in turn for what is still missing. Whatever the origin, only content with the
known digest is used. It is read once: the bytes that were checked are the bytes that are parsed.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from varpro_nn._io.atomic import write_atomically
from varpro_nn.data.fetch.sources import Contents, DataFile, Source, SourceError
from varpro_nn.data.packed import open_packed, read_limited
from varpro_nn.errors import DatasetError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of one data set, and where they may be.

    Attributes
    ----------
    name : str
        Name of the data set and of its subfolder.
    files : tuple of DataFile
        All are needed.
    sources : tuple of Source
        Asked in this order.
    subfolders : tuple of str
        Where to look below a folder, besides ``name`` and the folder itself.
    system_folders : tuple of str
        Folders outside the user's that may have the files.
    """

    name: str
    files: tuple[DataFile, ...]
    sources: tuple[Source, ...]
    subfolders: tuple[str, ...] = ()
    system_folders: tuple[str, ...] = ()

    def places(self, folder: Path) -> list[Path]:
        """Return where below ``folder`` the files may be."""
        return [folder / self.name, *(folder / sub for sub in self.subfolders), folder]


def obtain(
    file_set: FileSet,
    *,
    data_dir: Path | None,
    cache: Path,
    offline: bool = False,
    progress: bool = False,
    strangers: Collection[str] = (),
) -> dict[str, bytes]:
    """Return the uncompressed contents of all files of a data set, by ``DataFile.name``.

    Parameters
    ----------
    data_dir : Path or None
        The user's own folder: looked at first, and where fetched files go. A damaged file in it
        is an error; it is never replaced.
    cache : Path
        Looked at next, and where fetched files go without ``data_dir``. A damaged file in it is
        fetched again.
    offline : bool
        Ask no source.
    strangers : collection of str
        Digests of other data sets whose files have the same names. Such a file is skipped, not
        refused as damaged, unless it is in a folder with the name of this data set.

    Raises
    ------
    DatasetError
        A damaged file in ``data_dir``; a folder that cannot be written; or files that no source
        gave: then the message lists each source with its reason, and what to do by hand.
    """
    contents: dict[str, bytes] = {}
    reasons: list[str] = []
    for file in file_set.files:
        found = None
        if data_dir is not None:
            found, damaged = _find(file_set, file, file_set.places(data_dir), strangers)
            if found is None and damaged:
                msg = f"{damaged[0]}. The file is left as it is: remove or replace it."
                raise DatasetError(msg)
        if found is None:
            elsewhere = [*file_set.places(cache), *map(Path, file_set.system_folders)]
            found, damaged = _find(file_set, file, elsewhere, strangers)
            reasons += [f"{text} (damaged)" for text in damaged]
            for text in damaged:
                _logger.warning("%s", text)
        if found is not None:
            contents[file.name] = found
    missing = [file for file in file_set.files if file.name not in contents]
    if missing:
        target = (cache if data_dir is None else data_dir) / file_set.name
        if offline:
            reasons.append("no source was asked: offline")
        else:
            for file, content in _fetch(file_set, missing, target, progress, reasons):
                contents[file.name] = content
        missing = [file for file in missing if file.name not in contents]
        if missing:
            raise DatasetError(_not_found(file_set, missing, target, reasons))
    return contents


def _find(
    file_set: FileSet, file: DataFile, places: Sequence[Path], strangers: Collection[str]
) -> tuple[bytes | None, list[str]]:
    """Return the first good content, and a sentence on each damaged file before it."""
    damaged = []
    for place in places:
        for name in file.names:
            path = place / name
            if not os.path.isfile(path):  # not Path.is_file, which may raise
                continue
            try:
                with open_packed(path) as stream:
                    content = read_limited(stream, file.size + 1)
            except DatasetError as error:
                damaged.append(str(error))
                continue
            fault = _fault(file, content, strangers if place.name != file_set.name else ())
            if fault is None:
                return content, damaged
            if fault:
                damaged.append(f"{path}: {fault}")
    return None, damaged


def _fault(file: DataFile, content: bytes, strangers: Collection[str] = ()) -> str | None:
    """Return what is wrong with ``content``; None if nothing is, "" for another set's file."""
    digest = hashlib.sha256(content).hexdigest()
    if digest == file.sha256:
        return None
    if digest in strangers:
        return ""
    expected = f"expected {file.size} bytes with sha256 {file.sha256}"
    if len(content) > file.size:
        return f"{expected}, found more bytes"
    return f"{expected}, found {len(content)} bytes with sha256 {digest}"


def _fetch(
    file_set: FileSet,
    missing: Sequence[DataFile],
    target: Path,
    progress: bool,
    reasons: list[str],
) -> Contents:
    """Ask the sources in turn for what is missing, and store what is good."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(_cannot_write(target, error)) from error
    wanted = {file.name: file for file in missing}
    for source in file_set.sources:
        _logger.info("%s: asking %s", file_set.name, source.name)
        if progress:
            print(f"{file_set.name}: {source.name} ...", file=sys.stderr, flush=True)
        faults: list[str] = []
        with closing(_good_answers(source, list(wanted.values()), progress, faults)) as answers:
            for file, content in answers:
                try:
                    write_atomically(target / file.name, content)
                except OSError as error:
                    raise DatasetError(_cannot_write(target / file.name, error)) from error
                del wanted[file.name]
                yield file, content
        if not wanted:
            return
        if not faults:
            faults.append(f"does not have {', '.join(wanted)}")
        reasons.append(f"{source.name}: {_one_line('; '.join(faults))}")
        _logger.info("%s", reasons[-1])


def _good_answers(
    source: Source, files: Sequence[DataFile], progress: bool, faults: list[str]
) -> Contents:
    """Yield each file once if the source has it right; note what is wrong in ``faults``."""
    wanted = {file.name for file in files}
    try:
        with closing(source.fetch(files, progress=progress)) as answers:
            for file, content in answers:
                fault = _fault(file, content)
                if fault is not None:
                    faults.append(f"{file.name}: {fault}")
                elif file.name in wanted:
                    wanted.remove(file.name)
                    yield file, content
                if not wanted:
                    return
    except (SourceError, DatasetError, OSError) as error:
        faults.append(str(error) or type(error).__name__)


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"{path}: cannot be written: {error.strerror or error}. Name a folder for data files "
        "with data_dir or the environment variable VARPRO_NN_DATA."
    )


def _not_found(
    file_set: FileSet, missing: Sequence[DataFile], target: Path, reasons: Sequence[str]
) -> str:
    tried = "".join(f"\n  - {reason}" for reason in reasons)
    names = ", ".join(file.name for file in missing)
    return (
        f"{file_set.name}: {len(missing)} of {len(file_set.files)} files were not found:{tried}\n"
        f"Put these files, as they are or as .gz, into {target} and try again: {names}"
    )


def _one_line(text: str, length: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 4]} ..."
