"""Sub-networks on disk: each is one small file, written when its training ends.

What a run has finished survives whatever ends it. A shard says which settings, data and seed it
belongs to; shards of another run are refused, never mixed in. Only files with the name of a shard
are read, and only files with the content of one are removed.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io import archive
from varpro_nn.errors import ModelFileError, VarProError
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.varpro.history import FitReport, Record

REFIT = "refit"
"""Folder, within that of a run, of the sub-networks of its second training."""
_KIND = "subnetwork"
_INDEX = re.compile(r"[0-9]{6}|[1-9][0-9]{6,}")


class Shards:
    """The folder of sub-networks of one run.

    Parameters
    ----------
    folder : Path
        Made when the first shard is written.
    identity : mapping
        Settings, digest of the data and seed, as JSON values: all that the weights depend on.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = dict(identity)

    def write(self, subnetwork: Subnetwork) -> None:
        """Store one sub-network, atomically.

        Raises
        ------
        OSError
            The disk is full or the folder cannot be written; earlier shards are intact.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] | None = None
        if subnetwork.report is not None:
            report = asdict(subnetwork.report)
            report.pop("w")  # it is the array W
        header = {
            "kind": _KIND,
            "identity": self._identity,
            "index": subnetwork.index,
            "error": subnetwork.error,
            "n_missing_classes": subnetwork.n_missing_classes,
            "report": report,
        }
        arrays = {} if subnetwork.W is None else {"W": subnetwork.W}
        archive.write(self.folder / f"{subnetwork.index:06d}.npz", header, arrays)

    def read(self) -> dict[int, Subnetwork]:
        """Read what is there, by index.

        Raises
        ------
        ModelFileError
            A shard is damaged or belongs to other settings, data or another seed.
        """
        found = {}
        for path in shard_files(self.folder):
            header, arrays = archive.read(path)
            self._check_identity(path, header.get("identity"))
            try:
                subnetwork = _subnetwork(header, arrays)
            except (KeyError, TypeError, ValueError) as error:
                msg = f"{path}: the header does not describe a sub-network: {error}."
                raise ModelFileError(msg) from error
            found[subnetwork.index] = subnetwork
        return found

    def _check_identity(self, path: Path, theirs: Any) -> None:
        """Raise ModelFileError for a shard of other settings, data, seed or versions."""
        ours = self._identity
        if not isinstance(theirs, dict) or set(theirs) != set(ours):
            msg = (
                f"{path}: this sub-network was trained by another version of varpro_nn; "
                "add --overwrite to train all of them again, or name another folder."
            )
            raise ModelFileError(msg)
        differing = sorted(name for name in ours if theirs[name] != ours[name])
        settings = [name for name in differing if name != "versions"]
        if settings:
            msg = (
                f"{path}: this sub-network belongs to another run: {', '.join(settings)} differ; "
                "use the settings and data of that run, add --overwrite to train all sub-networks "
                "again, or name another folder."
            )
            raise ModelFileError(msg)
        if not differing:
            return
        # Packages that the weights no longer depend on may be named in a shard.
        then = theirs["versions"] if isinstance(theirs["versions"], dict) else {}
        changed = {name: now for name, now in ours["versions"].items() if then.get(name) != now}
        if changed:
            old, new = (
                ", ".join(f"{name} {versions.get(name)}" for name in changed)
                for versions in (then, changed)
            )
            msg = (
                f"{path}: this sub-network was trained with {old}, and this is {new}: the result "
                f"would differ from an uninterrupted run. Install {old} to continue, add "
                "--overwrite to train all sub-networks again, or name another folder."
            )
            raise ModelFileError(msg)


def shard_files(folder: Path) -> list[Path]:
    """List the files that have the name of a shard, in the order of their index."""
    return sorted(
        (path for path in folder.glob("*.npz") if _INDEX.fullmatch(path.stem)),
        key=lambda path: int(path.stem),
    )


def all_shard_files(folder: Path) -> list[Path]:
    """List the shards of a run, those of its second training included."""
    return [*shard_files(folder), *shard_files(folder / REFIT)]


def check_removable(folder: Path) -> list[Path]:
    """List the shards of the run in ``folder``, which may all be removed.

    Raises
    ------
    VarProError
        The folder is a link, or a file with the name of a shard is none.
    """
    paths = all_shard_files(folder)
    link = next((path for path in (folder, folder / REFIT) if path.is_symlink()), None)
    if paths and link is not None:
        msg = (
            f"{link}: is a link, and sub-networks in another folder are never removed; remove "
            "the link, or name another run folder"
        )
        raise VarProError(msg)
    for path in paths:
        try:
            ours = archive.read(path)[0].get("kind") == _KIND
        except (ModelFileError, OSError):
            ours = False
        if not ours:
            msg = (
                f"{path}: is damaged or not a sub-network of varpro_nn, so it is not removed; "
                "move it away, or name another run folder"
            )
            raise VarProError(msg)
    return paths


def _subnetwork(header: Mapping[str, Any], arrays: Mapping[str, Any]) -> Subnetwork:
    W = arrays.get("W")
    report = None
    if W is not None and header["report"] is not None:
        values: dict[str, Any] = _with_nan(header["report"])
        history = tuple(Record(**_with_nan(record)) for record in values.pop("history"))
        report = FitReport(w=np.ravel(W), history=history, **values)
    return Subnetwork(
        int(header["index"]), W, report, str(header["error"]), int(header["n_missing_classes"])
    )


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what strict JSON does to numbers that are not finite."""
    return {name: math.nan if value is None else value for name, value in values.items()}
