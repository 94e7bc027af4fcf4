"""A folded network computes what the network computes."""

from dataclasses import dataclass, replace

import pytest
from exports import LINKS, NETWORKS, VIEWS, images_of, rounding
from numpy.testing import assert_allclose
from reference import folded_probabilities

from varpro_nn.data.preparation import Preparation
from varpro_nn.exporters.folded import LINEAR, fold
from varpro_nn.units import WholeImageUnits
from varpro_nn.units.maps import folded


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_unit(name):
    network = NETWORKS[name]
    images = images_of(network.image_shape)
    outputs, probabilities = folded_probabilities(fold(network), images)
    of_outputs, of_probabilities = rounding(network, images)
    assert_allclose(network.decision_function(images), outputs, rtol=0, atol=of_outputs)
    # In units of the bounds, which assert_allclose takes as one number alone.
    found = network.predict_proba(images)
    assert_allclose(found / of_probabilities, probabilities / of_probabilities, rtol=0, atol=1)


def test_maps_are_projected_or_folded_by_the_number_of_products():
    """With contrast on the maps they are projected, whatever it takes."""
    found = {
        name: [layer.activation == LINEAR for layer in fold(network).layers]
        for name, network in NETWORKS.items()
        if "layers" in name
    }
    assert found == {
        "two layers, grey, folded": [False, False],
        "two layers, colour, projected": [False, True, False],
        "two layers, grey, contrast": [False, True, False],
        "two layers, colour, larger windows": [False, False],
        "three layers, grey, folded": [False, False, False],
        "two layers, grey, both seen": [False, False],
        "three layers, colour, all seen": [False, False, False],
        "two layers, grey, projected, both seen": [False, True, False],
        "three layers, grey, one seen before": [False, False, False],
    }
    contrast = NETWORKS["two layers, grey, contrast"]
    units = contrast.units
    without = replace(units, units=replace(units.units, contrast=None))
    assert folded(units, contrast.W)[0] is units
    assert folded(without, contrast.W)[0].below.whitening is None


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize(("layer", "temperature"), LINKS)
def test_every_link_and_view(layer, temperature, views):
    network = replace(
        NETWORKS["windows, colour, dense"],
        output_layer=layer, temperature=temperature, views=views,
    )  # fmt: skip
    images = images_of(network.image_shape)
    probabilities = folded_probabilities(fold(network), images)[1]
    assert_allclose(network.predict_proba(images), probabilities, atol=2e-5)
    assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("scale", [lambda X: 2 * X - 1, lambda X: 3 * X], ids=["signed", "to 3"])
def test_a_network_of_other_intensities_is_not_folded_as_if_it_took_bytes(scale):
    network = NETWORKS["windows, grey, dense"]
    images = images_of(network.image_shape) / 255
    assert fold(replace(network, preparation=Preparation.learn(images))).views == network.views
    other = replace(network, preparation=Preparation.learn(scale(images)))
    with pytest.raises(ValueError, match="exported programs take bytes; got intensities from"):
        fold(other)


@dataclass(frozen=True)
class Own(WholeImageUnits):
    pass


def test_units_of_ones_own_cannot_be_folded():
    network = NETWORKS["whole image, grey, dense"]
    own = Own("dense", network.image_shape, network.units.n_units)
    with pytest.raises(
        TypeError, match=r"network must have units of this package to be exported, got Own"
    ):
        fold(replace(network, units=own))
