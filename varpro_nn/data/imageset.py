"""Images with their labels: what every loader returns and the rest of the package takes.

Arrays are read-only views, so that nobody changes by accident what several sub-networks share.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray, ImageArray, LabelArray
from varpro_nn.data.images import check_images, check_weights
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.labels import check_text, label_row
from varpro_nn.data.reading import AS_IT_IS, Reading


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images and the number of the class of each.

    Attributes
    ----------
    images : ndarray, shape (n, rows, columns) or (n, channels, rows, columns)
        ``uint8`` (0 to 255) or floating point (intensities), as in `varpro_nn.data.images`; or
        :class:`~varpro_nn.data.images_on_disk.ImagesOnDisk`. Channels that come last are moved.
    labels : ndarray of int64, shape (n,)
        Class numbers from 0 on: positions in ``Dataset.classes``. A column (n, 1) and one-hot
        rows (n, k) are taken too.
    weights : ndarray of float64, shape (n,), optional
        Weights of the images in sums of squares and losses. None: all weigh 1.

    Raises
    ------
    ValueError
        Wrong shape or type of one of them, different lengths, or a negative label.
    """

    images: ImageArray
    labels: LabelArray
    weights: FloatArray | None = None

    def __post_init__(self) -> None:
        images = check_images(self.images)
        labels: Any = label_row(self.labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            msg = (
                "labels must be a 1-D array of integers, "
                f"got shape {labels.shape} of type {labels.dtype}."
            )
            raise ValueError(msg)
        if len(labels) != len(images):
            msg = (
                "images and labels must have the same length, "
                f"got {len(images)} images and {len(labels)} labels."
            )
            raise ValueError(msg)
        if int(labels.min()) < 0 or int(labels.max()) > np.iinfo(np.int64).max:
            msg = f"labels must be class numbers from 0 on, got {labels.min()} to {labels.max()}."
            raise ValueError(msg)
        labels = labels.astype(np.int64, copy=False)
        object.__setattr__(self, "images", read_only(images))
        object.__setattr__(self, "labels", read_only(labels))
        weights = check_weights(self.weights, len(images))
        object.__setattr__(self, "weights", None if weights is None else read_only(weights))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of images, labels and weights, their types and shapes."""
        weights = () if self.weights is None else (self.weights,)
        return sha256_of(self.images, self.labels, *weights)

    def take(self, index: slice | Sequence[int] | NDArray[Any]) -> "ImageSet":
        """Return the images at ``index``: a slice, positions, or a mask of n booleans.

        Raises
        ------
        IndexError
            A position outside the set, or a mask of another length.
        ValueError
            Nothing is left.
        """
        images: Any = self.images
        if isinstance(images, ImagesOnDisk) and isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                images = images.between(start, max(start, stop))
                return ImageSet(images, self.labels[index], self._weights_at(index))
        at = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        return ImageSet(self.images[at], self.labels[at], self._weights_at(at))

    def at(self, positions: NDArray[np.int64]) -> "ImageSet":
        """Return the images at positions from 0 to n - 1; images of a file stay there."""
        images: Any = self.images
        chosen: Any
        chosen = images.at(positions) if isinstance(images, ImagesOnDisk) else images[positions]
        return ImageSet(chosen, self.labels[positions], self._weights_at(positions))

    def _weights_at(self, index: Any) -> FloatArray | None:
        return None if self.weights is None else self.weights[index]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training set, usually a test set, and what their class numbers mean.

    Attributes
    ----------
    name : str
        What the user asked for: ``"mnist"``, or the path of a file.
    classes : ndarray, shape (k,)
        The original label of each class: integers, or strings of fixed width.
    train, test : ImageSet
        Images of the same shape; ``test`` may be None.
    validation : ImageSet, optional
        Images that nothing is trained on, to measure the network while it is being developed.
    cropped : bool
        Whether the images were made of pictures of several sizes, by cropping and resizing them:
        new pictures are treated alike (:mod:`varpro_nn.data.preparation`).
    held : ndarray of bool, shape (n_train + n_validation,), optional
        Which images :meth:`hold_out` held out, so that :meth:`merged` restores their order.
    origin : Origin, optional
        What another process needs to ``load`` the same training set.

    Raises
    ------
    ValueError
        Classes that are not distinct integers or strings, a label outside 0 to k - 1, or test or
        validation images of another shape than the training images.
    """

    name: str
    classes: NDArray[np.integer[Any]] | NDArray[np.str_]
    train: ImageSet
    test: ImageSet | None
    origin: "Origin | None" = None
    validation: ImageSet | None = None
    cropped: bool = False
    held: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        classes = plain_array(self.classes, "classes")
        if classes.ndim != 1 or classes.dtype.kind not in "iuU":
            msg = (
                "classes must be a 1-D array of integers or strings, "
                f"got shape {classes.shape} of type {classes.dtype}."
            )
            raise ValueError(msg)
        if len(np.unique(classes)) != len(classes):
            msg = f"classes must be distinct, got {classes.tolist()}."
            raise ValueError(msg)
        check_text(classes, "classes")
        subsets = {"train": self.train, "test": self.test, "validation": self.validation}
        for subset, images in subsets.items():
            if images is None:
                continue
            if int(images.labels.max()) >= len(classes):
                msg = (
                    f"{subset} labels must be 0 to {len(classes) - 1} for {len(classes)} classes, "
                    f"got {images.labels.max()}."
                )
                raise ValueError(msg)
            if images.images.shape[1:] != self.image_shape:
                msg = (
                    f"train and {subset} images must have the same shape, "
                    f"got {self.image_shape} and {images.images.shape[1:]}."
                )
                raise ValueError(msg)
        object.__setattr__(self, "classes", read_only(classes))

    def can_hold_out(self, share: float) -> bool:
        """Whether some class has enough images for :meth:`hold_out` to take one.

        Parameters
        ----------
        share : float
            As for :meth:`hold_out`.
        """
        return any(_n_held(share, n) for n in np.bincount(self.train.labels).tolist())

    def hold_out(self, share: float, seed: int = 0) -> "Dataset":
        """Hold training images out as validation images, the same share of each class.

        Parameters
        ----------
        share : float
            Above 0 and below 1. Each class keeps an image at least.
        seed : int
            Chooses the images.

        Returns
        -------
        Dataset
            Images of a file stay there.

        Raises
        ------
        ValueError
            There are validation images already, a share that is none, or no class with so many
            images that one could be held out.
        """
        if self.validation is not None:
            msg = "data have validation images already, got another share to hold out."
            raise ValueError(msg)
        if not 0 < share < 1:
            msg = f"share must be above 0 and below 1, got {share}."
            raise ValueError(msg)
        held = held_out(self.train.labels, len(self.classes), share, seed)
        return replace(
            self, train=self.train.at(np.flatnonzero(~held)),
            validation=self.train.at(np.flatnonzero(held)), held=held,
        )  # fmt: skip

    def merged(self, n_train: int | None = None) -> "Dataset":
        """Put the validation images back to the training images.

        Parameters
        ----------
        n_train : int, optional
            Take only the first ``n_train`` of the training images.

        Returns
        -------
        Dataset
            Without validation images. The images are in the order that they had before
            :meth:`hold_out`. Other validation images, or those of a part, come last.

        Raises
        ------
        ValueError
            There are no validation images; bytes and intensities; or images of different files on
            disk.
        """
        if self.validation is None:
            msg = "data have no validation images that could be merged with the training images."
            raise ValueError(msg)
        train = self.train if n_train is None else self.train.take(slice(n_train))
        held, n_held = self.held, len(self.validation)
        if held is None or len(held) != len(train) + n_held or np.count_nonzero(held) != n_held:
            held = np.repeat([False, True], [len(train), n_held])
        whole = _merged(train, self.validation, held)
        return replace(self, train=whole, validation=None, held=None)

    @property
    def loadable(self) -> "Origin | None":
        """The origin, if the training set is still the one that was loaded."""
        return self.origin if self.origin is not None and self.origin.train is self.train else None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: (rows, columns) or (channels, rows, columns)."""
        return self.train.images.shape[1:]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the arrays, their types and shapes; the name does not count."""
        arrays: list[Any] = [self.classes]
        for subset in (self.train, self.test, self.validation):
            if subset is not None:
                arrays += [subset.images, subset.labels]
                arrays += [] if subset.weights is None else [subset.weights]
        return sha256_of(*arrays)


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where a training set was loaded from.

    Attributes
    ----------
    name : str
        What ``load`` takes; the path of a file or folder is absolute.
    train : ImageSet
        The training set that it returned.
    reading : Reading
        What else it was told.
    """

    name: str
    data_dir: str | None
    train: ImageSet
    reading: Reading = AS_IT_IS


def _merged(train: ImageSet, others: ImageSet, held: NDArray[np.bool_]) -> ImageSet:
    """Make one set of two: ``others`` at the places that are ``held``, (n,)."""

    def together(one: Any, two: Any) -> NDArray[Any]:
        found = np.empty((len(held), *one.shape[1:]), np.result_type(one.dtype, two.dtype))
        found[~held], found[held] = one, two
        return found

    images: Any
    one, two = train.images, others.images
    if isinstance(one, ImagesOnDisk) and isinstance(two, ImagesOnDisk) and one.same_file(two):
        images = one.at_places(together(one.places, two.places))
    elif isinstance(one, ImagesOnDisk) or isinstance(two, ImagesOnDisk):
        msg = (
            "images on disk cannot be merged with those of another file; hold validation images "
            "out of the training images instead, or use images in memory."
        )
        raise ValueError(msg)
    elif (one.dtype == np.uint8) != (two.dtype == np.uint8):
        msg = (
            "training and validation images must both be uint8 or both be intensities to be "
            f"merged, got {one.dtype} and {two.dtype}."
        )
        raise ValueError(msg)
    else:
        images = together(one, two)
    weights = None
    if train.weights is not None or others.weights is not None:
        given = (np.ones(len(s)) if s.weights is None else s.weights for s in (train, others))
        weights = together(*given)
    return ImageSet(images, together(train.labels, others.labels), weights)


def held_out(labels: LabelArray, n_classes: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose the images to hold out, (n,): the same share of each class, which keeps one at least.

    Raises
    ------
    ValueError
        No class has enough images for one to be held out.
    """
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for code in range(n_classes):
        of_class = np.flatnonzero(labels == code)
        mask[rng.permutation(of_class)[: _n_held(share, len(of_class))]] = True
    if not mask.any():
        msg = (
            f"a share of {share} is less than an image of every class, got {len(labels)} images "
            f"of {n_classes} classes; hold out more."
        )
        raise ValueError(msg)
    return mask


def _n_held(share: float, n: int) -> int:
    """Count the images to hold out of the n of a class, which keeps one at least."""
    return max(min(round(share * n), n - 1), 0)


def sha256_of(*arrays: Any) -> str:
    """SHA-256 (hex) of arrays, types and shapes; the same on machines of either byte order."""
    sha = hashlib.sha256()
    for array in arrays:
        dtype = array.dtype.newbyteorder("<")
        sha.update(f"{dtype.str} {array.shape};".encode())
        for block in array.blocks() if isinstance(array, ImagesOnDisk) else (array,):
            little = block.astype(dtype, order="C", copy=False)
            sha.update(little.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def read_only(array: Any) -> Any:
    """Make a view that nobody changes by accident; images on disk stay as they are."""
    if isinstance(array, ImagesOnDisk):
        return array
    view = array.view()
    view.flags.writeable = False
    return view
