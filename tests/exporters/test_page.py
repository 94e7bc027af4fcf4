"""The page that is drawn on: its JavaScript in node, and the page in a browser."""

import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from exports import NETWORKS, images_of, rounding
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from reference import folded_probabilities

from varpro_nn import (
    Network,
    configure,
    exporters,
    load,
    patch_units,
    run,
    whole_image_units,
)
from varpro_nn.data import read_images
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.preparation import Frame, Preparation
from varpro_nn.exporters.folded import fold
from varpro_nn.exporters.page import drawing, policy, to_html
from varpro_nn.units import WholeImageUnits

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!--<script>",
    "{{ model }} {% &lt; \" ' \\ \u2028 été",
]

FORWARD = """
const { varproNetwork } = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const results = cases.map(({ model, bytes, images }) => {
  const network = varproNetwork(model);
  const kind = bytes ? Uint8Array : Float32Array;
  return images.map((image) => [...network.predict(kind.from(image))]);
});
console.log(JSON.stringify(results));
"""

STANDS = "[...document.querySelectorAll('.varpro-bars li')].map((item) => "


class _Model(HTMLParser):
    """Finds the text of the element that holds the network."""

    inside, text = False, ""

    def handle_starttag(self, tag, attrs):
        self.inside = dict(attrs).get("class") == "varpro-model"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data if self.inside else ""


def model_of(network):
    parser = _Model()
    parser.feed(drawing(network))
    return json.loads(parser.text)


def in_node(cases):
    """Probabilities of (network, images) each, by one process of node."""
    script = Path(exporters.__file__).parent / "templates" / "predict.js"
    plain = [
        {
            "model": model_of(network),
            "bytes": images.dtype == np.uint8,
            "images": images.reshape(len(images), -1).tolist(),
        }
        for network, images in cases
    ]
    done = subprocess.run(
        ["node", "-e", FORWARD, str(script)],
        input=json.dumps(plain), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [np.array(rows) for rows in json.loads(done.stdout)]


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
def test_javascript_gives_the_numbers_of_python():
    cases = [(network, images_of(network.image_shape)) for network in NETWORKS.values()]
    # Floats are intensities already, and images and cells need not be square.
    cases += [(network, images[:3] / np.float32(200)) for network, images in cases]
    cases.append((oblong := oblong_network(), images_of(oblong.image_shape)))
    # All outputs below 0: all classes alike.
    ridge = next(n for n in NETWORKS.values() if (n.output_layer, n.temperature) == ("ridge", None))
    sunk = replace(ridge, A=np.append(0 * ridge.A[:-1], [[-1.0, -2, -1, -3]], axis=0))
    cases.append((sunk, images_of(ridge.image_shape)))
    results = in_node(cases)
    assert_allclose(results[-1], 0.25)
    for (network, images), found in zip(cases, results, strict=True):
        # Nearer to double precision than Python's single precision is.
        exact = folded_probabilities(fold(network), images)[1]
        assert_allclose(found, exact, atol=1e-6, rtol=0)
        expected = network.predict_proba(images)
        # What single precision changes in Python; floats are brighter than any bytes.
        brighter = 1 if images.dtype == np.uint8 else 2
        atol = brighter * max(1e-5, float(np.max(rounding(network, images)[1])))
        assert_allclose(found, expected, atol=atol, rtol=0)
        first, second = np.sort(expected, axis=1)[:, :-3:-1].T
        clear = first - second > 2 * atol
        assert_array_equal(found.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])
    assert np.ptp(results[0], axis=0).max() > 0.01  # the images do make a difference


def oblong_network():
    """Random units on images of 7 x 12, by windows of 3 x 3 in 2 x 2 cells."""
    rng = np.random.default_rng(0)
    units = patch_units("dense", (7, 12), 6, window=3, grid=2)
    W = units.init(images_of((7, 12)), rng).astype(np.float32)
    A = rng.standard_normal((6 * units.n_cells + 1, 3))
    return Network(units, W, A, np.arange(3), (7, 12), "softmax", "flip")


