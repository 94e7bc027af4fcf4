"""The figures of a report: what is drawn is what was given."""

import base64
import io
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from varpro_nn.errors import VarProError
from varpro_nn.report import figures
from varpro_nn.varpro.history import Record

SVG = "{http://www.w3.org/2000/svg}"


def decoded(markup):
    kind, data = re.fullmatch(r'<img src="data:image/([^;]*);base64,([^"]*)" .*>', markup).groups()
    return kind, base64.b64decode(data)


def svg(markup):
    kind, content = decoded(markup)
    assert kind == "svg+xml"
    return ElementTree.fromstring(content)


def texts(markup):
    return [element.text for element in svg(markup).iter(f"{SVG}text")]


def curves(markup, colour):
    """Corners (x, y), y upwards, of the lines of at least three points in a colour."""
    found = []
    for path in svg(markup).iter(f"{SVG}path"):
        if f"stroke: {colour}" in path.get("style", "") and path.get("clip-path"):
            points = np.array(re.findall(r"[-\d.]+ [-\d.]+", path.get("d")))
            xy = np.array([point.split() for point in points.tolist()], dtype=float)
            if len(xy) > 2:
                found.append(xy * [1, -1])
    return found


def assert_drawn(line, x, y):
    """Both coordinates are linear in what they stand for, and grow with it."""
    for drawn, given in zip(line.T, (x, y), strict=True):
        slope, start = np.polyfit(given, drawn, 1)
        assert slope > 0
        assert_allclose(drawn, start + slope * np.asarray(given), atol=1e-3)


def pixels(markup):
    kind, content = decoded(markup)
    assert kind == "png"
    return np.asarray(Image.open(io.BytesIO(content)))


def record(cost, derivative=True, seconds=0.0):
    return Record(cost, 1.0 if derivative else np.nan, 0.0, 0.0, seconds)


HISTORY = [
    record(9.0, seconds=1), record(5.0, seconds=2), record(40.0, False, 3),
    record(np.inf, False, 4), record(3.0, seconds=5), record(3.5, False, 6),
    record(2.0, False, 8),
]  # fmt: skip


def test_accepted_evaluations():
    assert figures.accepted(HISTORY) == [0, 1, 4, 6]
    assert figures.accepted([record(1.0), record(2.0)]) == [0, 1]  # a round on more images


@pytest.mark.parametrize("by_time", [False, True])
def test_cost_curves(by_time):
    markup = figures.cost_curves({"7": HISTORY, "8": HISTORY[:3]}, "Alt <b>", by_time=by_time)
    assert 'alt="Alt &lt;b&gt;"' in markup
    colours = set(re.findall(r"stroke: (#[0-9a-f]{6})", decoded(markup)[1].decode()))
    lines = [line for colour in colours for line in curves(markup, colour)]
    x = [1, 2, 5, 8] if by_time else [1, 2, 5, 7]
    assert len(lines) == 1  # the other one has two points
    assert_drawn(lines[0], x, [9, 5, 3, 2])
    assert {"Sub-network", "7", "8"} <= set(texts(markup))
    assert ("Evaluation" in texts(markup)) != by_time


def test_cost_curves_name_their_steps():
    markup = figures.cost_curves({"1": HISTORY}, "", by_time=False, step="pass")
    assert "Pass" in texts(markup)


def test_many_cost_curves_have_no_legend():
    histories = {f"name {i}": HISTORY for i in range(9)}
    assert not any("name" in text for text in texts(figures.cost_curves(histories, "", by_time=0)))
    del histories["name 8"]
    assert "name 7" in texts(figures.cost_curves(histories, "", by_time=False))


def test_costs_of_many_magnitudes_are_on_a_logarithmic_axis():
    history = [record(1000.0), record(100.0), record(1.0)]
    markup = figures.cost_curves({"1": history}, "", by_time=False)
    (colour,) = set(re.findall(r"stroke: (#[0-9a-f]{6})", decoded(markup)[1].decode()))
    assert_drawn(curves(markup, colour)[0], [1, 2, 3], [3, 2, 0])


