"""Units: what turns an input into columns of ``Phi``, and how those columns move with weights.

A unit needs to know nothing of least squares. The contract is :class:`Units`; bring your own
class with these members and everything else in the package works with it.
"""

from varpro_nn.units.activations import ACTIVATIONS
from varpro_nn.units.contract import Units
from varpro_nn.units.factories import patch_units, units_from_spec, whole_image_units
from varpro_nn.units.patches import DRAWS, PatchUnits
from varpro_nn.units.scalarisation import KINDS
from varpro_nn.units.whitening import learn_whitening
from varpro_nn.units.whole_image import WholeImageUnits

__all__ = [
    "ACTIVATIONS",
    "DRAWS",
    "KINDS",
    "PatchUnits",
    "Units",
    "WholeImageUnits",
    "learn_whitening",
    "patch_units",
    "units_from_spec",
    "whole_image_units",
]
