import json
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from unit_checks import CellUnits, ExponentialUnits, check_units

from varpro_nn.units import KINDS, WholeImageUnits, units_from_spec, whole_image_units

CASES = [
    pytest.param(kind, shape, rank, activation, id=f"{kind}-{name}-rank{rank}-{activation}")
    for kind, name, shape, rank, activation in (
        ("dense", "rectangular", (4, 6), 1, "logistic"),
        ("dense", "stripes", (2, 3, 5), 1, "tanh"),
        ("quadratic", "gray", (5, 5), 1, "tanh"),
        ("quadratic", "colour", (3, 4, 4), 2, "logistic"),
        ("bilinear", "gray", (5, 5), 2, "tanh"),
        ("bilinear", "rectangular", (4, 6), 1, "logistic"),
        ("bilinear", "stripes", (2, 3, 5), 2, "logistic"),
        # Ties of more, or other, axes than an image has.
        ("bilinear", "one_channel", (1, 4, 3), 1, "logistic"),
        ("tensor", "gray", (5, 5), 2, "logistic"),
        ("tensor", "rectangular", (4, 6), 1, "logistic"),
        ("tensor", "colour", (3, 4, 4), 1, "tanh"),
        ("tensor", "cube", (3, 3, 3), 2, "logistic"),
        ("tensor", "as_many_channels_as_rows", (3, 3, 4), 1, "logistic"),
    )
]
EVERY_CASE = pytest.mark.parametrize(("kind", "shape", "rank", "activation"), CASES)
ACTIVATIONS = pytest.mark.parametrize("activation", ["logistic", "tanh"])


def pictures(rng, shape, n=8, dtype=np.float64):
    bytes_ = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    return bytes_ if dtype == np.uint8 else (bytes_ / 255).astype(dtype)


@EVERY_CASE
def test_contract(kind, shape, rank, activation, rng):
    gain = 0.5 if rank == 2 else 1.0
    units = whole_image_units(kind, shape, 3, rank=rank, activation=activation, gain=gain)
    check_units(units, pictures(rng, shape), rng)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_contract_with_stored_pixels(kind, dtype, rng):
    check_units(whole_image_units(kind, (4, 4), 2), pictures(rng, (4, 4), dtype=dtype), rng)


def test_contract_of_units_with_cells(rng):
    check_units(CellUnits(2, 3, 4), rng.standard_normal((7, 3, 4)), rng)


def test_contract_of_exponentials(rng):
    check_units(ExponentialUnits(3), np.linspace(0, 4, 9), rng)


def test_the_checker_names_missing_members(rng):
    with pytest.raises(TypeError, match=r"units must have .* without init, features, feat"):
        check_units(SimpleNamespace(n_units=1, n_cells=1, n_weights=1), np.zeros(9), rng)


@EVERY_CASE
def test_features_agree_with_loops(kind, shape, rank, activation, rng):
    units = whole_image_units(kind, shape, 2, rank=rank, activation=activation)
    images = pictures(rng, shape, n=3)
    W = rng.standard_normal((2, units.n_weights)) / 2
    expected = reference.features(kind, W, images, rank, activation)
    assert_allclose(units.features(W, images), expected, rtol=1e-11, atol=1e-13)