def test_growth_curve():
    accuracies = {"trained units": [0.9, 0.95, 0.96], "random units": [0.8, 0.85, 0.9]}
    markup = figures.growth_curve(
        [1, 2, 4], accuracies, "", n_test=100, whole=0.97, parameters=(10, 1000)
    )
    assert_drawn(curves(markup, "var(--blue)")[0], [1, 2, 4], accuracies["trained units"])
    assert_drawn(curves(markup, "var(--orange)")[0], [1, 2, 4], accuracies["random units"])
    said = texts(markup)
    assert {"All parameters", "trained units", "random units", "network of this run"} <= set(said)
    # The place of 2,000 parameters is that of (2000 - 10) / 1000 sub-networks.
    at = {e.text: float(e.get("x")) for e in svg(markup).iter(f"{SVG}text")}
    of_one = at["3"] - at["2"]
    assert_allclose(at["2,000"], at["2"] - 0.01 * of_one, atol=0.01)
    alone = figures.growth_curve([1], {"a": [0.5]}, "", n_test=4, whole=0.5, parameters=(1, 2))
    assert "random units" not in texts(alone)


def test_singular_values():
    values = np.array([100.0, 10.0, 5.0, 1.0, 0.0])
    markup = figures.singular_values(values, 4, "")
    assert_drawn(curves(markup, "var(--blue)")[0], [1, 2, 3, 4], np.log(values[:4]))
    assert "rank 4" in texts(markup)
    # Rounding below the rank takes no room.
    noise = np.array([100.0, 10.0, 5.0, 1.0, 1e-9])
    tall = curves(figures.singular_values(noise, 5, ""), "var(--blue)")[0]
    cut = curves(figures.singular_values(noise, 4, ""), "var(--blue)")[0]
    assert cut[0, 1] - cut[2, 1] > 3 * (tall[0, 1] - tall[2, 1])
    figures.singular_values(np.zeros(3), 0, "")


def test_calibration():
    sure, right = np.array([0.3, 0.5, 0.9]), np.array([0.2, 0.7, 0.8])
    markup = figures.calibration(np.array([0.1, 0.2, 0.7]), sure, right, "")
    assert_drawn(curves(markup, "var(--blue)")[0], sure, right)


def test_vectors_of_a_symmetric_filter_are_eigenvectors(rng):
    w, v = np.linalg.qr(rng.standard_normal((9, 2)))[0].T
    F = 5 * np.outer(w, w) - 2 * np.outer(v, v)
    markup = figures.vectors({3: F.astype(np.float32)}, 2, "")
    for colour, value, vector in (("blue", 5, w), ("orange", -2, v)):
        line = curves(markup, f"var(--{colour})")[0]
        assert abs(np.corrcoef(line[:, 1], vector)[0, 1]) > 1 - 1e-5, value
    # The eigenvalue is in the size: heights are 5 to 2.
    sizes = [np.ptp(curves(markup, f"var(--{colour})")[0][:, 1]) for colour in ("blue", "orange")]
    assert_allclose(sizes[0] / sizes[1], 2.5 * np.ptp(w) / np.ptp(v), rtol=1e-3)
    assert {"Unit 3", "eigenvector 1", "eigenvector 2"} <= set(texts(markup))


def test_vectors_of_other_filters_are_singular_vectors(rng):
    u, v = rng.standard_normal(8), rng.standard_normal(5)
    weak = rng.standard_normal((8, 5)) / 100
    F = np.stack([weak, np.outer(u, v), weak])  # three channels
    markup = figures.vectors({0: F, 1: F}, 1, "")
    for colour, vector in (("blue", u), ("orange", v)):
        lines = curves(markup, f"var(--{colour})")
        assert len(lines) == 2
        assert abs(np.corrcoef(lines[0][:, 1], vector)[0, 1]) > 1 - 1e-5
    assert texts(markup).count("rows 1") == 1


