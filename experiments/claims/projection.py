"""Fits with and without variable projection: cost, iterations, CPU seconds, condition numbers.

``python -m experiments.claims.projection --output FILE`` trains quadratic units on MNIST (seeded
draws from the first 50,000 training images; no test image is read). From the same unit weights, and
the linear weights that fit them, the same cost is minimised by ``least_squares`` (trf) over the
unit weights alone (*projected*, Kaufman's Jacobian) and over all weights (*joint*).

Both have Jacobians that store dPhi once and are applied as operators, and the same LSMR, capped
at 20 inner iterations. The small problem has exact inner solves too, both on equivalent problems
of as many rows as weights and one; *scaled* takes the lengths of the columns of J as units, as
MINPACK does. Told are iterations (accepted steps) and CPU seconds until within 10, 1 and 0.1 % of
the lowest cost that any fit found for this seed. Both end in local minima, which differ. *Scaled*
is a help to the joint fit alone, and in no verdict.

*Condition* of the Gauss-Newton matrix J'J of both (2-norm, from eigenvalues in double precision,
numbers beyond 1e15 are rounding). Weights of rows that are blank in all drawn images move
nothing: where there is no penalty, they are left out of both; the linear weights stay those of the
penalised problem. Kaufman's J'J is the Schur
complement of the joint one, so at the same weights its condition number is never larger: that is
a theorem; the table says by how much, and what is left once columns of J have length 1.

``--quick`` takes the digits of scikit-learn and few units.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from threadpoolctl import threadpool_limits

from experiments.shared.joint import Joint, schur_complement
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
from varpro_nn._typing import FloatArray
from varpro_nn.data import ImageSet
from varpro_nn.varpro.fit import fit

WITHIN = (0.1, 0.01, 0.001)


def condition(H: FloatArray, *, scaled: bool = False) -> float:
    """Condition number of a semidefinite matrix, 1e16 at most, without its rows of zeros.

    ``scaled``: to a unit diagonal.
    """
    there = np.diag(H) > 0
    H = H[np.ix_(there, there)]
    if scaled:
        lengths = np.sqrt(np.diag(H))
        H = H / np.outer(lengths, lengths)
    values = np.linalg.eigvalsh(H)
    return float(1 / max(values[0] / values[-1], 1e-16))


def conditions(joint: Joint, at: Mapping[str, FloatArray]) -> list[dict[str, Any]]:
    """Condition numbers at the named points, of both Gauss-Newton matrices."""
    rows = []
    for name, x in at.items():
        for penalties in (True, False):
            H = joint.gauss_newton(x, penalties=penalties)
            for method, M in (("projected", schur_complement(H, joint.hp)), ("joint", H)):
                rows.append({
                    "at": name, "penalties": penalties, "method": method,
                    "condition": condition(M), "scaled": condition(M, scaled=True),
                })  # fmt: skip
    return rows


def reached(path: CostPath, lowest: float) -> dict[str, Any]:
    """Tell when a path came near to the lowest cost: [iterations, CPU seconds], or None."""
    told: dict[str, Any] = {}
    for share in WITHIN:
        steps = (i for i, (cost, _) in enumerate(path) if cost <= (1 + share) * lowest)
        first = next(steps, None)
        told[f"{share:.1%}"] = None if first is None else [first, path[first][1]]
    end = {"cost": path[-1][0], "iterations": len(path) - 1, "cpu_seconds": path[-1][1]}
    return told | end | {"start": path[0][0], "cost_15": path[min(15, len(path) - 1)][0]}


def compare(
    train: ImageSet, size: tuple[int, int], seed: int, dtype: DTypeLike, solvers: Mapping[str, int]
) -> dict[str, Any]:
    """Fit with and without projection by each inner solver, with so many evaluations at most."""
    functional, w0 = subnetwork(train, *size, (seed, 0), dtype)
    joint = Joint(functional)
    x0 = joint.start(w0)
    paths: dict[str, CostPath] = {}
    at = {"start": x0}
    for solver, max_nfev in solvers.items():
        options: dict[str, Any] = {
            "solver": solver,
            "inner_iterations": INNER,
            "max_nfev": max_nfev,
        }
        report = fit(functional, w0, **options, **TIGHT)
        paths[f"projected, {solver}"] = path_of(report)
        x, paths[f"joint, {solver}"] = joint.minimise(x0, solver, max_nfev)
        if solver == "exact":
            paths["joint, exact, scaled"] = joint.minimise(x0, solver, max_nfev, "jac")[1]
        else:
            at |= {
                "end of the projected fit": joint.start(report.w),
                "end of the joint fit": joint.start(x[: joint.hp]),
            }
    lowest = min(cost for path in paths.values() for cost, _ in path)
    fits = {name: reached(path, lowest) for name, path in paths.items()}
    return {"fits": fits, "conditions": conditions(joint, at)}


def table_of_fits(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row a method; mean over seeds, smallest and largest, of iterations and CPU seconds."""
    table = []
    for name in results[0]["fits"]:
        fits = [result["fits"][name] for result in results]
        cells = {"fit": name, "start": spread([f["start"] for f in fits], "{:.1f}")}
        cells["after 15 iterations"] = spread([f["cost_15"] for f in fits], "{:.1f}")
        cells["at the end"] = spread([f["cost"] for f in fits], "{:.1f}")
        cells["iterations"] = spread([f["iterations"] for f in fits], "{:.0f}")
        cells["CPU s"] = spread([f["cpu_seconds"] for f in fits], "{:.1f}")
        for share in WITHIN:
            told = [f[f"{share:.1%}"] for f in fits]
            there = [pair for pair in told if pair is not None]
            steps, seconds = ([pair[i] for pair in there] for i in (0, 1))
            text = f"{spread(steps, '{:.0f}')} it., {spread(seconds, '{:.2f}')} s" if there else ""
            missing = len(told) - len(there)
            text += f"{'; ' if there else ''}not reached: {missing} of {len(told)}" * bool(missing)
            cells[f"within {100 * share:g} % of the lowest cost"] = text
        table.append(cells)
    return table


