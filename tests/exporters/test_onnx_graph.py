"""The graph gives in a runtime what the network gives here."""

import json
import os
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from exports import ACTIVATIONS, LINKS, NETWORKS, VIEWS, images_of, rounding
from numpy.testing import assert_allclose, assert_array_equal
from reference import folded_probabilities

from varpro_nn import Network, __version__, patch_units, whole_image_units
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.preparation import Preparation
from varpro_nn.errors import VarProError
from varpro_nn.exporters import onnx_graph
from varpro_nn.exporters.folded import fold
from varpro_nn.exporters.onnx_graph import to_onnx
from varpro_nn.units import WholeImageUnits

onnx = pytest.importorskip("onnx")
reference_runtime = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")

OUTPUTS = ["label", "probabilities"]
SMALL = "windows, grey, bilinear"


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def assert_same(run, network, images):
    """``run(None or names, inputs)`` gives the probabilities and labels of the network."""
    labels, probabilities = run(OUTPUTS, {"images": images})
    expected = network.predict_proba(images)
    assert probabilities.dtype == np.float32
    # Both are in single precision.
    of_outputs, of_probabilities = rounding(network, images)
    # In units of the bounds, which assert_allclose takes as one number alone.
    assert_allclose(probabilities / of_probabilities, expected / of_probabilities, rtol=0, atol=2)
    outputs = np.sort(network.decision_function(images), axis=1)
    clear = outputs[:, -1] - outputs[:, -2] > 4 * of_outputs
    assert clear.any()
    assert_array_equal(np.asarray(labels)[clear], network.predict(images)[clear])


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_unit_and_any_number_of_images(name, tmp_path):
    network, path = NETWORKS[name], tmp_path / "network.onnx"
    to_onnx(network, path)
    images = images_of(network.image_shape)
    run = session(path).run
    for some in (images, images[3:4], images[:7]):
        assert_same(run, network, some)


@pytest.mark.parametrize(
    ("name", "layer", "temperature", "views"),
    [("windows, colour, dense", *link, VIEWS[0]) for link in LINKS]
    + [
        (name, *LINKS[1], views)
        for name in ("windows, colour, dense", "whitened, colour, quadratic")
        for views in VIEWS
    ],
)
def test_every_link_and_view(name, layer, temperature, views, tmp_path):
    """On windows at a distance of two pixels and of one."""
    network = replace(
        NETWORKS[name], output_layer=layer, temperature=temperature, views=views
    )  # fmt: skip
    to_onnx(network, tmp_path / "network.onnx")
    assert_same(session(tmp_path / "network.onnx").run, network, images_of(network.image_shape))


@pytest.mark.parametrize(
    ("shape", "stride", "views"),
    [
        ((11, 8), None, VIEWS[-1]), ((2, 8, 11), 1, VIEWS[-1]), ((11, 8), 2, VIEWS[-1]),
        ((2, 8, 11), 3, VIEWS[-1]), ((2, 8, 11), None, "flip"), ((11, 8), 1, "flip"),
    ],
)  # fmt: skip
def test_images_that_are_not_square(shape, stride, views, tmp_path):
    rng = np.random.default_rng(3)
    if stride is None:
        units = whole_image_units("dense", shape, 4)
    else:
        units = patch_units("dense", shape, 4, window=3, stride=stride, grid=2, contrast=0.1)
    W = units.init(images_of(shape), rng).astype(np.float32)
    A = rng.standard_normal((4 * units.n_cells + 1, 3))
    network = Network(units, W, A, np.arange(3), shape, "softmax", views)
    to_onnx(network, tmp_path / "network.onnx")
    assert_same(session(tmp_path / "network.onnx").run, network, images_of(shape))


@pytest.mark.parametrize(
    "name",
    [
        "whole image, colour, dense",
        "whole image, grey, quadratic",
        "windows, colour, quadratic",
        "whitened, colour, quadratic",
        "whitened, colour, tensor",
        "components, grey, dense",
    ],
)
def test_by_the_standard_s_own_reference(name, tmp_path):
    network = NETWORKS[name]
    to_onnx(network, tmp_path / "network.onnx")
    evaluator = reference_runtime.ReferenceEvaluator(str(tmp_path / "network.onnx"))
    assert_same(evaluator.run, network, images_of(network.image_shape))


@pytest.mark.parametrize("contrast", [0.01, 1e-5])
@pytest.mark.parametrize("level", [0, 120, 250])
def test_the_contrast_of_faint_windows_is_exact(level, contrast, tmp_path):
    """Where the mean of squares and the square of the mean are nearly the same number."""
    network = NETWORKS["whitened, colour, tensor"]
    network = replace(network, units=replace(network.units, contrast=contrast))
    to_onnx(network, tmp_path / "network.onnx")
    rng = np.random.default_rng(4)
    images = level + rng.integers(0, 5, (6, *network.image_shape)).astype(np.uint8)
    probabilities = session(tmp_path / "network.onnx").run(OUTPUTS, {"images": images})[1]
    expected = folded_probabilities(fold(network), images)[1]
    # The statistics of windows in single precision leave 1.5e-5. In double precision 2e-6 is left
    # of the rest of the graph, which is in single precision.
    assert_allclose(probabilities, expected, rtol=0, atol=6e-6)


