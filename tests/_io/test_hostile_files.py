"""Damaged files of every kind: refused by the documented error, or read; nothing else.

``python -m experiments.reliability.fuzz`` does the same with coverage as its guide,
millions of times.
"""

import contextlib
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.reliability.readers import archive, pieces, reader

READERS = ("idx", "cifar", "npz", "folder", "model", "shard", "glue")
MEMORY_CAP = 64 * 2**20
"""Bytes; the files have a few thousand."""

changes = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "overwrite"]),
        st.integers(0, 2**16),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=5,
)


def damaged(data, steps):
    data = bytearray(data)
    for kind, place, piece in steps:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data[at] ^= piece[0] | 1
        elif kind == "cut":
            del data[at : at + 1 + piece[0]]
        elif kind == "insert":
            data[at:at] = piece
        elif kind == "overwrite":
            data[at : at + len(piece)] = piece
    return bytes(data)


@pytest.fixture(scope="module", params=READERS)
def one_reader(request, tmp_path_factory):
    return reader(request.param, tmp_path_factory.mktemp(request.param))


def test_what_is_whole_is_read(one_reader):
    read, _, seeds = one_reader
    assert len(seeds) in (2, 3)
    for seed in seeds[:1] + seeds[2:]:  # the second is cut short, or taken apart
        read(seed)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 2), steps=changes)
def test_what_is_damaged_is_refused_or_read(one_reader, number, steps):
    read, refused, seeds = one_reader
    # The first byte stays: for archives it says what the rest is.
    seed = seeds[number % len(seeds)]
    data = seed[:1] + damaged(seed[1:], steps)
    tracemalloc.start()
    with contextlib.suppress(refused):
        read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY_CAP


def test_an_archive_is_put_together_as_it_was_taken_apart():
    data = archive(b"one\0\xff--\xff\0first\0\xff--\xff\0two\0\xff--\xff\0second")
    assert pieces(data) == b"one\0\xff--\xff\0first\0\xff--\xff\0two\0\xff--\xff\0second"
    assert archive(pieces(data)) == data
