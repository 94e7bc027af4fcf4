"""Training sets as a task carries them to a worker: a reference, not the arrays.

A worker reads what the reference names once, checks its digest, and keeps it for its next tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io.atomic import errors_named
from varpro_nn._io.npy_header import write_npy_header
from varpro_nn._io.temporary import temporary_folder
from varpro_nn.data.images import blocks_of
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.training_set import NamedData, TrainingSet
from varpro_nn.errors import DatasetError

_STORED = ("images", "targets", "weights", "chosen")


@dataclass(frozen=True, slots=True)
class StoredData:
    """Arrays in a folder that every worker can read; they are mapped, not copied.

    Attributes
    ----------
    images : ImagesOnDisk, optional
        Images that are in a file elsewhere; the folder has their positions, if some were chosen.
    """

    folder: str
    n_targets: int
    images: ImagesOnDisk | None = None

    def read(self) -> TrainingSet:
        """Map the arrays."""
        paths = [Path(self.folder) / f"{name}.npy" for name in _STORED]
        stored_images, targets, weights, chosen = (
            np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
            for path in paths
        )
        images: Any = stored_images
        if self.images is not None:
            images = replace(self.images, chosen=chosen)
        assert images is not None  # stored() wrote them
        assert targets is not None
        return TrainingSet(images, targets, self.n_targets, weights)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a worker finds a training set, and the digest that it must have."""

    place: NamedData | StoredData
    digest: str


@contextmanager
def stored(
    training: TrainingSet, parent: Path | None = None, *, copied: bool = True
) -> Iterator[Reference]:
    """Keep a training set in a temporary folder for the length of a ``with`` block.

    Parameters
    ----------
    parent : Path, optional
        Where the folder is made; by default the system's place for temporary files. Workers on
        other machines need one that they share.
    copied : bool
        Copy images that are in a file already; workers on this machine can read that file.
    """
    images: Any = training.images
    in_place = isinstance(images, ImagesOnDisk) and not copied
    with temporary_folder(parent) as folder:
        with errors_named(folder):
            _write_arrays(training, folder, in_place=in_place)
        # Absolute: a worker may run in another folder.
        place = StoredData(
            str(folder.absolute()), training.n_targets,
            replace(images, chosen=None) if in_place else None,
        )  # fmt: skip
        yield Reference(place, training.digest)


def _write_arrays(training: TrainingSet, folder: Path, *, in_place: bool) -> None:
    array: Any = training.images
    if not in_place:
        # Written, not mapped: a disk that is full is an error then, not a signal.
        with open(folder / "images.npy", "wb") as stream:
            write_npy_header(stream, array.dtype, array.shape)
            for block in blocks_of(array):
                stream.write(np.ascontiguousarray(block).data)
    elif array.chosen is not None:
        np.save(folder / "chosen.npy", array.chosen, allow_pickle=False)
    np.save(folder / "targets.npy", training.targets, allow_pickle=False)
    if training.weights is not None:
        np.save(folder / "weights.npy", training.weights, allow_pickle=False)


def named(training: TrainingSet) -> Reference:
    """Refer to a training set by the name under which every worker can load it."""
    assert training.origin is not None  # the caller has checked
    return Reference(training.origin, training.digest)


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
