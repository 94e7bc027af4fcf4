"""Variable projection on batches: its gradient, its sums, and what it reaches."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.errors import NonFiniteError
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.units import patch_units
from varpro_nn.varpro import batches
from varpro_nn.varpro.batches import BatchSettings, fit_on_batches
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional

SETTINGS = BatchSettings(batch_size=100, n_passes=1, ridge=0.5, weight_decay=0.3)


def problem(rng, n=100, h=6, activation="two-sided"):
    """Images of three classes that differ in the correlation of neighbours, with a start."""
    labels = rng.integers(3, size=n)
    images = rng.standard_normal((n, 2, 8, 8))
    for axis in (1, 2):
        chosen = labels == axis
        images[chosen] += 0.8 * np.roll(images[chosen], 1, axis=axis + 1)
    units = patch_units(
        "dense", (2, 8, 8), h, window=3, grid=2, activation=activation,
        threshold=0.3 if activation == "two-sided" else 0.0,
    )  # fmt: skip
    return units, images, np.eye(3)[labels], units.init(images, rng)


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("activation", ["logistic", "two-sided"])
def test_one_batch_of_all_has_cost_and_gradient_of_the_functional(activation, weighted, rng):
    """In the first step of a single batch, the sums hold this batch only."""
    units, images, tau, W = problem(rng, activation=activation)
    weights = rng.uniform(0.5, 2, len(tau)) if weighted else None
    report = fit_on_batches(units, images, tau, W, rng, SETTINGS, weights)
    functional = VarProFunctional(
        units, images, tau, ridge=0.5, weight_decay=0.3, sample_weight=weights, dtype=np.float64
    )
    (record,) = report.history
    assert_allclose(record.cost, functional.cost(W.ravel()), rtol=1e-5)
    # Up to the floor of the penalty.
    assert_allclose(record.optimality, np.abs(functional.gradient(W.ravel())).max(), rtol=3e-3)
    assert not np.array_equal(report.w, W.ravel())


def test_sums_forget_and_count_the_penalty_for_their_images(rng):
    sums = batches._Sums(4, 2, penalty=0.01)
    G, C, n = np.zeros((4, 4)), np.zeros((4, 2)), 0.0
    for size in (30, 20, 25):
        Phi = rng.standard_normal((size, 4)).astype(np.float32)
        Phi[:, -1] = 1
        tau = rng.standard_normal((size, 2)).astype(np.float32)
        sums.add(Phi, tau)
        G = batches.DECAY * G + Phi.T.astype(float) @ Phi
        C = batches.DECAY * C + Phi.T.astype(float) @ tau
        n = batches.DECAY * n + size
    ridge = np.diag([0.01 * n] * 3 + [0.0])
    assert_allclose(sums.linear_weights(), np.linalg.solve(G + ridge, C), rtol=1e-4)


def in_blocks_of(n_images, units, monkeypatch):
    numbers = np.prod(units.windows.places) * (units.n_units + units.n_weights)
    monkeypatch.setattr(batches, "BLOCK_BYTES", 4 * n_images * numbers)


@pytest.mark.parametrize("share", [1, 2])
def test_the_step_is_that_of_both_factors(share, rng, monkeypatch):
    """With the estimates known: S and Q are expectations of products over places."""
    units, images, _, W = problem(rng, h=3)
    monkeypatch.setattr(batches, "CURVATURE_SHARE", share)
    W = W.astype(np.float32)
    in_blocks_of(30, units, monkeypatch)
    at = batches.linearised(units, W, images)
    A = rng.standard_normal((at.Phi.shape[1] + 1, 3)).astype(np.float32)
    decay = 0.7 * np.abs(A).max() ** 2
    curvature = batches._Curvature(np.random.default_rng(3), decay)
    curvature.estimate(batches._Batch(units, W, images, np.arange(100), None), A)
    n = 100 // share
    e = np.random.default_rng(3).standard_normal((n, 3)).astype(np.float32)
    dz, P = at.pull_back(e @ A[:-1].T).astype(float), at.P[:n].astype(float)
    S = np.einsum("nth,nti->hi", dz, dz) / n
    Q = np.mean(np.einsum("ntp,ntq->tpq", P, P), axis=0) / n
    S, Q = (F + batches.DAMPING * np.trace(F) / len(F) * np.eye(len(F)) for F in (S, Q))
    g = rng.standard_normal(W.shape).astype(np.float32)
    expected = np.linalg.solve(np.kron(S, Q) + decay * np.eye(g.size), g.ravel())
    assert_allclose(curvature.solve(g).ravel(), expected, atol=1e-3 * np.abs(expected).max())


def test_threads_change_no_bit(rng, monkeypatch):
    units, images, tau, W = problem(rng)
    in_blocks_of(7, units, monkeypatch)
    found = []
    for n_jobs in (1, 3):
        with thread_pool(n_jobs) as threads:
            rng_of_fit = np.random.default_rng(0)
            report = fit_on_batches(units, images, tau, W, rng_of_fit, SETTINGS, None, threads)
            found.append(report.w)
    assert_array_equal(*found)


def test_blocks_change_nothing(rng, monkeypatch):
    units, images, tau, W = problem(rng)
    found = []
    for size in (30, 1000):
        in_blocks_of(size, units, monkeypatch)
        rng_of_fit = np.random.default_rng(0)
        found.append(fit_on_batches(units, images, tau, W, rng_of_fit, SETTINGS).w)
    assert_allclose(*found, atol=1e-4 * np.abs(found[0]).max())
    assert np.abs(found[0] - W.ravel()).max() > 0.01 * np.abs(W).max()


def test_batches_reach_what_the_whole_reaches(rng):
    """On other images, after few passes; what is random at the start is far worse."""
    units, images, tau, W = problem(rng, n=3000)
    train, held = slice(2000), slice(2000, None)

    def wrong(w):
        A = VarProFunctional(units, images[train], tau[train], ridge=0.5).evaluate(w).A
        Phi = units.features(w.reshape(W.shape), images[held])
        return np.mean((Phi @ A[:-1] + A[-1]).argmax(axis=1) != tau[held].argmax(axis=1))

    settings = replace(SETTINGS, batch_size=200, n_passes=8)
    on_batches = fit_on_batches(units, images[train], tau[train], W, rng, settings)
    functional = VarProFunctional(
        units, images[train], tau[train], ridge=0.5, weight_decay=0.3, dtype=np.float32
    )
    whole = fit(functional, W, max_nfev=15)
    costs = [record.cost for record in on_batches.history]
    assert len(costs) == 8
    assert costs[-1] < costs[1]
    start, reached, least = (wrong(w) for w in (W.ravel(), on_batches.w, whole.w))
    assert reached < 0.5 * start
    assert reached < least + 0.05


@pytest.mark.parametrize(
    "changed",
    [{"ridge": 0.0}, {"ridge": 1e3}, {"ridge": 1e5}, {"weight_decay": 100.0}],
    ids=lambda changed: "-".join(map(str, *changed.items())),
)
def test_penalties_of_any_size_do_not_make_it_diverge(changed, rng):
    """Small linear weights leave a small curvature, and small penalties a nearly singular sum."""
    units, images, tau, W = problem(rng, n=400, activation="logistic")
    settings = replace(SETTINGS, batch_size=50, n_passes=3, **changed)
    report = fit_on_batches(units, images, tau, W, rng, settings)
    assert np.linalg.norm(report.w) < 10 * np.linalg.norm(W)
    assert report.cost < 2 * report.history[0].cost


def test_images_of_no_weight_do_no_harm(rng):
    units, images, tau, W = problem(rng)
    weights = np.zeros(100)
    weights[:10] = 1
    settings = replace(SETTINGS, batch_size=5, n_passes=1)
    assert np.isfinite(fit_on_batches(units, images, tau, W, rng, settings, weights).w).all()


def test_a_later_part_of_the_training_takes_smaller_steps(rng):
    units, images, tau, W = problem(rng)
    moved = []
    for begin in (0.0, 0.9):
        settings = replace(SETTINGS, begin=begin, end=begin + 0.1)
        report = fit_on_batches(units, images, tau, W, np.random.default_rng(2), settings)
        moved.append(np.linalg.norm(report.w - W.ravel()))
    assert moved[1] < 0.2 * moved[0]


def test_the_same_seed_gives_the_same_bits(rng):
    units, images, tau, W = problem(rng, n=150)
    settings = replace(SETTINGS, batch_size=40, n_passes=2)
    first, second = (
        fit_on_batches(units, images, tau, W, np.random.default_rng(5), settings).w
        for _ in range(2)
    )
    assert_array_equal(first, second)


def test_each_image_is_in_one_batch_of_a_pass(rng):
    for n, size in ((10, 3), (10, 10), (7, 20), (9, 1)):
        rows = list(batches._batches(n, min(size, n), 2, rng))
        half = len(rows) // 2
        for part in (rows[:half], rows[half:]):
            assert_array_equal(np.sort(np.concatenate(part)), np.arange(n))
        assert max(map(len, rows)) <= size


def test_every_pass_has_a_record_however_few_batches_it_has(rng):
    units, images, tau, W = problem(rng)
    for size in (30, 50, 100, 1000):
        settings = replace(SETTINGS, batch_size=size, n_passes=3)
        assert len(fit_on_batches(units, images, tau, W, rng, settings).history) == 3


def test_what_is_not_finite_is_an_error(rng):
    units, images, tau, W = problem(rng)
    images[3] = np.nan
    with pytest.raises(NonFiniteError, match="features of a batch are NaN or infinite"):
        fit_on_batches(units, images, tau, W, rng, SETTINGS)
