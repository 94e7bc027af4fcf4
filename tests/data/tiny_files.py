"""Tiny data files and a source that serves them from memory."""

import gzip
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from varpro_nn.data.fetch.sources import Contents, DataFile, SourceError
from varpro_nn.data.fetch.store import FileSet


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """The IDX file of an array, by the letter of the format."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


CONTENTS = {
    "images": idx_bytes(np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)),
    "labels": idx_bytes(np.array([0, 1, 0], dtype=np.uint8)),
}
GZIPPED = {f"{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()}
FILES = tuple(
    DataFile(name, len(content), hashlib.sha256(content).hexdigest(), (f"{name}.old",))
    for name, content in CONTENTS.items()
)


@dataclass
class MemorySource:
    """Serves ``contents``; counts what it was asked for; fails with ``fault`` at the end."""

    contents: dict[str, bytes] = field(default_factory=lambda: dict(CONTENTS))
    fault: str | None = None
    name: str = "memory"
    asked: list[str] = field(default_factory=list)

    def fetch(self, files: Sequence[DataFile], *, progress: bool) -> Contents:
        self.asked += [file.name for file in files]
        for file in files:
            if file.name in self.contents:
                yield file, self.contents[file.name]
        if self.fault is not None:
            raise SourceError(self.fault)


def tiny_set(*sources: MemorySource, system_folders: tuple[str, ...] = ()) -> FileSet:
    return FileSet("tiny", FILES, sources, ("Tiny/raw",), system_folders)
