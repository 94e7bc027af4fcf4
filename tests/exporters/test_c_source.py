"""The C file computes what the network computes, compiles without warnings, and is safe to write.

The programs are compiled without optimisation where nothing else is said: that is quickest.
"""

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from exports import LINKS, NETWORKS, VIEWS, images_of, rounding
from numpy.testing import assert_allclose, assert_array_equal
from reference import folded_probabilities

from varpro_nn import Network, whole_image_units
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.preparation import Preparation
from varpro_nn.exporters.c_source import to_c
from varpro_nn.exporters.folded import fold
from varpro_nn.units import WholeImageUnits

GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="there is no gcc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

AWKWARD = [
    'say "no"',
    "back\\slash",
    "what??/",
    "ends */ it",
    "begins /* one",
    "line\nbreak",
    "$été 靴",
    "%s",
]


def compiled(source, target, *options):
    sources = [source] if isinstance(source, Path) else source
    command = [GCC, *STRICT, *options, *map(str, sources), "-o", str(target), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:2000]
    return target


class Program:
    """A network in a shared library of C; ``number`` tells its two names from those of others."""

    def __init__(self, library, network, source, number):
        self.source = source
        self._predict = library[f"varpro_predict_{number}"]
        self._n_classes = len(network.classes)
        strings = (ctypes.c_char_p * self._n_classes).in_dll(library, f"varpro_labels_{number}")
        self.labels = [string.decode() for string in strings]

    def predict(self, images):
        """Class numbers (n,) and probabilities (n, k)."""
        probabilities = np.full((len(images), self._n_classes), np.nan, dtype=np.float32)
        codes = [
            self._predict(image.tobytes(), ctypes.c_void_p(row.ctypes.data))
            for image, row in zip(images, probabilities, strict=True)
        ]
        return np.array(codes), probabilities


def programs(networks, folder, *options, int8=False):
    """Compile several networks at once: each its file, as it is, all in one shared library."""
    units = []
    for number, network in enumerate(networks):
        to_c(network, folder / f"network{number}.c", int8=int8)
        units.append(folder / f"unit{number}.c")
        units[-1].write_text(
            f"#define varpro_predict varpro_predict_{number}\n"
            f"#define varpro_labels varpro_labels_{number}\n"
            f'#include "network{number}.c"\n'
        )
    path = compiled(units, folder / "networks.so", "-shared", "-fPIC", *options)
    library = ctypes.CDLL(str(path))
    return [
        Program(library, network, folder / f"network{number}.c", number)
        for number, network in enumerate(networks)
    ]


def program(network, folder, *options, int8=False):
    return programs([network], folder, *options, int8=int8)[0]


def n_bytes(source):
    """Bytes of constants, as the file says."""
    return int(re.search(r"Constants: ([\d,]+) bytes", source.read_text())[1].replace(",", ""))


def numbers(source, name):
    """Entries of a constant array of the file, as text."""
    (entries,) = re.findall(rf" {name}\[[^]]*\] = \{{(.*?)\}}", source.read_text(), re.DOTALL)
    return [number.strip() for number in entries.split(",") if number.strip()]


def array(source, name):
    """A constant array of the file, as numbers."""
    return np.array([float(number.rstrip("f")) for number in numbers(source, name)])


def from_bytes(source, network):
    """The folded network that the bytes and scales of a file stand for."""
    folded = fold(network)
    layers, linear_weights = [], []
    for number, (layer, exact) in enumerate(zip(folded.layers, folded.linear, strict=True), 1):
        suffix = "" if layer is folded.layers[-1] else f"_{number}"
        filters, h = array(source, f"filters{suffix}"), len(layer.bias)
        assert np.abs(filters).max() == 127
        scale = array(source, f"filter_scale{suffix}").reshape(-1, 1, 8)  # tiles of eight units
        tiles = filters.reshape(len(scale), -1, 8) * scale
        F = tiles.swapaxes(1, 2).reshape(8 * len(scale), -1)
        assert not F[h:].any()
        layers.append(replace(layer, filters=F[:h]))
        linear_weights.append(exact)
        if exact.size:
            linear, scale, step = (
                array(source, f"linear{what}{suffix}") for what in ("", "_scale", "_step")
            )
            assert np.abs(linear).max() == 127
            scales = step.reshape(exact.shape[:3]) * scale.reshape(*exact.shape[:2], 1)
            linear_weights[-1] = linear.reshape(exact.shape) * scales[..., None]
    return replace(folded, layers=tuple(layers), linear=tuple(linear_weights))


