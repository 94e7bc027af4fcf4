"""The contract of units, and checks whose errors name the wrong member."""

from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np

from varpro_nn._typing import FloatArray, RealArray


@runtime_checkable
class Units(Protocol):
    """What the variable-projection functional asks of a layer of units.

    For :class:`varpro_nn.VarProFunctional` the inputs need not be images: anything with ``len``
    that can be sliced along its first axis will do. Training in sub-networks, output layers and
    networks take images; a signal of d numbers is an image of shape (1, d). The letters are those
    of ``varpro_nn._typing``.

    Attributes
    ----------
    n_units : int
        h, the units that ``init`` draws. The other methods take any number of rows of ``W``.
    n_cells : int
        m, columns of one unit; 1 unless the unit looks at several places with the same weights.
    n_weights : int
        p, weights of one unit.

    Notes
    -----
    *Floating-point type.* Products run in the type of ``W``: single precision for speed, double
    for tests. What is returned has that type.

    *Order.* Column ``c * h + i`` of the features is cell ``c`` of unit ``i``.

    *Independence.* Row ``i`` of the result depends on input ``i`` alone, so that blocks of inputs
    can be worked on one after the other. Inputs and weights are not changed.
    """

    @property
    def n_units(self) -> int: ...  # noqa: D102

    @property
    def n_cells(self) -> int: ...  # noqa: D102

    @property
    def n_weights(self) -> int: ...  # noqa: D102

    def init(self, inputs: Any, rng: np.random.Generator) -> FloatArray:
        """Draw weights, each pre-activation standardised on ``inputs``.

        Parameters
        ----------
        inputs : sequence of length n
        rng : numpy.random.Generator

        Returns
        -------
        ndarray, shape (h, p)
        """
        ...

    def features(self, W: RealArray, inputs: Any) -> RealArray:
        """Compute the columns of ``Phi``.

        Parameters
        ----------
        W : ndarray, shape (h, p)
        inputs : sequence of length n

        Returns
        -------
        ndarray, shape (n, h * m)
        """
        ...

    def features_and_derivative(self, W: RealArray, inputs: Any) -> tuple[RealArray, RealArray]:
        """Compute the columns of ``Phi`` and their derivative.

        Parameters
        ----------
        W : ndarray, shape (h, p)
        inputs : sequence of length n

        Returns
        -------
        Phi : ndarray, shape (n, h * m)
        dPhi : ndarray, shape (n, m, h, p)
            Entry ``[j, c, i, l]`` is the derivative of cell ``c`` of unit ``i`` at input ``j`` with
            respect to ``W[i, l]``; all other derivatives are zero. Any strides will do; the
            operator form copies all but an array whose memory order is (h, m, n, p).
        """
        ...


MEMBERS = ("n_units", "n_cells", "n_weights", "init", "features", "features_and_derivative")
"""The members of :class:`Units`."""


def check_members(units: Any, *, to_draw: bool = False) -> None:
    """Check the members of :class:`Units`; ``init`` is needed ``to_draw`` weights.

    Raises
    ------
    TypeError
        A class instead of an object, or a missing member.
    ValueError
        ``n_units``, ``n_cells`` or ``n_weights`` is not a positive whole number.
    """
    if isinstance(units, type):
        msg = f"units must be an object, got the class {units.__name__}; call it to make one."
        raise TypeError(msg)
    needed = [name for name in MEMBERS if to_draw or name != "init"]
    missing = [name for name in needed if not hasattr(units, name)]
    if missing:
        msg = (
            f"units must have the members {', '.join(needed)}, got {type(units).__name__} "
            f"without {', '.join(missing)}; see varpro_nn.Units."
        )
        raise TypeError(msg)
    for name in MEMBERS[:3]:
        value = getattr(units, name)
        if not isinstance(value, Integral) or value < 1:
            msg = f"{_of(units, name)} must be a positive whole number, got {value!r}."
            raise ValueError(msg)


def check_weights(units: Units, W: Any) -> None:
    """Check that weights of ``init`` are real numbers (h, p).

    Raises
    ------
    TypeError, ValueError
    """
    _check_array(_of(units, "init"), W, (units.n_units, units.n_weights), "(h, p)")


def check_features(units: Units, Phi: Any, n: int, h: int) -> None:
    """Check that features of ``n`` inputs and ``h`` units are real numbers (n, h m).

    Raises
    ------
    TypeError, ValueError
    """
    _check_array(_of(units, "features"), Phi, (n, h * units.n_cells), "(n, h * m)")


def checked_derivative(units: Units, pair: Any, n: int, h: int) -> tuple[RealArray, RealArray]:
    """Return what ``features_and_derivative`` gave for ``n`` inputs and ``h`` units, checked.

    Raises
    ------
    TypeError, ValueError
        It is not a pair of features (n, h m) and their derivative (n, m, h, p).
    """
    name, m = _of(units, "features_and_derivative"), units.n_cells
    if not isinstance(pair, tuple) or len(pair) != 2:
        got = f"{len(pair)} of them" if isinstance(pair, tuple) else type(pair).__name__
        msg = f"{name} must return two arrays, the features and their derivative, got {got}."
        raise TypeError(msg)
    Phi, dPhi = pair
    _check_array(f"{name} (first array)", Phi, (n, h * m), "(n, h * m)")
    _check_array(f"{name} (second array)", dPhi, (n, m, h, units.n_weights), "(n, m, h, p)")
    return Phi, dPhi


def _of(units: Any, member: str) -> str:
    return f"{type(units).__name__}.{member}"


def _check_array(name: str, array: Any, shape: tuple[int, ...], letters: str) -> None:
    if not isinstance(array, np.ndarray):
        msg = f"{name} must return an array {letters}, got {type(array).__name__}."
        raise TypeError(msg)
    if array.shape != shape:
        msg = f"{name} must return {letters}, here {shape}, got shape {array.shape}."
        raise ValueError(msg)
    if array.dtype.kind not in "fiub":
        msg = f"{name} must return real numbers, of the type of W, got {array.dtype}."
        raise TypeError(msg)
