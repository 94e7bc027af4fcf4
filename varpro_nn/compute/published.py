"""Training sets as a task carries them to a worker: a reference, not the arrays.

A worker reads what the reference names once, checks its digest, and keeps it for its next tasks.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.lib import format as npy

from varpro_nn._io.atomic import errors_named
from varpro_nn.data.images import blocks_of
from varpro_nn.data.training_set import NamedData, TrainingSet
from varpro_nn.errors import DatasetError

_PREFIX = ".varpro_nn-images-"
_STORED = ("images", "targets", "weights")


@dataclass(frozen=True, slots=True)
class StoredData:
    """Arrays in a folder that every worker can read; they are mapped, not copied."""

    folder: str
    n_targets: int

    def read(self) -> TrainingSet:
        """Map the arrays."""
        paths = [Path(self.folder) / f"{name}.npy" for name in _STORED]
        images, targets, weights = (
            np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
            for path in paths
        )
        assert images is not None  # stored() wrote them
        assert targets is not None
        return TrainingSet(images, targets, self.n_targets, weights)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a worker finds a training set, and the digest that it must have."""

    place: NamedData | StoredData
    digest: str


@contextmanager
def stored(training: TrainingSet, parent: Path | None = None) -> Iterator[Reference]:
    """Keep a training set in a temporary folder for the length of a ``with`` block.

    Parameters
    ----------
    parent : Path, optional
        Where the folder is made; by default the system's place for temporary files. Workers on
        other machines need one that they share.
    """
    # A worker elsewhere may still have the files open: what cannot be removed is left for later.
    with TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as folder:
        with errors_named(Path(folder)):
            _write_arrays(training, Path(folder))
        # Absolute: a worker may run in another folder.
        where = str(Path(folder).absolute())
        yield Reference(StoredData(where, training.n_targets), training.digest)


def _write_arrays(training: TrainingSet, folder: Path) -> None:
    array = training.images
    # Written, not mapped: a disk that is full is an error then, not a signal.
    with open(folder / "images.npy", "wb") as stream:
        header: dict[str, Any] = {
            "descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape),
        }  # fmt: skip
        npy.write_array_header_1_0(stream, header)
        for block in blocks_of(array):
            stream.write(np.ascontiguousarray(block).data)
    np.save(folder / "targets.npy", training.targets, allow_pickle=False)
    if training.weights is not None:
        np.save(folder / "weights.npy", training.weights, allow_pickle=False)


def named(training: TrainingSet) -> Reference:
    """Refer to a training set by the name under which every worker can load it."""
    assert training.origin is not None  # the caller has checked
    return Reference(training.origin, training.digest)


def remove_left(parent: Path) -> None:
    """Remove what :func:`stored` left of a process that was killed; the caller holds ``parent``."""
    for left in parent.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


@lru_cache(maxsize=1)
def training_set_of(reference: Reference) -> TrainingSet:
    """Read a training set in a worker.

    Raises
    ------
    DatasetError
        What is there is not what is meant.
    """
    training = reference.place.read()
    if training.digest != reference.digest:
        msg = (
            f"{reference.place}: the images on this worker have digest {training.digest}, "
            f"expected {reference.digest}; remove the copy of the data on that worker."
        )
        raise DatasetError(msg)
    return training
