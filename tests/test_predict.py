"""``python -m varpro_nn.predict``."""

import contextlib
import gzip
import io
import json
import os
import struct
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import varpro_nn
from varpro_nn import Network, configure, load, run, train_network, whole_image_units
from varpro_nn._cli import run_command
from varpro_nn.data.preparation import Preparation
from varpro_nn.predict import main

SHAPE = (4, 5)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(varpro_nn.__file__).parents[1])}


def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:  # of argparse
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def fault(*argv, match):
    status, out, err = call(*argv)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert match in err


def make(classes):
    rng = np.random.default_rng(0)
    units = whole_image_units("bilinear", SHAPE, 6)
    images = rng.integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    W = units.init(images, rng).astype(np.float32)
    A = rng.standard_normal((7, len(classes)))
    A -= A.mean(axis=1, keepdims=True)
    A[-1] = 1 / len(classes) - units.features(W, images).mean(axis=0) @ A[:-1]
    return Network(units, W, A, np.array(classes), SHAPE), images


@pytest.fixture(params=[(3, 5, 9), ("ant", "bee", "größer")], ids=["integers", "strings"])
def network(request, tmp_path):
    network, _ = make(request.param)
    (tmp_path / "run").mkdir()
    network.save(tmp_path / "run" / "model.npz")
    return network


@pytest.fixture
def images():
    return make((0, 1))[1]


def idx(images):
    return struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def write(path, images):
    if path.suffix == ".npz":
        np.savez(path, images=images)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(idx(images)))
    else:
        path.write_bytes(idx(images))
    return path


@pytest.mark.parametrize("file", ["images.npz", "images-idx3-ubyte", "images-idx3-ubyte.gz"])
@pytest.mark.parametrize("model", ["run", "run/model.npz"])
def test_one_line_an_image_says_label_and_probabilities(model, file, network, images, tmp_path):
    status, out, err = call("--model", tmp_path / model, write(tmp_path / file, images))
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["image"] for line in lines] == list(range(30))
    assert_array_equal([line["label"] for line in lines], network.predict(images))
    assert len({line["label"] for line in lines}) > 1
    names = [str(name) for name in network.classes]
    for line in lines:
        assert list(line["probabilities"]) == names
        assert max(line["probabilities"], key=line["probabilities"].get) == str(line["label"])
    values = [list(line["probabilities"].values()) for line in lines]
    assert_allclose(values, network.predict_proba(images), atol=5.1e-7)
    assert_allclose(np.sum(values, axis=1), 1, atol=5e-6)


@pytest.mark.parametrize("layer", ["softmax", "hinge"])
def test_probabilities_are_those_of_the_output_layer(layer, network, images, tmp_path):
    changed = replace(network, output_layer=layer, views="flip")
    changed.save(tmp_path / "run" / "model.npz")
    out = call("--model", tmp_path / "run", write(tmp_path / "images.npz", images))[1]
    lines = [json.loads(line) for line in out.splitlines()]
    values = [list(line["probabilities"].values()) for line in lines]
    assert_allclose(values, changed.predict_proba(images), atol=5.1e-7)
    assert np.abs(np.array(values) - network.predict_proba(images)).max() > 0.01
    assert_array_equal([line["label"] for line in lines], changed.predict(images))


@pytest.mark.parametrize("n_jobs", ["2", "-1"])
def test_threads_change_nothing(n_jobs, network, images, tmp_path):
    path = write(tmp_path / "images.npz", images)
    one = call("--model", tmp_path / "run", path)
    assert call("--model", tmp_path / "run", path, "--n-jobs", n_jobs) == one


