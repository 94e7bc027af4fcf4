"""Estimates before the start: what is exact, what follows from sizes, and what is refused.

How close times and memory are is measured by ``experiments.benchmarks.estimates``: a test of times
would fail on a busy machine.
"""

import dataclasses
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from varpro_nn import Dataset, configure, load, run
from varpro_nn.data import ImageSet
from varpro_nn.errors import TrainingError
from varpro_nn.training import estimate as module
from varpro_nn.training import output_counts
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.estimate import Estimate, estimate, first_look, fixed_columns
from varpro_nn.training.rates import TYPICAL, typical_units
from varpro_nn.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(autouse=True)
def same_rates(monkeypatch):
    """The same rates and memory before each time: all else follows from counts alone."""
    monkeypatch.setattr(module, "resident_memory_mib", lambda: 100.0)
    monkeypatch.setattr(module, "peak_memory_mib", lambda: 101.0)
    monkeypatch.setattr(module, "measured_rates", lambda: TYPICAL)
    monkeypatch.setattr(module, "measured_units", typical_units)


def images_of(shape, n=60):
    """A data set of three classes."""
    rng = np.random.default_rng(0)
    train, test = (
        ImageSet(rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % 3)
        for n in (n, 30)
    )
    return Dataset("made", np.arange(3), train, test)


