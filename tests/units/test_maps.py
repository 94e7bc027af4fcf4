"""Units on the maps of a fixed layer."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from unit_checks import check_units

from varpro_nn import Network, configure, train_network
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.subnetwork import SubnetworkPlan, train_one
from varpro_nn.units import (
    PatchUnits,
    array_fields,
    learn_maps,
    learn_whitening,
    patch_units,
    spec_of,
    units_from_spec,
    units_on_maps,
)
from varpro_nn.units import maps as module
from varpro_nn.units.maps import folded, last_layer_and_below, n_columns, n_columns_below
from varpro_nn.units.windows import cell_bounds
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional

SHAPE = (3, 11, 10)


def lower_layer(images, rng):
    """Three whitened units of two sides on 5 x 5 cells: six maps."""
    units = patch_units(
        "dense", SHAPE, 3, window=3, grid=5, activation="two-sided", threshold=0.3, contrast=0.01
    )
    units = learn_whitening(units, images, rng, epsilon=0.1, n_components=8)
    return units, units.init(images, rng).astype(np.float32)


def layer_on_maps(images, rng, h=4):
    units, W = lower_layer(images, rng)
    below = learn_maps(units, W, images, rng, window=2, epsilon=0.1, n_components=5)
    on_top = patch_units("dense", below.shape, h, window=1, grid=2, activation="tanh")
    return units_on_maps(on_top, below)


@pytest.fixture
def images(rng):
    return rng.random((40, *SHAPE))


def test_maps_are_the_cells_and_their_windows_projected(images, rng, monkeypatch):
    monkeypatch.setattr(module, "IMAGES", 7)
    units = layer_on_maps(images, rng)
    below = units.below
    Phi = below.units.features(below.W.astype(np.float64), images)
    for x, image in enumerate(images[:9]):
        maps = reference.maps_of_cells(Phi[x], n_units=3, n_sides=2, grid=5)
        expected = reference.projected(maps, below.window, below.centre, below.whitening)
        assert below.shape == expected.shape == (5, 4, 4)
        assert_allclose(below(image[None], np.float64)[0], expected, atol=1e-12)
    assert_allclose(below(images), below(images, np.float64), atol=1e-4)


def test_the_projection_whitens_windows_of_maps(images, rng):
    units, W = lower_layer(images, rng)
    images = rng.random((600, *SHAPE))
    below = learn_maps(units, W, images, rng, window=2, epsilon=1e-9, n_components=5)
    away = np.moveaxis(below(images, np.float64), 1, -1).reshape(-1, 5)
    assert_allclose(away.mean(axis=0), 0, atol=0.1)
    assert_allclose(np.cov(away.T), np.eye(5), atol=0.2)


def test_the_contract(images, rng):
    check_units(layer_on_maps(images, rng), images, rng, standardised=False)


def test_three_layers(images, rng):
    second = layer_on_maps(images, rng)
    W = second.init(images, rng).astype(np.float32)
    below = learn_maps(second, W, images, rng, window=1, epsilon=0.1, n_components=3)
    third = units_on_maps(patch_units("dense", below.shape, 2, window=1, grid=1), below)
    assert third.image_shape == SHAPE
    check_units(third, images, rng, standardised=False)
    spec, arrays = spec_of(third)
    again = units_from_spec(json.loads(json.dumps(spec)), arrays)
    W = third.init(images, rng)
    assert_array_equal(again.features(W, images), third.features(W, images))
    assert sum(a.size for a in array_fields(third).values()) == sum(a.size for a in arrays.values())


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_cells_of_the_layers_below(cells, images, rng, monkeypatch):
    """Columns of the output layer after those of the units: the lowest layer comes first."""
    monkeypatch.setattr(module, "IMAGES", 7)
    lowest = layer_on_maps(images, rng)
    second = replace(lowest, units=replace(lowest.units, grid=3))
    W = second.init(images, rng).astype(np.float32)
    below = learn_maps(second, W, images, rng, window=2, epsilon=0.1, n_components=3)
    top = patch_units("dense", below.shape, 2, window=1, grid=2)
    third = units_on_maps(top, below, cells_below=cells)
    assert n_columns_below(third) == (2 * 3 + 4) * cells**2
    assert n_columns(third) == 2 * 4 + n_columns_below(third)
    units, inputs, columns = last_layer_and_below(third, images, np.float64)
    assert_array_equal(inputs, third.below(images, np.float64))
    W_top = third.init(images, rng)
    of_inputs = units.features(W_top, inputs)
    assert_allclose(of_inputs, third.features(W_top, images), rtol=1e-12)
    of_first = lowest.below.units.features(lowest.below.W.astype(np.float64), images)
    of_second = second.features(W.astype(np.float64), images)
    for x in range(len(images)):
        expected = [
            reference.in_larger_cells(
                phi[x].reshape(n_sides, g, g, -1), [cell_bounds(g, cells)] * 2
            ).ravel()
            for phi, n_sides, g in ((of_first, 2, 5), (of_second, 1, 3))
        ]
        assert_allclose(columns[x], np.concatenate(expected), atol=1e-12)
    spec, arrays = spec_of(third)
    again = units_from_spec(json.loads(json.dumps(spec)), arrays)
    assert_array_equal(last_layer_and_below(again, images, np.float64)[2], columns)
    with pytest.raises(ValueError, match=r"cells_below must be 0 to 3, the smallest side .* got 4"):
        units_on_maps(top, below, cells_below=4)
    with pytest.raises(ValueError, match="cells_below must be 0 to 3"):
        units_from_spec({**spec, "cells_below": -1}, arrays)


@pytest.mark.parametrize(
    ("h", "window", "stride", "kind", "saves"),
    [
        (4, 1, 1, "dense", True),
        (4, 1, 2, "dense", True),
        (4, 3, 1, "dense", True),
        (2, 2, 1, "bilinear", True),
        (20, 1, 1, "dense", False),  # more units than directions
    ],
)
def test_folded_units(h, window, stride, kind, saves, images, rng):
    """They are filters on the maps themselves, where that takes no more products."""
    below = learn_maps(
        *lower_layer(images, rng), images, rng, window=3, epsilon=0.1, n_components=8
    )
    plain = patch_units(kind, below.shape, h, window=window, stride=stride, grid=1)
    units = units_on_maps(plain, below)
    W = rng.standard_normal((h, units.n_weights))
    on_maps, F = folded(units, W)
    assert (on_maps is not units) == saves
    expected = units.units.features(W, below(images, np.float64))
    assert_allclose(on_maps.features(F, images), expected, rtol=1e-11, atol=1e-11)
    assert_allclose(units.features(W, images), expected, rtol=1e-11, atol=1e-11)
    if saves:
        D = below.windows.image_shape[0] * (window + below.window - 1) ** 2
        assert F.shape == (h, D + 1)
        again, same = folded(on_maps, F)
        assert again is on_maps
        assert same is F
    # A part of the units is folded as all of them are.
    part, of_part = folded(units, W[:1])
    assert part.below.shape == on_maps.below.shape
    assert_allclose(of_part, F[:1], rtol=1e-12, atol=1e-12)


def test_weights_changed_in_place_count(images, rng):
    units = layer_on_maps(images, rng)
    before = units.below(images)
    units.below.W[:] *= 2
    assert not np.array_equal(units.below(images), before)


def test_maps_of_a_subclass_are_refused(images, rng):
    class Own(PatchUnits):
        """It may compute something else."""

    units, W = lower_layer(images, rng)
    own = Own(**{f.name: getattr(units, f.name) for f in fields(units) if f.init})
    with pytest.raises(TypeError, match=r"no subclass, got Own"):
        learn_maps(own, W, images, rng, window=2, epsilon=0.1, n_components=5)


def test_without_cells_a_layer_is_as_before(images, rng):
    units = layer_on_maps(images, rng)
    assert n_columns_below(units) == n_columns_below(units.units) == 0
    assert n_columns(units, 7) == 7 * 4
    assert "cells_below" not in units.spec()
    assert last_layer_and_below(units, images)[2].shape == (40, 0)


def test_a_subnetwork_computes_the_maps_once(images, rng, monkeypatch):
    units = layer_on_maps(images, rng)
    labels = np.arange(40) % 2
    train = ImageSet(images.astype(np.float32), labels)
    training = TrainingSet.of(Dataset("made", np.arange(2), train, None))
    settings = SubnetworkSettings(n_subnetworks=1, images_per_subnetwork=40, max_nfev=3)
    W = units.init(images, rng)
    expected = fit(
        VarProFunctional(units, training.images, training.tau(), ridge=1.0, weight_decay=0.1),
        W, max_nfev=3,
    )  # fmt: skip
    calls = []
    compute = module.Maps.__call__
    monkeypatch.setattr(
        module.Maps, "__call__", lambda *given: calls.append(len(given[1])) or compute(*given)
    )
    trained = train_one(training, SubnetworkPlan(units, settings), 0, start=W)
    assert calls == [40]
    assert_allclose(trained.W.ravel(), expected.w, rtol=1e-4, atol=1e-5)


def test_a_network_of_two_layers(tmp_path, rng):
    """Trained, saved and loaded; all parameters are counted."""
    labels = np.arange(90) % 3
    images = rng.random((90, *SHAPE)) * 0.5
    for c in range(3):
        images[labels == c, c, :, :4] += 0.4
    images = images.astype(np.float32)
    units = layer_on_maps(images, rng, h=8)
    config = configure("bilinear", n_units=8, n_subnetworks=2, images_per_subnetwork=60, max_nfev=3)
    network, subnetworks, _ = train_network(config, images, labels, np.arange(3), units=units)
    assert [s.error for s in subnetworks] == ["", ""]
    assert (network.predict(images) == labels).mean() > 0.9
    network.save(tmp_path / "model.npz")
    loaded = Network.load(tmp_path / "model.npz")
    assert_array_equal(loaded.decision_function(images), network.decision_function(images))
    below = units.below
    fixed = below.W.size + below.centre.size + below.whitening.size
    fixed += below.units.centre.size + below.units.whitening.size
    assert network.n_parameters == fixed + 8 * 6 + (8 * 4 + 1) * 3
    assert f"{network.n_parameters:,}" in loaded.summary()


def test_refused(images, rng):
    units, W = lower_layer(images, rng)
    options = {"window": 2, "epsilon": 0.1, "n_components": 5}
    with pytest.raises(TypeError, match=r"units must be PatchUnits or UnitsOnMaps, .* got object"):
        learn_maps(object(), W, images, rng, **options)
    for name, value, said in (
        ("window", 6, "window must be 1 to 5, the side of the maps, got 6"),
        ("n_components", 25, "n_components must be 1 to 24"),
        ("epsilon", 0.0, "epsilon must be positive"),
    ):
        with pytest.raises(ValueError, match=said):
            learn_maps(units, W, images, rng, **{**options, name: value})
    with pytest.raises(ValueError, match="inputs must be images of shape"):
        learn_maps(units, W, images[:, 0], rng, **options)
    below = learn_maps(units, W, images, rng, **options)
    with pytest.raises(ValueError, match=r"must be on images of shape \(5, 4, 4\), got \(8, 8\)"):
        units_on_maps(patch_units("dense", (8, 8), 2, window=1, grid=2), below)
    on_top = patch_units("dense", below.shape, 2, window=1, grid=2)
    white = learn_whitening(on_top, below(images), rng, epsilon=0.1)
    with pytest.raises(ValueError, match="units must not whiten their windows"):
        units_on_maps(white, below)
    with pytest.raises(ValueError, match="inputs must be images of shape"):
        layer_on_maps(images, rng).features(np.zeros((4, 6)), images[:, :2])


def test_files_that_lie_are_refused(images, rng):
    spec, arrays = spec_of(layer_on_maps(images, rng))
    for changed in (
        {"n_units": 0}, {"units": {}}, {"below": {}}, {"below": {**spec["below"], "window": 9}},
        {"more": 1}, {"units": []}, {"units": "abc"}, {"units": None}, {"below": 5},
        {"below": {**spec["below"], "units": [1]}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must"):
            units_from_spec({**spec, **changed}, arrays)
    for name in ("W", "centre", "whitening"):
        wrong = [arrays[name][:-1], arrays[name].astype(np.int8), arrays[name] * np.nan]
        if name == "whitening":  # fewer directions are as good
            wrong[0] = arrays[name][:, :-1]
        for array in wrong:
            with pytest.raises(ValueError, match="must"):
                units_from_spec(spec, {**arrays, name: array})
        with pytest.raises(ValueError, match="must"):
            units_from_spec(spec, {n: a for n, a in arrays.items() if n != name})
    with pytest.raises(ValueError, match="must"):
        units_from_spec(spec, {**arrays, "extra": arrays["W"]})
    for wrong in ([], "abc", None, 5):
        with pytest.raises(ValueError, match="spec must hold"):
            units_from_spec(wrong, arrays)
    deep = {f"{'below.' * 11}W": arrays["W"], **arrays}
    with pytest.raises(ValueError, match="at most 10 layers"):
        units_from_spec(spec, deep)
    nested = {**spec, "units": spec}
    with pytest.raises(ValueError, match="must"):
        units_from_spec(nested, arrays)
    assert replace(layer_on_maps(images, rng), n_units=9).init(images, rng).shape == (9, 6)
