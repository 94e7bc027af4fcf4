"""Jacobians, linear solves and searches for the projected functional, side by side.

``python -m experiments.claims.search_methods --output FILE`` fits quadratic units on MNIST (seeded
draws from the first 50,000 training images, three seeds; no test image is read).

*Jacobians* of the projected residual: Kaufman's, the full one of Golub and Pereyra, and finite
differences (``"2-point"`` of SciPy), each with LSMR, capped at 20 inner iterations. A finite
difference of every weight costs an evaluation. The paper drops the second term of the full one
since "that has been shown" to converge alike in most cases.

*Linear solve* of ``Phi A = tau``, section 8.1 of the paper: truncated SVD or QR. Phi of its
sub-network, and Phi with ten columns that are copies of others. Residual norm, rank found
(singular values, or diagonal entries of R, above 1e-12 of the largest) and largest linear weight;
numbers kept to project with: left factor, or R and what this project adds to it. (The paper gives
the SVD an N x N factor and QR one of N x I; the thin SVD has N x I too.)

*Searches* of section 8: least squares (LSMR, exact), gradients (L-BFGS-B, steepest descent with
backtracking) and costs alone (Powell, Nelder-Mead), each stopped at a CPU budget; a problem of
two units, where searches without derivatives can work, and one of ten.

``--quick`` takes the digits of scikit-learn and few units.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy import linalg
from scipy.optimize import least_squares
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.subnetwork import (
    INNER,
    RIDGE,
    TIGHT,
    WEIGHT_DECAY,
    CostPath,
    images_to_draw_from,
    path_of,
    subnetwork,
)
from experiments.shared.tables import print_table, spread
from varpro_nn import VarProFunctional
from varpro_nn._typing import FloatArray
from varpro_nn.data import ImageSet
from varpro_nn.linalg import StreamingQR, least_squares_with_ridge
from varpro_nn.varpro.fit import fit

RANK_TOLERANCE = 1e-12
SEARCHES = ("lsmr", "exact", "l-bfgs-b", "steepest descent", "powell", "nelder-mead")
Factors = tuple[FloatArray, int, int]
"""Linear weights, rank, and numbers kept."""


def jacobians(
    train: ImageSet, size: tuple[int, int], seed: int, kinds: Sequence[str], max_nfev: int
) -> dict[str, dict[str, Any]]:
    """Fit from one start with each kind of Jacobian."""
    dtype = np.float64 if "2-point" in kinds else np.float32  # differences need the digits
    results = {}
    for kind in kinds:
        functional, w0 = subnetwork(train, *size, (seed, 0), dtype)
        if kind == "2-point":
            path, evaluations = finite_differences(functional, w0, max_nfev)
        else:
            options: dict[str, Any] = {"jacobian": kind, "inner_iterations": INNER}
            report = fit(functional, w0, max_nfev=max_nfev, **options, **TIGHT)
            path, evaluations = path_of(report), report.n_evaluations
        results[kind] = {
            "costs": [cost for cost, _ in path],
            "cpu_seconds": path[-1][1],
            "evaluations": evaluations,
        }
    return results


def finite_differences(
    functional: VarProFunctional, w0: FloatArray, max_nfev: int
) -> tuple[CostPath, int]:
    """Fit by SciPy's two-point differences; all evaluations count, those of differences too."""
    evaluations = 0
    start = time.process_time()
    path: CostPath = [(functional.cost(w0), 0.0)]

    def residual(w: FloatArray) -> FloatArray:
        nonlocal evaluations
        evaluations += 1
        return functional.residual(w)

    def accepted(intermediate_result: Any) -> None:  # the name is SciPy's
        if intermediate_result.cost < path[-1][0]:
            path.append((intermediate_result.cost, time.process_time() - start))

    least_squares(
        residual, w0, "2-point", method="trf", tr_solver="lsmr", tr_options={"maxiter": INNER},
        x_scale=1.0, max_nfev=max_nfev, callback=accepted, **TIGHT,
    )  # fmt: skip
    return path, evaluations


def by_svd(Phi: FloatArray, tau: FloatArray) -> Factors:
    """Solve by the truncated singular value decomposition."""
    U, sigma, Vt = linalg.svd(Phi, full_matrices=False)
    rank = int(np.count_nonzero(sigma > RANK_TOLERANCE * sigma[0]))
    A = Vt[:rank].T @ ((U[:, :rank].T @ tau) / sigma[:rank, None])
    return A, rank, U[:, :rank].size


