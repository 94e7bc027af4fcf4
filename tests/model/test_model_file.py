"""A model file is read whole and true, or refused before memory is taken for it."""

import functools
import io
import json
import os
import struct
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from varpro_nn import Network, patch_units, whole_image_units
from varpro_nn._io import archive
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.preparation import Frame, Preparation
from varpro_nn.errors import ModelFileError
from varpro_nn.units import learn_whitening

CLASSES = {"integers": np.arange(3), "strings": np.array(["cat", "dog", "größer"])}


def make(kind="bilinear", shape=(4, 4), h=3, classes="integers"):
    rng = np.random.default_rng(0)
    units = whole_image_units(kind, shape, h, activation="tanh")
    W = rng.standard_normal((h, units.n_weights)).astype(np.float32)
    A = rng.standard_normal((h + 1, 3))
    training = {"seed": 3, "config": {"ridge": 0.1}}
    return Network(units, W, A, CLASSES[classes], shape, training=training)


def make_patches(
    kind="dense", shape=(6, 5), h=4, n_components=None, whitened=True, layer="hinge", **choices
):
    """A network of patch units, most with whitening."""
    rng = np.random.default_rng(0)
    units = patch_units(kind, shape, h, **{"window": 3, "grid": 2, "gain": 2.0, **choices})
    images = rng.random((20, *shape))
    if whitened:
        units = learn_whitening(units, images, rng, epsilon=0.1, n_components=n_components)
    W = rng.standard_normal((h, units.n_weights)).astype(np.float32)
    A = rng.standard_normal((h * units.n_cells + 1, 3))
    classes = CLASSES["strings"]
    return Network(units, W, A, classes, shape, layer, "flip", {"seed": 3})


def assert_same(loaded, network):
    for name in ("W", "A", "classes"):
        assert_array_equal(getattr(loaded, name), getattr(network, name), strict=True)
    assert type(loaded.units) is type(network.units)
    assert loaded.units.spec() == network.units.spec()
    for name in ("centre", "whitening"):
        mine, theirs = (getattr(n.units, name, None) for n in (loaded, network))
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            assert_array_equal(mine, theirs, strict=True)
    for name in ("image_shape", "output_layer", "views", "training", "preparation"):
        assert getattr(loaded, name) == getattr(network, name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


def contents(network, path):
    network.save(path)
    return path.read_bytes()


def npy(array, descr=None, fortran=False, shape=None):
    """A ``.npy`` member whose header may claim anything."""
    text = repr(
        {
            "descr": descr or array.dtype.str,
            "fortran_order": fortran,
            "shape": array.shape if shape is None else shape,
        }
    )
    return npy_with_header(text, array.tobytes())


def npy_with_header(text, data=b""):
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def forged(network, path, edit_header=None, edit_members=None, compression=zipfile.ZIP_STORED):
    """A model file with sound checksums whose header or members are not what they should be."""
    network.save(path)
    with np.load(path, allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        members = {f"{name}.npy": npy(archive[name]) for name in archive.files if name != "header"}
    if edit_header is not None:
        edit_header(header)
    if edit_members is not None:
        edit_members(members)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"header.npy": npy(text), **members}.items():
            archive.writestr(name, content)
    return path


def refused(path, match="."):
    """Loading fails with the one error for files; its message begins with the path."""
    with pytest.raises(ModelFileError, match=match) as caught:
        Network.load(path)
    assert str(caught.value).startswith(f"{path}: ")


# --- what is written comes back ----------------------------------------------------------


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("quadratic", (4, 4)),
        ("bilinear", (4, 5)),
        ("tensor", (3, 4, 4)),
        ("dense", (2, 3)),
        ("quadratic", (3, 4, 4)),
    ],
)
def test_round_trip_is_bitwise(kind, shape, classes, path):
    network = make(kind, shape, classes=classes)
    network.save(path)
    assert_same(Network.load(path), network)


