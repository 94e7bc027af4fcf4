"""Named settings, and the settings of a run: one frozen dataclass for command line and scripts."""

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, get_args

from varpro_nn.bootstrap import Rule
from varpro_nn.fit import SOLVERS
from varpro_nn.units import ACTIVATIONS, KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All choices of a training run; the same names as the options of the command line.

    Attributes
    ----------
    recipe : str
        The recipe that the other values come from, unless overridden.
    units : {"quadratic", "bilinear", "tensor", "dense"}
    rank : int
        Terms of the sum in each unit.
    activation : {"logistic", "tanh"}
    gain : float
        Standard deviation of the pre-activations at the start.
    n_units : int
        Of the whole network; a multiple of ``n_subnetworks``.
    n_subnetworks : int
    images_per_subnetwork : int
        Drawn at random for each sub-network, without replacement.
    n_train : int or None
        Train on the first so many images only. None: all.
    max_nfev : int
        Evaluations of the functional in each sub-network; 0 leaves the units untrained.
    ridge : float
        ``lam`` of the sub-networks.
    weight_decay : float
        ``nu`` of the sub-networks.
    glue_ridge : float or None
        ``lam`` of the glue. None: chosen by exact leave-one-out error.
    solver : str
        See :mod:`varpro_nn.fit`.
    form : {"auto", "operator", "reduced", "array"}
    jacobian : {"kaufman", "full"}
    patience : int or None
        Stop a sub-network after so many steps without a lower leave-one-out error.
    bootstrap : bool
        Whether to run the paper's pseudo-label pass on the test images after training.
    bootstrap_rule : {"margin", "margin-logistic", "argmax"}
    bootstrap_ridge : float
        ``lam`` of the glue on the guessed labels.
    seed : int

    Raises
    ------
    ValueError
        A value out of its range or an unknown name.
    """

    recipe: str = "default"
    units: str = "bilinear"
    rank: int = 1
    activation: str = "logistic"
    gain: float = 1.0
    n_units: int = 2000
    n_subnetworks: int = 10
    images_per_subnetwork: int = 4000
    n_train: int | None = None
    max_nfev: int = 10
    ridge: float = 1.0
    weight_decay: float = 0.1
    glue_ridge: float | None = None
    solver: str = "lsmr"
    form: str = "auto"
    jacobian: str = "kaufman"
    patience: int | None = None
    bootstrap: bool = False
    bootstrap_rule: str = "margin"
    bootstrap_ridge: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                msg = f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}."
                raise ValueError(msg)
        for field in fields(self):
            value = getattr(self, field.name)
            hint = getattr(field.type, "__name__", str(field.type))
            kind = Integral if "int" in hint else Real if "float" in hint else object
            known = isinstance(value, kind) and (hint == "bool" or not isinstance(value, bool))
            if not (known or (value is None and "None" in hint)):
                msg = f"{field.name} must be of type {hint}, got {value!r}."
                raise ValueError(msg)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= least):
                msg = f"{name} must be finite and at least {least}, got {value}."
                raise ValueError(msg)
        if self.form not in ("auto", *SOLVERS[self.solver]):
            msg = f"form must be auto or one that {self.solver} can use, got {self.form!r}."
            raise ValueError(msg)
        if not 0 < self.gain < math.inf:
            msg = f"gain must be positive and finite, got {self.gain}."
            raise ValueError(msg)
        if self.n_units % self.n_subnetworks:
            msg = (
                "n_units must be a multiple of n_subnetworks, "
                f"got {self.n_units} and {self.n_subnetworks}."
            )
            raise ValueError(msg)

    @property
    def units_per_subnetwork(self) -> int:
        """Units of one sub-network."""
        return self.n_units // self.n_subnetworks


CHOICES: dict[str, tuple[str, ...]] = {
    "units": KINDS,
    "activation": tuple(ACTIVATIONS),
    "solver": tuple(SOLVERS),
    "form": ("auto", "operator", "reduced", "array"),
    "jacobian": ("kaufman", "full"),
    "bootstrap_rule": get_args(Rule),
}
_LEAST = {
    "rank": 1, "n_units": 1, "n_subnetworks": 1, "images_per_subnetwork": 1, "n_train": 1,
    "max_nfev": 0, "ridge": 0, "weight_decay": 0, "glue_ridge": 0, "patience": 1,
    "bootstrap_ridge": 0, "seed": 0,
}  # fmt: skip

RECIPES: dict[str, TrainConfig] = {
    # Chosen on the last 10,000 training images: python -m experiments.validation_split
    "default": TrainConfig(),
    # Table 3 of the paper: 104 sub-networks of 50 units w'Xw, 2,000 images each, one pass of
    # about fifteen iterations, 50,000 training images.
    "paper": TrainConfig(
        recipe="paper",
        units="quadratic",
        n_units=5200,
        n_subnetworks=104,
        images_per_subnetwork=2000,
        n_train=50_000,
        max_nfev=15,
    ),
}
"""The recipes by name."""


def configure(recipe: str = "default", **overrides: Any) -> TrainConfig:
    """Take the settings of a recipe and override some.

    Parameters
    ----------
    recipe : str
        A key of ``RECIPES``.
    **overrides
        Fields of :class:`TrainConfig`. Where ``n_units`` is given without ``n_subnetworks``, the
        number of sub-networks follows, so that they keep about the size of the recipe's.

    Raises
    ------
    ValueError
        An unknown recipe or field, or a value out of range.
    """
    if recipe not in RECIPES:
        msg = f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}."
        raise ValueError(msg)
    unknown = set(overrides) - {field.name for field in fields(TrainConfig)}
    if unknown:
        msg = f"unknown settings {', '.join(sorted(unknown))}."
        raise ValueError(msg)
    base = RECIPES[recipe]
    n_units = overrides.get("n_units")
    if "n_subnetworks" not in overrides and isinstance(n_units, int) and n_units >= 1:
        overrides["n_subnetworks"] = _n_subnetworks(n_units, base.units_per_subnetwork)
    return replace(base, **overrides)


def _n_subnetworks(n_units: int, size: int) -> int:
    """Cut ``n_units`` into equal sub-networks of about ``size`` units."""
    if n_units <= size:
        return 1
    sizes = [s for s in range(-(-size // 2), 2 * size + 1) if n_units % s == 0]
    if not sizes:
        msg = (
            f"n_units={n_units} cannot be cut into equal sub-networks of about {size} units; "
            "give n_subnetworks too, or another n_units."
        )
        raise ValueError(msg)
    return n_units // min(sizes, key=lambda s: abs(math.log(s / size)))
