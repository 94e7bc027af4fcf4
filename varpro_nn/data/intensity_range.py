"""The range of intensities of images, and checks of other images against it.

A single extreme pixel does not set the range. Images whose minimum or maximum is far beyond the
extremes of nearly all images are excluded.
"""

import math
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from varpro_nn._typing import FloatArray
from varpro_nn._warn import warn_user
from varpro_nn.data.images import blocks_of
from varpro_nn.errors import IntensityWarning

_FEW = 0.05
"""Share of the images that may be outliers."""
_LEAST = 20
"""Among fewer images none is called an outlier: it could be the twentieth part of what comes."""
_OUTLIER = 3.0
"""Number of spans beyond what nearly all images reach, from which an image is an outlier."""
_BEYOND = 0.5
"""Images of another scale go beyond the range by more than this part of its span ..."""
_SHORT = 0.25
"""... or fall short of what nearly all training images reach."""


@dataclass(frozen=True, slots=True)
class IntensityRange:
    """Intensities that images reach, from the extremes of each image.

    Attributes
    ----------
    low, high : float
        Smallest and largest intensity, without outliers.
    dark, bright : float
        95 % of images have a pixel as dark as ``dark``, and 95 % one as bright as ``bright``.

    Raises
    ------
    ValueError
        Numbers that are not finite, or ``low`` above ``dark``, or ``bright`` above ``high``.
    """

    low: float
    dark: float
    bright: float
    high: float

    def __post_init__(self) -> None:
        values = astuple(self)
        finite = all(isinstance(v, float) and math.isfinite(v) for v in values)
        if not finite or self.low > min(self.dark, self.high) or self.bright > self.high:
            msg = f"low, dark, bright and high must be finite and in order, got {values}."
            raise ValueError(msg)

    @classmethod
    def of(cls, images: Any) -> "IntensityRange":
        """Measure images.

        With the 5 % quantile q of the minima and the 95 % quantile Q of the maxima, an image is an
        outlier if a pixel is below q - 3 (Q - q) or above Q + 3 (Q - q), and there are at least 20
        images.

        Parameters
        ----------
        images : ndarray or ImagesOnDisk, shape (n, ...)
            Numbers on any scale: bytes are taken as 0 to 255.
        """
        minima, maxima = _extremes(images)
        if len(minima) >= _LEAST:
            # Whole images: an interpolated quantile would be moved by the outlier next to it.
            least = float(np.quantile(minima, _FEW, method="higher"))
            most = float(np.quantile(maxima, 1 - _FEW, method="lower"))
            reach = _OUTLIER * (most - least)
            if reach > 0:
                sound = (minima >= least - reach) & (maxima <= most + reach)
                minima, maxima = minima[sound], maxima[sound]
        return cls(
            float(minima.min()),
            float(np.quantile(minima, 1 - _FEW)),
            float(np.quantile(maxima, _FEW)),
            float(maxima.max()),
        )

    @property
    def span(self) -> float:
        """Difference of ``high`` and ``low``."""
        return self.high - self.low

    def scaled(self, factor: float) -> "IntensityRange":
        """Return the range of the same images times ``factor`` > 0."""
        return IntensityRange(*(factor * value for value in astuple(self)))

    def check(self, images: Any, name: str = "images", *, remedy: str | None = None) -> None:
        """Compare images with the range of the training images, which this is.

        If most images are beyond the range, they are on another scale, which is an error. If a few
        are, a warning follows, because a single pixel can cause that. It is also a warning if most
        images are far darker, or lighter, than nearly all training images; images of one intensity
        do not count.

        Parameters
        ----------
        images : ndarray or ImagesOnDisk, shape (n, ...)
            On the scale of the range.
        name, remedy : str
            Name of the argument, and what to do about an error; for messages.

        Raises
        ------
        ValueError
            More than half of the images are beyond the range by more than half its span.

        Warns
        -----
        IntensityWarning
        """
        if not self.span:
            return
        remedy = remedy or f"scale {name} as in training."
        minima, maxima = _extremes(images)
        expected = f"from {self.low:.4g} to {self.high:.4g} as in training"
        reach = _BEYOND * self.span
        beyond = (minima < self.low - reach) | (maxima > self.high + reach)
        if beyond.any():
            at = int(np.flatnonzero(beyond)[0])
            got = maxima[at] if maxima[at] > self.high else minima[at]
            of = f"{beyond.sum()} of {len(beyond)}"
            if 2 * beyond.sum() > len(beyond):
                msg = (
                    f"{name} must be {expected}, got {got:.4g} in image {at} and values far "
                    f"outside in {of} images; {remedy}"
                )
                raise ValueError(msg)
            warn_user(
                f"{name} should be {expected}, got {got:.4g} in image {at} and values far "
                f"outside in {of} images; the labels of these images are not reliable.",
                IntensityWarning,
            )
        reach, structured = _SHORT * self.span, maxima > minima
        short = (maxima < self.bright - reach) | (minima > self.dark + reach)
        if 2 * (short & structured).sum() > max(structured.sum(), 1):
            least, most = float(minima[structured].min()), float(maxima[structured].max())
            warn_user(
                f"{name} should be {expected}, got images from {least:.4g} to {most:.4g}; nearly "
                f"all training images have a pixel of at most {self.dark:.4g} and one of at least "
                f"{self.bright:.4g}. If the scale differs, {remedy}",
                IntensityWarning,
            )


def _extremes(images: Any) -> tuple[FloatArray, FloatArray]:
    """Minimum and maximum of each image, (n,) each."""
    minima, maxima = [], []
    for block in blocks_of(images):
        flat = block.reshape(len(block), -1)
        minima.append(flat.min(axis=1))
        maxima.append(flat.max(axis=1))
    return np.concatenate(minima).astype(np.float64), np.concatenate(maxima).astype(np.float64)
