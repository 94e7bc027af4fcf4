"""Picture files with labels, of any sizes, become a data set of images of one size.

Each image is the largest middle part of its picture that has the proportions of the images, resized
(:mod:`varpro_nn.data.cropping`). Processes read the pictures, some at a time.
"""

import atexit
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from varpro_nn._io.atomic import errors_named
from varpro_nn._io.memory import available_memory_mib, resident_memory_mib
from varpro_nn._io.npy_header import write_npy_header
from varpro_nn._io.temporary import temporary_folder
from varpro_nn._typing import ImageArray
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of
from varpro_nn.data.pictures import picture_size, read_cropped
from varpro_nn.errors import DatasetError, WorkerDiedError
from varpro_nn.linalg.threads import effective_jobs

LARGEST_SIDE = 64
"""Pixels of the longer side of an image, if no size is given and pictures are larger."""
_SAMPLE = 200
"""Pictures whose size and colours say what the images are like."""
_COLOURLESS = 4
"""Levels (of 255) by which the channels of a grey image may differ, as JPEG rounds."""
_AT_A_TIME = 200
"""Pictures that a worker reads at a time."""
_WORTH = 5.0
"""Seconds of reading that a worker must have; it takes one to start."""
_MIB = 2**20
_LONG = 3.0
"""Seconds of reading, after which a bar is shown."""

_Part: TypeAlias = tuple[NDArray[np.uint8] | None, bool]
"""Images, if they are not written to a file, and whether any of them was cropped or resized."""


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """Picture files, and the label of each.

    Attributes
    ----------
    paths : sequence of str
        Not of Path, which takes ten times the memory.
    labels : sequence of str, or ndarray, shape (n,)
    """

    paths: Sequence[str]
    labels: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How pictures are read; no image depends on it.

    Attributes
    ----------
    n_jobs : int
        Processes that read them.
    progress : bool
        Show a bar on standard error.
    images_on_disk : Path, optional
        Keep the images in a file in a temporary folder there, not in memory. The folder is removed
        when this process ends.
    """

    n_jobs: int = -1
    progress: bool = False
    images_on_disk: Path | None = None

    def check_unused(self, what: str) -> None:
        """Refuse to keep images on disk, where that has no effect on ``what``.

        Raises
        ------
        ValueError
        """
        if self.images_on_disk is not None:
            msg = (
                f"images_on_disk has no effect on {what}, got {str(self.images_on_disk)!r}; "
                "leave it out."
            )
            raise ValueError(msg)


def read_picture_set(
    where: str,
    subsets: Mapping[str, LabelledPictures],
    image_size: tuple[int, int] | None,
    work: Work,
) -> Dataset:
    """Read pictures as images of one size.

    Parameters
    ----------
    where : str
        The name of the data set.
    subsets : mapping of str to LabelledPictures
        ``"train"``, and ``"test"`` and ``"validation"`` if there are any.
    image_size : (rows, columns), optional
        Size of the images. By default the median height and width of the pictures, reduced to 64
        pixels on the longer side.
    work : Work

    Returns
    -------
    Dataset
        Images are ``uint8``: grey, (n, rows, columns), if images of a sample have no colour; else
        (n, 3, rows, columns).

    Raises
    ------
    DatasetError
        A picture that cannot be read; images that fit neither into memory nor on the disk; or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    WorkerDiedError
        A process that read pictures was killed.
    ValueError
        ``n_jobs`` is 0.
    """
    n_jobs = effective_jobs(work.n_jobs)
    train = subsets["train"].paths
    chosen = np.linspace(0, len(train) - 1, min(len(train), _SAMPLE), dtype=int)
    sample = [Path(train[i]) for i in chosen]
    size = image_size or _size_of([picture_size(path) for path in sample])
    shape = size if all(_is_grey(path, size) for path in sample) else (3, *size)
    arrays: dict[str, Any] = {}
    cropped = False
    with ExitStack() as until_read:
        folder = None
        n_bytes = sum(len(pictures.paths) for pictures in subsets.values()) * math.prod(shape)
        if work.images_on_disk is None:
            # Without test images some of the others are held out: copied, beside all of them.
            times = 1 if {"test", "validation"} & set(subsets) else 2
            _check_memory(where, times * n_bytes, shape)
        else:
            folder = _folder_for(work.images_on_disk, n_bytes, until_read)
        for subset, pictures in subsets.items():
            file = None if folder is None else folder / f"x_{subset}.npy"
            images, differ = _read_all(pictures.paths, shape, n_jobs, work.progress, file)
            arrays |= {f"x_{subset}": images, f"y_{subset}": np.asarray(pictures.labels)}
            cropped = cropped or differ
        dataset = replace(dataset_of(where, arrays), cropped=cropped)
        if folder is not None:
            atexit.register(_close, until_read.pop_all(), os.getpid())
    return dataset


# --- what they are like --------------------------------------------------------------------------


def _size_of(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Choose the size of the images: the median one, but no longer side above ``LARGEST_SIDE``."""
    height, width = np.median(sizes, axis=0)
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _is_grey(path: Path, size: tuple[int, int]) -> bool:
    planes = read_cropped(path, (3, *size))[0].astype(np.int16)
    return bool(np.ptp(planes, axis=0).max() <= _COLOURLESS)


