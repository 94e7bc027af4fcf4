"""Data sets of other libraries, and stand-ins for their objects."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from varpro_nn import load
from varpro_nn.errors import DatasetError

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(6, 8, 7), dtype=np.uint8)
COLOUR = RNG.integers(256, size=(6, 8, 7, 3), dtype=np.uint8)
LABELS = [7, 3, 7, 3, -1, 7]


class Tensor:
    """As much of a tensor as is used."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self.array


class Pairs:
    """As torchvision has them; an item is made when it is asked for."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        return self.images[number], self.labels[number]


class ClassLabel:
    def __init__(self, *names):
        self.names = names


class Table:
    """As Hugging Face has them: rows are mappings, columns have types."""

    def __init__(self, features, **columns):
        self.features, self.columns = features, columns

    @property
    def column_names(self):
        return list(self.columns)

    def select_columns(self, names):
        return Table(self.features, **{name: self.columns[name] for name in names})

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, number):
        return {name: column[number] for name, column in self.columns.items()}


def pictures(arrays, mode=None):
    return [Image.fromarray(array).convert(mode) for array in arrays]


def check(dataset, images, labels=LABELS):
    assert_array_equal(dataset.train.images, images, strict=True)
    assert_array_equal(dataset.classes[dataset.train.labels], labels)


FIRST = np.moveaxis(COLOUR, -1, 1)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (pictures(GREY), GREY),
        (pictures(COLOUR), FIRST),
        (pictures(GREY, "P"), np.repeat(GREY[:, None], 3, 1)),
        (pictures(GREY > 127), 255 * (GREY > 127).astype(np.uint8)),
        (pictures(257 * GREY.astype(np.uint16)), GREY),
        (GREY, GREY),
        (COLOUR, FIRST),
        ([Tensor(image) for image in FIRST / 255], FIRST / 255),
        ([Tensor(image) for image in GREY[:, None].astype(np.int64)], GREY),
        (pictures(COLOUR)[:5] + pictures(GREY)[5:], [*FIRST[:5], np.stack([GREY[5]] * 3)]),
        (GREY[:, :7].reshape(6, 49).tolist(), GREY[:, :7]),
    ],
    ids=[
        *("pictures", "colour", "palette", "black and white", "16 bits", "arrays", "channels last"),
        *("tensors", "integers", "some grey", "rows of pixels"),
    ],
)
def test_images(images, expected):
    check(load(Pairs(images, LABELS)), np.asarray(expected))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (list("abaaba"), list("abaaba")),
        ([Tensor(label) for label in LABELS], LABELS),
        ([Tensor([label]) for label in LABELS], LABELS),
        (np.eye(3)[[0, 1, 2, 0, 1, 2]], [0, 1, 2, 0, 1, 2]),
        ([True, False] * 3, [1, 0] * 3),
    ],
    ids=["text", "tensors", "tensors of one", "one-hot", "booleans"],
)
def test_labels(labels, expected):
    check(load(Pairs(GREY, labels)), GREY, expected)
    check(load(list(zip(GREY, labels, strict=True))), GREY, expected)


def test_training_and_test_set():
    train, test = Pairs(GREY, LABELS), Pairs(pictures(GREY[2:5]), LABELS[2:5])
    validation = Pairs(GREY[1:4], LABELS[1:4])
    dataset = load({"train": train, "validation": validation, "test": test})
    check(dataset, GREY)
    assert_array_equal(dataset.validation.images, GREY[1:4])
    assert_array_equal(dataset.test.images, GREY[2:5])
    assert_array_equal(dataset.test.labels, dataset.train.labels[2:5])
    assert dataset.name == "Pairs"
    assert dataset.origin is None
    assert load({"test": test}).test is None


def test_a_grey_part_beside_one_in_colour_becomes_colour():
    train, test = Pairs(pictures(COLOUR), LABELS), Pairs(pictures(GREY[2:5]), LABELS[2:5])
    dataset = load({"train": train, "test": test})
    assert dataset.image_shape == (3, *GREY.shape[1:])
    for channel in range(3):
        assert_array_equal(dataset.test.images[:, channel], GREY[2:5])


def test_columns_with_types():
    """Other columns are not read; the names of the classes are the labels."""
    features = {"photo": type("Image", (), {})(), "kind": ClassLabel("cat", "dog", "cow")}
    columns = {"photo": pictures(COLOUR), "kind": [2, 0, 0, 1, 2, 2], "image": [None] * 6}
    dataset = load({"train": Table(features, **columns)})
    check(dataset, FIRST, ["cow", "cat", "cat", "dog", "cow", "cow"])
    columns["kind"][4] = -1
    with pytest.raises(DatasetError, match=r"must be 0 to 2, .* got -1 in item 4; leave out items"):
        load(Table(features, **columns))


def test_columns_with_names():
    columns = {"id": [1] * 6, "img": list(GREY), "label": LABELS, "weight": [0.5] * 6}
    for features in (None, {}, dict.fromkeys(columns, object())):
        check(load(Table(features, **columns)), GREY)
    check(load([{"image": a, "label": b} for a, b in zip(GREY, LABELS, strict=True)]), GREY)


def test_the_label_is_chosen_by_the_user():
    """As in CIFAR-100, which has two."""
    features = {name: ClassLabel(*"abcd") for name in ("fine_label", "coarse_label")}
    fine, coarse = [0, 1, 2, 3, 0, 1], [0, 0, 1, 1, 0, 0]
    table = Table(features, img=list(GREY), fine_label=fine, coarse_label=coarse)
    assert load(table, label_column="coarse_label").classes.tolist() == ["a", "b"]
    with pytest.raises(DatasetError, match=r"one column of labels .* got fine_label, coarse_label"):
        load(table)
    with pytest.raises(DatasetError, match=r"must have a column 'x' \(label_column\), got img, fi"):
        load(table, label_column="x")


SIZES = [GREY[0], *GREY[1:, :7]]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (Pairs(SIZES, LABELS), r"one shape, got \(8, 7\) in item 0 and \(7, 7\) in item 1. Resize"),
        (Pairs([*COLOUR[:5], GREY[5]], LABELS), r"one shape, got \(8, 7, 3\) in item 0 and \(8, 7"),
        (Pairs([None] * 6, LABELS), "image of item 0 must be a picture .* got NoneType"),
        (Pairs([{"bytes": b""}] * 6, LABELS), "image of item 0 must be a picture .* got dict"),
        (Pairs(["a.png"] * 6, LABELS), "image of item 0 must be a picture .* got <U5"),
        (
            Pairs(GREY, [*LABELS[:5], None]),
            "label of item 5 must be .* text, got NoneType",
        ),
        (Pairs(GREY, [*LABELS[:5], "a"]), "labels must all .* got 7 in item 0 and a in item 5"),
        (Pairs(GREY, [*LABELS[:5], [1, 2]]), r"labels must all .* and \[1 2\] in item 5"),
        (Pairs(GREY, [3] * 6), r"Pairs: y_train must have two classes or more, got \[3\]"),
        (Pairs(300 * GREY.astype(int), LABELS), "Pairs: x_train must be whole numbers from 0"),
        (Pairs(GREY / np.nan, LABELS), "x_train must be finite, got NaN"),
        (Pairs([], []), "Pairs: must have an item for each image, got none"),
        (GREY, r"ndarray: item 0 must be a pair \(image, label\), got ndarray\."),
        (
            (Pairs(GREY, LABELS),) * 2,
            r"item 0 must be .* got Pairs. .*\{'train': ..., 'test'",
        ),
        ([(1, 2, 3)], "item 0 must be a pair .* got tuple of 3"),
        ({}, "one 'train', .* and one 'validation', got nothing"),
        ({"a": [], "b": []}, "one 'train', .* and one 'validation', got a, b"),
        (Table({}, a=LABELS, label=LABELS), r"one column of images, got nothing among .* a, l"),
        (
            Table({}, image=GREY, a=LABELS),
            r"one column of labels .*, got nothing among .* image",
        ),
    ],
)
def test_unsuitable(given, match):
    with np.errstate(all="ignore"), pytest.raises(DatasetError, match=match):
        load(given)


def test_items_that_have_no_number():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DatasetError, match=r"must have items by number, got KeyError\(0\)"):
        load(pandas.DataFrame({"a": [1]}))


@pytest.mark.parametrize("given", [None, 3, iter([]), {"train": iter([])}])
def test_what_is_no_data_set(given):
    with pytest.raises(TypeError, match=r"must be a name, a path, or an object with len\(\) .*got"):
        load(given)


def test_options_that_have_no_effect():
    with pytest.raises(ValueError, match="label_column has no effect on Pairs, whose items"):
        load(Pairs(GREY, LABELS), label_column="y")
    assert load(Pairs(GREY, LABELS), image_size=(8, 7)).image_shape == (8, 7)


def test_neither_library_is_loaded():
    load(Pairs(GREY, LABELS))
    assert not {"torch", "torchvision"} & set(sys.modules)
