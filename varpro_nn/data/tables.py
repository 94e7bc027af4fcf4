"""Data sets in tables: a row is an image, one column has the labels, all others are pixels.

:mod:`varpro_nn.data.picture_tables` reads tables of picture files.

The names of the columns are in the first line, or nowhere: then all of it is numbers, but for a
label. A first column without a name numbers the rows, and is left out.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn.data.imageset import Dataset
from varpro_nn.data.labelled import dataset_of, listed
from varpro_nn.data.layout import Layout
from varpro_nn.data.naming import LABEL_WORDS, meaning
from varpro_nn.data.pixel_values import typed_pixels
from varpro_nn.data.reading import AS_IT_IS, Reading
from varpro_nn.data.table_files import (
    TABLE_ENDINGS,
    TableFile,
    is_number,
    is_picture_name,
    open_table,
)
from varpro_nn.errors import DatasetError

_WHOLE = re.compile(r"[+-]?\d{1,18}")
ANOTHER_COLUMN = "label_column (--label-column) chooses another"


def read_dataset_table(path: Path, reading: Reading = AS_IT_IS) -> Dataset:
    """Read a training set from a table.

    The column of the labels is ``reading.label_column``, else that named ``label``, ``labels``,
    ``class``, ``target`` or ``y`` (in upper or lower case), else the first. Pixels are the other
    columns in their order; :meth:`~varpro_nn.data.layout.Layout.of_pixels` says how many there may
    be, and :func:`~varpro_nn.data.pixel_values.typed_pixels` tells bytes from intensities.

    Raises
    ------
    DatasetError
        The file is damaged or too large; pandas is missing; no such column, or several columns of
        labels; missing values; pixels that are text; or what
        :func:`~varpro_nn.data.labelled.dataset_of` refuses.
    """
    return _dataset_of_tables(str(path), {"train": path}, reading)


def read_dataset_tables(folder: Path, files: dict[str, Path], reading: Reading) -> Dataset:
    """Read a training set and a test set, ``files["train"]`` and ``files["test"]``.

    The test set is in the same columns. It may be missing.

    Raises
    ------
    DatasetError
        As for :func:`read_dataset_table`; or other columns in the test set.
    """
    return _dataset_of_tables(str(folder), files, reading)


def read_table_images(path: Path, image_shape: Sequence[int]) -> NDArray[Any]:
    """Read the images of a table, to be classified; it may have a column of labels, left out.

    If the table has one column more than an image has pixels, it is left out if its name is that
    of labels, or ``id``. Any other column is refused, because the pixels might be shifted.

    Parameters
    ----------
    path : Path
    image_shape : sequence of int
        (rows, columns) or (channels, rows, columns), with one channel or three.

    Returns
    -------
    ndarray, shape (n, rows, columns) or (n, 3, rows, columns)
        In the order of :class:`~varpro_nn.data.layout.Layout`.

    Raises
    ------
    DatasetError
        As for :func:`read_dataset_table`; another number of columns, or a column that may be
        pixels or labels.
    """
    with open_table(path, lambda columns, n: []) as table:
        kept = _pixel_columns(path, table, math.prod(image_shape))
        pixels, _ = _read_pieces(path, table, table.names, kept, None)
    try:
        (rows,) = typed_pixels({"the pixels": pixels}).values()
        n_rows, n_columns = image_shape[-2:]
        if len(image_shape) == 2 or image_shape[0] == 1:
            return rows.reshape(len(rows), n_rows, n_columns)
        return Layout.of_pixels(rows, "the pixels", (n_rows, n_columns)).images(rows)
    except ValueError as error:
        msg = f"{path}: {error}"
        raise DatasetError(msg) from error


def _pixel_columns(path: Path, table: TableFile, n_pixels: int) -> list[int]:
    """Find the columns of pixels, in a table that may have a column of labels beside them."""
    columns = [c for c in range(table.n_columns) if c != numbering(table.columns)]
    known = [c for c in columns if table.names[c].lower() in (*LABEL_WORDS, "id")]
    if len(columns) == n_pixels + 1 and len(known) == 1:
        columns.remove(known[0])
    if len(columns) != n_pixels:
        msg = (
            f"{path}: must have a column for each of {n_pixels} pixels, and at most one more, "
            f"named label or id in the first line, got {len(columns)} columns."
        )
        raise DatasetError(msg)
    return columns


def tables_in(folder: Path, entries: Sequence[Path]) -> dict[str, Path]:
    """Find the tables of the training set and of the test set by their names.

    ``train.csv`` goes with ``test.csv``, ``mnist_train.csv`` with ``mnist_test.csv``.

    Returns
    -------
    dict of Path
        ``"train"`` and ``"test"``, or nothing.

    Raises
    ------
    DatasetError
        Several of the same set.
    """
    tables = [path for path in entries if path.name.lower().endswith(TABLE_ENDINGS)]
    meanings = {path: meaning(path.name.split(".")[0]) for path in tables}
    found: dict[str, Path] = {}
    for subset in ("train", "test"):
        some = [path for path in tables if meanings[path].subset == subset]
        if subset == "test" and found:
            rest = meanings[found["train"]].rest
            some = [path for path in some if meanings[path].rest == rest] or some
        if len(some) > 1:
            names = listed(path.name for path in some)
            msg = f"{folder}: must have one table of the {subset} set, got {names}; keep one."
            raise DatasetError(msg)
        if some and (found or subset == "train"):
            found[subset] = some[0]
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """A table that has been read.

    Attributes
    ----------
    label : str or int
        The column of the labels: its name, or its number if there are no names.
    columns : list of str or None
        The names of the pixels.
    """

    label: str | int
    columns: list[str] | None
    labels: NDArray[Any]
    pixels: NDArray[Any]


def _dataset_of_tables(where: str, files: dict[str, Path], reading: Reading) -> Dataset:
    train = _read(files["train"], reading.label_column)
    tables = {"train": train}
    names = {"x_train": "the pixels", "y_train": f"the labels in column {train.label!r}"}
    if reading.label_column is None:
        names["y_train"] += f" ({ANOTHER_COLUMN})"
    if "test" in files:
        test = tables["test"] = _read(files["test"], train.label)
        _check_columns(files, train, test)
        its = files["test"].name
        names |= {"x_test": f"the pixels of {its}", "y_test": f"the labels of {its}"}
    pixels = {names[f"x_{subset}"]: table.pixels for subset, table in tables.items()}
    try:
        typed = typed_pixels(pixels)
    except ValueError as error:
        msg = f"{where}: {error}"
        raise DatasetError(msg) from error
    arrays: dict[str, Any] = {}
    for subset, table in tables.items():
        arrays |= {f"x_{subset}": typed[names[f"x_{subset}"]], f"y_{subset}": table.labels}
    return dataset_of(where, arrays, names=names, image_size=reading.image_size)


def _check_columns(files: dict[str, Path], train: _Table, test: _Table) -> None:
    if train.columns is None or test.columns is None or train.columns == test.columns:
        return
    pairs = zip(train.columns, test.columns, strict=False)
    differing = next((f"{b!r} in place of {a!r}" for a, b in pairs if a != b), None)
    found = differing or f"{len(test.columns)} columns of pixels, not {len(train.columns)}"
    msg = f"{files['test']}: must have the columns of {files['train'].name}, got {found}."
    raise DatasetError(msg)


def _read(path: Path, label_column: str | int | None) -> _Table:
    def position(columns: list[str] | None, n: int) -> int:
        return label_position(path, columns, n, label_column)

    with open_table(path, lambda columns, n: [position(columns, n)]) as table:
        label = position(table.columns, table.n_columns)
        names = table.names
        left_out = {label, numbering(table.columns)}
        kept = [column for column in range(table.n_columns) if column not in left_out]
        pixels, labels = _read_pieces(path, table, names, kept, label)
    return _Table(
        names[label] if table.columns else label,
        [names[column] for column in kept] if table.columns else None,
        typed_labels(path, labels),
        pixels,
    )


def _read_pieces(
    path: Path, table: TableFile, names: list[str], kept: list[int], label: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the pixels in the columns ``kept``, and the labels, if they have a column."""
    labels: list[NDArray[Any]] = []
    pixels: list[NDArray[Any]] = []
    of_labels = [] if label is None else [label]
    n_rows = 0
    for frame in table.pieces:
        if not len(frame):
            continue
        check_there(path, frame, [*of_labels, *kept], names, n_rows)
        labels += [frame[column].to_numpy(dtype=object) for column in of_labels]
        named = None if label is None else names[label]
        pixels.append(_numbers(path, frame[kept], names, n_rows, named))
        n_rows += len(frame)
    if not n_rows:
        msg = f"{path}: must have a row for each image, got none."
        raise DatasetError(msg)
    return np.concatenate(pixels), np.concatenate(labels or [np.empty(0, object)])