def by_qr(Phi: FloatArray, tau: FloatArray) -> Factors:
    """Solve by QR without pivoting: the rank is a guess, and is not used."""
    Q, R = linalg.qr(Phi, mode="economic")
    size = np.abs(np.diag(R))
    # Where the rank is deficient, rounding leaves something on the diagonal to divide by.
    A = linalg.lapack.dtrtrs(R, Q.T @ tau)[0]
    return A, int(np.count_nonzero(size > RANK_TOLERANCE * size.max())), Q.size


def by_pivoted_qr(Phi: FloatArray, tau: FloatArray) -> Factors:
    """Solve by QR with pivoting of columns, cut at the rank: a basic solution."""
    Q, R, pivots = linalg.qr(Phi, mode="economic", pivoting=True)
    size = np.abs(np.diag(R))
    rank = int(np.count_nonzero(size > RANK_TOLERANCE * size[0]))
    A = np.zeros((Phi.shape[1], tau.shape[1]))
    A[pivots[:rank]] = linalg.solve_triangular(R[:rank, :rank], Q[:, :rank].T @ tau)
    return A, rank, Q[:, :rank].size


def by_this_project(Phi: FloatArray, tau: FloatArray) -> Factors:
    """Solve by the triangular factor of ``[Phi, tau]``; by its SVD only where it is singular."""
    sums = StreamingQR(Phi.shape[1] + tau.shape[1])
    sums.add(np.concatenate([Phi, tau], axis=1))
    solution = least_squares_with_ridge(sums, np.zeros(Phi.shape[1]), RANK_TOLERANCE)
    # Q1 is Phi T: Phi itself and what makes Q1 of it.
    kept = Phi.size + sums.factor.size + Phi.shape[1] * solution.rank
    return solution.A, solution.rank, kept


SOLVES: dict[str, Callable[[FloatArray, FloatArray], Factors]] = {
    "SVD": by_svd,
    "QR": by_qr,
    "QR, pivoted": by_pivoted_qr,
    "least_squares_with_ridge": by_this_project,
}


