"""The recipe ``auto``: a contest of complete recipes on training images alone.

No recipe suits all pictures. Units on whole images are best where objects have one place and size
(faces, say), windows elsewhere; mirror images and distorted copies help some data and harm others.
So a few different candidates are trained quickly, on part of the training images, with a quarter
of their units and part of their evaluations, and measured on other training images:

1. *kinds of units*: whole images; windows, and windows of another size (of colour images, windows
   that are whitened and some that are not); whitened windows with few and with many cells;
2. *the two best kinds*, with twice as many images, each with and without distorted copies, which
   may change which kind is best;
3. *one change* of the best one: mirror images, shifts alone, another output layer;
4. *all changes that helped*, together, if there are several.

Each round draws its images anew, so a candidate gains little from having been lucky before. With
more than 9,000 training images, more of them measure; with more than 18,000, rounds 3 and 4 train
on more. In the third round, a change must be better by more than ``MARGIN`` standard errors of the
difference, measured on the same images. All candidates have the ridge layer, which is quick, unless
the output layer is given or is the change. In the first round, whitened windows are not trained.
The winner is then trained in full, on all images. The contest depends on the data and the seed
alone: neither on the number of jobs nor on how fast the machine is.
"""

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray, IndexArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.augmentation import Augmentation
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.contest_results import Contest, Entry
from varpro_nn.training.layers import train_classifier
from varpro_nn.training.metrics import ByClass, accuracy, standard_error
from varpro_nn.training.plan import make_units, units_in_training
from varpro_nn.training.recipes import RECIPES, configure, current_names, kind_of_data
from varpro_nn.training.resources import Clock
from varpro_nn.training.subnetworks import MemoryStore

N_IMAGES = {1: 1500, 2: 3000, 3: 3000, 4: 3000}
"""Training images of a candidate, by round; fewer if there are not so many."""
MOST_IMAGES = {1: 1500, 2: 3000, 3: 10_000, 4: 10_000}
"""The most of them: with many training images, a round has ``PART`` of all, within these bounds.

What another layer or a distortion gains grows with the number of images.
"""
PART = 1 / 6
OF_CLASS = 4
"""Least mean number of training images per class, if there are enough."""
SHARE = 1 / 4
"""Share of its units that a candidate has."""
EVALUATIONS = 0.4
"""Share of its evaluations in training: the first ones gain most."""
HELD = 1 / 3
"""Share of the images of a round that measure."""
MOST_HELD, PART_HELD = 10_000, 1 / 12
"""With many training images, ``PART_HELD`` of them measure, at most ``MOST_HELD``.

Measuring takes little time, and many images are needed to see a gain of half a point.
"""
MARGIN = 1.5
"""Standard errors of the difference by which a change must be better.

With a smaller margin, the changes that are taken do more harm than good on other images.
"""
MOST_FOR_HINGE = 100
"""Classes up to which the hinge layer is tried.

With 1,000 classes, almost all images violate a margin of some output, and its trial took longer
than the rest of the contest (``experiments.field.auto_limits``).
"""
AUTO = "auto"
"""The name of the recipe."""

_logger = logging.getLogger(__name__)

