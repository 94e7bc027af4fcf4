"""Data sets of MATLAB: numbers and text, images numbered along either axis."""

import zlib

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from varpro_nn import load
from varpro_nn.errors import DatasetError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(7, 6, 5, 3), dtype=np.uint8)
LABELS = np.array([3, 1, 3, 1, 1, 3, 2])
FIRST = np.moveaxis(IMAGES, -1, 1)
HEADER_7_3 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.mat"


def save(path, **arrays):
    scipy.io.savemat(path, arrays, do_compression=True)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS[None], LABELS[:, None].astype(float)])
@pytest.mark.parametrize("last", [False, True], ids=["numbered first", "numbered last"])
def test_images_in_colour(last, labels, path):
    """``X`` (rows, columns, 3, n) is what SVHN has."""
    save(path, X=np.moveaxis(IMAGES, 0, -1) if last else IMAGES, y=labels, other=np.zeros(3))
    data = load(path)
    assert_array_equal(data.train.images, FIRST, strict=True)
    assert_array_equal(data.classes[data.train.labels], LABELS)
    assert data.test is None


def test_the_axis_is_that_of_training_and_test(path):
    """The test set alone may be numbered along either."""
    grey = IMAGES[..., 0]
    save(
        path,
        train_images=np.moveaxis(grey, 0, -1), train_labels=LABELS,
        test_images=np.moveaxis(grey[:4], 0, -1), test_labels=LABELS[:4],
        val_images=np.moveaxis(grey[:5], 0, -1), val_labels=LABELS[:5],
    )  # fmt: skip
    data = load(path)
    assert_array_equal(data.train.images, grey)
    assert_array_equal(data.test.images, grey[:4])
    assert_array_equal(data.test.labels, data.train.labels[:4])
    assert_array_equal(data.validation.images, grey[:5])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([["cat"], ["a dog"]] * 3 + [["cat"]], dtype=object),
        np.array(["cat", "a dog"] * 3 + ["cat"]),
    ],
    ids=["cells", "characters"],
)
def test_labels_that_are_text(labels, path):
    save(path, images=IMAGES, labels=labels)
    data = load(path)
    assert data.classes.tolist() == ["a dog", "cat"]
    assert data.train.labels.tolist() == [1, 0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_pixels_with_one_hot_labels(transposed, path):
    rows, labels = IMAGES[:, :5].reshape(7, -1), np.eye(3)[LABELS - 1]
    save(path, fea=rows.T if transposed else rows, gnd=labels.T if transposed else labels)
    data = load(path)
    assert_array_equal(data.train.images, rows.reshape(7, 3, 5, 5))
    assert_array_equal(data.classes[data.train.labels], LABELS - 1)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES.astype(float), FIRST),
        (IMAGES.astype(np.int16), FIRST),
        (IMAGES / 255, FIRST / 255),
        (IMAGES > 127, (FIRST > 127).astype(np.float32)),
        (IMAGES // 128, FIRST // 128),
    ],
    ids=["double", "int16", "intensities", "logical", "dark bytes"],
)
def test_numbers_that_are_pixels(images, expected, path):
    save(path, X=images, y=LABELS)
    assert_array_equal(load(path).train.images, expected, strict=True)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        (
            {"a": IMAGES, "dataset": {"images": IMAGES}},
            r"needs images and labels .*got a, dataset.images\..*no plain.*: dataset \(struct\)",
        ),
        (
            {"X": IMAGES, "y": {"labels": np.zeros(7, [("a", "O")])}},
            r"needs images.* got X\..*no plain arrays: y \(struct\)",
        ),
        ({"X": IMAGES, "y": LABELS[:6]}, "X and y must have the same length, got 7 .* and 6"),
        ({"X": np.zeros((7, 4, 7)), "y": LABELS}, r"of X \(7, 4, 7\) are both as long as the"),
        ({"X": 300.0 * IMAGES, "y": LABELS}, r"X must be whole numbers from 0 to 255.*divide"),
        ({"X": IMAGES * 1j, "y": LABELS}, "X must be real, got complex128"),
        ({"X": np.full(IMAGES.shape, np.nan), "y": LABELS}, "X must be finite, got NaN"),
        ({"X": IMAGES, "y": LABELS + 0.5}, "y must be integers, .* got 3.5"),
        (
            {"X": IMAGES, "y": np.array([["a"], [3]] * 3 + [["a"]], object)},
            "y must be numbers or text, got cells of something else",
        ),
        ({"X": np.array(["a"] * 7), "y": LABELS}, "X must be"),
    ],
)
def test_unsuitable(arrays, match, path):
    save(path, **arrays)
    with pytest.raises(DatasetError, match=match) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