def verdicts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for how many seeds the claims for projection hold."""
    told = []
    for solver in (name.split(", ")[1] for name in results[0]["fits"] if name.startswith("proj")):
        pairs = [
            (result["fits"][f"projected, {solver}"], result["fits"][f"joint, {solver}"])
            for result in results
        ]
        lower = sum(p["cost"] < j["cost"] for p, j in pairs)
        after_15 = sum(p["cost_15"] < j["cost_15"] for p, j in pairs)
        sooner, cheaper = (sum(first(p, i) < first(j, i) for p, j in pairs) for i in (0, 1))
        told.append(
            f"Projected against joint, {solver}: lower after 15 iterations in {after_15} of "
            f"{len(pairs)} seeds, at the end in {lower}; within 10 % in fewer iterations in "
            f"{sooner}, in less CPU time in {cheaper}."
        )
    return told


def first(told: Mapping[str, Any], which: int) -> float:
    """Look up iterations (0) or CPU seconds (1) until within 10 %; infinite if never."""
    pair = told["10.0%"]
    return float("inf") if pair is None else float(pair[which])


def table_of_conditions(results: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row a point: medians over seeds of both condition numbers."""
    table = []
    for i in range(0, len(results[0]["conditions"]), 2):
        cells: dict[str, str] = {}
        for j in (i, i + 1):
            rows = [result["conditions"][j] for result in results]
            cells |= {
                "at": rows[0]["at"],
                "penalties": "with" if rows[0]["penalties"] else "without",
            }
            for key, text in (("condition", ""), ("scaled", ", unit columns")):
                value = float(np.median([row[key] for row in rows]))
                cells[rows[0]["method"] + text] = f"{value:.1e}" if value < 1e15 else "> 1e15"
        table.append(cells)
    return table


def main() -> None:
    args = parser(__doc__).parse_args()
    quick = args.quick
    train = images_to_draw_from(args)
    inner = {"ridge": RIDGE, "weight_decay": WEIGHT_DECAY, "inner_iterations": INNER, **TIGHT}
    ledger = Ledger(args.output, data=train.digest, **inner)
    small = {"lsmr": 40, "exact": 20} if quick else {"lsmr": 400, "exact": 100}
    paper = {"lsmr": 20 if quick else 200}
    problems: list[tuple[tuple[int, int], type, dict[str, int], int]] = [
        ((100, 3) if quick else (500, 10), np.float64, small, 2 if quick else 5),
        ((150, 5) if quick else (2000, 50), np.float32, paper, 2 if quick else 3),
    ]
    compared: dict[str, list[dict[str, Any]]] = {}
    with threadpool_limits(1, user_api="blas"):
        for size, dtype, solvers, n_seeds in problems:
            name = f"{size[0]:,} images, {size[1]} units"
            compared[name] = [
                ledger.get(
                    {"projection": [*size, np.dtype(dtype).name], "seed": seed, **solvers},
                    partial(compare, train, size, seed, dtype, solvers),
                )
                for seed in range(args.seed, args.seed + n_seeds)
            ]
            limits = ", ".join(f"{n} with {solver}" for solver, n in solvers.items())
            title = f"{name}: cost, mean of {n_seeds} seeds (range); evaluations at most: {limits}"
            print_table(table_of_fits(compared[name]), title)
            print("", *verdicts(compared[name]), sep="\n")
            title = f"{name}: condition number of J'J, median of {n_seeds} seeds"
            print_table(table_of_conditions(compared[name]), title)
    print_last_line({"compared": compared})


if __name__ == "__main__":
    main()