def linear_solves(
    train: ImageSet, size: tuple[int, int], seed: int, times: int
) -> dict[str, dict[str, Any]]:
    """Solve for the linear weights by each method, with Phi as it is and with repeated columns."""
    functional, w0 = subnetwork(train, *size, (seed, 0), np.float64)
    (block,) = functional.design.blocks(w0)
    copies, n_copies = block.Phi.copy(), max(1, size[1] // 5)
    copies[:, :n_copies] = copies[:, n_copies : 2 * n_copies]
    results = {}
    for kind, Phi in {"full rank": block.Phi, f"{n_copies} columns twice": copies}.items():
        for name, solve in SOLVES.items():
            A, rank, kept = solve(Phi, block.tau)
            seconds = []
            for _ in range(times):
                start = time.process_time()
                solve(Phi, block.tau)
                seconds.append(time.process_time() - start)
            results[f"{kind}: {name}"] = {
                "cpu_ms": 1000 * float(np.median(seconds)),
                "residual": float(np.linalg.norm(block.tau - Phi @ A)),
                "rank": rank,
                "columns": Phi.shape[1],
                "largest_weight": float(np.abs(A).max()),
                "numbers_kept": kept,
            }
    return results


def steepest_descent(functional: VarProFunctional, w: FloatArray, budget: float) -> CostPath:
    """Follow the gradient, halving the step until the cost falls enough (Armijo).

    The path has each evaluation of the cost, rejected steps too, as those of the other searches do.
    """
    start = time.process_time()
    cost, step = functional.cost(w), 1.0
    path: CostPath = [(cost, time.process_time() - start)]
    while path[-1][1] < budget:
        g = functional.gradient(w)
        step *= 4  # what backtracking took back may be wanted again
        accepted = False
        while not accepted:
            trial = functional.cost(w - step * g)
            path.append((trial, time.process_time() - start))
            accepted = trial <= cost - 1e-4 * step * float(g @ g)
            step = step if accepted else step / 2
            if step < 1e-12:
                return path
        w, cost = w - step * g, trial
    return path


def searches(
    train: ImageSet, size: tuple[int, int], seed: int, budget: float
) -> dict[str, dict[str, Any]]:
    """Lowest cost within shares of the budget of CPU seconds, by each search."""
    results = {}
    for name in SEARCHES:
        functional, w0 = subnetwork(train, *size, (seed, 0), np.float64)
        if name == "steepest descent":
            path = steepest_descent(functional, w0, budget)
        else:
            # A sweep of Powell's method may go on long past the budget: so many evaluations do.
            start = time.process_time()
            _ = functional.cost(1.01 * w0), functional.cost(1.02 * w0)
            each = (time.process_time() - start) / 2
            limit: dict[str, Any] = {"solver": name, "max_nfev": 10 + int(3 * budget / each)}
            report = fit(
                functional, w0, callback=lambda r: r.cpu_seconds > budget, **limit, **TIGHT
            )
            path = [(r.cost, r.cpu_seconds) for r in report.history]
        told = {}
        for share in (0.03, 0.1, 0.3, 1.0):
            costs = [cost for cost, seconds in path if seconds <= share * budget]
            told[f"{share * budget:g} s"] = min(costs, default=path[0][0])
        in_time = sum(seconds <= budget for _, seconds in path)
        results[name] = {"lowest": told, "start": path[0][0], "evaluations": in_time}
    return results


def table_of_jacobians(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row a kind of Jacobian; mean over seeds and range."""
    table = []
    for kind in results[0]:
        rows = [result[kind] for result in results]
        table.append({
            "Jacobian": kind,
            "start": spread([r["costs"][0] for r in rows], "{:.1f}"),
            "cost after 14 iterations": spread([r["costs"][:15][-1] for r in rows], "{:.1f}"),
            "at the end": spread([r["costs"][-1] for r in rows], "{:.1f}"),
            "iterations": spread([len(r["costs"]) - 1 for r in rows], "{:.0f}"),
            "evaluations": spread([r["evaluations"] for r in rows], "{:,.0f}"),
            "CPU s": spread([r["cpu_seconds"] for r in rows], "{:.2f}"),
        })  # fmt: skip
    return table


def ends(results: Sequence[Mapping[str, Any]]) -> str:
    """Say how often Kaufman's Jacobian leads lower."""
    lower = sum(r["kaufman"]["costs"][-1] < r["full"]["costs"][-1] for r in results)
    return f"\nKaufman's ends lower than the full one in {lower} of {len(results)} seeds."


def table_of_solves(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row a solve; mean over seeds and range."""
    table = []
    for name in results[0]:
        rows = [result[name] for result in results]
        forms = {"cpu_ms": "{:.2f}", "residual": "{:.6f}", "rank": "{:.0f}"}
        cells = {"matrix: solve": name, "columns": str(rows[0]["columns"])}
        for key, form in forms.items():
            title = "CPU ms" if key == "cpu_ms" else key
            cells[title] = spread([r[key] for r in rows], form)
        cells["largest weight"] = spread([r["largest_weight"] for r in rows], "{:.1e}")
        table.append(cells | {"numbers kept": f"{rows[0]['numbers_kept']:,}"})
    return table


def table_of_searches(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row a search; lowest cost so far, mean over seeds and range."""
    table = []
    for name in results[0]:
        rows = [result[name] for result in results]
        cells = {"search": name, "start": spread([r["start"] for r in rows], "{:.1f}")}
        for after in rows[0]["lowest"]:
            cells[f"after {after}"] = spread([r["lowest"][after] for r in rows], "{:.1f}")
        table.append(cells | {"evaluations": spread([r["evaluations"] for r in rows], "{:,.0f}")})
    return table


def main() -> None:
    args = parser(__doc__).parse_args()
    quick = args.quick
    train = images_to_draw_from(args)
    settings = {"ridge": RIDGE, "weight_decay": WEIGHT_DECAY, "inner_iterations": INNER, **TIGHT}
    ledger = Ledger(args.output, data=train.digest, rank_tolerance=RANK_TOLERANCE, **settings)
    seeds = range(args.seed, args.seed + (2 if quick else 3))
    tiny, small, paper = (500, 2), (500, 10), (2000, 50)
    if quick:
        tiny, small, paper = (100, 1), (100, 3), (150, 5)
    budget = 0.03 if quick else 2.0
    both = ("kaufman", "full")
    parts: list[tuple[str, Callable[..., Any], tuple[Any, ...], Callable[..., Any]]] = [
        ("Jacobians", jacobians, (small, (*both, "2-point"), 15), table_of_jacobians),
        ("Jacobians", jacobians, (paper, both, 15 if quick else 100), table_of_jacobians),
        ("Linear solve", linear_solves, (paper, 3 if quick else 20), table_of_solves),
        ("Searches", searches, (tiny, budget), table_of_searches),
        ("Searches", searches, (small, budget), table_of_searches),
    ]
    told: dict[str, list[Any]] = {}
    with threadpool_limits(1, user_api="blas"):
        for title, measure, arguments, table in parts:
            size, *others = arguments
            name = f"{title}, {size[0]:,} images, {size[1]} units"
            told[name] = [
                ledger.get(
                    {title: arguments, "seed": seed},
                    partial(measure, train, size, seed, *others),
                )
                for seed in seeds
            ]
            print_table(table(told[name]), f"{name}: mean of {len(seeds)} seeds (range)")
            if measure is jacobians:
                print(ends(told[name]))
    print_last_line(told)


if __name__ == "__main__":
    main()
