import json
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils import compute_sample_weight

from varpro_nn import Network, TrainConfig, configure, load, run, train_network
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError, SubnetworkWarning
from varpro_nn.output.penalties import RIDGES
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.training import layers, pipeline, schemes
from varpro_nn.training.plan import streams
from varpro_nn.training.pseudo_labels import bootstrap
from varpro_nn.training.subnetwork import SubnetworkPlan, train_one

CONFIG = configure(
    "bilinear",
    n_units=40,
    n_subnetworks=4,
    images_per_subnetwork=200,
    max_nfev=3,
    n_train=400,
    seed=3,
)
KEYS = {
    *("dataset", "recipe", "n_train", "n_test", "n_units", "n_parameters", "train_accuracy"),
    *("test_accuracy", "test_accuracy_standard_error", "output_penalty", "n_subnetworks", "seed"),
    *("n_failed_subnetworks", "wall_seconds", "cpu_seconds", "peak_memory_mib", "versions"),
    *("output_layer", "output_penalty_chosen_by", "scheme", "views"),
}
BOOTSTRAP_KEYS = {
    *("agreement_with_guesses", "true_accuracy_before", "true_accuracy_after", "n_ambiguous"),
}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def done(digits):
    return run(CONFIG.with_options(bootstrap=True), digits, n_jobs=1)


def assert_same_bits(one, other):
    assert_array_equal(one.W, other.W)
    assert_array_equal(one.A, other.A)


# --- metrics -----------------------------------------------------------------------------


def test_weights_of_a_data_set_count_with_any_number_of_jobs():
    digits = load("digits")
    weights = np.where(digits.train.labels == 3, 20.0, 0.5)
    heavy = ImageSet(digits.train.images, digits.train.labels, weights)
    dataset = Dataset("heavy", digits.classes, heavy, digits.test)
    config = configure(
        "bilinear", n_units=12, n_subnetworks=2, images_per_subnetwork=300, max_nfev=3
    )
    one, two, plain = (
        run(config, data, n_jobs=n_jobs).network
        for data, n_jobs in ((dataset, 1), (dataset, 2), (digits, 1))
    )
    np.testing.assert_array_equal(one.A, two.A)
    np.testing.assert_array_equal(one.W, two.W)
    assert not np.array_equal(one.W, plain.W)
    assert dataset.digest != replace(dataset, train=digits.train).digest


@pytest.fixture(scope="module")
def lopsided(digits):
    """Digits with 15 images of the classes 3 and 8, and weights of their own."""
    labels = digits.train.labels[:1000]
    few = np.isin(labels, (3, 8)) & (np.arange(1000) >= np.flatnonzero(labels == 8)[15])
    train = digits.train.take(np.flatnonzero(~few))
    return replace(digits, train=train)


@pytest.mark.parametrize("own", [False, True], ids=["plain", "with weights of its own"])
@pytest.mark.parametrize(
    "settings",
    [
        {"output_layer": "ridge", "n_copies": 0},
        {"output_layer": "ridge", "n_copies": 1, "shift": 1, "standardise": True},
        {"output_layer": "hinge", "loss": "cross-entropy"},
        {"output_layer": "softmax", "scheme": "stages", "n_stages": 2},
    ],
    ids=lambda settings: settings["output_layer"],
)
def test_balanced_weights_are_those_by_hand(settings, own, lopsided):
    """In every loss and output layer, and in the choice of the penalty."""
    train = lopsided.train.take(slice(500))
    weights = np.linspace(0.5, 2, len(train)) if own else None
    by_hand = compute_sample_weight("balanced", train.labels)
    config = CONFIG.with_options(
        **{"n_units": 8, "n_subnetworks": 2, "images_per_subnetwork": 150, "n_train": None},
        **settings,
    )
    one, two, plain = (
        run(config.with_options(class_weight=class_weight), data, n_jobs=n_jobs)
        for class_weight, data, n_jobs in (
            ("balanced", replace(lopsided, train=replace(train, weights=weights)), 1),
            (
                None,
                replace(lopsided, train=replace(train, weights=by_hand * (weights if own else 1))),
                2,
            ),
            (None, replace(lopsided, train=train), 1),
        )
    )
    assert_same_bits(one.network, two.network)
    assert one.network.temperature == two.network.temperature
    assert one.output_layer.error_rates == two.output_layer.error_rates
    assert not np.array_equal(one.network.W, plain.network.W)
    assert not np.array_equal(one.network.A, plain.network.A)
    assert (one.metrics["class_weight"], plain.metrics["class_weight"]) == ("balanced", None)


