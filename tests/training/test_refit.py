"""A second training on all images, after the first network has been measured."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from varpro_nn import Network, RidgeLayer, configure, estimate, load, run
from varpro_nn.compute.compute import Compute
from varpro_nn.errors import DatasetError, VarProError
from varpro_nn.report.page import write_report
from varpro_nn.training.run_folder import RunFolder

CONFIG = configure(
    "bilinear", data="digits", n_units=20, n_subnetworks=4, images_per_subnetwork=150, max_nfev=2,
    output_layer="hinge",
)  # fmt: skip
REFIT = CONFIG.with_options(refit=True)


@pytest.fixture(scope="module")
def digits():
    whole = load("digits")
    return replace(whole, train=whole.train.take(slice(500)))


@pytest.fixture(scope="module")
def divided(digits):
    return digits.hold_out(0.25)


@pytest.fixture(scope="module")
def before(divided):
    return run(CONFIG, divided, n_jobs=1)


@pytest.fixture(scope="module")
def done(divided):
    return run(REFIT, divided, n_jobs=1)


def of_subset(result, subset):
    return {n: v for n, v in result.metrics.items() if n.startswith(subset)}


def assert_same_bits(one, other):
    assert_array_equal(one.W, other.W)
    assert_array_equal(one.A, other.A)
    assert one.temperature == other.temperature


def test_the_network_is_the_one_of_all_images(done, digits):
    """The same bits as without validation images."""
    everything = run(CONFIG, digits, n_jobs=2)
    assert_same_bits(done.network, everything.network)
    assert of_subset(done, "test_") == of_subset(everything, "test_")
    assert done.metrics["train_accuracy"] == everything.metrics["train_accuracy"]
    assert done.metrics["output_penalty"] == everything.metrics["output_penalty"]
    assert done.network.training["digest"] == everything.network.training["digest"]


def test_validation_figures_are_of_the_network_before(done, before):
    assert of_subset(done, "validation_") == of_subset(before, "validation_") != {}
    assert not np.array_equal(done.network.W, before.network.W)


def test_what_the_figures_say_of_it(done, before, divided):
    n_train, n_validation = len(divided.train), len(divided.validation)
    assert n_train + n_validation == 500
    for result, refitted in ((done, True), (before, False)):
        metrics = result.metrics
        assert metrics["refitted"] is refitted
        assert (metrics["n_train"], metrics["n_validation"]) == (n_train, n_validation)
        assert metrics.get("n_refit") == (500 if refitted else None)
        said = "the saved network was trained on all 500 images, 124 validation images among them"
        assert (said in result.summary()) is refitted


def test_the_number_of_jobs_changes_nothing(done, divided):
    two = run(REFIT, divided, n_jobs=2)
    assert_same_bits(two.network, done.network)
    assert of_subset(two, "validation_") == of_subset(done, "validation_")


def test_the_first_training_images_and_all_validation_images(divided):
    few = REFIT.with_options(n_train=200, output_layer="ridge")
    result = run(few, divided, n_jobs=1)
    assert (result.metrics["n_train"], result.metrics["n_refit"]) == (200, 324)
    merged = divided.merged(200)
    assert_array_equal(merged.train.labels[:200], divided.train.labels[:200])
    assert_array_equal(merged.train.labels[200:], divided.validation.labels)
    by_hand = run(few.with_options(n_train=None, refit=False), merged, n_jobs=1)
    assert_same_bits(result.network, by_hand.network)


def test_classes_are_balanced_anew(divided):
    config = REFIT.with_options(class_weight="balanced", max_nfev=0)
    by_hand = run(config.with_options(refit=False), divided.merged(), n_jobs=1)
    assert_same_bits(run(config, divided, n_jobs=1).network, by_hand.network)


def test_sums_are_of_all_images(divided):
    config = REFIT.with_options(output_layer="ridge", max_nfev=0)
    result = run(config, divided, n_jobs=1, keep_sums=True)
    assert isinstance(result.output_layer.ridge_layer, RidgeLayer)
    assert result.output_layer.ridge_layer.n_images == 500


def test_without_validation_images_it_says_what_to_do(digits, tmp_path):
    said = r"refit needs validation images, and there are none; hold some out \(--valida"
    for way in (run, estimate):
        with pytest.raises(DatasetError, match=said):
            way(REFIT, digits, n_jobs=1)
    with pytest.raises(DatasetError, match=said):
        RunFolder(tmp_path / "run").train(REFIT, digits, n_jobs=1)


def test_images_that_cannot_be_merged(divided):
    bright = replace(divided.validation, images=(255 * divided.validation.images).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"refit: training and validation images must both be"):
        run(REFIT, replace(divided, validation=bright), n_jobs=1)


# --- the run folder --------------------------------------------------------------------------


def test_a_stopped_run_is_resumed_to_the_same_bits(done, divided, tmp_path):
    path = tmp_path / "run"
    folder = RunFolder(path)
    folder.train(REFIT, divided, n_jobs=1)
    assert_same_bits(Network.load(path / "model.npz"), done.network)
    assert folder.n_kept == 8
    for name in ("metrics.json", "model.npz", "shards/refit/000002.npz", "shards/refit/000003.npz"):
        (path / name).unlink()
    assert folder.n_kept == 6
    resumed = RunFolder(path, resume=True).train(REFIT, divided, n_jobs=1)
    assert_same_bits(resumed.network, done.network)
    assert of_subset(resumed, "validation_") == of_subset(done, "validation_")
    assert resumed.metrics["n_resumed_subnetworks"] == 6


def test_a_run_that_is_there_is_refitted_from_its_subnetworks(done, divided, tmp_path):
    path = tmp_path / "run"
    RunFolder(path).train(CONFIG, divided, n_jobs=1)
    resumed = RunFolder(path, resume=True, overwrite=True).train(REFIT, divided, n_jobs=1)
    assert resumed.metrics["n_resumed_subnetworks"] == 4
    assert_same_bits(resumed.network, done.network)
    # Without --resume all sub-networks go, those of the second training too.
    RunFolder(path, overwrite=True).train(CONFIG, divided, n_jobs=1)
    assert sorted(p.name for p in (path / "shards").iterdir()) == [f"{i:06d}.npz" for i in range(4)]


def test_a_finished_run_of_another_division_is_another_run(digits, divided, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.train(REFIT, divided, n_jobs=1)
    resuming = replace(folder, resume=True)
    assert '"refitted": true' in resuming.finished(REFIT, divided, keep_sums=False)
    with pytest.raises(VarProError, match="data differ"):
        resuming.finished(REFIT, digits.hold_out(0.25, seed=1), keep_sums=False)
    with pytest.raises(VarProError, match="refit, data differ"):
        resuming.finished(CONFIG, divided, keep_sums=False)


def test_shards_behind_a_link_are_not_removed(divided, tmp_path):
    path = tmp_path / "run"
    RunFolder(path).train(REFIT, divided, n_jobs=1)
    shutil.move(path / "shards" / "refit", tmp_path / "elsewhere")
    (path / "shards" / "refit").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VarProError, match="shards/refit: is a link"):
        RunFolder(path, overwrite=True).check_free()
    assert len(list((tmp_path / "elsewhere").iterdir())) == 4


# --- what else knows of it -------------------------------------------------------------------


def test_the_estimate_counts_both_trainings(divided, tmp_path):
    once, twice = (estimate(config, divided, n_jobs=1) for config in (CONFIG, REFIT))
    names = [step.name for step in twice.steps]
    trained = ["sub-networks", "output layer"]
    assert names == [*trained, *(f"{name}, refit" for name in trained), "measurement"]
    again = {step.name.removesuffix(", refit"): step for step in twice.steps[2:4]}
    first = {step.name: step for step in twice.steps}
    for name in trained:
        assert 0.5 < again[name].cpu_seconds / first[name].cpu_seconds < 3
    assert again["output layer"].cpu_seconds > first["output layer"].cpu_seconds
    assert twice.n_parameters == once.n_parameters
    RunFolder(tmp_path / "run").train(REFIT, divided, n_jobs=1)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    taken = sum(path.stat().st_size for path in files) / 2**20
    assert twice.disk_mib == pytest.approx(taken, rel=0.25)


def test_the_bar_says_which_training_it_is(divided, monkeypatch):
    titles = []
    bar = Compute.bar

    def recorded(self, title, **options):
        titles.append((title, self.stage))
        return bar(self, title, **options)

    monkeypatch.setattr(Compute, "bar", recorded)
    run(REFIT, divided, n_jobs=1)
    stages = [stage for title, stage in titles if title == "sub-networks"]
    assert stages == ["training 1 of 2", "training 2 of 2"]


def test_the_report_says_it(done, divided, tmp_path):
    result = run(REFIT.with_options(max_nfev=0), divided, n_jobs=1)
    write_report(tmp_path / "report.html", result, divided)
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "The saved network was trained on all 500 images, 124 validation images among" in page
    assert "trained on 500 images" in page
