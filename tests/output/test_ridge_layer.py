"""The ridge layer that changes: always the same as one made from scratch."""

import contextlib
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import (
    RidgeLayer,
    learn_maps,
    load,
    patch_units,
    units_on_maps,
    whole_image_units,
)
from varpro_nn._io import archive
from varpro_nn.compute.compute import Compute
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ModelFileError
from varpro_nn.output.penalties import RIDGES
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.units import learn_whitening
from varpro_nn.units.maps import n_columns

K = 10
EVERY_TYPE = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 5e-4)], ids=["double", "single"]
)


@pytest.fixture(scope="module")
def digits():
    train = load("digits").train
    return train.images[:450], train.labels[:450]


def units_and_maps(digits, n_units):
    """Units on maps, and maps of three other units in four cells that come after them."""
    rng = np.random.default_rng(0)
    lower = patch_units("dense", (8, 8), 3, window=3, grid=4, activation="tanh", contrast=0.1)
    W = lower.init(digits[0], rng).astype(np.float32)
    below = learn_maps(lower, W, digits[0], rng, window=2, epsilon=0.1, n_components=12)
    top = patch_units("dense", below.shape, n_units, window=1, grid=2)
    return units_on_maps(top, below, cells_below=2)


@pytest.fixture(params=["whole image", "patches", "maps"], scope="module")
def units(request, digits):
    """One column a unit, and several: then columns of new units go between the old ones."""
    if request.param == "maps":
        return units_and_maps(digits, 6)
    if request.param == "whole image":
        return whole_image_units("bilinear", (8, 8), 12)
    made = patch_units("dense", (8, 8), 6, window=3, grid=2, contrast=0.01)
    return learn_whitening(made, digits[0], np.random.default_rng(0), epsilon=0.1)


@pytest.fixture
def W(units, digits, rng):  # noqa: N802
    return units.init(digits[0], rng)


@pytest.fixture(params=["whole image", "patches", "maps"], scope="module")
def wide(request, digits):
    """Units of so many columns that some tens of images are fewer, and their weights."""
    if request.param == "maps":
        made = units_and_maps(digits, 14)
    elif request.param == "whole image":
        made = whole_image_units("bilinear", (8, 8), 50)
    else:
        made = patch_units("dense", (8, 8), 14, window=3, grid=2, contrast=0.01)
        made = learn_whitening(made, digits[0], np.random.default_rng(0), epsilon=0.1)
    return made, made.init(digits[0], np.random.default_rng(3))


def assert_solves_like(state, W, images, labels, tolerance):
    """As a fit of these units on these images does, for all ridges and both scalings.

    The errors of the sums are divided by the ridge, so single precision gets a larger one.
    """
    training = TrainingSet(images, labels, K)
    assert state.n_images == len(images)
    assert_array_equal(state.W, W)
    for standardise in (False, True):
        for ridge in (0.03 if W.dtype == np.float64 else 1.0, 10.0):
            options = {"ridge": ridge, "standardise": standardise, "form": "primal"}
            expected = fit_ridge(state.units, W, training, Compute(), **options).A
            found = state.solve(ridge, standardise=standardise)
            assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@EVERY_TYPE
def test_images_come_and_go(dtype, tolerance, units, W, digits):
    images, labels = digits
    W = W.astype(dtype)
    state = RidgeLayer(units, W, K).add_images(images[:200], labels[:200])
    assert_solves_like(state, W, images[:200], labels[:200], tolerance)
    assert state.partial_fit(images[200:], labels[200:]) is state
    assert_solves_like(state, W, images, labels, tolerance)
    gone = np.arange(len(images)) % 3 == 0
    assert state.remove_images(images[gone], labels[gone]) is state
    assert_solves_like(state, W, images[~gone], labels[~gone], tolerance)


@EVERY_TYPE
def test_units_come_and_go(dtype, tolerance, units, W, digits, rng):
    images, labels = digits
    W = W.astype(dtype)
    shuffled = rng.permutation(len(images))
    state = RidgeLayer(units, W[:4], K).add_images(images, labels)
    state.add_units(W[4:5], images[shuffled], labels[shuffled])
    state.add_units(W[5:], images, labels)
    assert_solves_like(state, W, images, labels, tolerance)
    state.drop_units([0, 3, 4])
    rest = np.delete(W, [0, 3, 4], axis=0)
    assert_solves_like(state, rest, images, labels, tolerance)
    state.drop_units(-1).remove_images(images[:100], labels[:100])
    assert_solves_like(state, rest[:-1], images[100:], labels[100:], tolerance)