def numbering(columns: list[str] | None) -> int:
    """Find the column that only numbers the rows; -1 if there is none."""
    nameless = [
        number for number, name in enumerate(columns or ())
        if not name or name.startswith("Unnamed: ")
    ]  # fmt: skip
    return nameless[0] if len(nameless) == 1 else -1


def label_position(
    path: Path, columns: list[str] | None, n: int, label_column: str | int | None
) -> int:
    """Find the column of the labels."""
    if label_column is None:
        known = [number for number, name in enumerate(columns or ()) if name.lower() in LABEL_WORDS]
        if len(known) > 1:
            some = listed(columns[number] for number in known) if columns else ""
            msg = f"{path}: must have one column of labels, got {some}; {ANOTHER_COLUMN}."
            raise DatasetError(msg)
        return known[0] if known else int(numbering(columns) == 0)
    if isinstance(label_column, str):
        for same in (str, str.lower):
            wanted = same(label_column)
            some_named = [i for i, name in enumerate(columns or ()) if same(name) == wanted]
            if len(some_named) == 1:
                return some_named[0]
    try:
        number = int(label_column)
    except ValueError:
        number = n
    if not -n <= number < n:
        found = listed(columns) if columns else f"{n} columns without names"
        msg = f"{path}: must have a column {label_column!r} (label_column), got {found}."
        raise DatasetError(msg)
    return number % n


