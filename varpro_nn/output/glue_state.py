"""The glue as a living object: its sums are kept, so that it can change without starting again.

Images can be added and removed (exactly, to rounding: what is removed leaves no trace), units
appended and dropped, the ridge changed at will. Each costs what is new or gone; no second pass
over the rest is made.

What is kept goes by shape. While there are fewer images than columns their rows of ``Phi`` are
kept, and the solution comes from their singular value decomposition; then the sums of the normal
equations take their place, for good: rows do not come back from sums.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from varpro_nn._typing import FloatArray, ImageArray, LabelArray, RealArray
from varpro_nn.data.images import check_images, check_labels, one_hot
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.linalg import GramAccumulator, RidgePath, RowStore
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.accumulation import accumulate
from varpro_nn.output.features import block_features, block_slices, check_finite
from varpro_nn.output.glue import RIDGES
from varpro_nn.output.glue_file import Kept, form_of, read_glue, unit_weights, write_glue
from varpro_nn.units import Units


class GlueState:
    """What the output layer of some units needs to know of some images, to be solved and changed.

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
    The sums take 8 q^2 bytes, q = h m being the columns, and n rows before there are sums 4 n q or
    8 n q; solving from rows takes 24 n (n + q)
    for a while, and each change copies them. Whether an image that is removed had ever
    been added cannot be told from sums (from rows it can): that is for the caller to know.
    """

    def __init__(self, units: Units, W: ArrayLike, n_classes: int, *, n_jobs: int = 1) -> None:
        self.units = units
        self.W: RealArray = unit_weights(W, units.n_weights)
        self.n_jobs = n_jobs
        Phi = np.zeros((0, len(self.W) * units.n_cells), dtype=self.W.dtype)
        self._kept: Kept = RowStore(Phi, np.zeros((0, n_classes)))
        self._paths: dict[bool, RidgePath] = {}

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self._kept.n_targets

    @property
    def n_images(self) -> int:
        """Images that have been taken in, and not out."""
        return round(self._kept.sum_weights)

    @property
    def form(self) -> str:
        """What is kept: ``"rows"`` or ``"sums"``."""
        return form_of(self._kept)

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
        kept = self._kept
        if isinstance(kept, RowStore) and self.n_images + len(checked) <= kept.n_columns:
            tau = one_hot(codes, self.n_classes)
            self._kept = kept.added(self._features(self.W, checked), tau)
        else:
            sums = self._as_sums(kept)
            sums.merge(self._sums_of(self.W, checked, codes, sums.shift))
            self._kept = sums
        self._paths.clear()
        return self

    partial_fit = add_images

    def remove_images(self, images: ArrayLike, labels: ArrayLike) -> "GlueState":
        """Take images out that had been taken in; as :meth:`add_images`.

        Raises
        ------
        ValueError
            There are fewer images in the sums, in all or of a class; or one is not in the rows.
        """
        checked, codes = self._check(images, labels)
        if isinstance(self._kept, RowStore):
            self._kept = self._kept.without_rows(self._find(checked, codes))
            self._paths.clear()
            return self
        counts, there = self._counts(codes), self._counts()
        if any(count > present for count, present in zip(counts, there, strict=True)):
            msg = f"images must be among those in the sums, by class {there}, got {counts}."
            raise ValueError(msg)
        gone = self._sums_of(self.W, checked, codes, self._kept.shift)
        self._kept.merge(gone, sign=-1)
        self._paths.clear()
        return self

    def add_units(self, W: ArrayLike, images: ArrayLike, labels: ArrayLike) -> "GlueState":
        """Append units: columns of the rows, or blocks of the sums that border the old ones.

        Parameters
        ----------
        W : array_like, shape (h_new, p)
        images, labels
            All the images that have been taken in, in any order: the products of the new columns
            with the old ones need them. Products among the old columns are not made again.

        Returns
        -------
        GlueState
            Itself.

        Raises
        ------
        ValueError
            Weights of another shape; other images than those taken in, as far as their number in
            each class tells (from rows: each of them).
        """
        new = unit_weights(W, self.units.n_weights).astype(self.W.dtype, copy=False)
        checked, codes = self._check(images, labels)
        if self._counts(codes) != self._counts():
            msg = (
                f"images must be those in the sums, by class {self._counts()}, "
                f"got {self._counts(codes)}."
            )
            raise ValueError(msg)
        kept, n_old = self._kept, self._kept.n_columns
        # From old columns, new columns to cell by cell, as the features of all units come.
        m = self.units.n_cells
        old_columns, new_columns = np.split(np.arange(n_old + len(new) * m), [n_old])
        order = np.concatenate([old_columns.reshape(m, -1), new_columns.reshape(m, -1)], axis=1)
        if isinstance(kept, RowStore):
            at = self._find(checked, codes)
            self._kept = kept.with_columns(at, self._features(new, checked), order.ravel())
        else:
            of_new = self._sums_of(new, checked, codes)
            cross = np.zeros((n_old, of_new.n_columns))
            with thread_pool(self.n_jobs) as threads:
                for rows in block_slices(len(checked), n_old + of_new.n_columns):
                    Phi, appended = (
                        block_features(self.units, each, checked[rows], threads)
                        for each in (self.W, new)
                    )
                    Phi -= kept.shift
                    appended -= of_new.shift
                    cross += Phi.T @ appended
            kept.append_columns(cross, of_new, order.ravel())
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
        try:
            kept[np.asarray(index, dtype=np.int64)] = False
        except IndexError as error:
            msg = f"index must be positions of the {len(self.W)} units, got {index!r}."
            raise IndexError(msg) from error
        if not kept.any():
            msg = f"one unit at least must be left of the {len(self.W)}."
            raise ValueError(msg)
        columns = np.flatnonzero(np.tile(kept, self.units.n_cells))
        if isinstance(self._kept, RowStore):
            rows = self._kept.of_columns(columns)
            self._kept = rows if self.n_images <= len(columns) else self._as_sums(rows)
        else:
            self._kept.keep_columns(columns)
        self.W = self.W[kept]
        self._paths.clear()
        return self

    def solve(self, ridge: float | None = None, *, standardise: bool = False) -> FloatArray:
        """Linear weights for one ridge.

        Parameters
        ----------
        ridge : float, optional
            ``lam``. By default that of :data:`varpro_nn.output.glue.RIDGES` whose generalised
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
        """Factorise what is kept, for every ridge; once after each change."""
        if standardise not in self._paths:
            with thread_pool(1):
                self._paths[standardise] = self._kept.path(standardise=standardise)
        return self._paths[standardise]

    def save(self, path: str | Path) -> None:
        """Write units and sums (or rows) to an npz file that :meth:`load` checks, atomically.

        Raises
        ------
        TypeError
            Units that are not of this package.
        """
        write_glue(Path(path), self.units, self.W, self._kept)

    @classmethod
    def load(cls, path: str | Path, *, n_jobs: int = 1) -> "GlueState":
        """Read what :meth:`save` wrote.

        Raises
        ------
        ModelFileError
            The file is damaged, is no glue, or its arrays do not go together.
        FileNotFoundError
        """
        units, W, kept = read_glue(Path(path))
        state = cls(units, W, kept.n_targets, n_jobs=n_jobs)
        state._kept = kept
        return state

    def _check(self, images: ArrayLike, labels: ArrayLike) -> tuple[ImageArray, LabelArray]:
        checked = check_images(images)
        return checked, check_labels(np.asarray(labels), len(checked), self.n_classes)

    def _counts(self, labels: LabelArray | None = None) -> list[int]:
        """Images of each class: of ``labels``, or in the sums."""
        if labels is None:
            return [round(count) for count in self._kept.sum_tau.tolist()]
        return np.bincount(labels, minlength=self.n_classes).tolist()

    def _as_sums(self, kept: Kept) -> GramAccumulator:
        if isinstance(kept, GramAccumulator):
            return kept
        with thread_pool(self.n_jobs) as threads:
            return kept.sums(threads)

    def _sums_of(
        self,
        W: RealArray,
        images: ImageArray,
        labels: LabelArray,
        shift: RealArray | None = None,
    ) -> GramAccumulator:
        with thread_pool(self.n_jobs) as threads:
            training = TrainingSet(images, labels, self.n_classes)
            return accumulate(self.units, W, training, threads=threads, shift=shift)

    def _features(self, W: RealArray, images: ImageArray) -> RealArray:
        with thread_pool(self.n_jobs) as threads:
            Phi = block_features(self.units, W, images[:], threads)
        check_finite(Phi)
        return Phi

    def _find(self, images: ImageArray, labels: LabelArray) -> LabelArray:
        """Positions of images among the rows that are kept."""
        assert isinstance(self._kept, RowStore)
        return self._kept.find(self._features(self.W, images), one_hot(labels, self.n_classes))
