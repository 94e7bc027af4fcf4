"""Images of numbers with several digits, made of MNIST: any number of classes and images."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from varpro_nn._typing import ImageArray, IndexArray
from varpro_nn.data import ImageSet

SIDE = 28


def numbers(
    source: ImageSet,
    labels: IndexArray,
    *,
    n_digits: int = 1,
    side: int = SIDE,
    n_channels: int = 1,
    seed: int = 0,
) -> ImageSet:
    """Draw an image for each number.

    Parameters
    ----------
    source : ImageSet
        Images of single digits, drawn with replacement.
    labels : IndexArray
        Numbers below ``10**n_digits``.
    n_digits : int
        Side by side in one image, leading zeros included.
    side : int
        Rows of an image. Each pixel is repeated if this is a multiple of 28; other sizes are
        resampled.
    n_channels : int
        Channels. Each is drawn separately and shows the same number.
    seed : int
        Chooses the images.

    Returns
    -------
    ImageSet
        Of shape (n, side, n_digits * side), or (n, n_channels, side, n_digits * side).
    """
    rng = np.random.default_rng(seed)
    with_digit = [np.flatnonzero(source.labels == digit) for digit in range(10)]
    digits = [labels // 10**place % 10 for place in reversed(range(n_digits))]
    made = [
        np.concatenate([_pictures(source, with_digit, each, rng) for each in digits], axis=2)
        for _ in range(n_channels)
    ]
    images: ImageArray = np.stack(made, axis=1) if n_channels > 1 else made[0]
    times, rest = divmod(side, SIDE)
    if times and not rest:
        images = images.repeat(times, axis=-1).repeat(times, axis=-2)
    else:
        images = _resampled(images, side)
    return ImageSet(images, labels)


def _pictures(
    source: ImageSet, with_digit: list[IndexArray], wanted: IndexArray, rng: np.random.Generator
) -> ImageArray:
    """Draw one image for each digit wanted."""
    rows = np.empty(len(wanted), np.intp)
    for digit, found in enumerate(with_digit):
        chosen = wanted == digit
        rows[chosen] = rng.choice(found, np.count_nonzero(chosen))
    images: ImageArray = source.images[rows]
    return images


def _resampled(images: ImageArray, side: int) -> ImageArray:
    """Resize the last two axes to ``side`` rows, by Pillow."""
    *leading, rows, columns = images.shape
    wide = columns * side // rows

    def resized() -> Iterator[NDArray[np.uint8]]:
        for image in images.reshape(-1, rows, columns):
            picture = Image.fromarray(image).resize((wide, side), Image.Resampling.BOX)
            yield np.asarray(picture, np.uint8)

    return np.stack(list(resized())).reshape(*leading, side, wide)