def test_balanced_weights_raise_the_balanced_accuracy(lopsided):
    config = CONFIG.with_options(n_units=20, n_subnetworks=2, n_train=None)
    plain, balanced = (
        run(config.with_options(class_weight=class_weight), lopsided, n_jobs=1).metrics
        for class_weight in (None, "balanced")
    )
    assert balanced["test_balanced_accuracy"] > plain["test_balanced_accuracy"] + 0.02


def test_balanced_weights_of_the_first_images(lopsided):
    """Images that are left out do not count."""
    config = CONFIG.with_options(class_weight="balanced", max_nfev=0, n_train=300)
    first = replace(lopsided, train=lopsided.train.take(slice(300)))
    assert_same_bits(
        run(config, lopsided, n_jobs=1).network,
        run(config.with_options(n_train=None), first, n_jobs=1).network,
    )


def test_balanced_weights_of_arrays(lopsided):
    train = lopsided.train
    config = CONFIG.with_options(n_train=None, max_nfev=1)
    weights = np.linspace(1, 2, len(train))
    networks = [
        train_network(config.with_options(class_weight=class_weight), *arrays, sample_weight=given)[
            0
        ]
        for arrays in [(train.images, train.labels, lopsided.classes)]
        for class_weight, given in (
            ("balanced", weights),
            (None, weights * compute_sample_weight("balanced", train.labels)),
        )
    ]
    assert_same_bits(*networks)


def test_a_run_sums_itself_up(done):
    text, page = done.summary(), done._repr_html_()
    assert f"{done.metrics['test_accuracy']:.4f} ± " in text
    assert f"{done.metrics['n_parameters']:,}" in text
    assert len(text.splitlines()) == page.count("<tr>")
    for line in text.splitlines():
        assert line.split("  ")[-1].strip() in page


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


@pytest.mark.parametrize("limit", ["images", "bytes"])
def test_the_training_accuracy_is_of_a_sample(limit, done, digits, monkeypatch):
    some = np.sort(np.random.default_rng(0).choice(400, 8, replace=False))
    training = TrainingSet.of(digits, 400)
    if limit == "images":
        monkeypatch.setattr(pipeline, "MEASURED", len(some))
    else:
        monkeypatch.setattr(pipeline, "MEASURED_BYTES", len(some) * training.images[0].nbytes)
    codes = done.network.predict_codes(training.images)
    targets = (codes + 1) % 10
    targets[some] = codes[some]
    right_there = replace(training, targets=targets)
    assert pipeline._train_accuracy(done.network, right_there, 1) == 1.0


def test_metrics_are_what_a_reader_would_measure(done, digits):
    network, metrics = done.network, done.metrics
    train = digits.train.take(slice(400))
    assert (metrics["n_train"], metrics["n_test"]) == (400, 297)
    assert metrics["train_accuracy"] == np.mean(network.predict(train.images) == train.labels)
    share = np.mean(network.predict(digits.test.images) == digits.test.labels)
    assert metrics["test_accuracy"] == share
    assert np.isclose(metrics["test_accuracy_standard_error"], (share * (1 - share) / 297) ** 0.5)
    assert share > 0.8
    assert metrics["output_penalty"] == done.output_layer.penalty
    assert metrics["output_penalty_chosen_by"] == done.output_layer.chosen_by == "leave-one-out"
    assert metrics["linear_layer_loo_accuracy"] == 1 - min(done.output_layer.error_rates)
    assert "split_accuracy" not in metrics
    assert metrics["output_layer"] == done.output_layer.name == network.output_layer == "ridge"
    assert (metrics["scheme"], metrics["views"]) == ("independent", "single")
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
    result = run(CONFIG.with_options(units=units, max_nfev=0), digits, n_jobs=1)
    assert result.metrics["n_units"] == 40
    assert result.metrics["n_parameters"] == 40 * weights + (40 + 1) * 10


# --- what reaches the network ------------------------------------------------------------


