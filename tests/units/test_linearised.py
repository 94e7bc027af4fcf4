"""Products with the transposed derivative of patch units, against the derivative itself."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from varpro_nn.units import ACTIVATIONS, learn_whitening, patch_units, whole_image_units
from varpro_nn.units.linearised import linearised


@pytest.mark.parametrize("whitened", [None, 7, 27], ids=["plain", "projected", "whitened"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_derivative(activation, whitened, rng):
    images = rng.random((12, 3, 9, 8))
    units = patch_units(
        "dense", (3, 9, 8), 5, window=3, grid=2, stride=1 if whitened else 2,
        activation=activation, threshold=0.2 if activation == "two-sided" else 0.0,
        contrast=0.05 if whitened else None,
    )  # fmt: skip
    if whitened:
        units = learn_whitening(units, images, rng, epsilon=0.1, n_components=whitened)
    W = units.init(images, rng)
    Phi, dPhi = units.features_and_derivative(W, images)  # (n, h * m), (n, m, h, p)
    at = linearised(units, W, images)
    assert_allclose(at.Phi, Phi, atol=1e-12)
    G = rng.standard_normal(Phi.shape)
    dz = at.pull_back(G)
    assert dz.shape == (12, np.prod(units.windows.places), 5)
    gradient = np.einsum("nth,ntp->hp", dz, at.P)
    expected = np.einsum("nmhp,nmh->hp", dPhi, G.reshape(12, units.n_cells, 5))
    assert_allclose(gradient, expected, atol=1e-12)
    assert_allclose(at.pull_back(G[:4]), dz[:4])  # of some of the images


def test_other_units_are_refused(rng):
    for units in (
        patch_units("bilinear", (6, 6), 2, window=3, grid=1),
        whole_image_units("dense", (6, 6), 2),
    ):
        with pytest.raises(TypeError, match="units must be dense patch units, got "):
            linearised(units, units.init(rng.random((3, 6, 6)), rng), rng.random((3, 6, 6)))
