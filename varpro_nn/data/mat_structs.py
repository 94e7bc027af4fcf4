"""What is in the structs of a ``.mat`` file, found without reading it into memory.

SciPy believes the numbers of cells and of fields that a file claims, and makes room for them. So
these are checked here first, all the way down.

References
----------
MathWorks, MAT-File Format, level 5.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from varpro_nn.data.packed import DEFLATE_RATIO
from varpro_nn.errors import DatasetError

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
"""Types of elements."""
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = range(1, 6)
_CLASSES = {
    _CELL: "cell", _STRUCT: "struct", _CHAR: "char", _SPARSE: "sparse", 6: "double", 7: "single",
    8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
    15: "uint64",
}  # fmt: skip
_LOGICAL = 0x200
_TAG = 8
"""Bytes that every element has at least."""
_DEEPEST = 16
_LONGEST = 1 << 16
"""Bytes of dimensions, names, and names of fields."""
_PIECE = 1 << 20


class Entry(NamedTuple):
    """An array in a struct.

    Attributes
    ----------
    kind : str
        Its class in MATLAB.
    shape : tuple of int
    """

    kind: str
    shape: tuple[int, ...]


def entries_of_structs(where: str, stream: BinaryIO, names: Sequence[str]) -> dict[str, Entry]:
    """Find the arrays in structs, and in structs in them.

    Parameters
    ----------
    where : str
        The file, for messages.
    stream : binary file
    names : sequence of str
        The structs.

    Returns
    -------
    dict of Entry
        By path: ``"dataset.train.images"``.

    Raises
    ------
    DatasetError
        The file is damaged, or a struct has objects in it.
    """
    found: dict[str, Entry] = {}
    stream.seek(0)
    header = stream.read(_HEADER)
    order = ">" if header[-2:] == b"MI" else "<"
    size = os.fstat(stream.fileno()).st_size
    try:
        place = _HEADER
        while place + _TAG <= size:
            stream.seek(place)
            kind, n_bytes = struct.unpack(f"{order}II", stream.read(_TAG))
            source = _Source(stream, n_bytes, order, packed=kind == _COMPRESSED)
            if kind == _COMPRESSED:
                kind, inside = source.tag()
            else:
                inside = n_bytes
            if kind == _MATRIX:
                found.update(_walk(source, inside, names))
            place += _TAG + n_bytes
    except (ValueError, struct.error, zlib.error) as error:
        msg = f"{where}: the structs cannot be read: {error}"
        raise DatasetError(msg) from error
    return found


class _Source:
    """The bytes of an element of the file, unpacked."""

    def __init__(self, stream: BinaryIO, n_bytes: int, order: str, *, packed: bool) -> None:
        self._stream = stream
        self._left = n_bytes
        self._order = order
        self._unpack = zlib.decompressobj() if packed else None
        self._ready = b""
        self.place = 0
        self.most = n_bytes * (DEFLATE_RATIO if packed else 1)

    def read(self, n: int) -> bytes:
        if n > _LONGEST:
            msg = f"{n} bytes of a header"
            raise ValueError(msg)
        while len(self._ready) < n and self._more():
            pass
        if len(self._ready) < n:
            msg = "it ends too early"
            raise ValueError(msg)
        found, self._ready = self._ready[:n], self._ready[n:]
        self.place += n
        return found

    def skip_to(self, place: int) -> None:
        while self.place < place:
            if not self._ready and not self._more():
                msg = "it ends too early"
                raise ValueError(msg)
            n = min(place - self.place, len(self._ready))
            self._ready = self._ready[n:]
            self.place += n

    def _more(self) -> bool:
        piece = b""
        if self._unpack is None or not self._unpack.unconsumed_tail:
            piece = self._stream.read(min(_PIECE, self._left))
            self._left -= len(piece)
        if self._unpack is not None:
            piece = self._unpack.decompress(self._unpack.unconsumed_tail + piece, _PIECE)
        self._ready += piece
        return bool(piece)

    def tag(self) -> tuple[int, int]:
        kind, n_bytes = struct.unpack(f"{self._order}II", self.read(_TAG))
        return kind, n_bytes

    def element(self) -> bytes:
        """Read a small element, and what fills it up to eight bytes."""
        first = self.read(_TAG)
        kind, n_bytes = struct.unpack(f"{self._order}II", first)
        if kind >> 16:  # the data are in the tag
            return first[4 : 4 + (kind >> 16)]
        return self.read(-(-n_bytes // _TAG) * _TAG)[:n_bytes]

    def numbers(self) -> tuple[int, ...]:
        data = self.element()
        return struct.unpack(f"{self._order}{len(data) // 4}i", data[: len(data) // 4 * 4])


def _walk(
    source: _Source,
    n_bytes: int,
    wanted: Sequence[str] | None,
    name: str | None = None,
    depth: int = 0,
) -> Iterator[tuple[str, Entry]]:
    """Go through a matrix of ``n_bytes``; name what is in structs.

    Parameters
    ----------
    wanted : sequence of str or None
        The variables to go through; None: this is in one of them already.
    name : str or None
        Path of this matrix; None where it has none that says which it is.
    """
    end = source.place + n_bytes
    if end > source.most or depth > _DEEPEST:
        msg = f"{n_bytes} bytes in a place of {source.most}, {depth} deep"
        raise ValueError(msg)
    if not n_bytes:
        return
    flags = source.numbers()[0]
    kind, shape = flags & 0xFF, source.numbers()
    own_name = source.element().decode("utf-8", "replace")
    if wanted is not None:
        if own_name not in wanted:
            return
        name = own_name
    if kind not in _CLASSES:
        msg = f"{name or 'an array'} is an object of MATLAB; save plain arrays"
        raise ValueError(msg)
    fields: list[str] | None = None
    if kind == _STRUCT:
        (length, *_) = source.numbers()
        text = source.element()
        if length < 1:
            msg = f"names of {length} characters"
            raise ValueError(msg)
        parts = (text[i : i + length] for i in range(0, len(text), length))
        fields = [part.split(b"\0")[0].decode("utf-8", "replace") for part in parts]
    n_inside = math.prod(shape)
    least = _TAG * max(len(fields), 1) if fields is not None else _TAG if kind == _CELL else 0
    claimed = n_inside * (least or 1)
    if kind != _SPARSE and (min(shape, default=0) < 0 or claimed > max(end - source.place, 0)):
        msg = f"{name or 'an array'} claims shape {shape} in {n_bytes} bytes"
        raise ValueError(msg)
    if fields is not None or kind == _CELL:
        for at in range(n_inside):
            for field in fields if fields is not None else [""]:
                type_, inside = source.tag()
                if type_ != _MATRIX or source.place + inside > end:
                    msg = f"element {at} of {name or 'an array'} is no array"
                    raise ValueError(msg)
                path = f"{name}.{field}" if name and fields and n_inside == 1 else None
                yield from _walk(source, inside, None, path, depth + 1)
    elif name is not None and wanted is None:
        yield name, Entry("logical" if flags & _LOGICAL else _CLASSES[kind], shape)
    if kind == _CELL and name is not None and wanted is None:
        yield name, Entry("cell", shape)
    source.skip_to(end)


def array_at(loaded: Any, path: str) -> Any:
    """Take the array at a path out of what SciPy has read.

    Parameters
    ----------
    loaded : mapping of str to ndarray
        The variables, as ``scipy.io.loadmat`` returns them.
    path : str
        As :func:`entries_of_structs` gives it, or the name of a variable.
    """
    first, *fields = path.split(".")
    value = loaded[first]
    for field in fields:
        value = value[0, 0][field]
    return value
