"""Compact image classifiers trained by variable projection.

>>> import varpro_nn
>>> digits = varpro_nn.load("digits")
>>> config = varpro_nn.configure("tiny", data="digits")
>>> run = varpro_nn.run(config, digits, n_jobs=1)
>>> run.metrics["test_accuracy"] > 0.9
True

What is not in ``__all__`` is private and may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

from varpro_nn._version import __version__
from varpro_nn.data import Dataset, load
from varpro_nn.errors import VarProError
from varpro_nn.exporters import to_c, to_html, to_onnx
from varpro_nn.model.network import Network
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.training.choice import configure
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.estimate import Estimate, estimate
from varpro_nn.training.layers import train_network
from varpro_nn.training.pipeline import Run, run
from varpro_nn.units import (
    Units,
    learn_maps,
    patch_units,
    register_units,
    units_on_maps,
    whole_image_units,
)
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional
from varpro_nn.varpro.history import FitReport

if TYPE_CHECKING:
    from varpro_nn.estimators import VarProClassifier, VarProFeatures, VarProRegressor

__all__ = [
    "Dataset",
    "Estimate",
    "FitReport",
    "Network",
    "RidgeLayer",
    "Run",
    "TrainConfig",
    "Units",
    "VarProClassifier",
    "VarProError",
    "VarProFeatures",
    "VarProFunctional",
    "VarProRegressor",
    "__version__",
    "configure",
    "estimate",
    "fit",
    "learn_maps",
    "load",
    "patch_units",
    "register_units",
    "run",
    "to_c",
    "to_html",
    "to_onnx",
    "train_network",
    "units_on_maps",
    "whole_image_units",
]

_ESTIMATORS = ("VarProClassifier", "VarProFeatures", "VarProRegressor")
"""Imported on first use: scikit-learn takes longer to import than all the rest."""


def __getattr__(name: str) -> Any:
    if name not in _ESTIMATORS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module("varpro_nn.estimators"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ESTIMATORS})