@EVERY_TYPE
def test_few_images_are_kept_as_rows_and_many_as_sums(dtype, tolerance, wide, digits, rng):
    units, W = wide[0], wide[1].astype(dtype)
    q = n_columns(units)
    images, labels = digits
    state = RidgeLayer(units, W, K)
    forms = []
    for stop in (q // 3, q - 1, q, q + 1, 2 * q):
        state.add_images(images[state.n_images : stop], labels[state.n_images : stop])
        assert_solves_like(state, W, images[:stop], labels[:stop], tolerance)
        forms.append(state.form)
    assert forms == ["rows", "rows", "rows", "sums", "sums"]


@EVERY_TYPE
def test_rows_come_and_go_in_any_order_and_repeated(dtype, tolerance, wide, digits, rng):
    units, W = wide[0], wide[1].astype(dtype)
    images, labels = digits
    twice = np.r_[0:30, 10:20]
    state = RidgeLayer(units, W, K).add_images(images[twice], labels[twice])
    gone = rng.permutation(np.r_[10:15, 5:12])  # two of them both times
    state.remove_images(images[gone], labels[gone])
    rest = np.r_[0:5, 12:30, 15:20]
    rest = np.sort(rest)
    assert state.form == "rows"
    assert_solves_like(state, W, images[rest], labels[rest], tolerance)
    for wrong in (np.array([40]), np.array([11]), np.array([0, 0])):
        with pytest.raises(ValueError, match=r"images must be among those taken in"):
            state.remove_images(images[wrong], labels[wrong])
    assert_solves_like(state, W, images[rest], labels[rest], tolerance)


@EVERY_TYPE
def test_units_come_and_go_while_rows_are_kept(dtype, tolerance, wide, digits, rng):
    units, W = wide[0], wide[1].astype(dtype)
    n = n_columns(units, len(W) - 4)
    images, labels = digits[0][:n], digits[1][:n]
    shuffled = rng.permutation(n)
    state = RidgeLayer(units, W[:-2], K).add_images(images, labels)
    with pytest.raises(ValueError, match=r"images must be"):
        state.add_units(W[-2:], digits[0][n : 2 * n], digits[1][n : 2 * n])
    state.add_units(W[-2:], images[shuffled], labels[shuffled])
    assert_solves_like(state, W, images, labels, tolerance)
    state.drop_units([1, 3, 2, 0])
    assert state.form == "rows"
    assert_solves_like(state, W[4:], images, labels, tolerance)
    state.drop_units(0)
    assert state.form == "sums"
    assert_solves_like(state, W[5:], images, labels, tolerance)


@pytest.mark.parametrize("n", [30, 90])
def test_a_fit_keeps_what_images_added_one_by_one_would(n, wide, digits):
    """Rows while there are fewer images than columns, whatever the form of the fit."""
    units, W = wide
    images, labels = digits[0][:n], digits[1][:n]
    training = TrainingSet(images, labels, K)
    kept = fit_ridge(units, W, training, Compute(), keep_sums=True).ridge_layer
    added = RidgeLayer(units, W, K).add_images(images, labels)
    assert kept.form == added.form == ("rows" if n <= n_columns(units) else "sums")
    assert_allclose(kept.solve(1.0), added.solve(1.0), atol=1e-9)


def test_images_that_look_alike_are_not_taken_for_each_other(wide, digits):
    """In single precision too, as far as features tell them apart by more than rounding."""
    units, W = wide[0], wide[1].astype(np.float32)
    images, labels = digits[0][:30].copy(), digits[1][:30]
    state = RidgeLayer(units, W, K).add_images(images, labels)
    changed = images[4:5].copy()
    changed[0, 4, 4] += 0.01
    with pytest.raises(ValueError, match=r"images must be among those taken in"):
        state.remove_images(changed, labels[4:5])
    assert state.n_images == 30


@pytest.mark.parametrize("n", [20, 200], ids=["rows", "sums"])
def test_what_fails_changes_nothing(n, wide, digits, monkeypatch):
    """No memory for the sums, or for the features of the last images."""
    units, W = wide
    images, labels = digits[0][:n], digits[1][:n]
    state = RidgeLayer(units, W[:-1], K).add_images(images, labels)
    before, form = state.solve(1.0), state.form

    def fail(*_, **__):
        raise MemoryError

    q = state._kept.n_columns
    for name in ("concatenate", "block", "ix_", "ascontiguousarray"):
        with monkeypatch.context() as patch, contextlib.suppress(MemoryError):
            patch.setattr(np, name, fail)
            state.add_units(W[-1:], images, labels)
        if len(state.W) == len(W):  # that function was not needed
            state.drop_units(len(W) - 1)
        assert (state._kept.n_columns, state.form) == (q, form)
        state._paths.clear()
        assert_allclose(state.solve(1.0), before, rtol=0, atol=1e-9)


def test_of_rows_no_unit_is_called_redundant(wide, digits):
    units, W = wide
    path = RidgeLayer(units, W, K).add_images(digits[0][:20], digits[1][:20]).path()
    assert path.rank == 19
    with pytest.raises(ValueError, match=r"not determined by 20 rows"):
        path.redundant_groups(np.tile(np.arange(len(W)), units.n_cells))


def test_nothing_remains_of_images_that_came_and_went(digits, rng):
    """Exact unlearning: a hundred rounds later the sums are those of the others."""
    images, labels = digits
    units = whole_image_units("bilinear", (8, 8), 12)
    W = units.init(images, rng)
    state = RidgeLayer(units, W, K).add_images(images[:250], labels[:250])
    for _ in range(50):
        some = rng.choice(np.arange(250, 450), 60, replace=False)
        state.add_images(images[some], labels[some]).remove_images(images[some], labels[some])
    assert_solves_like(state, W, images[:250], labels[:250], 1e-9)


def test_threads_change_no_bit(units, W, digits):
    images, labels = digits
    A = [
        RidgeLayer(units, W[:4].astype(np.float32), K, n_jobs=n_jobs)
        .add_images(images, labels)
        .add_units(W[4:].astype(np.float32), images, labels)
        .solve(1.0)
        for n_jobs in (1, 3)
    ]
    assert_array_equal(*A)


def test_the_ridge_is_chosen_by_generalised_cross_validation(digits, rng):
    """Computed here from residuals and the trace of the hat matrix."""
    images, labels = digits[0][:80], digits[1][:80]
    units = whole_image_units("bilinear", (8, 8), 40)
    W = units.init(images, rng)
    state = RidgeLayer(units, W, K).add_images(images, labels)
    Phi, tau = np.column_stack([units.features(W, images), np.ones(80)]), np.eye(K)[labels]
    scores = []
    for ridge in RIDGES:
        penalty = np.diag([ridge] * 40 + [0.0])
        hat = Phi @ np.linalg.solve(Phi.T @ Phi + penalty, Phi.T)
        mse = np.square(tau - hat @ tau).sum() / 80
        scores.append(mse / (1 - np.trace(hat) / 80) ** 2)
        assert_allclose(state.path().generalised_cross_validation(ridge), scores[-1], rtol=1e-6)
    best = int(np.argmin(scores))
    assert 0 < best < len(RIDGES) - 1
    assert_array_equal(state.solve(), state.solve(RIDGES[best]))


@pytest.mark.parametrize(("n_before", "form"), [(0, "rows"), (10, "rows"), (200, "sums")])
def test_saved_and_loaded_it_goes_on(n_before, form, units, W, digits, tmp_path):
    images, labels = digits
    W = W.astype(np.float32)
    state = RidgeLayer(units, W, K)
    if n_before:
        state.add_images(images[:n_before], labels[:n_before])
    assert state.form == form
    state.save(tmp_path / "glue.npz")
    again = RidgeLayer.load(tmp_path / "glue.npz")
    assert again.units.spec() == units.spec()
    for each in (state, again):
        each.add_images(images[n_before:], labels[n_before:]).drop_units(1)
    assert_array_equal(again.solve(1.0), state.solve(1.0))
    assert_array_equal(again.W, state.W)


@pytest.mark.parametrize("form", ["rows", "sums"])
def test_files_of_earlier_versions_are_read(form, digits, rng, tmp_path):
    """Written here array by array, as they always were."""
    images, labels = digits[0][:100], digits[1][:100]
    units = whole_image_units("bilinear", (8, 8), 12)
    W = units.init(images, rng)
    Phi, tau = units.features(W, images), np.eye(K)[labels]
    shift = Phi[:7].mean(axis=0)
    Z = Phi - shift
    arrays = {
        "sums.gram": Z.T @ Z, "sums.moments": Z.T @ tau, "sums.sum_Phi": Z.sum(axis=0),
        "sums.sum_tau": tau.sum(axis=0), "sums.peaks": np.square(Z).sum(axis=0),
        "sums.totals": np.array([100.0, 100.0]), "sums.shift": shift,
    }  # fmt: skip
    if form == "rows":
        arrays = {"rows.Phi": Phi, "rows.tau": tau}
    header = {"kind": "glue", "units": units.spec(), "form": form}
    archive.write(tmp_path / "glue.npz", header, {"W": W, **arrays})
    layer = RidgeLayer.load(tmp_path / "glue.npz")
    assert layer.form == form
    assert_solves_like(layer, W, images, labels, 1e-9)
    header["kind"] = "subnetwork"
    archive.write(tmp_path / "glue.npz", header, {"W": W, **arrays})
    with pytest.raises(ModelFileError, match=r"expected a ridge layer \(glue\), .* a subnetwork"):
        RidgeLayer.load(tmp_path / "glue.npz")


def test_it_goes_through_a_pickle(wide, digits):
    """Threads that have made its sums stay behind."""
    units, W = wide
    layer = RidgeLayer(units, W, K, n_jobs=2).add_images(*(each[:20] for each in digits))
    layer.add_images(*(each[20:] for each in digits))
    assert layer.form == "sums"
    assert_array_equal(pickle.loads(pickle.dumps(layer)).solve(1.0), layer.solve(1.0))


@pytest.mark.parametrize(("n", "first"), [(10, "Phi"), (450, "gram")])
def test_a_file_that_is_no_ridge_layer_is_refused(n, first, units, W, digits, tmp_path):
    state = RidgeLayer(units, W, K).add_images(digits[0][:n], digits[1][:n])
    path = tmp_path / "glue.npz"
    state.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "damaged.npz").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"damaged.npz"):
        RidgeLayer.load(tmp_path / "damaged.npz")
    state.W = state.W[:-1]
    state.save(path)
    with pytest.raises(ModelFileError, match=rf"do not describe a ridge layer: {first} must be"):
        RidgeLayer.load(path)


