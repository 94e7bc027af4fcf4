"""One sub-network of the paper: its images, quadratic units, and how it is trained."""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from varpro_nn import VarProFunctional, load, whole_image_units
from varpro_nn._typing import FloatArray
from varpro_nn.data import ImageSet
from varpro_nn.data.images import one_hot
from varpro_nn.varpro.history import FitReport

RIDGE, WEIGHT_DECAY = 1.0, 0.1

INNER = 20
"""Inner iterations of LSMR at most."""

TIGHT: dict[str, Any] = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-10)
"""Tolerances that leave the end to the limit of evaluations."""

CostPath = list[tuple[float, float]]
"""Cost and CPU seconds at the start and after each accepted step."""


def images_to_draw_from(args: argparse.Namespace) -> ImageSet:
    """Load what the paper draws from: the first 50,000 images of MNIST; digits for ``--quick``."""
    train = load("digits" if args.quick else "mnist", args.data_dir).train
    return train.take(slice(min(50_000, len(train))))


def subnetwork(
    train: ImageSet, n: int, n_units: int, seed: Sequence[int],
    dtype: DTypeLike = np.float32, ridge: float = RIDGE, weight_decay: float = WEIGHT_DECAY,
) -> tuple[VarProFunctional, FloatArray]:  # fmt: skip
    """Draw images and quadratic units; return the functional and the initial unit weights."""
    rng = np.random.default_rng(seed)
    own = rng.choice(len(train), n, replace=False)
    images = train.images[own]
    units = whole_image_units("quadratic", images.shape[1:], n_units)
    w0 = units.init(images, rng).ravel()
    tau = one_hot(train.labels[own], 10)
    functional = VarProFunctional(
        units, images, tau, ridge=ridge, weight_decay=weight_decay, dtype=dtype
    )
    return functional, w0


def path_of(report: FitReport) -> CostPath:
    """Start and accepted steps: where the fit took a derivative."""
    return [(r.cost, r.cpu_seconds) for r in report.history if not np.isnan(r.optimality)]