def assert_same(program, network, images, atol=1e-5):
    """Up to what single precision changes in Python, where that is more than ``atol``."""
    codes, found = program.predict(images)
    atol = max(atol, float(np.max(rounding(network, images)[1])))
    assert_allclose(found, network.predict_proba(images), rtol=0, atol=atol)
    outputs = network.decision_function(images)
    best, second = np.sort(outputs)[:, :-3:-1].T
    clear = best - second > 1e-5
    assert clear.mean() > 0.5
    assert_array_equal(codes[clear], outputs.argmax(axis=1)[clear])


@pytest.fixture(scope="module")
def every_program(tmp_path_factory):
    made = programs(NETWORKS.values(), tmp_path_factory.mktemp("networks"))
    return dict(zip(NETWORKS, made, strict=True))


@needs_gcc
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_single_precision(name, every_program):
    network = NETWORKS[name]
    assert_same(every_program[name], network, images_of(network.image_shape, 60))
    assert every_program[name].labels == [str(label) for label in network.classes]


def test_the_networks_have_every_link_with_every_view():
    found = {(n.output_layer, n.temperature, n.views) for n in NETWORKS.values()}
    assert found == {(*link, view) for link in LINKS for view in VIEWS}


@needs_gcc
@pytest.mark.parametrize("options", [["-O2"], ["-O3", "-march=native"]], ids=" ".join)
def test_optimised_programs_compute_the_same(options, tmp_path):
    names = (
        "whitened, colour, tensor", "windows, colour, quadratic", "two layers, colour, projected",
    )  # fmt: skip
    networks = [NETWORKS[name] for name in names]
    for made, network in zip(programs(networks, tmp_path, *options), networks, strict=True):
        assert_same(made, network, images_of(network.image_shape))


SOME = {
    name: replace(NETWORKS[name], output_layer="softmax", temperature=1.0)
    for name in list(NETWORKS)[::3]
}


@pytest.fixture(scope="module")
def programs_of_bytes(tmp_path_factory):
    made = programs(SOME.values(), tmp_path_factory.mktemp("bytes"), int8=True)
    return dict(zip(SOME, made, strict=True))


@needs_gcc
@pytest.mark.parametrize("name", SOME)
def test_weights_as_bytes(name, programs_of_bytes, tmp_path):
    """Random weights, of which each is off by half a step: probabilities by some hundredths."""
    network, program = SOME[name], programs_of_bytes[name]
    images = images_of(network.image_shape, 60)
    single = tmp_path / "single.c"
    to_c(network, single)
    assert program.source.stat().st_size < single.stat().st_size
    assert n_bytes(program.source) < 0.45 * n_bytes(single)
    codes, found = program.predict(images)
    error = np.abs(found - network.predict_proba(images))
    assert 1e-6 < error.max() < 0.05
    # Of the bytes, not of rounding: the same on every processor to the 1e-5 below.
    assert error.mean() < 0.01
    assert np.mean(codes == network.predict_codes(images)) > 0.9
    # The program computes just what its bytes say.
    of_bytes = from_bytes(program.source, network)
    assert_allclose(found, folded_probabilities(of_bytes, images)[1], rtol=0, atol=1e-5)


def test_bytes_are_scaled_by_unit_and_by_row(tmp_path):
    """Units, and rows of the linear layer, of other sizes do not disturb each other."""
    network = NETWORKS["windows, colour, dense"]
    W, A = network.W.copy(), network.A.copy()
    W[0] *= 1000
    W[1] = 0
    A[:-1:3] *= 20
    A[1:-1:3] *= 1e-9
    A[2] = A[5:10] = 0
    network = replace(network, W=W, A=A)
    to_c(network, tmp_path / "network.c", int8=True)
    of_bytes = from_bytes(tmp_path / "network.c", network)
    F, A = of_bytes.layers[0].filters, of_bytes.linear[0]
    step = np.abs(W[:, :-1]).max(axis=1) / 127
    assert (np.abs(F - W[:, :-1]) <= 0.501 * step[:, None]).all()
    A, exact = (weights.reshape(network.units.n_cells, 5, -1) for weights in (A, network.A[:-1]))
    step = np.abs(exact).max(axis=2) / 127
    step += step.max(axis=1, keepdims=True) / 255  # a row's scale is a multiple of this
    assert (np.abs(A - exact) <= 0.501 * step[..., None]).all()


def responses(activation, gain):
    """One unit that sees one pixel: its activation, scaled into [0, 1], is a probability."""
    units = whole_image_units("dense", (1, 1), 1, activation=activation)
    W = np.array([[2 * gain, -gain]], dtype=np.float32)  # -gain to gain
    scale = {"logistic": 1.0, "tanh": 0.5}[activation]
    shift = 0.5 if activation == "tanh" else 0.0
    A = np.array([[scale, -scale], [shift, 1 - shift]])
    return Network(units, W, A, np.array([0, 1]), (1, 1))


