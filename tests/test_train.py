"""``python -m varpro_nn.train``: what scripts rely on."""

import contextlib
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from sklearn.utils import compute_sample_weight

import varpro_nn
from varpro_nn import Network, RidgeLayer, configure, load
from varpro_nn.__main__ import main as main_of_commands
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.exporters import to_c
from varpro_nn.train import build_parser, main
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.pipeline import run
from varpro_nn.training.recipes import DATA, RECIPES

WITH_REPORT = (
    *("--recipe", "bilinear"),
    *("--n-units", "20", "--n-subnetworks", "2", "--images-per-subnetwork", "200"),
    *("--max-nfev", "3", "--n-train", "400", "--n-jobs", "1", "--seed", "7"),
)
SMALL = (*WITH_REPORT, "--no-report")
SMALL_CONFIG = configure(
    "bilinear",
    n_units=20,
    n_subnetworks=2,
    images_per_subnetwork=200,
    max_nfev=3,
    n_train=400,
    seed=7,
)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(varpro_nn.__file__).parents[1]),
    "OPENBLAS_NUM_THREADS": "1",
}


def call(*argv):
    """Exit status, standard output and standard error of a call in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:  # of argparse
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def contents(folder):
    """Every file under a folder, by name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def strict(text):
    def refuse(name):
        msg = f"{name} is no JSON"
        raise ValueError(msg)

    return json.loads(text, parse_constant=refuse)


def fault(*argv, match=""):
    """Exit status 1, one line on standard error and nothing else."""
    status, out, err = call(*argv)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert match in err


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return folder, *call("digits", *WITH_REPORT, "--bootstrap", "--output", folder)


@pytest.fixture
def tiny(tmp_path):
    """A data set of one's own, rectangles of two named classes."""
    rng = np.random.default_rng(0)
    labels = np.array(["left", "right"])[np.arange(80) % 2]
    images = rng.integers(0, 100, (80, 5, 6), dtype=np.uint8)
    images[labels == "left", :, :3] += 120
    images[labels == "right", :, 3:] += 120
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return path


# --- what a run leaves -------------------------------------------------------------------


def test_standard_output_is_one_json_object_on_one_line(done):
    folder, status, out, err = done
    assert status == 0
    said, how = err.splitlines()
    assert re.fullmatch(r"test accuracy 0\.\d{4} ± .*; network of 550 parameters in .*", said)
    assert f"python -m varpro_nn.predict --model {folder} " in how
    assert out.count("\n") == 1
    metrics = strict(out)
    assert metrics == strict((folder / "metrics.json").read_text())
    assert metrics["output"] == str(folder)
    assert metrics["test_accuracy"] > 0.7
    assert set(metrics["bootstrap"]) >= {"agreement_with_guesses", "true_accuracy_after"}


def test_the_run_folder_holds_these_files(done):
    assert set(contents(done[0])) >= {
        "config.json",
        "history.jsonl",
        "metrics.json",
        "model-bootstrap.npz",
        "model.npz",
        "report.html",
    }
    assert not any(name.endswith(".part") for name in contents(done[0]))


def test_the_configuration_reproduces_the_run(done):
    folder = done[0]
    config = TrainConfig.from_dict(strict((folder / "config.json").read_text()))
    assert config == SMALL_CONFIG.with_options(bootstrap=True)
    result = run(config, load("digits"), n_jobs=1)
    network = Network.load(folder / "model.npz")
    assert_array_equal(result.network.W, network.W)
    assert_array_equal(result.network.A, network.A)
    result.network.save(folder.parent / "again.npz")
    assert (folder.parent / "again.npz").read_bytes() == (folder / "model.npz").read_bytes()


def test_the_models_on_disk_have_the_accuracies_that_are_reported(done):
    folder = done[0]
    metrics = strict((folder / "metrics.json").read_text())
    test = load("digits").test
    for file, reported in (
        ("model.npz", metrics["test_accuracy"]),
        ("model-bootstrap.npz", metrics["bootstrap"]["true_accuracy_after"]),
    ):
        assert np.mean(Network.load(folder / file).predict(test.images) == test.labels) == reported


def test_the_history_is_strict_json_line_by_line(done):
    lines = [strict(line) for line in (done[0] / "history.jsonl").read_text().splitlines()]
    *subnetworks, last = lines
    assert [line["subnetwork"] for line in subnetworks] == [0, 1]
    for line in subnetworks:
        assert 1 <= len(line["history"]) <= 3
        assert line["history"][0]["cost"] > 0
        assert line["error"] == ""
        assert line["reason"]
    assert set(last) == {"output_layer"}
    layer = last["output_layer"]
    trace = {"penalties", "losses", "error_rates"}
    diagnosis = {"rank", "degrees_of_freedom", "redundant_units"}
    convergence = {"n_iterations", "excess", "gradient_norm"}
    assert set(layer) == {"name", "penalty", "chosen_by"} | convergence | trace | diagnosis
    assert layer["rank"] <= 20
    assert (layer["name"], layer["chosen_by"]) == ("ridge", "leave-one-out")
    assert layer["penalty"] in layer["penalties"]
    assert len(layer["error_rates"]) == len(layer["penalties"]) > 1


