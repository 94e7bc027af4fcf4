import inspect
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import configure, load, run, train_network
from varpro_nn.compute.compute import Compute
from varpro_nn.training.pseudo_labels import bootstrap, guess

CONFIG = configure(
    "bilinear", n_units=60, n_subnetworks=6, images_per_subnetwork=200, max_nfev=3, n_train=300
)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def network(digits):
    part = digits.train.take(slice(300))
    return train_network(CONFIG, part.images, part.labels, digits.classes)[0]


# --- the rule ----------------------------------------------------------------------------


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("rule", "outputs", "ambiguous"),
    [
        # tanh: 0.4621 against 0.3799: the difference of 0.0822 is less than 0.2 x 0.4621
        ("margin", [0.5, 0.4, 0.0], True),
        # 0.4621 against 0.2913: 0.1708 is more than 0.0924
        ("margin", [0.5, 0.3, 0.0], False),
        # on both sides of v2 = 0.8 v1: tanh(1) = 0.7616, 0.8 of it = tanh(0.7079)
        ("margin", [1.0, 0.709, 0.0], True),
        ("margin", [1.0, 0.707, 0.0], False),
        # saturated outputs look alike
        ("margin", [3.0, 2.0, 0.0], True),
        # logistic: 0.6225 against 0.5744, and 0.7311 against 0.5
        ("margin-logistic", [0.5, 0.3, 0.0], True),
        ("margin-logistic", [1.0, 0.0, 0.0], False),
        # 0.8 x 0.7311 = 0.5849 = logistic(0.3428)
        ("margin-logistic", [1.0, 0.344, 0.0], True),
        ("margin-logistic", [1.0, 0.341, 0.0], False),
        ("argmax", [0.5, 0.5, 0.5], False),
    ],
)
def test_the_rule_by_hand(rule, outputs, ambiguous):
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        guesses = guess(np.array([outputs])[:, order], rule, rng())
        assert guesses.ambiguous.tolist() == [ambiguous]
        if not ambiguous:
            assert guesses.codes.tolist() == [int(np.argmax(np.array(outputs)[order]))]


def test_normalising_to_sum_one_changes_no_guess():
    """The paper divides by the sum; the margin is relative, so it may be left out."""
    outputs = np.random.default_rng(3).random((500, 4))
    squashed = np.tanh(outputs) / np.tanh(outputs).sum(axis=1, keepdims=True)
    second, first = np.sort(squashed, axis=1)[:, -2:].T
    assert_array_equal(guess(outputs, "margin", rng()).ambiguous, ~(first - second > 0.2 * first))


def test_argmax_is_never_ambiguous():
    outputs = np.random.default_rng(1).standard_normal((300, 5))
    guesses = guess(outputs, "argmax", rng())
    assert not guesses.ambiguous.any()
    assert_array_equal(guesses.codes, outputs.argmax(axis=1))


def test_ambiguous_classes_are_drawn_evenly_from_all():
    outputs = np.zeros((5000, 5))
    outputs[:, 1] = 1e-9
    guesses = guess(outputs, "margin-logistic", rng())
    assert guesses.ambiguous.all()
    counts = np.bincount(guesses.codes, minlength=5)
    assert counts.min() > 900  # 1000 expected each, standard deviation 28
    assert counts.max() < 1100


def test_where_the_rule_decides_it_takes_the_largest():
    outputs = np.random.default_rng(2).standard_normal((400, 6))
    before = outputs.copy()
    for rule in ("margin", "margin-logistic"):
        guesses = guess(outputs, rule, rng())
        decided = ~guesses.ambiguous
        assert 0 < decided.sum() < 400
        assert_array_equal(guesses.codes[decided], outputs.argmax(axis=1)[decided])
    assert_array_equal(outputs, before)


def test_unknown_rule(network, digits):
    with pytest.raises(ValueError, match="rule must be one of margin, margin-logistic, argmax"):
        guess(np.zeros((2, 3)), "best", rng())


# --- no labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", [bootstrap, guess])
def test_there_is_no_parameter_for_labels(function):
    parameters = inspect.signature(function).parameters
    assert not any(
        word in name.lower()
        for name in parameters
        for word in ("label", "target", "true", "y_", "tau", "dataset", "codes")
    )
    assert "y" not in parameters
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())


