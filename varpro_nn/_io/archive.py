"""The model file: an npz archive without pickle that is checked before memory is taken for it.

Members are stored, not compressed, so nothing can expand. The first, ``header.npy``, is JSON text
as bytes: the format version, and for each array its type, shape and SHA-256. A reader goes from
the outside in: size of the file, names and sizes of the members, the header, the type and shape
that each member claims against the header and against the bytes that are there; only then is the
array read, and its digest compared.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._io.atomic import strict_json, write_atomically
from varpro_nn._io.npy_header import read_npy_header
from varpro_nn._io.regular_file import open_regular
from varpro_nn.errors import ModelFileError

FORMAT = "varpro_nn"
FORMAT_VERSION = 3
MAX_BYTES = 2**32
"""No model is larger: 4 GiB, over 500 million parameters."""
MAX_HEADER_BYTES = 2**26
"""A header with the history of a long fit keeps under it."""
_ALLOWED_KINDS = "fiuU"  # numbers and fixed-width text: no objects


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write ``header`` (JSON values; NaN becomes null) and ``arrays`` to ``path``, atomically.

    The same content gives the same bytes. If anything fails, an older file of that name stays.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in contiguous.items():
        if array.dtype.kind not in _ALLOWED_KINDS:
            msg = f"{path}: the array {name} has type {array.dtype}; expected numbers or text."
            raise ValueError(msg)
    described = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **header,
        "arrays": {name: _describe(array) for name, array in contiguous.items()},
    }
    text = strict_json(described)
    if len(text) > MAX_HEADER_BYTES - 256:  # less what npy puts in front
        msg = f"{path}: the header has {len(text)} bytes, more than {MAX_HEADER_BYTES}."
        raise ValueError(msg)
    members: dict[str, Any] = {"header": np.frombuffer(text, dtype=np.uint8), **contiguous}
    n_bytes = sum(array.nbytes for array in members.values())
    if n_bytes > MAX_BYTES - 2**20:  # less what the archive takes itself
        msg = f"{path}: the arrays have {n_bytes} bytes, more than the {MAX_BYTES} of any model."
        raise ValueError(msg)
    buffer = io.BytesIO()
    np.savez(buffer, **members)  # of plain types, so nothing is pickled
    write_atomically(path, buffer.getvalue())


def read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what :func:`write` wrote: the header and the arrays.

    Raises
    ------
    ModelFileError
        With the path and what was expected and found.
    FileNotFoundError
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise _fault(path, f"has {size} bytes, more than the {MAX_BYTES} of any model")
            with zipfile.ZipFile(stream) as archive:
                return _read_archive(path, archive, size)
    except (ModelFileError, FileNotFoundError):
        raise
    except (
        zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, TypeError,
        NotImplementedError, RuntimeError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        # What zipfile, json and numpy raise on damaged bytes.
        reason = getattr(error, "strerror", None) or error
        raise _fault(path, f"is damaged or is no model file ({reason})") from error


def _read_archive(
    path: Path, archive: zipfile.ZipFile, size: int
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    members = {member.filename: member for member in archive.infolist()}
    if "header.npy" not in members or len(members) != len(archive.infolist()):
        raise _fault(path, f"should hold header.npy and arrays, holds {sorted(members)[:9]}")
    for member in members.values():
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
            raise _fault(path, f"member {member.filename} is compressed or longer than the file")
    if members["header.npy"].file_size > MAX_HEADER_BYTES:
        raise _fault(path, f"header.npy has more than {MAX_HEADER_BYTES} bytes")
    header = json.loads(_read_member(path, archive, members["header.npy"], None).tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _fault(path, f"header does not say format {FORMAT!r}")
    version = header.get("format_version")
    if type(version) is not int or version < 1 or version > FORMAT_VERSION:
        raise _fault(
            path, f"has format version {version}, this program reads 1 to {FORMAT_VERSION}"
        )
    described = header.pop("arrays", None)
    if not isinstance(described, dict) or not all(
        isinstance(entry, dict) for entry in described.values()
    ):
        raise _fault(path, "header does not describe its arrays")
    if set(members) != {"header.npy"} | {f"{name}.npy" for name in described}:
        raise _fault(path, f"holds {sorted(members)}, its header describes {sorted(described)}")
    arrays = {
        name: _read_member(path, archive, members[f"{name}.npy"], description)
        for name, description in described.items()
    }
    return header, arrays


def _read_member(
    path: Path,
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    description: Mapping[str, Any] | None,
) -> NDArray[Any]:
    """Read one array after its claims have been compared with ``description`` and its length."""
    with archive.open(member) as stream:
        shape, fortran, dtype = read_npy_header(stream)
        n_bytes = math.prod(shape) * dtype.itemsize
        found = [dtype.str, list(shape)]
        if dtype.kind not in _ALLOWED_KINDS or fortran:
            raise _fault(path, f"member {member.filename} has type {dtype} or Fortran order")
        if stream.tell() + n_bytes != member.file_size:
            raise _fault(
                path, f"member {member.filename} says {found}, its length is {member.file_size}"
            )
        if description is not None and found != [description["type"], description["shape"]]:
            raise _fault(
                path, f"member {member.filename} is {found}, the header says {description}"
            )
        data = stream.read(n_bytes)
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    if description is not None and _describe(array) != description:
        raise _fault(path, f"member {member.filename} does not have the digest of the header")
    return array


def _describe(array: NDArray[Any]) -> dict[str, Any]:
    return {
        "type": array.dtype.str,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
    }


def _fault(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path}: the model file {what}.")