PATCHES = {
    "plain": {"whitened": False},
    "ZCA": {},
    "PCA": {"n_components": 4},
    "bilinear": {"kind": "bilinear", "rank": 2, "stride": 2, "layer": "softmax"},
    "colour": {"shape": (3, 6, 6), "n_components": 27, "layer": "ridge"},
    "contrast": {"contrast": 0.1, "activation": "two-sided", "threshold": 0.5, "draw": "windows"},
    "tensor": {"kind": "tensor", "shape": (3, 6, 5), "activation": "rectifier"},
}


@pytest.mark.parametrize("case", PATCHES)
def test_round_trip_of_patch_units_is_bitwise(case, path, rng):
    network = make_patches(**PATCHES[case])
    network.save(path)
    loaded = Network.load(path)
    assert_same(loaded, network)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {"units.centre", "units.whitening"} if case != "plain" else set()
        assert set(archive.files) == {"header", "W", "A", "classes"} | arrays
    images = rng.random((9, *network.image_shape))
    assert_array_equal(loaded.predict_proba(images), network.predict_proba(images))
    assert loaded.n_parameters == network.n_parameters


@pytest.mark.parametrize("layer", ["ridge", "softmax", "hinge"])
@pytest.mark.parametrize("views", ["single", "flip"])
def test_the_output_layer_and_the_views_come_back(layer, views, path):
    network = replace(make(), output_layer=layer, views=views)
    network.save(path)
    assert_same(Network.load(path), network)


PREPARATION = Preparation(
    IntensityRange(0.0, 0.0, 0.9, 1.0), 0.0, Frame(20 / 28, "mass", (0.5, 0.51))
)


@pytest.mark.parametrize("preparation", [Preparation(PREPARATION.intensities), PREPARATION])
def test_the_preparation_comes_back(preparation, path):
    network = replace(make(), preparation=preparation)
    network.save(path)
    assert_same(Network.load(path), network)


@pytest.mark.parametrize(
    ("largest", "takes_bytes", "refused_from"),
    [(1.0, True, 1.6), (0.2, True, 0.4), (6.0, False, 13.0)],
)
def test_a_file_without_a_preparation_knows_the_largest_intensity(
    largest, takes_bytes, refused_from, path, rng
):
    network = replace(make(), training={"largest_intensity": largest})
    loaded = Network.load(forged(network, path, lambda header: header.pop("preparation")))
    preparation = loaded.preparation
    assert (preparation.takes_bytes, preparation.ground) == (takes_bytes, None)
    images = largest * rng.random((30, 4, 4))
    assert_array_equal(loaded.predict(0.1 * images), network.predict(0.1 * images))
    with pytest.raises(ValueError, match=f"to {largest:.4g} as in training"):
        loaded.predict(images + refused_from)


def test_a_file_without_any_intensity(path):
    loaded = Network.load(forged(make(), path, lambda header: header.pop("preparation")))
    assert loaded.preparation == Preparation(in_bytes=False)


@pytest.mark.parametrize("largest", ["1", [1.0], {}])
def test_a_largest_intensity_that_is_no_number_is_refused(largest, path):
    network = replace(make(), training={"largest_intensity": largest})
    refused(
        forged(network, path, lambda header: header.pop("preparation")), "do not make a network"
    )


def test_a_file_of_version_1_is_read(path):
    """It had one output layer and one view, and said neither."""

    def edit(header):
        assert header["format_version"] == 3
        header["format_version"] = 1
        del header["output_layer"], header["views"], header["temperature"]
        # units of that time
        header["units"] = {
            "kind": "bilinear", "image_shape": [4, 4], "n_units": 3, "rank": 1,
            "activation": "tanh", "gain": 1.0,
        }  # fmt: skip

    network = make()
    loaded = Network.load(forged(network, path, edit))
    assert_same(loaded, network)
    assert (loaded.output_layer, loaded.views) == ("ridge", "single")


@pytest.mark.parametrize("n_units", [1, 2, 10**30])
def test_the_number_of_units_is_that_of_the_weights(n_units, path):
    """Older files say that of one sub-network."""

    def edit(header):
        assert header["units"]["n_units"] == 4
        header["units"]["n_units"] = n_units

    network = make_patches()
    assert_same(Network.load(forged(network, path, edit)), network)


