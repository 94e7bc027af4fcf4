"""What sub-networks know of each other, and what a run that goes on must not change."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from in_memory import MemoryStore, train
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn import load, whole_image_units
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import NO_DISTORTION, Augmentation
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import TrainingError
from varpro_nn.training import schemes, subnetwork, subnetworks
from varpro_nn.training.config import Scheme, SubnetworkSettings
from varpro_nn.training.schemes import train_by_scheme
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks
from varpro_nn.units import WholeImageUnits
from varpro_nn.varpro.history import FitReport, Record, join_reports

UNITS = whole_image_units("bilinear", (8, 8), 3)
K = 10
SCHEMES = get_args(Scheme)
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


def plan(n_subnetworks=4, images=100, max_nfev=2, **options):
    return SubnetworkSettings(
        n_subnetworks=n_subnetworks, images_per_subnetwork=images, max_nfev=max_nfev, **options
    )


@pytest.fixture(scope="module")
def digits():
    return TrainingSet.of(load("digits"), 250)


@pytest.fixture
def calls(monkeypatch):
    """Every call of ``train_subnetworks`` and what came back."""
    recorded = []

    def record(*arguments, **options):
        found = train_subnetworks(*arguments, **options)
        recorded.append((options, list(found)))
        return found

    monkeypatch.setattr(schemes, "train_subnetworks", record)
    return recorded


def by_scheme(
    scheme, n_stages, digits, settings=None, units=UNITS, n_jobs=1, distortion=NO_DISTORTION,
    seed=0, **options,
):  # fmt: skip
    settings = plan() if settings is None else settings
    settings = replace(settings, scheme=scheme, n_stages=n_stages)
    with Compute(n_jobs) as compute:
        of_all = SubnetworkPlan(units, settings, distortion, seed)
        return train_by_scheme(of_all, digits, compute, **options)


def assert_same(one, other):
    assert [s.index for s in one] == [s.index for s in other]
    for a, b in zip(one, other, strict=True):
        assert_array_equal(a.W, b.W)
        assert (a.error, a.n_missing_classes) == (b.error, b.n_missing_classes)
        if a.report is not None:
            assert a.report.cost == b.report.cost


@dataclass(frozen=True)
class Sick(WholeImageUnits):
    """Its start is NaN in sub-networks on a chosen number of dark pixels: those fail."""

    seeds: tuple[int, ...] = ()

    def init(self, inputs, rng):
        W = super().init(inputs, rng)
        return np.full_like(W, np.nan) if int(rng.integers(2**31)) in self.seeds else W


def failing(indices, seed=0):
    """Units whose sub-networks of these indices fail: known by their random numbers."""
    found = []
    root = np.random.SeedSequence(seed)
    digits = load("digits").train.images[:250]
    for index, child in enumerate(root.spawn(max(indices) + 1)):
        if index in indices:
            rng = np.random.default_rng(child)
            own = rng.choice(250, size=100, replace=False)
            UNITS.init(digits[np.sort(own)], rng)
            found.append(int(rng.integers(2**31)))
    return Sick("bilinear", (8, 8), 3, seeds=tuple(found))


# --- what each is given -------------------------------------------------------------------


def test_independent_is_one_training_of_all(digits, calls):
    found = by_scheme("independent", 1, digits, seed=3)
    assert len(calls) == 1
    assert calls[0][0]["members"] == [0, 1, 2, 3]
    assert_same(found, train(UNITS, digits, plan(), seed=3))


def test_a_stage_is_given_the_columns_of_all_before_it(digits, calls):
    found = by_scheme("stages", 3, digits, plan(5), seed=3)
    assert [options["members"] for options, _ in calls] == [[0, 1], [2, 3], [4]]
    assert calls[0][0]["fixed"] is None
    for options, _ in calls[1:]:
        before = np.concatenate([s.W for s in found[: options["members"][0]]])
        assert_array_equal(options["fixed"], before)
    assert [s.index for s in found] == list(range(5))
    assert_same([s for _, group in calls for s in group], found)


def test_the_first_stage_is_independent_and_the_next_is_not(digits):
    alone = by_scheme("independent", 1, digits, seed=3)
    staged = by_scheme("stages", 2, digits, seed=3)
    assert_same(staged[:2], alone[:2])
    for a, b in zip(staged[2:], alone[2:], strict=True):
        assert not np.array_equal(a.W, b.W)
        assert a.n_missing_classes == b.n_missing_classes
        assert a.report.history[0].cost < b.report.history[0].cost  # from the same start
    assert_same(by_scheme("stages", 1, digits, seed=3), alone)


def test_untrained_ones_stay_as_they_were_drawn(digits):
    drawn = by_scheme("untrained", 1, digits, seed=3)
    assert_same(drawn, train(UNITS, digits, plan(max_nfev=0), seed=3))
    start = by_scheme("independent", 1, digits, plan(max_nfev=1), seed=3)
    for a, b in zip(drawn, start, strict=True):
        assert a.report is None
        assert_array_equal(a.W, b.W)


# --- seeds, processes, going on ----------------------------------------------------------


@pytest.mark.parametrize("make_seed", [lambda: 3, lambda: np.random.SeedSequence(3)])
def test_the_index_alone_decides_the_random_numbers(make_seed, digits):
    """Not the group, nor what was drawn from the same seed before."""
    drawn = plan(max_nfev=0)
    seed = make_seed()
    expected = by_scheme("independent", 1, digits, drawn, seed=seed)
    assert len({s.W.tobytes() for s in expected}) == 4
    for n_stages in (2, 3, 4):
        assert_same(by_scheme("stages", n_stages, digits, drawn, seed=seed), expected)
    (alone,) = train(UNITS, digits, drawn, seed=seed, members=[2])
    assert_array_equal(alone.W, expected[2].W)


@EVERY_SCHEME
def test_processes_change_no_bit(scheme, digits):
    n_stages = 2 if scheme == "stages" else 1
    one, two = (by_scheme(scheme, n_stages, digits, seed=3, n_jobs=n) for n in (1, 2))
    assert_same(one, two)


@EVERY_SCHEME
def test_what_is_done_is_not_trained_again(scheme, digits, monkeypatch):
    """After any number of sub-networks a run goes on to the same bits."""
    n_stages = 2 if scheme == "stages" else 1
    store = MemoryStore()
    whole = by_scheme(scheme, n_stages, digits, seed=3, store=store)
    kept = list(store.values())
    assert [s.index for s in kept] == list(range(4))
    again = []
    train_one = subnetworks.train_one
    monkeypatch.setattr(
        subnetworks,
        "train_one",
        lambda training, plan, index, *a: (
            again.append(index) or train_one(training, plan, index, *a)
        ),
    )
    for n_done in range(len(kept) + 1):
        again.clear()
        more = []
        store = MemoryStore(kept[:n_done], more.append)
        resumed = by_scheme(scheme, n_stages, digits, seed=3, store=store)
        assert_same(resumed, whole)
        assert again == [s.index for s in kept[n_done:]]
        assert_same(more, kept[n_done:])


def test_done_may_be_given_by_index_without_order(digits):
    store = MemoryStore()
    whole = by_scheme("stages", 2, digits, seed=3, store=store)
    there = MemoryStore(s for s in reversed(store.values()) if s.index != 1)
    assert_same(by_scheme("stages", 2, digits, seed=3, store=there), whole)


def test_arguments_are_not_changed(digits):
    images, labels = digits.images.copy(), digits.targets.copy()
    by_scheme("stages", 2, TrainingSet(images, labels, K))
    assert_array_equal(images, digits.images)
    assert_array_equal(labels, digits.targets)


# --- failures ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
def test_a_failed_one_gives_no_columns_to_later_stages(digits, calls):
    found = by_scheme("stages", 2, digits, units=failing([1]), seed=0)
    assert [s.W is None for s in found] == [False, True, False, False]
    assert_array_equal(calls[1][0]["fixed"], found[0].W)


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.SubnetworkWarning")
def test_a_later_stage_that_fails_is_left_out(digits):
    found = by_scheme("stages", 2, digits, units=failing([2, 3]), seed=0)
    assert [s.W is None for s in found] == [False, False, True, True]


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "untrained"])  # nothing to fail
def test_if_all_fail_there_is_no_network(scheme, digits):
    with pytest.raises(TrainingError, match=r"all .* sub-networks failed; the first: NonFinite"):
        by_scheme(scheme, 1, digits, units=failing([0, 1, 2, 3]), seed=0)


# --- rounds, losses, distorted images ----------------------------------------------------


@pytest.fixture
def problems(monkeypatch):
    """Images, labels and start of every round."""
    recorded = []
    make, fit = subnetwork._functional, subnetwork.fit

    def record(units, here, *rest):
        recorded.append([here.images.copy(), here.targets.copy()])
        return make(units, here, *rest)

    def record_fit(functional, W, **options):
        report = fit(functional, W, **options)
        recorded[-1] += [W.copy(), report, functional]
        return report

    monkeypatch.setattr(subnetwork, "SMALLEST_ROUND", 1)
    monkeypatch.setattr(subnetwork, "_functional", record)
    monkeypatch.setattr(subnetwork, "fit", record_fit)
    return recorded


def test_each_round_goes_on_with_twice_the_images(digits, problems):
    (found,) = train(UNITS, digits, plan(1, 101, n_rounds=3), seed=3)
    assert [len(images) for images, *_ in problems] == [25, 50, 101]
    for (images, labels, _, report, _), (more, more_labels, W, _, _) in pairwise(problems):
        assert_array_equal(more[: len(images)], images)
        assert_array_equal(more_labels[: len(labels)], labels)
        assert_array_equal(W.ravel(), report.w)
    assert_array_equal(found.W.ravel(), problems[-1][3].w)
    assert found.report.cost == problems[-1][3].cost
    assert found.report.history[-2:] != problems[-1][3].history  # of the whole, not the round
    assert found.report.n_evaluations == sum(len(p[3].history) for p in problems)
    times = [record.cpu_seconds for record in found.report.history]
    assert (np.diff(times) >= 0).all()
    assert found.report.cpu_seconds >= times[-1]
    # The last round has the same images as a training in one.
    child = np.random.SeedSequence(3).spawn(1)[0]
    own = np.random.default_rng(child).choice(250, 101, replace=False)
    assert_array_equal(problems[-1][0], digits.images[own])
    assert_array_equal(problems[-1][1], digits.targets[own])


def test_in_one_round_the_images_keep_their_order(digits, problems):
    train(UNITS, digits, plan(1, 101), seed=3)
    child = np.random.SeedSequence(3).spawn(1)[0]
    own = np.sort(np.random.default_rng(child).choice(250, 101, replace=False))
    assert_array_equal(problems[0][0], digits.images[own])
    assert_array_equal(problems[0][1], digits.targets[own])


def test_more_rounds_than_images_begin_with_one(digits, problems):
    train(UNITS, digits, plan(1, 5, n_rounds=4), seed=3)
    assert [len(images) for images, *_ in problems] == [1, 1, 2, 5]


@pytest.mark.parametrize(
    ("n_own", "sizes"), [(101, [30, 50, 101]), (40, [30, 30, 40]), (9, [9] * 3)]
)
def test_no_round_is_smaller_than_need_be(n_own, sizes, digits, problems, monkeypatch):
    monkeypatch.setattr(subnetwork, "SMALLEST_ROUND", 30)
    train(UNITS, digits, plan(1, n_own, n_rounds=3), seed=3)
    assert [len(images) for images, *_ in problems] == sizes


def test_reports_are_joined():
    def report(cost, times, total):
        history = tuple(Record(cost, 0.0, 0.0, 0.0, t) for t in times)
        return FitReport(np.full(2, cost), cost, 0.1, 0.2, history, 1, "", "lsmr", "", total)

    joined = join_reports([report(9.0, [1, 2], 2.5), report(7.0, [1], 1.5), report(8.0, [2], 3.0)])
    assert [record.cpu_seconds for record in joined.history] == [1, 2, 3.5, 6]
    assert [record.cost for record in joined.history] == [9, 9, 7, 8]
    assert joined.cpu_seconds == 7
    assert joined.cost == 8  # of the last, not the lowest: the others are of fewer images
    assert_array_equal(joined.w, [8, 8])
    one = report(9.0, [1, 2], 2.5)
    assert join_reports([one]).history == one.history


@pytest.mark.parametrize("n_rounds", [1, 2])
def test_images_are_distorted_anew_in_each_round(n_rounds, digits, problems):
    settings = plan(1, 40, n_rounds=n_rounds)
    W = UNITS.init(digits.images, np.random.default_rng(0))
    train(UNITS, digits, settings, seed=3, start={0: W})
    originals = [p[0] for p in problems]
    problems.clear()
    train(UNITS, digits, settings, distortion=Augmentation(shift=1), seed=3, start={0: W})
    given = [p[0] for p in problems]
    for images, distorted in zip(originals, given, strict=True):
        assert distorted.shape == images.shape
        assert not np.array_equal(distorted, images)
    if n_rounds == 2:
        assert not np.array_equal(given[1][:20], given[0])


@pytest.mark.parametrize("scheme", ["stages"])
def test_cross_entropy_trains_in_every_scheme(scheme, digits, problems):
    settings = plan(2, 60, loss="cross-entropy", n_rounds=2, max_nfev=4)
    found = by_scheme(scheme, 2, digits, settings, seed=3)
    assert {type(p[4]).__name__ for p in problems} == {"CrossEntropyFunctional"}
    for s in found:
        assert s.error == ""
        assert np.isfinite(s.W).all()
    for *_, report, _ in problems:
        assert report.cost < report.history[0].cost


def test_fixed_columns_are_features_of_the_fixed_units(digits, problems):
    W = UNITS.init(digits.images, np.random.default_rng(0))
    train(UNITS, digits, plan(2, 60), seed=3, members=[0])
    train(UNITS, digits, plan(2, 60), seed=3, members=[1], fixed=W[:2])
    (*_, plain), (images, *_, with_fixed) = problems
    w = UNITS.init(digits.images, np.random.default_rng(1)).ravel()
    (block,) = plain.design.blocks(w)
    assert block.Phi.shape == (60, 3 + 1)
    (block,) = with_fixed.design.blocks(w)
    assert block.Phi.shape == (60, 3 + 2 + 1)
    expected = UNITS.features(W[:2].astype(np.float32), images)
    # In their orthonormal basis.
    basis = expected.astype(np.float64) @ with_fixed.design.eliminated.T
    assert_allclose(block.Phi[:, 3:5], basis, atol=1e-12)


def test_starts_may_be_given_by_index(digits):
    W = np.random.default_rng(0).standard_normal((3, 17))
    settings = plan(max_nfev=0)
    (found,) = train(UNITS, digits, settings, members=[7], start={7: W})
    assert found.index == 7
    assert_array_equal(found.W, W)


# --- sub-networks with nothing to learn from ---------------------------------------------


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        (plan(2, images=4), "4 images and 4 columns"),
        # The last of three stages has the columns of the first two beside its own.
        (plan(3, images=10, scheme="stages", n_stages=3), "10 images and 10 columns"),
        # The first round has the fewest images.
        (plan(1, images=12, n_rounds=3), "3 images and 4 columns"),
    ],
    ids=["independent", "stages", "rounds"],
)
def test_too_few_images_without_a_ridge_are_refused(settings, numbers, digits, monkeypatch):
    """The linear weights fit any labels; weight decay took the unit weights to 1e-13."""
    monkeypatch.setattr(subnetwork, "SMALLEST_ROUND", 3)
    message = f"ridge must be positive for sub-networks of {numbers}, got 0: the linear weights fit"
    for more_images in (0, settings.n_rounds**2 * 4):
        own = replace(
            settings, ridge=0.0, images_per_subnetwork=settings.images_per_subnetwork + more_images
        )
        if more_images:
            assert len(by_scheme(own.scheme, own.n_stages, digits, own)) == own.n_subnetworks
        else:
            with pytest.raises(ValueError, match=message):
                by_scheme(own.scheme, own.n_stages, digits, own)
    without_training = replace(settings, ridge=0.0, max_nfev=0)
    assert by_scheme(settings.scheme, settings.n_stages, digits, without_training)
