"""A data set as a folder of pictures, with a sub-folder for each class.

::

    flowers/rose/1.jpg         flowers/train/rose/1.jpg
    flowers/rose/2.png         flowers/train/tulip/a.jpg
    flowers/tulip/a.jpg        flowers/test/rose/7.jpg

Pictures may lie deeper in the folder of their class, and have any size and any format that Pillow
reads. Images have one size: each is the largest middle part of its picture that has their
proportions, resized (:meth:`varpro_nn.data.preparation.Preparation.picture`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from varpro_nn._warn import warn_user
from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.pictures import (
    entries_of,
    files_below,
    is_picture,
    picture_size,
    read_cropped,
)
from varpro_nn.errors import DatasetError
from varpro_nn.linalg.threads import effective_jobs

SUBSETS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("valid", "val", "validation"),
}
"""Names of the sub-folders of a folder that is divided already; case does not matter.

Fewer than in :mod:`varpro_nn.data.naming`: classes may be languages, ``tr`` and ``te``.
"""
LARGEST_SIDE = 64
"""Pixels of the longer side of an image, if no size is given and pictures are larger."""
_SAMPLE = 200
"""Pictures whose size and colours say what the images are like."""
_COLOURLESS = 4
"""Levels (of 255) by which the channels of a grey picture may differ, as JPEG rounds."""
_AT_A_TIME = 200
"""Pictures that a worker reads at a time."""
_FEW = 2000
"""Pictures that are read sooner than workers start, and before anybody asks how far it is."""
_LAYOUT = "{folder}/CLASS/PICTURE, or {folder}/train/CLASS/PICTURE and {folder}/test/CLASS/PICTURE"


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture file, and the name of its class."""

    path: Path
    label: str


def read_class_folder(
    folder: Path,
    *,
    image_size: tuple[int, int] | None = None,
    follow_links: bool = False,
    n_jobs: int = -1,
    progress: bool = False,
) -> Dataset:
    """Read a data set from a folder that has a sub-folder of pictures for each class.

    Parameters
    ----------
    folder : Path
    image_size : (rows, columns), optional
        Size of the images. By default the median height and width of the pictures, reduced to 64
        pixels on the longer side.
    follow_links : bool
        Also read pictures to which links lead out of the folder.
    n_jobs : int
        Processes that read the pictures.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Dataset
        Images are ``uint8``: grey, (n, rows, columns), if pictures of a sample have no colour;
        else (n, 3, rows, columns). Classes are the names of the sub-folders.

    Raises
    ------
    DatasetError
        No pictures, pictures outside the folder of a class, fewer than two classes, a class that
        only the test pictures have, or a picture that cannot be read.
    ValueError
        ``n_jobs`` is 0.

    Warns
    -----
    UserWarning
        Files that are no pictures, or links out of the folder, were skipped.
    """
    n_jobs = effective_jobs(n_jobs)
    subsets = _pictures_of(folder, follow_links)
    train = [picture.path for picture in subsets["train"]]
    sample = [train[i] for i in np.linspace(0, len(train) - 1, min(len(train), _SAMPLE), dtype=int)]
    size = image_size or _size_of([picture_size(path) for path in sample])
    channels = 1 if all(_is_grey(path, size) for path in sample) else 3
    shape = size if channels == 1 else (channels, *size)
    arrays: dict[str, Any] = {}
    cropped = False
    for subset, pictures in subsets.items():
        paths = [picture.path for picture in pictures]
        arrays[f"x_{subset}"], differ = _read_all(paths, shape, n_jobs, progress)
        arrays[f"y_{subset}"] = np.array([picture.label for picture in pictures])
        cropped = cropped or differ
    return replace(dataset_of(str(folder), arrays), cropped=cropped)


def has_class_folders(folder: Path) -> bool:
    """Whether a sub-folder has a picture somewhere below it."""
    return any(
        is_picture(path)
        for entry in _subfolders(folder)
        for path, _ in files_below(entry, follow_links=False)
    )


# --- which pictures there are --------------------------------------------------------------------