def test_charts_follow_the_colour_scheme_and_nothing_else():
    import matplotlib

    values = np.array([3.0, 2.0, 1.0])
    first = figures.singular_values(values, 3, "alt")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        assert figures.singular_values(values, 3, "alt") == first
    text = decoded(first)[1].decode()
    style, rest = re.fullmatch(r"(?s)(.*</style>.*?</style>)(.*)", text).groups()
    assert "@media screen and (prefers-color-scheme:dark)" in style
    assert not re.findall("#[0-9a-f]{6}", rest.replace("#000000", ""))
    assert "var(--ink)" in rest
    assert set(re.findall(r"https?://[^\"]*", text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
    }  # fmt: skip  # names, not addresses


def test_images():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    assert_array_equal(pixels(figures.image(grey, "", 0, 255)), grey)
    assert_array_equal(pixels(figures.image(grey[None], "", 0, 255)), grey)
    colour = np.stack([grey, 255 - grey, grey // 2])
    assert_array_equal(pixels(figures.image(colour, "", 0, 255)), np.moveaxis(colour, 0, -1))
    assert_array_equal(
        pixels(figures.image(np.stack([grey, grey // 2]), "", 0, 200))[0], [0, 48, 96]
    )
    floats = np.array([[-1.0, 0.0], [1.0, 9.0]])
    assert_array_equal(pixels(figures.image(floats, "", -1, 1)), [[0, 128], [255, 255]])
    assert pixels(figures.image(np.ones((2, 2)), "", 1, 1)).shape == (2, 2)
    assert 'alt="&#34;&gt;"' in figures.image(grey, '">')


def test_filters_are_grey_at_zero():
    filters = np.array([[0.0, 0.5], [-0.5, 0.25]])
    assert_array_equal(pixels(figures.filter_image(filters, "")), [[128, 255], [0, 191]])
    assert_array_equal(pixels(figures.filter_image(0 * filters, "")), 128)


def test_a_small_confusion_matrix_is_a_table():
    counts = np.array([[1500, 4, 0], [1, 7, 0], [0, 0, 0]])
    markup = figures.confusion(counts, ["a", "<b>", "c"])
    cells = re.findall(r'<td class="(right|wrong\d)">([\d,]+)</td>', markup)
    assert [int(n.replace(",", "")) for _, n in cells] == counts.ravel().tolist()
    kinds = [kind for kind, _ in cells]
    assert kinds == ["right", "wrong5", "wrong0", "wrong3", "right", *["wrong0"] * 3, "right"]
    assert re.findall(r'class="share">([\d.]+ %)', markup) == ["99.7 %", "87.5 %", "0.0 %"]
    assert "<b>" not in markup
    assert "&lt;b&gt;" in markup
    assert 'class="long"' not in markup
    assert 'class="long"' in figures.confusion(counts, ["aeroplane", "b", "c"])


def test_a_large_confusion_matrix_is_a_picture():
    k = figures.LARGEST_TABLE + 1
    counts = 5 * np.eye(k, dtype=int)
    counts[2, 3], counts[4, 5], counts[6, 6] = 5, 1, 0
    markup = figures.confusion(counts, [str(i) for i in range(k)])
    assert f"{5 * k - 5} of {5 * k + 1} right" in markup
    shown = pixels(re.search("<img.*?>", markup)[0])
    side = len(shown) // k
    shown = shown[::side, ::side]
    assert shown[0, 0, 2] > shown[0, 0, 0]
    assert shown[2, 3, 0] > shown[2, 3, 2]
    alpha = shown[..., 3]
    assert alpha[0, 0] == alpha[2, 3] == 255 > alpha[4, 4] > alpha[4, 5] > alpha[6, 6] == 0
    assert alpha[0, 1] == 0


def test_without_matplotlib(monkeypatch):
    figures.check_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(VarProError, match=r"pip install 'varpro-nn\[plot\]'"):
        figures.check_matplotlib()
