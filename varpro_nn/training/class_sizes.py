"""A warning of classes with few training images, or far fewer than others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from varpro_nn._warn import warn_user
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ClassSizeWarning

FEWEST = 10
"""Training images of a class below which there is a warning."""
MOST_TIMES = 10
"""Multiple of the images of the smallest class, above which the largest one gives a warning.

One of ten equal classes against the rest, as scikit-learn makes them, is below it with 9.
"""


def warn_of_class_sizes(training: TrainingSet, classes: NDArray[Any]) -> None:
    """Warn, once, of classes that have few training images or far fewer than another.

    Images with weights do not count as lopsided, because the weights may make up for it. Images of
    a single class give no warning: training refuses them.

    Parameters
    ----------
    training : TrainingSet
        Of class numbers.
    classes : ndarray, shape (k,)
        The label of each class.

    Warns
    -----
    ClassSizeWarning
    """
    labels: Any = training.targets
    counts = np.bincount(labels, minlength=len(classes))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    n_few = int(np.count_nonzero(counts < FEWEST))
    is_lopsided = training.weights is None and counts[largest] > MOST_TIMES * counts.min(
        where=counts > 0, initial=counts[largest]
    )
    if np.count_nonzero(counts) < 2 or (not n_few and not is_lopsided):
        return
    images = f"{counts[smallest]:,} training image{'' if counts[smallest] == 1 else 's'}"
    said = f"class {classes[smallest]} has {images}"
    if n_few > 1:
        said = f"{n_few} classes have fewer than {FEWEST} training images ({said})"
    if is_lopsided:
        said += f", and class {classes[largest]} has {counts[largest]:,}"
    remedy = " or let all classes weigh the same (class_weight: balanced)" if is_lopsided else ""
    msg = f"{said}: add images of small classes{remedy}, and look at the balanced accuracy."
    warn_user(msg, ClassSizeWarning)