def random_network(shape, classes=("a", "b", "c"), training=None):
    rng = np.random.default_rng(0)
    units = whole_image_units("dense", shape, 8)
    W = units.init(images_of(shape), rng).astype(np.float32)
    A = rng.standard_normal((9, len(classes)))
    return Network(units, W, A, np.array(classes), shape, "softmax", training=training or {})


def test_the_file(tmp_path):
    network = random_network((28, 28), HOSTILE, {"dataset": "<i>mine"})
    narrow = Preparation(IntensityRange(0.0, 0.0, 15 / 255, 16 / 255))
    network = replace(network, preparation=narrow)
    paths = [tmp_path / "a.html", tmp_path / "b.html"]
    for path in paths:
        to_html(network, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    text = paths[0].read_text(encoding="utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">')
    for word in ("http:", "https:", "//cdn", "url(", "@import", "<i>", "<img"):
        assert word not in text, word
    assert text.count("<script") == text.count("</script>") == 2
    assert "&lt;i&gt;mine" in text
    assert "{{ model }} {%" in text  # a name of a class: what is filled in is not filled in again
    assert "have pixels from 0 to 16 of 255" in text
    assert text.count("<tr>") == len(network.summary().splitlines())
    rules = policy()
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    to_html(random_network((8, 8), ["a", "\ud800"]), tmp_path / "page.html")
    assert "&#55296;" in (tmp_path / "page.html").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Own(WholeImageUnits):
    pass


def test_what_cannot_be_drawn(tmp_path):
    network = random_network((2, 8, 8))
    with pytest.raises(ValueError, match=r"images must have 1 or 3 channels .* got 2\."):
        to_html(network, tmp_path / "page.html")
    own = replace(network, units=Own("dense", (2, 8, 8), 8))
    with pytest.raises(TypeError, match="network must have units of this package"):
        drawing(own)
    assert not any(tmp_path.iterdir())


# --- in the browser ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    few = {"images_per_subnetwork": 500, "n_rounds": 1}
    return run(configure("tiny", data="digits", **few), data, n_jobs=1).network


def shown(tab, network):
    """Pixels and probabilities of the page, after they were compared with Python's."""
    pixels, shares = tab.evaluate("[[...varpro.pixels], [...varpro.probabilities]]")
    pixels = np.array(pixels, dtype=np.uint8).reshape(network.image_shape)
    assert_allclose(network.predict_proba(pixels[None])[0], shares, atol=1e-5, rtol=0)
    best = int(np.argmax(shares))
    assert tab.text_content("[data-show=label]") == str(network.classes[best])
    percents = tab.evaluate(STANDS + "item.lastChild.textContent)")
    assert percents == [f"{100 * share:.1f} %" for share in shares]
    widths = tab.evaluate(STANDS + "parseFloat(item.children[1].firstChild.style.width))")
    assert_allclose(widths, 100 * np.array(shares), atol=1e-3)
    chosen = tab.evaluate(STANDS + "item.classList.contains('varpro-best'))")
    assert chosen.index(True) == best
    assert sum(chosen) == 1
    return pixels, np.array(shares)


def stroke(tab, points):
    """Draw through points given as parts of the canvas's sides."""
    box = tab.locator(".varpro-canvas").bounding_box()
    points = [(box["x"] + box["width"] * a, box["y"] + box["height"] * b) for a, b in points]
    tab.mouse.move(*points[0])
    tab.mouse.down()
    for point in points[1:]:
        tab.mouse.move(*point)
    tab.mouse.up()


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def take(tab, path):
    """Choose a picture, and wait for the answer."""
    tab.evaluate("varpro.pixels = null")
    tab.set_input_files("[type=file]", path)
    # Not wait_for_function: it makes code of a string, which the page's own policy refuses.
    tab.evaluate(
        "new Promise((done) => { const look = () => varpro.pixels ? done() :"
        " setTimeout(look, 10); look(); })"
    )


def test_a_digit_drawn_with_the_mouse(tab, digits, tmp_path):
    path = tmp_path / "page.html"
    to_html(digits, path)
    tab.goto(path.as_uri())
    assert tab.text_content("h1") == "digits: one of 10 classes"
    assert tab.text_content("[data-show=share]") == "Draw something"
    assert tab.evaluate("varpro.probabilities") is None
    style = "getComputedStyle(document.querySelector('.varpro-canvas'))"
    assert tab.evaluate(f"{style}.touchAction") == "none"  # a finger draws, and does not scroll
    tab.screenshot(path=tmp_path / "empty.png")

    stroke(tab, [(0.5, 0.2), (0.5, 0.4), (0.5, 0.8)])
    one, _ = shown(tab, digits)
    assert tab.text_content("[data-show=label]") == "1"
    tab.screenshot(path=tmp_path / "one.png")

    tab.click("[data-do=clear]")
    assert tab.evaluate("varpro.pixels") is None
    angles = np.linspace(0, 2 * np.pi, 40)
    around = np.stack([0.5 + 0.22 * np.sin(angles), 0.5 - 0.33 * np.cos(angles)], axis=1)
    stroke(tab, around.tolist())
    nought, _ = shown(tab, digits)
    assert tab.text_content("[data-show=label]") == "0"
    # Filled from top to bottom, nothing in the middle.
    assert nought[:, :4].max(axis=1).min() > 50
    assert nought[3:5, 3:5].max() < 80 < nought[:, 1:7].max()

    tab.click("[data-do=undo]")  # of the nought
    assert tab.evaluate("varpro.pixels") is None
    tab.click("[data-do=undo]")  # of the clearing
    assert_array_equal(shown(tab, digits)[0], one)
    tab.click("[data-do=undo]")
    assert tab.evaluate("varpro.pixels") is None
    assert tab.evaluate("document.querySelector('[data-do=undo]').disabled")

    tab.set_viewport_size({"width": 375, "height": 900})
    tab.emulate_media(color_scheme="dark")
    tab.screenshot(path=tmp_path / "phone.png")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    for name, size in (("one", (1000, 900)), ("phone", (375, 900))):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == size
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "empty.png").read_bytes()
    assert tab.urls == [path.as_uri()]


def as_mnist(ground=0.0, anchor="mass"):
    """Ink on a plain ground, 20 of 28 pixels long."""
    reached = IntensityRange(0.0, 0.0, 1.0, 1.0)
    return Preparation(reached, ground, Frame(20 / 28, anchor, (0.5, 0.5)))


def test_drawings_are_prepared_as_the_training_images_were(tab, tmp_path):
    network = replace(random_network((28, 28)), preparation=as_mnist())
    to_html(network, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    # A blot with a tail, in a corner: most of its mass is at one end.
    blot = [(0.1, 0.1), (0.25, 0.1), (0.25, 0.15), (0.1, 0.15), (0.1, 0.2), (0.25, 0.2)]
    stroke(tab, [*blot, (0.5, 0.55)])
    pixels, _ = shown(tab, network)
    rows, columns = (np.flatnonzero(pixels.any(axis=1 - axis)) for axis in (0, 1))
    assert rows[-1] - rows[0] == 19
    assert 15 <= np.ptp(columns) < 19
    masses = [(pixels.sum(axis=1 - axis) @ np.arange(0.5, 28)) / pixels.sum() for axis in (0, 1)]
    assert_allclose(masses, 14, atol=0.5001)
    for place in (rows, columns):
        assert abs((place[0] + place[-1] + 1) / 2 - 14) >= 1  # not the middle of the box

    tab.click("[data-set=centre]")
    plain, _ = shown(tab, network)
    canvas = tab.evaluate(
        "document.querySelector('.varpro-canvas').getContext('2d')"
        ".getImageData(0, 0, 280, 280).data.join()"
    )
    blocks = np.array(canvas.split(","), dtype=float).reshape(28, 10, 28, 10, 4)[..., 0]
    assert_allclose(plain, blocks.mean(axis=(1, 3)), atol=0.5001)
    assert plain[18:].sum() == plain[:, 18:].sum() == 0 < plain.max()


def test_keys_draw(tab, digits, tmp_path):
    to_html(digits, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    tab.focus(".varpro-canvas")
    press(tab, *["ArrowUp"] * 8)
    assert tab.evaluate("varpro.pixels") is None
    press(tab, " ", *["ArrowDown"] * 16, " ", "ArrowRight")
    shown(tab, digits)
    assert tab.text_content("[data-show=label]") == "1"
    press(tab, "Delete")
    assert tab.evaluate("varpro.pixels") is None


@pytest.mark.parametrize("shape", [(9, 14), (3, 9, 14)], ids=["grey", "colour"])
def test_a_picture_of_the_size_is_what_python_reads(tab, shape, tmp_path):
    network = random_network(shape)
    if len(shape) == 2:
        network = replace(network, preparation=as_mnist())
    to_html(network, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    stroke(tab, [(0.2, 0.3), (0.7, 0.6)])
    before, _ = shown(tab, network)
    picture = images_of((9, 14, 3), 3)[2]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    take(tab, tmp_path / "picture.png")
    pixels, _ = shown(tab, network)
    assert_array_equal(pixels, read_images(tmp_path / "picture.png", shape)[0])
    assert tab.text_content("[data-show=how]") == "the picture's own pixels"
    tab.click("[data-do=undo]")
    assert_array_equal(shown(tab, network)[0], before)
    if len(shape) == 2:
        take(tab, tmp_path / "picture.png")
        tab.click("[data-set=invert]")
        inverted, _ = shown(tab, network)
        assert_allclose(inverted, 255.0 - pixels, atol=1)  # 255 less the colours, then grey
        # What is drawn next is centred again.
        tab.click("[data-do=clear]")
        assert tab.evaluate("document.querySelector('[data-set=centre]').checked")
    (tmp_path / "no.png").write_bytes(b"no picture")
    tab.set_input_files("[type=file]", tmp_path / "no.png")
    tab.locator("[data-show=share]", has_text="cannot read").wait_for()


def test_a_photograph_of_a_digit(tab, digits, tmp_path):
    to_html(digits, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    paper = np.full((300, 200), 210, dtype=np.uint8)
    paper += np.random.default_rng(0).integers(0, 8, paper.shape, dtype=np.uint8)
    paper[60:200, 90:112] = 40  # dark ink, not in the middle
    Image.fromarray(paper).save(tmp_path / "photograph.png")
    take(tab, tmp_path / "photograph.png")
    pixels, _ = shown(tab, digits)
    assert tab.evaluate("document.querySelector('[data-set=invert]').checked")
    assert tab.text_content("[data-show=label]") == "1"
    assert pixels[:, :2].max() == pixels[:, -2:].max() == 0
    assert pixels.max(axis=1).min() > 150


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation(), as_mnist(), as_mnist(1.0, "box"), replace(as_mnist(), frame=None),
        replace(as_mnist(), intensities=IntensityRange(0.0, 0.0, 0.4, 1.0)),
    ],
    ids=["no ground", "mass", "light, box", "no frame", "not stretched"],
)  # fmt: skip
def test_the_page_prepares_a_picture_as_python_does(tab, preparation, tmp_path):
    network = replace(random_network((14, 14)), preparation=preparation)
    to_html(network, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    # The browser's smoothing is not Pillow's: a picture of the canvas's size is not smoothed.
    side = tab.evaluate("document.querySelector('.varpro-canvas').width")
    for paper, ink, box in ((210, 40, (30, 190, 90, 130)), (20, 200, (150, 270, 40, 240))):
        picture = np.full((side, side), paper, dtype=np.uint8)
        top, bottom, left, right = box
        picture[top:bottom, left:right] = ink
        picture[bottom - 20 : bottom, left : right + 30] = ink
        Image.fromarray(picture).save(tmp_path / "picture.png")
        take(tab, tmp_path / "picture.png")
        expected = read_images(tmp_path / "picture.png", (14, 14), prepared=preparation)[0]
        # Pillow's box counts pixels that it covers partly as a whole or not at all.
        assert_allclose(shown(tab, network)[0], expected.astype(float), atol=3)
    visible = tab.locator("[data-set=centre]").is_visible()
    assert visible == (preparation.ground is not None)


def test_a_picture_beyond_the_training_images_is_said_to_be(tab, tmp_path):
    narrow = Preparation(IntensityRange(0.0, 0.0, 15 / 255, 16 / 255))
    to_html(replace(random_network((9, 14)), preparation=narrow), tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    for light, said in ((16, "own pixels"), (200, "from 0 to 16 as in training")):
        picture = np.full((9, 14), light, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "picture.png")
        take(tab, tmp_path / "picture.png")
        assert said in tab.text_content("[data-show=how]")


def test_a_colour_picture_is_scaled(tab, tmp_path):
    network = random_network((3, 16, 16))
    to_html(network, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    assert tab.text_content("[data-show=share]") == "Drop a picture or draw"
    picture = np.zeros((64, 128, 3), dtype=np.uint8)
    picture[:, :32] = picture[:, 96:] = 255  # beyond the square in the middle
    picture[:, 32:64, 0] = picture[:, 64:96, 2] = 200
    Image.fromarray(picture).save(tmp_path / "picture.png")
    take(tab, tmp_path / "picture.png")
    pixels, _ = shown(tab, network)
    pixels = pixels[:, :, 1:-1]  # the browser's smoothing takes in a little of the white
    assert_array_equal(pixels[1], 0)
    assert_allclose(pixels[0, :, :6], 200, atol=2)
    assert_allclose(pixels[2, :, 8:], 200, atol=2)
    assert pixels[0, :, 8:].max() <= 2
    stroke(tab, [(0.2, 8.5 / 16), (0.8, 8.5 / 16)])
    assert_allclose(shown(tab, network)[0][:, 8, 4:12].T, [[0xC0, 0x30, 0x20]] * 8, atol=1)


def test_hostile_names_do_no_harm(tab, tmp_path):
    network = random_network((8, 8), HOSTILE, {"dataset": HOSTILE[0]})
    to_html(network, tmp_path / "page.html")
    tab.goto((tmp_path / "page.html").as_uri())
    names = tab.evaluate(STANDS + "item.firstChild.textContent)")
    assert names == HOSTILE == tab.evaluate("varpro.classes")
    assert HOSTILE[1] in tab.text_content(".varpro-help")
    assert HOSTILE[0] in tab.text_content("h1")
    stroke(tab, [(0.2, 0.3), (0.7, 0.6)])
    shown(tab, network)
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.images.length + document.scripts.length") == 2
    assert len(tab.urls) == 1


def test_the_policy_refuses_what_is_not_the_pages_own(chromium, tmp_path):
    to_html(random_network((8, 8)), tmp_path / "page.html")
    with chromium.new_page() as page:
        page.goto((tmp_path / "page.html").as_uri())
        for attempt in ("fetch('data:,x')", "fetch('http://127.0.0.1:9/')"):
            with pytest.raises(Exception, match="Failed to fetch"):
                page.evaluate(attempt)
        page.evaluate(
            "document.head.append(Object.assign(document.createElement('script'),"
            " { textContent: 'window.hacked = 1' }))"
        )
        assert page.evaluate("window.hacked") is None
        said = [message.text for message in page.console_messages()]
    assert len([text for text in said if "Content Security Policy" in text]) >= 3


def test_the_drawing_in_a_page_of_ones_own(tab, digits, tmp_path):
    own = "const network = 'a name of this page';"
    page = f"""<!DOCTYPE html><html><head><meta charset="utf-8"><title>Report</title>
    <meta http-equiv="Content-Security-Policy" content="{policy(scripts=[own])}">
    <script>{own}</script></head><body><h1>Report</h1>{drawing(digits)}</body></html>"""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    tab.goto((tmp_path / "report.html").as_uri())
    stroke(tab, [(0.5, 0.2), (0.5, 0.8)])
    shown(tab, digits)
    assert tab.evaluate("network") == "a name of this page"
    assert tab.evaluate("typeof model") == "undefined"
