"""Training images as a task carries them: a reference, not the arrays.

A worker reads what the reference names once, checks its digest, and keeps it for its next tasks.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.lib import format as npy

from varpro_nn.data import ImageSet, load
from varpro_nn.data.images import blocks_of
from varpro_nn.errors import DatasetError


@dataclass(frozen=True, slots=True)
class NamedImages:
    """Training images of a data set that every worker can load itself.

    Attributes
    ----------
    name : str
        What ``load`` takes: a name, or the path of a file.
    data_dir : str or None
        Where its files are.
    n_train : int or None
        The first so many images alone.
    digest : str
        SHA-256 of the images and labels that are meant.
    """

    name: str
    data_dir: str | None
    n_train: int | None
    digest: str

    def read(self) -> ImageSet:
        """Load the data set; it is fetched if this machine does not have it."""
        train = load(self.name, self.data_dir, progress=False).train
        return train if self.n_train is None else train.take(slice(self.n_train))


@dataclass(frozen=True, slots=True)
class StoredImages:
    """Arrays in a folder that every worker can read; they are mapped, not copied.

    Attributes
    ----------
    folder : str
    digest : str
        SHA-256 of the images and labels that are meant.
    """

    folder: str
    digest: str

    def read(self) -> ImageSet:
        """Map the arrays."""
        images, labels, weights = (
            np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
            for path in (Path(self.folder) / f"{name}.npy" for name in _STORED)
        )
        assert images is not None  # stored() wrote them
        assert labels is not None
        return ImageSet(images, labels, weights)


_STORED = ("images", "labels", "weights")
_PREFIX = ".varpro_nn-images-"

DataReference = NamedImages | StoredImages
"""What a task may carry."""


@contextmanager
def stored(images: ImageSet, parent: Path | None = None) -> Iterator[StoredImages]:
    """Keep arrays in a temporary folder for the length of a ``with`` block.

    Parameters
    ----------
    images : ImageSet
    parent : Path, optional
        Where the folder is made; by default the system's place for temporary files. Workers on
        other machines need one that they share.
    """
    # A worker elsewhere may still have the files open: what cannot be removed is left for later.
    with TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as folder:
        array = images.images
        # Written, not mapped: a disk that is full is an error then, not a signal.
        with open(Path(folder) / "images.npy", "wb") as stream:
            header = {
                "descr": array.dtype.str, "fortran_order": False, "shape": tuple(array.shape),
            }  # fmt: skip
            npy.write_array_header_1_0(stream, header)
            for block in blocks_of(array):
                stream.write(np.ascontiguousarray(block).data)
        np.save(Path(folder) / "labels.npy", images.labels, allow_pickle=False)
        if images.weights is not None:
            np.save(Path(folder) / "weights.npy", images.weights, allow_pickle=False)
        yield StoredImages(folder, images.digest)


def remove_left(parent: Path) -> None:
    """Remove what :func:`stored` left of a process that was killed; the caller holds ``parent``."""
    for left in parent.glob(f"{_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def images_of(data: DataReference | ImageSet) -> ImageSet:
    """Images that a task is to use.

    Raises
    ------
    DatasetError
        What is there is not what is meant.
    """
    return data if isinstance(data, ImageSet) else _read(data)


@lru_cache(maxsize=1)
def _read(reference: DataReference) -> ImageSet:
    images = reference.read()
    if images.digest != reference.digest:
        msg = f"{reference}: the images on this worker are others, of digest {images.digest}."
        raise DatasetError(msg)
    return images