class Sealed(np.ndarray):
    """An array that nobody may look at while it is closed."""

    closed = False

    def _look(self, *args, **kwargs):
        assert not Sealed.closed, "bootstrap looked at a true label"

    def __getitem__(self, key):
        self._look()
        return np.asarray(super().__getitem__(key))

    def __iter__(self):
        self._look()
        return super().__iter__()

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        self._look()
        plain = [x.view(np.ndarray) if isinstance(x, Sealed) else x for x in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        self._look()
        return super().__array_function__(function, types, args, kwargs)

    def astype(self, *args, **kwargs):
        self._look()
        return super().astype(*args, **kwargs)

    def __reduce__(self):
        self._look()
        return super().__reduce__()


def test_a_run_opens_no_test_label_in_the_bootstrap_pass(monkeypatch):
    digits = load("digits")
    digits.digest  # noqa: B018  (it counts the labels in; known from here on)
    object.__setattr__(digits.test, "labels", digits.test.labels.view(Sealed))

    def closed(network, images, settings, compute, **options):
        Sealed.closed = True
        try:
            with pytest.raises(AssertionError):
                digits.test.labels == 3  # noqa: B015  (the seal holds)
            return bootstrap(network, images, settings, compute, **options)
        finally:
            Sealed.closed = False

    monkeypatch.setattr("varpro_nn.training.pipeline.bootstrap", closed)
    metrics = run(CONFIG.with_options(bootstrap=True), digits, n_jobs=1).metrics
    assert 0.5 < metrics["bootstrap"]["true_accuracy_after"] < 1


# --- the pass ----------------------------------------------------------------------------


def label(network, images, settings, *, n_jobs=1, **options):
    with Compute(n_jobs) as compute:
        return bootstrap(network, images, settings, compute, **options)


def test_the_pass_trains_on_the_guesses(network, digits):
    settings = CONFIG.subnetworks
    images = digits.test.images
    result = label(network, images, settings, rule="argmax", ridge=0.01, seed=1)
    assert_array_equal(result.guesses.codes, network.predict_codes(images))
    assert result.network.W.shape == network.W.shape
    assert result.network.W.dtype == np.float32
    assert not np.array_equal(result.network.W, network.W)
    agreement = np.mean(result.network.predict_codes(images) == result.guesses.codes)
    assert result.agreement_with_guesses == agreement
    assert result.network.training["bootstrap"] == "argmax"
    assert "bootstrap" not in network.training


def test_it_starts_from_the_units_of_the_network(network, digits):
    """With no evaluation allowed, the units stay and the glue alone is new."""
    settings = CONFIG.with_options(max_nfev=0).subnetworks
    result = label(network, digits.test.images, settings, seed=1)
    assert_array_equal(result.network.W, network.W)
    assert not np.array_equal(result.network.A, network.A)


def test_its_network_can_be_saved(network, digits, tmp_path):
    result = label(network, digits.test.images, CONFIG.subnetworks, seed=1)
    result.network.save(tmp_path / "model.npz")
    loaded = type(network).load(tmp_path / "model.npz")
    assert_array_equal(loaded.W, result.network.W)
    again = label(loaded, digits.test.images, CONFIG.subnetworks, seed=2)
    assert again.network.W.shape == network.W.shape


def test_processes_change_no_bit_and_seeds_do(network, digits):
    settings = CONFIG.subnetworks
    one, two, other = (
        label(network, digits.test.images, settings, seed=seed, n_jobs=n_jobs)
        for seed, n_jobs in ((1, 1), (1, 2), (2, 1))
    )
    assert_array_equal(one.network.W, two.network.W)
    assert_array_equal(one.network.A, two.network.A)
    assert_array_equal(one.guesses.codes, two.guesses.codes)
    assert not np.array_equal(one.network.W, other.network.W)


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_a_network_agrees_with_labels_it_was_fitted_to_however_wrong(digits):
    """The artefact of the paper's section 5: agreement near 1 says nothing about accuracy."""
    poor = CONFIG.with_options(
        n_units=600,
        n_subnetworks=12,
        images_per_subnetwork=60,
        n_train=60,
        max_nfev=2,
        bootstrap_ridge=1e-5,
    )
    metrics = run(poor.with_options(bootstrap=True), digits, n_jobs=1).metrics["bootstrap"]
    assert metrics["agreement_with_guesses"] > 0.95
    assert metrics["true_accuracy_before"] < 0.9
    assert metrics["true_accuracy_after"] < metrics["agreement_with_guesses"] - 0.05
    assert metrics["true_accuracy_after"] < metrics["true_accuracy_before"] + 0.03


@pytest.mark.parametrize("parts", [7, 61])
def test_parts_must_be_equal(parts, network, digits):
    settings = replace(CONFIG.subnetworks, n_subnetworks=parts)
    with pytest.raises(ValueError, match=f"must divide the 60 units of the network, got {parts}"):
        label(network, digits.test.images, settings)


def test_images_are_checked(network):
    with pytest.raises(ValueError, match=r"images must have shape \(n, 8, 8\), got"):
        label(network, np.zeros((5, 8, 9)), CONFIG.subnetworks)
