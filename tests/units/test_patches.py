import itertools
import json
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal
from unit_checks import check_units

from varpro_nn.units import (
    ACTIVATIONS,
    PatchUnits,
    learn_whitening,
    patch_units,
    units_from_spec,
    whole_image_units,
)

KINKED = ("rectifier", "two-sided")


@dataclass(frozen=True)
class Choice:
    """One combination of all that patch units leave open."""

    form: tuple[str, int]
    activation: str
    whitening: str
    stride: int
    grid: int
    colour: bool
    contrast: float | None

    def __str__(self) -> str:
        parts = (*self.form, self.activation, self.whitening, self.stride, self.grid)
        return (
            "-".join(map(str, parts)) + "-colour" * self.colour + "-contrast" * bool(self.contrast)
        )

    @property
    def possible(self) -> bool:
        return self.whitening != "pca" or self.form[0] == "dense"

    def make(self, images, rng, n_units=3) -> PatchUnits:
        kind, rank = self.form
        units = PatchUnits(
            kind, images.shape[1:], n_units, 3, self.stride, self.grid, rank, self.activation,
            threshold=0.2 if self.activation == "two-sided" else 0.0, contrast=self.contrast,
        )  # fmt: skip
        if self.whitening == "none":
            return units
        n_components = 5 if self.whitening == "pca" else None
        return learn_whitening(units, images, rng, epsilon=0.1, n_components=n_components)


OPEN = {
    "form": [("dense", 1), *itertools.product(("quadratic", "bilinear", "tensor"), (1, 2))],
    "activation": ACTIVATIONS,
    "whitening": ["none", "zca", "pca"],
    "stride": [1, 2],
    "grid": [1, 2],
    "colour": [False, True],
    "contrast": [None, 0.02],
}


def every_pair(choices):
    """A few of the choices in which every pair of values comes that comes in any.

    But for pairs of a scalarisation and an activation: one hands a number to the other.
    """

    def pairs(choice):
        met = {*itertools.combinations(vars(choice).items(), 2)}
        return met - {(("form", choice.form), ("activation", choice.activation))}

    shuffled = random.Random(0).sample(choices, len(choices))  # what else they have is mixed
    values = {choice: pairs(choice) for choice in shuffled}
    missing, few = set().union(*values.values()), []
    while missing:
        few.append(max(values, key=lambda c: len(values[c] & missing)))
        missing -= values[few[-1]]
    return few


ALL = [Choice(*values) for values in itertools.product(*OPEN.values())]
SAMPLE = every_pair([choice for choice in ALL if choice.possible])
EVERY_CHOICE = pytest.mark.parametrize("choice", SAMPLE, ids=str)


def pictures(rng, choice=None, n=6):
    """Images that are smooth, as pictures are, with some noise; not square."""
    shape = (n, 3, 8, 7) if choice is not None and choice.colour else (n, 8, 7)
    images = rng.random(shape)
    return (images + np.roll(images, 1, -1) + np.roll(images, 1, -2)) / 3


@pytest.fixture
def few_windows(monkeypatch):
    """Draw 4,000 windows, where units draw 20,000 and the whitening 100,000; there are 180."""
    sample_windows = PatchUnits.sample_windows

    def few(units, inputs, rng, n_windows):
        return sample_windows(units, inputs, rng, min(n_windows, 4000))

    monkeypatch.setattr(PatchUnits, "sample_windows", few)


FEW_WINDOWS = pytest.mark.usefixtures("few_windows")


def windows_of(units, images):
    """All windows as ``units`` see them, one by one: (n, rows, columns, numbers)."""
    arguments = (units.window, units.stride, units.contrast, units.centre, units.whitening)
    places = [reference.windows(image, *arguments) for image in images]
    return np.array([[[P.ravel() for P in row] for row in rows] for rows in places])


