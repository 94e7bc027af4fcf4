"""Units: what turns an input into columns of ``Phi``, and how those columns move with weights.

A unit needs to know nothing of least squares. The contract is :class:`Units`; bring your own
class with these members and everything else in the package works with it.
"""

from varpro_nn.units.activations import ACTIVATIONS, Activation
from varpro_nn.units.contract import Units
from varpro_nn.units.whole_image import KINDS, WholeImageUnits, units_from_spec, whole_image_units

__all__ = [
    "ACTIVATIONS",
    "KINDS",
    "Activation",
    "Units",
    "WholeImageUnits",
    "units_from_spec",
    "whole_image_units",
]
