"""Preparation of pictures, so that they look like the training images of a network.

Training measures three properties of the training images, and the network keeps them:

- *Intensities*: the range that they reach (:mod:`varpro_nn.data.intensity_range`).
- *Ground*: the intensity of a plain background, as of ink on paper, in grey images. A picture on
  the opposite ground is inverted.
- *Frame*: size and place of the object, if they are the same in nearly all images. The place is the
  middle of the bounding box, or the centre of mass. MNIST has boxes of 20 of 28 pixels and the
  centre of mass in the middle. The object of a picture is scaled and moved to the frame.

Without a ground, a picture is only cropped and resized. So it is, too, where the training images
were made of pictures of several sizes (*cropped*), so that each of these pictures becomes the same
image again. ``exporters/templates/draw.js`` does the same in a browser.
"""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, replace
from math import floor, isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.data.cropping import crop_planes, middle, resized
from varpro_nn.data.images import intensities
from varpro_nn.data.intensity_range import IntensityRange
from varpro_nn.data.pictures import read_cropped, read_picture

ANCHORS = ("mass", "box")
_SAMPLE = 500
"""Training images on which ground and frame are measured."""
_FAINT = 0.1
"""Ink of less than this part of the contrast is none."""
_MOST = 0.95
"""Share of training images that must agree."""
_PLAIN = 0.5
"""Share of the pixels of a border that make it plain, if they are alike."""
_AWAY = 1.0
"""Pixels that the anchor may be away from the centre of the frame."""
_OFF = 0.5
"""Pixels that the longer side may differ from the frame, if a picture is not scaled to it."""
_BYTES_REACH = 0.05
"""Intensities may go beyond 0 and 1 by this (interpolation does), and still be bytes / 255."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Size and place of an object on a plain ground.

    Attributes
    ----------
    filled : float
        The longer side of the bounding box, as part of the image's side in that direction.
    anchor : {"mass", "box"}
        What lies at ``centre``: the centre of mass, or the middle of the bounding box.
    centre : tuple of float
        Place in parts of rows and of columns, (0.5, 0.5) being the middle.
    """

    filled: float
    anchor: str
    centre: tuple[float, float]

    def __post_init__(self) -> None:
        numbers = (self.filled, *self.centre)
        sound = len(numbers) == 3 and all(isinstance(n, float) and 0 < n <= 1 for n in numbers)
        if not sound or self.anchor not in ANCHORS:
            msg = (
                "filled and centre must be parts of the image and anchor one of "
                f"{', '.join(ANCHORS)}, got {self}."
            )
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Preparation:
    """Properties of the training images that decide how a picture is prepared; see the module.

    Attributes
    ----------
    intensities : IntensityRange or None
        Range of the training images, bytes divided by 255. None: not known.
    ground : float or None
        Intensity of the plain ground. None: there is none, or it is not known.
    frame : Frame or None
        None: objects have any size and place.
    learnt : bool
        Whether ground and frame were looked for. Older model files have no record of them.
    cropped : bool
        Whether the training images were cropped and resized pictures. Ground and frame are None
        then.
    in_bytes : bool
        Whether pictures without a ground are resized as bytes. Older model files have none of this:
        their pictures are resized in floating point, which may differ by 1 of 255.
    """

    intensities: IntensityRange | None = None
    ground: float | None = None
    frame: Frame | None = None
    learnt: bool = False
    cropped: bool = False
    in_bytes: bool = True

    def __post_init__(self) -> None:
        known = self.intensities is not None
        sound = self.ground is None or (isinstance(self.ground, float) and isfinite(self.ground))
        if not sound or (self.ground is not None and not known):
            msg = f"ground must be a finite intensity beside their range, got {self.ground}."
            raise ValueError(msg)
        if self.frame is not None and self.ground is None:
            msg = "frame needs a ground."
            raise ValueError(msg)
        if self.cropped and self.ground is not None:
            msg = "cropped pictures have no ground."
            raise ValueError(msg)

    # --- how it comes about ----------------------------------------------------------------

    @classmethod
    def learn(cls, images: Any, *, cropped: bool = False) -> "Preparation":
        """Measure training images.

        Parameters
        ----------
        images : ndarray or ImagesOnDisk, shape (n, rows, columns) or (n, channels, rows, columns)
            ``uint8`` or floating point, checked.
        cropped : bool
            Whether they were cropped and resized already, from pictures of several sizes.
        """
        reached = IntensityRange.of(images)
        if images.dtype == np.uint8:
            reached = reached.scaled(1 / 255)
        bare = cls(reached, learnt=True, cropped=cropped)
        if cropped or not bare.takes_bytes or not reached.span or prod(images.shape[1:-2]) != 1:
            return bare
        chosen = np.linspace(0, len(images) - 1, min(len(images), _SAMPLE)).astype(np.int64)
        planes: Any = intensities(images[chosen], np.float64).reshape(-1, *images.shape[-2:])
        ground = _ground_of(planes, reached)
        if ground is None:
            return bare
        plain = replace(bare, ground=ground)
        frame = _frame_of(plain._ink(planes))
        return replace(plain, frame=frame)

    @classmethod
    def of_older_file(cls, largest: Any) -> "Preparation":
        """Return what a model file without a preparation tells: the largest absolute intensity.

        Raises
        ------
        TypeError
        """
        if largest is None or not 0 < largest < np.inf:
            return cls(in_bytes=False)
        high = float(largest)
        # No more is known than that: nothing is too dark. Intensities up to 1 were bytes, mostly.
        low = 0.0 if high <= 1 else -high
        return cls(IntensityRange(low, high, low, high), in_bytes=False)

    def spec(self) -> dict[str, Any]:
        """Return plain values, for a model file."""
        return {
            "intensities": None if self.intensities is None else list(astuple(self.intensities)),
            "ground": self.ground,
            "frame": None if self.frame is None else asdict(self.frame),
            "learnt": self.learnt,
            "cropped": self.cropped,
            "in_bytes": self.in_bytes,
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Preparation":
        """Make what :meth:`spec` describes.

        Raises
        ------
        KeyError, TypeError, ValueError
            Plain values that describe nothing.
        """
        reached, frame = spec["intensities"], spec["frame"]
        return cls(
            None if reached is None else IntensityRange(*reached),
            spec["ground"],
            None
            if frame is None
            else Frame(frame["filled"], frame["anchor"], tuple(frame["centre"])),
            bool(spec["learnt"]),
            bool(spec.get("cropped", False)),  # older files lack these two
            bool(spec.get("in_bytes", False)),
        )

    # --- what it says about arrays ---------------------------------------------------------

    @property
    def takes_bytes(self) -> bool:
        """Whether the training images were bytes divided by 255, as far as is known."""
        if self.intensities is None:
            return True
        low, high = self.intensities.low, self.intensities.high
        return low >= -_BYTES_REACH and high <= 1 + _BYTES_REACH

    def check(self, images: Any) -> None:
        """Compare intensities of images with those of training.

        Parameters
        ----------
        images : ndarray or ImagesOnDisk, shape (n, ...)
            ``uint8`` or floating point, checked.

        Raises
        ------
        ValueError
            Bytes for a network that was trained on other intensities; or as
            :meth:`IntensityRange.check`.

        Warns
        -----
        IntensityWarning
            As :meth:`IntensityRange.check`.
        """
        reached = self.intensities
        if reached is None:
            return
        if images.dtype == np.uint8:
            if not self.takes_bytes:
                msg = (
                    f"images must be floating point, from {reached.low:.4g} to "
                    f"{reached.high:.4g} as in training, got uint8, which is divided by 255; scale "
                    "the images as the training images were, or train on uint8."
                )
                raise ValueError(msg)
            reached = reached.scaled(255)
        remedy = "pixels from 0 to 255 must be uint8, others on the scale of training."
        reached.check(images, remedy=remedy if self.takes_bytes else None)

    # --- what it does to a picture ---------------------------------------------------------

    def for_pictures(self, *, prepare: bool = False) -> "Preparation | None":
        """Say what is done with a picture before the network gets it.

        Parameters
        ----------
        prepare : bool
            Make pictures of any size like the training images (``predict --prepare``).

        Returns
        -------
        Preparation or None
            None: a picture must have the size of the images, and is taken as it is. Networks that
            were trained on cropped pictures crop new ones too, whatever ``prepare`` is.
        """
        return self if prepare or self.cropped else None

    def read(self, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read a picture file, and make an image like those of training.

        Where pictures are only cropped and resized, this is how
        :mod:`varpro_nn.data.picture_set` makes the training images.

        Parameters
        ----------
        path : Path
        shape : (rows, columns), (1, rows, columns) or (3, rows, columns)
            Of the image.

        Returns
        -------
        ndarray of uint8, shape ``shape``

        Raises
        ------
        ValueError
            The network was not trained on bytes.
        DatasetError
            As :func:`varpro_nn.data.pictures.read_picture`.
        """
        if self.ground is None and self.in_bytes:
            self._check_takes_pictures()
            return read_cropped(path, shape)[0]
        return self.picture(read_picture(path, 1 if len(shape) == 2 else shape[0]), shape)

    def picture(self, pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Make an image like those of training.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (rows, columns) or (channels, rows, columns)
            Of any size.
        shape : tuple of int
            Shape of the image, with as many channels.

        Returns
        -------
        ndarray of uint8, shape ``shape``
            Without a ground: the largest middle part that has the image's proportions, resized.
            With one: the object on the ground of the training images. An empty picture becomes
            all ground.

        Raises
        ------
        ValueError
            The network was not trained on bytes.
        """
        self._check_takes_pictures()
        rows, columns = shape[-2:]
        planes: Any = pixels.reshape(-1, *pixels.shape[-2:])
        if self.ground is None or len(planes) != 1:
            if self.in_bytes:
                return crop_planes(planes, rows, columns).reshape(shape)
            box = middle(planes.shape[-2:], rows, columns)
            parts = np.stack([_resized(plane, box, rows, columns) for plane in planes])
            return _as_bytes(parts / 255).reshape(shape)
        planes = planes.astype(np.float32)
        ink = self._ink(planes / 255)[0]
        if self.frame is None or _stands(ink, self.frame, rows, columns):
            placed = _whole(ink, rows, columns)
        else:
            placed = _framed(ink, self.frame, rows, columns)
        return _as_bytes(self.ground + placed * (self.full_ink - self.ground)).reshape(shape)

    def _check_takes_pictures(self) -> None:
        if not self.takes_bytes:
            msg = (
                "this network was trained on other intensities than bytes divided by 255, so it "
                "takes no pictures; give arrays on the scale of training."
            )
            raise ValueError(msg)

    @property
    def full_ink(self) -> float:
        """With a ground: the end of the range that is farther from it."""
        assert self.intensities is not None
        assert self.ground is not None
        low, high = self.intensities.low, self.intensities.high
        return high if self.ground < (low + high) / 2 else low

    @property
    def stretches(self) -> bool:
        """With a ground: whether nearly all training images have a pixel of full ink."""
        assert self.intensities is not None
        assert self.ground is not None
        reached = self.intensities.bright if self.full_ink > self.ground else self.intensities.dark
        return abs(self.full_ink - reached) <= _FAINT * self.intensities.span

    def _ink(self, planes: RealArray) -> FloatArray:
        """Turn intensities (n, rows, columns) into ink: 0 for the ground, 1 for full ink.

        What most of the border is counts as ground. If that is on the other side of the middle
        than the ground of training, the picture is inverted.
        """
        assert self.ground is not None
        level = np.median(_borders(planes), axis=1)[:, None, None]
        ink = np.where(level < 0.5, planes - level, level - planes).astype(np.float64)
        contrast, whole = ink.max(axis=(1, 2), keepdims=True), abs(self.full_ink - self.ground)
        unit = contrast if self.stretches else whole
        ink = np.divide(ink, unit, out=np.zeros(ink.shape), where=contrast >= _FAINT * whole)
        return np.clip(ink, 0.0, 1.0)


def _borders(planes: RealArray) -> RealArray:
    """Pixels at the edges of planes (n, rows, columns), each once."""
    edges = planes[:, 0], planes[:, -1], planes[:, 1:-1, 0], planes[:, 1:-1, -1]
    return np.concatenate(edges, axis=1)


def _ground_of(planes: FloatArray, reached: IntensityRange) -> float | None:
    """Intensity of the ground of nearly all images, if they have one."""
    borders = _borders(planes)
    levels = np.median(borders, axis=1)
    alike = np.abs(borders - levels[:, None]) <= _FAINT * reached.span
    if np.mean(alike.mean(axis=1) >= _PLAIN) < _MOST:
        return None
    ground = float(np.median(levels))
    near = np.abs(levels - ground) <= _FAINT * reached.span
    at_an_end = min(ground - reached.low, reached.high - ground) <= _FAINT * reached.span
    return ground if near.mean() >= _MOST and at_an_end else None


def _frame_of(inks: FloatArray) -> Frame | None:
    """Find how ink (n, rows, columns) fills the images, if it fills nearly all of them alike."""
    shown = inks[inks.any(axis=(1, 2))]
    if not len(shown):
        return None
    boxes, sides = _boxes(shown), np.array(shown.shape[1:])
    lengths = (boxes[:, 2:] - boxes[:, :2]) / sides
    filled = float(np.median(lengths.max(axis=1)))
    if np.mean(np.abs(lengths.max(axis=1) - filled) <= 1 / sides.min()) < _MOST:
        return None
    places = {
        "mass": _masses(shown) / sides,
        "box": (boxes[:, 2:] + boxes[:, :2]) / 2 / sides,
    }
    centres = {anchor: np.median(places[anchor], axis=0) for anchor in ANCHORS}
    away = {a: np.abs(places[a] - centres[a]).max(axis=1) * sides.min() for a in ANCHORS}
    # Placing to whole pixels leaves half of one.
    anchor = min(ANCHORS, key=lambda name: float(np.quantile(away[name], _MOST)))
    if np.quantile(away[anchor], _MOST) > _AWAY:
        return None
    y, x = centres[anchor]
    return Frame(filled, anchor, (float(y), float(x)))


def _boxes(inks: FloatArray) -> NDArray[np.int64]:
    """Bounding boxes (n, 4) of what is more than faint: top, left, bottom, right."""
    there = inks >= _FAINT * inks.max(axis=(1, 2), keepdims=True)
    starts, ends = [], []
    for some in (there.any(axis=2), there.any(axis=1)):
        starts.append(some.argmax(axis=1))
        ends.append(some.shape[1] - some[:, ::-1].argmax(axis=1))
    return np.stack([*starts, *ends], axis=1)


def _masses(inks: FloatArray) -> FloatArray:
    """Centres of mass (n, 2), in rows and columns from the upper left corner."""
    down, across = inks.sum(axis=2), inks.sum(axis=1)
    moments = [part @ (np.arange(part.shape[1]) + 0.5) for part in (down, across)]
    return np.stack(moments, axis=1) / down.sum(axis=1, keepdims=True)


def _whole(ink: FloatArray, rows: int, columns: int) -> FloatArray:
    """Scale all ink to the image, in its middle."""
    height, width = ink.shape
    factor = min(rows / height, columns / width)
    return _placed(ink, (0, 0, height, width), factor, "box", (0.5, 0.5), (rows, columns))


def _stands(ink: FloatArray, frame: Frame, rows: int, columns: int) -> bool:
    """Whether ink is framed already, but for a pixel: then it is not moved or scaled once more."""
    if not ink.any():
        return True
    height, width = ink.shape
    factor = min(rows / height, columns / width)
    top, left, bottom, right = _boxes(ink[None])[0]
    box = (top + bottom) / 2, (left + right) / 2
    y, x = _masses(ink[None])[0] if frame.anchor == "mass" else box
    longer = factor * max((bottom - top) / rows, (right - left) / columns)
    away_y = rows * (0.5 - frame.centre[0]) + factor * (y - height / 2)
    away_x = columns * (0.5 - frame.centre[1]) + factor * (x - width / 2)
    off = abs(longer - frame.filled) * min(rows, columns)
    return bool(off <= _OFF and max(abs(away_y), abs(away_x)) <= _AWAY)


def _framed(ink: FloatArray, frame: Frame, rows: int, columns: int) -> FloatArray:
    """Scale the bounding box of the ink to the frame, and move it."""
    top, left, bottom, right = box = tuple(_boxes(ink[None])[0].tolist())
    factor = frame.filled * min(rows / (bottom - top), columns / (right - left))
    return _placed(ink, box, factor, frame.anchor, frame.centre, (rows, columns))


def _placed(
    ink: FloatArray,
    box: tuple[int, int, int, int],
    factor: float,
    anchor: str,
    centre: tuple[float, float],
    shape: tuple[int, int],
) -> FloatArray:
    """Scale a box (top, left, bottom, right) of ink, and put its anchor at the centre."""
    rows, columns = shape
    top, left, bottom, right = box
    h = int(np.clip(_nearest((bottom - top) * factor), 1, rows))
    w = int(np.clip(_nearest((right - left) * factor), 1, columns))
    small = _resized(ink, (left, top, right, bottom), h, w)
    by_mass = anchor == "mass" and small.any()
    y, x = _masses(small[None])[0] if by_mass else (h / 2, w / 2)
    first_row = int(np.clip(_nearest(centre[0] * rows - y), 0, rows - h))
    first_column = int(np.clip(_nearest(centre[1] * columns - x), 0, columns - w))
    image = np.zeros(shape)
    image[first_row : first_row + h, first_column : first_column + w] = small
    return image


def _nearest(value: float) -> int:
    """Round halves up, as JavaScript does."""
    return floor(value + 0.5)


def _resized(
    plane: RealArray, box: tuple[float, float, float, float], rows: int, columns: int
) -> FloatArray:
    """Resize a part of a plane in single precision, as :func:`~varpro_nn.data.cropping.resized`."""
    from PIL import Image  # not at the top: imported where it is used

    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.asarray(resized(image, box, rows, columns), dtype=np.float64)


def _as_bytes(values: FloatArray) -> NDArray[np.uint8]:
    return np.round(255 * values).clip(0, 255).astype(np.uint8)
