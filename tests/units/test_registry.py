"""Units of a class of one's own: trained in sub-networks, saved and loaded by name."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from unit_checks import check_units

from varpro_nn import Network, RidgeLayer, configure, load, register_units, to_c, train_network
from varpro_nn.errors import ModelFileError
from varpro_nn.units import registry, spec_of, units_from_spec

CONFIG = configure("bilinear", n_units=30, n_subnetworks=3, images_per_subnetwork=200, max_nfev=4)


@register_units
@dataclass(frozen=True, eq=False)
class Ripples:
    """cos(w'x + b) of the pixels that a mask leaves."""

    n_units: int
    mask: np.ndarray
    scale: float = 0.25
    axes: tuple[int, ...] = (8, 8)

    n_cells = 1

    @property
    def n_weights(self):
        return int(self.mask.sum()) + 1

    def init(self, images, rng):
        return self.scale * rng.standard_normal((self.n_units, self.n_weights))

    def features(self, W, images):
        return np.cos(self._rows(W, images) @ W.T)

    def features_and_derivative(self, W, images):
        X = self._rows(W, images)
        z = X @ W.T
        return np.cos(z), -np.sin(z)[:, None, :, None] * X[:, None, None, :]

    def _rows(self, W, images):
        X = np.asarray(images, dtype=W.dtype).reshape(len(images), -1)[:, self.mask.ravel() > 0]
        return np.hstack([X, np.ones((len(X), 1), dtype=W.dtype)])


def ripples(n_units=12):
    mask = np.zeros((8, 8))
    mask[1:7, 1:7] = 1
    return Ripples(n_units, mask)


@pytest.fixture(scope="module")
def digits():
    train = load("digits").train
    return train.images[:400], train.labels[:400]


@pytest.fixture(scope="module")
def network(digits):
    config = CONFIG
    network, subnetworks, _ = train_network(config, *digits, np.arange(10), units=ripples())
    assert [s.W.shape for s in subnetworks] == [(4, 37)] * 3
    assert all(s.report.cost < s.report.history[0].cost for s in subnetworks)
    return network


def test_the_class_keeps_the_contract(rng):
    check_units(ripples(3), rng.random((12, 8, 8)), rng)


def test_a_network_of_ones_own_units_is_trained(network, digits):
    assert type(network.units) is Ripples
    assert network.units.n_units == len(network.W) == 12
    assert np.mean(network.predict(digits[0]) == digits[1]) > 0.7  # chance is 0.1


def test_it_is_saved_and_loaded(network, digits, tmp_path):
    network.save(tmp_path / "ripples.npz")
    again = Network.load(tmp_path / "ripples.npz")
    assert type(again.units) is Ripples
    assert (again.units.scale, again.units.axes) == (0.25, (8, 8))
    assert_array_equal(again.units.mask, network.units.mask)
    images = digits[0]
    assert_array_equal(again.decision_function(images), network.decision_function(images))
    assert again.n_parameters == network.n_parameters == 12 * 37 + 13 * 10 + 64
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "ripples.npz").read_bytes()


def test_a_ridge_layer_is_saved_and_loaded(network, digits, tmp_path):
    layer = RidgeLayer(network.units, network.W, 10).add_images(*digits)
    layer.save(tmp_path / "layer.npz")
    assert_array_equal(RidgeLayer.load(tmp_path / "layer.npz").solve(), layer.solve())


def test_a_program_without_the_class_says_what_is_missing(network, tmp_path, monkeypatch):
    network.save(tmp_path / "ripples.npz")
    monkeypatch.setattr(registry, "_registered", {})
    with pytest.raises(ModelFileError, match="class 'Ripples', which is not registered here"):
        Network.load(tmp_path / "ripples.npz")
    with pytest.raises(ValueError, match="class Ripples can be saved if it is registered: write"):
        network.save(tmp_path / "other.npz")
    assert not (tmp_path / "other.npz").exists()


def test_a_class_with_other_fields_is_named(network, tmp_path, monkeypatch):
    network.save(tmp_path / "ripples.npz")

    @dataclass(frozen=True)
    class Other:
        n_units: int

    monkeypatch.setattr(registry, "_registered", {"Ripples": Other})
    with pytest.raises(ModelFileError, match="class Ripples that is registered here has oth"):
        Network.load(tmp_path / "ripples.npz")


def test_exporters_say_that_they_know_other_units(network, tmp_path):
    with pytest.raises(TypeError, match=r"units of this package .*, got Ripples"):
        to_c(network, tmp_path)


def test_another_class_cannot_take_the_name():
    @dataclass
    class Ripples:
        n_units: int

    with pytest.raises(ValueError, match=r"class name Ripples is already registered by .*; rename"):
        register_units(Ripples)


def test_what_cannot_be_saved_is_named():
    class Plain:
        n_units, n_cells, n_weights = 2, 1, 1

    with pytest.raises(TypeError, match="must be a dataclass with a field n_units, got Plain; wri"):
        register_units(Plain)
    with pytest.raises(
        TypeError, match=r"Ripples.axes must be an array, a number, text, .*, got set"
    ):
        spec_of(replace(ripples(), axes={1, 2}))


def test_units_that_cannot_be_shared_out_are_refused(digits):
    config = CONFIG

    class Fixed:
        n_units, n_cells, n_weights = 2, 1, 1
        init = features = features_and_derivative = None

    units: Any
    for units, message in (
        (Fixed(), "dataclass with a field n_units"),
        (object(), "got object wi"),
    ):
        with pytest.raises(TypeError, match=message):
            train_network(config, *digits, np.arange(10), units=units)
    with pytest.raises(ValueError, match="n_units"):
        train_network(config, *digits, np.arange(10), units=ripples(10))


def test_plain_values_come_back_as_they_were():
    units = Ripples(np.int64(2), np.ones((8, 8)), np.float32(0.5), (np.int8(8), 8))
    spec, arrays = spec_of(units)
    assert spec == {"class": "Ripples", "n_units": 2, "scale": 0.5, "axes": [8, 8]}
    assert units_from_spec(spec, arrays).axes == (8, 8)