def sides_of_kinks(units, images):
    """Of weights, on which side of its kink the pre-activation of each window of a cell is."""
    P, g = windows_of(units, images), units.grid
    kinks = {"rectifier": [0.0], "two-sided": [units.threshold, -units.threshold]}
    bounds = [units.windows.bounds(axis) for axis in (0, 1)]

    def sides(W):
        z = P @ units.scalarisation.filters(W).T + W[:, -1]
        n, rows, columns, h = z.shape
        above = np.zeros((n, len(kinks[units.activation]), g, g, h, rows * columns), dtype=bool)
        for side, kink in enumerate(kinks[units.activation]):
            for a, b in itertools.product(range(g), range(g)):
                cell = z[:, slice(*bounds[0][a : a + 2]), slice(*bounds[1][b : b + 2])] > kink
                cell = cell.reshape(n, -1, h).swapaxes(1, 2)
                above[:, side, a, b, :, : cell.shape[2]] = cell
        return above.reshape(n, -1, h, rows * columns)

    return sides


# --- the contract, and loops --------------------------------------------------------------


@FEW_WINDOWS
@EVERY_CHOICE
def test_contract(choice, rng):
    images = pictures(rng, choice)
    units = choice.make(images, rng)
    kinks = sides_of_kinks(units, images) if choice.activation in KINKED else None
    check_units(units, images, rng, standardised=False, sides_of_kinks=kinks)


@FEW_WINDOWS
@pytest.mark.parametrize("dtype", [np.uint8, np.float32], ids=["uint8", "float32"])
@pytest.mark.parametrize("draw", ["gaussian", "windows"])
def test_contract_with_stored_pixels(draw, dtype, rng):
    images = (255 * pictures(rng)).astype(dtype)
    if dtype != np.uint8:
        images /= 255
    units = PatchUnits("dense", (8, 7), 3, window=3, contrast=0.02, draw=draw)
    check_units(units, images, rng, standardised=False)


@FEW_WINDOWS
@EVERY_CHOICE
def test_features_agree_with_loops(choice, rng):
    images = pictures(rng, choice)
    units = choice.make(images, rng, n_units=2)
    W = units.init(images, rng) + 0.3 * rng.standard_normal((2, units.n_weights))
    expected = reference.patch_features(
        units.kind,
        W,
        images[:2],
        window=units.window,
        stride=units.stride,
        grid=units.grid,
        rank=units.rank,
        activation=units.activation,
        threshold=units.threshold,
        contrast=units.contrast,
        centre=units.centre,
        whitening=units.whitening,
    )
    assert_allclose(units.features(W, images[:2]), expected, rtol=1e-10, atol=1e-12)
    assert_allclose(
        units.features_and_derivative(W, images[:2])[0], expected, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        *zip(("dense", "bilinear", "quadratic", "tensor"), ACTIVATIONS, strict=False),
        *(("dense", activation) for activation in ACTIVATIONS[4:]),
    ],
)
def test_one_window_of_all_pixels_makes_a_whole_image_unit(kind, activation, rng):
    images = rng.random((7, 3, 4, 4))
    patches = PatchUnits(kind, (3, 4, 4), 2, 4, grid=1, activation=activation, threshold=0.1)
    whole = whole_image_units(kind, (3, 4, 4), 2, activation=activation, threshold=0.1)
    W = rng.standard_normal((2, whole.n_weights)) / 2
    assert (patches.n_cells, patches.n_weights) == (whole.n_cells, whole.n_weights)
    assert_allclose(patches.features(W, images), whole.features(W, images), rtol=1e-11, atol=1e-14)
    for one, other in zip(
        patches.features_and_derivative(W, images),
        whole.features_and_derivative(W, images),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-11, atol=1e-13)