# --- room for them -------------------------------------------------------------------------------


def _check_memory(where: str, n_bytes: int, shape: tuple[int, ...]) -> None:
    """Refuse images that are larger than the memory, before any is read."""
    available = available_memory_mib()
    if available is None or n_bytes / _MIB <= available - resident_memory_mib():
        return
    msg = (
        f"{where}: images of {' x '.join(map(str, shape))} need {n_bytes / _MIB:,.0f} MiB of "
        f"memory, and {available - resident_memory_mib():,.0f} MiB are available. Keep them in "
        "a file with images_on_disk (--images-on-disk), or make them smaller with image_size "
        "(--image-size)."
    )
    raise DatasetError(msg)


def _folder_for(parent: Path, n_bytes: int, until_read: ExitStack) -> Path:
    """Make a temporary folder in ``parent``, if the images have room there."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        folder = until_read.enter_context(temporary_folder(parent))
    except OSError as error:
        msg = f"{parent}: cannot hold images (images_on_disk): {error.strerror or error}"
        raise DatasetError(msg) from error
    if n_bytes > free:
        msg = (
            f"{parent}: must have {n_bytes:,} bytes free for the images (images_on_disk), got "
            f"{free:,}. Name another folder, or make the images smaller with image_size."
        )
        raise DatasetError(msg)
    return folder


def _close(stack: ExitStack, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        stack.close()


def _file_of_images(path: Path, shape: tuple[int, ...]) -> ImagesOnDisk:
    """Make a file of zeros."""
    with errors_named(path), open(path, "xb") as stream:
        offset = write_npy_header(stream, np.dtype(np.uint8), shape)
        stream.truncate(offset + math.prod(shape))
    dtype = np.dtype(np.uint8)
    return ImagesOnDisk(path.absolute(), offset, shape, dtype, dtype)


# --- reading -------------------------------------------------------------------------------------


def _read_all(
    paths: Sequence[str], shape: tuple[int, ...], n_jobs: int, progress: bool, file: Path | None
) -> tuple[ImageArray, bool]:
    """Read pictures as images of one shape; say whether any of them was cropped or resized."""
    from tqdm import tqdm  # takes long to import

    images: Any
    if file is None:
        images = np.empty((len(paths), *shape), np.uint8)
    else:
        images = _file_of_images(file, (len(paths), *shape))
    starts = range(0, len(paths), _AT_A_TIME)

    def task(start: int) -> tuple[Callable[..., _Part], tuple[Any, ...]]:
        some = paths[start : start + _AT_A_TIME]
        if file is None:
            return _read_some, (some, shape)
        return _write_some, (some, shape, images.path, images.offset + start * math.prod(shape))

    cropped = False
    with tqdm(total=len(paths), desc="pictures", unit="", disable=not progress, delay=_LONG) as bar:
        for start, (part, differ) in zip(starts, _done(task, starts, n_jobs), strict=True):
            if part is not None:
                images[start : start + len(part)] = part
            cropped = cropped or differ
            bar.update(min(_AT_A_TIME, len(paths) - start))
    return images, cropped


def _done(
    task: Callable[[int], tuple[Callable[..., _Part], tuple[Any, ...]]],
    starts: Sequence[int],
    n_jobs: int,
) -> Iterator[_Part]:
    """Do the tasks, the first of them here; the others in as many processes as are worth it."""
    began = time.perf_counter()
    for start in starts[:1]:
        function, arguments = task(start)
        yield function(*arguments)
    others = starts[1:]
    expected = (time.perf_counter() - began) * len(others)
    calls = (delayed(function)(*arguments) for function, arguments in map(task, others))
    n_workers = max(1, min(n_jobs, int(expected / _WORTH)))
    try:
        yield from Parallel(n_workers, return_as="generator")(calls)
    except BrokenExecutor as error:
        msg = (
            "a process that read pictures was killed, probably because memory ran out; "
            f"{n_workers} processes were reading. Reduce n_jobs (--n-jobs)."
        )
        raise WorkerDiedError(msg) from error


def _read_some(paths: Sequence[str], shape: tuple[int, ...]) -> _Part:
    images = np.empty((len(paths), *shape), np.uint8)
    cropped = False
    for image, path in zip(images, paths, strict=True):
        image[...], differs = read_cropped(Path(path), shape)
        cropped = cropped or differs
    return images, cropped


def _write_some(paths: Sequence[str], shape: tuple[int, ...], file: Path, offset: int) -> _Part:
    """Write images to their place in a file: they do not go through the calling process."""
    images, cropped = _read_some(paths, shape)
    assert images is not None
    with errors_named(file), open(file, "r+b") as stream:
        stream.seek(offset)
        stream.write(images.data)
    return None, cropped
