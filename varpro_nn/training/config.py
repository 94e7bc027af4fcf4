"""The settings of a run: one frozen dataclass for command line and scripts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, get_args

from varpro_nn.data.augmentation import Augmentation
from varpro_nn.model.network import VIEWS
from varpro_nn.output.output_layer import LAYERS
from varpro_nn.training.pseudo_labels import Rule
from varpro_nn.training.schemes import SCHEMES
from varpro_nn.training.subnetwork import FUNCTIONALS
from varpro_nn.units import ACTIVATIONS, DRAWS, KINDS
from varpro_nn.varpro.fit import SOLVERS


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All choices of a training run; the same names as the options of the command line.

    Attributes
    ----------
    recipe : str
        The recipe that the other values come from, unless overridden.
    units : {"patch", "quadratic", "bilinear", "tensor", "dense"}
        Units that look at every window of the image, or whole-image units of a kind.
    scalarisation : {"dense", "bilinear", "quadratic", "tensor"}
        Kind of the patch units; the others say it by their name.
    rank : int
        Terms of the sum in each unit.
    activation : {"logistic", "tanh", "rectifier", "two-sided"}
    threshold : float
        Of the two-sided activation.
    gain : float
        Standard deviation of the pre-activations at the start.
    window, stride, grid : int
        Patch units: side of the windows and their distance, pixels; cells along each side.
    training_stride : int or None
        Distance of the windows while the units are trained. None: ``stride``.
    contrast : float or None
        Patch units: take mean and contrast out of each window; this is added to the variance.
    whitening : float or None
        Patch units: whiten windows as the training images ask for; this times the mean variance
        is added to the variances.
    n_components : int or None
        Directions of largest variance that the whitening keeps. None: all.
    draw : {"gaussian", "windows"}
        Patch units: what filters start from.
    n_units : int
        Of the whole network; a multiple of ``n_subnetworks``.
    n_subnetworks : int
    scheme : {"independent", "stages", "untrained"}
        How sub-networks know of each other; see :mod:`varpro_nn.training.schemes`.
    n_stages : int
        Groups of sub-networks that train one after the other in ``stages``.
    images_per_subnetwork : int
        Drawn at random for each sub-network, without replacement.
    n_rounds : int
        Train each sub-network so often, each time on twice the images, up to all of its own.
    n_parts : int
        More than one: train one sub-network after the other, the sums of each shared among the
        workers in so many parts: for few sub-networks on many images.
    n_train : int or None
        Train on the first so many images only. None: all.
    max_nfev : int
        Evaluations of the functional in each round; 0 leaves the units untrained.
    loss : {"squares", "cross-entropy"}
        What sub-networks minimise.
    ridge : float
        ``lam`` of the sub-networks.
    weight_decay : float
        ``nu`` of the sub-networks.
    shift : int
    rotation, scale, shear, elastic : float
        Distortions of training images; see :class:`varpro_nn.data.augmentation.Augmentation`.
    flip : bool
        Mirror training images left and right, one in two.
    n_copies : int
        Distorted copies of all training images that the output layer is fitted on as well.
    output_layer : {"ridge", "softmax", "hinge"}
    standardise : bool
        Whether the penalty of the ridge layer acts on columns of variance 1, as that of the others.
    glue_ridge : float or None
        Penalty of the output layer. None: chosen on training images; see
        :mod:`varpro_nn.output.fit`.
    views : {"single", "flip", "shifts"}
        What the outputs of an image are averaged over: itself; and its mirror image; and its four
        shifts by a pixel.
    solver : str
        See :mod:`varpro_nn.varpro.fit`.
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

    recipe: str = "bilinear"
    units: str = "bilinear"
    scalarisation: str = "dense"
    rank: int = 1
    activation: str = "logistic"
    threshold: float = 0.0
    gain: float = 1.0
    window: int = 7
    stride: int = 1
    grid: int = 4
    training_stride: int | None = None
    contrast: float | None = None
    whitening: float | None = None
    n_components: int | None = None
    draw: str = "gaussian"
    n_units: int = 2000
    n_subnetworks: int = 10
    scheme: str = "independent"
    n_stages: int = 1
    images_per_subnetwork: int = 4000
    n_rounds: int = 1
    n_parts: int = 1
    n_train: int | None = None
    max_nfev: int = 10
    loss: str = "squares"
    ridge: float = 1.0
    weight_decay: float = 0.1
    shift: int = 0
    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    flip: bool = False
    n_copies: int = 0
    output_layer: str = "ridge"
    standardise: bool = False
    glue_ridge: float | None = None
    views: str = "single"
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
            kind = {"bool": bool, "str": str}.get(hint, Integral if "int" in hint else Real)
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
        for name in ("gain", "contrast", "whitening"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                msg = f"{name} must be positive and finite, got {value}."
                raise ValueError(msg)
        for name, needed in _NEEDS.items():
            if getattr(self, name) not in _PLAIN[name] and not needed[0](self):
                msg = f"{name}={getattr(self, name)!r} needs {needed[1]}."
                raise ValueError(msg)
        _ = self.augmentation  # looks at its amounts
        if self.output_layer != "ridge" and self.glue_ridge == 0:
            msg = f"glue_ridge must be positive with the {self.output_layer} layer, got 0."
            raise ValueError(msg)
        if self.loss != "squares" and (self.ridge == 0 or self.patience is not None):
            msg = f"loss={self.loss!r} needs a positive ridge, and no patience."
            raise ValueError(msg)
        if self.loss != "squares" and (
            self.form not in ("auto", "reduced") or self.jacobian == "full"
        ):
            msg = f"loss={self.loss!r} needs form auto or reduced, and Kaufman's Jacobian."
            raise ValueError(msg)
        if self.n_stages > self.n_subnetworks:
            msg = (
                "n_stages must be at most n_subnetworks, "
                f"got {self.n_stages} and {self.n_subnetworks}."
            )
            raise ValueError(msg)
        if self.n_units % self.n_subnetworks:
            msg = (
                "n_units must be a multiple of n_subnetworks, "
                f"got {self.n_units} and {self.n_subnetworks}."
            )
            raise ValueError(msg)

    @property
    def form_of_units(self) -> str:
        """Kind of scalarisation, of windows or whole images."""
        return self.scalarisation if self.units == "patch" else self.units

    @property
    def augmentation(self) -> Augmentation:
        """Distortions of training images."""
        return Augmentation(**{f.name: getattr(self, f.name) for f in fields(Augmentation)})

    @property
    def units_per_subnetwork(self) -> int:
        """Units of one sub-network."""
        return self.n_units // self.n_subnetworks


CHOICES: dict[str, tuple[str, ...]] = {
    "units": ("patch", *KINDS),
    "scalarisation": KINDS,
    "activation": ACTIVATIONS,
    "draw": DRAWS,
    "scheme": SCHEMES,
    "loss": tuple(FUNCTIONALS),
    "output_layer": LAYERS,
    "views": tuple(VIEWS),
    "solver": tuple(SOLVERS),
    "form": ("auto", "operator", "reduced", "array"),
    "jacobian": ("kaufman", "full"),
    "bootstrap_rule": get_args(Rule),
}
_LEAST = {
    "rank": 1, "n_units": 1, "n_subnetworks": 1, "images_per_subnetwork": 1, "n_train": 1,
    "max_nfev": 0, "ridge": 0, "weight_decay": 0, "glue_ridge": 0, "patience": 1,
    "bootstrap_ridge": 0, "seed": 0, "threshold": 0, "window": 1, "stride": 1, "grid": 1,
    "training_stride": 1, "n_components": 1, "n_stages": 1, "n_rounds": 1, "n_parts": 1, "shift": 0,
    "rotation": 0, "scale": 0, "shear": 0, "elastic": 0, "n_copies": 0,
}  # fmt: skip

_NEEDS: dict[str, tuple[Callable[[TrainConfig], bool], str]] = {
    "n_components": (
        lambda c: c.whitening is not None and c.scalarisation == "dense",
        "whitening and dense scalarisation",
    ),
    "n_copies": (lambda c: bool(c.augmentation), "a distortion (shift, flip, ...)"),
    "n_stages": (lambda c: c.scheme == "stages", "the scheme stages"),
    "whitening": (lambda c: c.units == "patch", "patch units"),
    "contrast": (lambda c: c.units == "patch", "patch units"),
    "training_stride": (lambda c: c.units == "patch", "patch units"),
    "n_parts": (lambda c: c.loss == "squares", "the loss squares"),
    "rank": (lambda c: c.form_of_units != "dense", "a scalarisation that is not dense"),
    "draw": (lambda c: c.units != "patch" or c.scalarisation == "dense", "dense scalarisation"),
}
_PLAIN: dict[str, tuple[Any, ...]] = {
    "n_components": (None,), "n_copies": (0,), "n_stages": (1,), "whitening": (None,),
    "contrast": (None,), "training_stride": (None,), "n_parts": (1,), "rank": (1,),
    "draw": ("gaussian",),
}  # fmt: skip
"""Values of them that need nothing."""
