"""The glue as a living object: its sums are kept, so that it can change without starting again.

Images can be added and removed (exactly, to rounding: what is removed leaves no trace), units
appended and dropped, the ridge changed at will. Each costs what is new or gone; no second pass
over the rest is made.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn import model_file
from varpro_nn._typing import FloatArray, ImageArray, LabelArray, RealArray
from varpro_nn.accumulation import accumulate
from varpro_nn.errors import ModelFileError
from varpro_nn.features import block_features, block_slices, workers
from varpro_nn.glue import RIDGES
from varpro_nn.images import check_images, check_labels
from varpro_nn.linalg import GramAccumulator, RidgePath
from varpro_nn.units import PatchUnits, Units, WholeImageUnits, units_from_spec

KIND = "glue"


class GlueState:
    """Sums of the normal equations of the output layer of some units, over some images.

    Parameters
    ----------
    units : Units
        Those of this package can be saved.
    W : ndarray, shape (h, p)
        Weights of the units; the features are computed in its type. Single precision is quick;
        double keeps more digits through many additions and removals.
    n_classes : int
    n_jobs : int
        Threads, -1 for all cores; no bit of a result depends on it.

    Notes
    -----
    The sums take 8 (h m)^2 bytes, of ``m`` columns a unit. Whether an image that is removed had
    ever been added cannot be told from sums: that is for the caller to know.
    """

    def __init__(self, units: Units, W: ArrayLike, n_classes: int, *, n_jobs: int = 1) -> None:
        self.units = units
        self.W: RealArray = _weights(W, units.n_weights)
        self.n_jobs = n_jobs
        self._sums = GramAccumulator(len(self.W) * units.n_cells, n_classes)
        self._paths: dict[bool, RidgePath] = {}

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self._sums.n_targets

    @property
    def n_images(self) -> int:
        """Images that are in the sums."""
        return round(self._sums.sum_weights)

    def add_images(self, images: ArrayLike, labels: ArrayLike) -> "GlueState":
        """Take images in.

        Parameters
        ----------
        images : array_like, shape (n, ...)
        labels : array_like of int, shape (n,)
            Class numbers.

        Returns
        -------
        GlueState
            Itself.

        Raises
        ------
        ValueError
            Labels or images that do not fit.
        NonFiniteError
            Features are NaN or infinite; nothing has been taken in.
        """
        checked, codes = self._check(images, labels)
        self._sums.merge(self._sums_of(self.W, checked, codes))
        self._paths.clear()
        return self

    partial_fit = add_images

    def remove_images(self, images: ArrayLike, labels: ArrayLike) -> "GlueState":
        """Take images out that had been taken in; as :meth:`add_images`.

        Raises
        ------
        ValueError
            There are fewer images in the sums, in all or of a class.
        """
        checked, codes = self._check(images, labels)
        counts, there = self._counts(codes), self._counts()
        if any(count > present for count, present in zip(counts, there, strict=True)):
            msg = f"images must be among those in the sums, by class {there}, got {counts}."
            raise ValueError(msg)
        self._sums.merge(self._sums_of(self.W, checked, codes), sign=-1)
        self._paths.clear()
        return self

    def add_units(self, W: ArrayLike, images: ArrayLike, labels: ArrayLike) -> "GlueState":
        """Append units: the blocks of the sums that border the old ones.

        Parameters
        ----------
        W : array_like, shape (h_new, p)
        images, labels
            All the images that are in the sums, in any order: the products of the new columns
            with the old ones need them. Products among the old columns are not made again.

        Returns
        -------
        GlueState
            Itself.

        Raises
        ------
        ValueError
            Weights of another shape; other images than those in the sums, as far as their
            number in each class tells.
        """
        new = _weights(W, self.units.n_weights).astype(self.W.dtype, copy=False)
        checked, codes = self._check(images, labels)
        if self._counts(codes) != self._counts():
            msg = (
                f"images must be those in the sums, by class {self._counts()}, "
                f"got {self._counts(codes)}."
            )
            raise ValueError(msg)
        of_new = self._sums_of(new, checked, codes)
        cross = np.zeros((self._sums.n_columns, of_new.n_columns))
        with workers(self.n_jobs) as threads:
            for rows in block_slices(len(checked), len(cross) + of_new.n_columns):
                Phi, appended = (
                    block_features(self.units, each, checked[rows], threads)
                    for each in (self.W, new)
                )
                Phi -= self._sums.shift
                appended -= of_new.shift
                cross += Phi.T @ appended
        self._sums.append_columns(cross, of_new)
        # From old columns, new columns to cell by cell, as the features of all units come.
        m = self.units.n_cells
        columns = np.arange(self._sums.n_columns)
        old_columns, new_columns = np.split(columns, [len(cross)])
        self._sums.keep_columns(
            np.concatenate([old_columns.reshape(m, -1), new_columns.reshape(m, -1)], axis=1).ravel()
        )
        self.W = np.concatenate([self.W, new])
        self._paths.clear()
        return self

    def drop_units(self, index: ArrayLike) -> "GlueState":
        """Drop units by their positions in ``W``; no image is needed.

        Raises
        ------
        IndexError
            No such unit.
        ValueError
            No unit would be left.
        """
        kept = np.ones(len(self.W), dtype=bool)
        kept[np.asarray(index, dtype=np.int64)] = False
        if not kept.any():
            msg = f"one unit at least must be left of the {len(self.W)}."
            raise ValueError(msg)
        self._sums.keep_columns(np.flatnonzero(np.tile(kept, self.units.n_cells)))
        self.W = self.W[kept]
        self._paths.clear()
        return self

    def solve(self, ridge: float | None = None, *, standardise: bool = False) -> FloatArray:
        """Linear weights for one ridge.

        Parameters
        ----------
        ridge : float, optional
            ``lam``. By default that of :data:`varpro_nn.glue.RIDGES` whose generalised
            cross-validation is least; leave-one-out errors would need a pass over the images.
        standardise : bool
            Let the ridge act on columns scaled to variance 1.

        Returns
        -------
        ndarray, shape (h * m + 1, k)
            ``A``, as :class:`varpro_nn.Network` takes it.

        Raises
        ------
        ValueError
            No images, or a ridge that is negative or not finite.
        """
        path = self.path(standardise=standardise)
        if ridge is None:
            scores = [path.generalised_cross_validation(value) for value in RIDGES]
            ridge = RIDGES[int(np.argmin(scores))]
        if not 0 <= ridge < np.inf:
            msg = f"ridge must be finite and not negative, got {ridge}."
            raise ValueError(msg)
        return path.solve(ridge)

    def path(self, *, standardise: bool = False) -> RidgePath:
        """Factorise the sums, for every ridge; once after each change."""
        if standardise not in self._paths:
            with workers(1):
                self._paths[standardise] = self._sums.path(standardise=standardise, keep=True)
        return self._paths[standardise]

    def save(self, path: str | Path) -> None:
        """Write units and sums to an npz file that :meth:`load` checks, atomically.

        Raises
        ------
        TypeError
            Units that are not of this package.
        ValueError
            No images yet.
        """
        if not isinstance(self.units, PatchUnits | WholeImageUnits):
            msg = f"units must be of this package to be saved, got {type(self.units).__name__}."
            raise TypeError(msg)
        learnt = getattr(self.units, "arrays", {})
        header = {"kind": KIND, "units": self.units.spec()}
        arrays = {f"units.{name}": array for name, array in learnt.items()}
        sums = {f"sums.{name}": array for name, array in self._sums.arrays().items()}
        model_file.write(Path(path), header, {"W": self.W, **arrays, **sums})

    @classmethod
    def load(cls, path: str | Path, *, n_jobs: int = 1) -> "GlueState":
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelFileError
            The file is damaged, is no glue, or its arrays do not go together.
        FileNotFoundError
        """
        header, arrays = model_file.read(Path(path))
        if header.get("kind") != KIND:
            msg = f"{path}: the file holds a {header.get('kind')}, not a {KIND}."
            raise ModelFileError(msg)
        parts: dict[str, dict[str, Any]] = {"units": {}, "sums": {}}
        for name, array in arrays.items():
            group, _, own = name.partition(".")
            parts.get(group, {})[own] = array
        try:
            units = units_from_spec(header["units"], parts["units"])
            W = _weights(arrays["W"], units.n_weights)
            sums = GramAccumulator.of_arrays(parts["sums"], len(W) * units.n_cells, W.dtype)
            state = cls(units, W, sums.n_targets, n_jobs=n_jobs)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{path}: the arrays do not describe a glue: {error}."
            raise ModelFileError(msg) from error
        state._sums = sums
        return state

    def _check(self, images: ArrayLike, labels: ArrayLike) -> tuple[ImageArray, LabelArray]:
        checked = check_images(images)
        return checked, check_labels(np.asarray(labels), len(checked), self.n_classes)

    def _counts(self, labels: LabelArray | None = None) -> list[int]:
        """Images of each class: of ``labels``, or in the sums."""
        if labels is None:
            return [round(count) for count in self._sums.sum_tau.tolist()]
        return np.bincount(labels, minlength=self.n_classes).tolist()

    def _sums_of(self, W: RealArray, images: ImageArray, labels: LabelArray) -> GramAccumulator:
        shift = self._sums.shift if W is self.W else None
        with workers(self.n_jobs) as threads:
            return accumulate(
                self.units, W, images, labels, self.n_classes, threads=threads, shift=shift
            )


def _weights(W: ArrayLike, n_weights: int) -> RealArray:
    array = np.array(W)
    fitting = array.ndim == 2 and array.shape[1] == n_weights and len(array) > 0
    if not fitting or array.dtype not in (np.float32, np.float64):
        msg = (
            f"W must have shape (h, {n_weights}) and a type of 32 or 64 bits, got {array.shape} of "
            f"{array.dtype}."
        )
        raise ValueError(msg)
    if not np.isfinite(array).all():
        msg = "W must be finite, got NaN or infinity."
        raise ValueError(msg)
    return array
