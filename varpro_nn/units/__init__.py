"""Units: what turns an input into columns of ``Phi``, and how those columns move with weights.

A unit needs no knowledge of least squares. The contract is :class:`Units`. Units of your own class
work with ``VarProFunctional``, ``fit`` and ``Network``. If the class is a dataclass, they also work
with ``train_network``. If it is registered (:func:`register_units`), networks can be saved and
loaded. The exporters, ``run`` and the estimators take only the units of this package.
"""

from varpro_nn.units.activations import ACTIVATIONS
from varpro_nn.units.contract import Units
from varpro_nn.units.factories import (
    patch_units,
    spec_of,
    units_from_spec,
    whole_image_units,
)
from varpro_nn.units.maps import Maps, UnitsOnMaps, learn_maps, units_on_maps
from varpro_nn.units.patches import DRAWS, PatchUnits
from varpro_nn.units.registry import array_fields, register_units, with_n_units
from varpro_nn.units.scalarisation import KINDS
from varpro_nn.units.whitening import learn_whitening
from varpro_nn.units.whole_image import WholeImageUnits

__all__ = [
    "ACTIVATIONS",
    "DRAWS",
    "KINDS",
    "Maps",
    "PatchUnits",
    "Units",
    "UnitsOnMaps",
    "WholeImageUnits",
    "array_fields",
    "learn_maps",
    "learn_whitening",
    "patch_units",
    "register_units",
    "spec_of",
    "units_from_spec",
    "units_on_maps",
    "whole_image_units",
    "with_n_units",
]
