"""The settings of a run: groups of frozen values, each field described where it is defined.

Command line, estimators and ``config.json`` are made from these fields; :mod:`varpro_nn._settings`
has the mechanism. ``TrainConfig.options`` names every setting by its flat name, which is
also the name of its option on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from varpro_nn._settings import (
    check_settings,
    documented,
    from_dict,
    options_of,
    setting,
    with_options,
)
from varpro_nn._typing import IndexArray
from varpro_nn.data.augmentation import Augmentation
from varpro_nn.output.settings import OutputSettings
from varpro_nn.units import ACTIVATIONS, DRAWS, KINDS
from varpro_nn.varpro.fit import SOLVERS, Form, Solver
from varpro_nn.varpro.reduced import JacobianKind

Scheme = Literal["independent", "stages", "untrained"]
Loss = Literal["squares", "cross-entropy"]
Rule = Literal["margin", "margin-logistic", "argmax"]

_PATCH = {"units": ("patch",)}

REMOVED = {
    "n_parts": "leave it out. Threads share the sums of a sub-network where there are fewer "
    "sub-networks than cores",
    "patience": "stop early with the callback of varpro_nn.fit",
}
"""Options that were removed, each with what to do instead."""
RENAMED = {"glue_ridge": "output_penalty"}
"""Old names of options, each with its present name."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """The trained units, on the image; with first_units, on the maps of the first layer."""

    kind: str = setting(
        "bilinear",
        option="units",
        choices=("patch", *KINDS),
        help="kind of units; patch units see windows of the image, the others the whole image",
    )
    n_units: int = setting(
        2000, least=1, help="number of units in the whole network, a multiple of n_subnetworks"
    )
    scalarisation: str = setting(
        "dense", choices=KINDS, needs=_PATCH, help="form that a patch unit takes of its window"
    )
    rank: int = setting(1, least=1, help="number of terms in the form of each unit")
    activation: str = setting(
        "logistic",
        choices=ACTIVATIONS,
        gone={"softplus": "use rectifier or logistic"},
        help="activation function",
    )
    threshold: float = setting(0.0, least=0, help="threshold of the two-sided activation")
    gain: float = setting(1.0, above=0, help="standard deviation of the initial pre-activations")
    window: int = setting(7, least=1, needs=_PATCH, help="side of the windows, in pixels")
    stride: int = setting(
        1, least=1, needs=_PATCH, help="distance between neighbouring windows, in pixels"
    )
    grid: int = setting(4, least=1, needs=_PATCH, help="number of pooling cells along each side")
    training_stride: int | None = setting(
        None,
        least=1,
        needs=_PATCH,
        help="distance between windows while the units train, in pixels; None: stride",
    )
    training_grid: int | None = setting(
        None,
        least=1,
        needs=_PATCH,
        help="number of pooling cells along each side while the units train; None: grid",
    )
    contrast: float | None = setting(
        None,
        above=0,
        needs=_PATCH,
        help="subtract the mean of each window and divide by sqrt(variance + contrast)",
    )
    whitening: float | None = setting(
        None,
        above=0,
        needs=_PATCH,
        help="whiten windows; add whitening times the mean variance to each variance",
    )
    n_components: int | None = setting(
        None,
        least=1,
        needs={**_PATCH, "whitening": ..., "scalarisation": ("dense",)},
        help="number of principal directions that the whitening keeps; None: all",
    )
    draw: str = setting(
        "gaussian",
        choices=DRAWS,
        needs={**_PATCH, "scalarisation": ("dense",)},
        help="what the filters of patch units start from",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        form = self.scalarisation if self.kind == "patch" else self.kind
        if self.rank > 1 and form == "dense":
            msg = f"rank must be 1 with dense units, got {self.rank}."
            raise ValueError(msg)


_FIRST = {"first_units": ...}


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLayerSettings:
    """An optional first layer of random units, whose maps the trained units see."""

    n_units: int | None = setting(
        None,
        option="first_units",
        least=1,
        help="number of random units of the first layer, on windows of the image; the trained "
        "units then see windows of its maps; None: one layer only",
    )
    window: int = setting(
        5, option="first_window", least=1, needs=_FIRST, help="side of its windows, in pixels"
    )
    grid: int = setting(
        14, option="first_grid", least=1, needs=_FIRST, help="side of its maps, in pixels"
    )
    activation: str = setting(
        "two-sided",
        option="first_activation",
        choices=ACTIVATIONS,
        needs=_FIRST,
        help="its activation function; two-sided gives two maps for each unit",
    )
    threshold: float = setting(
        0.5,
        option="first_threshold",
        least=0,
        needs=_FIRST,
        help="threshold of its two-sided activation",
    )
    contrast: float | None = setting(
        0.01,
        option="first_contrast",
        above=0,
        needs=_FIRST,
        help="subtract the mean of each of its windows and divide by sqrt(variance + contrast)",
    )
    whitening: float = setting(
        0.1,
        option="first_whitening",
        above=0,
        needs=_FIRST,
        help="whiten its windows; add whitening times the mean variance to each variance",
    )

    def __post_init__(self) -> None:
        check_settings(self)


_MIDDLE = {"middle_units": ...}


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class MiddleLayerSettings:
    """An optional middle layer, trained like the last one and on maps of the first."""

    n_units: int | None = setting(
        None,
        option="middle_units",
        least=1,
        help="number of units of a trained layer between first_units and the last layer; None: no "
        "such layer",
    )
    cells: int = setting(
        2,
        option="middle_cells",
        least=1,
        needs=_MIDDLE,
        help="number of pooling cells along each side while it trains",
    )
    grid: int = setting(
        6, option="middle_grid", least=1, needs=_MIDDLE, help="side of its maps, in pixels"
    )
    n_components: int = setting(
        100,
        option="middle_components",
        least=1,
        needs=_MIDDLE,
        help="number of principal directions of the windows that it sees",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetworkSettings:
    """The training of sub-networks: equal groups of units, each fitted on its own images."""

    n_subnetworks: int = setting(10, least=1, help="number of sub-networks, of equal size")
    scheme: Scheme = setting(
        "independent",
        gone={"refine": "it cost twice the time for no gain; use stages or independent"},
        help="how sub-networks train: each alone, group after group, or not at all (random units)",
    )
    n_stages: int = setting(
        1,
        least=1,
        needs={"scheme": ("stages",)},
        help="number of groups of sub-networks that train one after the other",
    )
    images_per_subnetwork: int = setting(
        4000, least=1, help="number of random training images per sub-network"
    )
    n_rounds: int = setting(
        1, least=1, help="number of training rounds; each round doubles the number of images"
    )
    max_nfev: int = setting(
        10,
        least=0,
        help="limit of functional evaluations per round; with solver kfac, of passes over the "
        "images; 0 leaves the units random",
    )
    loss: Loss = setting("squares", help="loss that sub-networks minimise")
    ridge: float = setting(
        1.0, least=0, help="ridge penalty on the linear weights of a sub-network"
    )
    weight_decay: float = setting(0.1, least=0, help="penalty on the unit weights of a sub-network")
    solver: Literal[Solver, "kfac"] = setting(
        "lsmr",
        help="solver of a sub-network; kfac: Gauss-Newton steps on batches of its images, with a "
        "Kronecker-factored matrix, for many dense patch units on many images",
    )
    batch_size: int = setting(
        1000, least=1, needs={"solver": ("kfac",)}, help="number of images in a step of kfac"
    )
    form: Form = setting("auto", help="form of the least-squares problem")
    jacobian: JacobianKind = setting(
        "kaufman", help="Kaufman's Jacobian, or the full one of Golub and Pereyra"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        known = () if self.solver == "kfac" else SOLVERS[self.solver].forms
        if self.form not in ("auto", *known):
            forms = "".join(f" or {form}" for form in known)
            msg = f"form must be auto{forms} for solver={self.solver!r}, got {self.form!r}."
            raise ValueError(msg)
        if self.loss != "squares":
            if self.ridge == 0:
                msg = f"loss={self.loss!r} needs a positive ridge, got 0."
                raise ValueError(msg)
            if self.form not in ("auto", "reduced") or self.jacobian == "full":
                msg = (
                    f"loss={self.loss!r} needs form auto or reduced, and Kaufman's Jacobian, "
                    f"got {self.form} and {self.jacobian}."
                )
                raise ValueError(msg)
        if self.solver == "kfac":
            only = {
                "loss": (self.loss, "squares"), "jacobian": (self.jacobian, "kaufman"),
                "scheme": (self.scheme, "independent or untrained"),
            }  # fmt: skip
            for name, (value, expected) in only.items():
                if value not in expected.split(" or "):
                    msg = (
                        f"solver='kfac' needs {name} {expected}, got {value}; set {name}, or "
                        "another solver."
                    )
                    raise ValueError(msg)
        if self.n_stages > self.n_subnetworks:
            msg = (
                f"n_stages must be at most n_subnetworks, got n_stages={self.n_stages} and "
                f"n_subnetworks={self.n_subnetworks}: take fewer stages, or more sub-networks."
            )
            raise ValueError(msg)

    @property
    def stages(self) -> list[IndexArray]:
        """Members of each stage; one group if there are no stages."""
        return np.array_split(np.arange(self.n_subnetworks), self.n_stages)

    @property
    def n_known(self) -> int:
        """Number of sub-networks whose columns are fixed in the last stage."""
        return self.n_subnetworks - len(self.stages[-1])


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    """The bootstrap pass of the paper: train on the network's pseudo-labels of test images."""

    enabled: bool = setting(
        False,
        option="bootstrap",
        help="train on the test images with guessed labels afterwards (the paper's section 5); "
        "agreement with the guesses is not accuracy",
    )
    rule: Rule = setting(
        "margin",
        option="bootstrap_rule",
        help="how labels are guessed; margin: the paper's rule; argmax: the largest output",
    )
    ridge: float = setting(
        1e-2,
        option="bootstrap_ridge",
        least=0,
        help="ridge penalty of the output layer on the guessed labels",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All settings of a training run.

    :func:`varpro_nn.configure` makes one from a recipe; :meth:`with_options` changes settings by
    their flat names, as on the command line.
    """

    recipe: str = setting("bilinear", help="the recipe that the settings come from")
    seed: int = setting(0, least=0, help="the one seed of all random numbers")
    n_train: int | None = setting(
        None, least=1, help="number of training images, the first ones; None: all"
    )
    class_weight: str | None = setting(
        None,
        choices=("balanced",),
        help="weights of the training images; balanced: all classes weigh the same, "
        "n / (k n_c) for an image of a class with n_c of n images in k classes",
    )
    refit: bool = setting(
        False,
        help="after the network has been measured on the validation images, train again on all "
        "images, these included; twice the time",
    )
    units: UnitSettings = UnitSettings()
    first: FirstLayerSettings = FirstLayerSettings()
    middle: MiddleLayerSettings = MiddleLayerSettings()
    subnetworks: SubnetworkSettings = SubnetworkSettings()
    distortion: Augmentation = Augmentation()
    output: OutputSettings = OutputSettings()
    bootstrap: BootstrapSettings = BootstrapSettings()

    def __post_init__(self) -> None:
        check_settings(self)
        n_units, n_subnetworks = self.units.n_units, self.subnetworks.n_subnetworks
        if n_units % n_subnetworks:
            fewer = n_units // n_subnetworks * n_subnetworks or n_subnetworks
            msg = (
                f"n_units must be a multiple of n_subnetworks, got {n_units} and {n_subnetworks}; "
                f"take n_units={fewer}, say, or another n_subnetworks."
            )
            raise ValueError(msg)
        if self.output.n_copies and not self.distortion:
            msg = (
                f"n_copies={self.output.n_copies} needs a distortion, got none; set shift=1, or "
                "rotation, scale, shear, elastic or flip, or set n_copies=0."
            )
            raise ValueError(msg)

        units = self.units
        if self.subnetworks.solver == "kfac" and (units.kind, units.scalarisation) != (
            "patch", "dense",
        ):  # fmt: skip
            msg = (
                "solver='kfac' needs units='patch' and scalarisation='dense', "
                f"got {units.kind!r} and {units.scalarisation!r}."
            )
            raise ValueError(msg)
        self._check_first_layer()

    def _check_first_layer(self) -> None:
        """Check that the units can see maps: as dense units on whitened windows."""
        if self.first.n_units is None:
            if self.middle.n_units is not None:
                msg = f"middle_units needs first_units, got {self.middle.n_units} without."
                raise ValueError(msg)
            if self.output.cells_below:
                msg = (
                    f"cells_below={self.output.cells_below} needs first_units, got None; set "
                    "first_units, or cells_below=0."
                )
                raise ValueError(msg)
            return
        units = self.units
        needed = {
            "units": (units.kind, "patch"), "scalarisation": (units.scalarisation, "dense"),
            "contrast": (units.contrast, None), "stride": (units.stride, 1),
            "training_stride": (units.training_stride, None),
        }  # fmt: skip
        for name, (value, expected) in needed.items():
            if value != expected:
                msg = (
                    f"first_units needs {name}={expected!r}, because the units see maps and not "
                    f"the image, got {value!r}."
                )
                raise ValueError(msg)
        for name, value in (("whitening", units.whitening), ("n_components", units.n_components)):
            if value is None:
                msg = f"first_units needs {name}, to project the windows of maps, got None."
                raise ValueError(msg)
        sides = {"first_grid": self.first.grid}
        if self.middle.n_units is not None:
            sides["middle_grid"] = self.middle.grid
        for name, side in sides.items():
            if units.window > side:
                msg = (
                    f"window must be at most {name}, {side}, the side of the maps, got "
                    f"{units.window}."
                )
                raise ValueError(msg)
            if self.output.cells_below > side:
                msg = (
                    f"cells_below must be at most {side}, the side of the maps ({name}), got "
                    f"{self.output.cells_below}; reduce cells_below or increase {name}."
                )
                raise ValueError(msg)
        n_places = self.first.grid - units.window + 1
        for name, value in (("middle_grid", self.middle.grid), ("middle_cells", self.middle.cells)):
            if self.middle.n_units is not None and value > n_places:
                msg = (
                    f"{name} must be at most {n_places}, the places of a window of {units.window} "
                    f"pixels in maps of first_grid={self.first.grid}, got {value}."
                )
                raise ValueError(msg)

    @property
    def units_per_subnetwork(self) -> int:
        """Units of one sub-network."""
        return self.units.n_units // self.subnetworks.n_subnetworks

    def options(self) -> dict[str, Any]:
        """Name all settings as the command line does.

        Returns
        -------
        dict
            Values by flat name.
        """
        return options_of(self)

    def with_options(self, **options: Any) -> "TrainConfig":
        """Copy the settings with some changed.

        Parameters
        ----------
        **options
            Values by flat name.

        Returns
        -------
        TrainConfig

        Raises
        ------
        ValueError
            An unknown name, or a value that the setting may not have.
        """
        return with_options(self, options)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Make settings from the content of ``config.json``: undo ``dataclasses.asdict``.

        Parameters
        ----------
        values : mapping
            A value for each field, a mapping for each group.

        Returns
        -------
        TrainConfig

        Raises
        ------
        ValueError
            A setting of this version is missing, a name is unknown, or a value is not allowed.
        """
        return from_dict(cls, values)