def check_there(
    path: Path, frame: Any, columns: Sequence[int], names: list[str], start: int
) -> None:
    """Refuse missing values."""
    missing = frame[columns].isna().to_numpy()
    if missing.any():
        row, column = np.argwhere(missing)[0]
        msg = (
            f"{path}: must have no missing values, got one in row {start + row + 1} of column "
            f"{names[columns[column]]!r}; fill it in, or leave the row out."
        )
        raise DatasetError(msg)


def _numbers(
    path: Path, frame: Any, names: list[str], start: int, label: str | None
) -> NDArray[Any]:
    """Make ``uint8`` of whole numbers from 0 to 255, and ``float32`` of other numbers."""
    kinds = [getattr(dtype, "kind", "O") for dtype in frame.dtypes]
    for column, kind in zip(frame.columns, kinds, strict=True):
        if kind not in "biuf":
            raise _no_number(path, frame[column], names[column], start, label)
    values = frame.to_numpy(dtype=np.float64)
    are_bytes = (values >= 0) & (values <= 255) & (values == np.rint(values))
    if are_bytes.all():
        return values.astype(np.uint8)
    with np.errstate(over="ignore"):  # infinity is refused with the images
        return values.astype(np.float32)


def _no_number(path: Path, column: Any, name: str, start: int, label: str | None) -> DatasetError:
    """Say which cell of a column of pixels is no number."""
    cells = column.tolist()
    row, cell = next(
        ((row, cell) for row, cell in enumerate(cells) if not is_number(cell)), (0, cells[0])
    )
    if isinstance(cell, str):
        remedy = f"the labels are in column {label!r}; {ANOTHER_COLUMN}"
        if label is None:
            remedy = "give pictures themselves, or their folder, in place of a table of them"
        elif is_picture_name(cell):
            remedy = "a column of file names must have one in each row, and nothing else"
        found = repr(cell if len(cell) <= 40 else f"{cell[:40]}...")
    else:
        found = type(cell).__name__
        remedy = (
            "load a table of pictures with the library datasets, and give load() the object that "
            "it returns"
        )
    msg = (
        f"{path}: pixels must be numbers, got {found} in row {start + row + 1} of column {name!r}; "
        f"{remedy}."
    )
    return DatasetError(msg)


def typed_labels(path: Path, labels: NDArray[Any]) -> NDArray[Any]:
    """Make numbers of labels that are text, if all are numbers."""
    strange = next((label for label in labels if not isinstance(label, str | float | int)), None)
    if strange is not None:
        got = type(strange).__name__
        msg = f"{path}: labels must be numbers or text, got {got}; {ANOTHER_COLUMN}."
        raise DatasetError(msg)
    if not all(isinstance(label, str) for label in labels):
        return np.array(labels.tolist())
    known = set(labels)
    if all(map(_WHOLE.fullmatch, known)):
        whole = {text: int(text) for text in known}
        return np.array([whole[text] for text in labels], dtype=np.int64)
    return labels.astype(np.float64) if all(map(is_number, known)) else labels