def test_test_labels_reach_the_metrics_and_nothing_else(done, digits, tmp_path):
    labels = np.random.default_rng(0).permutation(digits.test.labels)
    permuted = replace(digits, test=ImageSet(digits.test.images, labels))
    result = run(CONFIG.with_options(bootstrap=True), permuted, n_jobs=1)
    assert_same_bits(result.network, done.network)
    assert_same_bits(result.bootstrap.network, done.bootstrap.network)
    files = []
    for number, network in enumerate((result.network, done.network)):
        network.save(tmp_path / f"{number}.npz")
        files.append((tmp_path / f"{number}.npz").read_bytes())
    assert files[0] == files[1]
    assert_array_equal(result.bootstrap.guesses.codes, done.bootstrap.guesses.codes)
    assert result.metrics["output_penalty"] == done.metrics["output_penalty"]
    assert result.metrics["train_accuracy"] == done.metrics["train_accuracy"]
    assert result.metrics["test_accuracy"] < 0.3 < done.metrics["test_accuracy"]
    assert result.metrics["bootstrap"]["true_accuracy_after"] < 0.3


def test_test_images_reach_the_network_by_bootstrap_alone(done, digits):
    images = np.random.default_rng(0).random(digits.test.images.shape).astype(np.float32)
    other = replace(digits, test=ImageSet(images, digits.test.labels))
    result = run(CONFIG.with_options(bootstrap=True), other, n_jobs=1)
    assert_same_bits(result.network, done.network)
    assert not np.array_equal(result.bootstrap.network.W, done.bootstrap.network.W)


def test_bootstrap_changes_not_the_network_before_it(done, digits):
    assert_same_bits(run(CONFIG, digits, n_jobs=1).network, done.network)


def test_images_after_n_train_do_not_count(digits, done):
    cut = replace(digits, train=digits.train.take(slice(400)))
    assert_same_bits(run(CONFIG.with_options(n_train=None), cut, n_jobs=1).network, done.network)
    more = run(CONFIG.with_options(n_train=10**6), cut, n_jobs=1)
    assert more.metrics["n_train"] == 400
    assert_same_bits(more.network, done.network)
    less = run(CONFIG.with_options(n_train=399), digits, n_jobs=1)
    assert not np.array_equal(less.network.A, done.network.A)


def test_same_seed_same_bits_other_seed_other_bits(digits, done):
    two = run(CONFIG.with_options(bootstrap=True), digits, n_jobs=2)
    assert_same_bits(two.network, done.network)
    assert_same_bits(two.bootstrap.network, done.bootstrap.network)
    timed = {"wall_seconds", "cpu_seconds", "training_wall_seconds", "training_cpu_seconds"}
    changing = timed | {"peak_memory_mib", "n_jobs"}
    for name in set(done.metrics) - changing:
        assert two.metrics[name] == done.metrics[name], name
    other = run(CONFIG.with_options(seed=4), digits, n_jobs=1)
    assert not np.array_equal(other.network.W, done.network.W)