@needs_gcc
@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_activations_small_and_large(activation, tmp_path):
    networks = [responses(activation, gain) for gain in (0.01, 8, 1e6)]
    images = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1)
    for made, network in zip(programs(networks, tmp_path), networks, strict=True):
        found = made.predict(images)[1]
        assert_allclose(found, network.predict_proba(images), rtol=0, atol=5e-7)


@needs_gcc
def test_softmax_of_large_outputs(tmp_path):
    network = NETWORKS["windows, grey, dense"]
    network = replace(network, A=network.A * 1e6, output_layer="softmax", temperature=None)
    images = images_of(network.image_shape)
    found = program(network, tmp_path).predict(images)[1]
    assert_allclose(found.max(axis=1), 1)
    assert_array_equal(found.argmax(axis=1), network.predict_codes(images))


@needs_gcc
def test_no_positive_output_makes_all_classes_equal(tmp_path):
    network = NETWORKS["windows, grey, dense"]
    A = np.zeros_like(network.A)
    A[-1] = [-3, -2, -1, -2]
    network = replace(network, A=A, output_layer="ridge", temperature=None)
    codes, found = program(network, tmp_path).predict(images_of(network.image_shape, 2))
    assert_array_equal(codes, 2)
    assert_array_equal(found, 0.25)


@needs_gcc
def test_labels_of_any_characters(tmp_path):
    network = NETWORKS["whole image, grey, dense"]
    A = np.zeros((len(network.A), len(AWKWARD)))
    network = replace(network, A=A, classes=np.array(AWKWARD))
    assert program(network, tmp_path).labels == AWKWARD