def test_the_forger_of_these_tests_is_believed_when_it_forges_nothing(path):
    for network in (make(), make_patches()):
        assert_same(Network.load(forged(network, path)), network)


def test_same_network_same_bytes(path):
    first = contents(make(), path)
    assert contents(Network.load(path), path) == first
    other = make()
    other.W[0, 0] = np.nextafter(other.W[0, 0], np.float32(9))
    assert contents(other, path) != first


def test_same_whitening_same_bytes(path):
    first = contents(make_patches(), path)
    assert contents(Network.load(path), path) == first
    other = make_patches()
    other.units.whitening[0, 0] = np.nextafter(other.units.whitening[0, 0], 9)
    assert contents(other, path) != first


def test_memory_order_is_not_kept_and_does_not_matter(path):
    network = make()
    first = contents(network, path)
    turned = replace(network, W=np.asfortranarray(network.W), A=np.asfortranarray(network.A))
    assert contents(turned, path) == first


def test_numpy_reads_the_file_without_pickle(path):
    network = make()
    network.save(path)
    with np.load(path, allow_pickle=False) as archive:
        assert_array_equal(archive["W"], network.W)


def test_a_save_that_fails_leaves_the_older_file(path):
    before = contents(make(), path)
    with pytest.raises(TypeError):
        replace(make(), training={"a": object()}).save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# --- damage ------------------------------------------------------------------------------


def same_or_refused(path, content, network):
    path.write_bytes(content)
    try:
        loaded = Network.load(path)
    except ModelFileError:
        return False
    assert_same(loaded, network)  # the damage hit what carries nothing: a date, say
    return True


def test_truncations_are_refused(path):
    whole = contents(make(), path)
    for length in (*range(0, len(whole), 3), *range(len(whole) - 40, len(whole))):
        path.write_bytes(whole[:length])
        refused(path)


def test_no_damaged_byte_changes_a_network(path):
    network = make()
    whole = contents(network, path)
    harmless = 0
    positions = range(0, len(whole), 2)
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8 if position % 3 else 0xFF
        harmless += same_or_refused(path, bytes(damaged), network)
    # Dates, attributes and version numbers of four members, in two places each.
    assert harmless < 0.15 * len(positions)


def test_no_damaged_byte_of_the_headers_of_a_larger_file_changes_it(path):
    """Headers of long members are parsed before the zip checksum of the member is known."""
    network = make("bilinear", (28, 28), h=40)
    whole = contents(network, path)
    starts = [i for i in range(len(whole)) if whole.startswith((b"PK", b"\x93NUMPY"), i)]
    positions = {i for start in starts for i in range(start, min(start + 140, len(whole)))}
    for number, position in enumerate(sorted(positions)):
        damaged = bytearray(whole)
        damaged[position] ^= (0xFF, 1 << position % 8, 0x07)[number % 3]
        same_or_refused(path, bytes(damaged), network)


@pytest.mark.parametrize("made", ["whole images", "patches"])
def test_a_damaged_number_is_refused(made, path):
    network = make("bilinear", (28, 28), h=40) if made == "whole images" else make_patches()
    whole = contents(network, path)
    learnt = () if made == "whole images" else (network.units.centre, network.units.whitening)
    for array in (network.W, network.A, network.classes, *learnt):
        start = whole.index(array.tobytes())
        for position in range(start, start + array.nbytes, array.nbytes // 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            refused(path)


@functools.cache
def large_network():
    return make("bilinear", (28, 28), h=40)


@functools.cache
def bytes_of_large_network(path):
    return contents(large_network(), path)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mutated_files(data, tmp_path):
    path, network = tmp_path / "model.npz", large_network()
    content = bytearray(bytes_of_large_network(path))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        what = data.draw(st.sampled_from(["replace", "insert", "delete", "repeat"]))
        piece = data.draw(st.binary(min_size=1, max_size=6))
        if what == "replace":
            content[at : at + len(piece)] = piece
        elif what == "insert":
            content[at:at] = piece
        elif what == "delete":
            del content[at : at + data.draw(st.integers(1, 300))]
        else:
            content[at:at] = content[at : at + 100]
    same_or_refused(path, bytes(content), network)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.text(alphabet="{}()[]'\"\\,: 0123456789LuUf<|-+#\n\x00desrhapotn", max_size=80))