def test_the_saved_file_is_the_same_for_any_number_of_jobs(digits, done, tmp_path):
    two = run(CONFIG.with_options(bootstrap=True), digits, n_jobs=2)
    two.network.save(tmp_path / "two.npz")
    done.network.save(tmp_path / "one.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_the_network_is_its_subnetworks_glued_on_all_images(done, digits):
    W = np.concatenate([s.W for s in done.subnetworks]).astype(np.float32)
    assert_array_equal(done.network.W, W)
    report = fit_ridge(done.network.units, W, TrainingSet.of(digits, 400), Compute())
    assert_array_equal(done.network.A, report.A)
    layer = done.output_layer
    assert_array_equal(layer.A, report.A)
    assert (layer.name, layer.chosen_by) == ("ridge", "leave-one-out")
    assert layer.penalty == report.penalty
    assert (layer.penalties, layer.error_rates) == (RIDGES, report.error_rates)
    assert layer.n_iterations == 0


def test_a_given_output_penalty_is_taken(digits):
    result = run(CONFIG.with_options(output_penalty=7.0, max_nfev=0), digits, n_jobs=1)
    assert result.metrics["output_penalty"] == 7.0
    assert result.metrics["output_penalty_chosen_by"] == "given"
    assert result.output_layer.penalties == (7.0,)
    assert result.metrics["scheme"] == "untrained"


def test_the_network_remembers_where_it_comes_from(done, digits):
    training = done.network.training
    assert training["config"] == asdict(CONFIG.with_options(bootstrap=True))
    assert training["dataset"] == "digits"
    assert training["digest"] == TrainingSet.of(digits, 400).digest
    assert TrainConfig.from_dict(training["config"]) == CONFIG.with_options(bootstrap=True)


def test_training_helps(digits):
    few = CONFIG.with_options(n_units=20, n_subnetworks=2, n_train=None, images_per_subnetwork=800)
    untrained = run(few.with_options(max_nfev=0), digits, n_jobs=1).metrics["test_accuracy"]
    trained = run(few.with_options(max_nfev=15), digits, n_jobs=1).metrics["test_accuracy"]
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
        run(CONFIG.with_options(bootstrap=True), replace(digits, test=None), n_jobs=1)


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
    config = CONFIG.with_options(images_per_subnetwork=60, n_train=None)
    metrics = run(config, dataset, n_jobs=1).metrics
    assert metrics["test_accuracy"] > 0.95
    assert metrics["n_parameters"] == 40 * (3 + 5 + 4 + 1) + 41 * 3


# --- a sub-network that fails ------------------------------------------------------------


@pytest.mark.parametrize("failing", [(1,), (0, 3)])
def test_the_others_make_the_network(failing, digits, monkeypatch, done):
    """Also with bootstrap, which cuts the units that are left into the parts that are left."""
    original = schemes.train_subnetworks

    def some_fail(*args, **kwargs):
        return [
            replace(s, W=None, report=None, error="made to fail") if s.index in failing else s
            for s in original(*args, **kwargs)
        ]

    monkeypatch.setattr(schemes, "train_subnetworks", some_fail)
    said = f"{len(failing)} of 4 sub-networks failed, .*sub-network {failing[0]}: made to fail"
    with pytest.warns(SubnetworkWarning, match=said):
        result = run(CONFIG, digits, n_jobs=1)
    assert result.metrics["n_failed_subnetworks"] == len(failing)
    assert result.metrics["n_units"] == 40 - 10 * len(failing)
    left = [s.W for s in done.subnetworks if s.index not in failing]
    assert_array_equal(result.network.W, np.concatenate(left).astype(np.float32))
    parts = []

    def spy(network, images, settings, compute, **options):
        parts.append(settings.n_subnetworks)
        return bootstrap(network, images, settings, compute, **options)

    monkeypatch.setattr(pipeline, "bootstrap", spy)
    with pytest.warns(SubnetworkWarning):
        bootstrapped = run(CONFIG.with_options(bootstrap=True), digits, n_jobs=1)
    assert len(bootstrapped.bootstrap.network.W) == 40 - 10 * len(failing)
    assert parts == [4 - len(failing)]


def test_pixels_of_another_scale_are_refused_not_labelled():
    """Bytes turned to floats without the division by 255 were labelled wrongly in silence."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 5, 5), dtype=np.uint8)
    network, _, _ = layers.train_network(
        CONFIG.with_options(n_train=None), images, np.arange(60) % 3, np.arange(3)
    )
    assert_array_equal(network.predict(images / 255), network.predict(images))
    expected = r"from 0 to 1 as in training, got 2.* pixels from 0 to 255 must be uint8"
    with pytest.raises(ValueError, match=expected):
        network.predict(images.astype(float))


@pytest.mark.parametrize("settings", [{"shift": 8}, {"elastic": 8.0}], ids=str)
def test_a_displacement_as_large_as_the_images_is_refused(settings, digits):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be less than the sides .*, 8 x 8 pixels"):
        run(CONFIG.with_options(**settings), digits, n_jobs=1)


def test_test_images_on_another_scale_are_refused_before_the_work(digits, monkeypatch):
    monkeypatch.setattr(pipeline, "train_classifier", None)
    bright = ImageSet(16 * digits.test.images, digits.test.labels)
    with pytest.raises(DatasetError, match=r"test images must be from 0 to 1 as in .* got 16"):
        run(CONFIG, replace(digits, test=bright), n_jobs=1)


# --- networks of patch units -------------------------------------------------------------

PATCHES = configure(
    "tiny", data="digits",
    n_units=8, n_subnetworks=2, images_per_subnetwork=100, n_rounds=2, max_nfev=2, n_train=300,
    seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def patches(digits):
    return run(PATCHES.with_options(bootstrap=True, training_stride=2), digits, n_jobs=1)


def test_metrics_of_patch_units(patches, digits):
    metrics, layer = patches.metrics, patches.output_layer
    train = digits.train.take(slice(300))
    assert set(metrics) >= KEYS | {"split_accuracy", "bootstrap"}
    assert "linear_layer_loo_accuracy" not in metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    network = patches.network
    assert metrics["train_accuracy"] == np.mean(network.predict(train.images) == train.labels)
    share = np.mean(network.predict(digits.test.images) == digits.test.labels)
    assert metrics["test_accuracy"] == share > 0.8
    assert metrics["n_parameters"] == 8 * (9 + 1) + (8 * 9 + 1) * 10
    assert metrics["output_layer"] == network.output_layer == layer.name == "hinge"
    assert metrics["output_penalty"] == layer.penalty
    assert metrics["output_penalty_chosen_by"] == layer.chosen_by == "split"
    assert len(layer.penalties) == len(layer.losses) == len(layer.error_rates) > 1
    best = layer.penalties.index(layer.penalty)
    assert layer.losses[best] <= min(layer.losses) / 0.99
    assert metrics["split_accuracy"] == 1 - layer.error_rates[best]
    assert layer.n_iterations > 0


@pytest.fixture
def in_training(monkeypatch):
    """Collect the units that each call trains."""
    seen = []
    original = layers.train_by_scheme

    def spy(plan, *args, **options):
        seen.append(plan.units)
        return original(plan, *args, **options)

    monkeypatch.setattr(layers, "train_by_scheme", spy)
    return seen


def test_windows_lie_as_close_as_asked_for_in_the_network(patches, digits, in_training):
    """Sub-networks are trained with the windows of ``training_stride``."""
    assert patches.network.units.stride == 1
    again = run(PATCHES.with_options(training_stride=2), digits, n_jobs=1)
    assert [units.stride for units in in_training] == [2]
    assert_same_bits(again.network, patches.network)
    other = run(PATCHES, digits, n_jobs=1)
    assert [units.stride for units in in_training] == [2, 1]
    assert not np.array_equal(other.network.W, again.network.W)


@pytest.mark.parametrize("of_layers", [{}, {"first_units": 5}], ids=["one layer", "two layers"])
def test_cells_in_training_may_be_fewer_than_in_the_network(of_layers, digits, in_training):
    """Weights are those of a network with the grid of training; its cells are those of ``grid``."""
    settings = {
        **of_layers, "n_units": 8, "n_subnetworks": 2, "max_nfev": 2, "n_train": 300,
        "output_layer": "ridge", "scheme": "independent", "n_stages": 1, "shift": 0, "n_copies": 0,
    }  # fmt: skip
    config = configure("default", data=digits, grid=3, training_grid=1, **settings)
    found = run(config, digits, n_jobs=1).network
    alone = run(config.with_options(grid=1, training_grid=None), digits, n_jobs=1).network
    whole = run(config.with_options(training_grid=None), digits, n_jobs=1).network
    assert [units.grid for units in in_training] == [1, 1, 3]
    assert_array_equal(found.W, alone.W)
    assert not np.array_equal(found.W, whole.W)
    assert found.units.grid == 3
    assert len(found.A) == 8 * found.units.n_cells + 1
    with pytest.raises(ValueError, match="grid must be at most the places of a window"):
        run(config.with_options(training_grid=9), digits, n_jobs=1)


def test_processes_change_no_bit_of_patch_units(patches, digits):
    two = run(PATCHES.with_options(bootstrap=True, training_stride=2), digits, n_jobs=2)
    assert_same_bits(two.network, patches.network)
    assert_same_bits(two.bootstrap.network, patches.bootstrap.network)
    assert two.metrics["split_accuracy"] == patches.metrics["split_accuracy"]


def test_test_labels_reach_no_network_of_patch_units(patches, digits):
    labels = np.random.default_rng(0).permutation(digits.test.labels)
    permuted = replace(digits, test=ImageSet(digits.test.images, labels))
    result = run(PATCHES.with_options(bootstrap=True, training_stride=2), permuted, n_jobs=1)
    assert_same_bits(result.network, patches.network)
    assert_same_bits(result.bootstrap.network, patches.bootstrap.network)
    assert result.metrics["output_penalty"] == patches.metrics["output_penalty"]


@pytest.mark.parametrize(
    ("layer", "penalty", "n_copies"),
    [
        ("ridge", None, 0), ("ridge", None, 1), ("ridge", 10.0, 0), ("softmax", None, 1),
        ("softmax", 10.0, 0), ("hinge", None, 0), ("hinge", 10.0, 1),
    ],
)  # fmt: skip
def test_every_output_layer_is_measured(layer, penalty, n_copies, digits):
    """Copies of an image would flatter a leave-one-out error: with them it goes by the split."""
    config = PATCHES.with_options(
        output_layer=layer, output_penalty=penalty, n_copies=n_copies, max_nfev=1
    )
    metrics = run(config, digits, n_jobs=1).metrics
    assert metrics["output_layer"] == layer
    alone = layer == "ridge" and not n_copies
    chosen = "given" if penalty else "leave-one-out" if alone else "split"
    assert metrics["output_penalty_chosen_by"] == chosen
    by = {"linear_layer_loo_accuracy", "split_accuracy"} & set(metrics)
    if chosen == "split":
        assert by == {"split_accuracy"}
    else:
        assert by == ({"linear_layer_loo_accuracy"} if alone else set())
    assert penalty is None or metrics["output_penalty"] == penalty
    assert metrics["test_accuracy"] > 0.7


def test_views_are_of_the_network_alone(patches, digits):
    """They change what is measured, and no weight."""
    result = run(PATCHES.with_options(training_stride=2, views="flip"), digits, n_jobs=1)
    assert_same_bits(result.network, patches.network)
    assert result.metrics["views"] == result.network.views == "flip"
    share = np.mean(result.network.predict(digits.test.images) == digits.test.labels)
    assert result.metrics["test_accuracy"] == share != patches.metrics["test_accuracy"]


def test_schemes_are_named_in_the_metrics(digits):
    config = PATCHES.with_options(scheme="stages", n_stages=2)
    result = run(config, digits, n_jobs=1)
    assert result.metrics["scheme"] == "stages"
    assert [s.index for s in result.subnetworks] == [0, 1]
    assert_same_bits(run(config, digits, n_jobs=2).network, result.network)
    untrained = run(config.with_options(max_nfev=0), digits, n_jobs=1)
    assert untrained.metrics["scheme"] == "untrained"


def test_untrained_units_are_those_of_no_evaluation(digits):
    untrained = run(PATCHES.with_options(scheme="untrained"), digits, n_jobs=1)
    assert untrained.metrics["scheme"] == "untrained"
    assert all(s.report is None for s in untrained.subnetworks)
    none = run(PATCHES.with_options(max_nfev=0), digits, n_jobs=1)
    assert_same_bits(untrained.network, none.network)


def test_whitening_is_learnt_on_training_images_and_kept(digits, tmp_path):
    config = PATCHES.with_options(whitening=0.1, n_components=5)
    result = run(config, digits, n_jobs=1)
    network = result.network
    assert (network.units.centre.shape, network.units.whitening.shape) == ((9,), (5, 9))
    assert result.metrics["n_parameters"] == 8 * (5 + 1) + (8 * 9 + 1) * 10 + 9 + 5 * 9
    images = np.random.default_rng(0).random(digits.test.images.shape).astype(np.float32)
    other = run(config, replace(digits, test=ImageSet(images, digits.test.labels)), n_jobs=1)
    assert_array_equal(other.network.units.whitening, network.units.whitening)
    assert_same_bits(other.network, network)


def test_distorted_copies_are_for_the_output_layer_alone(digits, patches):
    config = PATCHES.with_options(training_stride=2, n_copies=2)
    result = run(config, digits, n_jobs=1)
    assert_array_equal(result.network.W, patches.network.W)
    assert not np.array_equal(result.network.A, patches.network.A)
    assert result.metrics["n_train"] == 300


def test_colour_patches_and_rectangles():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.integers(0, 100, (90, 3, 7, 6), dtype=np.uint8)
    images[np.arange(90), labels] += 120  # the channel tells the class
    dataset = Dataset("made", np.arange(3), ImageSet(images, labels), ImageSet(images, labels))
    config = PATCHES.with_options(images_per_subnetwork=60, n_train=None, whitening=0.1)
    metrics = run(config, dataset, n_jobs=1).metrics
    assert metrics["test_accuracy"] > 0.95
    assert metrics["n_parameters"] == 8 * (27 + 1) + (8 * 9 + 1) * 3 + 27 + 27 * 27


# --- two layers --------------------------------------------------------------------------

TWO_LAYERS = {
    "window": 2, "grid": 2, "n_components": 12, "n_units": 24, "n_subnetworks": 2,
    "images_per_subnetwork": 400, "first_units": 6, "first_window": 3,
    "first_grid": 6, "output_layer": "ridge", "solver": "lsmr", "n_train": 700,
}  # fmt: skip


def test_a_second_layer_is_trained_on_maps(digits, tmp_path):
    """The first layer stays as it was drawn; the cost of the second falls."""
    config = configure("default", data=digits, seed=1, max_nfev=4, n_copies=0, **TWO_LAYERS)
    result, again = (run(config, digits, n_jobs=n) for n in (1, 2))
    trained = result.network
    assert_same_bits(trained, again.network)
    for subnetwork in result.subnetworks:
        history = subnetwork.report.history
        assert history[-1].cost < 0.8 * history[0].cost
    untrained = run(config.with_options(scheme="untrained"), digits, n_jobs=1).network
    assert_array_equal(trained.units.below.W, untrained.units.below.W)
    assert_array_equal(trained.units.below.whitening, untrained.units.below.whitening)
    assert not np.array_equal(trained.W, untrained.W)
    trained.save(tmp_path / "model.npz")
    loaded = Network.load(tmp_path / "model.npz")
    assert loaded.predict_codes(digits.test.images).tolist() == (
        trained.predict_codes(digits.test.images).tolist()
    )


def test_units_are_trained_on_batches(digits):
    """All images; each round continues from the weights of the round before."""
    settings = {
        **TWO_LAYERS, "solver": "kfac", "batch_size": 100, "images_per_subnetwork": 1000,
        "max_nfev": 2, "n_rounds": 2, "shift": 1, "n_copies": 0, "class_weight": "balanced",
    }  # fmt: skip
    config = configure("default", data=digits, seed=1, **settings)
    result, again = (run(config, digits, n_jobs=n) for n in (1, 2))
    assert_same_bits(result.network, again.network)
    for subnetwork in result.subnetworks:
        assert subnetwork.error == ""
        assert subnetwork.report.solver == "kfac"
        assert len(subnetwork.report.history) == 4
    untrained = run(config.with_options(scheme="untrained"), digits, n_jobs=1)
    assert result.metrics["test_accuracy"] > untrained.metrics["test_accuracy"]


THREE_LAYERS = {
    "first_units": 6, "middle_units": 10, "n_units": 12, "output_layer": "ridge", "n_copies": 0,
    "batch_size": 300, "max_nfev": 2, "n_rounds": 1, "seed": 1, "n_train": 700,
}  # fmt: skip


@pytest.fixture(scope="module")
def three_layers(digits, tmp_path_factory):
    """Settings, what they give, and the folder with the finished sub-networks."""
    folder = tmp_path_factory.mktemp("shards")
    config = configure("default", data=digits, **THREE_LAYERS)
    return config, run(config, digits, n_jobs=1, shard_folder=folder), folder


def test_a_middle_layer_is_trained_before_the_last(digits, three_layers, tmp_path):
    """It is the sub-network after those of the last layer; the layers below it stay."""
    config, result, _ = three_layers
    assert_same_bits(result.network, run(config, digits, n_jobs=2).network)
    middle = result.network.units.below
    assert (middle.units.n_units, middle.units.grid, middle.units.units.grid) == (10, 4, 4)
    untrained = run(config.with_options(scheme="untrained"), digits, n_jobs=1)
    below = untrained.network.units.below
    assert_array_equal(middle.units.below.W, below.units.below.W)
    assert_array_equal(middle.units.below.whitening, below.units.below.whitening)
    assert not np.array_equal(middle.W, below.W)
    assert result.metrics["test_accuracy"] > untrained.metrics["test_accuracy"]
    assert [s.layer for s in result.subnetworks] == ["last", "middle"]
    assert_array_equal(result.subnetworks[1].W.astype(np.float32), middle.W)
    assert "1 of 1" in result.summary()  # sub-networks of the last layer
    result.network.save(tmp_path / "model.npz")
    loaded = Network.load(tmp_path / "model.npz")
    assert_same_bits(loaded, result.network)
    assert_array_equal(loaded.units.below.W, middle.W)


@pytest.mark.parametrize("layer", [{}, {"output_layer": "softmax", "n_copies": 1, "shift": 1}])
def test_the_output_layer_sees_the_layers_below_too(
    layer, digits, three_layers, tmp_path, monkeypatch
):
    """Unit weights are those without; more columns fit the training images better."""
    config, alone, folder = three_layers
    monkeypatch.setattr("varpro_nn.training.subnetwork.fit_on_batches", None)  # trains nothing
    if layer:
        config = config.with_options(**layer)
        alone = run(config, digits, n_jobs=1, shard_folder=folder)
    seeing = config.with_options(cells_below=2)
    both, again = (run(seeing, digits, n_jobs=n, shard_folder=folder) for n in (1, 2))
    assert_same_bits(both.network, again.network)
    assert_array_equal(both.network.W, alone.network.W)
    n_below = 2**2 * 2 * (6 + 10)
    assert len(both.network.A) == len(alone.network.A) + n_below
    assert both.network.n_parameters == alone.network.n_parameters + 10 * n_below
    assert both.metrics["train_accuracy"] > alone.metrics["train_accuracy"]
    assert re.search(rf"columns of lower layers +{n_below}\n", both.network.summary())
    both.network.save(tmp_path / "model.npz")
    loaded = Network.load(tmp_path / "model.npz")
    assert_same_bits(loaded, both.network)
    images = digits.test.images
    assert_array_equal(loaded.decision_function(images), both.network.decision_function(images))


def test_given_units_show_the_layers_below_themselves(three_layers, digits):
    """A setting that they do not follow is refused, and not ignored."""
    config, result, _ = three_layers
    units = result.network.units
    images, labels = digits.train.images[:200], digits.train.labels[:200]
    given = images, labels, digits.classes
    asked = config.with_options(cells_below=2, scheme="untrained")
    with pytest.raises(ValueError, match=r"cells_below=2 needs .* the given units have 0"):
        train_network(asked, *given, units=units)
    for settings in (asked, asked.with_options(cells_below=0)):
        network, _, _ = train_network(settings, *given, units=replace(units, cells_below=2))
        assert len(network.A) == 12 * 8 + 2**2 * 2 * (6 + 10) + 1


def test_a_middle_layer_is_the_network_of_two_layers(digits, three_layers):
    """By the same random numbers, its weights are those of a network that ends there."""
    config, result, _ = three_layers
    middle = result.network.units.below
    settings = {
        name: value for name, value in THREE_LAYERS.items() if not name.startswith("middle")
    }
    two = configure("default", data=digits, **{**settings, "n_units": 10})
    training = TrainingSet.of(digits, config.n_train, None)
    plan = SubnetworkPlan(
        run(two, digits, n_jobs=1).network.units, two.subnetworks, two.distortion,
        streams(two)["training"],
    )  # fmt: skip
    assert_array_equal(train_one(training, plan, 1).W.astype(np.float32), middle.W)


def test_a_run_continues_with_its_middle_layer(digits, three_layers, tmp_path, monkeypatch):
    config, whole, folder = three_layers
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == ["000000.npz", "000001.npz"]
    monkeypatch.setattr("varpro_nn.training.subnetwork.fit_on_batches", None)
    assert_same_bits(run(config, digits, n_jobs=1, shard_folder=tmp_path).network, whole.network)
    (tmp_path / "000000.npz").unlink()  # the last layer was not finished
    monkeypatch.undo()
    again = run(config, digits, n_jobs=1, shard_folder=tmp_path)
    assert_same_bits(again.network, whole.network)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"loss": "cross-entropy"}, "solver='kfac' needs loss squares, got cross-entropy"),
        ({"jacobian": "full"}, "solver='kfac' needs jacobian kaufman, got full"),
        ({"form": "array"}, "form must be auto for solver='kfac', got 'array'"),
        ({"scheme": "stages", "n_stages": 2}, "needs scheme independent or untrained, got stages"),
        ({"scalarisation": "bilinear"}, "scalarisation='dense', got 'patch' and 'bilinear'"),
        ({"units": "bilinear"}, "needs units='patch' and .*, got 'bilinear' and 'dense'"),
    ],
)
def test_what_cannot_be_trained_on_batches(changed, said):
    with pytest.raises(ValueError, match=said):
        configure("default", data="digits", solver="kfac", **changed)


def test_maps_larger_than_the_places_of_windows_are_refused(digits):
    with pytest.raises(ValueError, match=r"first_grid must be at most 6, .* got 7"):
        run(configure(data=digits, first_units=8, first_grid=7), digits, n_jobs=1)


def test_a_second_layer_with_copies_and_a_convex_layer(digits):
    config = configure(
        "default", data=digits, max_nfev=2, seed=1,
        **{**TWO_LAYERS, "output_layer": "hinge", "shift": 1, "n_copies": 1},
    )  # fmt: skip
    result = run(config, digits, n_jobs=1)
    assert result.metrics["test_accuracy"] > 0.9
    assert result.metrics["n_parameters"] == result.network.n_parameters
