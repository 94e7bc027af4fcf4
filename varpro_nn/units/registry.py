"""Classes of units that a file can name.

A model file contains no code. It names the class of its units: one of this package, or one that the
reading program has registered under the same name.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from varpro_nn.units.contract import Units, check_members

C = TypeVar("C", bound=type[Any])

_registered: dict[str, type[Any]] = {}


def register_units(cls: C) -> C:
    """Register a class of units of your own, so that networks of it can be saved and loaded.

    Use it as a decorator. A model file contains the name of the class and the fields of the object.
    A program that loads the file must have registered a class of that name, usually by importing
    the module that defines it.

    Parameters
    ----------
    cls : type
        A dataclass with the members of :class:`varpro_nn.Units`, of which ``n_units`` is a field.
        Other fields are arrays, numbers, text, booleans, None, or tuples without arrays.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    TypeError
        The class is not a dataclass with a field ``n_units``.
    ValueError
        Another class has the same name.
    """
    check_dataclass(cls)
    name = cls.__name__
    known = _registered.get(name, cls)
    # A notebook runs the cell with the class again.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        msg = (
            f"the class name {name} is already registered by {known.__module__}; rename one of the "
            "classes."
        )
        raise ValueError(msg)
    _registered[name] = cls
    return cls


def check_dataclass(units: Any) -> None:
    """Check that the number of units of an object or class can be changed by ``replace``.

    Raises
    ------
    TypeError
    """
    cls = units if isinstance(units, type) else type(units)
    if not is_dataclass(cls) or "n_units" not in (f.name for f in fields(cls) if f.init):
        msg = (
            f"units must be a dataclass with a field n_units, got {cls.__name__}; write "
            "@dataclass(frozen=True) above the class, and n_units: int in it."
        )
        raise TypeError(msg)


def describe(units: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Take units of a registered class apart: plain values with the name, and arrays.

    Raises
    ------
    ValueError
        The class is not registered.
    TypeError
        A field is neither a plain value nor an array.
    """
    cls = type(units)
    if _registered.get(cls.__name__) is not cls:
        msg = (
            f"units of the class {cls.__name__} can be saved if it is registered: write "
            "@varpro_nn.register_units above the class. Otherwise save W and A yourself with "
            "numpy.savez."
        )
        raise ValueError(msg)
    arrays = {name: a for name, a in array_fields(units).items() if "." not in name}
    names = [entry.name for entry in fields(cls) if entry.init and entry.name not in arrays]
    plain = {name: _plain(getattr(units, name), f"{cls.__name__}.{name}") for name in names}
    return {"class": cls.__name__, **plain}, arrays


def array_fields(units: Any) -> dict[str, NDArray[Any]]:
    """Return the array fields of units, or nothing if they are not a dataclass.

    The arrays of a field that is a dataclass itself (the layer below) follow, as ``below.W``.
    """
    if not is_dataclass(units):
        return {}
    found = {}
    for entry in (entry for entry in fields(units) if entry.init):
        value = getattr(units, entry.name)
        if isinstance(value, np.ndarray):
            found[entry.name] = value
        else:
            found |= {f"{entry.name}.{name}": a for name, a in array_fields(value).items()}
    return found


def with_n_units(units: Units, n_units: int) -> Units:
    """Return units like ``units``, but ``n_units`` of them.

    Raises
    ------
    TypeError
        Their number cannot be changed.
    """
    if units.n_units == n_units:
        return units
    check_dataclass(units)
    changed: Any = units
    return replace(changed, n_units=n_units)


def remake(spec: Mapping[str, Any], arrays: Mapping[str, Any]) -> Units:
    """Make the units that :func:`describe` took apart.

    Raises
    ------
    ValueError
        The class is not registered, or does not take these fields.
    """
    values = dict(spec)
    name = values.pop("class")
    if not isinstance(name, str) or name not in _registered:
        msg = (
            f"the units are of the class {name!r}, which is not registered here; import the module "
            "that has @varpro_nn.register_units above this class."
        )
        raise ValueError(msg)
    try:
        units = _registered[name](**{n: _tuples(v) for n, v in values.items()}, **arrays)
        check_members(units, to_draw=True)
    except TypeError as error:
        msg = f"the class {name} that is registered here has other fields: {error}"
        raise ValueError(msg) from error
    return units


def _plain(value: Any, name: str) -> Any:
    """Convert a value to JSON; tuples become lists."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, tuple | list):
        return [_plain(entry, name) for entry in value]
    msg = (
        f"to be saved, {name} must be an array, a number, text, a boolean, None, or a tuple "
        f"without arrays, got {type(value).__name__}."
    )
    raise TypeError(msg)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