def test_any_text_as_header_of_an_array(text, tmp_path_factory):
    """Longer than one read of zipfile, so that no checksum comes first."""
    path = tmp_path_factory.getbasetemp() / "header.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", npy_with_header(text, bytes(10_000)))
    refused(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 99], ids=len)
def test_what_is_no_archive_is_refused(content, path):
    path.write_bytes(content)
    refused(path, "is damaged or is no model file")


def test_a_run_folder_stands_for_its_model(tmp_path):
    network = make()
    with pytest.raises(FileNotFoundError, match=r"there is no model; a run has none before"):
        Network.load(tmp_path)
    network.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(Network.load(tmp_path).A, network.A)
    (tmp_path / "model.npz").unlink()
    (tmp_path / "model.npz").mkdir()
    with pytest.raises(ModelFileError, match=r"model\.npz: "):
        Network.load(tmp_path)


def test_a_missing_file_is_said_to_be_missing(path):
    with pytest.raises(FileNotFoundError, match=r"model\.npz"):
        Network.load(path)


# --- lies, with sound checksums ----------------------------------------------------------


def set_value(*keys, value):
    def edit(header):
        for key in keys[:-1]:
            header = header[key]
        header[keys[-1]] = value

    return edit


LIES = {
    "other format": (("format",), "numpy", "does not say format 'varpro_nn'"),
    "newer version": (("format_version",), 4, "has format version 4, this program reads 1 to 3"),
    "version 0": (("format_version",), 0, "has format version 0"),
    "version as text": (("format_version",), "1", "has format version 1"),
    "no version": (("format_version",), None, "has format version None"),
    "type of W": (("arrays", "W", "type"), "<f8", r"member W.npy is .*the header says"),
    "shape of W": (("arrays", "W", "shape"), [9, 3], r"member W.npy is .*the header says"),
    "digest of A": (("arrays", "A", "sha256"), "0" * 64, "does not have the digest"),
    "W not described": (("arrays", "W"), None, "."),
    "arrays as a list": (("arrays",), ["W", "A", "classes"], "does not describe"),
    "arrays as a number": (("arrays",), 3, "does not describe"),
    "no arrays": (("arrays",), {}, "its header describes"),
    "one array more": (("arrays", "B"), {}, "its header describes"),
    "other image shape": (("image_shape",), [4, 5], "not that of the units"),
    "image shape as text": (("image_shape",), "large", "do not make a network"),
    "infinite image shape": (("image_shape",), [float("inf"), 4], "do not make a network"),
    "no units": (("units",), None, "do not make a network"),
    "unknown kind": (("units", "kind"), "cubic", "kind must be one of"),
    "unknown activation": (("units", "activation"), "relu", "activation must be one of"),
    "unknown field": (("units", "colour"), "red", "do not make a network"),
    "other units": (("units", "kind"), "quadratic", "W must be"),
    "views of before": (("views",), "shifts", "views='shifts' was removed; train anew"),
    "infinite rank": (("units", "rank"), float("inf"), "do not make a network"),
    "gain too large": (("units", "gain"), 10**400, "do not make a network"),
    "no training": (("training",), 7, "do not make a network"),
    "training as pairs": (("training",), [["seed", 1]], "do not make a network"),
    "largest intensity as text": (("training", "largest_intensity"), "1", "do not make a network"),
    "a list of intensities": (("training", "largest_intensity"), [1], "do not make a network"),
    "fractional image shape": (("image_shape",), [4.5, 4], "do not make a network"),
    "digits of an image shape": (("image_shape",), "44", "do not make a network"),
    "unknown output layer": (("output_layer",), "perceptron", "output_layer must be one of"),
    "output layer as a list": (("output_layer",), ["ridge"], "do not make a network"),
    "unknown views": (("views",), "upside down", "views one of"),
    "units of another place": (("units", "place"), "windows", "do not make a network"),
    "no values of a preparation": (("preparation",), {}, "do not make a network"),
    "preparation as text": (("preparation",), "MNIST", "do not make a network"),
    "ground without a range": (("preparation", "ground"), 0.5, "ground must be a finite"),
    "range of three": (("preparation", "intensities"), [0.0, 0.0, 1.0], "do not make a network"),
    "range of text": (("preparation", "intensities"), ["a", 0.0, 1.0, 1.0], "must be finite"),
    "frame as a number": (("preparation", "frame"), 3, "do not make a network"),
    "negative threshold": (("units", "threshold"), -1.0, "threshold must be finite and not neg"),
    "threshold that is no number": (("units", "threshold"), "high", "do not make a network"),
}
PATCH_LIES = {
    "place": (("units", "place"), "everywhere", "do not make a network"),
    "kind": (("units", "kind"), "cubic", "kind must be one of"),
    "another kind": (("units", "kind"), "bilinear", "W must be"),
    "window": (("units", "window"), 0, "window must be positive"),
    "wide window": (("units", "window"), 6, "window must be at most"),
    "another window": (("units", "window"), 2, "centre must be"),
    "huge window": (("units", "window"), 10**30, "window must be at most"),
    "infinite window": (("units", "window"), float("inf"), "do not make a network"),
    "stride": (("units", "stride"), 0, "stride must be positive"),
    "wide stride": (("units", "stride"), 9, "grid must be at most"),
    "grid": (("units", "grid"), 9, "grid must be at most"),
    "another grid": (("units", "grid"), 1, "W must be"),
    "two sides": (("units", "activation"), "two-sided", "W must be"),
    "draw": (("units", "draw"), "uniform", "draw must be one of"),
    "contrast": (("units", "contrast"), 0, "contrast must be positive"),
    "contrast as text": (("units", "contrast"), "low", "do not make a network"),
    "unknown field": (("units", "colour"), "red", "do not make a network"),
    "other image shape": (("image_shape",), [5, 6], "not that of the units"),
    "another image shape of the units": (("units", "image_shape"), [6, 6], "not that of the"),
    "flat units": (("units", "image_shape"), [30], "do not make a network"),
    "no whitening described": (("arrays", "units.whitening"), None, "."),
    "digest of the centre": (("arrays", "units.centre", "sha256"), "0" * 64, "the digest"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(lie, path):
    keys, value, match = LIES[lie]
    refused(forged(make(), path, set_value(*keys, value=value)), match)


@pytest.mark.parametrize("lie", PATCH_LIES)
def test_a_header_that_lies_of_patch_units_is_refused(lie, path):
    keys, value, match = PATCH_LIES[lie]
    refused(forged(make_patches(), path, set_value(*keys, value=value)), match)


@pytest.mark.parametrize("text", [b"[]", b"3", b"{", b"\xff\xfe", b"[" * 200_000, b"9" * 9000])
def test_a_header_that_is_no_object_is_refused(text, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", npy(np.frombuffer(text, dtype=np.uint8)))
    refused(path)


@pytest.mark.parametrize(
    "text",
    ["'''", "{'descr': [('a',", "{" * 3000, "-" * 3000 + "1", "(" * 150 + ")" * 150, "1L", "\x00"],
    ids=["quotes", "open", "braces", "minus", "parentheses", "python2", "null"],
)
def test_an_array_header_that_is_no_literal_is_refused(text, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", npy_with_header(text, bytes(10_000)))
    refused(path, "is damaged or is no model file")


def described(network, name, array, **claims):
    """Edit member and header alike, so that the two agree."""

    def edit_header(header):
        shape = list(claims.get("shape", array.shape))
        header["arrays"][name].update(type=claims.get("descr", array.dtype.str), shape=shape)

    def edit_members(members):
        members[f"{name}.npy"] = npy(array, **claims)

    return edit_header, edit_members


HUGE = (2**20, 2**20)


@pytest.mark.parametrize(
    ("name", "array", "claims", "match"),
    [
        ("W", np.zeros(7, np.float32), {"shape": HUGE}, r"says \['<f4', \[1048576, 1048576\]\]"),
        ("W", np.zeros(7, np.float32), {"shape": (10**30,)}, "its length is"),
        ("W", np.zeros(7, np.float32), {"shape": (-1, 7)}, "none negative"),
        ("W", np.zeros(8, np.float32), {"shape": (-2, -4)}, "is damaged"),
        ("W", np.zeros(7, np.float32), {"shape": (0, 2**40)}, "its length is"),
        ("classes", np.zeros(3, np.int64), {"descr": "<U0"}, "its length is"),
        ("classes", np.zeros(3, np.int64), {"descr": "<U1099511627776"}, "is damaged"),
        ("classes", np.zeros(3, np.int64), {"descr": "|O"}, "has type object or Fortran order"),
        ("classes", np.zeros(3, np.int64), {"descr": "<m8"}, "has type timedelta64"),
        ("A", np.zeros((4, 3)), {"fortran": True}, "has type float64 or Fortran order"),
    ],
)
def test_an_array_that_claims_too_much_or_the_wrong_thing_is_refused(
    name, array, claims, match, path
):
    network = make()
    forged(network, path, *described(network, name, array, **claims))
    tracemalloc.start()
    try:
        refused(path, match)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


def test_a_zip_bomb_is_refused_without_unpacking_it(path):
    def bomb(members):
        members["W.npy"] = npy(np.zeros(6_000_000, np.float32))

    forged(make(), path, edit_members=bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    try:
        refused(path, "is compressed or longer than the file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


def test_a_directory_that_claims_more_bytes_than_the_file_has_is_refused(path):
    whole = bytearray(contents(make(), path))
    entry = whole.rindex(b"PK\x01\x02")
    whole[entry + 20 : entry + 28] = struct.pack("<II", 2**31 - 1, 2**31 - 1)
    path.write_bytes(whole)
    refused(path, "is compressed or longer than the file")


def test_a_file_larger_than_any_model_is_refused_unread(path):
    with open(path, "wb") as stream:
        stream.truncate(archive.MAX_BYTES + 1)  # sparse: takes no disk
    refused(path, "more than the 4294967296 of any model")


def test_a_long_header_is_refused_unread(path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_HEADER_BYTES", 10_000)
    forged(make(), path, lambda header: header.update(note="x" * archive.MAX_HEADER_BYTES))
    refused(path, "header.npy has more than")


def test_a_member_too_many_is_refused(path):
    def edit(members):
        members["extra.npy"] = npy(np.zeros(3))

    refused(forged(make(), path, edit_members=edit), "its header describes")


@pytest.mark.parametrize("name", ["W", "A", "classes"])
def test_a_member_too_few_is_refused(name, path):
    refused(
        forged(make(), path, edit_members=lambda members: members.pop(f"{name}.npy")),
        "its header describes",
    )
    # and if the header keeps silent about it too
    forged(
        make(),
        path,
        lambda header: header["arrays"].pop(name),
        lambda members: members.pop(f"{name}.npy"),
    )
    refused(path, "do not make a network")


def test_no_header_is_refused(path):
    np.savez(path, W=np.zeros(3))
    refused(path, "should hold header.npy")


def test_two_members_of_one_name_are_refused(path):
    content = io.BytesIO(contents(make(), path))
    with zipfile.ZipFile(content, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("W.npy", npy(np.zeros(3, np.float32)))
    path.write_bytes(content.getvalue())
    refused(path, "should hold header.npy and arrays")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["W", "A"])
def test_weights_that_are_not_finite_are_refused(name, value, path):
    """Written by hand with the right digest: `save` itself should never write them."""
    network = make()
    array = getattr(network, name).copy()
    array[0, 0] = value
    header = {"units": network.units.spec(), "image_shape": [4, 4], "training": {}}
    arrays = {"W": network.W, "A": network.A, "classes": network.classes, name: array}
    archive.write(path, header, arrays)
    refused(path, "weights that are NaN or infinite")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("W", np.zeros((3, 9))),
        ("W", np.zeros((3, 8), np.float32)),
        ("W", np.zeros((), np.float32)),
        ("A", np.zeros((4, 3), np.float32)),
        ("A", np.zeros((5, 3))),
        ("classes", np.arange(4)),
        ("classes", np.arange(3).reshape(1, 3)),
        ("classes", np.array([1, 2, 1])),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(name, array, path):
    network = make()
    header = {"units": network.units.spec(), "image_shape": [4, 4], "training": {}}
    arrays = {"W": network.W, "A": network.A, "classes": network.classes, name: array}
    archive.write(path, header, arrays)
    refused(path, "do not make a network")


WHITENING = r"centre must be \(9,\) and whitening \(at most 9, 9\), finite and double"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"centre": np.zeros(8)}, "dense"),
        ({"centre": np.zeros((1, 9))}, "dense"),
        ({"centre": np.zeros(())}, "dense"),
        ({"centre": np.zeros(9, np.float32)}, "dense"),
        ({"centre": np.full(9, np.nan)}, "dense"),
        ({"centre": np.full(9, "a")}, "dense"),
        ({"centre": None}, "dense"),
        ({"whitening": np.eye(9)[:, :8]}, "dense"),
        ({"whitening": np.eye(9)[0]}, "dense"),
        ({"whitening": np.zeros((0, 9))}, "dense"),
        ({"whitening": np.zeros((10, 9))}, "dense"),
        ({"whitening": np.eye(9, dtype=np.float32)}, "dense"),
        ({"whitening": np.eye(9, dtype=np.int64)}, "dense"),
        ({"whitening": np.full((9, 9), np.inf)}, "dense"),
        ({"whitening": None}, "dense"),
        ({"whitening": np.eye(9)[:4]}, "bilinear"),
    ],
)
def test_whitening_that_does_not_fit_the_windows_is_refused(changes, kind, path):
    """Written by hand with the right digests."""
    network = make_patches(kind)
    header = {"units": network.units.spec(), "image_shape": [6, 5], "training": {}}
    learnt = {"centre": network.units.centre, "whitening": network.units.whitening, **changes}
    arrays = {"W": network.W, "A": network.A, "classes": network.classes}
    arrays |= {f"units.{name}": array for name, array in learnt.items() if array is not None}
    archive.write(path, header, arrays)
    refused(path, WHITENING)


def test_a_whitening_of_fewer_directions_than_the_weights_is_refused(path):
    network = make_patches()
    fewer = replace(network.units, whitening=network.units.whitening[:4].copy())
    header = {"units": network.units.spec(), "image_shape": [6, 5], "training": {}}
    arrays = {"W": network.W, "A": network.A, "classes": network.classes}
    arrays |= {f"units.{name}": array for name, array in fewer.arrays.items()}
    archive.write(path, header, arrays)
    refused(path, r"W must be \(h, 5\)")


def test_learnt_arrays_that_no_unit_asked_for_are_refused(path):
    network = make_patches(whitened=False)
    header = {"units": network.units.spec(), "image_shape": [6, 5], "training": {}}
    arrays = {"W": network.W, "A": network.A, "classes": network.classes}
    archive.write(path, header, {**arrays, "units.colours": np.zeros(3)})
    refused(path, "do not make a network")


def test_objects_are_not_written(tmp_path):
    """They would be pickled, which the reader refuses."""
    with pytest.raises(ValueError, match=r"the array W has type object; expected numbers or text"):
        archive.write(tmp_path / "model.npz", {}, {"W": np.array([{}])})
    assert not (tmp_path / "model.npz").exists()
