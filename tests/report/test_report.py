"""The report of a run: its numbers are those of the run, and it is a page that harms nobody."""

import base64
import html
import io
import os
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import varpro_nn
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.errors import VarProError
from varpro_nn.exporters.page import policy
from varpro_nn.output.penalties import RIDGES
from varpro_nn.report import figures
from varpro_nn.report import page as report_page
from varpro_nn.report.page import write_report
from varpro_nn.training import growth
from varpro_nn.training.config import TrainConfig
from varpro_nn.units import PatchUnits, WholeImageUnits

SECTIONS = [
    "draw", "confusion", "wrongest", "calibration", "cost", "glued", "singular", "units", "run",
    "settings",
]  # fmt: skip
OF_TEST_IMAGES = {"confusion", "wrongest", "calibration", "glued"}
HOSTILE = [
    "</script><b>",
    "<img src=x onerror='window.hacked = 1'>",
    '{{ policy }} {% x " é',
]


class Page(HTMLParser):
    """The text of each section, the rows of each table, the pictures, and the links."""

    def __init__(self, path):
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.sections, self.rows, self.pictures, self.links, self.tags = {}, [], [], [], []
        self.place, self.skipped, self.cell = "head", False, False
        self.sections["head"] = ""
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.skipped = tag in ("script", "style")
        if tag == "section" and "id" in attributes:
            self.place = attributes["id"]
            self.sections[self.place] = ""
        if tag == "img":
            self.pictures.append((self.place, attributes))
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "tr":
            self.rows.append((self.place, []))
        if tag in ("td", "th") and self.rows:
            self.rows[-1][1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.skipped = False
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if not self.skipped:
            self.sections[self.place] += data
            if self.cell:
                self.rows[-1][1][-1] += data

    def table(self, place):
        return [row for where, row in self.rows if where == place]

    def text(self, place):
        return " ".join(self.sections[place].split())


def small_run(data, **settings):
    # A ridge layer knows how sure it may be: its probabilities are not all 0 and 1.
    sizes = {"n_units": 24, "n_subnetworks": 3, "max_nfev": 3}
    settings = {**sizes, "output_layer": "ridge", "n_copies": 0, **settings}
    config = varpro_nn.configure("default", data=data, **settings)
    return varpro_nn.run(config, data, n_jobs=1, growth=True)


def written(folder, run, data):
    write_report(folder / "report.html", run, data)
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def digits():
    return varpro_nn.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return replace(digits, train=digits.train.take(slice(400)))


@pytest.fixture(scope="module")
def run(digits):
    return small_run(digits)


@pytest.fixture(scope="module")
def file(run, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, run, digits)
    return path


@pytest.fixture(scope="module")
def page(file):
    return Page(file)


@pytest.fixture
def blank_charts(monkeypatch):
    """Draw no chart, where none is looked at: they take most of the time of a report."""

    @contextmanager
    def chart(x, y, alt, panels=1):
        saved = []
        yield [MagicMock() for _ in range(panels)], saved
        saved.append(figures._img("svg+xml", b"<svg/>", alt, 1, 1))

    monkeypatch.setattr(figures, "_chart", chart)


def png(attributes):
    data = attributes["src"].removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_every_section_is_there(page):
    assert [place for place in page.sections if place != "head"] == SECTIONS
    assert page.links == [f"#{place}" for place in SECTIONS]
    assert "note" not in re.findall(r'class="(\w+)"', page.source)
    assert all(attributes["alt"] for _, attributes in page.pictures)
    assert not re.search(r"{[{%#]", "".join(page.sections.values()))
    counted = dict.fromkeys(SECTIONS, 0)
    for place, _ in page.pictures:
        counted[place] += 1
    assert counted["units"] == 24
    assert [counted[place] for place in ("calibration", "cost", "glued", "singular")] == [
        1,
        2,
        1,
        1,
    ]


def test_numbers_are_those_of_the_run(page, run):
    metrics, head = run.metrics, page.text("head")
    assert f"{100 * metrics['test_accuracy']:.2f} %test accuracy" in head
    assert f"± {100 * metrics['test_accuracy_standard_error']:.2f} % standard error" in head
    assert f"n = {metrics['n_test']}" in head
    assert f"{metrics['n_parameters']:,}parameters" in head
    assert f"{metrics['n_units']}units" in head
    assert f"{100 * metrics['test_calibration_error']:.2f} %." in page.text("calibration")
    times = {row[0]: row[1:] for row in page.table("run") if len(row) == 3}
    assert times["all"] == [f"{metrics[f'{clock}_seconds']:,.1f} s" for clock in ("wall", "cpu")]
    training = [f"{metrics[f'training_{clock}_seconds']:,.1f} s" for clock in ("wall", "cpu")]
    assert times["training, output layer included"] == training
    rest = [
        f"{metrics[f'{clock}_seconds'] - metrics[f'training_{clock}_seconds']:,.1f} s"
        for clock in ("wall", "cpu")
    ]
    assert times["measurement"] == rest
    of_growth = [f"{metrics[f'growth_{clock}_seconds']:,.1f} s" for clock in ("wall", "cpu")]
    assert times["of which what each sub-network adds"] == of_growth
    in_fits = sum(subnetwork.report.cpu_seconds for subnetwork in run.subnetworks)
    assert times["of which sub-networks"][1] == f"{in_fits:,.1f} s"
    summary = [row for row in page.table("run") if len(row) == 2]
    assert summary == [re.split(" {2,}", line) for line in run.network.summary().splitlines()]
    settings = dict(page.table("settings"))
    config = TrainConfig.from_dict(run.network.training["config"]).options()
    assert set(config) | set(metrics) - {"test_confusion_matrix"} == set(settings)
    assert (settings["n_stages"], settings["gain"], settings["standardise"]) == ("3", "2", "True")


def test_confusion_matrix(page, run, digits):
    rows = page.table("confusion")
    counts = np.array([[int(cell) for cell in row[1:-1]] for row in rows[1:]])
    assert [row[0] for row in rows[1:]] == [str(label) for label in digits.classes]
    assert counts.tolist() == run.metrics["test_confusion_matrix"]
    assert "Confusion matrix of all 297 test images: true classes in rows" in page.text("confusion")
    assert counts.sum() == run.metrics["n_test"]
    assert np.trace(counts) / counts.sum() == run.metrics["test_accuracy"]
    given = run.network.predict_codes(digits.test.images)
    chosen = (digits.test.labels == 8) & (given == 1)
    assert counts[8, 1] == chosen.sum()
    errors = counts - np.diag(np.diag(counts))
    i, j = divmod(int(errors.argmax()), 10)
    assert f"Most often: {i} taken for {j} ({errors[i, j]})" in page.text("confusion")


@pytest.mark.usefixtures("blank_charts")
def test_the_wrongest_images(page, run, digits, monkeypatch, tmp_path):
    sure = run.network.predict_proba(digits.test.images)
    given, true = sure.argmax(axis=1), digits.test.labels
    wrong = [i for i in range(len(true)) if given[i] != true[i]]
    wrong.sort(key=lambda i: (-sure[i, given[i]], i))
    assert 2 < len({sure[i, given[i]] for i in wrong}) <= len(wrong) < 40
    shown = [attributes for place, attributes in page.pictures if place == "wrongest"]
    assert len(shown) == len(wrong)
    for i, attributes in zip(wrong, shown, strict=True):
        share = f"{100 * sure[i, given[i]]:.1f} %"
        said = f"Test image {i}: taken for {given[i]} with {share}, true label {true[i]}"
        assert attributes["alt"] == said
        assert_array_equal(png(attributes), np.round(255 * digits.test.images[i]))
        assert f"{given[i]} {share} true: {true[i]}" in page.text("wrongest")
    assert f"{len(wrong)} of {len(true)} test images got a wrong label" in page.text("wrongest")
    monkeypatch.setattr(report_page, "MOST_WRONG", 2)
    few = written(tmp_path, run, digits)
    assert [a for place, a in few.pictures if place == "wrongest"] == shown[:2]


def ridge_accuracy(network, W, train, test):
    """The same by a solve from scratch, in double precision."""
    Phi, Psi = (network.units.features(W, part.images).astype(np.float64) for part in (train, test))
    mean, deviation = Phi.mean(axis=0), Phi.std(axis=0)
    Phi, Psi = (Phi - mean) / deviation, (Psi - mean) / deviation
    tau = np.eye(len(network.classes))[train.labels]
    centre = tau.mean(axis=0)
    U, s, Vt = np.linalg.svd(Phi, full_matrices=False)
    scores = []
    for ridge in RIDGES:
        h = s**2 / (s**2 + ridge)
        residual = tau - centre - U @ (h[:, None] * (U.T @ (tau - centre)))
        scores.append(np.square(residual).sum() / (1 - (1 + h.sum()) / len(tau)) ** 2)
    ridge = RIDGES[int(np.argmin(scores))]
    A = Vt.T @ ((s / (s**2 + ridge))[:, None] * (U.T @ (tau - centre)))
    return np.mean((Psi @ A + centre).argmax(axis=1) == test.labels), s


def test_the_curve_of_sub_networks_is_that_of_fits_from_scratch(run, digits):
    train, test = digits.train.take(slice(900)), digits.test
    rng = np.random.default_rng(5)
    found = growth.grown(run.network, 8, train, test, rng)
    sizes, accuracies, path = found.sizes, found.accuracies, found.path
    assert sizes == [1, 2, 3]
    again = np.random.default_rng(5)
    part = replace(run.network.units, n_units=8)
    drawn = [part.init(train.images, again) for _ in range(3)]
    of_random = np.concatenate(drawn, dtype=np.float32)
    for W, measured in zip((run.network.W, of_random), accuracies, strict=True):
        expected = [ridge_accuracy(run.network, W[: 8 * j], train, test)[0] for j in sizes]
        # An image whose two largest outputs agree to rounding may go either way.
        assert_allclose(measured, expected, atol=1.01 / len(test))
    assert accuracies[1][0] + 0.03 < accuracies[1][-1] != accuracies[0][-1]
    _, s = ridge_accuracy(run.network, run.network.W, train, test)
    assert_allclose(np.sqrt(path.eigenvalues[::-1]), s, rtol=1e-3, atol=0.02)


def test_the_curve_is_told(page, run, digits):
    rng = np.random.default_rng(run.metrics["seed"])
    chosen = np.sort(rng.permutation(len(digits.train)))
    found = growth.grown(run.network, 8, digits.train.take(chosen), digits.test, rng)
    sizes, accuracies, path = found.sizes, found.accuracies, found.path
    said = {place: attributes["alt"] for place, attributes in page.pictures}
    points = zip(sizes, accuracies[0], strict=True)
    assert ", ".join(f"{100 * a:.2f} % with {j}" for j, a in points) in said["glued"]
    assert f"rank {path.rank}" in said["singular"]
    assert f"{len(chosen):,} training images" in page.text("glued")
    assert "Squares:" in page.text("glued")


@pytest.mark.usefixtures("blank_charts")
def test_parameters_along_the_top_are_those_of_the_network(run, digits, monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(
        figures, "growth_curve", lambda *_, **options: given.update(options) or "<p>"
    )
    write_report(tmp_path / "report.html", run, digits)
    fixed, of_one = given["parameters"]
    assert fixed + 3 * of_one == run.metrics["n_parameters"]
    assert fixed == len(digits.classes)  # the constant column
    assert (given["n_test"], given["whole"]) == (297, run.metrics["test_accuracy"])


def test_of_many_sub_networks_some_are_glued(digits, tmp_path):
    many = small_run(digits, n_units=40, n_subnetworks=40, max_nfev=0, images_per_subnetwork=100)
    found = growth.grown(many.network, 1, digits.train, digits.test)
    sizes, accuracies = found.sizes, found.accuracies
    assert len(sizes) == len(set(sizes)) == len(accuracies[0]) <= 12
    assert (sizes[0], sizes[-1]) == (1, 40)


@pytest.mark.usefixtures("blank_charts")
def test_too_many_columns_are_cut(run, digits, monkeypatch, tmp_path, page):
    assert "To save time" not in page.source
    monkeypatch.setattr(growth, "MOST_COLUMNS", 8 * 9 * 2 + 1)  # two sub-networks and a bit
    found = growth.grown(run.network, 8, digits.train, digits.test)
    assert found.sizes == [1, 2]
    assert len(found.path.mean_Phi) == 8 * 9 * 2
    cut = written(tmp_path, replace(run, growth=found), digits)
    assert "first 144 of the 216 columns of the units" in cut.text("glued")
    monkeypatch.setattr(growth, "MOST_COLUMNS", 9)
    found = growth.grown(run.network, 8, digits.train, digits.test)
    cut = written(tmp_path, replace(run, growth=found), digits)
    assert "glued" not in cut.sections
    assert "first 9 of the 216 columns of the units" in cut.text("singular")


def test_the_same_run_gives_the_same_bytes(page, run, digits, tmp_path):
    network, config = run.network, TrainConfig.from_dict(run.network.training["config"])
    found = growth.growth_of(config, digits, network, run.subnetworks, n_jobs=2)
    outputs = network.decision_function(digits.test.images, n_jobs=2)
    again = replace(run, growth=found, test_outputs=outputs)
    assert written(tmp_path, again, digits).source == page.source
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_nothing_comes_from_elsewhere(page, run):
    style = re.search("(?s)<style>(.*?)</style>", page.source)[1]
    rules = re.search('Content-Security-Policy" content="(.*?)"', page.source)[1]
    assert html.unescape(rules) == f"{policy(styles=[style])}; img-src data:"
    for word in ("http:", "https:", "//cdn", "url(", "@import", " style=", " onclick"):
        assert word not in page.source, word
    for _, attributes in page.pictures:
        kind, data = attributes["src"].split(";base64,")
        assert kind in ("data:image/png", "data:image/svg+xml")
        if kind.endswith("xml"):
            addresses = set(re.findall(r"https?://[^\"' ]+", base64.b64decode(data).decode()))
            assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(page.source) < 400_000


@pytest.mark.usefixtures("blank_charts")
def test_the_report_fits_nothing_and_labels_no_image(run, digits, monkeypatch, tmp_path):
    """All that it shows is in the times of the run."""
    metrics = run.metrics
    for clock in ("wall", "cpu"):
        rest = metrics[f"{clock}_seconds"] - metrics[f"training_{clock}_seconds"]
        assert 0 < metrics[f"growth_{clock}_seconds"] < rest

    def never(*_, **__):
        pytest.fail("the report computes features")

    for units in (PatchUnits, WholeImageUnits):
        monkeypatch.setattr(units, "features", never)
    write_report(tmp_path / "report.html", run, digits)


@pytest.mark.usefixtures("blank_charts")
def test_growth_that_was_not_measured_is_left_out(run, digits, tmp_path):
    page = written(tmp_path, replace(run, growth=None), digits)
    assert set(SECTIONS) - set(page.sections) == {"glued", "singular"}
    assert "call varpro_nn.run with growth=True" in page.text("head")


@pytest.mark.usefixtures("blank_charts")
def test_no_test_images(few, tmp_path):
    data = replace(few, test=None)
    page = written(tmp_path, small_run(data, max_nfev=1), data)
    assert set(SECTIONS) - set(page.sections) == OF_TEST_IMAGES
    assert "no test images" in page.text("head")
    assert "test accuracy" not in page.source
    assert page.links == [f"#{place}" for place in page.sections if place != "head"]


@pytest.mark.usefixtures("blank_charts")
def test_the_confusion_matrix_of_validation_images(few, tmp_path):
    """The only one where there are no test images, as in most data of ones own."""
    data = replace(few, test=None).hold_out(0.25)
    run = small_run(data, max_nfev=1)
    page = written(tmp_path, run, data)
    assert set(SECTIONS) - set(page.sections) == OF_TEST_IMAGES - {"confusion"}
    counts = [[int(cell) for cell in row[1:-1]] for row in page.table("confusion")[1:]]
    assert counts == run.metrics["validation_confusion_matrix"]
    assert "matrix of all 100 validation images" in page.text("confusion")
    assert "confusion matrix" not in page.text("head")


@pytest.mark.usefixtures("blank_charts")
def test_untrained_units(few, tmp_path):
    page = written(tmp_path, small_run(few, max_nfev=0), few)
    assert set(SECTIONS) - set(page.sections) == {"cost"}
    assert "untrained" in page.text("head")
    assert "Squares" not in page.text("glued")


@pytest.mark.usefixtures("blank_charts")
def test_whole_image_units_show_their_vectors(digits, tmp_path):
    config = varpro_nn.configure("bilinear", data=digits, n_units=10, max_nfev=2)
    run = varpro_nn.run(config, digits, n_jobs=1, growth=True)
    page = written(tmp_path, run, digits)
    assert {*page.sections} == {*SECTIONS, "vectors", "head"}
    sizes = np.linalg.norm(run.network.A[:-1], axis=1)
    order = np.argsort(-sizes)
    shown = [attributes for place, attributes in page.pictures if place == "units"]
    assert [a["alt"] for a in shown] == [f"Filter of unit {i}" for i in order]
    u, v = np.split(run.network.W[order[0], :-1], 2)
    F = np.outer(u, v)
    assert_allclose(png(shown[0]), 127.5 * (1 + F / np.abs(F).max()), atol=0.6)
    (vectors,) = (a["alt"] for place, a in page.pictures if place == "vectors")
    assert vectors == f"Vectors of the units {', '.join(map(str, order[:6]))}"


@pytest.mark.usefixtures("blank_charts")
def test_layers_show_the_filters_of_the_first_and_the_costs_of_all(few, tmp_path):
    config = varpro_nn.configure(
        "default", data=few, first_units=5, first_window=3, first_grid=6, window=2, n_units=6,
        middle_units=4, n_subnetworks=1, max_nfev=1, cells_below=2,
    )  # fmt: skip
    run = varpro_nn.run(config, few, n_jobs=1, growth=True)
    page = written(tmp_path, run, few)
    # The comparison is one of units: it leaves the maps below out.
    n_columns = 6 * run.network.units.n_cells
    assert len(run.growth.path.mean_Phi) == n_columns
    assert f"what {n_columns} columns of the units" in page.text("singular")
    assert f"leave out the {4 * 2 * (5 + 4)} columns that the output" in page.text("singular")
    assert "To save time" not in page.source
    assert "5 of 5 units of the first layer" in page.text("units")
    shown = [attributes for place, attributes in page.pictures if place == "units"]
    assert [a["alt"] for a in shown] == [f"Filter of unit {i}" for i in range(5)]
    costs = [attributes["alt"] for place, attributes in page.pictures if place == "cost"]
    start = "Costs of the middle layer, and of 1 sub-networks"
    assert [alt.startswith(start) for alt in costs] == [True, True]
    assert "The middle layer is darkest" in page.text("cost")
    assert "of which sub-networks and middle layer" in page.text("run")
    assert costs[0].endswith("against passes")
    assert "training images, pass by pass" in page.text("cost")
    below = run.network.units.below.units.below
    F = below.units.effective_filters(below.W)[0, :-1].reshape(3, 3)
    assert_allclose(png(shown[0]), 127.5 * (1 + F / np.abs(F).max()), atol=0.6)
    assert "There is no canvas to draw on" not in page.text("head")
    assert "layer below" in page.text("run")


def squares(shape, n=120, dtype=np.float64):
    """Bright left halves, and bright right ones: easy to tell apart."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.2, (n, *shape))
    labels = np.arange(n) % 2
    for image, label in zip(images, labels, strict=True):
        half = slice(None, shape[-1] // 2) if label else slice(shape[-1] // 2, None)
        image[..., half] += 0.6
    return ImageSet(images.astype(dtype), labels)


@pytest.mark.usefixtures("blank_charts")
def test_no_wrong_image_and_no_canvas(tmp_path):
    data = Dataset("squares", np.array([3, 5]), squares((2, 9, 9)), squares((2, 9, 9), 40))
    run = small_run(data, n_units=4, n_subnetworks=1, max_nfev=1, images_per_subnetwork=60)
    assert run.metrics["test_accuracy"] == 1
    page = written(tmp_path, run, data)
    assert set(SECTIONS) - set(page.sections) == {"draw"}
    assert "images must have 1 or 3 channels to be drawn, got 2" in page.text("head")
    assert page.text("wrongest").startswith("The wrongest images 0 of 40 test images")
    assert "Most often" not in page.text("confusion")


@pytest.fixture(scope="module")
def hostile(few, tmp_path_factory):
    classes = np.array([*HOSTILE, *"3456789"])
    data = replace(few, classes=classes, name=HOSTILE[0])
    folder = tmp_path_factory.mktemp("hostile")
    return written(folder, small_run(data, max_nfev=1), data), folder / "report.html"


def test_hostile_names_are_text(hostile, page):
    hostile, _ = hostile
    assert hostile.tags.count("script") == page.tags.count("script") == 2
    assert hostile.source.count("</script>") == 2
    assert hostile.tags.count("img") == len(hostile.pictures)
    assert hostile.text("head").count("</script><b>") == 2  # title and heading
    assert "onerror" not in {name for _, attributes in hostile.pictures for name in attributes}
    names = [row[0] for row in hostile.table("confusion")[1:]]
    assert names[:3] == HOSTILE


def test_without_matplotlib_nothing_is_written(run, digits, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(VarProError, match=r"varpro-nn\[plot\]"):
        write_report(tmp_path / "report.html", run, digits)
    assert not any(tmp_path.iterdir())


# --- in the browser ----------------------------------------------------------------------


def test_in_a_browser(tab, run, file, tmp_path):
    tab.set_viewport_size({"width": 1100, "height": 1420})
    tab.goto(file.as_uri())
    widths = tab.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 20
    assert min(widths) > 0
    assert [url for url in tab.urls if not url.startswith("data:")] == [file.as_uri()]

    box = tab.locator(".varpro-canvas").bounding_box()
    x, y, height = box["x"] + box["width"] / 2, box["y"], box["height"]
    tab.mouse.move(x, y + 0.2 * height)
    tab.mouse.down()
    tab.mouse.move(x, y + 0.8 * height, steps=2)
    tab.mouse.up()
    pixels, shares = tab.evaluate("[[...varpro.pixels], [...varpro.probabilities]]")
    pixels = np.array(pixels, dtype=np.uint8).reshape(run.network.image_shape)
    assert pixels.max() > 200
    assert_allclose(run.network.predict_proba(pixels[None])[0], shares, atol=1e-5, rtol=0)
    label = tab.text_content("[data-show=label]")
    assert label == str(run.network.predict(pixels[None])[0]) == "1"

    time.sleep(0.5)  # bars move to where they belong
    screenshot = Path(os.environ.get("VARPRO_NN_SCREENSHOT") or tmp_path / "report.png")
    tab.screenshot(path=screenshot)
    with Image.open(screenshot) as picture:
        assert picture.size == (1100, 1420)
        light = np.asarray(picture.convert("L"))
    tab.set_viewport_size({"width": 375, "height": 900})
    tab.emulate_media(color_scheme="dark")
    tab.screenshot(path=tmp_path / "phone.png")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    with Image.open(tmp_path / "phone.png") as picture:
        assert np.median(np.asarray(picture.convert("L"))) < 60 < 200 < np.median(light)


def test_hostile_names_in_a_browser(tab, hostile):
    tab.goto(hostile[1].as_uri())
    assert tab.evaluate("window.hacked") is None
    assert tab.text_content("h1") == HOSTILE[0]
    names = tab.locator(".matrix tbody th").all_text_contents()
    assert names[:2] == HOSTILE[:2]
