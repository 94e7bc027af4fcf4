"""Outputs of trained units as features for other estimators."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from varpro_nn._arrays import plain_array
from varpro_nn._typing import RealArray, TargetArray
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.estimators.base import ImageEstimator, undone_on_error, with_settings
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.output.features import feature_blocks
from varpro_nn.training.layers import train_units
from varpro_nn.units.maps import n_columns

__all__ = ["VarProFeatures"]


@with_settings()
class VarProFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator):  # type: ignore[misc]
    """Unit outputs of images, the units trained by variable projection.

    Parameters
    ----------
    recipe, image_shape, n_jobs, random_state, warm_start, **settings
        As for :class:`VarProClassifier`. The settings of the output layer have no effect here,
        except ``cells_below``, which adds columns of lower layers.

    Attributes
    ----------
    units_ : varpro_nn.units.PatchUnits or WholeImageUnits
    W_ : ndarray of float32, shape (h, p)
        Unit weights.
    n_features_in_, feature_names_in_, config_, image_shape_, intensity_, history_, n_iter_
        As for :class:`VarProClassifier`.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @undone_on_error
    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Any:
        """Train units on rows of pixels ``X`` (n, d) and labels or numbers ``y``.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`VarProClassifier.fit`.
        y : array_like, shape (n,) or (n, t), optional
            Labels, or real numbers. None: the units stay as they are drawn.

        Returns
        -------
        VarProFeatures
            Itself.

        Raises
        ------
        ValueError
            Images that are all alike, or settings that do not fit.
        """
        rows = self._rows(X, reset=True)
        images = self._training_images(rows, np.ones(len(rows), dtype=bool))
        targets, k = _targets(y, len(rows))
        config = self._config(len(rows), {} if targets.ndim == 1 else {"loss": "squares"})
        if y is None:
            config = config.with_options(scheme="untrained", n_stages=1)

        with self._compute() as compute:
            training = TrainingSet(images, targets, k)
            trained = train_units(config, training, compute, **self._start(config))
        self.config_, self.units_, self.W_ = config, trained.units, trained.W
        self._n_features_out = n_columns(self.units_, len(self.W_))
        self._set_reports(trained.subnetworks)
        return self

    def transform(self, X: ArrayLike) -> RealArray:
        """Compute the unit outputs in single precision, ordered by cell, then by unit.

        With ``cells_below``, c columns of lower layers follow.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`VarProClassifier.fit`, on the scale of training.

        Returns
        -------
        ndarray of float32, shape (n, h * m + c)

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        check_is_fitted(self, "units_")
        images = self._images_of(X)
        with thread_pool(self._n_jobs) as threads:
            blocks = feature_blocks(self.units_, self.W_, images, threads)
            return np.concatenate([Phi for _, Phi in blocks])


def _targets(y: Any, n: int) -> tuple[TargetArray, int]:
    """Class numbers or real targets of ``y``, and how many classes or targets there are."""
    if y is None:
        return np.zeros((n, 1)), 1
    array = np.asarray(y)
    if len(array) != n:
        msg = f"X and y must have the same length, got {n} and {len(array)}."
        raise ValueError(msg)
    kind = type_of_target(array, input_name="y")
    plain_array(y, "y")  # the mask of a masked array
    if kind in ("binary", "multiclass"):
        classes, codes = np.unique(array, return_inverse=True)
        return codes, len(classes)
    values = array.astype(np.float64).reshape(n, -1)
    scale = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0), values.shape[1]
