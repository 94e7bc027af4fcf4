"""A warning of small and lopsided classes, at the start of a run."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from varpro_nn import VarProClassifier, configure, load, run, train_network
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ClassSizeWarning
from varpro_nn.training.class_sizes import FEWEST, MOST_TIMES, warn_of_class_sizes

FLOWERS = np.array(["rose", "tulip", "daisy"])
QUICK = {"n_units": 4, "n_subnetworks": 1, "max_nfev": 0, "n_copies": 0}


def training(counts, weights=None):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 2, 2), np.uint8)
    return TrainingSet(images, labels, len(counts), None if weights is None else labels + weights)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            (30, 1200, 40),
            "class rose has 30 training images, and class tulip has 1,200: add images of small "
            "classes or let all classes weigh the same (class_weight: balanced), and look at the "
            "balanced accuracy.",
        ),
        (
            (20, 9, 40),
            "class tulip has 9 training images: add images of small classes, and look at the "
            "balanced accuracy.",
        ),
        (
            (20, 1, 5),
            "2 classes have fewer than 10 training images (class tulip has 1 training image), and "
            "class rose has 20: add images of small classes or let all classes weigh the same "
            "(class_weight: balanced), and look at the balanced accuracy.",
        ),
        (
            (20, 0, 40),
            "class tulip has 0 training images: add images of small classes, and look at the "
            "balanced accuracy.",
        ),
    ],
)
def test_what_is_said(counts, said):
    with pytest.warns(ClassSizeWarning) as caught:
        warn_of_class_sizes(training(counts), FLOWERS)
    assert [str(warning.message) for warning in caught] == [said]


@pytest.mark.parametrize(
    "counts", [(FEWEST, FEWEST * MOST_TIMES, FEWEST), (500, 500, 500), (6742, 5421, 6000)]
)
def test_classes_of_which_nothing_is_said(counts):
    warn_of_class_sizes(training(counts), FLOWERS)


def test_weights_may_make_up_for_lopsided_classes_but_not_for_few_images():
    warn_of_class_sizes(training((30, 1200, 40), 1.0), FLOWERS)
    with pytest.warns(ClassSizeWarning, match=r"^class rose has 3 training images: add images"):
        warn_of_class_sizes(training((3, 1200, 40), 1.0), FLOWERS)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_named_data_have_classes_of_like_sizes(name):
    """Of MNIST only the counts of its training images, from the page of the data."""
    counts = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    given = TrainingSet.of(load("digits")) if name == "digits" else training(counts)
    warn_of_class_sizes(given, np.arange(10))


@pytest.fixture(scope="module")
def lopsided():
    digits = load("digits")
    labels = digits.train.labels
    rare = (labels == 4) & (np.cumsum(labels == 4) > 12)
    return replace(digits, train=digits.train.take(np.flatnonzero(~rare)))


def test_every_way_to_train_says_it_once(lopsided):
    train = lopsided.train
    rows = train.images.reshape(len(train), -1)
    ways = {
        "run": lambda: run(configure("bilinear", data="digits", **QUICK), lopsided, n_jobs=1),
        "train_network": lambda: train_network(
            configure("bilinear", **QUICK), train.images, train.labels, np.arange(10)
        ),
        "fit": lambda: VarProClassifier("bilinear", **QUICK).fit(rows, train.labels),
    }
    for name, way in ways.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            way()
        said = [warning for warning in caught if warning.category is ClassSizeWarning]
        assert len(said) == 1, name
        assert str(said[0].message).startswith("class 4 has 12 training images, and class"), name
        assert said[0].filename == __file__, name


def test_balanced_classes_need_no_word(lopsided):
    config = configure("bilinear", data="digits", class_weight="balanced", **QUICK)
    run(config, lopsided, n_jobs=1)
    rows = lopsided.train.images.reshape(len(lopsided.train), -1)
    VarProClassifier("bilinear", class_weight="balanced", **QUICK).fit(rows, lopsided.train.labels)


def test_batches_may_bring_classes_later():
    train = load("digits").train.take(slice(40))
    classifier = VarProClassifier("bilinear", **QUICK)
    classifier.partial_fit(train.images, train.labels, classes=np.arange(10))
