"""Settings that describe themselves.

A group of settings is a frozen dataclass. Its fields are made by :func:`setting`, or are groups
in turn. The metadata of a field is the one place for its help, choices, range, and what it depends
on: checks, options of the command line, parameters of estimators and docstrings are made from it.

Every setting has one flat name, its *option*: ``output_penalty`` is the field ``penalty`` of the
group ``output``.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from inspect import cleandoc
from numbers import Integral, Real
from textwrap import wrap
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

_Group = TypeVar("_Group")


def setting(
    default: Any,
    *,
    help: str,
    option: str = "",
    choices: tuple[str, ...] = (),
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    needs: Mapping[str, Any] | None = None,
    gone: Mapping[str, str] | None = None,
) -> Any:
    """Make a field of a group of settings.

    Parameters
    ----------
    help : str
        What it is, without a full stop.
    option : str
        Its flat name, if that is not the name of the field.
    choices : tuple of str
        The values it may have; by default those of its ``Literal`` type.
    least, above, below : float, optional
        Bounds: at least, more than, less than.
    needs : mapping
        Values that other options of the group must have. Without them, any value but the
        default has no effect. A tuple of values, or ``...`` for any value but None.
    gone : mapping of str to str
        Values that were removed, each with what to do instead.
    """
    metadata = {
        "option": option, "help": help, "choices": choices, "least": least, "above": above,
        "below": below, "needs": needs or {}, "gone": gone or {},
    }  # fmt: skip
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting, as its field describes it; see :func:`setting`.

    Attributes
    ----------
    path : tuple of str
        Names of the fields that lead to it from the outermost group.
    option : str
        Its flat name.
    kind : type
        bool, int, float or str.
    optional : bool
        Whether it may be None.
    """

    path: tuple[str, ...]
    option: str
    kind: type
    optional: bool
    default: Any
    help: str
    choices: tuple[str, ...]
    least: float | None
    above: float | None
    below: float | None
    needs: Mapping[str, Any]
    gone: Mapping[str, str]

    def check(self, value: Any) -> None:
        """Raise ValueError if ``value`` is none that the setting may have."""
        if value is None and self.optional:
            return
        if isinstance(value, str) and value in self.gone:
            msg = f"{self.option}={value!r} was removed: {self.gone[value]}."
            raise ValueError(msg)
        if self.choices and value not in self.choices:
            allowed = [*self.choices, "None"] if self.optional else self.choices
            msg = f"{self.option} must be one of {', '.join(allowed)}, got {value!r}."
            raise ValueError(msg)
        kinds: dict[type, Any] = {int: Integral, float: Real, bool: (bool, np.bool_)}
        known = isinstance(value, kinds.get(self.kind, self.kind))
        if not known or (isinstance(value, bool) and self.kind is not bool):
            msg = f"{self.option} must be of type {self.type_name}, got {value!r}."
            raise ValueError(msg)
        if self.bounds and not (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        ):
            finite = "" if self.kind is int else "finite and "
            msg = f"{self.option} must be {finite}{self.bounds}, got {value}."
            raise ValueError(msg)

    def check_needs(self, value: Any, options: Mapping[str, Any]) -> None:
        """Raise ValueError if ``value`` would have no effect beside the other ``options``."""
        if value == self.default:
            return
        for name, allowed in self.needs.items():
            other = options[name]
            if (other is None) if allowed is ... else (other not in allowed):
                needed = name if allowed is ... else f"{name}={' or '.join(map(repr, allowed))}"
                msg = (
                    f"{self.option}={value!r} needs {needed}, got {name}={other!r}; "
                    f"set {needed}, or leave {self.option} out."
                )
                raise ValueError(msg)

    @property
    def type_name(self) -> str:
        """The type as Python writes it."""
        return f"{self.kind.__name__}{' | None' if self.optional else ''}"

    @property
    def bounds(self) -> str:
        """The range in words; empty without one."""
        said = (("at least", self.least), ("more than", self.above), ("less than", self.below))
        return " and ".join(f"{words} {bound}" for words, bound in said if bound is not None)

    @property
    def described(self) -> str:
        """The help and the options that this one needs, in one line."""
        needed = [
            name if allowed is ... else f"{name} {' or '.join(allowed)}"
            for name, allowed in self.needs.items()
        ]
        return f"{self.help}; needs {', '.join(needed)}" if needed else self.help


def settings_of(group: Any) -> Mapping[str, Setting]:
    """Collect the settings of a group and of the groups in it, by option."""
    return _collected(group)


