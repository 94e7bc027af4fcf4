"""What is trained on: images, their targets and weights, as one value.

A :class:`TrainingSet` is made once, where the data enter training, and goes whole from there to
the training of one sub-network. Its arrays are checked when it is made and are read-only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varpro_nn._typing import FloatArray, ImageArray, LabelArray, TargetArray
from varpro_nn.data.images import (
    check_images,
    check_labels,
    check_targets,
    check_weights,
    targets_of,
)
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.imageset import Dataset, read_only, sha256_of
from varpro_nn.data.labels import label_row
from varpro_nn.data.loading import load
from varpro_nn.data.preparation import Preparation
from varpro_nn.data.reading import AS_IT_IS, Reading


@dataclass(frozen=True, slots=True)
class NamedData:
    """The training images of a data set that another process can load by its name.

    Attributes
    ----------
    name : str
        What :func:`varpro_nn.load` takes: a name, or the absolute path of a file or folder.
    data_dir : str or None
        Where its files are.
    n_train : int or None
        The first ``n_train`` images alone.
    reading : Reading
        How its files are read.
    class_weight : {"balanced"} or None
        How its images are weighted.
    """

    name: str
    data_dir: str | None
    n_train: int | None
    reading: Reading = AS_IT_IS
    class_weight: str | None = None

    def read(self) -> "TrainingSet":
        """Load the data set; it is fetched if this machine does not have it."""
        how = asdict(self.reading)
        dataset = load(self.name, self.data_dir, progress=False, **how)
        return TrainingSet.of(dataset, self.n_train, self.class_weight)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images with targets and weights, checked.

    Attributes
    ----------
    images : ndarray or ImagesOnDisk, shape (n, rows, columns) or (n, channels, rows, columns)
    targets : ndarray of int64, shape (n,); or of float64, shape (n, k)
        Class numbers 0 to k - 1, or real targets.
    n_targets : int
        k, the number of classes or of real targets.
    weights : ndarray of float64, shape (n,), optional
        Weights of the images in sums of squares and losses. None: all weigh 1.
    origin : NamedData, optional
        What another process needs to load the same images.
    cropped : bool
        Whether the images were made of pictures of several sizes, as in
        :class:`~varpro_nn.data.imageset.Dataset`.
    derived : bool
        Whether the images were made from others in this process: distorted copies, for example.

    Raises
    ------
    ValueError
        Arrays of a wrong shape or type, values that are not finite, or targets that do not fit
        the images or ``n_targets``.
    """

    images: ImageArray
    targets: TargetArray
    n_targets: int
    weights: FloatArray | None = None
    origin: NamedData | None = field(default=None, repr=False)
    cropped: bool = field(default=False, repr=False)
    derived: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        images = check_images(self.images)
        targets = check_targets(self.targets, len(images), self.n_targets)
        weights = check_weights(self.weights, len(images))
        self._set(images, targets, weights)

    def _set(self, images: Any, targets: Any, weights: Any) -> None:
        object.__setattr__(self, "images", read_only(images))
        object.__setattr__(self, "targets", read_only(targets))
        object.__setattr__(self, "weights", None if weights is None else read_only(weights))

    @classmethod
    def of(
        cls, dataset: Dataset, n_train: int | None = None, class_weight: str | None = None
    ) -> "TrainingSet":
        """Take the training images of a data set: the first ``n_train``, or all.

        With ``class_weight="balanced"`` their weights are those of :func:`balanced_weights`.
        """
        train = dataset.train if n_train is None else dataset.train.take(slice(n_train))
        loadable, origin = dataset.loadable, None
        if loadable is not None and train.weights is None:  # data loaded by name have no weights
            origin = NamedData(
                loadable.name, loadable.data_dir, n_train, loadable.reading, class_weight
            )
        weights = _with_class_weight(class_weight, train.labels, train.weights)
        return cls(
            train.images, train.labels, len(dataset.classes), weights, origin, dataset.cropped
        )

    @classmethod
    def classified(
        cls,
        images: ArrayLike,
        labels: ArrayLike,
        n_classes: int,
        weights: ArrayLike | None = None,
        class_weight: str | None = None,
    ) -> "TrainingSet":
        """Make a training set of arrays from a user; the labels must be class numbers."""
        row: Any = label_row(labels)
        codes = check_labels(row, row.size, n_classes)
        of_images = _with_class_weight(class_weight, codes, check_weights(weights, len(codes)))
        given: Any = images
        return cls(given, codes, n_classes, of_images)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_classified(self) -> bool:
        """Whether the targets are class numbers."""
        return self.targets.ndim == 1

    @cached_property
    def preparation(self) -> Preparation:
        """What the images say about pictures to be classified; one pass over them."""
        return Preparation.learn(self.images, cropped=self.cropped)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of images, targets and weights, their types and shapes."""
        weights = () if self.weights is None else (self.weights,)
        return sha256_of(self.images, self.targets, *weights)

    def tau(self, rows: Any = slice(None)) -> FloatArray:
        """Targets of some images as the columns of a least-squares problem, (b, k)."""
        return targets_of(self.targets[rows], self.n_targets)

    def weights_at(self, rows: Any) -> FloatArray | None:
        """Weights of some images, (b,), or None."""
        return None if self.weights is None else self.weights[rows]

    def take(self, rows: slice | Sequence[int] | NDArray[Any]) -> "TrainingSet":
        """Take some images, into memory if they are on disk."""
        return self.with_images(self.images[rows], rows)

    def with_images(self, images: ImageArray, rows: Any = slice(None)) -> "TrainingSet":
        """Replace some images by others (distorted ones), with the same targets.

        Parameters
        ----------
        images : ndarray, shape (b, ...)
            Made of images of this set, so not checked again.
        rows : slice or array of int
            Whose targets and weights they have.
        """
        made = object.__new__(TrainingSet)
        object.__setattr__(made, "n_targets", self.n_targets)
        object.__setattr__(made, "origin", None)
        object.__setattr__(made, "cropped", self.cropped)
        object.__setattr__(made, "derived", True)
        made._set(images, self.targets[rows], self.weights_at(rows))
        return made

    def repeated(self, images: ImageArray, times: int) -> "TrainingSet":
        """Append copies of all images, ``images`` being all of them ``times`` times over."""
        return self.with_images(images, np.tile(np.arange(len(self)), times))

    @property
    def on_disk(self) -> bool:
        """Whether the images stay in their file."""
        return isinstance(self.images, ImagesOnDisk)


def balanced_weights(labels: LabelArray) -> FloatArray:
    """Weigh each image ``n / (k n_c)``, so that all classes weigh the same.

    ``n`` is the number of images, ``k`` that of the classes that have images, and ``n_c`` that of
    the images of the class: ``compute_sample_weight("balanced", labels)`` of scikit-learn.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Class numbers.

    Returns
    -------
    ndarray, shape (n,)
        Their mean is 1.
    """
    counts = np.bincount(labels)
    weights: FloatArray = len(labels) / (np.count_nonzero(counts) * counts[labels])
    return weights


def _with_class_weight(
    class_weight: str | None, labels: LabelArray, weights: FloatArray | None
) -> FloatArray | None:
    """Multiply weights of images by those of their classes."""
    if class_weight is None:
        return weights
    balanced = balanced_weights(labels)
    return balanced if weights is None else weights * balanced