@pytest.mark.parametrize("contrast", [1e-5, 1e-7, 1e-12, 1e-300])
def test_flat_windows_have_no_contrast_however_little_is_added(contrast, tmp_path):
    network = NETWORKS["whitened, colour, tensor"]
    network = replace(network, units=replace(network.units, contrast=contrast))
    to_onnx(network, tmp_path / "network.onnx")
    levels = np.arange(3, 256, 12, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (len(levels), *network.image_shape))
    images = np.ascontiguousarray(images)
    expected = folded_probabilities(fold(network), np.zeros_like(images[:1]))[1]
    # Only the bias of each unit is left, in single precision.
    assert_allclose(network.predict_proba(images), np.tile(expected, (22, 1)), rtol=0, atol=2e-5)
    probabilities = session(tmp_path / "network.onnx").run(OUTPUTS, {"images": images})[1]
    assert_allclose(probabilities, np.tile(expected, (22, 1)), rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_pre_activations(activation, tmp_path):
    network = NETWORKS["windows, grey, tensor"]
    units = replace(network.units, activation=activation, threshold=0.0)
    A = np.random.default_rng(5).standard_normal((5 * units.n_cells + 1, 4))
    # Far beyond 88, above which the exponential of a float is infinite.
    network = replace(network, units=units, W=network.W * 100, A=A, temperature=1e4)
    images = images_of(network.image_shape)
    assert activation in ("logistic", "tanh") or network.decision_function(images).max() > 1000
    to_onnx(network, tmp_path / "network.onnx")
    assert_same(session(tmp_path / "network.onnx").run, network, images)


def test_no_positive_output(tmp_path):
    """All classes are as probable; the label is still that of the largest output."""
    network = NETWORKS[SMALL]
    A = np.vstack([0 * network.A[:-1], [[-4.0, -3.0, -1.0, -2.0]]])
    network = replace(network, A=A, output_layer="ridge", temperature=None)
    to_onnx(network, tmp_path / "network.onnx")
    images = images_of(network.image_shape, 3)
    labels, probabilities = session(tmp_path / "network.onnx").run(OUTPUTS, {"images": images})
    assert_array_equal(labels, [network.classes[2]] * 3)
    assert_array_equal(probabilities, np.full((3, 4), 0.25))


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [
        (np.array([7, -1, 2**40, 0]), "tensor(int64)"),
        (np.array([3, 2, 1, 0], dtype=np.uint8), "tensor(int64)"),
        (np.array([3, 2, 1, 2**64 - 1], dtype=np.uint64), "tensor(uint64)"),
        (np.array(["b", "a", "été", 'a "quoted" <b>']), "tensor(string)"),
    ],
)
def test_labels_are_the_classes_themselves(classes, dtype, tmp_path):
    network = replace(NETWORKS[SMALL], classes=classes)
    to_onnx(network, tmp_path / "network.onnx")
    found = session(tmp_path / "network.onnx")
    assert {output.name: output.type for output in found.get_outputs()} == {
        "label": dtype, "probabilities": "tensor(float)",
    }  # fmt: skip
    images = images_of(network.image_shape)
    assert len(set(network.predict(images))) > 1
    assert_same(found.run, network, images)


def test_a_label_that_has_no_utf8_is_refused(tmp_path):
    network = replace(NETWORKS[SMALL], classes=np.array(["a", "b", "c\ud800", "d"]))
    with pytest.raises(ValueError, match=r"classes must be text, got .* in entry 2: .*0xd800"):
        to_onnx(network, tmp_path / "network.onnx")


def test_the_file_says_what_it_is_and_holds_filters_once(tmp_path):
    reached = IntensityRange(0.0, 0.0, 0.1, 0.2)
    network = NETWORKS["whole image, colour, bilinear"]  # five views
    network = replace(network, preparation=Preparation(reached, learnt=True))
    to_onnx(network, tmp_path / "network.onnx")
    to_onnx(network, str(tmp_path / "again.onnx"))
    content = (tmp_path / "network.onnx").read_bytes()
    assert content == (tmp_path / "again.onnx").read_bytes()
    model = onnx.load(tmp_path / "network.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert (model.producer_name, model.producer_version) == ("varpro_nn", __version__)
    assert "ankle boot" in model.doc_string
    (entry,) = model.metadata_props
    assert entry.key == "preparation"
    assert Preparation.from_spec(json.loads(entry.value)) == network.preparation
    (images,) = model.graph.input
    lengths = [axis.dim_param or axis.dim_value for axis in images.type.tensor_type.shape.dim]
    assert "from 0 to 51" in images.doc_string
    assert (images.name, lengths) == ("images", ["N", 3, 9, 9])
    assert len(content) < fold(network).layers[0].filters.nbytes + network.A.nbytes + 6000


def fail(*_, **__):
    raise OSError("no")  # noqa: EM101


@pytest.mark.parametrize("step", [(os, "fsync"), (onnx.checker, "check_model")])
def test_what_fails_leaves_an_older_file_and_nothing_else(step, tmp_path, monkeypatch):
    (tmp_path / "network.onnx").write_bytes(b"old")
    monkeypatch.setattr(*step, fail)
    with pytest.raises(OSError, match="no"):
        to_onnx(NETWORKS[SMALL], tmp_path / "network.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"network.onnx": b"old"}


def test_without_the_package_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(VarProError, match=r"pip install 'varpro-nn\[onnx\]'"):
        to_onnx(NETWORKS[SMALL], tmp_path / "network.onnx")


def test_more_than_a_file_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than the 1000 of ONNX files"):
        to_onnx(NETWORKS["whole image, grey, dense"], tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Own(WholeImageUnits):
    pass


def test_units_of_ones_own_are_refused(tmp_path):
    network = NETWORKS["whole image, grey, dense"]
    own = Own("dense", network.image_shape, network.units.n_units)
    with pytest.raises(TypeError, match=r"units of this package .* got Own"):
        to_onnx(replace(network, units=own), tmp_path / "network.onnx")
