"""CPU seconds an iteration, and the cost reached, of the paper's sub-network by several paths.

``python -m experiments.benchmarks.iteration`` trains one sub-network of the paper (2,000 images of
MNIST, 50 quadratic units: 1,450 weights, 20,000 residuals) from the same start by

* ``default``: what ``fit`` does by itself (LSMR, capped, on an operator);
* ``full``: the same with Golub and Pereyra's full Jacobian in the place of Kaufman's;
* ``reduced``: LSMR, capped, on the equivalent problem of 1,451 rows;
* ``exact``: an exact inner solve (SVD) on the reduced problem;
* ``dense_lsmr``: LSMR, capped, on the dense Jacobian;
* ``minpack``: MINPACK's Levenberg-Marquardt on the dense Jacobian, the paper's way, two
  evaluations only;
* ``joint``: all 1,960 weights at once, linear ones included, no projection: LSMR, capped, on an
  operator too, from the same unit weights and the linear weights that fit them.

An iteration is one step: the CPU time of the fit divided by its evaluations less the first. Every
path also takes the Jacobian at its last point (MINPACK's two evaluations need two Jacobians),
which the last column counts. BLAS has one thread. Above the figures stand the operations and
bytes of one iteration of the default path and the time of its parts. The last
line is one JSON object.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.shared.joint import Joint
from experiments.shared.ledger import print_last_line
from experiments.shared.subnetwork import INNER, subnetwork
from experiments.shared.tables import print_table
from varpro_nn._typing import FloatArray
from varpro_nn.data import load
from varpro_nn.varpro.fit import fit
from varpro_nn.varpro.functional import VarProFunctional


def products_alone(functional: VarProFunctional, w: np.ndarray) -> dict[str, float]:
    """CPU seconds of the parts of one default iteration, and of its bare matrix products."""
    units, X = functional.units, functional.design.inputs
    W = w.reshape(units.n_units, units.n_weights).astype(np.float32)
    operator = functional.jacobian(w)
    D = np.ascontiguousarray(units.features_and_derivative(W, X)[1][:, 0].transpose(1, 0, 2))
    v = np.ones((units.n_units, units.n_weights, 1), dtype=np.float32)
    u = np.ones((units.n_units, 1, len(D[0])), dtype=np.float32)
    passes = INNER + 2  # the Krylov steps, the gradient and the quadratic model

    def seconds(task: Callable[[], Any], times: int = 20) -> float:
        task()
        start = time.process_time()
        for _ in range(times):
            task()
        return (time.process_time() - start) / times

    x, y = np.ones(operator.shape[1]), np.ones(operator.shape[0])
    return {
        "features_and_derivative": seconds(lambda: units.features_and_derivative(W, X)),
        "operator_times_vectors": passes * seconds(lambda: (operator @ x, operator.T @ y)),
        "products_of_dPhi_alone": passes * seconds(lambda: (D @ v, u @ D)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-nfev", type=int, default=9, help="evaluations of each path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-images", type=int, default=2000)
    parser.add_argument("--n-units", type=int, default=50)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    train = load("mnist", args.data_dir).train

    def problem() -> tuple[VarProFunctional, FloatArray]:
        """Make the same functional and start anew: each path evaluates it for itself."""
        return subnetwork(train, args.n_images, args.n_units, [args.seed])

    paths: dict[str, dict[str, Any]] = {
        "default": {},
        "full": {"jacobian": "full"},
        "reduced": {"form": "reduced"},
        "dense_lsmr": {"form": "array"},
        "exact": {"solver": "exact"},
        "minpack": {"solver": "lm", "form": "array", "max_nfev": 2},
    }
    rows: dict[str, dict[str, float]] = {}
    with threadpool_limits(1, user_api="blas"):
        functional, w0 = problem()
        p = functional.n_weights
        products = products_alone(functional, w0)
        megabytes = args.n_images * p * 4 / 1e6
        print(
            f"\nOne default iteration: {4 * (INNER + 2) * args.n_images * p / 1e9:.2f} Gflop with "
            f"dPhi, {megabytes:.1f} MB, read {2 * (INNER + 2)} times; a dense J has "
            f"{functional.n_residuals * p * 8 / 1e6:.0f} MB. Its parts by themselves, CPU s "
            "(the last is in the one before it): "
            + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in products.items())
            + "."
        )
        for name, options in paths.items():
            print(f"{name} ...", file=sys.stderr, flush=True)
            report = fit(*problem(), **{"max_nfev": args.max_nfev, **options})
            n_jacobians = sum(not np.isnan(record.optimality) for record in report.history)
            rows[name] = {
                "evaluations": report.n_evaluations,
                "seconds_per_iteration": report.cpu_seconds / max(report.n_evaluations - 1, 1),
                "seconds_per_jacobian": report.cpu_seconds / n_jacobians,
                "start": report.history[0].cost,
                "cost": report.cost,
            }
        print("joint ...", file=sys.stderr, flush=True)
        joint = Joint(problem()[0])
        x0, start = joint.start(w0), time.process_time()
        _, path = joint.minimise(x0, "lsmr", args.max_nfev)
        seconds = (time.process_time() - start) / max(args.max_nfev - 1, 1)
        rows["joint"] = {
            "evaluations": args.max_nfev, "seconds_per_iteration": seconds, "cost": path[-1][0],
        }  # fmt: skip
    print_table(
        [
            {
                "path": name,
                "evaluations": str(row["evaluations"]),
                "CPU s an iteration": f"{row['seconds_per_iteration']:.4f}",
                "CPU s of the fit, by Jacobian": f"{row['seconds_per_jacobian']:.4f}"
                if "seconds_per_jacobian" in row
                else "",
                "cost": f"{row['cost']:.1f}",
            }
            for name, row in rows.items()
        ],
        f"{args.n_images:,} images, {args.n_units} units, {p:,} weights, "
        f"{functional.n_residuals:,} rows; cost at the start {rows['default']['start']:.1f}",
    )
    ratio = rows["minpack"]["seconds_per_iteration"] / rows["default"]["seconds_per_iteration"]
    by_jacobian = rows["minpack"]["seconds_per_jacobian"] / rows["default"]["seconds_per_jacobian"]
    print(
        f"\nMINPACK takes {ratio:.0f} times the default's CPU time by iteration, and "
        f"{by_jacobian:.0f} times by Jacobian (its two evaluations need two)."
    )
    settings = {"max_nfev": args.max_nfev, "seed": args.seed}
    told = {"rows": rows, "ratio_minpack_to_default": ratio, "products_alone": products}
    print_last_line({**told, **settings})


if __name__ == "__main__":
    main()
