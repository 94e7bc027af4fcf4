import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import configure, load, pipeline, run
from varpro_nn.bootstrap import bootstrap
from varpro_nn.datasets import Dataset, ImageSet
from varpro_nn.errors import DatasetError
from varpro_nn.glue import RIDGES, glue

CONFIG = configure(
    n_units=40, n_subnetworks=4, images_per_subnetwork=200, max_nfev=3, n_train=400, seed=3
)
KEYS = {
    *("dataset", "recipe", "n_train", "n_test", "n_units", "n_parameters", "train_accuracy"),
    *("test_accuracy", "test_accuracy_standard_error", "ridge", "n_subnetworks", "seed"),
    *("n_failed_subnetworks", "wall_seconds", "cpu_seconds", "peak_memory_mib", "versions"),
}
BOOTSTRAP_KEYS = {
    *("agreement_with_guesses", "true_accuracy_before", "true_accuracy_after", "n_ambiguous"),
}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def done(digits):
    return run(replace(CONFIG, bootstrap=True), digits, n_jobs=1)


def assert_same_bits(one, other):
    assert_array_equal(one.W, other.W)
    assert_array_equal(one.A, other.A)


# --- metrics -----------------------------------------------------------------------------


def test_metrics_have_every_key_of_the_contract_and_are_strict_json(done):
    assert set(done.metrics) >= KEYS | {"bootstrap"}
    assert set(done.metrics["bootstrap"]) >= BOOTSTRAP_KEYS
    assert json.loads(json.dumps(done.metrics, allow_nan=False)) == done.metrics


def test_agreement_is_nowhere_called_accuracy(done):
    agreement = done.metrics["bootstrap"]["agreement_with_guesses"]
    assert agreement == done.bootstrap.agreement_with_guesses
    flat = {**done.metrics, **done.metrics["bootstrap"]}
    accuracies = {name: value for name, value in flat.items() if "accuracy" in name}
    assert agreement not in accuracies.values()
    assert {"true_accuracy_before", "true_accuracy_after"} <= set(accuracies)


def test_metrics_are_what_a_reader_would_measure(done, digits):
    network, metrics = done.network, done.metrics
    train = digits.train.take(slice(400))
    assert (metrics["n_train"], metrics["n_test"]) == (400, 297)
    assert metrics["train_accuracy"] == np.mean(network.predict(train.images) == train.labels)
    share = np.mean(network.predict(digits.test.images) == digits.test.labels)
    assert metrics["test_accuracy"] == share
    assert np.isclose(metrics["test_accuracy_standard_error"], (share * (1 - share) / 297) ** 0.5)
    assert share > 0.8
    assert metrics["ridge"] == done.glue.ridge
    assert metrics["seed"] == 3
    assert metrics["dataset"] == "digits"
    assert metrics["n_subnetworks"] == 4
    assert metrics["n_failed_subnetworks"] == 0
    assert metrics["cpu_seconds"] > 0
    assert metrics["wall_seconds"] >= metrics["training_wall_seconds"] > 0
    assert 20 < metrics["peak_memory_mib"] < 20_000
    assert metrics["versions"]["numpy"] == np.__version__


def test_the_bootstrap_figures_are_what_a_reader_would_measure(done, digits):
    figures, labels = done.metrics["bootstrap"], digits.test.labels
    after = done.bootstrap.network.predict_codes(digits.test.images)
    assert figures["true_accuracy_before"] == done.metrics["test_accuracy"]
    assert figures["true_accuracy_after"] == np.mean(after == labels)
    assert figures["agreement_with_guesses"] == np.mean(after == done.bootstrap.guesses.codes)
    assert figures["n_ambiguous"] == done.bootstrap.guesses.ambiguous.sum()


@pytest.mark.parametrize(
    ("units", "weights"), [("bilinear", 8 + 8 + 1), ("quadratic", 8 + 1), ("dense", 64 + 1)]
)
def test_parameters_by_hand(units, weights, digits):
    result = run(replace(CONFIG, units=units, max_nfev=0), digits, n_jobs=1)
    assert result.metrics["n_units"] == 40
    assert result.metrics["n_parameters"] == 40 * weights + (40 + 1) * 10


