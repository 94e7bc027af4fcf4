"""Data sets of other libraries: objects that give an image and its label by number.

``torchvision`` and Hugging Face ``datasets`` have such objects. Neither is imported: an object is
known by what it can do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.naming import meaning
from varpro_nn.data.pictures import pixels_of
from varpro_nn.data.pixel_values import typed_pixels
from varpro_nn.data.reading import Reading
from varpro_nn.errors import DatasetError

_IMAGE_TYPES = ("Image", "Array2D", "Array3D")
"""Names of the types of features that hold images."""


class Samples(Protocol):
    """What gives an image and its label by number."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, number: int, /) -> Any:
        """Return a pair (image, label), or a mapping that has both."""


def read_dataset_samples(given: Any, reading: Reading) -> Dataset:
    """Read a data set from an object, or from a mapping of its parts.

    Parameters
    ----------
    given : Samples, or mapping of str to Samples
        ``given[i]`` is a pair (image, label), as in torchvision, or a mapping, as in Hugging Face
        ``datasets``. Images are pictures of Pillow, arrays or tensors, all of one shape; an image
        may be a row of pixels. If some pictures are grey and some in colour, all become colour.
        Of a mapping, such as a ``DatasetDict``, the parts ``"train"``, ``"test"`` and
        ``"validation"`` are read; a single part is the training set.

        The items of a Hugging Face data set have columns. The labels are in the ``ClassLabel``
        column, else in that named ``label``, ``class``, ``target`` or ``y``;
        ``reading.label_column`` chooses another. The names of a ``ClassLabel`` become the classes.
        The images are in the ``Image`` column, else in that named ``image``, ``img``, ``x`` or
        ``pixels``.

    Raises
    ------
    TypeError
        An object without ``len()`` or without items by number.
    DatasetError
        No training set, or several; items or columns that are no images with labels; images of
        different sizes; or what :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    parts = _parts(given)
    name = type(parts["train"]).__name__
    arrays: dict[str, NDArray[Any]] = {}
    for subset, part in parts.items():
        images, labels = _arrays_of(part, f"{name}, {subset}" if len(parts) > 1 else name, reading)
        arrays |= {f"x_{subset}": images, f"y_{subset}": labels}
    pixels = {role: array for role, array in arrays.items() if role.startswith("x")}
    if any(array.ndim == 4 and array.shape[1] == 3 for array in pixels.values()):
        # A part whose pictures are all grey, beside one with pictures in colour.
        pixels |= {x: array[:, None].repeat(3, 1) for x, array in pixels.items() if array.ndim == 3}
        arrays |= pixels
    # Numbers out of lists have no type of their own, unlike arrays of bytes or floats.
    if any(array.dtype.kind in "iu" and array.dtype != np.uint8 for array in pixels.values()):
        try:
            arrays |= typed_pixels(pixels)
        except ValueError as error:
            msg = f"{name}: {error}"
            raise DatasetError(msg) from error
    return dataset_of(name, arrays, image_size=reading.image_size)


def _is_samples(given: Any) -> TypeGuard[Samples]:
    return hasattr(given, "__len__") and hasattr(given, "__getitem__")


def _parts(given: Any) -> dict[str, Samples]:
    """Find the training set, and the test and validation sets if there are any."""
    parts: dict[str, Any] = {"train": given}
    if isinstance(given, Mapping):
        subsets = {key: meaning(str(key)).subset for key in given}
        training = [key for key in given if subsets[key] == "train"]
        training = training or (list(given) if len(given) == 1 else [])
        others = {
            subset: [key for key in given if subsets[key] == subset and key not in training]
            for subset in ("test", "validation")
        }
        if len(training) != 1 or max(map(len, others.values())) > 1:
            msg = (
                "a mapping of data sets must have one 'train', and at most one 'test' and one "
                f"'validation', got {listed(given)}."
            )
            raise DatasetError(msg)
        parts = {"train": given[training[0]]}
        parts |= {subset: given[keys[0]] for subset, keys in others.items() if keys}
    for part in parts.values():
        if not _is_samples(part):
            msg = (
                "a data set must be a name, a path, or an object with len() whose items are "
                f"(image, label), got {type(part).__name__}. Load it without streaming; of a "
                "DataLoader give its dataset."
            )
            raise TypeError(msg)
    return parts


def _arrays_of(part: Samples, where: str, reading: Reading) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read all images and labels of a part."""
    if not len(part):
        msg = f"{where}: must have an item for each image, got none."
        raise DatasetError(msg)
    class_names: Sequence[str] | None = None
    columns = _columns_of(part)
    if columns is None:
        reading.check_unused(f"{where}, whose items have no columns", "label_column")
        pairs = _pairs(part, where)
    else:
        features = getattr(part, "features", None) or {}
        chosen = _chosen(columns, features, where, reading.label_column)
        class_names = getattr(features.get(chosen[1]), "names", None)
        if hasattr(part, "select_columns"):
            part = part.select_columns(list(chosen))  # the others need not be decoded
        pairs = ((item[chosen[0]], item[chosen[1]]) for item in _items(part, where))
    images, labels = [], []
    for number, (image, label) in enumerate(pairs):
        images.append(_pixels(image, f"{where}: the image of item {number}"))
        labels.append(_label(label, f"{where}: the label of item {number}"))
    return _stacked(images, where), _label_array(labels, where, class_names)