@pytest.mark.parametrize("network", [("ant", "bee", "größer")], indirect=True, ids=["strings"])
def test_a_process_of_its_own(network, images, tmp_path):
    path = write(tmp_path / "images.npz", images)
    done = subprocess.run(
        [sys.executable, "-m", "varpro_nn.predict", "--model", tmp_path / "run", path],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == call("--model", tmp_path / "run", path)[1]


@pytest.mark.parametrize("network", [(3, 5, 9)], indirect=True, ids=["integers"])
def test_a_reader_that_goes_away_is_no_error(network, images, tmp_path):
    """``... | head -1``"""
    path = write(tmp_path / "images.npz", np.tile(images, (500, 1, 1)))
    process = subprocess.Popen(
        [sys.executable, "-m", "varpro_nn.predict", "--model", tmp_path / "run", path],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(process.stdout.readline())["image"] == 0
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert err == ""


PICTURES = {"a.png": 0, "b.gif": 1, "c.tif": 2, "d.BMP": 3}


@pytest.fixture
def folder(images, tmp_path):
    """Pictures of four formats."""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for name, number in PICTURES.items():
        Image.fromarray(images[number]).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def test_a_bad_file_is_named_and_the_others_are_labelled(network, images, folder, tmp_path):
    content = (folder / "a.png").read_bytes()
    (folder / "aa.png").write_bytes(content[:-40])
    (folder / "b.txt").write_text("labels")
    os.mkfifo(folder / "c.png")
    status, out, err = call("--model", tmp_path / "run", folder)
    assert status == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == list(PICTURES)
    assert [line["path"] for line in lines] == [str(folder / name) for name in PICTURES]
    assert [line["image"] for line in lines] == [0, 1, 2, 3]
    assert_array_equal([line["label"] for line in lines], network.predict(images[:4]))
    note, *faults = err.splitlines()
    assert note == f"note: {folder}: skipped b.txt: their names do not end like a picture"
    assert [fault.split(": ")[:2] for fault in faults] == [
        ["error", str(folder / name)] for name in ("aa.png", "c.png")
    ]


def test_several_paths(network, images, folder, tmp_path):
    """Pictures and arrays in any order: each image is labelled as it is by itself."""
    array = write(tmp_path / "images.npz", images[:3])
    floats = write(tmp_path / "floats.npz", images[:2] / 255)
    paths = (folder / "a.png", array, tmp_path / "absent", folder, floats, folder / "d.BMP")
    status, out, err = call("--model", tmp_path / "run", *paths)
    assert status == 1
    assert (
        err == f"error: {tmp_path / 'absent'}: there is no such file or folder; check the path.\n"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    numbers = [0, *range(3), *range(4), *range(2), 3]
    assert [line["image"] for line in lines] == list(range(len(numbers)))
    assert_array_equal([line["label"] for line in lines], network.predict(images)[numbers])
    values = [list(line["probabilities"].values()) for line in lines]
    assert_allclose(values, network.predict_proba(images)[numbers], atol=5.1e-7)
    names = ["a.png", *["images.npz"] * 3, *PICTURES, *["floats.npz"] * 2, "d.BMP"]
    assert [line["file"] for line in lines] == names


def test_pictures_are_read_some_at_a_time(network, folder, tmp_path, monkeypatch):
    whole = call("--model", tmp_path / "run", folder)
    assert whole[0] == 0
    monkeypatch.setattr("varpro_nn.data.unlabelled._PICTURES_AT_A_TIME", 3)
    assert call("--model", tmp_path / "run", folder) == whole


def test_intensities_unlike_those_of_training_are_a_fault_of_that_file(network, images, tmp_path):
    remembered = replace(network, preparation=Preparation.learn(images))
    remembered.save(tmp_path / "run" / "model.npz")
    bright = write(tmp_path / "bright.npz", images * 5.0)
    status, out, err = call("--model", tmp_path / "run", bright, write(tmp_path / "i.npz", images))
    assert (status, len(out.splitlines())) == (1, 30)
    assert err.startswith(f"error: {bright}: images must be")


def test_a_fault_in_the_code_is_none_of_the_images(network, images, tmp_path, monkeypatch):
    monkeypatch.setattr(Network, "decision_function", lambda *_, **__: int("no number"))
    path = write(tmp_path / "images.npz", images)
    match = "unexpected: probably a bug in varpro_nn"
    fault("--model", tmp_path / "run", path, match=match)


@pytest.mark.parametrize("ink", [True, False], ids=["ink on a ground", "photographs"])
def test_enlarged_pictures_are_prepared_as_the_training_images_were(ink, tmp_path):
    """Whatever the data set is called."""
    if ink:
        data = load("digits")
        images = np.round(255 * data.train.images[:300]).astype(np.uint8)
        labels = data.train.labels[:300]
    else:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 10, 300)
        base = rng.integers(60, 200, (10, 8, 8))
        images = (base[labels] + rng.integers(-40, 40, (300, 8, 8))).astype(np.uint8)
    config = configure("bilinear", data="digits", n_units=60, n_subnetworks=1, max_nfev=0)
    network = train_network(config, images[:200], labels[:200], np.arange(10))[0]
    network.save(tmp_path / "model.npz")
    found = {}
    for factor in (1, 8):
        folder = tmp_path / f"times{factor}"
        folder.mkdir()
        for number, image in enumerate(images[200:]):
            large = np.kron(image, np.ones((factor, factor), dtype=np.uint8))
            Image.fromarray(large).save(folder / f"{number:03d}.png")
        status, out, _ = call("--model", tmp_path / "model.npz", "--prepare", folder)
        assert status == 0
        found[factor] = np.array([json.loads(line)["label"] for line in out.splitlines()])
    expected = network.predict(images[200:])
    assert np.mean(expected == labels[200:]) > 0.7
    for factor in (1, 8):
        assert np.mean(found[factor] == expected) > 0.97


def test_a_model_without_a_record_of_its_training_images_says_so(tmp_path):
    network, images = make((3, 5, 9))
    network.save(tmp_path / "model.npz")
    Image.fromarray(np.kron(images[0], np.ones((3, 3), dtype=np.uint8))).save(tmp_path / "3.png")
    with pytest.warns(UserWarning, match="has no record of what its training images show"):
        status, out, _ = call("--model", tmp_path / "model.npz", "--prepare", tmp_path / "3.png")
    assert status == 0
    assert json.loads(out)["label"] == network.predict(images[:1])[0]


def test_pictures_for_a_network_of_signed_intensities_are_refused(tmp_path):
    network, images = make((3, 5, 9))
    signed = replace(network, preparation=Preparation.learn(images / 127.5 - 1))
    signed.save(tmp_path / "model.npz")
    Image.fromarray(images[0]).save(tmp_path / "picture.png")
    for more in ((), ("--prepare",)):
        words = ("--model", tmp_path / "model.npz", *more, tmp_path / "picture.png")
        fault(*words, match="divided by 255")


def test_a_warning_is_one_line(capsys):
    before = warnings.formatwarning("far\noutside", UserWarning, "file.py", 3)
    said = (warnings.formatwarning("far\noutside", UserWarning, "file.py", 3) for _ in range(1))
    assert run_command(lambda: said) == 0
    assert capsys.readouterr().out == "warning: far outside\n\n"
    assert warnings.formatwarning("far\noutside", UserWarning, "file.py", 3) == before


# --- faults ------------------------------------------------------------------------------


def test_images_of_another_size(network, images, tmp_path):
    for file in ("other.npz", "other-idx"):
        path = write(tmp_path / file, images.swapaxes(1, 2).copy())
        fault(
            "--model",
            tmp_path / "run",
            path,
            match=f"{path}: images must have shape (n, 4, 5), got",
        )


def test_images_that_are_not_finite(network, tmp_path):
    path = write(tmp_path / "images.npz", np.full((3, *SHAPE), np.nan))
    fault("--model", tmp_path / "run", path, match="must be finite, got NaN or infinity in 3 of 3")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\0\0\x08\x03\0\0"])
def test_damaged_images(content, network, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(content)
    fault("--model", tmp_path / "run", path, match=str(path))


def test_truncated_images(network, images, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx(images)[:-1])
    fault("--model", tmp_path / "run", path, match="ask for 600 bytes, got 599 bytes")


def test_no_images(network, tmp_path):
    for name in ("none.npz", "folder"):
        fault("--model", tmp_path / "run", tmp_path / name, match=f"{name}: there is no such file")


def test_no_model(images, tmp_path):
    path = write(tmp_path / "images.npz", images)
    fault("--model", tmp_path / "none", path, match="none: there is no such file or folder")
    fault("--model", tmp_path, path, match="model.npz")  # a folder without a run


def test_damaged_model(network, images, tmp_path):
    path = write(tmp_path / "images.npz", images)
    model = tmp_path / "run" / "model.npz"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    fault("--model", tmp_path / "run", path, match=str(model))
    fault("--model", path, path, match="should hold header.npy")


def test_usage(tmp_path):
    status, out, err = call("images.npz")
    assert (status, out) == (2, "")
    assert "--model" in err
    assert call("--help")[0] == 0


def test_a_senseless_number_of_jobs_is_a_fault_in_one_line(network, images, tmp_path):
    path = write(tmp_path / "images.npz", images)
    status, out, err = call("--model", tmp_path / "run", path, "--n-jobs", "0")
    assert status in (1, 2)
    assert out == ""
    assert "n_jobs must be -1" in err


def test_interrupted(network, images, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    path = write(tmp_path / "images.npz", images)
    monkeypatch.setattr("varpro_nn.data.read_all_images", interrupt)
    assert call("--model", tmp_path / "run", path) == (130, "", "interrupted\n")


def test_the_folder_that_a_network_was_trained_from_gives_the_figures_of_training(tmp_path):
    data = load("digits")
    for label in range(10):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True)
        of_class = data.train.images[data.train.labels == label][:12]
        for number, image in enumerate(of_class):
            size = (16 + number, 20 + label)
            picture = Image.fromarray(np.uint8(255 * image)).resize(size)
            picture.save(tmp_path / "pictures" / str(label) / f"{number}.png")
    pictures = load(tmp_path / "pictures", image_size=(12, 12))
    config = configure("tiny", data=pictures, n_units=2, max_nfev=1, output_layer="ridge")
    done = run(config, pictures)
    path = tmp_path / "model.npz"
    done.network.save(path)
    status, out, err = call("--model", path, tmp_path / "pictures")
    assert status == 0
    expected = done.metrics["train_accuracy"]
    assert 0.5 < expected < 1
    assert err.startswith(f"accuracy {expected:.4f} ± ")
    assert err.endswith("on the 120 pictures in sub-folders named like a class\n")
    lines = [json.loads(line) for line in out.splitlines()]
    right = [line["label"] == Path(line["path"]).parent.name for line in lines]
    assert np.mean(right) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_out_of_sub_folders_are_named(network, images, tmp_path):
    for name in ("pictures/a/1.png", "elsewhere/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(images[0]).save(tmp_path / name)
    (tmp_path / "pictures/a/out.png").symlink_to(tmp_path / "elsewhere/2.png")
    status, out, err = call("--model", tmp_path / "run", tmp_path / "pictures")
    assert (status, out.count("\n")) == (0, 1)
    assert "skipped out.png: links out of the folder" in err
