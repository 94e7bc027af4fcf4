"""A scikit-learn classifier of images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from varpro_nn._arrays import plain_array
from varpro_nn._typing import FloatArray, LabelArray
from varpro_nn._warn import warn_user
from varpro_nn.data.imageset import Dataset, ImageSet, held_out
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import DatasetError
from varpro_nn.estimators.base import ImageEstimator, undone_on_error, with_settings
from varpro_nn.model.network import Network, probabilities
from varpro_nn.output.calibration import (
    conformal_threshold,
    expected_calibration_error,
    label_sets,
)
from varpro_nn.output.output_layer import OutputLayer
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.training.class_sizes import warn_of_class_sizes
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.contest import AUTO, contest
from varpro_nn.training.contest_results import Contest
from varpro_nn.training.layers import train_classifier
from varpro_nn.training.metrics import measure


@with_settings(class_weight=None, validation_fraction=None, refit=False)
class VarProClassifier(ClassifierMixin, ImageEstimator):  # type: ignore[misc]
    """Classifier of images whose units are trained by variable projection.

    Parameters
    ----------
    recipe : str or None, default=None
        Name of a recipe, as for :func:`varpro_nn.configure`; its settings go by the kind of images.
        None: ``"default"``, or ``"bilinear"`` for images of less than 8 pixels a side.
        ``"auto"``: ``fit`` compares settings on part of the rows and takes the best (``contest_``),
        which takes up to a few minutes. It needs ``warm_start=False``.
    image_shape : tuple of int, default=None
        Order of the pixels in a row of ``X``: (rows, columns), (channels, rows, columns) or, with
        at most four channels, (rows, columns, channels). None: the smallest square that holds a
        row, filled up with zeros. Where ``X`` is images, it is needed only if the channels may be
        first or last.
    n_jobs : int, default=None
        Worker processes, then threads; -1 for all cores, -2 for all but one. The result does not
        depend on it, bit for bit.
    random_state : int, RandomState or None, default=None
    warm_start : bool, default=False
        Start from the unit weights of the last fit. The scheme is then ``independent``.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, by label; ``"balanced"``: all classes weigh the same. They multiply
        ``sample_weight``.
    validation_fraction : float, default=None
        Share of the rows of each class that ``fit`` holds out of training, to measure the network:
        ``validation_metrics_``. Rows of weight 0 are not counted. None: train on all rows. Not with
        ``warm_start``, whose units may have seen these rows.
    refit : bool, default=False
        Train again on all rows after the network has been measured on the held-out ones. It takes
        twice the time. ``validation_metrics_`` are then of the first network, every other
        attribute of the second one.
    **settings
        Settings of units, sub-networks, data augmentation and output layer, with the names of
        :func:`varpro_nn.configure`: ``n_units``, ``max_nfev``, ``output_layer``, ... The default
        ``"recipe"`` takes the value from the recipe.

    Attributes
    ----------
    classes_ : ndarray, shape (k,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If ``X`` had names.
    network_ : varpro_nn.Network
        The trained network; it can be saved and exported. It takes ``X / intensity_``.
    config_ : varpro_nn.TrainConfig
        The settings that were used.
    image_shape_ : tuple of int
        (rows, columns) or (channels, rows, columns).
    intensity_ : float
        The value that counts as intensity 1. It is the largest absolute value in ``X``, without
        constant columns, or the 90 % quantile of the largest values per image, if the former is
        more than three times as large. Values beyond ten times ``intensity_`` are clipped, with a
        warning.
    history_ : list of varpro_nn.FitReport
        History of the cost of each sub-network, then the history of the middle layer, if one was
        trained.
    n_iter_ : int
        Evaluations of the longest of these fits.
    loo_error_ : float
        Error rate of the output layer on held-out images: exact leave-one-out for least squares,
        a split for other layers. The units were trained on these images.
    calibration_error_ : float
        Expected calibration error of ``predict_proba``, on the same outputs.
    validation_metrics_ : dict or None
        Figures on the held-out rows: ``accuracy``, ``balanced_accuracy``, ``macro_f1``,
        ``precision``, ``recall``, ``confusion_matrix`` and others. The names and meanings are
        those of ``metrics.json``, without ``validation_``. None without ``validation_fraction``.
    contest_ : varpro_nn.training.contest_results.Contest
        What was chosen, and the results. Only with ``recipe="auto"``.
    ridge_layer_ : varpro_nn.RidgeLayer
        Only after ``partial_fit``.

    See Also
    --------
    varpro_nn.run : The same pipeline for data sets with a test set.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from varpro_nn import VarProClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = VarProClassifier(n_units=24, random_state=0).fit(X[:1500], y[:1500])
    >>> classifier.score(X[1500:], y[1500:]) > 0.9
    True
    """

    network_: Network
    config_: TrainConfig
    contest_: Contest
    ridge_layer_: RidgeLayer
    validation_metrics_: dict[str, Any] | None
    _left_out: tuple[FloatArray, LabelArray, FloatArray | None] | None

    @undone_on_error
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Train on images ``X`` and labels ``y`` (n,).

        Parameters
        ----------
        X : array_like, shape (n, d), (n, rows, columns), (n, channels, rows, columns) or \
                (n, rows, columns, channels)
            Rows of pixels, or images. Intensities on any scale; the largest counts as 1.
        y : array_like, shape (n,)
        sample_weight : array_like, shape (n,), optional
            Weights of the rows in the cost of both layers, on any scale. Sub-networks draw their
            rows without weights, so a weight of 2 is not exactly the same as repeating the row.

        Returns
        -------
        VarProClassifier
            Itself.

        Raises
        ------
        ValueError
            Fewer than two classes, identical images, masked values, settings that do not fit, or a
            ``validation_fraction`` that is less than a row of every class or comes with
            ``warm_start``.
            The estimator is then unchanged.

        Warns
        -----
        UserWarning
            Rows that are filled up to squares, an ``image_shape`` that seems to be wrong, values
            far beyond the others, or a class with few images or far fewer than another
            (:class:`~varpro_nn.errors.ClassSizeWarning`).
        """
        y = _check_y(self, y)
        classes, codes = np.unique(y, return_inverse=True)
        self._fit(X, codes, classes, sample_weight, {})
        self.__dict__.pop("ridge_layer_", None)
        return self

    @undone_on_error
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: Sequence[Any] | None = None,
    ) -> Any:
        """Train on the first batch; for later batches, refit only the output layer to all images.

        From the second batch on, probabilities have no temperature, ``loo_error_`` and
        ``calibration_error_`` are NaN, and ``predict_set`` raises an error, because the images that
        would calibrate the new layer are not kept. It needs ``output_layer="ridge"`` and
        ``n_copies=0``, and sets them where they are left to the recipe.

        Parameters
        ----------
        X : array_like, shape (n, d)
        y : array_like, shape (n,)
        classes : array_like, shape (k,), optional
            All labels of all batches; needed in the first call, unless ``fit`` was called before.
            Only the classes of that fit are used.

        Returns
        -------
        VarProClassifier
            Itself.

        Raises
        ------
        ValueError
            No classes in the first call, or labels that are not among them.

        Warns
        -----
        UserWarning
            All images of the first batch are of one class: the units stay random.
        """
        first = not hasattr(self, "ridge_layer_")
        if self._is_auto:
            msg = (
                f"recipe must not be {AUTO!r} with partial_fit: one batch would choose for all; "
                "name a recipe, or take the settings of contest_.config after a fit."
            )
            raise ValueError(msg)
        for name in ("class_weight", "validation_fraction"):
            if getattr(self, name) is not None:
                msg = f"{name} must be None with partial_fit, got {getattr(self, name)!r}."
                raise ValueError(msg)
        y = _check_y(self, y)
        known: Any = getattr(self, "classes_", None)
        if first:
            classes = getattr(self, "classes_", None) if classes is None else classes
            if classes is None:
                msg = "classes must be given in the first call of partial_fit, got None."
                raise ValueError(msg)
            known = np.unique(plain_array(classes, "classes"))
            if hasattr(self, "network_"):
                msg = "partial_fit starts anew with its first batch, because fit kept no sums."
                warn_user(msg)
        elif classes is not None and not np.array_equal(self.classes_, np.unique(classes)):
            msg = f"classes must be those of the first call, {self.classes_}, got {classes}."
            raise ValueError(msg)
        unknown = np.setdiff1d(y, known)
        if len(unknown):
            msg = f"y must hold labels among classes, {known}, got {unknown} as well."
            raise ValueError(msg)
        codes = np.searchsorted(known, y)
        if first:
            fixed = {"output_layer": "ridge", "n_copies": 0}
            layer = self._fit(X, codes, known, None, fixed, keep_sums=True)
            assert layer.ridge_layer is not None
            self.ridge_layer_ = layer.ridge_layer
            return self
        self.ridge_layer_.add_images(self._images_of(X), codes)
        output = self.config_.output
        A = self.ridge_layer_.solve(output.penalty, standardise=output.standardise)
        # What the first batch calibrated predicts no more.
        self.network_ = replace(self.network_, A=A, temperature=None)
        self._left_out = None
        self.loo_error_ = self.calibration_error_ = np.nan
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`fit`, on the scale of training.

        Returns
        -------
        ndarray, shape (n,)

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        codes = self._outputs(X).argmax(axis=1)
        return cast("NDArray[Any]", self.classes_[codes])

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """Compute the outputs of the network.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`fit`, on the scale of training.

        Returns
        -------
        ndarray, shape (n, k)
            For two classes their difference, (n,).

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        outputs = self._outputs(X)
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """Estimate probabilities, calibrated on outputs that had not seen their image.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`fit`, on the scale of training.

        Returns
        -------
        ndarray, shape (n, k)
            In the order of ``classes_``.

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        outputs = self._outputs(X)
        return probabilities(outputs, self.network_.output_layer, self.network_.temperature)

    def predict_log_proba(self, X: ArrayLike) -> FloatArray:
        """Compute logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of pixels or images, as for :meth:`fit`, on the scale of training.

        Returns
        -------
        ndarray, shape (n, k)

        Raises
        ------
        ValueError
            Rows of another length, or on another scale than the rows of training.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict_set(self, X: ArrayLike, alpha: float = 0.1) -> NDArray[np.bool_]:
        """Predict sets that contain the true label for at least a share ``1 - alpha`` of images.

        These are conformal prediction sets. Their threshold comes from held-out outputs of training
        images; the final fit uses all images. The guarantee assumes that the units treat new images
        like training images. With few images, units overfit and the sets miss more labels: 0.057
        with ``alpha`` 0.01 and 1,500 digits (``python -m experiments.field.calibration --data
        digits``). With sample weights, the share refers to images with the weighted distribution.

        Parameters
        ----------
        X : array_like, shape (n, d)
        alpha : float, default=0.1

        Returns
        -------
        ndarray of bool, shape (n, k)
            Which of ``classes_`` are in the set, at least one.

        Raises
        ------
        ValueError
            ``alpha`` is outside (0, 1); or there are no held-out outputs, because the penalty of a
            softmax or hinge layer was given or ``partial_fit`` was called twice.
        """
        proba = self.predict_proba(X)
        if self._left_out is None:
            msg = (
                "predict_set needs held-out outputs: leave output_penalty to the recipe, or set "
                "output_layer='ridge', n_copies=0 and views='single'. After a second partial_fit "
                "there are none: call fit."
            )
            raise ValueError(msg)
        held_out, codes, weights = self._left_out
        return label_sets(proba, conformal_threshold(held_out, codes, alpha, weights))

    # --- how it is done --------------------------------------------------------------------

    def _fit(
        self,
        X: Any,
        codes: LabelArray,
        classes: NDArray[Any],
        sample_weight: Any,
        fixed: Mapping[str, Any],
        *,
        keep_sums: bool = False,
    ) -> OutputLayer:
        rows = self._rows(X, reset=True)
        if len(rows) != len(codes):
            msg = f"X and y must have the same length, got {len(rows)} and {len(codes)}."
            raise ValueError(msg)
        if self.class_weight is not None:
            _check_class_weight(self.class_weight)
        if self._is_auto and self.warm_start:
            msg = f"warm_start must be False with recipe={AUTO!r}, got {self.warm_start!r}."
            raise ValueError(msg)
        share, seed = self.validation_fraction, self._seed()
        _check_validation(share, self.refit, self.warm_start)
        self.__dict__.pop("contest_", None)
        _, there = self._weights(sample_weight, len(rows))
        given = None if sample_weight is None else np.asarray(sample_weight, np.float64)

        def train(chosen: NDArray[np.bool_]) -> OutputLayer:
            return self._train(
                rows, chosen, codes, classes, given, fixed, seed=seed, keep_sums=keep_sums
            )

        self.validation_metrics_ = None
        if share is None:
            return train(there)
        held = np.zeros(len(rows), bool)
        held[there] = held_out(codes[there], len(classes), share, seed)
        layer = train(there & ~held)
        images = self._checked_images(rows[held])
        outputs = self.network_.outputs_of(images, n_jobs=self._n_jobs)
        self.validation_metrics_ = measure(self.network_, outputs, codes[held])
        return train(there) if self.refit else layer

    def _train(
        self,
        rows: NDArray[Any],
        chosen: NDArray[np.bool_],
        codes: LabelArray,
        classes: NDArray[Any],
        sample_weight: FloatArray | None,
        fixed: Mapping[str, Any],
        *,
        seed: int,
        keep_sums: bool,
    ) -> OutputLayer:
        """Train on the ``chosen`` rows."""
        weights, there = None, chosen
        if sample_weight is not None or self.class_weight is not None:
            of_rows = np.where(chosen, 1.0 if sample_weight is None else sample_weight, 0.0)
            if self.class_weight is not None:
                labels = classes[codes[chosen]]
                of_rows[chosen] *= compute_sample_weight(self.class_weight, labels)
            weights, there = self._weights(of_rows, len(rows))
        images, codes = self._training_images(rows, there), codes[there]
        names = classes if classes.dtype.kind in "iuU" else classes.astype(str)
        if self._is_auto:
            if not hasattr(self, "contest_"):  # a refit has the settings that were measured
                balanced = isinstance(self.class_weight, str)
                own = weights
                if balanced:
                    plain = None if sample_weight is None else np.where(there, sample_weight, 0.0)
                    own, _ = self._weights(plain, len(rows))
                data = Dataset("", names, ImageSet(images, codes, own), None)
                self._hold_contest(data, seed, "balanced" if balanced else None)
            config = self.contest_.config.with_options(class_weight=None)
        else:
            config = self._config(len(images), fixed, seed, n_classes=len(classes))
        start = self._start(config)
        if keep_sums and len(np.unique(codes)) == 1:
            msg = (
                f"the first batch has only the class {classes[codes[0]]}, so the units learn "
                "nothing and stay random. Begin with a batch of several classes."
            )
            warn_user(msg)
            config = config.with_options(scheme="untrained", n_stages=1)

        training = TrainingSet(images, codes, len(names), weights)
        # Later batches may bring more images, and a second fit would say it again.
        if not keep_sums and self.validation_metrics_ is None:
            warn_of_class_sizes(training, classes)
        with self._compute() as compute:
            network, subnetworks, layer = train_classifier(
                config, training, names, compute, keep_sums=keep_sums, **start
            )
        self.classes_, self.network_, self.config_ = classes, network, config
        self.W_ = network.W
        self._set_reports(subnetworks)
        self._set_left_out(layer, codes, weights)
        return layer

    @property
    def _is_auto(self) -> bool:
        return isinstance(self.recipe, str) and self.recipe == AUTO

    def _hold_contest(self, data: Dataset, seed: int, class_weight: str | None) -> None:
        """Choose settings; balanced classes are weighted and measured by the contest itself."""
        given = {"class_weight": class_weight, **self._given()}
        try:
            self.contest_ = contest(data, seed=seed, n_jobs=self._n_jobs, **given)
        except DatasetError as error:
            raise ValueError(str(error)) from error

    def _set_left_out(
        self, layer: OutputLayer, codes: LabelArray, weights: FloatArray | None
    ) -> None:
        self._left_out = None
        self.loo_error_ = self.calibration_error_ = np.nan
        if layer.left_out is None:
            return
        rows, outputs = layer.left_out.determined()
        if not len(rows):
            return
        proba = probabilities(outputs, layer.name, self.network_.temperature)
        own = None if weights is None else weights[rows]
        wrong = outputs.argmax(axis=1) != codes[rows]
        self.loo_error_ = float(np.average(wrong, weights=own))
        self.calibration_error_ = expected_calibration_error(proba, codes[rows], own)
        self._left_out = proba, codes[rows], own

    def _outputs(self, X: Any) -> FloatArray:
        check_is_fitted(self, "network_")
        return self.network_.outputs_of(self._images_of(X), n_jobs=self._n_jobs)


def _check_validation(share: Any, refit: Any, warm_start: Any) -> None:
    if share is None and refit:
        msg = (
            "refit=True needs validation_fraction, got None; set validation_fraction=0.2, or "
            "leave refit out to train once on all images."
        )
        raise ValueError(msg)
    if share is not None and warm_start:
        msg = (
            f"validation_fraction must be None with warm_start, got {share!r}: the last fit may "
            "have trained the units on the held-out rows; set warm_start=False, or measure on "
            "other rows."
        )
        raise ValueError(msg)
    if share is None or (
        isinstance(share, Real) and not isinstance(share, bool) and 0 < float(share) < 1
    ):
        return
    msg = (
        f"validation_fraction must be a number above 0 and below 1, or None, got {share!r}; "
        "0.2 holds out a fifth of each class."
    )
    raise ValueError(msg)


def _check_class_weight(class_weight: Any) -> None:
    is_mapping = isinstance(class_weight, Mapping)
    if is_mapping and all(weight >= 0 for weight in class_weight.values()):
        return
    if isinstance(class_weight, str) and class_weight == "balanced":
        return
    msg = (
        "class_weight must be a dict of labels to weights of at least 0, 'balanced' or None, "
        f"got {class_weight!r}."
    )
    raise ValueError(msg)


def _check_y(estimator: Any, y: Any) -> NDArray[Any]:
    if y is None:
        name = type(estimator).__name__
        msg = f"This {name} requires y to be passed, but the target y is None."
        raise ValueError(msg)
    shape = np.asarray(y).shape
    if len(shape) == 2 and shape[1] > 1:
        msg = (
            f"y must have one label for each row, shape (n,), got shape {shape}; if the rows are "
            "one-hot, pass numpy.argmax(y, axis=1)."
        )
        raise ValueError(msg)
    column = column_or_1d(y, warn=True)
    check_classification_targets(column)
    plain_array(y, "y")  # the mask of a masked array
    return cast("NDArray[Any]", column)