# --- symmetries ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-2, -1], ids=["down", "right"])
@pytest.mark.parametrize(("stride", "activation"), [(1, "logistic"), (2, "two-sided")])
def test_cells_move_with_the_image(activation, stride, axis, rng):
    """A shift by the places of a cell carries what is in a cell to the next one."""
    places, size = 6, 2  # three cells of two places
    length = (places - 1) * stride + 3
    images = rng.random((4, 2, length, length))
    units = PatchUnits(
        "dense", images.shape[1:], 2, 3, stride, grid=3, activation=activation, threshold=0.1,
        contrast=0.1,
    )  # fmt: skip
    W = units.init(images, rng)
    shifted = np.roll(images, stride * size, axis=axis)
    for features in (units.features, lambda *args: units.features_and_derivative(*args)[0]):
        before, after = (features(W, X).reshape(4, -1, 3, 3, 2) for X in (images, shifted))
        here = [slice(None)] * 5
        there = list(here)
        # The grid is axes 2 and 3 of the columns: by side, row of cells, column of cells, unit.
        here[4 + axis], there[4 + axis] = slice(0, 2), slice(1, 3)
        assert_allclose(after[tuple(there)], before[tuple(here)], rtol=1e-11, atol=1e-14)
        assert np.abs(after - before).max() > 1e-3


def test_quadratic_units_see_a_transposed_image_as_transposed_cells(rng):
    units = PatchUnits("quadratic", (9, 9), 3, window=4, grid=3, rank=2)
    images = rng.random((5, 9, 9))
    W = units.init(images, rng)
    cells = units.features(W, images).reshape(5, 3, 3, 3)
    turned = units.features(W, images.swapaxes(1, 2)).reshape(5, 3, 3, 3)
    assert_allclose(turned, cells.swapaxes(1, 2), rtol=1e-11)


def test_contrast_and_brightness_are_taken_out(rng):
    """With next to nothing added to the variance, a X + b is X."""
    units = PatchUnits("dense", (8, 7), 3, window=3, contrast=1e-12)
    images = rng.random((5, 8, 7))
    W = units.init(images, rng)
    Phi = units.features(W, images)
    assert_allclose(units.features(W, 0.3 * images + 0.4), Phi, rtol=1e-6)
    plain = replace(units, contrast=None)
    assert np.abs(plain.features(W, 0.3 * images + 0.4) - plain.features(W, images)).max() > 0.01


@pytest.mark.parametrize("contrast", [1e-5, 1e-12, 1e-300])
def test_of_a_flat_window_nothing_is_made(contrast, rng):
    units = PatchUnits("dense", (8, 7), 3, window=5, grid=1, activation="tanh", contrast=contrast)
    W = units.init(rng.random((5, 8, 7)), rng).astype(np.float32)
    grey = np.full((1, 8, 7), 0, dtype=np.uint8) + np.arange(256, dtype=np.uint8)[:, None, None]
    expected = np.tile(np.tanh(W[:, -1]), (256, 1))
    assert_allclose(units.features(W, grey), expected, rtol=1e-6)
    assert_allclose(units.features_and_derivative(W, grey)[0], expected, rtol=1e-6)


def test_order_of_columns(rng):
    """By side, row of cells, column of cells, unit: light in one cell moves its columns alone."""
    units = PatchUnits("dense", (6, 6), 2, 2, 2, grid=3, activation="two-sided")
    W = np.array([[1.0, 1, 1, 1, 0], [-2, -2, -2, -2, 0]])
    dark = np.zeros((1, 6, 6))
    light = dark.copy()
    light[0, 2:4, 4:6] = 1  # the window of row 1, column 2
    Phi = units.features(W, light).reshape(2, 3, 3, 2)
    expected = np.zeros((2, 3, 3, 2))
    expected[0, 1, 2, 0] = 4  # above, first unit
    expected[1, 1, 2, 1] = 8  # below, second unit
    assert_array_equal(Phi, expected)
    assert_array_equal(units.features(W, dark), 0)


# --- sizes at which loops begin and end ----------------------------------------------------


