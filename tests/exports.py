"""Small networks of every kind, for what must give the same numbers elsewhere."""

import itertools
from dataclasses import replace
from unittest import mock

import numpy as np

from varpro_nn import Network, learn_maps, patch_units, units_on_maps, whole_image_units
from varpro_nn.exporters.folded import fold
from varpro_nn.units import PatchUnits, learn_whitening
from varpro_nn.units.maps import n_columns

SHAPES = {"grey": (9, 9), "colour": (3, 9, 9)}
ACTIVATIONS = ("logistic", "tanh", "rectifier", "two-sided")
LINKS = (("ridge", None), ("ridge", 0.15), ("softmax", None), ("hinge", 1.7))
VIEWS = ("single", "flip")


def images_of(shape, n=20, seed=0):
    """Bytes with some structure: smooth blobs, a flat image and a black one."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (n, *shape)).astype(np.float64)
    smooth = (base + np.roll(base, 1, axis=-1) + np.roll(base, 1, axis=-2)) / 3
    smooth[0], smooth[1] = 77, 0
    return smooth.astype(np.uint8)


def rounding(network, images):
    """Bounds of what single precision changes in outputs and in probabilities.

    An intensity is off by eps / 2 at most. Normalising a window multiplies that by up to
    contrast^(-1/2), a filter by the sum of its magnitudes, an activation by 1, and so on in the
    next layer; the linear layer by the sum of its magnitudes. Errors of the sums have random signs,
    and are less.

    A softmax multiplies by 1 / (2 T) at most, shares by 2 over the sum of the positive outputs of
    an image, and so does the bound (n, 1).
    """
    folded = fold(network)
    magnitudes = sum(np.abs(linear).sum(axis=(0, 1, 2)) for linear in folded.linear)
    outputs = 0.5 * np.finfo(np.float32).eps * magnitudes.max()
    for layer in folded.layers:
        outputs *= np.abs(layer.filters).sum(axis=1).max()
        outputs *= 1.0 if layer.contrast is None else layer.contrast**-0.5
    if folded.link == "softmax":
        return outputs, outputs / (2 * folded.temperature)
    total = np.maximum(network.decision_function(images), 0).sum(axis=1, keepdims=True)
    return outputs, outputs * 2 / np.where(total > 0, total, 1.0)


def _networks():
    """Every kind of unit and place, each time with another activation, link and view."""
    rng = np.random.default_rng(1)
    cycle = zip(
        itertools.cycle(ACTIVATIONS),
        itertools.cycle(LINKS),
        itertools.cycle(("single", "flip", "flip")),  # no multiple of the number of kinds
        itertools.cycle([1, 2]),
        strict=False,
    )
    # Scalarisations are folded into filters: each once a place, in one of the shapes.
    folded = {
        "whole image": (("grey", "quadratic"), ("colour", "bilinear"), ("colour", "tensor")),
        "windows": (("grey", "bilinear"), ("grey", "tensor"), ("colour", "quadratic")),
        "whitened": (("grey", "bilinear"), ("colour", "quadratic"), ("colour", "tensor")),
        "components": (),  # of dense units alone
    }
    kinds = [
        (place, colour, kind)
        for place, others in folded.items()
        for colour, kind in (("grey", "dense"), ("colour", "dense"), *others)
    ]
    for place, colour, kind in kinds:
        activation, (layer, temperature), views, rank = next(cycle)
        shape = SHAPES[colour]
        images = images_of(shape, 30, seed=2)
        rank = 1 if kind == "dense" else rank
        options = {"rank": rank, "activation": activation, "threshold": 0.3}
        if activation != "two-sided":
            options["threshold"] = 0.0
        if place == "whole image":
            units = whole_image_units(kind, shape, 5, **options)
        else:
            options["contrast"] = 0.01 if place != "windows" else None
            units = patch_units(
                kind, shape, 5, window=4, grid=2, stride=2 if place == "windows" else 1, **options
            )
            if place in ("whitened", "components"):
                n_components = 6 if place == "components" else None
                units = learn_whitening(units, images, rng, epsilon=0.1, n_components=n_components)
        W = units.init(images, rng).astype(np.float32)
        k = 4
        A = rng.standard_normal((5 * units.n_cells + 1, k)) / 3
        classes = np.array(["ankle boot", "bag", 'a "quoted" <b>', "été"])
        if next(iter(SHAPES)) == colour:
            classes = np.array([0, 3, 5, 12])
        name = f"{place}, {colour}, {kind}"
        yield name, Network(units, W, A, classes, shape, layer, views, {}, temperature)
    for name, (colour, n_units, n_components, *tops) in STACKS.items():
        activation, (layer, temperature), views, _ = next(cycle)
        shape = SHAPES[colour]
        images = images_of(shape, 30, seed=2)
        units = patch_units(
            "dense", shape, 9, window=3, grid=5, activation="two-sided", threshold=0.2,
            contrast=0.01,
        )  # fmt: skip
        for top in tops:
            W = units.init(images, rng).astype(np.float32)
            below = learn_maps(
                units, W, images, rng, window=2, epsilon=0.1, n_components=n_components
            )
            options = {"threshold": 0.1} if activation == "two-sided" else {}
            units = units_on_maps(
                patch_units("dense", below.shape, n_units, activation=activation, **top, **options),
                below,
            )
        inner, cells = CELLS_BELOW.get(name, (0, 0))
        if inner:  # the setting of a lower layer, which the network ignores
            lower = replace(units.below.units, cells_below=inner)
            units = replace(units, below=replace(units.below, units=lower))
        units = replace(units, cells_below=cells)
        W = units.init(images, rng).astype(np.float32)
        A = rng.standard_normal((n_columns(units) + 1, 4)) / 3
        yield name, Network(units, W, A, np.arange(4), shape, layer, views, {}, temperature)


STACKS = {
    "two layers, grey, folded": ("grey", 5, 20, {"window": 1, "grid": 2}),
    "two layers, colour, projected": ("colour", 20, 10, {"window": 2, "grid": 2, "stride": 1}),
    "two layers, grey, contrast": ("grey", 2, 10, {"window": 2, "grid": 1, "contrast": 0.05}),
    "two layers, colour, larger windows": ("colour", 3, 9, {"window": 2, "grid": 1, "stride": 2}),
    "three layers, grey, folded": (
        "grey", 4, 8, {"window": 1, "grid": 3}, {"window": 1, "grid": 2},
    ),
    "two layers, grey, both seen": ("grey", 5, 20, {"window": 1, "grid": 2}),
    "three layers, colour, all seen": (
        "colour", 4, 8, {"window": 1, "grid": 3}, {"window": 1, "grid": 2},
    ),
    "two layers, grey, projected, both seen": ("grey", 18, 8, {"window": 2, "grid": 2}),
    "three layers, grey, one seen before": (
        "grey", 4, 8, {"window": 1, "grid": 3}, {"window": 1, "grid": 2},
    ),
}  # fmt: skip
"""Colour, number of units, directions, and the units of each layer on maps."""
CELLS_BELOW = {
    "two layers, grey, both seen": (0, 3), "three layers, colour, all seen": (0, 2),
    "two layers, grey, projected, both seen": (0, 1), "three layers, grey, one seen before": (2, 0),
}  # fmt: skip
"""Cells along each side of the maps below that the output layer sees, of the layer below and of the
last: 3 of 5 are of two sizes."""


def _few_windows(units, images, rng, n_windows):
    return _sample_windows(units, images, rng, min(n_windows, 1000))


# Each process that collects the tests makes the networks: 1,000 windows take it a small part of the
# time of 20,000, from which units are drawn, or of 100,000, from which they learn to whiten.
_sample_windows = PatchUnits.sample_windows
with mock.patch.object(PatchUnits, "sample_windows", _few_windows):
    NETWORKS = dict(_networks())
