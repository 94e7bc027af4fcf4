"""Sub-networks on disk: each is one small file, written when its training ends.

What a run has finished survives whatever ends it. A shard says which settings, data and seed it
belongs to; shards of another run are refused, never mixed in.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io import archive
from varpro_nn.errors import ModelFileError
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.varpro.history import FitReport, Record


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
            "kind": "subnetwork",
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
        for path in sorted(self.folder.glob("*.npz")):
            header, arrays = archive.read(path)
            if header.get("identity") != self._identity:
                theirs = header.get("identity")
                if not isinstance(theirs, dict) or set(theirs) != set(self._identity):
                    msg = (
                        f"{path}: this sub-network was trained by another version of varpro_nn; "
                        "remove the folder, or add --overwrite."
                    )
                    raise ModelFileError(msg)
                names = _differing(theirs, self._identity)
                msg = f"{path}: this sub-network belongs to another run: {names} differ."
                raise ModelFileError(msg)
            try:
                subnetwork = _subnetwork(header, arrays)
            except (KeyError, TypeError, ValueError) as error:
                msg = f"{path}: the header does not describe a sub-network: {error}."
                raise ModelFileError(msg) from error
            found[subnetwork.index] = subnetwork
        return found


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


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    names = {name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name)}
    return ", ".join(sorted(names))
