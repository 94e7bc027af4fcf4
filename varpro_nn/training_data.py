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

from varpro_nn.datasets import ImageSet, load
from varpro_nn.errors import DatasetError
from varpro_nn.images import blocks_of


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
        images, labels = (
            np.load(Path(self.folder) / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("images", "labels")
        )
        return ImageSet(images, labels)


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
        Where the folder is made, and those removed that a process which was killed left there: the
        caller holds it (:func:`varpro_nn.files.locked`). By default the system's place for
        temporary files. Workers on other machines need one that they share.
    """
    if parent is not None:
        for left in parent.glob(f"{_PREFIX}*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_PREFIX, dir=parent) as folder:
        copy = npy.open_memmap(
            Path(folder) / "images.npy",
            mode="w+",
            dtype=images.images.dtype,
            shape=images.images.shape,
        )
        first = 0
        for block in blocks_of(images.images):
            copy[first : first + len(block)] = block
            first += len(block)
        del copy  # written
        np.save(Path(folder) / "labels.npy", images.labels, allow_pickle=False)
        yield StoredImages(folder, images.digest)


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
