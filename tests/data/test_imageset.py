import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn.data import Dataset, ImageSet


def make_set(n=6, shape=(4, 5), seed=0, k=3):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(n, *shape), dtype=np.uint8)
    return ImageSet(images, np.arange(n) % k)


def make_dataset(**changes):
    fields = {"classes": np.arange(3), "train": make_set(), "test": make_set(3, seed=1)}
    return Dataset("some", **(fields | changes))


def test_keeps_bytes_and_makes_labels_int64():
    images = np.zeros((2, 3, 4, 5), dtype=np.uint8)
    made = ImageSet(images, np.array([0, 1], dtype=np.uint8))
    assert made.images.dtype == np.uint8
    assert made.labels.dtype == np.int64
    assert len(made) == 2
    assert np.shares_memory(made.images, images)


def test_arrays_are_read_only_and_the_callers_are_not():
    images = np.zeros((2, 4, 5))
    made = ImageSet(images, np.array([0, 1]))
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 1
    images[0] = 1  # still the caller's own


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([0, 1, 2], "same length, got 2 images and 3 labels"),
        ([0, -1], "from 0 on, got -1 to 0"),
        (np.array([0, 2**63], dtype=np.uint64), "from 0 on"),
        ([0.0, 1.0], "1-D array of integers, got .* of type float64"),
        ([[0, 2], [1, 1]], r"1-D array of integers, got shape \(2, 2\)"),
        ([False, True], "of type bool"),
    ],
    ids=["longer", "negative", "beyond int64", "float", "2-D", "bool"],
)
def test_wrong_labels(labels, match):
    with pytest.raises(ValueError, match=match):
        ImageSet(np.zeros((2, 4, 5)), np.asarray(labels))


def test_labels_may_be_a_column_or_one_hot():
    images = np.zeros((3, 4, 5))
    for labels in ([[2], [0], [2]], np.eye(3)[[2, 0, 2]], np.eye(3, dtype=bool)[[2, 0, 2]]):
        made = ImageSet(images, np.asarray(labels))
        assert_array_equal(made.labels, np.array([2, 0, 2]), strict=True)


def test_wrong_images():
    with pytest.raises(ValueError, match=r"images must be .* got shape \(2, 4\)"):
        ImageSet(np.zeros((2, 4)), np.array([0, 1]))


@pytest.mark.parametrize(
    "index",
    [slice(1, 4), [5, 0, 0], np.array([True, False] * 3), np.int64(2), slice(None, None, -2)],
    ids=["slice", "list", "mask", "one", "backwards"],
)
def test_take_is_indexing(index):
    whole = make_set()
    at = index if isinstance(index, slice) else np.atleast_1d(index)
    part = whole.take(index)
    assert_array_equal(part.images, whole.images[at])
    assert_array_equal(part.labels, whole.labels[at])
    assert part.images.ndim == whole.images.ndim


def test_take_outside():
    with pytest.raises(IndexError):
        make_set().take([6])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"classes": np.arange(2)}, "train labels must be 0 to 1 for 2 classes, got 2"),
        ({"test": make_set(4, k=4)}, "test labels must be 0 to 2 for 3 classes, got 3"),
        ({"validation": make_set(4, k=4)}, "validation labels must be 0 to 2 .*, got 3"),
        ({"test": make_set(shape=(5, 4))}, r"same shape, got \(4, 5\) and \(5, 4\)"),
        ({"classes": np.array([1, 2, 1])}, "distinct"),
        ({"classes": np.arange(3.0)}, "integers or strings"),
        ({"classes": np.array(["a", "b", "c"], dtype=object)}, "integers or strings"),
        ({"classes": np.arange(3)[:, None]}, "1-D"),
        ({"classes": np.array(["a", "b\udcff", "c"])}, "do not exist in entry 1: .*0xdcff"),
    ],
    ids=[
        "train label",
        "test label",
        "validation label",
        "shape",
        "repeated",
        "float",
        "object",
        "2-D",
        "no text",
    ],
)
def test_wrong_dataset(changes, match):
    with pytest.raises(ValueError, match=match):
        make_dataset(**changes)


def counted(labels):
    labels = np.array(labels)
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((3, 4), np.uint8)
    train = ImageSet(images, labels, weights=np.arange(len(labels)) + 1.0)
    return Dataset("mine", np.arange(labels.max() + 1), train, None)


