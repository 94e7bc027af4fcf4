"""The finished network: units, their weights, linear weights, and what they stand for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from varpro_nn._arrays import plain_array
from varpro_nn._io import archive
from varpro_nn._typing import FloatArray, ImageArray, LabelArray
from varpro_nn.data.images import check_images
from varpro_nn.data.preparation import Preparation
from varpro_nn.data.unlabelled import read_images
from varpro_nn.errors import ModelFileError
from varpro_nn.linalg.threads import thread_pool
from varpro_nn.model.tables import as_html, as_text
from varpro_nn.output.features import VIEWS, block_slices, feature_blocks
from varpro_nn.units import (
    Units,
    UnitsOnMaps,
    array_fields,
    spec_of,
    units_from_spec,
    with_n_units,
)
from varpro_nn.units.maps import n_columns_below, shape_of_maps


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A trained image classifier.

    Attributes
    ----------
    units : Units
        With ``units.n_units`` equal to h.
    W : ndarray of float32, shape (h, p)
        Unit weights of all sub-networks, one below the other.
    A : ndarray of float64, shape (h * m + c + 1, k)
        Linear weights: h m rows of the units, c rows of lower layers (``cells_below``, else c = 0),
        and the row of the constant column.
    classes : ndarray, shape (k,)
        The label that each output stands for: integers or strings.
    image_shape : tuple of int
        (rows, columns) or (channels, rows, columns).
    output_layer : {"ridge", "softmax", "hinge"}
        What ``A`` minimises: it decides how outputs become probabilities.
    views : {"single", "flip"}
        ``flip``: outputs are the mean over the image and its mirror image (test-time
        augmentation).
    temperature : float or None
        Probabilities are the softmax of the outputs divided by it, calibrated on outputs that did
        not see their image (:mod:`varpro_nn.output.calibration`). None: not calibrated; see
        :func:`probabilities`.
    training : dict
        How it came about (settings, seed, digest of the data): plain values, kept in the file.
    preparation : Preparation
        Intensities of the training images, and how a picture of any size becomes like them.

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """

    units: Units
    W: NDArray[np.float32]
    A: FloatArray
    classes: NDArray[Any]
    image_shape: tuple[int, ...]
    output_layer: str = "ridge"
    views: str = "single"
    training: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    preparation: Preparation = field(default_factory=Preparation)

    def __post_init__(self) -> None:
        below = n_columns_below(self.units)
        expected = (len(self.W) * self.units.n_cells + below + 1, len(self.classes))
        if (self.W.dtype, self.A.dtype) != (np.dtype(np.float32), np.dtype(np.float64)):
            msg = f"W must be float32 and A float64, got {self.W.dtype} and {self.A.dtype}."
            raise ValueError(msg)
        if self.classes.ndim != 1 or self.classes.dtype.kind not in "iuU":
            msg = f"classes must be a row of integers or strings, got {self.classes!r}."
            raise ValueError(msg)
        if len(np.unique(self.classes)) != len(self.classes):
            msg = f"classes must be distinct, got {self.classes.tolist()}."
            raise ValueError(msg)
        if self.W.ndim != 2 or self.W.shape[1] != self.units.n_weights or self.A.shape != expected:
            msg = (
                f"W must be (h, {self.units.n_weights}) and A (h * {self.units.n_cells} + "
                f"{below + 1}, {len(self.classes)}), got {self.W.shape} and {self.A.shape}."
            )
            raise ValueError(msg)
        if self.units.n_units != len(self.W):
            msg = (
                f"units.n_units must be the number of rows of W, {len(self.W)}, got "
                f"{self.units.n_units}; Network.with_weights changes both."
            )
            raise ValueError(msg)
        if not (np.isfinite(self.W).all() and np.isfinite(self.A).all()):
            msg = "W and A must be finite, got weights that are NaN or infinite."
            raise ValueError(msg)
        if self.output_layer not in _PROBABILITIES or self.views not in VIEWS:
            msg = (
                f"output_layer must be one of {', '.join(_PROBABILITIES)} and views one of "
                f"{', '.join(VIEWS)}, got {self.output_layer!r} and {self.views!r}."
            )
            raise ValueError(msg)
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            msg = f"temperature must be positive and finite, got {self.temperature}."
            raise ValueError(msg)
        unit_shape = getattr(self.units, "image_shape", self.image_shape)
        if unit_shape != self.image_shape:
            msg = f"image_shape {self.image_shape} is not that of the units, {unit_shape}."
            raise ValueError(msg)

    def with_weights(self, W: ArrayLike, A: ArrayLike) -> "Network":
        """Copy the network with other weights of its units, any number of them.

        Parameters
        ----------
        W : array_like, shape (h, p)
        A : array_like, shape (h * m + c + 1, k)
            Rows as in :class:`Network`.

        Returns
        -------
        Network

        Raises
        ------
        ValueError
            Shapes that do not fit together.
        TypeError
            Another number of units, and the class is not a dataclass.
        """
        rows = plain_array(W, "W").astype(np.float32, copy=False)
        units = with_n_units(self.units, len(rows))
        return replace(self, units=units, W=rows, A=plain_array(A, "A").astype(np.float64))

    @property
    def n_parameters(self) -> int:
        """All parameters: unit weights, linear ones, and what was learnt of the windows before."""
        learnt = sum(array.size for array in self._learnt.values())
        return self.W.size + self.A.size + learnt

    @property
    def _learnt(self) -> Mapping[str, FloatArray]:
        """Arrays of the units, as of their whitening."""
        return array_fields(self.units)

    def decision_function(self, images: ArrayLike, *, n_jobs: int = 1) -> FloatArray:
        """Compute the outputs of the linear layer.

        Parameters
        ----------
        images : array_like, shape (n, *image_shape)
            ``uint8`` (0 to 255, divided by 255), or the intensities themselves as floats. Channels
            may come last; a single channel may or may not have its axis.
        n_jobs : int
            Threads, -1 for all cores; no bit of the result depends on it.

        Returns
        -------
        ndarray of float64, shape (n, k)

        Raises
        ------
        ValueError
            Images of another shape, not finite, or on another scale than the training images.

        Warns
        -----
        IntensityWarning
            Some images are far outside the intensities of training, or most are too dark or light.
        """
        checked = check_images(images, image_shape=self.image_shape)
        self.preparation.check(checked)
        return self.outputs_of(checked, n_jobs=n_jobs)

    def outputs_of(self, images: ImageArray, *, n_jobs: int = 1) -> FloatArray:
        """Compute the outputs of images that :meth:`decision_function` would not refuse.

        The estimators use it, because they check rows before these become images.

        Parameters
        ----------
        images : ndarray, shape (n, *image_shape)
            As :func:`varpro_nn.data.images.check_images` returns them.
        n_jobs : int
            Threads, -1 for all cores; no bit of the result depends on it.

        Returns
        -------
        ndarray of float64, shape (n, k)
        """
        views = VIEWS[self.views]
        blocks = block_slices(len(images), len(self.A))
        outputs = np.zeros((len(images), len(self.classes)))
        with thread_pool(n_jobs) as threads:
            for view in views:
                for rows, Phi in feature_blocks(
                    self.units, self.W, images, threads, blocks=blocks, view=view
                ):
                    outputs[rows] += (Phi @ self.A[:-1] + self.A[-1]) / len(views)
        return outputs

    def read_images(self, path: str | os.PathLike[str], *, prepare: bool = False) -> ImageArray:
        """Read pictures, or an array in a file, as images that the network takes.

        The exported programs (ONNX, C) take these images too. ``python -m varpro_nn.predict`` reads
        files in the same way.

        Parameters
        ----------
        path : str or path
            A picture, a folder of pictures, or a ``.npz``, ``.npy`` or IDX file, as in
            :func:`varpro_nn.data.read_images`.
        prepare : bool
            Make pictures of any size like the training images. By default pictures must have the
            size of the images. A network that was trained on a folder of pictures of several sizes
            crops and resizes pictures in both cases.

        Returns
        -------
        ndarray, shape (n, *image_shape)
            ``uint8`` for pictures, in the order of their paths; else as in the file.

        Raises
        ------
        DatasetError
            The file cannot be read, holds no images, or images of another shape.
        ValueError
            The network was not trained on bytes, so it takes no pictures.
        """
        prepared = self.preparation.for_pictures(prepare=prepare)
        return read_images(path, self.image_shape, prepared=prepared)

    def predict_codes(self, images: ArrayLike, *, n_jobs: int = 1) -> LabelArray:
        """Predict class numbers.

        Parameters
        ----------
        images : array_like, shape (n, *image_shape)
        n_jobs : int
            Threads, -1 for all cores; no bit of the result depends on it.

        Returns
        -------
        ndarray of int64, shape (n,)
            Positions in ``classes``, 0 to k - 1.

        Raises
        ------
        ValueError
            As :meth:`decision_function`.
        """
        codes = self.decision_function(images, n_jobs=n_jobs).argmax(axis=1)
        return codes.astype(np.int64, copy=False)

    def predict(self, images: ArrayLike, *, n_jobs: int = 1) -> NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        images : array_like, shape (n, *image_shape)
        n_jobs : int
            Threads, -1 for all cores; no bit of the result depends on it.

        Returns
        -------
        ndarray, shape (n,)
            Entries of ``classes``.

        Raises
        ------
        ValueError
            As :meth:`decision_function`.
        """
        return self.classes[self.predict_codes(images, n_jobs=n_jobs)]

    def predict_proba(self, images: ArrayLike, *, n_jobs: int = 1) -> FloatArray:
        """Estimate the probabilities of the classes; see ``temperature`` above.

        Parameters
        ----------
        images : array_like, shape (n, *image_shape)
        n_jobs : int
            Threads, -1 for all cores; no bit of the result depends on it.

        Returns
        -------
        ndarray of float64, shape (n, k)
            In the order of ``classes``; rows sum to 1.

        Raises
        ------
        ValueError
            As :meth:`decision_function`.
        """
        outputs = self.decision_function(images, n_jobs=n_jobs)
        return probabilities(outputs, self.output_layer, self.temperature)

    def summary(self) -> str:
        """Make a table of what the network consists of, every parameter counted.

        Returns
        -------
        str
        """
        return as_text(self._rows())

    def _repr_html_(self) -> str:
        return as_html(self._rows(), "varpro_nn network")

    def _rows(self) -> list[tuple[str, str]]:
        h, p = self.W.shape
        kind = getattr(self.units, "kind", type(self.units).__name__)
        activation = getattr(self.units, "activation", "")
        side = getattr(self.units, "window", None)
        window = "" if side is None else f" of {side} x {side} windows"
        own = {name: a for name, a in self._learnt.items() if "." not in name}
        below = n_columns_below(self.units)
        return [
            ("images", " x ".join(map(str, self.image_shape))),
            ("units", f"{h:,} {kind}{window} {activation}".rstrip()),
            ("cells of a unit", f"{self.units.n_cells:,}"),
            ("weights of a unit", f"{p:,}"),
            ("unit weights", f"{self.W.size:,}"),
            *_rows_below(self.units),
            *((f"{name} of windows", f"{a.size:,}") for name, a in own.items()),
            *([("columns of lower layers", f"{below:,}")] if below else []),
            ("linear weights", f"{self.A.size:,} ({self.output_layer})"),
            ("all parameters", f"{self.n_parameters:,}"),
            ("classes", f"{len(self.classes):,}"),
        ]

    def save(self, path: str | Path) -> None:
        """Write the network to one file, atomically; the same network gives the same bytes.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        ValueError
            If the units are of a class of your own that is not registered
            (:func:`varpro_nn.register_units`), because a file contains no code.
        TypeError
            A field of such a class is neither a plain value nor an array.
        OSError
            The file cannot be written; an older one stays.
        """
        spec, learnt = spec_of(self.units)
        header = {
            "units": spec,
            "image_shape": list(self.image_shape),
            "output_layer": self.output_layer,
            "views": self.views,
            "temperature": self.temperature,
            "training": self.training,
            "preparation": self.preparation.spec(),
        }
        arrays: dict[str, NDArray[Any]] = {"W": self.W, "A": self.A, "classes": self.classes}
        arrays.update({f"units.{name}": array for name, array in learnt.items()})
        archive.write(Path(path), header, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Network":
        """Read a network that :meth:`save` wrote, or that of a run folder.

        Parameters
        ----------
        path : str or Path
            The file, or the run folder.

        Returns
        -------
        Network

        Raises
        ------
        ModelFileError
            The file is damaged, does not match its header, has a newer format, or has units of a
            class of your own that is not registered.
        FileNotFoundError
            There is none.
        """
        path = Path(path)
        if not path.exists():
            msg = f"{path}: there is no such file or folder; give a run folder, or its model.npz."
            raise FileNotFoundError(msg)
        path = path / "model.npz" if path.is_dir() else path
        if not path.exists():
            msg = f"{path}: there is no model; a run has none before it is finished."
            raise FileNotFoundError(msg)
        header, arrays = archive.read(path)
        try:
            learnt = {name: array for name, array in arrays.items() if name.startswith("units.")}
            W, A, classes = arrays["W"], arrays["A"], arrays["classes"]
            # Older files have the number of units of one sub-network here.
            units = units_from_spec(
                {**header["units"], "n_units": len(W)},
                {name.removeprefix("units."): a for name, a in learnt.items()},
            )
            shape = tuple(index(length) for length in header["image_shape"])
            # Version 1 of the format had one output layer and one view, version 2 no temperature.
            layer, views = header.get("output_layer", "ridge"), header.get("views", "single")
            temperature = header.get("temperature")
            if views == "shifts":
                msg = "views='shifts' was removed; train anew with views flip or single."
                raise ValueError(msg)
            training = _checked_training(header["training"])
            if "preparation" in header:
                preparation = Preparation.from_spec(header["preparation"])
            else:
                preparation = Preparation.of_older_file(training.get("largest_intensity"))
            return cls(
                units, W, A, classes, shape, layer, views, training, temperature, preparation
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            msg = f"{path}: the header and the arrays do not make a network: {error}"
            raise ModelFileError(msg) from error


def _rows_below(units: Any) -> list[tuple[str, str]]:
    """Describe the layers below units on maps, the lowest one first."""
    if not isinstance(units, UnitsOnMaps):
        return []
    below, lower = units.below, units.below.units
    channels, rows, columns = shape_of_maps(lower, len(below.W))
    windows = sum(a.size for name, a in array_fields(lower).items() if "." not in name)
    side = f"{below.window} x {below.window}"
    projection = sum(units.arrays[name].size for name in ("centre", "whitening"))
    return [
        *_rows_below(lower),
        ("layer below", f"{len(below.W):,} units, {channels:,} maps of {rows} x {columns}"),
        ("  unit weights", f"{below.W.size:,}"),
        *([("  whitening of windows", f"{windows:,}")] if windows else []),
        (f"  projection of {side} windows", f"{projection:,}"),
    ]


def _checked_training(training: Any) -> dict[str, Any]:
    """Check what :class:`Network` itself reads of ``training``."""
    if not isinstance(training, dict):
        msg = f"training must be an object, got {training!r:.200}."
        raise TypeError(msg)
    largest = training.get("largest_intensity", 1.0)
    if not isinstance(largest, int | float) or not 0 <= largest < np.inf:
        msg = f"largest_intensity must be a finite number from 0 on, got {largest!r:.200}."
        raise ValueError(msg)
    return training


def probabilities(
    outputs: FloatArray, output_layer: str = "ridge", temperature: float | None = None
) -> FloatArray:
    """Turn outputs of the last layer (n, k) into probabilities (n, k).

    With a temperature: the softmax of the outputs divided by it. Without:

    *softmax*: their exponentials, scaled to sum 1: what the layer was fitted to. *hinge*: the
    same, though its outputs are margins and no logarithms of probabilities: an order, not
    calibrated.

    *ridge*: targets are 0 and 1 and the constant column is not penalised, so the outputs of an
    image sum to 1 and estimate its class probabilities already; they may be negative. Those are
    set to 0 and the rest scaled to sum 1, which leaves the largest where it was.
    """
    if temperature is not None:
        return _of_logits(outputs / temperature)
    return _PROBABILITIES[output_layer](outputs)


def _of_logits(outputs: FloatArray) -> FloatArray:
    return np.asarray(scipy.special.softmax(outputs, axis=1))


def _of_least_squares(outputs: FloatArray) -> FloatArray:
    positive = np.maximum(outputs, 0.0)
    total = positive.sum(axis=1, keepdims=True)
    uniform = np.full_like(outputs, 1 / outputs.shape[1])
    return np.divide(positive, total, out=uniform, where=total > 0)


_PROBABILITIES = {"ridge": _of_least_squares, "softmax": _of_logits, "hinge": _of_logits}