KINDS = {
    "bilinear": ((8, 8), {"units": "bilinear", "n_units": 6}),
    "quadratic of rank 2": ((8, 8), {"units": "quadratic", "n_units": 6, "rank": 2}),
    "two-sided tensor": (
        (3, 8, 8),
        {"units": "tensor", "n_units": 4, "activation": "two-sided", "threshold": 0.1},
    ),
    "windows": ((8, 8), {"units": "patch", "n_units": 6, "window": 3, "grid": 2}),
    "bilinear windows": (
        (8, 8),
        {"units": "patch", "scalarisation": "bilinear", "n_units": 4, "window": 3, "grid": 2},
    ),
    "whitened windows": (
        (3, 8, 8),
        {
            "units": "patch", "n_units": 4, "window": 3, "grid": 2, "whitening": 0.1,
            "n_components": 5,
        },
    ),
    "two layers": (
        (3, 8, 8),
        {
            "units": "patch", "n_units": 4, "window": 2, "grid": 2, "whitening": 0.1,
            "n_components": 5, "first_units": 3, "first_window": 3, "first_grid": 4,
        },
    ),
    "three layers": (
        (3, 8, 8),
        {
            "n_units": 4, "first_units": 3, "first_window": 3, "first_grid": 4, "middle_units": 5,
            "middle_grid": 3, "n_components": 7, "batch_size": 10, "cells_below": 2,
        },
    ),
}  # fmt: skip
SHORT = {"n_subnetworks": 2, "max_nfev": 1, "output_penalty": 1.0, "n_stages": 1,
         "scheme": "independent"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_trained_network(kind):
    shape, settings = KINDS[kind]
    dataset = images_of(shape)
    config = configure(data="digits", **settings, **SHORT)
    found = estimate(config, dataset, n_jobs=1)
    assert found.n_parameters == run(config, dataset, n_jobs=1).network.n_parameters


def test_a_layer_that_sees_layers_below_has_no_dual_form(digits):
    """With more columns than images it is still fitted by its columns."""
    settings = {
        "first_units": 40, "middle_units": 60, "n_units": 12, "output_layer": "ridge",
        "n_copies": 0, "n_train": 600,
    }  # fmt: skip
    steps = []
    for cells in (0, 4):
        config = configure(data=digits, **settings, cells_below=cells)
        found = estimate(config, digits, n_jobs=1)
        before = found.steps[0].memory_mib
        (step,) = (step for step in found.steps if step.name == "output layer")
        steps.append((step.cpu_seconds, step.memory_mib - before))
    q = 12 * 8 + 4**2 * 2 * (40 + 60)
    assert steps[1][0] > 20 * steps[0][0]
    assert steps[1][1] - steps[0][1] > 0.8 * 5 * 8 * q**2 / 2**20


@pytest.mark.parametrize("bootstrap", [False, True])
def test_disk_is_that_of_the_run_folder(bootstrap, digits, tmp_path):
    config = configure(
        "tiny", data=digits, n_train=300, n_units=16, n_subnetworks=4, loss="squares", max_nfev=3,
        images_per_subnetwork=100, bootstrap=bootstrap,
    )  # fmt: skip
    RunFolder(tmp_path / "run").train(config, digits, n_jobs=1)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    taken = sum(path.stat().st_size for path in files) / 2**20
    assert estimate(config, digits, n_jobs=1).disk_mib == pytest.approx(taken, rel=0.2)


def test_the_sums_of_a_ridge_layer_take_disk(digits):
    config = configure("bilinear", data=digits, n_units=40, n_subnetworks=2)
    without, with_sums = (
        estimate(config, digits, n_jobs=1, keep_sums=keep).disk_mib for keep in (False, True)
    )
    assert with_sums - without == pytest.approx(8 * 40**2 / 2**20)


def test_stored_features_take_disk_for_a_while(digits, monkeypatch):
    config = configure("tiny", data=digits, n_train=300, n_copies=1)
    columns = config.units.n_units * config.units.grid**2
    without = estimate(config, digits, n_jobs=1)
    n_bytes = 4 * 600 * columns
    monkeypatch.setattr(output_counts, "FEATURE_BYTES", n_bytes - 1)
    stored = estimate(config, digits, n_jobs=1)
    assert (without.temporary_mib, stored.temporary_mib) == (0, n_bytes / 2**20)
    assert stored.disk_mib == pytest.approx(without.disk_mib + n_bytes / 2**20)
    monkeypatch.setattr(output_counts, "FEATURE_BYTES", n_bytes)
    assert estimate(config, digits, n_jobs=1).temporary_mib == 0


def test_a_run_that_does_not_fit_on_the_disk_is_refused(digits, monkeypatch, tmp_path):
    config = configure("tiny", data=digits, n_train=300, n_copies=1, loss="squares", max_nfev=1)
    monkeypatch.setattr(output_counts, "FEATURE_BYTES", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=f"{tmp_path}: .* MiB, and .* MiB are free.*n_copies"):
        run(config, digits, n_jobs=1, shard_folder=tmp_path)
    monkeypatch.setattr(output_counts, "FEATURE_BYTES", 2**30)
    assert run(config, digits, n_jobs=1, shard_folder=tmp_path).metrics["n_train"] == 300


def test_the_pass_of_the_bootstrap_uses_all_windows(digits):
    """And has no stages."""
    settings = {"data": digits, "n_train": 600, "bootstrap": True}
    sparse = configure("default", training_stride=2, scheme="stages", n_stages=3, **settings)
    dense = configure("default", scheme="independent", training_stride=None, **settings)
    one, other = (estimate(config, digits, n_jobs=1).steps[-1] for config in (sparse, dense))
    assert one.name == "bootstrap"
    assert one.cpu_seconds == pytest.approx(other.cpu_seconds, rel=0.25)
    assert one.memory_mib == pytest.approx(other.memory_mib, rel=0.01)


def test_more_fixed_columns_than_images_take_memory(digits):
    """Several arrays (n, f) in double precision, while they are eliminated."""
    settings = {"data": digits, "units": "bilinear", "n_train": 100, "n_units": 4000}
    settings |= {"n_subnetworks": 40, "images_per_subnetwork": 100}
    stages, one = (
        estimate(configure("bilinear", **settings, **more), digits, n_jobs=1).steps[0].memory_mib
        for more in ({"scheme": "stages", "n_stages": 20}, {})
    )
    assert stages - one > 4 * 8 * 100 * 3800 / 2**20


def test_each_thread_has_a_block_of_features(digits, monkeypatch):
    real = module.effective_jobs
    monkeypatch.setattr(module, "effective_jobs", lambda n: 64 if n == -1 else real(n))
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 256, (28, 28), dtype=np.uint8), (60_000, 28, 28))
    dataset = Dataset("made", np.arange(10), ImageSet(images, np.arange(60_000) % 10), None)
    config = configure("default", data=dataset, n_units=576)
    few, many = (module.first_look(config, dataset, n_jobs=n).steps[1] for n in (1, 49))
    workers = (min(49, config.subnetworks.n_subnetworks)) * 90
    # 120,000 rows are 30 blocks of 4,096, of 9,216 columns.
    assert many.memory_mib - workers - few.memory_mib > 2000


