import gzip
import struct

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_array_equal
from tiny_files import idx_bytes

from varpro_nn.data import read_cifar_binary, read_idx
from varpro_nn.errors import DatasetError

FIXED = settings(derandomize=True, deadline=None, max_examples=60, database=None)
ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@FIXED
@given(arrays(np.uint8, array_shapes(max_dims=4, min_side=0, max_side=5)), st.booleans())
def test_round_trip(array, gzipped):
    content = idx_bytes(array)
    read = read_idx(gzip.compress(content) if gzipped else content)
    assert read.dtype == np.uint8
    assert_array_equal(read, array, strict=True)


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
def test_reads_files_by_content_not_name(tmp_path, name):
    for pack in (bytes, gzip.compress):
        path = tmp_path / name
        path.write_bytes(pack(idx_bytes(ARRAY)))
        assert_array_equal(read_idx(path), ARRAY)
        assert_array_equal(read_idx(str(path)), ARRAY)


@settings(FIXED, max_examples=300)
@given(st.binary(max_size=40))
@example(b"\0\0\x08\x03" + struct.pack(">3I", 0, 0xFFFFFFFF, 0xFFFFFF08))  # found by atheris
@example(b"\0\0\x08\x02" + struct.pack(">2I", 0xFFFFFFFF, 0xFFFFFFFF))
@example(b"\x1f\x8b\x08\x04" + b"\xff" * 20)
def test_any_bytes_are_read_or_refused(content):
    for prefix in (b"", b"\0\0\x08", b"\x1f\x8b"):
        try:
            read = read_idx(prefix + content)
        except DatasetError as error:
            assert f"<{len(prefix + content)} bytes>" in str(error)  # noqa: PT017
        else:
            assert idx_bytes(read) == prefix + content


@settings(FIXED, max_examples=150)
@given(st.data())
def test_one_changed_byte(data):
    """A changed byte is refused or changes the array: nothing is read past it."""
    content = bytearray(idx_bytes(ARRAY))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        read = read_idx(bytes(content))
    except DatasetError:
        return
    assert idx_bytes(read) == content


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\x03\x04" + b"0" * 50, "begin with 00 00 08 rank, got 50 4b 03 04"),
        (b"\0\0\x0d\x01" + struct.pack(">I", 0), r"type must be 0x08 .* got 0x0d"),
        (b"\0\0\x08\x00", "rank must be 1 to 4, got 0"),
        (b"\0\0\x08\x05" + bytes(20), "rank must be 1 to 4, got 5"),
        (b"\0\0\x08\x03" + bytes(7), "header must have 16 bytes, got 11"),
        (idx_bytes(ARRAY)[:-1], r"\(2, 3, 4\) ask for 24 bytes, got 23 bytes"),
        (idx_bytes(ARRAY) + b"x", "ask for 24 bytes, got more"),
        (b"\0\0\x08\x02" + struct.pack(">2I", 1 << 17, 1 << 17), "more than 4294967296 bytes"),
        (gzip.compress(idx_bytes(ARRAY), mtime=0)[:-9], "cannot be read"),
        (gzip.compress(idx_bytes(ARRAY), mtime=0)[:-8] + bytes(8), "cannot be read: CRC"),
    ],
    ids=[
        *("empty", "three bytes", "zip", "float", "rank 0", "rank 5", "short header", "truncated"),
        *("trailing", "huge", "truncated gz", "wrong CRC"),
    ],
)
def test_damaged(tmp_path, content, match):
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=match) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"absent: cannot be read.*No such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_idx(tmp_path)


def count_output(monkeypatch):
    """Count the bytes that gzip gives out."""
    given = []
    read = gzip.GzipFile.read

    def counting(self, size=-1):
        piece = read(self, size)
        given.append(len(piece))
        return piece

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    return given


@pytest.mark.parametrize("claimed", [10, 1 << 31], ids=["header modest", "header lies"])
def test_gzip_bomb_is_not_unpacked(monkeypatch, claimed):
    header = b"\0\0\x08\x01" + struct.pack(">I", claimed)
    bomb = gzip.compress(header + bytes(20_000_000))
    given = count_output(monkeypatch)
    with pytest.raises(DatasetError, match="ask for"):
        read_idx(bomb)
    # no more than the header allows, and no more than there is
    assert sum(given) <= min(claimed + 1, 20_000_000) + len(header)


RECORD = 3073


def cifar_bytes(labels, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(len(labels), 3, 32, 32), dtype=np.uint8)
    content = b"".join(
        bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)
    )
    return content, images


def test_cifar_round_trip(tmp_path):
    first, first_images = cifar_bytes([3, 9])
    second, second_images = cifar_bytes([0], seed=1)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(first)
    images, labels = read_cifar_binary(path, gzip.compress(second))
    assert images.dtype == np.uint8
    assert_array_equal(images, np.concatenate([first_images, second_images]))
    assert_array_equal(labels, np.array([3, 9, 0], dtype=np.int64), strict=True)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "got 0 bytes"),
        (cifar_bytes([1, 2])[0][:-1], rf"records of 3073 bytes .* got {2 * RECORD - 1} bytes"),
        (cifar_bytes([1])[0] + b"x", "got 3074 bytes"),
        (cifar_bytes([1, 10])[0], "labels must be 0 to 9, got 10 in record 1"),
    ],
    ids=["empty", "truncated", "trailing", "label"],
)
def test_cifar_damaged(tmp_path, content, match):
    path = tmp_path / "test_batch.bin"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=match) as caught:
        read_cifar_binary(path)
    assert str(path) in str(caught.value)


def test_cifar_needs_a_file():
    with pytest.raises(ValueError, match="at least one file"):
        read_cifar_binary()
