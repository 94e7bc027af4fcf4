"""
Two exponentials with a unit of your own
========================================

The functional and ``fit`` know nothing of images. Here they fit ``y = a exp(-w1 t) + b exp(-w2 t) + c`` to noisy data. The search is
over ``w1`` and ``w2`` alone: ``a``, ``b`` and ``c`` follow from them by linear least squares.
"""

# %%
# A unit says what its columns are, and how they move with its weights.

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import least_squares

from varpro_nn import VarProFunctional, fit


class Exponentials:
    n_units, n_cells, n_weights = 2, 1, 1

    def features(self, W, t):
        return np.exp(-t[:, None] * W[:, 0])

    def features_and_derivative(self, W, t):
        Phi = self.features(W, t)
        return Phi, (-t[:, None] * Phi)[:, None, :, None]


rng = np.random.default_rng(0)
t = np.linspace(0, 5, 80)
y = 2 * np.exp(-0.5 * t) - 3 * np.exp(-2 * t) + 1 + 0.02 * rng.standard_normal(len(t))

functional = VarProFunctional(Exponentials(), t, y, dtype=np.float64)
start = np.array([0.3, 1.0])
report = fit(functional, start, solver="exact", max_nfev=100)
A = functional.evaluate(report.w).A
print(report.reason, "after", report.n_evaluations, "evaluations")
print("w:", report.w.round(3), "(true: 0.5 and 2)")
print("a, b, c:", A.ravel().round(3), "(true: 2, -3, 1)")

# %%
# The same by SciPy over all five parameters at once, from the same decay rates and the linear weights that are best there.


def residual(x):
    return y - (x[0] * np.exp(-x[3] * t) + x[1] * np.exp(-x[4] * t) + x[2])


all_at_once = least_squares(residual, np.concatenate([functional.evaluate(start).A.ravel(), start]))
print("cost: projected", round(report.cost, 5), "all at once", round(all_at_once.cost, 5))
print("evaluations:", report.n_evaluations, "and", all_at_once.nfev)

# %%
# The functional has two variables, so it can be drawn. It does not change when the two exponentials change places. On the
# diagonal they are one, and the fit is worse.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.plot(t, y, ".", color="0.6", label="data")
left.plot(t, functional.units.features(report.w[:, None], t) @ A[:-1] + A[-1], label="fit")
left.set(xlabel="t", ylabel="y")
left.legend()

grid = np.linspace(0.1, 3, 60)
cost = [[functional.cost(np.array([first, second])) for first in grid] for second in grid]
right.contourf(grid, grid, np.log10(cost), levels=25)
path = [
    fit(functional, start, solver="exact", max_nfev=n).w for n in range(1, report.n_evaluations + 1)
]
right.plot(*np.transpose(path), ".-", color="tab:orange", label="path of the fit")
right.set(xlabel="w1", ylabel="w2", title="cost with the linear weights eliminated, log 10")
right.legend()
plt.show()