@FEW_WINDOWS
@pytest.mark.parametrize("n", [1, 32, 33, 65])
def test_images_are_independent_whatever_their_number(n, rng):
    units = PatchUnits("bilinear", (6, 6), 2, 3, grid=2, activation="two-sided", threshold=0.1)
    images = rng.random((n, 6, 6))
    W = units.init(images, rng)
    one_by_one = np.concatenate([units.features(W, image[None]) for image in images])
    derivatives = [units.features_and_derivative(W, image[None])[1] for image in images]
    assert_allclose(units.features(W, images), one_by_one, rtol=1e-11, atol=1e-14)
    Phi, dPhi = units.features_and_derivative(W, images)
    assert_allclose(Phi, one_by_one, rtol=1e-11, atol=1e-14)
    assert_allclose(dPhi, np.concatenate(derivatives), rtol=1e-11, atol=1e-14)


@FEW_WINDOWS
@pytest.mark.parametrize("activation", ["tanh", "two-sided"])
@pytest.mark.parametrize("h", [64, 65, 130])
def test_units_are_independent_whatever_their_number(activation, h, rng):
    units = PatchUnits("dense", (5, 6), h, 3, grid=2, activation=activation, threshold=0.1)
    images = rng.random((3, 5, 6))
    W = units.init(images, rng)
    Phi = units.features(W, images).reshape(3, -1, h)
    for unit in (0, 1, 62, h - 2, h - 1):
        alone = units.features(W[unit : unit + 1], images)
        assert_allclose(Phi[:, :, unit], alone, rtol=1e-11, atol=1e-14)
    assert_allclose(units.features_and_derivative(W, images)[0], Phi.reshape(3, -1), rtol=1e-10,
                    atol=1e-14)  # fmt: skip


@FEW_WINDOWS
def test_single_precision_is_close_on_pictures_of_usual_size(rng):
    images = rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    units = PatchUnits("dense", (3, 32, 32), 70, 6, grid=4, activation="tanh", contrast=0.01)
    units = learn_whitening(units, images, rng, epsilon=0.1)
    W = units.init(images, rng)
    single = units.features(W.astype(np.float32), images)
    assert single.dtype == np.float32
    # A pre-activation is a sum of 108 products of a filter and pixels, over the deviation of the
    # window: its terms are as large as pixels, 0.5, over deviations, 0.3. The sum has sqrt(108)
    # eps / 2 of them; pixels, filter and deviation have a rounding each. That is 7 eps.
    size = np.abs(W[:, :-1] @ units.whitening).sum(axis=1).max() * 0.5 / 0.3
    atol = 7 * np.finfo(np.float32).eps * size
    assert_allclose(single, units.features(W, images), rtol=0, atol=atol)


@FEW_WINDOWS
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["single", "double"])
@pytest.mark.parametrize(
    ("level", "contrast", "whiten"),
    [(0, None, False), (128, 0.01, False), (0, 0.01, True), (128, None, True), (128, 0.01, True)],
)
def test_images_that_are_all_alike_are_survived(level, contrast, whiten, dtype, rng):
    images = np.full((5, 6, 6), level, dtype=np.uint8)
    units = PatchUnits("dense", (6, 6), 3, 3, grid=2, contrast=contrast)
    if whiten:
        units = learn_whitening(units, images, rng, epsilon=0.1)
    W = units.init(images, rng)
    assert np.isfinite(W).all()
    Phi, dPhi = units.features_and_derivative(W.astype(dtype), images)
    assert np.isfinite(dPhi).all()
    assert_allclose(Phi, 0.5, atol=1e-5)
    assert_allclose(units.features(W.astype(dtype), images), 0.5, atol=1e-5)


# --- the start ----------------------------------------------------------------------------


