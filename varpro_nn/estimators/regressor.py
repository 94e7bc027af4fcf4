"""A scikit-learn regressor on images."""

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_is_fitted

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.estimators.base import ImageEstimator, undone_on_error, with_settings
from varpro_nn.model.network import Network
from varpro_nn.training.layers import train_layers

__all__ = ["VarProRegressor"]


_FIXED = {"loss": "squares", "output_layer": "ridge"}


@with_settings()
class VarProRegressor(RegressorMixin, ImageEstimator):  # type: ignore[misc]
    """Regression of one or several numbers on images, by least squares in both layers.

    Parameters
    ----------
    recipe, image_shape, n_jobs, random_state, warm_start, **settings
        As for :class:`VarProClassifier`; ``loss`` and ``output_layer`` are those of least squares.

    Attributes
    ----------
    network_ : varpro_nn.Network
        Its ``decision_function`` gives the predictions; it cannot be exported.
    loo_error_ : float
        Mean squared error of the output layer on held-out images, in the squared units of ``y``.
        The units were trained on these images.
    n_features_in_, feature_names_in_, config_, image_shape_, intensity_, history_, n_iter_
        As for :class:`VarProClassifier`.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @undone_on_error
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Train on rows of pixels ``X`` (n, d) and numbers ``y`` (n,) or (n, t).

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`VarProClassifier.fit`.
        y : array_like, shape (n,) or (n, t)
        sample_weight : array_like, shape (n,), optional

        Returns
        -------
        VarProRegressor
            Itself.

        Raises
        ------
        ValueError
            Images that are all alike, or settings that do not fit.
        """
        rows = self._rows(X, reset=True)
        values = _numbers(self, y)
        if len(rows) != len(values):
            msg = f"X and y must have the same length, got {len(rows)} and {len(values)}."
            raise ValueError(msg)
        self._one_target = values.ndim == 1
        targets = values.reshape(len(values), -1)
        weights, there = self._weights(sample_weight, len(rows))
        images, targets = self._training_images(rows, there), targets[there]
        config = self._config(len(images), _FIXED)
        # Penalties are for targets of about 1, as those of classes are.
        mean = np.average(targets, axis=0, weights=weights)
        scale = np.sqrt(np.average(np.square(targets - mean), axis=0, weights=weights))
        scale[scale == 0] = 1.0
        scaled, k = (targets - mean) / scale, targets.shape[1]

        with self._compute() as compute:
            training = TrainingSet(images, scaled, k, weights)
            trained, layer = train_layers(config, training, compute, **self._start(config))
        A = layer.A * scale
        A[-1] += mean
        self.config_, self.W_ = config, trained.W
        self.network_ = Network(
            trained.units, trained.W, A, np.arange(k), images.shape[1:], "ridge",
            config.output.views, {"regression": True}, preparation=trained.preparation,
        )  # fmt: skip
        self._set_reports(trained.subnetworks)
        self.loo_error_ = np.nan
        if layer.left_out is not None:
            at, outputs = layer.left_out.determined()
            errors = np.square((outputs - scaled[at]) * scale).mean(axis=1)
            if len(at):
                own = None if weights is None else weights[at]
                self.loo_error_ = float(np.average(errors, weights=own))
        return self

    def predict(self, X: ArrayLike) -> FloatArray:
        """Predict numbers.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`VarProClassifier.fit`, on the scale of training.

        Returns
        -------
        ndarray, shape (n,) or (n, t)
            As ``y`` was.

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        check_is_fitted(self, "network_")
        outputs = self.network_.outputs_of(self._images_of(X), n_jobs=self._n_jobs)
        return outputs[:, 0] if self._one_target else outputs


def _numbers(estimator: Any, y: Any) -> NDArray[Any]:
    if y is None:
        name = type(estimator).__name__
        msg = f"This {name} requires y to be passed, but the target y is None."
        raise ValueError(msg)
    checked = check_array(y, ensure_2d=False, dtype="numeric", input_name="y", estimator=estimator)
    plain_array(y, "y")  # the mask of a masked array
    if checked.ndim == 2 and checked.shape[1] == 1:
        checked = column_or_1d(checked, warn=True)
    return cast("NDArray[Any]", checked.astype(np.float64))