@cache
def _collected(group: Any) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for entry, hint in ((entry, get_type_hints(group)[entry.name]) for entry in fields(group)):
        if is_dataclass(hint):
            inner = settings_of(hint)
            found |= {o: replace(s, path=(entry.name, *s.path)) for o, s in inner.items()}
            continue
        optional = isinstance(hint, types.UnionType)
        if optional:
            (hint,) = (kind for kind in get_args(hint) if kind is not types.NoneType)
        literal = get_args(hint) if get_origin(hint) is Literal else ()
        said = dict(entry.metadata)
        option = said.pop("option") or entry.name
        choices = said.pop("choices") or literal
        found[option] = Setting(
            path=(entry.name,), option=option, kind=str if literal else hint, optional=optional,
            default=entry.default, choices=choices, **said,
        )  # fmt: skip
    return found


def groups_of(group: type) -> dict[str, type]:
    """Find the groups in a group, by the names of their fields."""
    hints = get_type_hints(group)
    return {
        entry.name: hints[entry.name] for entry in fields(group) if is_dataclass(hints[entry.name])
    }


def check_settings(group: Any) -> None:
    """Check the settings of a group itself; the groups in it have checked theirs.

    Raises
    ------
    ValueError
        Which setting, what was expected, and what came.
    """
    own = {option: s for option, s in settings_of(type(group)).items() if len(s.path) == 1}
    values = {option: getattr(group, s.path[0]) for option, s in own.items()}
    for option, value in values.items():
        described = own[option]
        described.check(value)
        if value is not None:  # a number of NumPy becomes one of Python, as JSON wants it
            object.__setattr__(group, described.path[0], described.kind(value))
    for option, value in values.items():
        own[option].check_needs(value, values)


def options_of(group: Any) -> dict[str, Any]:
    """Values of all settings of a group, by option."""
    found = {}
    for option, described in settings_of(type(group)).items():
        value = group
        for name in described.path:
            value = getattr(value, name)
        found[option] = value
    return found


def with_options(group: _Group, options: Mapping[str, Any]) -> _Group:
    """Copy a group with other values of some settings, by option.

    Raises
    ------
    ValueError
        An unknown option, or a value that it may not have.
    """
    known = settings_of(type(group))
    check_known(options, known)
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for option, value in options.items():
        name, *deeper = known[option].path
        if deeper:
            inner.setdefault(name, {})[option] = value
        else:
            changes[name] = value
    for name, some in inner.items():
        changes[name] = with_options(getattr(group, name), some)
    return replace(group, **changes)  # type: ignore[type-var]


def check_known(options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise ValueError for options that are not ``known``."""
    if unknown := unknown_among(options, known):
        msg = f"unknown settings {unknown}"
        raise ValueError(msg)


def unknown_among(options: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """List the options that are not ``known``, with the nearest known name; "" if none."""
    unknown = sorted(set(options) - set(known))
    if not unknown:
        return ""
    near = get_close_matches(unknown[0], known, n=1)
    return f"{', '.join(unknown)}{f'; did you mean {near[0]}?' if near else '.'}"


def from_dict(group: type[_Group], values: Any) -> _Group:
    """Make a group from what ``dataclasses.asdict`` made of one.

    Raises
    ------
    ValueError
        The names are not the fields of the group, or a value is not allowed.
    """
    names = [entry.name for entry in fields(group)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping) or set(values) != set(names):
        msg = f"{group.__name__} needs values of {', '.join(names)}, got {values!r:.200}."
        raise ValueError(msg)
    inner = groups_of(group)
    return group(**{n: from_dict(inner[n], v) if n in inner else v for n, v in values.items()})


def documented(group: type[_Group]) -> type[_Group]:
    """Append the attributes of a group to its docstring, from their metadata."""
    inner = groups_of(group)
    lines = ["", "", "Attributes", "----------"]
    own = {s.path[0]: s for s in settings_of(group).values() if len(s.path) == 1}
    for entry in fields(group):  # type: ignore[arg-type]
        if entry.name in inner:
            lines.append(f"{entry.name} : {inner[entry.name].__name__}")
            continue
        described = own[entry.name]
        kind = described.type_name.replace(" | ", " or ")
        if described.choices:
            kind = "{" + ", ".join(f'"{choice}"' for choice in described.choices) + "}"
            kind += " or None" if described.optional else ""
        text = described.described
        text = f"{text[0].upper()}{text[1:]}."
        if described.bounds:
            text += f" {described.bounds[0].upper()}{described.bounds[1:]}."
        if described.option != entry.name:
            text += f" The option is ``{described.option}``."
        lines += [f"{entry.name} : {kind}, default {described.default!r}"]
        lines += [f"    {line}" for line in wrap(text, 92)]
    errors = ["", "Raises", "------", "ValueError", "    A value that the setting may not have."]
    group.__doc__ = "\n".join([cleandoc(group.__doc__ or ""), *lines[1:], *errors, ""])
    return group