def _columns_of(part: Any) -> list[str] | None:
    """Name the columns of the items; None if the items are pairs."""
    columns = getattr(part, "column_names", None)
    if columns is None:
        first = next(_items(part, type(part).__name__))
        columns = list(first) if isinstance(first, Mapping) else None
    return None if columns is None else list(columns)


def _items(part: Samples, where: str) -> Iterator[Any]:
    for number in range(len(part)):
        try:
            yield part[number]
        except LookupError as error:
            msg = f"{where}: must have items by number, got {error!r} for item {number}."
            raise DatasetError(msg) from error


def _pairs(part: Samples, where: str) -> Iterator[tuple[Any, Any]]:
    for number, item in enumerate(_items(part, where)):
        if not isinstance(item, tuple | list) or len(item) != 2:
            length = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            msg = (
                f"{where}: item {number} must be a pair (image, label), got "
                f"{type(item).__name__}{length}. A training set and a test set are given as "
                "{'train': ..., 'test': ...}."
            )
            raise DatasetError(msg)
        yield item[0], item[1]


def _chosen(
    columns: list[str], features: Mapping[str, Any], where: str, label_column: str | int | None
) -> tuple[str, str]:
    """Choose the columns of images and labels, by the types of features, else by their names."""
    if label_column is None:
        label = _only(
            [name for name in columns if hasattr(features.get(name), "names")]
            or _named(columns, "y"),
            "labels (label_column chooses one)", columns, where,
        )  # fmt: skip
    elif label_column in columns:
        label = str(label_column)
    else:
        msg = f"{where}: must have a column {label_column!r} (label_column), got {listed(columns)}."
        raise DatasetError(msg)
    others = [name for name in columns if name != label]
    image = _only(
        [name for name in others if type(features.get(name)).__name__ in _IMAGE_TYPES]
        or _named(others, "x"),
        "images", columns, where,
    )  # fmt: skip
    return image, label


def _named(columns: Iterable[str], role: str) -> list[str]:
    return [name for name in columns if meaning(name)[::2] == (role, ())]


def _only(found: list[str], of: str, columns: list[str], where: str) -> str:
    if len(found) != 1:
        msg = (
            f"{where}: must have one column of {of}, got {listed(found)} among the columns "
            f"{listed(columns)}."
        )
        raise DatasetError(msg)
    return found[0]


def _pixels(image: Any, what: str) -> NDArray[Any]:
    """Make an array of an image: of a picture (1 or 3, rows, columns)."""
    from PIL import Image  # not at the top: imported where it is used

    if isinstance(image, Image.Image):
        return pixels_of(image, what)
    array = np.asarray(image)
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        found = type(image).__name__ if array.dtype.kind == "O" else str(array.dtype)
        msg = f"{what} must be a picture of Pillow, an array or a tensor, got {found}."
        raise DatasetError(msg)
    return array


def _stacked(images: list[NDArray[Any]], where: str) -> NDArray[Any]:
    """Make one array of images, without an axis of one channel.

    A grey picture among pictures in colour becomes one of them.
    """
    channels = {len(image) if image.ndim == 3 else 0 for image in images}
    if channels == {1}:
        images = [image[0] for image in images]
    elif channels == {1, 3}:
        images = [np.repeat(image, 3, 0) if len(image) == 1 else image for image in images]
    for number, image in enumerate(images):
        if image.shape != images[0].shape:
            msg = (
                f"{where}: images must have one shape, got {images[0].shape} in item 0 and "
                f"{image.shape} in item {number}. Resize them first, with the transform "
                "torchvision.transforms.Resize((28, 28)) or with image.resize((28, 28)), say."
            )
            raise DatasetError(msg)
    return np.stack(images)


def _label(label: Any, what: str) -> NDArray[Any]:
    array = np.asarray(label)
    if array.dtype.kind not in "biufU":
        msg = f"{what} must be a number or text, got {type(label).__name__}."
        raise DatasetError(msg)
    return array.reshape(()) if array.size == 1 else array


def _label_array(
    labels: list[NDArray[Any]], where: str, class_names: Sequence[str] | None
) -> NDArray[Any]:
    for number, label in enumerate(labels):
        same = label.shape == labels[0].shape
        if not same or (label.dtype.kind == "U") != (labels[0].dtype.kind == "U"):
            msg = (
                f"{where}: labels must all be numbers or all be text, got {labels[0]} in item 0 "
                f"and {label} in item {number}."
            )
            raise DatasetError(msg)
    array = np.stack(labels)
    if class_names is None or array.dtype.kind not in "iu":
        return array
    outside = (array < 0) | (array >= len(class_names))
    if outside.any():
        number = int(np.argmax(outside))
        msg = (
            f"{where}: labels must be 0 to {len(class_names) - 1}, the numbers of the class names, "
            f"got {array[number]} in item {number}; leave out items without a label."
        )
        raise DatasetError(msg)
    return np.array(class_names, dtype=str)[array]
