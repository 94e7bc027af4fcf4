"""The contest of settings: what it may depend on, and what it chooses."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import varpro_nn
from varpro_nn import VarProClassifier, VarProRegressor, configure, load
from varpro_nn._io.atomic import strict_json
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.errors import DatasetError
from varpro_nn.train import main
from varpro_nn.training import contest as module
from varpro_nn.training.contest import contest
from varpro_nn.training.contest_results import Contest, Entry
from varpro_nn.training.metrics import ByClass

QUICK = {"max_nfev": 1, "images_per_subnetwork": 40}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(module, "N_IMAGES", dict.fromkeys((1, 2, 3, 4), 40))
    monkeypatch.setattr(module, "SHARE", 1 / 16)
    monkeypatch.setattr("varpro_nn.units.whitening.N_WINDOWS", 500)


def data_of(images, labels, k=2, **more):
    return Dataset("own", np.arange(k), ImageSet(images, labels, **more), None)


def noisy(n, shape, seed=0):
    """Two classes, dark and bright to the left."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.random((n, *shape), dtype=np.float32) * 0.5
    images[labels == 1, ..., : shape[-1] // 2] += 0.5
    return images, labels


def digits(n=100):
    data = load("digits")
    return replace(data, train=data.train.take(slice(n)), origin=None)


def test_it_depends_on_training_images_and_seed_alone():
    data = digits()
    settings = {**QUICK, "output_layer": "ridge"}
    found = contest(data, seed=3, n_jobs=1, **settings)
    test = data.test
    other_test = ImageSet(test.images[::-1], (test.labels + 1) % 10)
    others = [
        contest(data, seed=3, n_jobs=2, **settings),
        contest(replace(data, test=other_test, validation=data.test), seed=3, n_jobs=1, **settings),
    ]
    for other in others:
        assert (other.config, other.chosen, other.entries) == (
            found.config, found.chosen, found.entries,
        )  # fmt: skip
    config = found.config
    assert (config.recipe, config.seed, config.subnetworks.max_nfev) == ("auto", 3, 1)
    assert len({e.name for e in found.entries if e.round == 1}) == 4
    assert found.sentence.startswith(
        f"chosen: {found.chosen} (accuracy on held-out training images "
    )
    # and it is the same after a file
    values = json.loads(strict_json(found.to_dict()))
    assert Contest.from_dict(values) == found
    assert set(values["entries"][0]) >= {"held_out_accuracy", "held_out_standard_error"}
    for damaged in ({}, [], {**values, "entries": []}, {**values, "config": {}}):
        with pytest.raises(ValueError, match="a contest needs"):
            Contest.from_dict(damaged)


def test_overrides_hold_for_all_and_say_which_candidates_there_are():
    field = module.Field(digits(), 0, Compute(1), None, {"units": "patch", "ridge": 0.5})
    made = field.kinds_of_units()
    assert all(c.config.units.kind == "patch" and c.config.subnetworks.ridge == 0.5 for c in made)
    assert "whole images" not in {c.name for c in made}
    field = module.Field(digits(), 0, Compute(1), None, {"units": "dense", "n_units": 100})
    (made,) = field.kinds_of_units()
    assert (made.name, made.config.units.kind, made.config.units.n_units) == (
        "whole images", "dense", 100,
    )  # fmt: skip
    field = module.Field(digits(), 0, Compute(1), None, {"n_train": 30})
    field.kinds_of_units()
    assert len(field._training) == 30


@pytest.mark.parametrize(
    ("side", "given", "n_kinds"),
    [
        (20, {"n_copies": 1}, 5),
        (20, {"n_stages": 2}, 5),
        (28, {"n_subnetworks": 10}, 5),
        (28, {"n_train": 50}, 5),
        (16, {"window": 12}, 1),  # cells along a side need as many places
        (24, {"stride": 4}, 3),
        (28, {"training_stride": 5}, 4),
    ],
    ids=str,
)
def test_overrides_that_suit_some_kinds_or_need_more(side, given, n_kinds):
    """None ends in an error, before the contest or in it."""
    images = np.zeros((300, side, side), np.float32)
    kinds = module.kinds_of_units(data_of(images, np.arange(300) % 2), **given)
    assert len(kinds) == n_kinds
    for kind in kinds:
        options = kind.config.options()
        assert {n: options[n] for n in given if n != "n_copies"} == {
            n: v for n, v in given.items() if n != "n_copies"
        }
        assert options["n_copies"] == 0  # there are no distortions yet
        assert (options["scheme"] == "stages") == ("n_stages" in given)
    if "n_train" in given:
        assert kinds[0].config.units.n_units == 48
    assert not module.can_compare(data_of(images, np.arange(300)[::-1] // 2, k=150), 4)


@pytest.mark.parametrize(
    ("shape", "name", "sizes"),
    [
        ((28, 28), "small windows", [5, 7]),
        ((39, 60), "small windows", [5, 7]),
        ((40, 60), "large windows", [7, 11]),
        ((3, 40, 40), "plain windows", [11]),  # the recipe for colour images whitens windows
    ],
    ids=str,
)
def test_plain_windows_have_two_sizes(shape, name, sizes):
    images = np.zeros((300, *shape), np.uint8)
    kinds = module.kinds_of_units(data_of(images, np.arange(300) % 2))
    other = next(kind for kind in kinds if kind.name == name)
    assert not other.config.distortion.flip
    plain = [kind.config.units for kind in kinds if "white" not in kind.name][1:]
    assert sorted(units.window for units in plain if not units.whitening) == sizes


@pytest.mark.parametrize(
    ("n", "n_units", "size"), [(60, 48, 2), (300, 48, 12), (1000, 48, 24), (10_000, 96, 24)]
)
def test_whitened_windows_follow_the_number_of_images(n, n_units, size):
    """In training, sub-networks have no more columns than images."""
    images = np.zeros((n, 20, 20), np.uint8)
    kinds = module.kinds_of_units(data_of(images, np.arange(n) % 2))
    found = [kind.config for kind in kinds if kind.config.units.whitening]
    assert len(found) == 2
    for config in found:
        assert (config.units.n_units, config.units_per_subnetwork) == (n_units, size)
        cells = config.units.training_grid or config.units.grid
        assert 2 * size * cells**2 <= n


@pytest.mark.parametrize(
    ("given", "cells", "size"),
    [({"grid": 4}, 4, 8), ({"grid": 6, "training_grid": 4}, 4, 8), ({"grid": 2}, 2, 24)],
    ids=str,
)
def test_cells_that_are_given_hold_for_all(given, cells, size):
    """There is one kind of whitened windows then, in sub-networks of the size for these cells."""
    images = np.zeros((300, 20, 20), np.uint8)
    kinds = module.kinds_of_units(data_of(images, np.arange(300) % 2), **given)
    (config,) = (kind.config for kind in kinds if kind.config.units.whitening)
    assert config.units.grid == given["grid"]
    assert (config.units.training_grid or config.units.grid) == cells
    assert config.units_per_subnetwork == size


@pytest.mark.parametrize(
    ("n_units", "n_subnetworks", "expected"),
    [(48, 2, (12, 1)), (48, 1, (12, 1)), (72, 6, (24, 2)), (800, 8, (200, 2)), (3, 3, (1, 1))],
)
def test_a_quarter_of_the_units(n_units, n_subnetworks, expected, monkeypatch):
    """Whole sub-networks, or part of one."""
    monkeypatch.setattr(module, "SHARE", 1 / 4)
    config = configure("default", n_units=n_units, n_subnetworks=n_subnetworks, max_nfev=5)
    short = module.shortened(config)
    assert (short.units.n_units, short.subnetworks.n_subnetworks) == expected
    assert short.subnetworks.max_nfev == 2


def test_changes_that_overrides_forbid_are_not_tried():
    given = {"flip": False, "output_layer": "ridge", "shift": 0, **QUICK}
    names = {entry.name for entry in contest(digits(60), n_jobs=1, **given).entries}
    assert not any(", " in name.replace("windows, more", "") for name in names)


def test_where_the_place_matters_whole_images_win(monkeypatch):
    monkeypatch.setattr(module, "N_IMAGES", dict.fromkeys((1, 2, 3, 4), 200))
    monkeypatch.setattr(module, "SHARE", 1 / 4)
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    pattern = rng.choice([-0.3, 0.3], (24, 24))  # nothing that a mean over a cell could show
    images = (
        0.5
        + rng.normal(0, 0.3, (300, 24, 24))
        + np.where(labels, 1, -1)[:, None, None] * (pattern / 2)
    )
    found = contest(data_of(images.astype(np.float32), labels), n_jobs=1, max_nfev=1)
    assert found.chosen.startswith("whole images")


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (30, {1: (20, 10), 2: (20, 10), 3: (20, 10)}),
        (9_000, {1: (1500, 750), 2: (3000, 1500), 3: (3000, 1500)}),
        (18_000, {1: (1500, 1500), 2: (3000, 1500), 3: (3000, 1500)}),
        (60_000, {1: (1500, 5000), 2: (3000, 5000), 3: (10_000, 5000)}),
        (600_000, {1: (1500, 10_000), 2: (3000, 10_000), 3: (10_000, 10_000)}),
    ],
    ids=str,
)  # fmt: skip
def test_with_many_images_more_measure_and_changes_have_more(n, expected, monkeypatch):
    """All rounds draw a share of each class, so a few images may be missing of round numbers."""
    monkeypatch.undo()  # the sizes as they are
    images, labels = np.zeros((n, 1, 1), np.uint8), np.arange(n) % 2
    with Compute() as compute:
        field = module.Field(data_of(images, labels), 0, compute, None, {})
        for number, sizes in expected.items():
            fit, held = field._split(number)
            assert (len(fit), len(held)) == pytest.approx(sizes, abs=3)
            assert not np.intersect1d(fit, held).size


@pytest.mark.parametrize("shape", [(8, 8), (3, 16, 17)], ids=str)
def test_three_images_of_each_class_are_enough(shape, caplog):
    """And nothing is said of fits of so few, about which nobody can do anything."""
    found = contest(data_of(*noisy(6, shape)), n_jobs=1, max_nfev=1)
    assert {(entry.n_images, entry.n_held) for entry in found.entries} == {(4, 2)}
    assert {e.n_units for e in found.entries if e.name == "whole images"} == {2}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_better_of_two_on_the_same_images():
    """By more than 1.5 standard errors of the difference, the root of the images that differ."""

    def trial(right):
        entry = Entry(
            round=3, name="", n_images=1, n_held=100, n_units=1, accuracy=right.mean(),
            standard_error=0.0,
        )  # fmt: skip
        return module.Trial(entry, right / 100)

    base = np.arange(100) < 50
    one, two, other = base.copy(), base.copy(), base.copy()
    one[[0, 60, 61]] = False, True, True
    two[60:63] = True
    other[60:80] = True
    other[:18] = False
    assert trial(one).entry.accuracy > trial(base).entry.accuracy
    assert trial(two).is_better_than(trial(base))  # 0.03 > 1.5 sqrt(3) / 100
    assert not trial(one).is_better_than(trial(base))  # 0.01 < 1.5 sqrt(3) / 100
    assert not trial(other).is_better_than(trial(base))  # 0.02 < 1.5 sqrt(38) / 100
    assert not trial(base).is_better_than(trial(base))


def test_many_classes_have_images_that_measure():
    labels = np.arange(3000) % 300
    images = np.zeros((3000, 8, 8), np.float32)
    field = module.Field(data_of(images, labels, k=300), 0, Compute(1), None, {})
    training, held = field._images_of(1, None)
    assert len(training) + len(held) == 1800
    assert len(training) >= 1200
    assert len(np.unique(held.labels)) > 250


@pytest.mark.parametrize(("k", "layers"), [(100, ["softmax", "hinge"]), (101, ["softmax"])])
def test_the_hinge_is_not_tried_with_many_classes(k, layers, monkeypatch):
    images = np.zeros((3 * k, 8, 8), np.float32)
    field = module.Field(data_of(images, np.arange(3 * k) % k, k=k), 0, Compute(1), None, {})
    base = field.made("windows", "default", {"output_layer": "ridge", "n_copies": 0})
    tried = []

    def measure(number, candidate):
        tried.append(candidate.name)
        share = 0.5 + 0.1 * len(tried)  # each is better than the one before
        right = np.arange(100) < 100 * share
        return module.Trial(SimpleNamespace(accuracy=share), right / 100)

    monkeypatch.setattr(field, "measure", measure)
    field.with_changes(base)
    assert [name.split()[-2] for name in dict.fromkeys(tried) if name.endswith("layer")] == layers


def test_refused_inputs():
    with pytest.raises(TypeError, match=r"needs the images, .* got data='mnist'"):
        configure("auto")
    with pytest.raises(ValueError, match=r"recipe must be one of .*, auto, got 'fast'"):
        configure("fast")
    with pytest.raises(ValueError, match="unknown settings n_unit; did you mean n_units"):
        configure("auto", data=digits(), n_unit=3)
    with pytest.raises(ValueError, match="seed must be"):
        configure("auto", data=digits(), seed=-1)
    with pytest.raises(DatasetError, match="at least 3 training images, got at most 2"):
        configure("auto", data=data_of(*noisy(4, (8, 8))))


def test_images_on_disk_have_no_copies(tmp_path):
    images, labels = noisy(60, (8, 8))
    (tmp_path / "images").write_bytes(images.tobytes())
    there = ImagesOnDisk(tmp_path / "images", 0, images.shape, images.dtype, images.dtype)
    found = contest(data_of(there, labels), n_jobs=1, **QUICK)
    assert not any("shifted" in entry.name for entry in found.entries)
    assert found.entries[0] == contest(data_of(images, labels), n_jobs=1, **QUICK).entries[0]
    with pytest.raises(ValueError, match="n_copies must be 0 for images on disk, got 1"):
        contest(data_of(there, labels), n_copies=1, shift=1)


def test_balanced_classes_are_measured_by_balanced_accuracy(monkeypatch):
    measured = []
    of = ByClass.of
    monkeypatch.setattr(ByClass, "of", lambda *given: measured.append(of(*given)) or measured[-1])
    found = contest(digits(), n_jobs=1, class_weight="balanced", **QUICK)
    assert [entry.accuracy for entry in found.entries] == [m.balanced_accuracy for m in measured]
    assert found.config.class_weight == "balanced"


# --- where it is held -----------------------------------------------------------------------


def test_the_command_keeps_its_contest(tmp_path, monkeypatch, capsys):
    images, labels = noisy(60, (8, 8))
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    given = [str(tmp_path / "own.npz"), "--recipe", "auto", "--n-jobs", "1", "--max-nfev", "1"]
    given += ["--images-per-subnetwork", "40", "--output-layer", "ridge"]
    given += ["--output", str(tmp_path / "run")]
    assert main([*given, "--report"]) == 0
    out, err = capsys.readouterr()
    assert err.count("chosen: ") == 1
    metrics = json.loads(out)
    kept = json.loads((tmp_path / "run" / "contest.json").read_text())
    assert {name: kept[name] for name in metrics["contest"]} == metrics["contest"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["config"] == config
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Choice of the settings" in page
    assert all(entry["name"] in page for entry in kept["entries"])

    def held_again(*_, **__):
        raise AssertionError

    monkeypatch.setattr("varpro_nn.training.run_folder.contest", held_again)
    given += ["--no-report"]
    assert main([*given, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics
    # begun, and stopped before the end
    (tmp_path / "run" / "metrics.json").unlink()
    (tmp_path / "run" / "config.json").unlink()
    assert main([*given, "--resume"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["contest"] == metrics["contest"]
    assert again["n_resumed_subnetworks"] == again["n_subnetworks"]
    assert main([*given, "--resume", "--seed", "1"]) == 1
    assert "is of another contest, overrides differ" in capsys.readouterr().err
    given[2] = "tiny"
    assert main([*given, "--overwrite", "--n-rounds", "1"]) == 0
    assert not (tmp_path / "run" / "contest.json").exists()
    assert "contest" not in json.loads(capsys.readouterr().out)


def test_the_estimate_of_each_kind(tmp_path, capsys):
    assert main(["digits", "--recipe", "auto", "--estimate", "--max-nfev", "1"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["candidates"]
    assert [each["name"] for each in found] == [
        candidate.name for candidate in module.kinds_of_units(load("digits"))
    ]
    assert all(each["cpu_seconds"] > 0 and f"{each['name']}:\n" in err for each in found)
    assert "--recipe auto chooses one of these by a contest before the training" in err


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_classifier_holds_one_and_weights_count():
    images, labels = noisy(60, (8, 8))
    images += np.random.default_rng(1).normal(0, 0.6, images.shape).astype(np.float32)
    weights = np.where(np.arange(60) < 30, 1.0, 30.0)
    settings = {"random_state": 0, **QUICK}
    plain = VarProClassifier("auto", **settings).fit(images, labels)
    weighted = VarProClassifier("auto", **settings).fit(images, labels, weights)
    assert plain.config_ == plain.contest_.config
    assert plain.contest_.entries != weighted.contest_.entries
    balanced = VarProClassifier("auto", class_weight="balanced", **settings).fit(images, labels)
    assert balanced.contest_.config.class_weight == "balanced"
    assert balanced.config_.class_weight is None  # the weights of the rows have it
    plain.set_params(recipe=None).fit(images, labels)
    assert not hasattr(plain, "contest_")
    for refused in (
        lambda: VarProClassifier("auto").partial_fit(images, labels, [0, 1]),
        lambda: VarProClassifier("auto", warm_start=True).fit(images, labels),
        lambda: VarProRegressor("auto").fit(images, labels),
        lambda: varpro_nn.VarProFeatures("auto").fit(images, labels),
    ):
        with pytest.raises(ValueError, match=r"recipe.*'auto'"):
            refused()
