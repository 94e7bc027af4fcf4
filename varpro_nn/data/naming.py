"""What the names of arrays and files say: images or labels, and of which part of a data set.

A name is split into words: ``X_train``, ``train_images``, ``XTrain`` and ``xtrain`` are the images
of the training set. Words that say neither stay with the name: ``emnist-letters-train-images`` goes
with ``emnist-letters-train-labels`` only.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from varpro_nn.data.labelled import listed

LABEL_WORDS = frozenset(
    ("y", "label", "labels", "class", "classes", "target", "targets", "gnd", "idx1")
)
"""Words for labels; ``gnd`` (ground truth) is one of older ``.mat`` files."""
IMAGE_WORDS = frozenset(
    ("x", "image", "images", "img", "imgs", "data", "pixels", "fea", "idx3", "idx4")
)
"""Words for images; ``fea`` (features) goes with ``gnd``."""
_SUBSETS = {
    "train": ("train", "training", "tr"),
    "test": ("test", "testing", "te", "t10k"),
    "validation": ("val", "valid", "validation", "dev"),
}
_SUBSET_OF = {word: subset for subset, words in _SUBSETS.items() for word in words}
_SILENT = frozenset(("idx", "idx2", "ubyte", "npy", "gz"))
_WORD = re.compile(r"t10k|(?i:idx)\d?|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\x00-\x7f]+")
_NAMES = {"x": "images", "y": "labels"}
_CALLED = {"train": "training", "test": "test", "validation": "validation"}
_MOST_LISTED = 20

_Key: TypeAlias = tuple[str, tuple[str, ...]]
"""Subset and other words of a name."""
_Group: TypeAlias = Mapping[str, list[str]]
"""The names of images ("x") and of labels ("y") with the same key."""


class Meaning(NamedTuple):
    """What a name says.

    Attributes
    ----------
    role : {"x", "y", ""}
        Images, labels, or neither.
    subset : {"train", "test", "validation", ""}
    rest : tuple of str
        The other words.
    """

    role: str
    subset: str
    rest: tuple[str, ...]


def subset_of(word: str) -> str:
    """Say which subset a word means, "train", "test" or "validation"; "" if none."""
    return _SUBSET_OF.get(word.strip().lower(), "")


def meaning(name: str) -> Meaning:
    """Read a name; upper and lower case are the same."""
    words = [part for word in _WORD.findall(name) for part in _unglued(word.lower())]
    # "image_labels" are labels.
    role = next(
        (r for r, known in (("y", LABEL_WORDS), ("x", IMAGE_WORDS)) if known & {*words}), ""
    )
    subset = next((_SUBSET_OF[word] for word in words if word in _SUBSET_OF), "")
    known = LABEL_WORDS | IMAGE_WORDS | _SILENT | _SUBSET_OF.keys()
    return Meaning(role, subset, tuple(word for word in words if word not in known))


def _unglued(word: str) -> tuple[str, ...]:
    """Split ``xtrain`` and ``trainx``."""
    for first, rest in ((word[:1], word[1:]), (word[-1:], word[:-1])):
        if first in ("x", "y") and rest in _SUBSET_OF:
            return first, rest
    return (word,)


def choose(names: Iterable[str], rank: Callable[[str], int] = lambda name: 0) -> dict[str, str]:
    """Choose the names of images and labels, for training, test and validation.

    Without a training set, a pair whose names say no part is it; and if there is only one pair,
    that one.

    Parameters
    ----------
    rank : callable
        Of several names that say the same, the one of lowest rank is chosen.

    Returns
    -------
    dict of str
        The names of ``x_train`` and ``y_train``; and the same of ``test`` and ``validation``, if
        there are such sets.

    Raises
    ------
    ValueError
        No pair; images without labels, or the reverse; several sets of one kind.
    """
    names = list(names)
    groups: dict[_Key, dict[str, list[str]]] = {}
    for name in names:
        role, subset, rest = meaning(name)
        if role:
            groups.setdefault((subset, rest), {"x": [], "y": []})[role].append(name)
    pairs = {key: group for key, group in groups.items() if group["x"] and group["y"]}
    alone = {key: group for key, group in groups.items() if key not in pairs}
    training = [key for key in pairs if key[0] == "train"]
    if not training:
        _check_none(alone, [key for key in alone if key[0] == "train"], names)
        training = [key for key in pairs if not key[0]] or list(pairs)
    if not training:
        msg = (
            "needs images and labels with names such as x_train and y_train, train_images and "
            f"train_labels, or images and labels; got {listed(names, _MOST_LISTED)}."
        )
        raise ValueError(msg)
    key = _only(training, pairs, "train")
    chosen = _pair_of(pairs[key], "train", rank)
    for subset in ("test", "validation"):
        _check_none(alone, [(subset, key[1])], names)
        others = [other for other in pairs if other[0] == subset and other != key]
        # The set of the same name, or the only one.
        others = [other for other in others if other[1] == key[1]] or others
        if others:
            chosen |= _pair_of(pairs[_only(others, pairs, subset)], subset, rank)
    return chosen


def _check_none(alone: Mapping[_Key, _Group], keys: Iterable[_Key], names: list[str]) -> None:
    """Refuse images without labels, and labels without images."""
    for key in keys:
        if key in alone:
            role, other = ("x", "y") if alone[key]["x"] else ("y", "x")
            msg = (
                f"{alone[key][role][0]} seems to be the {_NAMES[role]} of the "
                f"{_CALLED[key[0]]} set, and has no {_NAMES[other]} beside it, "
                f"got {listed(names, _MOST_LISTED)}."
            )
            raise ValueError(msg)


def _only(keys: list[_Key], pairs: Mapping[_Key, _Group], subset: str) -> _Key:
    if len(keys) > 1:
        found = "; ".join(f"{pairs[key]['x'][0]} with {pairs[key]['y'][0]}" for key in keys)
        msg = f"must have one {_CALLED[subset]} set, got {len(keys)}: {found}; keep one of them."
        raise ValueError(msg)
    return keys[0]


def _pair_of(group: _Group, subset: str, rank: Callable[[str], int]) -> dict[str, str]:
    chosen = {}
    for role, candidates in group.items():
        lowest = min(map(rank, candidates))
        best = [name for name in candidates if rank(name) == lowest]
        if len(best) > 1:
            msg = (
                f"must have one name for the {_NAMES[role]} of the {_CALLED[subset]} set, got "
                f"{listed(best, _MOST_LISTED)}; keep one of them."
            )
            raise ValueError(msg)
        chosen[f"{role}_{subset}"] = best[0]
    return chosen
