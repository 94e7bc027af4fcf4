"""Tables out of CSV and Parquet files, some rows at a time.

pandas reads them, and pyarrow the Parquet files; both are imported where they are used.
"""

import csv
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from varpro_nn._io.regular_file import open_regular
from varpro_nn.data.packed import Readable, open_packed
from varpro_nn.errors import DatasetError

if TYPE_CHECKING:
    from pandas import DataFrame

Chooser: TypeAlias = Callable[[list[str] | None, int], Sequence[int]]
"""Chooses columns by the names of the columns, if there are any, and their number."""

TABLE_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""Of the names of tables."""
_SEPARATORS = (",", "\t", ";")
_LONGEST_LINE = 1 << 24
"""Characters of the first line; a colour image of 512 x 512 pixels has fewer."""
_MOST_BYTES = 1 << 33
"""Of the text of a table, when it is unpacked."""
_MOST_CELLS = 1 << 32
"""Of a Parquet file, where many equal cells take no room."""
_CELLS = 1 << 22
"""Cells that are read at a time."""
_PICTURE = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp|p[bgpn]m)$", re.IGNORECASE)
_INDEX = re.compile(r"__index_level_\d+__")
"""A column in which pandas keeps the row names."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """An open table.

    Attributes
    ----------
    columns : list of str or None
        The names of the columns; None in a file without a line of names. The name of a column that
        only numbers the rows is empty.
    n_columns : int
    pieces : iterator of DataFrame
        Some rows each, with columns that are numbered from 0 on.
    """

    columns: list[str] | None
    n_columns: int
    pieces: "Iterator[DataFrame]"

    @property
    def names(self) -> list[str]:
        """The names of the columns, else their numbers."""
        return self.columns or [str(column) for column in range(self.n_columns)]


@contextmanager
def open_table(path: Path, texts: Chooser, cells: int | None = None) -> Iterator[TableFile]:
    """Open a table; the ending of its name says what it is.

    Parameters
    ----------
    path : Path
    texts : callable
        Chooses the columns whose cells stay text in a CSV file: that of the labels, for example.
    cells : int, optional
        About as many are read at a time; by default four million.

    Raises
    ------
    DatasetError
        The file cannot be read, is damaged or too large; or a library is missing. Also for what is
        read inside the ``with`` block.
    """
    try:
        import pandas  # not at the top: optional, and slow to load
    except ImportError as error:
        msg = f"{path}: tables need pandas: pip install 'varpro-nn[tables]' ({error})"
        raise DatasetError(msg) from error
    opened = _parquet if path.name.lower().endswith(".parquet") else _text
    try:
        # pandas and pyarrow raise whatever they do on damaged files.
        with warnings.catch_warnings():
            # A row that is longer than the first would be cut off.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            with opened(path, texts, cells or _CELLS) as table:
                yield table
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        msg = f"{path}: cannot be read as a table: {' '.join(str(reason).split())}"
        raise DatasetError(msg) from error


@contextmanager
def _text(path: Path, texts: Chooser, cells: int) -> Iterator[TableFile]:
    import pandas

    with open_packed(path) as stream:
        first = _decoded(path, stream).readline(_LONGEST_LINE)
    if not first.strip() or len(first) == _LONGEST_LINE:
        msg = (
            f"{path}: must begin with the names of columns or with numbers, in up to "
            f"{_LONGEST_LINE} characters, got {len(first)} characters."
        )
        raise DatasetError(msg)
    separator = max(_SEPARATORS, key=first.count)
    (fields,) = csv.reader([first.strip("\r\n")], delimiter=separator, skipinitialspace=True)
    has_names, n = _are_names(fields), len(fields)
    columns = [field.strip() for field in fields] if has_names else None
    with open_packed(path) as stream:
        reader = pandas.read_csv(
            _decoded(path, stream), sep=separator, header=None, names=range(n), index_col=False,
            skiprows=int(has_names), skipinitialspace=True,
            dtype=dict.fromkeys(texts(columns, n), str),
            # "NA" and "None" may be labels.
            keep_default_na=False, na_values=[""], chunksize=max(1, cells // n),
        )  # fmt: skip
        with reader:
            yield TableFile(columns, n, reader)


def _decoded(path: Path, stream: Readable) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedReader(_Limited(path, stream)), encoding="utf-8-sig", newline=""
    )


def _are_names(fields: list[str]) -> bool:
    """Tell the names of columns from a first row: at most its label and a file name are text.

    Names may be numbers that count from 0 or 1.
    """
    if any(map(is_picture_name, fields)):
        return False
    numbers = [field for field in fields if is_number(field)]
    counted = any(numbers == [str(start + i) for i in range(len(numbers))] for start in (0, 1))
    texts = sum(bool(field.strip()) for field in fields) - len(numbers)
    return counted or texts > 1


def is_picture_name(cell: Any) -> bool:
    """Whether a cell of a table is text that ends like the name of a picture."""
    return isinstance(cell, str) and _PICTURE.search(cell.strip()) is not None


def is_number(cell: Any) -> bool:
    """Whether a cell of a table is a number, maybe as text."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


class _Limited(io.RawIOBase):
    """A stream that ends in an error after so many bytes; unpacked, it may have no end."""

    def __init__(self, path: Path, stream: Readable):
        self._path, self._stream, self._left = path, stream, _MOST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        piece = self._stream.read(len(buffer))
        self._left -= len(piece)
        if self._left < 0:
            msg = f"{self._path}: must have at most {_MOST_BYTES} bytes of text, got more."
            raise DatasetError(msg)
        buffer[: len(piece)] = piece
        return len(piece)


@contextmanager
def _parquet(path: Path, texts: Chooser, cells: int) -> Iterator[TableFile]:
    try:
        from pyarrow import parquet  # not at the top: optional, and slow to load
    except ImportError as error:
        msg = f"{path}: Parquet files need pyarrow: pip install 'varpro-nn[tables]' ({error})"
        raise DatasetError(msg) from error

    with open_regular(path) as stream, parquet.ParquetFile(stream) as file:
        names = ["" if _INDEX.fullmatch(name) else name for name in file.schema_arrow.names]
        n, rows = len(names), file.metadata.num_rows
        if n * rows > _MOST_CELLS:
            msg = f"{path}: must have at most {_MOST_CELLS} cells, got {rows} rows of {n}."
            raise DatasetError(msg)
        batches = file.iter_batches(batch_size=max(1, cells // max(n, 1)))
        # The metadata of pandas would make an index of some columns.
        frames = (batch.to_pandas(ignore_metadata=True) for batch in batches)
        yield TableFile(names, n, (frame.set_axis(range(n), axis=1) for frame in frames))