def test_bytes_are_intensities_times_255(rng):
    units = whole_image_units("bilinear", (4, 3), 2)
    stored = pictures(rng, (4, 3), dtype=np.uint8)
    W = units.init(stored, rng)
    assert_allclose(units.features(W, stored), units.features(W, stored / 255), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "shape", "rank", "n_weights"),
    [
        ("quadratic", (28, 28), 1, 29),
        ("quadratic", (3, 32, 32), 1, 36),
        ("quadratic", (28, 28), 3, 85),
        ("bilinear", (28, 28), 1, 57),
        ("bilinear", (3, 32, 32), 1, 68),
        ("tensor", (28, 28), 1, 29),
        ("tensor", (3, 32, 32), 1, 36),
        ("tensor", (20, 30), 1, 51),
        ("dense", (28, 28), 1, 785),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_number_of_weights(kind, shape, rank, n_weights):
    assert whole_image_units(kind, shape, 7, rank=rank).n_weights == n_weights


# --- symmetries --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4)], ids=["gray", "colour"])
def test_quadratic_units_see_neither_the_transpose_nor_the_sign(shape, rng):
    units = whole_image_units("quadratic", shape, 3, rank=2)
    images = pictures(rng, shape)
    W = units.init(images, rng)
    Phi = units.features(W, images)
    assert_allclose(units.features(W, images.swapaxes(-1, -2)), Phi, rtol=1e-11)
    flipped = W.copy()
    flipped[:, :-1].reshape(3, 2, -1)[:, 1, -shape[-1] :] *= -1  # w of the second term alone
    assert not np.array_equal(flipped, W)
    assert_allclose(units.features(flipped, images), Phi, rtol=1e-11)


def test_bilinear_units_see_the_transpose(rng):
    """They are not blind as the quadratic ones are; transposing swaps u and v."""
    units = whole_image_units("bilinear", (5, 5), 3)
    images = pictures(rng, (5, 5))
    W = units.init(images, rng)
    swapped = np.concatenate([W[:, 5:10], W[:, :5], W[:, 10:]], axis=1)
    transposed = images.swapaxes(1, 2)
    assert np.abs(units.features(W, transposed) - units.features(W, images)).max() > 1e-2
    assert_allclose(units.features(swapped, transposed), units.features(W, images), rtol=1e-11)


GAUGES = {
    # kind, shape, scale of each vector as a power of a; the tangent has the powers as factors
    "bilinear": ("bilinear", (4, 6), [(4, 1), (6, -1)]),
    "bilinear-colour": ("bilinear", (3, 4, 5), [(3, 1), (4, 2), (5, -3)]),
    "quadratic-colour": ("quadratic", (3, 4, 4), [(3, -2), (4, 1)]),
}


@pytest.mark.parametrize(("kind", "shape", "powers"), GAUGES.values(), ids=GAUGES)
def test_scale_gauge(kind, shape, powers, rng):
    """(u, v) -> (a u, v / a) leaves a unit as it is, so the derivative has a kernel."""
    units = whole_image_units(kind, shape, 3)
    images = pictures(rng, shape)
    W = units.init(images, rng)
    power = np.concatenate([np.full(length, e) for length, e in powers] + [[0]])
    Phi, dPhi = units.features_and_derivative(W, images)
    assert_allclose(units.features(W * 1.7**power, images), Phi, rtol=1e-11)
    along = np.einsum("nmhp,hp->nmh", dPhi, W * power)
    assert_allclose(along, 0, atol=1e-12 * np.abs(dPhi).max() * np.abs(W).max())


@pytest.mark.parametrize("kind", ["quadratic", "bilinear", "tensor"])
def test_terms_of_a_sum_may_be_swapped(kind, rng):
    units = whole_image_units(kind, (4, 4), 2, rank=3)
    images = pictures(rng, (4, 4))
    W = units.init(images, rng)
    swapped = W.copy()
    swapped[:, :-1] = W[:, :-1].reshape(2, 3, -1)[:, [2, 0, 1]].reshape(2, -1)
    assert_allclose(units.features(swapped, images), units.features(W, images), rtol=1e-11)


def test_a_rank_two_unit_is_the_sum_of_two_of_rank_one(rng):
    images = pictures(rng, (4, 3))
    two = whole_image_units("bilinear", (4, 3), 1, rank=2, activation="tanh")
    one = whole_image_units("bilinear", (4, 3), 2, activation="tanh")
    W = rng.standard_normal((1, two.n_weights)) / 2
    terms = np.column_stack([W[0, :-1].reshape(2, -1), [W[0, -1], 0]])
    z = np.arctanh(one.features(terms, images)).sum(axis=1)
    assert_allclose(two.features(W, images)[:, 0], np.tanh(z), rtol=1e-9)


def test_dense_units_contain_the_bilinear_ones(rng):
    """A dense unit whose filter is u v' is the bilinear one."""
    images = pictures(rng, (4, 3))
    bilinear, dense = (whole_image_units(kind, (4, 3), 1) for kind in ("bilinear", "dense"))
    w = rng.standard_normal(8)
    filter_ = np.append(np.outer(w[:4], w[4:7]).ravel(), w[7])
    expected = bilinear.features(w[None], images)
    assert_allclose(dense.features(filter_[None], images), expected, rtol=1e-12)


# --- the start ---------------------------------------------------------------------------


def test_quadratic_weights_of_zero_are_stationary(rng):
    """Why ``init`` does not start there: only the bias moves anything."""
    units = whole_image_units("quadratic", (4, 4), 2)
    _, dPhi = units.features_and_derivative(np.zeros((2, 5)), pictures(rng, (4, 4)))
    assert_array_equal(dPhi[..., :-1], 0)
    assert_allclose(dPhi[..., -1], 0.25)


@pytest.mark.parametrize("level", [0, 128], ids=["black", "gray"])
def test_init_survives_images_that_are_all_alike(level, rng):
    units = whole_image_units("bilinear", (4, 4), 3)
    images = np.full((6, 4, 4), level, dtype=np.uint8)
    W = units.init(images, rng)
    assert np.isfinite(W).all()
    assert_allclose(units.features(W, images), 0.5, atol=1e-5)


@ACTIVATIONS
def test_activations_saturate_without_overflow(activation):
    units = whole_image_units("dense", (1, 1), 1, activation=activation)
    for dtype in (np.float32, np.float64):
        z = np.array([-1e4, -50, 0, 50, 1e4], dtype=dtype).reshape(-1, 1, 1)
        Phi, dPhi = units.features_and_derivative(np.array([[1, 0]], dtype=dtype), z)
        low = -1 if activation == "tanh" else 0
        assert_allclose(Phi[:, 0], [low, low, (low + 1) / 2, 1, 1], atol=1e-15)
        assert np.isfinite(dPhi).all()


# --- description and bad input -----------------------------------------------------------


@EVERY_CASE
def test_spec_makes_the_same_units_again(kind, shape, rank, activation):
    units = whole_image_units(kind, shape, 3, rank=rank, activation=activation, gain=2)
    again = units_from_spec(json.loads(json.dumps(units.spec())))
    assert again == units
    assert isinstance(again, WholeImageUnits)


@pytest.mark.parametrize(
    ("arguments", "choices", "message"),
    [
        (("cubic", (4, 4), 1), {}, "kind must be one of quadratic, bilinear, tensor, dense"),
        (("dense", (4, 4), 1), {"activation": "relu"}, "activation must be one of logistic, tanh"),
        (("quadratic", (4, 5), 1), {}, "need square images.*use bilinear"),
        (("bilinear", (4,), 1), {}, "image_shape must have positive lengths, rows and columns"),
        (("dense", (), 1), {}, "image_shape must have positive lengths"),
        (("dense", (0, 4), 1), {}, "image_shape must have positive lengths"),
        (("dense", (4, 4), 0), {}, "n_units must be positive, got 0"),
        (("bilinear", (4, 4), 1), {"rank": 0}, "rank must be positive, got 0"),
        (("bilinear", (4, 4), 1), {"gain": 0}, "gain must be positive and finite, got 0"),
        (("bilinear", (4, 4), 1), {"gain": float("nan")}, "gain must be positive and finite"),
        (("dense", (4, 4), 1), {"rank": 2}, "dense units have rank 1"),
    ],
    ids=[
        "kind", "activation", "square", "axes", "no_axes", "length", "n_units", "rank", "gain",
        "nan", "dense_rank",
    ],
)  # fmt: skip
def test_choices_are_checked(arguments, choices, message):
    with pytest.raises(ValueError, match=message):
        whole_image_units(*arguments, **choices)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_units": None}, "spec must hold the fields of the units, got"),
        ({"colour": True}, "spec must hold the fields of the units, got .*'colour': True"),
        ({"image_shape": 4}, "image_shape must be whole numbers, got 4"),
        ({"kind": "cubic"}, "kind must be one of"),
    ],
    ids=["missing", "unknown", "no_sequence", "kind"],
)
def test_spec_is_checked(change, message):
    spec = {**whole_image_units("dense", (4, 4), 2).spec(), **change}
    if spec["n_units"] is None:
        del spec["n_units"]
    with pytest.raises(ValueError, match=message):
        units_from_spec(spec)


@pytest.mark.parametrize(
    "change",
    [{"rank": float("inf")}, {"n_units": 2.7}, {"gain": float("inf")}, {"image_shape": [3.9, 4]}],
    ids=["infinite_rank", "n_units", "infinite_gain", "length"],
)
def test_spec_of_a_damaged_file_is_refused(change):
    with pytest.raises(ValueError, match="must"):
        units_from_spec({**whole_image_units("bilinear", (4, 4), 2).spec(), **change})


@pytest.mark.parametrize("method", ["init", "features", "features_and_derivative"])
def test_images_of_another_shape_are_refused(method, rng):
    units = whole_image_units("bilinear", (4, 6), 2)
    images = np.zeros((3, 6, 4), dtype=np.uint8)
    arguments = (images, rng) if method == "init" else (np.zeros((2, 11)), images)
    with pytest.raises(ValueError, match=r"images of shape \(4, 6\), got an array of shape \(3, 6"):
        getattr(units, method)(*arguments)
