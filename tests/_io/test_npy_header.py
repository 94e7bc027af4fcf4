"""Headers of arrays: read as numpy does, and every damaged one refused by one kind of error."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varpro_nn._io.npy_header import read_npy_header


def content(array, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


VALID = content(np.arange(12, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_says_what_was_written(version, order):
    array = np.asarray(np.arange(12.0).reshape(3, 4), order=order)
    stream = io.BytesIO(content(array, version))
    assert read_npy_header(stream) == ((3, 4), order == "F", np.dtype(float))
    assert stream.read() == array.tobytes(order="A")


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        VALID[:20],
        VALID[:9],
        VALID[:6] + b"\x02\x00\x10\x00",
        content(np.zeros(2), (3, 0)),
        VALID.replace(b"(3, 4)", b"(3, 4 "),  # TokenError
        VALID.replace(b"(3, 4)", b"(-3,4)"),
        VALID.replace(b"(3, 4)", b"(3L,4)"),  # Python 2: numpy would warn
        VALID.replace(b"'<f4'", b"'<q9'"),
        VALID[:8] + b"\xff\xff" + b"(" * 70_000,
    ],
)
def test_damage_is_a_value_error(damaged):
    with pytest.raises(ValueError, match=r"."):
        read_npy_header(io.BytesIO(damaged))


@given(st.lists(st.tuples(st.integers(0, 127), st.binary(max_size=3)), max_size=4))
def test_whatever_is_overwritten(changes):
    damaged = bytearray(VALID)
    for place, piece in changes:
        damaged[place : place + len(piece)] = piece
    try:
        shape, _, dtype = read_npy_header(io.BytesIO(bytes(damaged)))
    except ValueError:
        return
    assert all(n >= 0 for n in shape)
    assert isinstance(dtype, np.dtype)


@given(st.binary(max_size=300))
def test_any_bytes(data):
    for start in (b"", b"\x93NUMPY\x01\x00"):
        try:
            read_npy_header(io.BytesIO(start + data))
        except ValueError:
            continue
