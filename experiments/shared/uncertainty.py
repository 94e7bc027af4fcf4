"""Standard errors of accuracies."""

from collections.abc import Sequence

import numpy as np

from varpro_nn.training.metrics import standard_error


def mean_and_error(shares: Sequence[float], n_images: int | Sequence[int]) -> tuple[float, float]:
    """Mean over seeds, and its standard error from both the images and the spread of seeds.

    All seeds are measured on the same images, or largely so (then ``n_images`` holds a number for
    each): the binomial variance, a mean over seeds, does not shrink with their number. The spread
    of several seeds comes to it in squares.
    """
    numbers = np.broadcast_to(n_images, len(shares))
    of_images = np.mean([standard_error(p, n) ** 2 for p, n in zip(shares, numbers, strict=True)])
    of_seeds = np.var(shares, ddof=1) / len(shares) if len(shares) > 1 else 0.0
    return float(np.mean(shares)), float(np.sqrt(of_images + of_seeds))
