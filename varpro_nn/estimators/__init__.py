"""scikit-learn estimators: the pipeline of the package behind ``fit`` and ``predict``."""

from varpro_nn.estimators.classifier import VarProClassifier
from varpro_nn.estimators.features import VarProFeatures
from varpro_nn.estimators.regressor import VarProRegressor

__all__ = ["VarProClassifier", "VarProFeatures", "VarProRegressor"]