def test_a_step_that_was_refused_is_null_in_the_history(tmp_path):
    """No derivative is taken there: its optimality is not a number."""
    status, _, _ = call(
        *("digits", *SMALL, "--max-nfev", "30", "--gain", "30", "--weight-decay", "0"),
        *("--output", tmp_path),
    )
    assert status == 0
    lines = [strict(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert any(r["optimality"] is None for line in lines[:-1] for r in line["history"])


def test_a_file_of_ones_own_with_names_for_classes(tiny, tmp_path):
    status, out, _ = call(tiny, *SMALL, "--output", tmp_path / "run")
    assert status == 0
    metrics = strict(out)
    assert metrics["dataset"] == str(tiny)
    assert metrics["test_accuracy"] > 0.95
    assert Network.load(tmp_path / "run" / "model.npz").classes.tolist() == ["left", "right"]


def test_images_are_held_out_where_there_is_nothing_to_measure_on(tmp_path, capsys):
    digits = load("digits").train
    np.savez(tmp_path / "mine.npz", x_train=digits.images[:300], y_train=digits.labels[:300])
    arguments = (tmp_path / "mine.npz", "--n-units", "4", "--max-nfev", "1", "--n-jobs", "1")
    arguments = (*arguments, "--recipe", "tiny", "--no-report", "--overwrite")
    said = {}
    for share in (None, "0.3", "0"):
        chosen = [] if share is None else ["--validation", share]
        main([str(word) for word in (*arguments, *chosen, "--output", tmp_path / "run")])
        out, err = capsys.readouterr()
        metrics = json.loads(out)
        said[share] = metrics["n_train"], metrics["n_validation"], "images are held out" in err
        assert ("validation_accuracy" in metrics) == (share != "0")
        assert "test_accuracy" not in metrics
    assert said["0"] == (300, 0, False)
    for share, name in ((0.2, None), (0.3, "0.3")):
        n_train, n_validation, _ = said[name]
        assert n_train + n_validation == 300
        assert abs(n_validation - 300 * share) <= 5
    assert said[None][2]
    assert not said["0.3"][2]
    for refit, words in (
        ((), "--refit also trains on all afterwards, --validation 0 trains on all at once\n"),
        (("--refit",), "measure the network; then it is trained again on all\n"),
    ):
        main([str(word) for word in (*arguments, *refit, "--output", tmp_path / "run")])
        assert words in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_a_class_that_is_not_measured_is_named(tmp_path):
    """Its recall is unknown, not 0."""
    rng = np.random.default_rng(0)
    labels = np.array(["plain"] * 20 + ["dark"] * 20 + ["rare"] * 2)
    images = rng.integers(0, 256, (42, 6, 6), dtype=np.uint8)
    images[20:40] //= 3
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)
    status, out, err = call(tmp_path / "mine.npz", *SMALL, "--output", tmp_path / "run")
    assert status == 0
    assert "no validation images for class rare: too few images" in err
    recall = strict(out)["validation_recall"]
    assert recall["rare"] is None
    assert 0 <= recall["dark"] <= 1


def test_without_a_name_the_folder_says_when_and_what(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("digits", *SMALL)
    assert status == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-digits-bilinear")
    assert Path(strict(out)["output"]).resolve() == folder


def test_verbose_says_what_every_sub_network_came_to(tmp_path, caplog):
    with caplog.at_level("INFO", logger="varpro_nn"):
        assert (
            main(["digits", *SMALL, "--n-jobs", "1", "--output", str(tmp_path / "run"), "-v"]) == 0
        )
    said = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("sub-network") and "cost" in line for line in said) == 2
    assert any(line.startswith("ridge layer, penalty") for line in said)


def test_a_finished_run_is_not_measured_again(tmp_path, capsys):
    arguments = ["digits", *SMALL, "--n-jobs", "1", "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == first


def test_a_run_is_exported_if_asked_for(tmp_path):
    """In the same command, or afterwards; another network does not keep the files of this one."""
    arguments = ("digits", *SMALL, "--output", tmp_path)
    assert call(*arguments, "--export", "c,html")[0] == 0
    files = {name: (tmp_path / name).read_bytes() for name in ("model.c", "model.html")}
    to_c(Network.load(tmp_path / "model.npz"), tmp_path / "expected.c")
    assert files["model.c"] == (tmp_path / "expected.c").read_bytes()
    (tmp_path / "model.c").unlink()
    assert call(*arguments, "--resume", "--export", "c")[0] == 0
    assert (tmp_path / "model.c").read_bytes() == files["model.c"]
    assert (tmp_path / "model.html").read_bytes() == files["model.html"]
    assert call(*arguments, "--seed", "8", "--overwrite")[0] == 0
    assert not (tmp_path / "model.c").exists()
    assert not (tmp_path / "model.html").exists()


def test_a_missing_package_of_an_export_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    folder = tmp_path / "run"
    fault("digits", *SMALL, "--output", folder, "--export", "onnx", match="onnx is needed")
    assert not folder.exists()


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_metrics_that_are_damaged_are_not_printed(share, done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done[0], folder)
    text = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(text[: int(share * len(text))])
    arguments = ("digits", *SMALL, "--bootstrap", "--resume", "--output", folder)
    fault(*arguments, match="metrics.json: is damaged")
    (folder / "metrics.json").unlink()  # as the message says
    status, out, _ = call(*arguments)
    assert (status, strict(out)["test_accuracy"]) == (0, strict(text)["test_accuracy"])


def test_files_of_the_user_are_never_replaced(tmp_path):
    for name in ("config.json", "report.html", "glue.npz", "model.npz", "history.jsonl"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.npz").write_text("mine")
    before = contents(tmp_path)
    for options in ((), ("--overwrite",), ("--resume",)):
        fault("digits", *SMALL, "--output", tmp_path, *options, match="no config.json of a run")
        assert contents(tmp_path) == before


def test_a_process_of_its_own(digits_file, tmp_path):
    """With ``--quiet`` the terminal stays empty; nothing of BLAS or of the workers strays there."""
    status, out, err = ended(
        *on_a_terminal(
            *(digits_file, *SMALL, "--n-jobs", "2", "--output", "run", "--quiet"), folder=tmp_path
        )
    )
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    result = run(SMALL_CONFIG, load("digits"), n_jobs=1)
    assert strict(out)["test_accuracy"] == result.metrics["test_accuracy"]
    network = Network.load(tmp_path / "run" / "model.npz")
    assert_array_equal(network.W, result.network.W)


# --- options -----------------------------------------------------------------------------


def test_recipes_are_listed():
    status, out, err = call("--list-recipes")
    assert (status, err) == (0, "")
    *lines, of_auto = [strict(line) for line in out.splitlines()]
    assert of_auto["name"] == "auto"
    listed = {(line["name"], line["data"]): line for line in lines}
    assert len(listed) == len(lines)
    assert set(listed) == {(name, data) for name in RECIPES for data in DATA}
    for (name, data), line in listed.items():
        assert line == {"name": name, "data": data, **configure(name, data=data).options()}
    assert listed["paper", "mnist"]["units"] == "quadratic"
    assert listed["default", "digits"] != listed["default", "mnist"]


def test_every_setting_has_an_option_with_a_word_of_help():
    status, out, _ = call("--help")
    assert status == 0
    for name, value in TrainConfig().options().items():
        option = name.replace("_", "-")
        assert f"--{option} " in out.replace("\n", " \n").replace(",", " ")
        assert (f"--no-{option} " in out.replace("\n", " \n").replace(",", " ")) is (
            type(value) is bool
        )


def test_help_has_a_group_for_each_group_of_settings():
    _, out, _ = call("--help")
    words = " ".join(out.split())
    for group in ("run", "units", "first", "subnetworks", "distortion", "output", "bootstrap"):
        assert f"\n{group}:\n" in out
    assert "units: The trained units, on the image; with first_units, on the maps of" in words
    assert "--window N side of the windows, in pixels; needs units patch (7)" in words
    assert "--max-nfev N limit of functional evaluations per round" in words
    assert "(5, accurate 6, bilinear 10, paper 15)" in words
    assert "--glue-ridge" not in out


def test_the_old_name_of_an_option_still_works_and_says_so(tmp_path):
    arguments = ("digits", *SMALL, "--max-nfev", "0", "--quiet", "--output", tmp_path)
    status, out, err = call(*arguments, "--glue-ridge", "3")
    assert (status, err) == (0, "warning: --glue-ridge is now named --output-penalty\n")
    assert strict(out)["output_penalty"] == 3
    status, _, err = call(*arguments, "--glue-ridge", "3", "--output-penalty", "4")
    assert (status, "--glue-ridge is the old name of --output-penalty" in err) == (2, True)


def test_the_commands_have_one_door(capsys):
    assert main_of_commands(["train", "--list-recipes"]) == 0
    assert '"name": "default"' in capsys.readouterr().out
    for command in ("train", "predict", "export"):
        with pytest.raises(SystemExit) as stop:
            main_of_commands([command, "--help"])
        assert stop.value.code == 0
        assert f"usage: python -m varpro_nn.{command} " in capsys.readouterr().out
    assert main_of_commands(["--help"]) == 0
    assert "train,predict,export" in capsys.readouterr().out
    for wrong in ([], ["fly"]):
        assert main_of_commands(wrong) == 2
        out, err = capsys.readouterr()
        assert (out, "usage: python -m varpro_nn" in err) == ("", True)


FEW = ("--n-train", "300", "--max-nfev", "1", "--n-jobs", "1", "--quiet", "--no-report")


def test_the_recipe_is_the_one_for_the_kind_of_data(tmp_path):
    """By the name of the data set, or for a file by the shape of its images."""
    digits = load("digits").train
    np.savez(tmp_path / "mine.npz", x_train=digits.images, y_train=digits.labels)
    for number, given in enumerate((["digits"], [tmp_path / "mine.npz", "--recipe", "default"])):
        folder = tmp_path / str(number)
        status, _, err = call(*given, "--n-units", "4", *FEW, "--output", folder)
        assert (status, err) == (0, "")
        config = strict((folder / "config.json").read_text())
        settings = {"n_units": 4, "n_train": 300, "max_nfev": 1}
        assert config == asdict(configure("default", data="digits", **settings))
        assert config["recipe"] == "default"


@pytest.mark.filterwarnings("ignore::varpro_nn.errors.ClassSizeWarning")
def test_data_of_ones_own_get_the_best_settings(tiny, tmp_path):
    """Where there are enough images to compare any."""
    images, labels = np.random.default_rng(0).random((4, 8, 8)), np.arange(4) % 2
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels)
    for data, recipe in ((tiny, "auto"), (tmp_path / "few.npz", "default")):
        folder = tmp_path / f"run-{recipe}"
        small = ("--n-units", "4", "--units", "bilinear", "--max-nfev", "0", "--n-jobs", "1")
        status, _, err = call(data, *small, "--no-report", "--output", folder)
        assert status == 0
        assert ("chosen: whole images" in err) == (recipe == "auto")
        config = strict((folder / "config.json").read_text())
        assert config["recipe"] == (recipe if recipe == "auto" else "bilinear")


def test_colour_images_of_ones_own_are_said_not_to_be_mirrored(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)
    arguments = (tmp_path / "mine.npz", "--n-units", "2", "--max-nfev", "0", "--n-jobs", "1")
    arguments = (*arguments, "--recipe", "default")
    said = "images are not mirrored; if left and right do not matter, add --flip --views flip"
    for number, (more, there) in enumerate((((), True), (("--flip",), False))):
        folder = tmp_path / str(number)
        status, _, err = call(*arguments, "--no-report", *more, "--output", folder)
        assert (status, said in err) == (0, there)
        distortion = strict((folder / "config.json").read_text())["distortion"]
        assert distortion["flip"] is not there


def test_units_of_another_kind_are_said_to_change_the_recipe(tiny, tmp_path):
    units = ("--units", "bilinear", "--n-units", "2", "--n-subnetworks", "1", "--max-nfev", "0")
    said = "--recipe default was chosen for other units than bilinear; all settings that are not"
    for recipe, there in (("default", True), ("bilinear", False)):
        folder = tmp_path / recipe
        status, _, err = call(
            *(tiny, "--recipe", recipe, *units, "--n-jobs", "1", "--no-report", "--output", folder)
        )
        assert (status, said in err) == (0, there)
        config = strict((folder / "config.json").read_text())
        assert config["recipe"] == "bilinear"
        assert config["output"]["layer"] == "ridge"


def test_stages_that_end_are_said(tiny, tmp_path):
    """The data have so few images that columns of earlier stages would explain all of them."""
    said = "sub-networks train independently: the stages of --recipe default cost more"
    few = ("--n-units", "30", "--n-subnetworks", "3", "--max-nfev", "0", "--window", "3")
    few = (*few, "--recipe", "default")
    for number, more in enumerate(((), ("--scheme", "stages", "--n-stages", "2"), ("--quiet",))):
        folder = tmp_path / str(number)
        status, _, err = call(
            *(tiny, *few, "--grid", "2", *more, "--n-jobs", "1", "--no-report", "--output", folder)
        )
        assert (status, said in err) == (0, number == 0)
        config = strict((folder / "config.json").read_text())
        assert config["subnetworks"]["scheme"] == ("stages" if number == 1 else "independent")


def test_flags_can_be_taken_back(tmp_path):
    """Each in turn against the others, so that none takes the value of another."""
    names = ("flip", "standardise", "bootstrap")
    for number in range(3):
        values = tuple(name == names[number] for name in names)
        flags = [
            f"--{name}" if on else f"--no-{name}" for name, on in zip(names, values, strict=True)
        ]
        arguments = ("digits", "--recipe", "tiny", "--n-units", "4", *FEW, *flags)
        assert call(*arguments, "--output", tmp_path / str(number))[0] == 0
        config = strict((tmp_path / str(number) / "config.json").read_text())
        options = TrainConfig.from_dict(config).options()
        assert tuple(options[name] for name in names) == values


def test_the_history_of_a_middle_layer(tmp_path):
    sizes = ("--first-units", "4", "--middle-units", "4", "--n-units", "4", "--max-nfev", "2")
    run = ("digits", "--output", tmp_path / "run", "--no-report", "--n-rounds", "1")
    assert call(*run, *sizes, "--output-layer", "ridge", "--n-copies", "0")[0] == 0
    lines = [strict(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    last, middle, _ = lines
    assert (last["subnetwork"], middle["layer"]) == (0, "middle")
    assert "subnetwork" not in middle
    assert len(middle["history"]) == len(last["history"]) == 2  # passes


def test_the_history_of_a_layer_that_is_fitted_by_iterations(tmp_path):
    arguments = ("digits", "--recipe", "tiny", "--n-units", "4", *FEW)
    assert call(*arguments, "--output", tmp_path / "run")[0] == 0
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    layer = strict(lines[-1])["output_layer"]
    assert (layer["name"], layer["chosen_by"]) == ("hinge", "split")
    assert layer["n_iterations"] > 0
    assert 0 <= layer["excess"] <= 2e-4
    metrics = strict((tmp_path / "run" / "metrics.json").read_text())
    assert layer["penalty"] == metrics["output_penalty"]
    assert layer["penalties"] == sorted(layer["penalties"], reverse=True)
    best = layer["penalties"].index(layer["penalty"])
    assert layer["losses"][best] <= min(layer["losses"]) / 0.99
    assert 1 - layer["error_rates"][best] == metrics["split_accuracy"]
    assert metrics["output_layer_excess"] == layer["excess"]
    assert metrics["output_layer_gradient_norm"] == layer["gradient_norm"] > 0
    assert 0 < metrics["test_calibration_error_by_chance"] < 0.1


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        ((), "required: dataset"),
        (("digits", "--recipe", "fast"), "invalid choice: 'fast'"),
        (("digits", "--units", "cubic"), "invalid choice: 'cubic'"),
        (("digits", "--colour", "red"), "unrecognized arguments: --colour red\n"),
        (("digits", "--n-unit", "3"), "arguments: --n-unit 3; did you mean --n-units?"),
        (("digits", "--no-flp"), "arguments: --no-flp; did you mean --no-flip?"),
        (("digits", "--out-put=run"), "arguments: --out-put=run; did you mean --output?"),
        (("digits", "--n-units", "many"), "invalid int value: 'many'"),
        (("digits", "--n-units", "0"), "n_units must be at least 1, got 0"),
        (("digits", "--ridge", "-1"), "ridge must be finite and at least 0, got -1"),
        (("digits", "--ridge", "nan"), "ridge must be finite"),
        (("digits", "--n-units", "10", "--n-subnetworks", "3"), "must be a multiple"),
        (("digits", "--seed", "-1"), "seed must be"),
        (("digits", "--views", "back"), "invalid choice: 'back'"),
        (("digits", "--class-weight", "equal"), "invalid choice: 'equal' (choose from"),
        (("digits", "--scale", "1"), "scale must be finite and at least 0 and less than 1, got 1"),
        (("digits", "--n-components", "3"), "n_components=3 needs whitening"),
        (("digits", "--n-components", "2.5"), "must be a whole number, or none, got '2.5'"),
        (("digits", "--whitening", "much"), "must be a number, or none, got 'much'"),
        (
            ("digits", "--recipe", "tiny", "--n-stages", "2"),
            "n_stages=2 needs scheme='stages'",
        ),
        (("digits", "--scheme", "refine"), "refine was removed: it cost twice the time"),
        (("digits", "--views", "shifts"), "shifts was removed: use flip or single"),
        (("digits", "--patience", "3"), "--patience was removed; stop early with the callback"),
        (("digits", "--n-parts=4"), "error: --n-parts was removed; leave it out. Threads"),
        (("digits", "--flip", "yes"), "unrecognized arguments: yes"),
        (("digits", "--n-jobs", "0"), "n_jobs must be"),
        (("digits", "--export", "onnx,pdf"), "must be one or more of onnx, c, html"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_usage_errors_have_status_2(argv, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*argv)
    assert (status, out) == (2, "")
    assert match in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_fault_in_the_checks_is_no_usage_error(monkeypatch):
    monkeypatch.setattr("varpro_nn.train.effective_jobs", lambda n_jobs: int("one"))
    with pytest.raises(ValueError, match="invalid literal"):
        call("digits")


def test_an_estimate_trains_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = call("digits", *SMALL, "--estimate")
    assert status == 0
    found = strict(out)
    assert set(found) == {
        "n_parameters", "cpu_seconds", "wall_seconds", "memory_mib", "disk_mib", "n_jobs",
    }  # fmt: skip
    assert found["n_jobs"] == 1
    assert f"{found['n_parameters']:,}" in err
    assert "peak memory" in err
    assert not list(tmp_path.iterdir())


def test_an_estimate_of_a_run_that_is_there_is_that_of_its_settings(done):
    folder = done[0]
    before = contents(folder)
    status, out, err = call("digits", *SMALL, "--estimate", "--quiet", "--output", folder)
    assert (status, err) == (0, "")
    assert (
        strict(out)["n_parameters"] == strict((folder / "metrics.json").read_text())["n_parameters"]
    )
    assert contents(folder) == before


def test_a_run_that_does_not_fit_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("varpro_nn.training.estimate.available_memory_mib", lambda: 1.0)
    fault("digits", *SMALL, "--output", tmp_path / "run", match="Reduce")
    assert not (tmp_path / "run" / "model.npz").exists()


# --- faults ------------------------------------------------------------------------------


def test_a_run_that_is_there_already_is_kept(done):
    folder = done[0]
    before = contents(folder)
    fault("digits", *SMALL, "--output", folder, match="--overwrite")
    assert contents(folder) == before


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    assert call("digits", *SMALL, "--bootstrap", "--output", tmp_path)[0] == 0
    assert (tmp_path / "model-bootstrap.npz").exists()
    old = (tmp_path / "model.npz").read_bytes()
    status, out, _ = call("digits", *SMALL, "--seed", "8", "--output", tmp_path, "--overwrite")
    assert status == 0
    assert strict(out) == strict((tmp_path / "metrics.json").read_text())
    assert (tmp_path / "model.npz").read_bytes() != old
    assert "bootstrap" not in strict(out)
    assert not (tmp_path / "model-bootstrap.npz").exists()


def test_an_overwriting_run_that_fails_keeps_the_old_one(tmp_path):
    assert call("digits", *SMALL, "--output", tmp_path)[0] == 0
    before = contents(tmp_path)
    fault(tmp_path / "none.npz", *SMALL, "--output", tmp_path, "--overwrite")
    assert contents(tmp_path) == before


def test_output_that_cannot_be_written_is_found_before_the_work(tmp_path, monkeypatch):
    def never(*args, **kwargs):
        pytest.fail("the work had begun")

    monkeypatch.setattr("varpro_nn.data.load", never)
    file = tmp_path / "file"
    file.write_text("mine")
    for output in (file, file / "run", file / "a" / "b"):
        fault("digits", *SMALL, "--output", output, match="cannot be written")
    assert file.read_text() == "mine"
    fault("digits", *SMALL, "--output", tmp_path / ("x" * 300), match="x" * 300)


def test_a_disk_that_fails_at_the_end_leaves_no_finished_run(tmp_path, monkeypatch):
    def full(path, content):
        if path.name == "model.npz":
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr("varpro_nn._io.archive.write_atomically", full)
    fault("digits", *SMALL, "--output", tmp_path / "run", match="No space left on device")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_unknown_data_set(tmp_path):
    fault(
        "minst",
        *SMALL,
        *("--output", tmp_path / "run"),
        match="error: dataset must be one of mnist, fashion-mnist, cifar10, digits",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("size", ["", "0", "8x", "x8", "8x0", "8x8x3", "-8", "8.0"])
def test_sizes_that_are_none(size):
    status, _, err = call("digits", f"--image-size={size}")
    assert status == 2
    assert f"--image-size: must be N or ROWSxCOLUMNS, 28 or 28x20 for example, got {size!r}" in err


def test_a_table(tmp_path):
    pytest.importorskip("pandas")
    digits = load("digits").train
    rows = np.column_stack([digits.images.reshape(1500, 64)[:, :32], digits.labels])
    np.savetxt(tmp_path / "half.csv", rows, fmt="%g", delimiter=",")
    given = (tmp_path / "half.csv", "--label-column", "-1", *SMALL, "--output", tmp_path / "run")
    fault(*given, match="got 32 per row. If images are not squares, give")
    status, out, _ = call(*given, "--image-size", "4x8")
    assert status == 0
    assert strict(out)["n_train"] == 400
    assert Network.load(tmp_path / "run" / "model.npz").image_shape == (4, 8)
    fault("digits", "--image-size", "8", match="image_size has no effect on digits")


def test_pictures_that_stay_on_disk(tmp_path):
    """A table names them; they are trained on, tested and shown from the disk."""
    pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    rows = ["file,label,split"]
    for number in range(80):
        pixels = rng.integers(0, 100, (9 + number % 3, 8), dtype=np.uint8)
        pixels[:, :4] += np.uint8(120 * (number % 2))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        label, part = ("dark", "light")[number % 2], "test" if number > 59 else "train"
        rows.append(f"{number}.png,{label},{part}")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    small = ("--images-per-subnetwork", "40", "--n-train", "60")
    results = []
    on_disk = [*WITH_REPORT, "--images-on-disk", tmp_path / "scratch"]
    for where in (SMALL, on_disk):
        folder = tmp_path / f"run{len(results)}"
        status, out, err = call(tmp_path / "mine.csv", *small, *where, "--output", folder)
        assert status == 0, err
        results.append((strict(out), Network.load(folder)))
    (first, network), (second, from_disk) = results
    for name in ("n_train", "n_test", "test_accuracy"):
        assert first[name] == second[name]
    assert_array_equal(network.A, from_disk.A)
    assert first["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("options", "said"), [([], True), (["--n-copies", "0"], False), (["--shift", "0"], False)]
)
def test_images_on_disk_have_no_copies_and_that_is_said(options, said, tmp_path):
    digits = load("digits").train
    np.save(tmp_path / "x_train.npy", digits.images[:300])
    np.save(tmp_path / "y_train.npy", digits.labels[:300])
    status, _, err = call(tmp_path, "--recipe", "default", "--estimate", "--n-jobs", "1", *options)
    assert status == 0, err
    assert ("images on disk have no distorted copies" in err) == said


def test_missing_data_are_said_where_to_put(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    fault(
        *("mnist", *SMALL, "--offline", "--data-dir", tmp_path / "data"),
        *("--output", tmp_path / "run"),
        match="4 of 4 files were not found",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_damaged_npz(content, tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    fault(path, *SMALL, "--output", tmp_path / "run", match="must be a .npz file")


def test_truncated_npz(tiny, tmp_path):
    tiny.write_bytes(tiny.read_bytes()[:-30])
    fault(tiny, *SMALL, "--output", tmp_path / "run", match=str(tiny))
    assert not (tmp_path / "run").exists()


def rewritten(tiny, **changes):
    with np.load(tiny) as archive:
        arrays = {**archive, **changes}
    np.savez(tiny, **{name: array for name, array in arrays.items() if array is not None})
    return tiny


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y_train": np.zeros(79, int)}, "80 images and 79 labels"),
        ({"y_train": np.full(80, "left")}, "two classes or more"),
        ({"x_train": np.full((80, 5, 6), np.nan)}, "x_train must be finite"),
        ({"x_train": np.zeros((80, 30))}, "x_train must be images, or rows of"),
        ({"x_train": np.zeros((80, 5, 6))}, "images that differ"),
        (
            {"y_train": None},
            "x_train seems to be the images of the training set, and has no labels",
        ),
        ({"y_test": None}, "x_test seems to be the images of the test set, and has no labels"),
        (
            {"x_test": np.zeros((80, 6, 5), np.uint8)},
            "x_test must have shape (n, 5, 6), got (80, 6, 5)",
        ),
        ({"y_test": np.full(80, "middle")}, "every label of y_test must occur in y_train"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsuitable_npz(changes, match, tiny, tmp_path):
    fault(rewritten(tiny, **changes), *SMALL, "--output", tmp_path / "run", match=match)
    assert not (tmp_path / "run").exists()


def test_settings_that_the_images_do_not_allow(tiny, tmp_path):
    fault(
        *(tiny, *SMALL, "--units", "quadratic", "--output", tmp_path / "run"),
        match="quadratic units need square images, got image_shape=(5, 6)",
    )


def test_bootstrap_without_test_images(tiny, tmp_path):
    path = rewritten(tiny, x_test=None, y_test=None)
    options = (*SMALL, "--bootstrap", "--validation", "0")
    fault(path, *options, "--output", tmp_path / "run", match="needs test images")
    status, out, _ = call(path, *SMALL, "--output", tmp_path / "run")
    assert status == 0
    assert "test_accuracy" not in strict(out)


# --- a terminal, and Ctrl-C --------------------------------------------------------------

LONG = (
    *(
        "--recipe",
        "bilinear",
        "--n-units",
        "4000",
        "--n-subnetworks",
        "800",
        "--images-per-subnetwork",
        "1000",
    ),
    *("--max-nfev", "100"),
)


def test_the_glue_is_kept_if_asked_for(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["digits", *SMALL, "--keep-glue", "--output", str(folder), "--quiet"]) == 0
    metrics = strict(capsys.readouterr().out)
    network = Network.load(folder / "model.npz")
    layer = RidgeLayer.load(folder / "glue.npz")
    assert layer.n_images == 400
    assert_array_equal(layer.W, network.W)
    assert_array_equal(layer.solve(metrics["output_penalty"]), network.A)


def test_the_glue_of_weighted_images_cannot_be_kept(tmp_path):
    arguments = ("--keep-glue", "--class-weight", "balanced", "--output", tmp_path / "run")
    fault("digits", *SMALL, *arguments, match="needs images without weights, got --class-weight")
    assert not (tmp_path / "run").exists()


def test_classes_are_balanced_if_asked_for(tmp_path):
    train = load("digits").train.take(slice(300))
    folder = tmp_path / "run"
    data = tmp_path / "mine.npz"
    np.savez(data, x_train=train.images, y_train=train.labels)
    arguments = (data, *SMALL, "--validation", "0", "--n-train", "250", "--output", folder)
    status, out, _ = call(*arguments, "--class-weight", "balanced")
    assert (status, strict(out)["class_weight"]) == (0, "balanced")
    weights = compute_sample_weight("balanced", train.labels[:250])
    images = ImageSet(train.images[:250], train.labels[:250], weights)
    by_hand = run(SMALL_CONFIG, Dataset("mine", np.arange(10), images, None), n_jobs=1)
    assert_array_equal(Network.load(folder / "model.npz").A, by_hand.network.A)
    # The weights are a part of what a resumed run must have in common.
    fault(*arguments, "--resume", match="class_weight, data differ")
    status, again, _ = call(*arguments, "--class-weight", "balanced", "--resume")
    assert (status, again) == (0, out)


def test_a_run_is_refitted_if_asked_for(tmp_path):
    arguments = ("digits", *SMALL, "--n-train", "300", "--output", tmp_path / "run", "--refit")
    fault(*arguments, match="refit needs validation images, and there are none; hold some")
    assert not (tmp_path / "run").exists()
    arguments = (*arguments, "--validation", "0.1")
    status, out, _ = call(*arguments, "--estimate")
    assert status == 0
    status, out, err = call(*arguments)
    assert status == 0
    metrics = strict(out)
    sizes = {name: metrics[name] for name in ("refitted", "n_train", "n_validation", "n_refit")}
    assert sizes == {"refitted": True, "n_train": 300, "n_validation": 150, "n_refit": 450}
    assert "the saved network was trained on all 450 images, 150 validation images among" in err
    status, again, _ = call(*arguments, "--resume")
    assert (status, again) == (0, out)


def on_a_terminal(*argv, folder):
    """Start a run whose standard error is a terminal; its process leads a group of its own."""
    main_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    process = subprocess.Popen(
        [sys.executable, "-m", "varpro_nn.train", "--no-report", *argv],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        start_new_session=True,
    )
    os.close(terminal)
    return process, main_end


def read_until(main_end, *words):
    """Read the terminal until one of ``words`` was shown, or until its end."""
    text = ""
    os.set_blocking(main_end, True)
    while not any(word in text for word in words):
        try:
            piece = os.read(main_end, 65536)
        except OSError:  # how a terminal ends on Linux
            break
        if not piece:
            break
        text += piece.decode(errors="replace")
    return text


def ended(process, main_end):
    """Exit status, standard output, and what the terminal showed, of a run that ends by itself."""
    err = read_until(main_end)
    out = process.communicate(timeout=60)[0]
    os.close(main_end)
    return process.returncode, out, err


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_is_on_standard_error(tmp_path, monkeypatch, capsys):
    """On a real terminal, a run with ``--quiet`` shows none, and one that is stopped shows it."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(["digits", *SMALL, "--output", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr().out, sys.stderr.getvalue()
    assert out.count("\n") == 1
    strict(out)
    for said in ("2/2", "best_cost=", "median_cost="):
        assert said in err


@pytest.mark.parametrize(
    ("to", "n_jobs"),
    [
        ("group", "2"),
        pytest.param("process", "2", marks=pytest.mark.slow),
        pytest.param("group", "1", marks=pytest.mark.slow),
    ],
)
def test_control_c_ends_a_run_within_seconds_and_leaves_nothing(to, n_jobs, digits_file, tmp_path):
    """A terminal sends the signal to the whole group, ``kill -INT`` to the process alone.

    Workers are deaf to it (test_pool.py), so that the process must end them in either case.
    """
    process, main_end = on_a_terminal(
        *(digits_file, *LONG, "--n-jobs", n_jobs, "--output", "run"), folder=tmp_path
    )
    try:
        assert "best_cost=" in read_until(main_end, "best_cost=")  # in the middle of training
        start = time.monotonic()
        (os.killpg if to == "group" else os.kill)(process.pid, signal.SIGINT)
        err = read_until(main_end)
        out = process.communicate(timeout=20)[0]
        assert time.monotonic() - start < 5
        assert process.returncode == 130
        assert out == ""
        assert "interrupted" in err
        assert "Traceback" not in err
        # No half of a file, and nothing that looks like a finished run. (Sub-networks that were
        # finished may lie there, to go on with.)
        names = {Path(name).name for name in contents(tmp_path)}
        assert not names & {"metrics.json", "model.npz", "history.jsonl"}
        assert not any(name.endswith(".part") for name in names)
        deadline = time.monotonic() + 10  # no worker goes on
        while time.monotonic() < deadline:
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("worker processes are still there")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        os.close(main_end)


# --- the report --------------------------------------------------------------------------


def test_a_report_is_written_where_it_can_be(done, tmp_path):
    metrics = strict((done[0] / "metrics.json").read_text())
    assert f"{metrics['n_parameters']:,}" in (done[0] / "report.html").read_text()
    assert 0 < metrics["growth_wall_seconds"] < metrics["wall_seconds"]
    shutil.copytree(done[0], tmp_path / "run")
    status, out, _ = call("digits", *SMALL, "--overwrite", "--output", tmp_path / "run")
    assert (status, "growth_wall_seconds" in strict(out)) == (0, False)
    assert not (tmp_path / "run" / "report.html").exists()


def test_without_matplotlib_there_is_no_report_and_a_word_of_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = call("digits", *WITH_REPORT, "--output", tmp_path / "run")
    assert status == 0
    assert "no report.html" in err
    assert "varpro-nn[plot]" in err
    assert not (tmp_path / "run" / "report.html").exists()
    fault("digits", *SMALL, "--report", "--output", tmp_path / "other", match="varpro-nn[plot]")
    assert not (tmp_path / "other").exists()


def test_none_on_the_command_line():
    given = build_parser().parse_args(
        ["digits", "--whitening", "None", "--first-units", "none", "--ridge", "2", "--n-train", "3"]
    )
    assert (given.whitening, given.first_units, given.ridge, given.n_train) == (None, None, 2.0, 3)