SETTINGS = [
    {"units": "bilinear", "loss": "squares"},
    {"units": "patch", "loss": "squares"},
    {"units": "patch", "loss": "squares", "output_layer": "ridge", "n_copies": 0},
    {"units": "patch", "loss": "squares", "output_layer": "softmax"},
    {"units": "patch", "loss": "cross-entropy", "scheme": "independent", "n_stages": 1},
    {"units": "bilinear", "loss": "squares", "form": "reduced"},
    {"units": "bilinear", "loss": "squares", "solver": "exact"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: ", ".join(map(str, s.values())))
def test_more_units_take_more_time_and_disk(settings, digits):
    found = [
        estimate(
            configure(data=digits, **{**settings, "n_units": n, "n_subnetworks": 3}),
            digits, n_jobs=1,
        )
        for n in (6, 12, 24, 48, 96)
    ]  # fmt: skip
    for name in ("n_parameters", "cpu_seconds", "wall_seconds", "disk_mib"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values), name
        assert values[-1] > values[0] > 0


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_many_units_take_more_memory(layer, digits):
    """Few units need not: the less they take for an image, the more images are worked on."""
    found = [
        estimate(
            configure("bilinear", data=digits, n_units=n, output_layer=layer), digits, n_jobs=1
        ).steps[1].memory_mib
        for n in (350, 700, 1400)
    ]  # fmt: skip
    assert found[0] + 5 < found[1] < found[2] - 20


def test_columns_may_be_many_if_images_are_few(digits):
    """Matrices are of images by images then; else settings that cannot be fitted are refused."""
    config = configure("bilinear", data=digits, n_units=40_000)
    assert estimate(config, digits, n_jobs=1).n_parameters > 40_000 * len(digits.classes)
    copies = config.with_options(output_layer="softmax", shift=1, n_copies=40)
    with pytest.raises(
        ValueError, match=r"40000 columns .* Its Gram matrix takes 12 GiB; at most 8 GiB"
    ):
        estimate(copies, digits, n_jobs=1)


def test_a_refit_has_the_rows_of_both_trainings(digits):
    """Found before the first training, which has few enough."""
    halves = digits.hold_out(0.5)
    config = configure("bilinear", data=halves, n_units=40_000)
    config = config.with_options(output_layer="softmax", shift=1, n_copies=30)
    assert len(halves.train) * 31 < 32_768 < len(digits.train) * 31
    assert estimate(config, halves, n_jobs=1).n_parameters > 40_000
    with pytest.raises(ValueError, match="40000 columns"):
        estimate(config.with_options(refit=True), halves, n_jobs=1)


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_more_columns_than_images_cost_as_many_as_images(layer, digits):
    """Twice the columns are twice the features; the fits stay the same."""
    few, many = (
        estimate(
            configure("bilinear", data=digits, n_units=n, output_layer=layer), digits, n_jobs=1
        ).steps[1]
        for n in (2000, 4000)
    )
    assert few.cpu_seconds < many.cpu_seconds < 1.6 * few.cpu_seconds
    features = 4 * len(digits.train) * 2000 / 2**20
    assert features < many.memory_mib - few.memory_mib < 4 * features


@pytest.mark.parametrize("name", ["images_per_subnetwork", "max_nfev", "n_rounds", "n_copies"])
def test_more_work_takes_more_time(name, digits):
    few, many = (
        estimate(configure(data=digits, **{name: value}), digits, n_jobs=1).cpu_seconds
        for value in ((200, 1000) if name == "images_per_subnetwork" else (1, 3))
    )
    assert 1.1 * few < many


def test_a_hinge_with_few_images_of_a_class_takes_longer():
    """Of 10 classes and of 300, both with 600 images: 20 times as few of a class."""
    images = np.random.default_rng(0).random((600, 8, 8))

    def seconds(layer, n_classes):
        train = ImageSet(images, np.arange(600) % n_classes)
        dataset = Dataset("made", np.arange(n_classes), train, None)
        config = configure("default", data=dataset, output_layer=layer, n_copies=0)
        return first_look(config, dataset, n_jobs=1).steps[1].cpu_seconds

    softmax, hinge = (seconds(layer, 300) / seconds(layer, 10) for layer in ("softmax", "hinge"))
    assert hinge > 3 * softmax


def test_too_many_directions_of_maps_are_refused_before_the_start(digits):
    with pytest.raises(ValueError, match=r"n_components must be 1 to 24, .* got 25"):  # 2 x 3 maps
        first_look(configure(data=digits, first_units=3, n_components=25), digits, n_jobs=1)


def test_untrained_units_take_less(digits):
    trained = configure("bilinear", data=digits)
    untrained = trained.with_options(scheme="untrained")
    assert untrained.subnetworks.max_nfev
    seconds = [
        estimate(c, digits, n_jobs=1).steps[0].cpu_seconds for c in (untrained, trained)
    ]  # fmt: skip
    assert 10 * seconds[0] < seconds[1]


def test_the_peak_of_reading_the_data_counts(digits, monkeypatch):
    monkeypatch.setattr(module, "peak_memory_mib", lambda: 12_345.0)
    assert estimate(configure("tiny", data=digits), digits, n_jobs=1).memory_mib == 12_345


def test_several_jobs_take_less_time_and_more_memory(digits, monkeypatch):
    real = module.effective_jobs
    monkeypatch.setattr(module, "effective_jobs", lambda n: 8 if n == -1 else real(n))
    config = configure("bilinear", data=digits, n_train=1400, images_per_subnetwork=1400)
    config = config.with_options(max_nfev=50)
    one, four = (estimate(config, digits, n_jobs=n) for n in (1, 4))
    assert four.wall_seconds < 0.5 * one.wall_seconds
    assert four.cpu_seconds >= one.cpu_seconds
    assert four.memory_mib > one.memory_mib + 3 * 50


def test_steps_add_up(digits):
    config = configure("tiny", data=digits, bootstrap=True)
    found = estimate(config, digits, n_jobs=1, growth=True)
    assert [step.name for step in found.steps] == [
        "sub-networks", "output layer", "measurement", "comparison for the report", "bootstrap",
    ]  # fmt: skip
    assert found.cpu_seconds == sum(step.cpu_seconds for step in found.steps)
    assert found.memory_mib == max(step.memory_mib for step in found.steps)
    # Each step can be what needs most: the message then names settings.
    assert {step.name for step in found.steps} <= set(module._REMEDIES)
    told = found.summary()
    assert f"{found.n_parameters:,}" in told
    assert "with n_jobs=1" in told
    assert "varpro_nn estimate" in found._repr_html_()


def test_columns_that_are_fixed_in_stages():
    settings = SubnetworkSettings(n_subnetworks=5, scheme="stages", n_stages=2)
    assert list(fixed_columns(settings, 10)) == [(3, 0), (2, 30)]


def test_nothing_is_trained(digits, monkeypatch):
    def no(*_, **__):
        msg = "this would train"
        raise AssertionError(msg)

    for name in ("scipy.optimize.least_squares", "varpro_nn.training.subnetworks.train_one"):
        monkeypatch.setattr(name, no)
    estimate(configure(data=digits), digits)


def test_rates_are_measured_on_units_as_they_are(digits, monkeypatch):
    monkeypatch.undo()
    found = estimate(configure("tiny", data=digits, n_units=4), digits, n_jobs=1)
    assert 0 < found.cpu_seconds < 10_000


def test_settings_that_images_do_not_allow():
    config = configure("bilinear", units="quadratic", n_units=4, data="digits")
    with pytest.raises(ValueError, match=r"square|same length|rows"):
        estimate(config, images_of((8, 6)), n_jobs=1)


# --- before a run ---------------------------------------------------------------------------


def config_of_a_short_run(digits):
    return configure("tiny", data=digits, n_train=200, n_units=2, max_nfev=1, loss="squares")


def test_a_run_that_does_not_fit_is_refused(digits, monkeypatch):
    config = config_of_a_short_run(digits)
    needed = estimate(config, digits, n_jobs=1).memory_mib
    monkeypatch.setattr(module, "available_memory_mib", lambda: needed / 2)
    with pytest.raises(TrainingError, match=r"needs about .* MiB of memory .* Reduce .*n_units"):
        run(config, digits, n_jobs=1)


@pytest.mark.parametrize("available", [None, 0.75])
def test_a_run_that_may_fit_is_not_refused(available, digits, monkeypatch):
    """The estimate may be too high by a half."""
    config = config_of_a_short_run(digits)
    needed = estimate(config, digits, n_jobs=1).memory_mib
    left = None if available is None else available * needed
    monkeypatch.setattr(module, "available_memory_mib", lambda: left)
    assert run(config, digits, n_jobs=1).metrics["n_train"] == 200


def test_the_remedy_is_that_of_the_step(digits, monkeypatch):
    monkeypatch.setattr(module, "available_memory_mib", lambda: 500)
    monkeypatch.setattr(module, "resident_memory_mib", lambda: 100)
    config = configure("default", data="mnist", n_copies=5)
    rng = np.random.default_rng(0)
    images = np.broadcast_to(rng.integers(0, 256, (28, 28), dtype=np.uint8), (60_000, 28, 28))
    dataset = Dataset("made", np.arange(10), ImageSet(images, np.arange(60_000) % 10), None)
    with pytest.raises(TrainingError, match=r"output layer.*n_copies"):
        run(config, dataset, n_jobs=1)


def test_a_long_run_says_how_long(digits, monkeypatch, caplog):
    config = config_of_a_short_run(digits)
    step = module.Step("sub-networks", 2400.0, 1500.0, 100.0)
    monkeypatch.setattr(module._Run, "estimate", lambda self: Estimate(1, 2, 0.1, 0, 0, (step,)))
    with caplog.at_level(logging.WARNING):
        run(config, digits, n_jobs=2)
    assert caplog.messages == ["this run will take about 25 minutes with n_jobs=2 (40 CPU minutes)"]
    caplog.clear()
    short = dataclasses.replace(step, wall_seconds=599.0)
    monkeypatch.setattr(module._Run, "estimate", lambda self: Estimate(1, 2, 0.1, 0, 0, (short,)))
    run(config, digits, n_jobs=1)
    assert caplog.messages == []


def test_a_short_run_measures_no_rates(digits, monkeypatch):
    monkeypatch.setattr(module, "measured_rates", None)
    assert run(config_of_a_short_run(digits), digits, n_jobs=1).metrics["n_train"] == 200