def test_the_same_share_of_each_class_is_held_out():
    data = counted([0] * 10 + [1] * 20 + [2] * 5 + [3])
    divided = data.hold_out(0.2)
    assert np.bincount(divided.validation.labels).tolist() == [2, 4, 1]
    assert np.bincount(divided.train.labels).tolist() == [8, 16, 4, 1]
    numbers = [part.images[:, 0, 0] for part in (divided.train, divided.validation)]
    assert sorted(np.concatenate(numbers)) == list(range(36))
    for part, own in zip((divided.train, divided.validation), numbers, strict=True):
        assert_array_equal(part.labels, data.train.labels[own])
        assert_array_equal(part.weights, own + 1.0)
    assert data.hold_out(0.2).digest == divided.digest != data.hold_out(0.2, seed=1).digest


@pytest.mark.parametrize(
    ("labels", "share", "match"),
    [
        ([0, 0, 1, 1], 0.0, "above 0 and below 1"),
        ([0, 0, 1, 1], 1.0, "above 0 and below 1"),
        ([0, 0, 1, 1], 0.2, "less than an image of every class, got 4 images of 2 classes"),
        ([0, 1], 0.9, "less than an image"),
    ],
)
def test_what_cannot_be_held_out(labels, share, match):
    assert not 0 < share < 1 or not counted(labels).can_hold_out(share)
    with pytest.raises(ValueError, match=match):
        counted(labels).hold_out(share)


def test_held_out_images_go_back_to_their_places():
    data = counted([0] * 10 + [1] * 20 + [2] * 5 + [3])
    merged = data.hold_out(0.2).merged()
    assert merged.validation is None
    assert merged.digest == data.digest
    assert data.hold_out(0.2).merged().hold_out(0.2).digest == data.hold_out(0.2).digest


@pytest.mark.parametrize("n_train", [None, 10])
def test_other_validation_images_come_last(n_train):
    data = counted([0, 1] * 10)
    others = ImageSet(data.train.images[:3] + np.uint8(100), data.train.labels[:3])
    merged = replace(data, validation=others).merged(n_train).train
    n = n_train or 20
    assert_array_equal(merged.images[:n], data.train.images[:n])
    assert_array_equal(merged.images[n:], others.images)
    assert_array_equal(merged.labels, [*data.train.labels[:n], *others.labels])
    assert_array_equal(merged.weights, [*data.train.weights[:n], 1, 1, 1])


def test_what_cannot_be_merged():
    data = counted([0, 1] * 10)
    with pytest.raises(ValueError, match="no validation images that could be merged"):
        data.merged()
    intensities = ImageSet(data.train.images[:3] / 255, data.train.labels[:3])
    with pytest.raises(ValueError, match=r"both be uint8 or .* got uint8 and float64"):
        replace(data, validation=intensities).merged()


def test_validation_images_are_held_out_once():
    with pytest.raises(ValueError, match="validation images already"):
        counted([0, 0, 1, 1]).hold_out(0.5).hold_out(0.5)


def test_test_set_is_optional():
    assert make_dataset(test=None).image_shape == (4, 5)


def test_digest_is_of_the_content():
    digest = make_dataset().digest
    assert digest == make_dataset().digest
    assert len(digest) == 64
    train = make_set()
    strided = ImageSet(np.repeat(train.images, 2, axis=0)[::2], train.labels)
    assert make_dataset(train=strided).digest == digest
    swapped = train.images.astype(np.float32)
    assert (
        make_dataset(train=ImageSet(swapped, train.labels)).digest
        == make_dataset(train=ImageSet(swapped.astype(">f4"), train.labels)).digest
    )


def test_digest_tells_apart():
    train = make_set()
    variants = [
        make_dataset(),
        make_dataset(test=None),
        make_dataset(classes=np.array(["0", "1", "2"])),
        make_dataset(train=make_set(seed=2)),
        make_dataset(train=ImageSet(train.images, train.labels[::-1].copy())),
        make_dataset(train=ImageSet(train.images.astype(np.float32), train.labels)),
        make_dataset(
            train=ImageSet(train.images.reshape(6, 5, 4), train.labels),
            test=make_set(3, shape=(5, 4), seed=1),
        ),
        # the same bytes, cut elsewhere
        make_dataset(train=train.take(slice(5))),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_pickles():
    dataset = make_dataset()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.digest == dataset.digest


def test_a_warning_names_the_line_that_made_the_set():
    with pytest.warns(UserWarning, match="taken as 20 channels") as said:
        ImageSet(np.zeros((2, 20, 16, 12)), np.array([0, 1]))
    assert [warning.filename for warning in said] == [__file__]