@pytest.mark.parametrize(
    ("act", "match"),
    [
        (lambda s, x, y: s.remove_images(x, y), r"images must be among those in the sums"),
        (lambda s, x, y: s.remove_images(x[:3], [0, 0, 10]), r"labels must be 0 to 9"),
        (lambda s, x, y: s.add_units(s.W, x, y), r"images must be those in the sums, by class"),
        (lambda s, x, y: s.add_units(s.W[:, 1:], x, y), r"W must have shape \(h, 17\)"),
        (lambda s, x, y: s.drop_units(np.arange(12)), r"one unit at least must be left"),
        (lambda s, x, y: s.solve(-1.0), r"ridge must be finite and not negative, got -1"),
        (lambda s, x, y: RidgeLayer(s.units, s.W[0], K), r"W must have shape \(h, 17\)"),
        (lambda s, x, y: RidgeLayer(s.units, s.W * np.nan, K), r"W must be finite"),
        (lambda s, x, y: RidgeLayer(s.units, s.W, K).solve(), r"at least one row"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(act, match, digits, rng):
    images, labels = digits
    units = whole_image_units("bilinear", (8, 8), 12)
    W = units.init(images, rng)
    state = RidgeLayer(units, W, K).add_images(images[:300], labels[:300])
    before = state.solve(1.0)
    with pytest.raises(ValueError, match=match):
        act(state, images, labels)
    assert_array_equal(state.solve(1.0), before)
    assert state.n_images == 300


def test_units_to_drop_are_positions_or_a_mask(digits, rng):
    units = whole_image_units("bilinear", (8, 8), 3)
    W = units.init(digits[0], rng)
    dropped = RidgeLayer(units, W, K).drop_units(np.array([True, False, True]))
    assert_array_equal(dropped.W, W[1:2])
    assert_array_equal(RidgeLayer(units, W, K).drop_units([]).W, W)
    for index in (1.5, [0.0, 1.0], [True, False], 3):
        with pytest.raises(IndexError, match="index must be positions of the 3 units or a mask"):
            RidgeLayer(units, W, K).drop_units(index)


def test_a_ridge_that_is_no_number_is_refused(digits):
    images, labels = digits
    units = whole_image_units("bilinear", (8, 8), 3)
    W = units.init(images, np.random.default_rng(0))
    layer = RidgeLayer(units, W, K).add_images(images[:50], labels[:50])
    with pytest.raises(TypeError, match=r"ridge must be a number, or None to choose it, got 'x'"):
        layer.solve("x")


def test_no_such_unit(digits, rng):
    units = whole_image_units("bilinear", (8, 8), 3)
    state = RidgeLayer(units, units.init(digits[0], rng), K)
    with pytest.raises(IndexError):
        state.drop_units(3)
