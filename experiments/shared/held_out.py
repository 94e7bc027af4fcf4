"""Training images that measure in the place of the test images."""

from dataclasses import replace

from varpro_nn import Dataset

N_HELD = 10_000
"""Training images that are held out: the last ones, at most a third."""
N_QUICK = 300
"""Training images of a quick run."""


def held_out(data: Dataset, n_train: int | None, *, quick: bool) -> Dataset:
    """Hold the last training images out; these are the test images of the result.

    Parameters
    ----------
    data : Dataset
    n_train : int or None
        The first training images that are kept; None for all that are not held out.
    quick : bool
        Keep at most ``N_QUICK``.
    """
    whole = data.train
    n_kept = len(whole) - min(N_HELD, len(whole) // 3)
    limits = (n_kept, n_train or n_kept, N_QUICK if quick else n_kept)
    train, held = whole.take(slice(min(limits))), whole.take(slice(n_kept, None))
    return replace(data, train=train, test=held, origin=None)
