"""Networks written for other programs by the command line."""

import contextlib
import io

import numpy as np
import pytest
from exports import NETWORKS, images_of

from varpro_nn import to_c, to_html, to_onnx
from varpro_nn.export import main

NAME = "windows, grey, dense"


@pytest.fixture
def run_folder(tmp_path):
    NETWORKS[NAME].save(tmp_path / "model.npz")
    return tmp_path


def call(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("format_", ["c", "html", "onnx"])
def test_every_format_is_written_beside_the_model(format_, run_folder):
    if format_ == "onnx":
        pytest.importorskip("onnx")
    status, out, err = call("--model", run_folder, "--format", format_)
    path = run_folder / f"model.{format_}"
    assert (status, err) == (0, f"{path.stat().st_size:,} bytes\n")
    assert out == f"{path}\n"
    network, direct = NETWORKS[NAME], run_folder / "direct"
    {"c": to_c, "html": to_html, "onnx": to_onnx}[format_](network, direct)
    assert path.read_bytes() == direct.read_bytes()


def test_smaller_weights_and_another_name(run_folder):
    model = run_folder / "model.npz"
    for more in ((), ("--int8",)):
        name = run_folder / f"small{len(more)}.c"
        assert call("--model", model, "--format", "c", *more, "--output", name)[0] == 0
    assert (run_folder / "small1.c").stat().st_size < (run_folder / "small0.c").stat().st_size


def test_the_graph_answers_as_the_network_does(run_folder):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert call("--model", run_folder, "--format", "onnx")[0] == 0
    network = NETWORKS[NAME]
    images = images_of(network.image_shape)
    session = runtime.InferenceSession(str(run_folder / "model.onnx"))
    shares = session.run(["probabilities"], {"images": images})[0]
    np.testing.assert_allclose(shares, network.predict_proba(images), atol=1e-5)


@pytest.mark.parametrize(
    ("words", "status", "match"),
    [
        (("--format", "c"), 2, "--model"),
        (("--model", "{}", "--format", "java"), 2, "invalid choice: 'java'"),
        (("--model", "{}", "--format", "html", "--int8"), 2, "--int8 needs --format c"),
        (("--model", "{}/none.npz", "--format", "c"), 1, "none.npz"),
        (("--model", "{}", "--format", "c", "--output", "{}/no/such/m.c"), 1, "m.c"),
    ],
)
def test_faults(words, status, match, run_folder):
    found, out, err = call(*(word.replace("{}", str(run_folder)) for word in words))
    assert (found, out) == (status, "")
    assert match in err
    assert "Traceback" not in err


def test_notebooks_show_a_table():
    from dataclasses import replace

    network = replace(NETWORKS[NAME], training={"dataset": "<b>"})
    page = network._repr_html_()
    assert page.count("<tr>") == len(network.summary().splitlines())
    assert f"{network.n_parameters:,}" in page