SEVERAL = (
    "whole image, colour, dense", "two layers, grey, contrast", "whitened, colour, tensor",
    "two layers, colour, projected",
)  # fmt: skip
MANY_IMAGES = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int varpro_predict(const uint8_t *pixels, float *probabilities);
int main(int n_arguments, char **arguments)
{
    size_t n_pixels = (size_t)atoi(arguments[1]), n_classes = (size_t)atoi(arguments[2]);
    uint8_t *pixels = malloc(n_pixels); /* of the heap, so that every byte beyond is noticed */
    float *probabilities = malloc(n_classes * sizeof(float));
    while (n_arguments == 3 && fread(pixels, 1, n_pixels, stdin) == n_pixels) {
        printf("%d\\n", varpro_predict(pixels, probabilities));
    }
    free(pixels);
    free(probabilities);
    return 0;
}
"""


@needs_gcc
@pytest.mark.parametrize(("name", "views"), list(zip(SEVERAL, 2 * VIEWS, strict=True)))
def test_sanitizers_find_nothing(name, views, tmp_path):
    network, int8 = replace(NETWORKS[name], views=views), views != "flip"
    source, caller = tmp_path / "network.c", tmp_path / "caller.c"
    to_c(network, source, int8=int8)
    caller.write_text(MANY_IMAGES)
    program = compiled(source, tmp_path / "program", *SANITIZERS, str(caller))
    images = images_of(network.image_shape)
    sizes = [str(images[0].size), str(len(network.classes))]
    # Nothing that another library preloads may stand before the sanitizer.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    result = subprocess.run(
        [program, *sizes], input=images.tobytes(), capture_output=True, check=False, env=environment
    )
    assert (result.returncode, result.stderr) == (0, b"")
    codes = np.array(result.stdout.split(), dtype=int)
    assert np.mean(codes == network.predict_codes(images)) > 0.9


@needs_gcc
def test_a_program_that_reads_one_image(tmp_path):
    """Raw bytes, PGM, PPM (channels innermost), with a comment; another size is refused."""
    for colour, magic in (("grey", b"P5"), ("colour", b"P6")):
        network = NETWORKS[f"windows, {colour}, dense"]
        to_c(network, tmp_path / "network.c")
        program = compiled(tmp_path / "network.c", tmp_path / colour, "-DVARPRO_MAIN", *SANITIZERS)
        image = images_of(network.image_shape)[2]
        innermost = (np.moveaxis(image, 0, -1) if image.ndim == 3 else image).tobytes()
        probability = network.predict_proba(image[None]).max()
        label = network.predict(image[None])[0]
        headers = [b"\n9 9\n255\n", b"\n# made by\n# hand 7\n9  9 255 "]
        for content in [image.tobytes(), *(magic + header + innermost for header in headers)]:
            result = subprocess.run([program], input=content, capture_output=True, check=True)
            *words, number = result.stdout.decode().split(" ")
            assert " ".join(words) == str(label)
            assert_allclose(float(number), probability, atol=2e-5)
        wrong = [
            b"", b"P5", image.tobytes()[1:], image.tobytes() + b"0", b"P4" + headers[0] + innermost,
            magic + b"\n9 9\n255\n" + innermost[1:], magic + b"\n9 10\n255\n" + innermost * 2,
            magic + b"\n9 9\n65535\n" + innermost * 2, magic + b"\n" + b"9" * 900 + innermost,
        ]  # fmt: skip
        for content in wrong:
            result = subprocess.run([program], input=content, capture_output=True, check=False)
            assert result.returncode == 1, content
            assert result.stderr.startswith(b"no image of ")


@needs_gcc
def test_flat_windows_have_no_contrast_however_little_is_added(tmp_path):
    networks = [
        replace(n, units=replace(n.units, contrast=contrast))
        for n in [NETWORKS["whitened, grey, dense"]]
        for contrast in (1e-5, 1e-12, 1e-300)
    ]
    levels = np.arange(3, 256, 12, dtype=np.uint8)
    images = np.ascontiguousarray(np.broadcast_to(levels[:, None, None], (len(levels), 9, 9)))
    for network, made in zip(networks, programs(networks, tmp_path), strict=True):
        expected = network.predict_proba(np.zeros((1, 9, 9), dtype=np.uint8))
        found = made.predict(images)[1]
        assert_allclose(found, np.tile(expected, (len(images), 1)), rtol=0, atol=2e-5)


@needs_gcc
def test_an_image_far_from_the_bytes_of_training_is_said_to_be(tmp_path):
    reached = IntensityRange(0.0, 0.0, 15 / 255, 16 / 255)
    network = replace(NETWORKS["windows, grey, dense"], preparation=Preparation(reached))
    to_c(network, tmp_path / "network.c")
    assert "from 0 to 16: VARPRO_DARKEST" in (tmp_path / "network.c").read_text().split("*/")[0]
    program = compiled(tmp_path / "network.c", tmp_path / "program", "-DVARPRO_MAIN")
    for brightest, said in ((16, b""), (200, b"pixels should be from 0 to 16 as in training")):
        image = images_of(network.image_shape)[2] // 16
        image[0, 0] = brightest
        result = subprocess.run([program], input=image.tobytes(), capture_output=True, check=True)
        assert result.stderr.startswith(said)
        assert bool(result.stderr) == bool(said)
        assert result.stdout


def test_the_comment_says_what_is_in_the_file(tmp_path):
    network = NETWORKS["windows, colour, dense"]
    to_c(network, tmp_path / "network.c")
    comment = (tmp_path / "network.c").read_text().split("*/")[0]
    n_windows = network.units.windows.places[0] ** 2
    assert f"Units: 5, each at {n_windows} places of a window of 4 x 4 pixels." in comment
    assert "pixels: 243 bytes" in comment
    assert '3  "\\303\\251t\\303\\251"' in comment
    # Eight units of 49 numbers, of which three only fill the tile; and the linear layer.
    assert n_bytes(tmp_path / "network.c") == 4 * (8 * 49 + network.A.size)


def test_constants_are_read_back_as_they_were(tmp_path):
    network = NETWORKS["windows, grey, dense"]
    rng = np.random.default_rng(0)
    A = rng.standard_normal(network.A.shape) * 10.0 ** rng.integers(-40, 35, network.A.shape)
    A[:10] = 1000 + np.arange(40).reshape(10, 4) / 2**14  # neighbours; need all nine digits
    to_c(replace(network, A=A), tmp_path / "network.c")
    found = numbers(tmp_path / "network.c", "linear")
    assert all(re.fullmatch(r"-?\d+(\.\d+)?(e[-+]\d+)?f", number) for number in found)
    assert all("." in number or "e" in number for number in found)
    singles = np.array([number[:-1] for number in found], dtype=np.float32)
    assert_array_equal(singles, A[:-1].astype(np.float32).ravel())


def test_the_same_network_gives_the_same_bytes(tmp_path):
    network = NETWORKS["whitened, grey, bilinear"]
    for name in "ab":
        to_c(network, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_weights_beyond_single_precision_are_refused(tmp_path):
    network = NETWORKS["windows, grey, dense"]
    with pytest.raises(ValueError, match=r"weights up to 3.4e\+38 .* got .*e\+4[56]"):
        to_c(replace(network, A=network.A * 1e46), tmp_path / "network.c")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "network.c"
    path.write_text("older")

    def fail(*_):
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        to_c(NETWORKS["windows, grey, dense"], path)
    assert [each.name for each in tmp_path.iterdir()] == ["network.c"]
    assert path.read_text() == "older"


@dataclass(frozen=True)
class Own(WholeImageUnits):
    pass


def test_units_of_ones_own_are_refused(tmp_path):
    network = NETWORKS["whole image, grey, dense"]
    own = Own("dense", network.image_shape, network.units.n_units)
    with pytest.raises(TypeError, match="got Own"):
        to_c(replace(network, units=own), tmp_path / "network.c")
    assert list(tmp_path.iterdir()) == []
