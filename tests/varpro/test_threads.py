"""Threads share the sums of one functional and change no bit of them."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import VarProFunctional, load, patch_units, whole_image_units
from varpro_nn.data.images import one_hot
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.varpro.cross_entropy import CrossEntropyFunctional
from varpro_nn.varpro.fit import fit

UNITS = {
    "bilinear": whole_image_units("bilinear", (8, 8), 3),
    "patches": patch_units("dense", (8, 8), 3, window=3, grid=2),  # m^2 > k
}


@pytest.fixture(scope="module")
def digits():
    train = load("digits").train
    return train.images[:200], one_hot(train.labels[:200], 10)


@pytest.mark.parametrize("make", [VarProFunctional, CrossEntropyFunctional])
@pytest.mark.parametrize("name", UNITS)
def test_threads_change_no_bit(name, make, digits, rng, monkeypatch):
    monkeypatch.setattr("varpro_nn.varpro.design_matrix.DERIVATIVE_BYTES", 8_000)
    units = UNITS[name]
    w = units.init(digits[0], rng).ravel()
    plain = make(units, *digits, ridge=0.5, weight_decay=0.1)
    assert len(plain.design.derivative_slices()) > 3
    with thread_pool(3) as threads:
        shared = make(units, *digits, ridge=0.5, weight_decay=0.1, threads=threads)
        for one, other in zip(shared.normal_equations(w), plain.normal_equations(w), strict=True):
            assert_array_equal(one, other)
        assert_array_equal(shared.gradient(w), plain.gradient(w))
        found = fit(shared, w, form="reduced", max_nfev=3)
        # In here, where BLAS has one thread: with more it would have other bits.
        assert_array_equal(found.w, fit(plain, w, form="reduced", max_nfev=3).w)


def test_the_full_jacobian_too(digits, rng, monkeypatch):
    monkeypatch.setattr("varpro_nn.varpro.design_matrix.DERIVATIVE_BYTES", 8_000)
    units = UNITS["patches"]
    w = units.init(digits[0], rng).ravel()
    plain = VarProFunctional(units, *digits, ridge=0.5)
    with thread_pool(2) as threads:
        shared = VarProFunctional(units, *digits, ridge=0.5, threads=threads)
        assert_array_equal(
            shared.normal_equations(w, "full")[0], plain.normal_equations(w, "full")[0]
        )


def test_an_error_in_a_thread_is_raised_here(digits, rng):
    units = UNITS["patches"]
    w = units.init(digits[0], rng).ravel()
    with thread_pool(2) as threads:
        shared = VarProFunctional(units, digits[0][:, :6], digits[1], threads=threads)
        with pytest.raises(ValueError, match="inputs must be images of shape"):
            shared.normal_equations(np.asarray(w))