# --- what reaches the network ------------------------------------------------------------


def test_test_labels_reach_the_metrics_and_nothing_else(done, digits, tmp_path):
    labels = np.random.default_rng(0).permutation(digits.test.labels)
    permuted = replace(digits, test=ImageSet(digits.test.images, labels))
    result = run(replace(CONFIG, bootstrap=True), permuted, n_jobs=1)
    assert_same_bits(result.network, done.network)
    assert_same_bits(result.bootstrap.network, done.bootstrap.network)
    files = []
    for number, network in enumerate((result.network, done.network)):
        network.save(tmp_path / f"{number}.npz")
        files.append((tmp_path / f"{number}.npz").read_bytes())
    assert files[0] == files[1]
    assert_array_equal(result.bootstrap.guesses.codes, done.bootstrap.guesses.codes)
    assert result.metrics["ridge"] == done.metrics["ridge"]
    assert result.metrics["train_accuracy"] == done.metrics["train_accuracy"]
    assert result.metrics["test_accuracy"] < 0.3 < done.metrics["test_accuracy"]
    assert result.metrics["bootstrap"]["true_accuracy_after"] < 0.3


def test_test_images_reach_the_network_by_bootstrap_alone(done, digits):
    images = np.random.default_rng(0).random(digits.test.images.shape).astype(np.float32)
    other = replace(digits, test=ImageSet(images, digits.test.labels))
    result = run(replace(CONFIG, bootstrap=True), other, n_jobs=1)
    assert_same_bits(result.network, done.network)
    assert not np.array_equal(result.bootstrap.network.W, done.bootstrap.network.W)


def test_bootstrap_changes_not_the_network_before_it(done, digits):
    assert_same_bits(run(CONFIG, digits, n_jobs=1).network, done.network)


def test_images_after_n_train_do_not_count(digits, done):
    cut = replace(digits, train=digits.train.take(slice(400)))
    assert_same_bits(run(replace(CONFIG, n_train=None), cut, n_jobs=1).network, done.network)
    more = run(replace(CONFIG, n_train=10**6), cut, n_jobs=1)
    assert more.metrics["n_train"] == 400
    assert_same_bits(more.network, done.network)
    less = run(replace(CONFIG, n_train=399), digits, n_jobs=1)
    assert not np.array_equal(less.network.A, done.network.A)


def test_same_seed_same_bits_other_seed_other_bits(digits, done):
    two = run(replace(CONFIG, bootstrap=True), digits, n_jobs=2)
    assert_same_bits(two.network, done.network)
    assert_same_bits(two.bootstrap.network, done.bootstrap.network)
    timed = {"wall_seconds", "cpu_seconds", "training_wall_seconds", "training_cpu_seconds"}
    changing = timed | {"peak_memory_mib", "n_jobs"}
    for name in set(done.metrics) - changing:
        assert two.metrics[name] == done.metrics[name], name
    other = run(replace(CONFIG, seed=4), digits, n_jobs=1)
    assert not np.array_equal(other.network.W, done.network.W)


