"""Data sets like those of users, and their splits: what ``experiments.field.own_data`` measures.

A set is a file or folder that :func:`varpro_nn.load` reads, ``digits``, or a small part of a public
set. Parts are stratified and chosen by the seed. Their names, such as ``mnist-1000``, hide from
recipes which set they come from, so they get the settings that unknown images get.

If a set has test images, these measure. Otherwise the seed chooses a stratified quarter of the
images, of ``yaleb`` half, to hold out. Validation images join the training images.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from varpro_nn import Dataset, load

PARTS = {
    f"{name}-{n}": (name, n) for name in ("mnist", "fashion-mnist", "cifar10") for n in (1000, 5000)
}
"""Public sets and how many of their training images are taken."""
PUBLIC = ("digits", *PARTS)
HELD_OUT = {"yaleb": 1 / 2}
"""Shares of test images other than a quarter."""
QUICK_TEST = 2000


def sources(folder: Path | None) -> dict[str, str]:
    """Name the sets: what :func:`varpro_nn.load` takes for each.

    Raises
    ------
    ValueError
        Two sets have the same name.
    """
    found = {name: PARTS[name][0] if name in PARTS else name for name in PUBLIC}
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if path.name.startswith("."):
            continue
        name = path.name if path.is_dir() else path.name.split(".")[0]
        if name in found:
            msg = f"two data sets are named {name}: rename {path}."
            raise ValueError(msg)
        found[name] = os.fspath(path)
    return found


def split(whole: Dataset, name: str, seed: int, *, n_test: int | None = None) -> Dataset:
    """Make the training and test images of a set.

    Parameters
    ----------
    whole : Dataset
        As it was loaded.
    name : str
        A key of :func:`sources`.
    seed : int
        Chooses the images of a part, and those held out.
    n_test : int, optional
        Take only the first ``n_test`` images of a test set of the data.

    Returns
    -------
    Dataset
        With test images and without validation images.
    """
    if whole.validation is not None:
        whole = whole.merged()
    if name in PARTS:
        part = whole.hold_out(PARTS[name][1] / len(whole.train), seed).validation
        assert part is not None  # held out above
        whole = replace(whole, train=part)
    if whole.test is None:
        whole = whole.hold_out(HELD_OUT.get(name, 1 / 4), seed)
        return replace(whole, name=name, test=whole.validation, validation=None, held=None)
    return replace(whole, name=name, test=whole.test.take(slice(n_test)))


def load_split(
    source: str, name: str, seed: int, *, data_dir: str | None = None, n_test: int | None = None
) -> Dataset:
    """Load a set and split it."""
    whole = load(source, data_dir, progress=False, n_jobs=1)
    return split(whole, name, seed, n_test=n_test)


def chosen_sets(found: dict[str, str], only: Sequence[str] | None) -> dict[str, str]:
    """Leave out what ``only`` does not name.

    Raises
    ------
    ValueError
        A name that is not there.
    """
    if unknown := sorted(set(only or []) - set(found)):
        msg = f"no {', '.join(unknown)} among {', '.join(found)}"
        raise ValueError(msg)
    return {name: source for name, source in found.items() if not only or name in only}