def test_structs(packed, path):
    """As EMNIST has them."""
    rows = IMAGES[:, :5, :, 0].reshape(7, -1)
    mapping = np.column_stack([np.arange(3), np.arange(3) + 48])
    train = {"images": rows, "labels": LABELS[:, None], "writers": np.arange(7)}
    dataset = {
        "train": train, "test": {"images": rows[:3], "labels": LABELS[:3, None]},
        "mapping": mapping,
    }  # fmt: skip
    scipy.io.savemat(path, {"dataset": dataset, "x": np.zeros((2, 2))}, do_compression=packed)
    data = load(path)
    assert_array_equal(data.train.images, IMAGES[:, :5, :, 0])
    assert_array_equal(data.classes[data.train.labels], LABELS)
    assert_array_equal(data.test.images, IMAGES[:3, :5, :, 0])


def test_cells_and_logical_arrays_in_structs(path):
    bits = IMAGES[..., 0] > 127
    texts = np.array([["cat"], ["a dog"]] * 3 + [["cat"]], dtype=object)
    save(path, data={"inner": {"images": bits, "labels": texts, "none": np.zeros((0, 0))}})
    data = load(path)
    assert_array_equal(data.train.images, bits.astype(np.float32), strict=True)
    assert data.classes.tolist() == ["a dog", "cat"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("what", ["cell", "struct", "numbers"])
def test_lying_shapes_in_structs(packed, what, path):
    """SciPy would make room for a billion cells."""
    inside = {
        "cell": np.full((11, 1), "a", dtype=object),
        "struct": np.full((11, 1), 3, dtype=[("a", "O")]),
        "numbers": np.zeros((11, 1)),
    }[what]
    scipy.io.savemat(path, {"data": {"images": IMAGES, "labels": LABELS, "more": inside}})
    content = path.read_bytes()
    truth, lie = np.array([11, 1], "<i4").tobytes(), np.array([2**20, 2**10], "<i4").tobytes()
    assert content.count(truth) == 1
    content = content.replace(truth, lie)
    if packed:
        body = zlib.compress(content[128:])
        content = content[:128] + np.array([15, len(body)], "<u4").tobytes() + body
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"data\.more claims shape \(1048576, 1024\) in"):
        load(path)


def test_structs_in_structs_without_end(path):
    deep = {"images": IMAGES, "labels": LABELS}
    for _ in range(20):
        deep = {"data": deep}
    save(path, deep=deep)
    with pytest.raises(DatasetError, match="17 deep"):
        load(path)


def test_version_7_3(path):
    path.write_bytes(HEADER_7_3)
    with pytest.raises(DatasetError, match=r"version 7 or earlier, got version 7.3 .* '-v7'"):
        load(path)


def test_no_such_file(path):
    with pytest.raises(DatasetError, match=r"some.mat: cannot be read .* No such file"):
        load(path)


def test_lying_shape(path):
    """The header asks for a terabyte, the file has a kilobyte."""
    scipy.io.savemat(path, {"X": IMAGES, "y": LABELS})
    content = path.read_bytes()
    dimensions = np.array(IMAGES.shape, "<i4").tobytes()
    assert content.count(dimensions) == 1
    path.write_bytes(
        content.replace(dimensions, np.array([2**12, 2**12, 2**12, 3], "<i4").tobytes())
    )
    with pytest.raises(DatasetError, match=r"X claims shape \(4096, 4096, 4096, 3\) in a file of"):
        load(path)


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(st.data())
def test_mutations_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutated") / "some.mat"
    arrays = {"X": IMAGES, "y": LABELS}
    if data.draw(st.booleans()):
        arrays = {"data": {**arrays, "cells": np.array([["a"], [3], [{"b": 1}]], dtype=object)}}
    scipy.io.savemat(path, arrays, do_compression=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        load(path)
    except DatasetError as error:
        assert str(path) in str(error)  # noqa: PT017 # most of them are no errors