@FEW_WINDOWS
@EVERY_CHOICE
def test_init_standardises(choice, rng):
    """Over the windows, of which ``init`` sees a sample: six standard errors are allowed."""
    images = pictures(rng, choice, n=5)
    units = replace(choice.make(images, rng, n_units=8), gain=1.7)
    W = units.init(images, rng)
    P = windows_of(units, images)
    z = P.reshape(-1, P.shape[-1]) @ units.scalarisation.filters(W).T + W[:, -1]
    assert_allclose(z.mean(axis=0), 0, atol=0.1 * 1.7)
    assert_allclose(z.std(axis=0), 1.7, rtol=0.1)


@pytest.mark.parametrize("whiten", [False, True], ids=["plain", "whitened"])
def test_windows_can_be_the_filters(whiten, rng):
    images = np.zeros((4, 8, 8))
    images[:, :, :5] = rng.random((4, 8, 5))  # some windows are black
    units = PatchUnits("dense", (8, 8), 30, 3, grid=2, draw="windows")
    if whiten:
        units = learn_whitening(units, images, rng, epsilon=0.1)
    W = units.init(images, rng)
    P = windows_of(units, images).reshape(-1, 9)
    away = P - P.mean(axis=0)
    cosine = W[:, :-1] @ away.T / np.linalg.norm(W[:, :-1], axis=1)[:, None]
    cosine /= np.linalg.norm(away, axis=1)
    # The mean is that of the sampled windows, so the direction is right to its error.
    assert (cosine.max(axis=1) > 0.999).all()
    chosen = cosine.argmax(axis=1)
    assert len(set(chosen)) > 15
    plain = windows_of(replace(units, centre=None, whitening=None), images).reshape(-1, 9)
    spread = plain.std(axis=1)
    assert spread[chosen].min() > 0.97 * spread.mean()
    gaussian = replace(units, draw="gaussian").init(images, rng)[:, :-1]
    random_cosine = gaussian @ away.T / np.linalg.norm(gaussian, axis=1)[:, None]
    assert ((random_cosine / np.linalg.norm(away, axis=1)).max(axis=1) < 0.999).all()


@pytest.mark.parametrize("contrast", [0.1, 0.60663577, 0.81585355])
def test_windows_of_equal_contrast_can_all_be_filters(contrast, rng):
    """The mean of equal numbers is larger than all of them, at times, in the last digit."""
    board = contrast * (np.add.outer(np.arange(8), np.arange(8)) % 2)
    units = PatchUnits("dense", (8, 8), 3, 4, grid=2, draw="windows")
    W = units.init(np.repeat(board[None], 20, axis=0), rng)
    assert np.isfinite(W).all()
    assert W.any()


def test_sampled_windows_are_windows_of_all_places(rng):
    images = rng.random((3, 2, 6, 5))
    units = PatchUnits("dense", (2, 6, 5), 1, 3, 2, grid=1, contrast=0.1)
    sampled = units.sample_windows(images, rng, 500)
    P = windows_of(units, images).reshape(-1, 18)
    assert len(sampled) >= 500
    distance = np.abs(sampled[:, None] - P).max(axis=2)
    assert_allclose(distance.min(axis=1), 0, atol=1e-12)
    counts = np.bincount(distance.argmin(axis=1), minlength=len(P))
    assert counts.min() > 0.4 * len(sampled) / len(P)


def test_fewer_windows_than_images_are_of_different_images(rng):
    images = np.broadcast_to(np.arange(20.0)[:, None, None], (20, 4, 4))
    sampled = PatchUnits("dense", (4, 4), 1, 3, grid=1).sample_windows(images, rng, 7)
    assert sampled.shape == (7, 9)
    assert len(np.unique(sampled)) == 7


# --- description and bad input -------------------------------------------------------------


