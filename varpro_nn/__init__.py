"""Compact image classifiers trained by variable projection.

>>> import varpro_nn
>>> digits = varpro_nn.load("digits")
>>> config = varpro_nn.configure("default", data="digits")
>>> run = varpro_nn.run(config, digits, n_jobs=1)
>>> run.metrics["test_accuracy"] > 0.9
True
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# What is imported on first use: `import varpro_nn` alone costs nothing.
_HOME = {
    "GlueState": "glue_state",
    "Network": "network",
    "Run": "pipeline",
    "TrainConfig": "config",
    "VarProClassifier": "estimators",
    "VarProFeatures": "estimators",
    "VarProFunctional": "functional",
    "VarProRegressor": "estimators",
    "configure": "recipes",
    "load": "datasets",
    "patch_units": "units",
    "run": "pipeline",
    "train_network": "training",
    "whole_image_units": "units",
}

__all__ = [
    "GlueState",
    "Network",
    "Run",
    "TrainConfig",
    "VarProClassifier",
    "VarProFeatures",
    "VarProFunctional",
    "VarProRegressor",
    "__version__",
    "configure",
    "load",
    "patch_units",
    "run",
    "train_network",
    "whole_image_units",
]

if TYPE_CHECKING:
    from varpro_nn.config import TrainConfig
    from varpro_nn.datasets import load
    from varpro_nn.estimators import VarProClassifier, VarProFeatures, VarProRegressor
    from varpro_nn.functional import VarProFunctional
    from varpro_nn.glue_state import GlueState
    from varpro_nn.network import Network
    from varpro_nn.pipeline import Run, run
    from varpro_nn.recipes import configure
    from varpro_nn.training import train_network
    from varpro_nn.units import patch_units, whole_image_units


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