_KINDS = fields(Augmentation)
_NAMED = ("flip", "shift", "output_layer")
"""Settings after which a change is named."""
_PLAIN: dict[str, Any] = {
    "shift": 0, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0, "flip": False,
    "views": "single", "n_copies": 0,
}  # fmt: skip
_RIDGE: dict[str, Any] = {"output_layer": "ridge", "standardise": True}
_QUICK: dict[str, Any] = {"output_layer": "ridge", "views": "single"}
_AS_DRAWN: dict[str, Any] = {"scheme": "untrained", "n_stages": 1}
"""Whitened windows in the first round.

Training them takes long, and gains less than training other units.
"""
DISTORTED: dict[str, Any] = {
    "shift": 1, "rotation": 8.0, "scale": 0.08, "shear": 0.08, "elastic": 0.4, "n_copies": 1,
}  # fmt: skip
SHIFTED: dict[str, Any] = {
    "shift": 1, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "elastic": 0.0, "n_copies": 1,
}  # fmt: skip
_LARGE, _SMALL = 11, 5
"""Sides of the other windows: in images of at least ``_LARGE_IMAGES`` pixels a side, and others."""
_LARGE_IMAGES = 40
_PLAIN_WINDOWS: dict[str, Any] = {
    name: RECIPES["default"].options()[name]
    for name in (
        *("window", "grid", "whitening", "contrast", "n_components", "activation", "threshold"),
        *("draw", "gain", "n_units", "n_subnetworks", "images_per_subnetwork"),
    )
}
"""Windows as they are, also of colour images, whose recipe whitens them."""
MIRRORED: dict[str, Any] = {"flip": True, "views": "flip"}
_ALONE: dict[str, Any] = {"scheme": "independent", "n_stages": 1}
_N_WHITENED = {0: 48, 10_000: 96}
"""Units on whitened windows, from a number of training images on.

With few images, more units gain little, and the output layer takes much longer.
"""
_WHITENED: dict[str, Any] = {
    **_ALONE, **_PLAIN, **_RIDGE, "activation": "two-sided", "threshold": 0.5, "contrast": 0.01,
    "whitening": 0.1, "draw": "windows", "gain": 1.0, "training_stride": 2, "max_nfev": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that take part.

    Attributes
    ----------
    name : str
        What it is, in words.
    config : TrainConfig
        In full size.
    """

    name: str
    config: TrainConfig


def contest(
    data: Dataset, *, seed: int = 0, n_jobs: int = -1, progress: bool = False, **overrides: Any
) -> Contest:
    """Choose settings for a data set by a contest on its training images.

    Parameters
    ----------
    data : Dataset
        Its test and validation images are not looked at.
    seed : int
        Draws the images and seeds the networks; the settings keep it.
    n_jobs : int
        Worker processes and threads, -1 for all cores. The result does not depend on it.
    progress : bool
        Show a bar on standard error.
    **overrides
        Settings that all candidates have, by their flat names.

    Returns
    -------
    Contest

    Raises
    ------
    ValueError
        Settings that no candidate can have.
    TypeError
        ``data`` is not a Dataset.
    DatasetError
        Too few images: no class has three.
    """
    if not isinstance(data, Dataset):
        msg = f"recipe {AUTO!r} needs the images, data=varpro_nn.load(...), got data={data!r:.80}."
        raise TypeError(msg)
    clock = Clock()
    with (
        Compute(n_jobs) as compute,  # its workers serve all candidates
        Compute(progress=progress).bar("contest", unit="candidate") as bar,
    ):
        field = Field(data, seed, compute, bar, current_names(overrides))
        kinds = field.best(1, field.kinds_of_units(), 2)
        distorted = [field.changed(kind, "distorted", DISTORTED) for kind in kinds]
        (base,) = field.best(2, [*kinds, *(each for each in distorted if each is not None)], 1)
        chosen = field.with_changes(base)
    wall, cpu = clock.read()
    _logger.info("contest: %.1f s, %.1f CPU s", wall, cpu)
    config = chosen.config.with_options(recipe=AUTO)
    return Contest(config, chosen.name, tuple(field.entries), cpu)


def can_compare(data: Dataset, n_train: int | None = None) -> bool:
    """Whether there are enough training images for a contest: three of one class.

    Of the first ``n_train`` images, if that is given.
    """
    return bool((np.bincount(data.train.labels[:n_train]) * HELD >= 1).any())


def kinds_of_units(data: Dataset, *, seed: int = 0, **overrides: Any) -> list[Candidate]:
    """Make the candidates of the first round, in full size.

    Parameters and errors are as for :func:`contest`.
    """
    with Compute() as compute:
        field = Field(data, seed, compute, None, current_names(overrides))
        return field.kinds_of_units()


class Field:
    """Where candidates are made and measured."""

    def __init__(
        self, data: Dataset, seed: int, compute: Compute, bar: Any, overrides: Mapping[str, Any]
    ) -> None:
        self._data, self._seed, self._compute, self._bar = data, seed, compute, bar
        self._overrides = dict(overrides)
        self._training = data.train
        self._n_classes = len(data.classes)
        self._rounds: dict[int, tuple[TrainingSet, ImageSet]] = {}
        self._trained: dict[Any, MemoryStore] = defaultdict(MemoryStore)
        self.entries: list[Entry] = []

    def made(
        self, name: str, base: TrainConfig | str, options: Mapping[str, Any]
    ) -> Candidate | None:
        """Make a candidate; None if the images or the overrides do not allow it."""
        try:
            config = self._configured(base, options)
            if isinstance(base, str) and (config.units.kind == "patch") != (base != "bilinear"):
                return None  # the units are given, and are not the ones that the name says
            self._check_images(config)
        except ValueError as error:
            _logger.info("contest: without %s: %s", name, error)
            self.refusal = error
            return None
        return Candidate(name, config)

    def _configured(self, base: TrainConfig | str, options: Mapping[str, Any]) -> TrainConfig:
        """Set options, and the overrides as far as they can hold beside them."""
        given = self._overrides
        settings = {**options, **given, "seed": self._seed}
        if "n_units" in given and "n_subnetworks" not in given:
            settings.pop("n_subnetworks", None)  # of a size for another number of units
        if given.get("n_stages", 1) != 1 and "scheme" not in given:
            settings["scheme"] = "stages"
        plain = (
            configure(base, data=self._data, seed=self._seed, **options)
            if isinstance(base, str)
            else base.with_options(**options)
        )
        if "n_subnetworks" in given and "n_units" not in given:
            n = _whole(given["n_subnetworks"])
            if n is not None:
                settings["n_units"] = max(1, round(plain.units.n_units / n)) * n
        # Copies are of candidates with distortions: without any they would be the same images.
        distorted = any(settings.get(f.name, getattr(plain.distortion, f.name)) for f in _KINDS)
        if given.get("n_copies") and not distorted:
            settings["n_copies"] = 0
        if isinstance(base, str):
            return configure(base, data=self._data, **settings)
        return base.with_options(**{"n_subnetworks": base.subnetworks.n_subnetworks, **settings})

    def _check_images(self, config: TrainConfig) -> None:
        """Raise ValueError for settings that the images do not allow."""
        if config.output.n_copies and isinstance(self._training.images, ImagesOnDisk):
            msg = f"n_copies must be 0 for images on disk, got {config.output.n_copies}."
            raise ValueError(msg)
        one = np.zeros((1, *self._data.image_shape), np.uint8)
        units_in_training(config, make_units(config, one, None))

    def kinds_of_units(self) -> list[Candidate]:
        """Make the candidates of the first round."""
        small = min(self._data.image_shape[-2:]) < 16
        colour = kind_of_data("", self._data.image_shape) == "colour"
        window = 3 if small else 5
        n_components = {} if small else {"n_components": 30 if colour else 20}
        white: dict[str, Any] = {
            **_WHITENED, **n_components, "window": window, "images_per_subnetwork": 5000,
        }  # fmt: skip
        if small:
            white["training_stride"] = None
        few, many = (2, 3) if small else (3, 6)
        n_train = _whole(self._overrides.get("n_train"))
        if n_train is not None:
            self._training = self._training.take(slice(n_train))
        cells = (_whole(self._overrides.get(name)) for name in ("training_grid", "grid"))
        white |= self._whitened(next((grid for grid in cells if grid is not None), few))
        n_whole = 8 * max(5, min(100, len(self._training) // 8))  # no more than images
        entrants = [
            self.made(
                "whole images", "bilinear", {"n_units": n_whole, "n_subnetworks": 8, "gain": 2.0}
            ),
            self.made("windows", "default", {**_ALONE, **_PLAIN, **_RIDGE}),
            self._other_windows(),
            self.made("whitened windows", "default", {**white, "grid": few}),
        ]
        if "grid" not in self._overrides:
            finer = {**white, "grid": many, "training_grid": few}
            entrants.append(self.made("whitened windows, more cells", "default", finer))
        found = [candidate for candidate in entrants if candidate is not None]
        if not found:
            raise self.refusal
        return found

    def _other_windows(self) -> Candidate | None:
        """Make the candidate with windows of another size; None for the smallest images."""
        side = min(self._data.image_shape[-2:])
        if side < 16 or "window" in self._overrides:
            return None
        name, window = ("large", _LARGE) if side >= _LARGE_IMAGES else ("small", _SMALL)
        if kind_of_data("", self._data.image_shape) == "colour":
            name = "plain"
        options = {**_ALONE, **_PLAIN, **_RIDGE, **_PLAIN_WINDOWS, "window": window}
        return self.made(f"{name} windows", "default", options)

    def _whitened(self, grid: int) -> dict[str, int]:
        """Take units for the images, in sub-networks with no more columns than images.

        They have ``grid`` cells a side in training. Even two units may have more columns, if there
        are very few images.
        """
        n_train = len(self._training)
        n_units = next(n for least, n in reversed(_N_WHITENED.items()) if n_train >= least)
        most = n_train // (2 * grid**2)  # two columns a cell
        size = max(s for s in (2, 4, 8, 12, 24) if s <= max(2, most))
        return {"n_units": n_units, "n_subnetworks": n_units // size}

    def changed(self, base: Candidate, name: str, change: Mapping[str, Any]) -> Candidate | None:
        """Make a candidate with a change; None if there can be none, or if it changes nothing."""
        given = self._overrides
        if any(n in change and given.get(n, change[n]) != change[n] for n in _NAMED):
            return None  # it would not be what its name says
        candidate = self.made(f"{base.name}, {name}", base.config, change)
        return None if candidate is None or candidate.config == base.config else candidate

    def best(self, number: int, candidates: list[Candidate], n: int) -> list[Candidate]:
        """Compare quick forms of the candidates; take the ``n`` best."""
        trials = []
        for candidate in candidates:
            options = dict(_QUICK)
            if number == 1:
                options |= {"n_copies": 0}
                if candidate.config.units.whitening is not None:
                    options |= _AS_DRAWN
            config = candidate.config.with_options(**options)
            trials.append(self.measure(number, replace(candidate, config=config)))
        order = np.argsort([-trial.entry.accuracy for trial in trials], kind="stable")
        return [candidates[i] for i in order[:n]]

    def with_changes(self, base: Candidate) -> Candidate:
        """Find the changes that help, one by one and together."""
        without = self.measure(3, base)
        helped: list[tuple[float, dict[str, Any], Candidate]] = []

        def try_out(name: str, change: dict[str, Any]) -> bool:
            candidate = self.changed(base, name, change)
            if candidate is None:
                return False
            trial = self.measure(3, candidate)
            helps = trial.is_better_than(without)
            if helps:
                helped.append((trial.entry.accuracy, change, candidate))
            return helps

        try_out("mirrored", MIRRORED)
        try_out("only shifted" if base.config.distortion.elastic else "shifted", SHIFTED)

        def try_layer(layer: str) -> bool:
            return try_out(f"{layer} layer", with_layer(layer))

        # The hinge is like softmax: where that does not help, it is not worth a trial.
        if try_layer("softmax") and self._n_classes <= MOST_FOR_HINGE:
            try_layer("hinge")
        if not helped:
            return base
        helped.sort(key=lambda each: each[0])  # the best change has the last word
        best = helped[-1][2]
        if len(helped) == 1:
            return best
        together = {name: value for _, change, _ in helped for name, value in change.items()}
        both = self.made(f"{base.name}, all that helped", base.config, together)
        if both is None or both.config == best.config:
            return best
        alone, joined = (self.measure(4, candidate) for candidate in (best, both))
        return both if joined.entry.accuracy > alone.entry.accuracy else best

    def measure(self, number: int, candidate: Candidate) -> "Trial":
        """Train a candidate in a round and measure it, on the same images as all in that round."""
        config = shortened(candidate.config)
        training, held = self._images_of(number, config.class_weight)
        with _without_warnings():
            network, _, _ = train_classifier(
                config, training, self._data.classes, self._compute,
                # Where only the output layer differs, the units are there.
                store=self._trained[number, config.units, config.subnetworks, config.distortion],
            )  # fmt: skip
        predicted = network.predict_codes(held.images, n_jobs=self._compute.n_jobs)
        right, n = predicted == held.labels, len(held)
        share = accuracy(predicted, held.labels)
        error = standard_error(share, n)
        shares = np.full(n, 1 / n)
        if config.class_weight is not None:
            share = ByClass.of(predicted, held.labels, self._n_classes).balanced_accuracy
            n_of_class = np.bincount(held.labels, minlength=self._n_classes)
            shares = 1 / (n_of_class[held.labels] * np.count_nonzero(n_of_class))
        entry = Entry(
            round=number, name=candidate.name, n_images=len(training), n_held=n,
            n_units=config.units.n_units, accuracy=share, standard_error=error,
        )  # fmt: skip
        _logger.info("contest: %s", entry)
        self.entries.append(entry)
        self._bar.set_postfix(last=f"{candidate.name}: {share:.4f}")
        self._bar.update()
        return Trial(entry, right * shares)

    def _images_of(self, number: int, class_weight: str | None) -> tuple[TrainingSet, ImageSet]:
        """Take the images of a round: those to train on, and those that measure."""
        if number not in self._rounds:
            fit, held = self._split(number)
            data = replace(self._data, train=self._training.at(fit), origin=None)
            training = TrainingSet.of(data, class_weight=class_weight)
            self._rounds[number] = training, self._training.at(held)
        return self._rounds[number]

    def _split(self, number: int) -> tuple[IndexArray, IndexArray]:
        """Draw the images of a round: those to train on, and those that measure."""
        rng = np.random.default_rng([self._seed, number])
        labels = self._training.labels
        order = rng.permutation(len(labels))
        n_images = min(max(N_IMAGES[number], int(PART * len(labels))), MOST_IMAGES[number])
        n_images = max(n_images, OF_CLASS * self._n_classes)
        n, share = round(n_images / (1 - HELD)), HELD
        n_held = min(int(PART_HELD * len(labels)), MOST_HELD)
        if n_held > HELD * n:
            n, share = n_images + n_held, n_held / (n_images + n_held)
        n = min(len(labels), n)
        # Every class in both parts: of each class the first ones measure.
        order = order[:n]
        held = np.zeros(n, bool)
        for code in range(self._n_classes):
            of_class = np.flatnonzero(labels[order] == code)
            held[of_class[: int(share * len(of_class))]] = True
        if not held.any():
            n_largest = int(np.bincount(labels[order]).max())
            msg = (
                f"a contest needs a class with at least {round(1 / HELD)} training images, "
                f"got at most {n_largest}; name a recipe instead of {AUTO!r}."
            )
            raise DatasetError(msg)
        return np.sort(order[~held]), np.sort(order[held])


def _whole(given: Any) -> int | None:
    """Return a positive whole number, None for all else, which is refused later."""
    return int(given) if isinstance(given, Integral) and int(given) >= 1 else None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings of fits: of the winner they are given when it is trained in full."""
    of_penalties = logging.getLogger("varpro_nn.output.penalties")
    before = of_penalties.disabled
    of_penalties.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        of_penalties.disabled = before


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A result, and the part of the accuracy that is due to each image that measured."""

    entry: Entry
    parts: FloatArray

    def difference_to(self, other: "Trial") -> tuple[float, float]:
        """Difference of two results on the same images, and its standard error."""
        error = float(np.linalg.norm(self.parts - other.parts))
        return self.entry.accuracy - other.entry.accuracy, error

    def is_better_than(self, other: "Trial") -> bool:
        """Whether this result is better by more than the margin."""
        difference, error = self.difference_to(other)
        return difference > MARGIN * error


def with_layer(layer: str) -> dict[str, Any]:
    """Make the settings that change the output layer."""
    return {"output_layer": layer, "standardise": True}


def shortened(config: TrainConfig) -> TrainConfig:
    """Take fewer of the sub-networks, or part of one, trained for a shorter time."""
    share = SHARE * config.subnetworks.n_subnetworks
    n = max(1, round(share))
    size = config.units_per_subnetwork
    n_units = n * (size if share >= 1 else max(1, round(share * size)))
    n_stages = min(n, config.subnetworks.n_stages)
    max_nfev = round(EVALUATIONS * config.subnetworks.max_nfev)
    return config.with_options(
        n_subnetworks=n, n_units=n_units, n_stages=n_stages, max_nfev=max_nfev
    )