@FEW_WINDOWS
@EVERY_CHOICE
def test_spec_and_arrays_describe_the_units(choice, rng):
    images = pictures(rng, choice)
    units = choice.make(images, rng)
    assert set(units.arrays) == (set() if choice.whitening == "none" else {"centre", "whitening"})
    again = units_from_spec(json.loads(json.dumps(units.spec())), units.arrays)
    assert isinstance(again, PatchUnits)
    assert again.spec() == units.spec()
    assert again.windows == units.windows
    seed = int(rng.integers(2**31))
    W = units.init(images, np.random.default_rng(seed))
    assert_array_equal(again.init(images, np.random.default_rng(seed)), W)
    assert_array_equal(again.features(W, images), units.features(W, images))


def test_what_is_printed_fits_a_line_of_a_log(rng):
    """The choices, not the arrays that were learnt."""
    units = learn_whitening(PatchUnits("dense", (8, 7), 3, 3), pictures(rng), rng, epsilon=0.1)
    assert "window=3" in repr(units)
    assert "array" not in repr(units)


def test_spec_holds_every_choice():
    choices = {
        "rank": 2, "window": 4, "stride": 2, "grid": 3, "activation": "two-sided", "gain": 0.5,
        "threshold": 0.25, "contrast": 0.125, "draw": "gaussian",
    }  # fmt: skip
    spec = patch_units("bilinear", (3, 9, 8), 7, **choices).spec()
    named = {"place": "windows", "kind": "bilinear", "image_shape": [3, 9, 8], "n_units": 7}
    assert spec == {**named, **choices}
    assert patch_units("dense", (9, 8), 7, window=4, draw="windows").spec()["draw"] == "windows"