def test_the_saved_file_is_the_same_for_any_number_of_jobs(digits, done, tmp_path):
    two = run(replace(CONFIG, bootstrap=True), digits, n_jobs=2)
    two.network.save(tmp_path / "two.npz")
    done.network.save(tmp_path / "one.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_the_network_is_its_subnetworks_glued_on_all_images(done, digits):
    part = digits.train.take(slice(400))
    W = np.concatenate([s.W for s in done.subnetworks]).astype(np.float32)
    assert_array_equal(done.network.W, W)
    report = glue(done.network.units, W, part.images, part.labels, 10, ridge=RIDGES)
    assert_array_equal(done.network.A, report.A)


def test_a_given_glue_ridge_is_taken(digits):
    result = run(replace(CONFIG, glue_ridge=7.0, max_nfev=0), digits, n_jobs=1)
    assert result.metrics["ridge"] == 7.0
    assert result.glue.ridges == (7.0,)


def test_the_network_remembers_where_it_comes_from(done, digits):
    training = done.network.training
    assert training["config"] == asdict(replace(CONFIG, bootstrap=True))
    assert training["dataset"] == "digits"
    assert training["digest"] == digits.train.take(slice(400)).digest
    values = dict(training["config"])
    assert configure(values.pop("recipe"), **values) == replace(CONFIG, bootstrap=True)


def test_training_helps(digits):
    few = replace(CONFIG, n_units=20, n_subnetworks=2, n_train=None, images_per_subnetwork=800)
    untrained = run(replace(few, max_nfev=0), digits, n_jobs=1).metrics["test_accuracy"]
    trained = run(replace(few, max_nfev=15), digits, n_jobs=1).metrics["test_accuracy"]
    assert trained > untrained + 0.02


# --- data sets of another kind -----------------------------------------------------------


def test_without_a_test_set_there_is_no_test_accuracy(digits, done):
    result = run(CONFIG, replace(digits, test=None), n_jobs=1)
    assert_same_bits(result.network, done.network)
    assert result.metrics["n_test"] == 0
    assert set(result.metrics) >= KEYS - {"test_accuracy", "test_accuracy_standard_error"}
    assert not any("test_accuracy" in name for name in result.metrics)
    json.dumps(result.metrics, allow_nan=False)


def test_bootstrap_needs_test_images(digits):
    with pytest.raises(DatasetError, match="bootstrap needs test images"):
        run(replace(CONFIG, bootstrap=True), replace(digits, test=None), n_jobs=1)


def test_strings_as_classes(digits, done):
    names = np.array([f"digit {i}" for i in range(10)])
    result = run(CONFIG, replace(digits, classes=names), n_jobs=1)
    assert_same_bits(result.network, done.network)
    expected = names[done.network.predict(digits.test.images)]
    assert_array_equal(result.network.predict(digits.test.images), expected)


def test_colour_and_rectangles():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.integers(0, 100, (90, 3, 5, 4), dtype=np.uint8)
    images[np.arange(90), labels] += 120  # the channel tells the class
    dataset = Dataset("made", np.arange(3), ImageSet(images, labels), ImageSet(images, labels))
    config = replace(CONFIG, images_per_subnetwork=60, n_train=None)
    metrics = run(config, dataset, n_jobs=1).metrics
    assert metrics["test_accuracy"] > 0.95
    assert metrics["n_parameters"] == 40 * (3 + 5 + 4 + 1) + 41 * 3


# --- a sub-network that fails ------------------------------------------------------------


@pytest.mark.parametrize("failing", [(1,), (0, 3)])
def test_the_others_make_the_network(failing, digits, monkeypatch, done):
    """Also with bootstrap, which cuts the units that are left into the parts that are left."""
    original = pipeline.train_subnetworks

    def some_fail(*args, **kwargs):
        return [
            replace(s, W=None, report=None, error="made to fail") if s.index in failing else s
            for s in original(*args, **kwargs)
        ]

    monkeypatch.setattr(pipeline, "train_subnetworks", some_fail)
    result = run(CONFIG, digits, n_jobs=1)
    assert result.metrics["n_failed_subnetworks"] == len(failing)
    assert result.metrics["n_units"] == 40 - 10 * len(failing)
    left = [s.W for s in done.subnetworks if s.index not in failing]
    assert_array_equal(result.network.W, np.concatenate(left).astype(np.float32))
    parts = []

    def spy(network, images, settings, **options):
        parts.append(settings.n_subnetworks)
        return bootstrap(network, images, settings, **options)

    monkeypatch.setattr(pipeline, "bootstrap", spy)
    bootstrapped = run(replace(CONFIG, bootstrap=True), digits, n_jobs=1)
    assert len(bootstrapped.bootstrap.network.W) == 40 - 10 * len(failing)
    assert parts == [4 - len(failing)]


def test_pixels_of_another_scale_are_refused_not_labelled():
    """Bytes turned to floats without the division by 255 were labelled wrongly in silence."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 5, 5), dtype=np.uint8)
    network, _, _ = pipeline.train_network(
        replace(CONFIG, n_train=None), images, np.arange(60) % 3, np.arange(3)
    )
    assert_array_equal(network.predict(images / 255), network.predict(images))
    with pytest.raises(ValueError, match=r"up to 1, got 25\d; pixels from 0 to 255 must be uint8"):
        network.predict(images.astype(float))
