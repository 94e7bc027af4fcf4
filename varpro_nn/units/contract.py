"""The unit contract."""

from typing import Any, Protocol, runtime_checkable

import numpy as np

from varpro_nn._typing import FloatArray, RealArray


@runtime_checkable
class Units(Protocol):
    """What the variable-projection functional asks of a layer of units.

    The inputs need not be images: anything with ``len`` that can be sliced along its first axis
    serves. The letters are those of ``varpro_nn._typing``.

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
