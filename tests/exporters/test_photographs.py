"""Photographs of several sizes: the same labels from predict, the network, ONNX and C."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varpro_nn import Network, configure, load, run, to_c, to_html, to_onnx
from varpro_nn.predict import main

SHARES = 1e-5
"""What single precision changes in a probability."""


def photograph(rng: np.random.Generator, label: int, *, grey: bool) -> Image.Image:
    """A smooth picture with a bright bar, upright or lying, of another size each time."""
    rows, columns = rng.integers(30, 200, 2)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    along = np.abs(x if label == 0 else y)
    tints = np.ones(3) if grey else rng.uniform(0.4, 1, 3)
    pixels = 60 + 30 * x + 20 * y + 100 * np.exp(-((along / 0.3) ** 2)) + rng.normal(0, 25, x.shape)
    return Image.fromarray((pixels[..., None] * tints).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module", params=["grey", "colour"])
def trained(request, tmp_path_factory) -> tuple[Path, Network]:
    """A folder of classes, the network of it, and its file."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(60):
        path = folder / "data" / ("upright", "lying")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        picture = photograph(rng, number % 2, grey=request.param == "grey")
        if number % 3 == 0:  # as a phone held on its side writes it
            exif[0x0112] = 6
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(path, quality=90, exif=exif)
    data = load(folder / "data", image_size=(16, 12))
    config = configure("tiny", data=data, n_units=4, images_per_subnetwork=60, n_rounds=1)
    network = run(config, data, n_jobs=1).network
    network.save(folder / "model.npz")
    return folder, network


def test_images_are_those_of_training(trained):
    folder, network = trained
    assert network.preparation.cropped
    images = network.read_images(folder / "data")
    in_order = load(folder / "data", image_size=(16, 12)).train.images
    np.testing.assert_array_equal(images, in_order)
    np.testing.assert_array_equal(network.read_images(folder / "data", prepare=True), images)


def test_predict_says_what_the_network_says(trained, capsys):
    folder, network = trained
    assert main(["--model", str(folder / "model.npz"), str(folder / "data")]) == 0
    labels = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    assert labels == network.predict(network.read_images(folder / "data")).tolist()
    assert len(set(labels)) == 2


def test_onnx_says_what_the_network_says(trained):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, network = trained
    to_onnx(network, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    images = network.read_images(folder / "data")
    labels, shares = session.run(["label", "probabilities"], {"images": images})
    assert labels.tolist() == network.predict(images).tolist()
    np.testing.assert_allclose(shares, network.predict_proba(images), rtol=0, atol=SHARES)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_c_says_what_the_network_says(trained):
    folder, network = trained
    to_c(network, folder / "model.c")
    program = folder / "classify"
    subprocess.run(
        ["gcc", "-std=c99", "-O1", "-DVARPRO_MAIN", "-o", program, folder / "model.c", "-lm"],
        check=True,
    )  # fmt: skip
    images = network.read_images(folder / "data")
    done = [
        subprocess.run([program], input=image.tobytes(), capture_output=True, check=True)
        for image in images[::4]
    ]
    labels = [each.stdout.decode().split()[0] for each in done]
    assert labels == network.predict(images[::4]).tolist()


def on_the_page(tab, path: Path) -> np.ndarray:
    """The image that the page makes of a picture."""
    tab.evaluate("varpro.pixels = null")
    tab.set_input_files("[type=file]", path)
    tab.evaluate(
        "new Promise((done) => { const look = () => varpro.pixels ? done() :"
        " setTimeout(look, 10); look(); })"
    )
    return np.array(tab.evaluate("[...varpro.pixels]"))


def test_the_page_crops_and_resizes_as_python_does(trained, tab):
    folder, network = trained
    to_html(network, folder / "page.html")
    tab.goto((folder / "page.html").as_uri())
    rng = np.random.default_rng(1)
    for number, size in enumerate([(40, 30), (97, 61), (20, 150), (9, 9), (8, 40)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
        expected = network.read_images(path)[0].reshape(-1)
        assert np.abs(on_the_page(tab, path) - expected).max() <= 1
        assert tab.text_content("[data-show=how]") == "the middle of the picture, resized"
    # A stroke over it leaves the picture on the canvas below.
    box = tab.locator(".varpro-canvas").bounding_box()
    tab.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tab.text_content("[data-show=how]") == "the canvas, scaled down"


def test_the_page_decodes_jpeg_nearly_as_python_does(trained, tab):
    """Python decodes large JPEG pictures at a part of their size."""
    folder, network = trained
    to_html(network, folder / "page.html")
    tab.goto((folder / "page.html").as_uri())
    images = network.read_images(folder / "data")
    labels = network.predict(images)
    paths = sorted((folder / "data").rglob("*.jpg"))
    for number in range(0, 60, 6):
        pixels = on_the_page(tab, paths[number])
        assert np.abs(pixels - images[number].reshape(-1)).mean() < 6
        assert tab.text_content("[data-show=label]") == labels[number]