@pytest.mark.parametrize(
    ("kind", "shape", "rank", "whitened", "n_weights"),
    [
        ("dense", (28, 28), 1, None, 50),
        ("dense", (3, 32, 32), 1, None, 148),
        ("dense", (3, 32, 32), 1, 20, 21),
        ("bilinear", (28, 28), 1, None, 15),
        ("bilinear", (3, 32, 32), 2, None, 35),
        ("bilinear", (3, 32, 32), 1, 147, 18),
        ("quadratic", (28, 28), 3, None, 22),
        ("quadratic", (3, 32, 32), 1, None, 11),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_number_of_weights(kind, shape, rank, whitened, n_weights):
    d = int(np.prod(shape[:-2])) * 49
    arrays = {} if whitened is None else {"centre": np.zeros(d), "whitening": np.eye(whitened, d)}
    assert PatchUnits(kind, shape, 9, window=7, rank=rank, **arrays).n_weights == n_weights


def test_number_of_cells():
    for activation in ACTIVATIONS:
        units = PatchUnits("dense", (8, 8), 1, 3, grid=3, activation=activation)
        assert units.n_cells == (18 if activation == "two-sided" else 9)


@pytest.mark.parametrize("method", ["init", "features", "features_and_derivative"])
def test_images_of_another_shape_are_refused(method, rng):
    units = PatchUnits("dense", (6, 8), 2, window=3)
    images = np.zeros((3, 8, 6), dtype=np.uint8)
    arguments = (images, rng) if method == "init" else (np.zeros((2, 10)), images)
    with pytest.raises(ValueError, match=r"inputs must be images of shape \(6, 8\), got .*\(3, 8"):
        getattr(units, method)(*arguments)


BAD_CHOICES = {
    "kind": ({"kind": "cubic"}, "kind must be one of quadratic, bilinear, tensor, dense"),
    "activation": ({"activation": "relu"}, "activation must be one of logistic, tanh"),
    "draw": ({"draw": "ones"}, "draw must be one of gaussian, windows"),
    "windows_of_vectors": ({"kind": "tensor", "draw": "windows"}, "draw must be .* dense units"),
    "one_axis": ({"image_shape": (8,)}, "image_shape must be"),
    "four_axes": ({"image_shape": (2, 3, 8, 8)}, "image_shape must be"),
    "no_rows": ({"image_shape": (0, 8)}, "image_shape must have positive lengths"),
    "shape": ({"image_shape": 8}, "image_shape must be whole numbers, got 8"),
    "half_a_pixel": ({"image_shape": (8, 8.5)}, "image_shape must be whole numbers"),
    "n_units": ({"n_units": 0}, "n_units must be positive, got 0"),
    "half_a_unit": ({"n_units": 2.5}, "n_units must be a whole number, got 2.5"),
    "rank": ({"kind": "tensor", "rank": 0}, "rank must be positive, got 0"),
    "dense_rank": ({"rank": 2}, "dense units have rank 1, got rank=2"),
    "no_window": ({"window": 0}, "window must be positive, got 0"),
    "window": ({"window": 8}, r"window must be at most the sides of the image, \(8, 7\), got 8"),
    "stride": ({"stride": 0}, "stride must be positive, got 0"),
    "half_a_stride": ({"stride": 1.5}, "stride must be a whole number, got 1.5"),
    "no_grid": ({"grid": 0}, "grid must be positive, got 0"),
    "grid": ({"grid": 6}, r"grid must be at most the places of a window, \(6, 5\), got 6"),
    "grid_of_strides": ({"stride": 2, "grid": 4}, "grid must be at most .* got 4"),
    "gain": ({"gain": 0.0}, "gain must be positive and finite, got 0"),
    "gain_nan": ({"gain": float("nan")}, "gain must be positive and finite, got nan"),
    "threshold": ({"threshold": -0.1}, "threshold must be finite and not negative, got -0.1"),
    "threshold_inf": ({"threshold": float("inf")}, "threshold must be finite"),
    "contrast": ({"contrast": 0.0}, "contrast must be positive and finite, got 0"),
    "contrast_nan": ({"contrast": float("nan")}, "contrast must be positive and finite, got nan"),
}
GOOD = {"kind": "dense", "image_shape": (8, 7), "n_units": 2, "window": 3, "grid": 2}


@pytest.mark.parametrize(("change", "message"), BAD_CHOICES.values(), ids=BAD_CHOICES)
def test_choices_are_checked(change, message):
    patch_units(**GOOD)
    with pytest.raises(ValueError, match=message):
        patch_units(**{**GOOD, **change})
    with pytest.raises(ValueError, match=message):  # a model file is a user's choice as well
        units_from_spec({"place": "windows", **GOOD, **change})


@pytest.mark.parametrize("missing", ["n_units", "window", "kind"])
def test_spec_without_a_choice_is_refused(missing):
    spec = patch_units(**GOOD).spec()
    del spec[missing]
    with pytest.raises(ValueError, match="spec must hold the fields of the units"):
        units_from_spec(spec)


BAD_ARRAYS = {
    "centre_alone": {"centre": np.zeros(9)},
    "whitening_alone": {"whitening": np.eye(9)},
    "length": {"centre": np.zeros(8), "whitening": np.eye(9)},
    "columns": {"centre": np.zeros(9), "whitening": np.eye(9, 8)},
    "rows": {"centre": np.zeros(9), "whitening": np.eye(10, 9)},
    "none": {"centre": np.zeros(9), "whitening": np.eye(0, 9)},
    "nan": {"centre": np.zeros(9), "whitening": np.full((9, 9), np.nan)},
    "single": {"centre": np.zeros(9, np.float32), "whitening": np.eye(9, dtype=np.float32)},
}


@pytest.mark.parametrize("arrays", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_whitening_of_a_damaged_file_is_refused(arrays):
    with pytest.raises(ValueError, match=r"centre must be \(9,\) and whitening"):
        units_from_spec(patch_units(**GOOD).spec(), arrays)


def test_fewer_components_are_for_dense_units():
    arrays = {"centre": np.zeros(9), "whitening": np.eye(4, 9)}
    assert units_from_spec(patch_units(**GOOD).spec(), arrays).n_weights == 5
    with pytest.raises(ValueError, match="centre must be"):
        units_from_spec(patch_units(**{**GOOD, "kind": "bilinear"}).spec(), arrays)
