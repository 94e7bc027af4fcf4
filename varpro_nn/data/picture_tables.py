"""Data sets in tables that have a column of picture files: a row is a picture with its label.

::

    filename,label,split            image_path,breed
    images/1.jpg,cat,train          a.png,beagle
    images/2.jpg,dog,test           b.png,poodle

File names count from the folder of the table. A column named ``split``, ``set``, ``subset`` or
``fold`` may say which pictures are for training, testing and validation.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._warn import warn_user
from varpro_nn.data.labelled import listed
from varpro_nn.data.naming import LABEL_WORDS, subset_of
from varpro_nn.data.picture_set import LabelledPictures
from varpro_nn.data.reading import AS_IT_IS, Reading
from varpro_nn.data.table_files import is_number, is_picture_name, open_table
from varpro_nn.data.tables import (
    ANOTHER_COLUMN,
    check_there,
    label_position,
    numbering,
    typed_labels,
)
from varpro_nn.errors import DatasetError

_FILES = frozenset(
    (
        *("file", "files", "filename", "filenames", "file_name", "filepath", "file_path"),
        *("path", "paths", "image", "images", "image_path", "image_file", "image_name"),
        *("img", "img_path", "img_name", "picture", "photo"),
    )
)
"""Names of columns of picture files."""
_SPLITS = frozenset(("split", "set", "subset", "fold"))
"""Names of columns that say which part of a data set a row belongs to."""
_PEEK = 1 << 14
"""Cells at the beginning of a table that tell what its columns are."""
_MOST_NAMED = 3


def pictures_in_tables(
    files: Mapping[str, Path], reading: Reading = AS_IT_IS
) -> dict[str, LabelledPictures] | None:
    """Find the pictures that tables name.

    The file names are in the column of text that ends like pictures, else in that with a name such
    as ``filename`` or ``image_path``. The labels are in ``reading.label_column``, else in the
    column named ``label``, ``class``, ``target`` or ``y``, else in the only other column.

    Parameters
    ----------
    files : mapping of str to Path
        The table of "train", and that of "test" if there is one.
    reading : Reading
        ``follow_links``: also those outside the folder of the table.

    Returns
    -------
    dict of LabelledPictures, or None
        Of "train", and of "test" and "validation" if there are any, in the order of the rows. None:
        the tables have no column of file names.

    Raises
    ------
    DatasetError
        Several columns may have the file names or the labels; missing values; files that are
        missing, or outside the folder of the table; a split without training pictures.

    Warns
    -----
    UserWarning
        Columns were not used.
    """
    if "train" not in files or not _has_file_names(files["train"], reading.label_column):
        return None
    found: dict[str, LabelledPictures] = {}
    for subset, path in files.items():
        if not _has_file_names(path, reading.label_column):
            msg = f"{path}: must have a column of file names like {files['train'].name}, got none."
            raise DatasetError(msg)
        found |= _read(path, reading, None if subset == "train" else subset)
    return found


def _has_file_names(path: Path, label_column: str | int | None) -> bool:
    with open_table(path, lambda _, n: range(n), _PEEK) as table:
        frame = next(iter(table.pieces), None)
        return frame is not None and _file_column(path, table.columns, frame, label_column) >= 0


def _read(path: Path, reading: Reading, subset: str | None) -> dict[str, LabelledPictures]:
    """Read a table; all of it is ``subset``, unless that is None."""
    names: list[str] = []
    labels: list[NDArray[Any]] = []
    splits: list[NDArray[Any]] = []
    n_rows = 0
    file = label = split = -1
    with open_table(path, lambda _, n: range(n)) as table:
        columns = table.names
        for frame in table.pieces:
            if not len(frame):
                continue
            if file < 0:
                file = _file_column(path, table.columns, frame, reading.label_column)
                split = _split_column(path, columns, frame, file)
                label = _label_column(path, table.columns, columns, reading, file, split)
            used = [file, label] + ([split] if split >= 0 else [])
            check_there(path, frame, used, columns, n_rows)
            names += frame[file].tolist()
            labels.append(frame[label].to_numpy(dtype=object))
            if split >= 0:
                splits.append(frame[split].to_numpy(dtype=object))
            n_rows += len(frame)
    unused = sorted(set(range(len(columns))) - {file, label, split, numbering(table.columns)})
    if unused:
        warn_user(f"{path}: ignored columns {listed(repr(columns[each]) for each in unused)}.")
    paths = _paths(path, names, follow_links=reading.follow_links)
    typed = typed_labels(path, np.concatenate(labels))
    if subset is not None or not splits:
        return {subset or "train": LabelledPictures(paths, typed)}
    return _divided(path, columns[split], paths, typed, np.concatenate(splits))


# --- which column is what ------------------------------------------------------------------------


def _file_column(
    path: Path, columns: list[str] | None, frame: Any, label_column: str | int | None
) -> int:
    """Find the column of file names; -1 if there is none."""
    n = frame.shape[1]
    given = -1 if label_column is None else label_position(path, columns, n, label_column)
    texts = {column: frame[column].dropna().tolist() for column in range(n) if column != given}
    texts = {
        column: cells for column, cells in texts.items()
        if cells and all(isinstance(cell, str) for cell in cells)
    }  # fmt: skip
    pictures = [column for column, cells in texts.items() if all(map(is_picture_name, cells))]
    named = [
        column for column, cells in texts.items()
        if columns and columns[column].lower() in _FILES and not any(map(is_number, cells))
    ]  # fmt: skip
    candidates = [column for column in pictures if column in named] or pictures or named
    if len(candidates) > 1:
        some = listed(columns[column] if columns else column for column in candidates)
        msg = f"{path}: must have one column of file names, got {some}; leave the others out."
        raise DatasetError(msg)
    return candidates[0] if candidates else -1


def _split_column(path: Path, columns: list[str], frame: Any, file: int) -> int:
    """Find the column that divides the data; -1 if there is none."""
    found = [
        column for column, name in enumerate(columns)
        if column != file and name.lower() in _SPLITS
        and any(subset_of(str(cell)) for cell in frame[column].dropna())
    ]  # fmt: skip
    if len(found) > 1:
        msg = (
            f"{path}: must have one column that divides the data, got "
            f"{listed(columns[column] for column in found)}; keep one."
        )
        raise DatasetError(msg)
    return found[0] if found else -1


def _label_column(
    path: Path, named: list[str] | None, columns: list[str], reading: Reading, file: int, split: int
) -> int:
    known = any(name.lower() in LABEL_WORDS for name in named or ())
    others = set(range(len(columns))) - {file, split, numbering(named)}
    if reading.label_column is not None or known:
        label = label_position(path, named, len(columns), reading.label_column)
        if label in others:
            return label
    elif len(others) == 1:
        return others.pop()
    found = listed(columns[each] for each in sorted(others))
    msg = (
        f"{path}: must have a column of labels beside that of file names, {columns[file]!r}, named "
        f"label or class, got {found}; {ANOTHER_COLUMN}."
    )
    raise DatasetError(msg)


# --- which files ---------------------------------------------------------------------------------


def _paths(table: Path, names: Sequence[str], *, follow_links: bool) -> list[str]:
    """Find the files; refuse those that are missing, or outside the folder of the table."""
    folder = str(table.parent)
    home = os.path.join(os.path.realpath(folder), "")
    paths = [os.path.join(folder, name.strip()) for name in names]
    missing = [row for row, path in enumerate(paths) if not os.path.isfile(path)]
    if missing:
        msg = (
            f"{table}: {len(missing):,} of {len(paths):,} files are missing: "
            f"{_few(names, missing)}; names must count from {folder}."
        )
        raise DatasetError(msg)
    if not follow_links:
        outside = [
            row for row, path in enumerate(paths) if not os.path.realpath(path).startswith(home)
        ]
        if outside:
            msg = (
                f"{table}: {len(outside):,} of {len(paths):,} files are outside {folder}: "
                f"{_few(names, outside)}; to read them, add --follow-links (in Python, "
                "follow_links=True)."
            )
            raise DatasetError(msg)
    return paths


def _few(names: Sequence[str], rows: Sequence[int]) -> str:
    some = ", ".join(f"{names[row]} in row {row + 1}" for row in rows[:_MOST_NAMED])
    return some if len(rows) <= _MOST_NAMED else f"{some}, ..."


def _divided(
    table: Path, column: str, paths: Sequence[str], labels: NDArray[Any], splits: NDArray[Any]
) -> dict[str, LabelledPictures]:
    """Divide pictures by what the column says."""
    meant = {word: subset_of(str(word)) for word in set(splits.tolist())}
    unknown = sorted(str(word) for word, subset in meant.items() if not subset)
    if unknown or "train" not in meant.values():
        got = listed(map(repr, unknown or sorted(map(str, meant))))
        msg = f"{table}: column {column!r} must say train, test or valid (train once), got {got}."
        raise DatasetError(msg)
    subsets = np.array([meant[word] for word in splits])
    found = {}
    for subset in ("train", "test", "validation"):
        at = np.flatnonzero(subsets == subset).tolist()
        if at:
            found[subset] = LabelledPictures([paths[i] for i in at], labels[at])
    return found