def _pictures_of(folder: Path, follow_links: bool) -> dict[str, list[LabelledPicture]]:
    """Find the pictures of each subset: "train", and "test" and "validation" if there are any."""
    named = {entry.name.lower(): entry for entry in _subfolders(folder)}
    divided = {
        subset: next((named[name] for name in names if name in named), None)
        for subset, names in SUBSETS.items()
    }
    roots = {subset: root for subset, root in divided.items() if root is not None}
    if "train" not in roots:
        roots = {"train": folder}
    elif others := sorted(set(named.values()) - set(roots.values())):
        msg = (
            f"{folder}: beside {roots['train'].name} there may be folders of test and validation "
            f"pictures only, got {listed(other.name for other in others)}; move them elsewhere, or "
            "put all classes into one folder."
        )
        raise DatasetError(msg)
    return {subset: _of_classes(root, folder, follow_links) for subset, root in roots.items()}


def _of_classes(root: Path, folder: Path, follow_links: bool) -> list[LabelledPicture]:
    """Find the pictures of all classes below ``root``, in the order of their paths."""
    found, skipped, outside = [], [], []
    loose = [entry for entry in entries_of(root) if is_picture(entry)]
    if loose:
        msg = (
            f"{root}: pictures must be in the folder of a class, {_LAYOUT.format(folder=folder)}; "
            f"got {listed(path.name for path in loose)} beside these folders."
        )
        raise DatasetError(msg)
    for of_class in _subfolders(root):
        pictures = []
        for path, leads_outside in files_below(of_class, folder, follow_links=follow_links):
            if leads_outside:
                outside.append(path)
            elif is_picture(path):
                pictures.append(LabelledPicture(path, of_class.name))
            else:
                skipped.append(path)
        if not pictures and not any(path.is_relative_to(of_class) for path in outside):
            skipped.append(of_class)
        found += pictures
    if outside:
        msg = (
            f"{root}: skipped {listed(map(str, outside), 3)}: links out of the folder; to read "
            "them, add --follow-links (in Python, follow_links=True)."
        )
        warn_user(msg)
    if skipped:
        warn_user(f"{root}: skipped {listed(map(str, skipped), 3)}: no pictures.")
    if not found:
        msg = f"{root}: needs pictures, {_LAYOUT.format(folder=folder)}; got none."
        raise DatasetError(msg)
    return found


def _subfolders(folder: Path) -> list[Path]:
    return [entry for entry in entries_of(folder) if entry.is_dir()]


# --- what they are like --------------------------------------------------------------------------


def _size_of(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Choose the size of the images: the median one, but no longer side above ``LARGEST_SIDE``."""
    height, width = np.median(sizes, axis=0)
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _is_grey(path: Path, size: tuple[int, int]) -> bool:
    planes = read_cropped(path, (3, *size))[0].astype(np.int16)
    return bool(np.ptp(planes, axis=0).max() <= _COLOURLESS)


# --- reading -------------------------------------------------------------------------------------


def _read_all(
    paths: Sequence[Path], shape: tuple[int, ...], n_jobs: int, progress: bool
) -> tuple[NDArray[np.uint8], bool]:
    """Read pictures as images of one shape; say whether any of them was cropped or resized."""
    from tqdm import tqdm  # takes long to import

    images = np.empty((len(paths), *shape), np.uint8)
    cropped = False
    starts = range(0, len(paths), _AT_A_TIME)
    n_jobs = n_jobs if len(paths) > _FEW else 1
    parts = Parallel(n_jobs, return_as="generator")(
        delayed(_read_some)(paths[start : start + _AT_A_TIME], shape) for start in starts
    )
    with tqdm(
        total=len(paths), desc="pictures", unit="", disable=not (progress and len(paths) > _FEW)
    ) as bar:
        for start, (part, differ) in zip(starts, parts, strict=True):
            images[start : start + len(part)] = part
            cropped = cropped or differ
            bar.update(len(part))
    return images, cropped


def _read_some(paths: Sequence[Path], shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], bool]:
    images = np.empty((len(paths), *shape), np.uint8)
    cropped = False
    for image, path in zip(images, paths, strict=True):
        image[...], differs = read_cropped(path, shape)
        cropped = cropped or differs
    return images, cropped
