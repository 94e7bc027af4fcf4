"""Linear classifiers of the raw pixels of CIFAR-10, beside figures that two texts claim.

``python -m experiments.claims.linear_classifiers --output FILE`` measures softmax regression by
gradient descent on mini-batches of PyTorch (a grid of batch sizes and learning rates, 10,000
updates each, then a long run), linear discriminant analysis, a linear support vector machine and
ridge of scikit-learn, and the softmax and squared hinge fits of this package, with and without the
mean image taken off. Settings are chosen on the last fifth of the training images, or by
leave-one-out; each row sees the test images once, at its end. CPU seconds of choosing stand beside
those of the fit with what was chosen, but for mini-batches, whose grid and long run are not
counted, and for ridge, which chooses as it fits. ``--quick`` takes the digits of scikit-learn. FILE
keeps what is done, so that a stopped run goes on. The last line is JSON.
"""

import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifierCV, SGDClassifier
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import load
from varpro_nn._typing import FloatArray, LabelArray, RealArray
from varpro_nn.data.images import intensities
from varpro_nn.linalg.convex import fit_linear
from varpro_nn.training.metrics import standard_error

BATCHES = (4, 8, 16, 32, 64, 128, 256, 512)
CLAIMED_GRID = {
    1e-1: (0.20, 0.16, 0.28, 0.31, 0.26, 0.29, 0.22, 0.28),
    1e-2: (0.22, 0.29, 0.35, 0.38, 0.38, 0.39, 0.40, 0.40),
    1e-3: (0.33, 0.34, 0.36, 0.36, 0.37, 0.37, 0.37, 0.37),
    1e-4: (0.29, 0.30, 0.30, 0.30, 0.31, 0.30, 0.30, 0.30),
    1e-5: (0.18, 0.19, 0.18, 0.19, 0.19, 0.19, 0.19, 0.17),
}
"""For each learning rate the claimed accuracy on images held out, by batch size."""
CLAIMED_CELL = (256, 1e-2)
"""Batch size and learning rate that the text went on with."""
CLAIMED_UPDATES = 1_000_000
CLAIMED_SOFTMAX, CLAIMED_DISCRIMINANT = 0.3805, 0.3785
"""Claimed test accuracies: of so many updates with that batch size and rate, and of LDA."""
BY_TORCH = ("grid", "long", "all")
"""Rows of softmax by mini-batches, which need PyTorch."""
FORMS = (False, True)
"""Pixels as they are, and with the mean image taken off."""
METHODS = ("LinearDiscriminantAnalysis", "fit_linear softmax", "fit_linear hinge",
           "SGDClassifier hinge", "RidgeClassifierCV")  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All that numbers depend on beside the versions."""

    data: str
    grid_updates: int
    penalties: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3, 1e4)
    ridge_penalties: tuple[float, ...] = (10.0, 100.0, 1e3, 1e4)
    sgd_penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    sgd_passes: int = 10
    seed: int = 0


def descend(
    X: RealArray, labels: LabelArray, batch: int, models: Sequence[tuple[float, bool]],
    stops: Sequence[int], seed: int,
) -> Iterator[tuple[int, RealArray]]:  # fmt: skip
    """Descend from small random weights; at each stop give the weights (models, d + 1, k).

    All models, a learning rate and whether the mean is taken off, see the same batches. The
    gradient of a sum is the gradients of its terms, so that a model's loss times its learning
    rate is minimised with the rate 1. Each pass shuffles; images that fill no batch are left out.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    images, classes = torch.from_numpy(X), torch.from_numpy(labels)
    (n, d), k, m = X.shape, int(labels.max()) + 1, len(models)
    rates = torch.tensor([rate for rate, _ in models])
    off = torch.tensor([float(centred) for _, centred in models]).repeat_interleave(k)
    mean = images.mean(dim=0)
    start = torch.empty(k, d).uniform_(-(d**-0.5), d**-0.5, generator=generator)
    W = start.repeat(m, 1).requires_grad_()
    b = torch.zeros(m * k, requires_grad=True)
    optimizer = torch.optim.SGD([W, b], lr=1.0)
    position = n
    for update in range(1, max(stops) + 1):
        if position + batch > n:
            order, position = torch.randperm(n, generator=generator), 0
        rows = order[position : position + batch]
        position += batch
        z = linear(images[rows], W, b - off * (W @ mean))
        wanted = classes[rows].repeat_interleave(m)
        losses = cross_entropy(z.view(batch * m, k), wanted, reduction="none")
        optimizer.zero_grad()
        total: Any = losses.view(batch, m).mean(dim=0) @ rates  # its backward has no types
        total.backward()
        optimizer.step()
        if update in stops:
            with torch.no_grad():
                constants = (b - off * (W @ mean)).view(m, 1, k)
                slopes = W.view(m, k, d).transpose(1, 2)
                yield update, torch.cat([slopes, constants], dim=1).numpy()


def accuracy(A: RealArray, X: RealArray, labels: LabelArray) -> float:
    """Share of labels that the largest output gives."""
    return float(((X @ A[:-1].astype(X.dtype) + A[-1]).argmax(axis=1) == labels).mean())


def fit(
    name: str, centred: bool, X: RealArray, labels: LabelArray, penalty: float, s: Settings
) -> tuple[FloatArray, float]:
    """Fit one of the methods; give weights (d + 1, k) for raw pixels, and the penalty."""
    mean = X.mean(axis=0, dtype=np.float64) * centred
    X = X - mean.astype(X.dtype)
    if name.startswith("fit_linear"):
        start = np.zeros((X.shape[1] + 1, int(labels.max()) + 1))
        A = fit_linear(name.split()[1], X, labels, start, penalty).A
    else:
        model: Any = SGDClassifier(
            loss="hinge", alpha=penalty, max_iter=s.sgd_passes, tol=None, average=True,
            random_state=s.seed,
        )  # fmt: skip
        if name == "LinearDiscriminantAnalysis":
            # Without shrinkage the solvers give one rule, this one sooner.
            model, X = LinearDiscriminantAnalysis(solver="lsqr"), X.astype(np.float64)
        elif name == "RidgeClassifierCV":
            model, X = RidgeClassifierCV(s.ridge_penalties), X.astype(np.float64)
        model.fit(X, labels)
        A = np.vstack([model.coef_.T, model.intercept_]).astype(np.float64)
        penalty = float(getattr(model, "alpha_", penalty))
    A[-1] -= mean @ A[:-1]
    return A, penalty


class Measurement:
    """The images, and one method after the other on them."""

    def __init__(self, settings: Settings, data_dir: str | None = None) -> None:
        dataset = load(settings.data, data_dir)
        self.digest = dataset.digest
        assert dataset.test is not None
        parts = (dataset.train, dataset.test)
        self.X, self._Z = (intensities(part.images).reshape(len(part), -1) for part in parts)
        self.X = np.require(self.X, requirements=["C", "W"])  # as PyTorch wants it
        self.y, self._z = (part.labels.astype(np.int64) for part in parts)
        self.n, self.s = len(self.X) - len(self.X) // 5, settings

    def held_out(self, A: RealArray) -> float:
        """Accuracy on the images held out."""
        return accuracy(A, self.X[self.n :], self.y[self.n :])

    def row(
        self, name: str, centred: bool, A: RealArray, n_images: int, seconds: float, **more: Any
    ) -> dict[str, Any]:
        """Make a row of the table; here alone the test images are opened."""
        test = accuracy(A, self._Z, self._z)
        return {
            "name": name, "centred": centred, "n_images": n_images, "n_parameters": A.size,
            "cpu_seconds": seconds, "test_accuracy": test, "n_test": len(self._z),
            "standard_error": standard_error(test, len(self._z)),
            "training_accuracy": accuracy(A, self.X[:n_images], self.y[:n_images]), **more,
        }  # fmt: skip

    def grid(self, batch: int) -> list[list[float]]:
        """Accuracy on the images held out by form and learning rate, one batch size."""
        models = [(rate, centred) for centred in FORMS for rate in CLAIMED_GRID]
        X, y, stop = self.X[: self.n], self.y[: self.n], [self.s.grid_updates]
        ((_, A),) = descend(X, y, batch, models, stop, self.s.seed)
        shares = [self.held_out(each) for each in A]
        return [shares[: len(CLAIMED_GRID)], shares[len(CLAIMED_GRID) :]]

    def long_run(self, name: str, most: int) -> list[dict[str, Any]]:
        """Run the text's batch size and learning rate on the images that are not held out."""
        stops = {self.s.grid_updates * c * 10**e for c in (1, 2, 5) for e in range(4)} | {most}
        (batch, rate), start = CLAIMED_CELL, time.process_time()
        curves: list[dict[int, float]] = [{} for _ in FORMS]
        models = [(rate, centred) for centred in FORMS]
        X, y = self.X[: self.n], self.y[: self.n]
        for stop, A in descend(X, y, batch, models, [s for s in stops if s <= most], self.s.seed):
            for curve, each in zip(curves, A, strict=True):
                curve[stop] = self.held_out(each)
            print(f"  {stop:,} updates: held out {[c[stop] for c in curves]}", file=sys.stderr)
        seconds = (time.process_time() - start) / len(FORMS)
        return [
            self.row(name, c, A[i], self.n, seconds, batch=batch, rate=rate, updates=most,
                     held_out_accuracy=curves[i][most], held_out_curve=curves[i])
            for i, c in enumerate(FORMS)
        ]  # fmt: skip

    def by_batches(self, centred: bool, cell: dict[str, Any]) -> RealArray:
        """Fit all training images with the batch size, rate and number of updates of a cell."""
        models, stops = [(cell["rate"], centred)], [cell["updates"]]
        return next(descend(self.X, self.y, cell["batch"], models, stops, self.s.seed))[1][0]

    def chosen(self, name: str, centred: bool, cell: dict[str, Any]) -> dict[str, Any]:
        """Fit all training images with settings that the images held out chose."""
        start = time.process_time()
        A = self.by_batches(centred, cell)
        seconds = time.process_time() - start
        return self.row(name, centred, A, len(self.X), seconds, **cell)

    def other(self, name: str, centred: bool) -> dict[str, Any]:
        """Choose the penalty of one of the methods, then fit all training images."""
        penalties = {"fit_linear": self.s.penalties, "SGDClassifier": self.s.sgd_penalties}
        start, shares = time.process_time(), {}
        for p in penalties.get(name.split()[0], ()):
            A, _ = fit(name, centred, self.X[: self.n], self.y[: self.n], p, self.s)
            shares[p] = self.held_out(A)
            print(f"  {p:g}: {shares[p]:.4f} of the images held out", file=sys.stderr)
        best = max(shares, key=lambda p: shares[p], default=0.0)
        middle = time.process_time()
        A, used = fit(name, centred, self.X, self.y, best, self.s)
        end = time.process_time()
        return self.row(
            name, centred, A, len(self.X), end - middle, cpu_seconds_of_choice=middle - start,
            penalty=used, held_out_accuracy=shares.get(best),
        )  # fmt: skip


def print_grid(shares: list[list[float]], centred: bool, quick: bool) -> None:
    """Print accuracies on the images held out by learning rate and batch size."""
    rows = []
    for i, (rate, claims) in enumerate(CLAIMED_GRID.items()):
        cells = [f"{share[i]:.2f}" for share in shares]
        if not quick:
            cells = [f"{cell} ({claim:.2f})" for cell, claim in zip(cells, claims, strict=True)]
        heads = ["learning rate", *(f"batch {batch}" for batch in BATCHES)]
        rows.append(dict(zip(heads, [f"{rate:g}", *cells], strict=True)))
    form = "mean image taken off" if centred else "pixels as they are"
    print_table(rows, f"Softmax by mini-batches, {form}{'' if quick else ' (claimed)'}")


def claimed(row: dict[str, Any], updates: int) -> str | None:
    """Tell what a text claims for the setting of a row, or one that differs in updates alone."""
    if row["name"] == "LinearDiscriminantAnalysis":
        return f"{CLAIMED_DISCRIMINANT}"
    if row["name"] == f"softmax by mini-batches, {updates:,} updates" and not row["centred"]:
        return f"{CLAIMED_SOFTMAX} after {CLAIMED_UPDATES:,}"
    return None


def cells_of(row: dict[str, Any]) -> dict[str, str]:
    """Cells of a row of the table."""
    share, choosing = row.get("held_out_accuracy"), row.get("cpu_seconds_of_choice", 0.0)
    return {
        "classifier": row["name"],
        "mean off": "yes" if row["centred"] else "no",
        "images": f"{row['n_images']:,}",
        "parameters, all": f"{row['n_parameters']:,}",
        "held out": "" if share is None else f"{share:.4f}",
        "test": f"{row['test_accuracy']:.4f} ± {row['standard_error']:.4f}",
        "claimed": row["claimed"] or "",
        "CPU s": rounded_seconds(row["cpu_seconds"]),
        "CPU s of choosing": rounded_seconds(choosing) if choosing >= 0.05 else "",
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--updates", type=int, default=CLAIMED_UPDATES, help="of the long run")
    names = (*BY_TORCH, *METHODS)
    options.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME",
                         help=f"these rows alone: {', '.join(names)}")  # fmt: skip
    args = options.parse_args()
    settings = Settings("cifar10", grid_updates=10_000, seed=args.seed)
    if args.quick:
        settings = Settings("digits", 100, (1.0, 10.0), (1.0, 10.0), (1e-3,), seed=args.seed)
        args.updates = min(args.updates, 1000)
    used: tuple[str, ...] = ("scikit-learn",)
    if not set(BY_TORCH).isdisjoint(args.only):
        if importlib.util.find_spec("torch") is not None:
            used += ("torch",)
        elif args.quick:
            missing = "PyTorch is missing: its rows are left out: pip install -e '.[experiments]'"
            print(missing, file=sys.stderr)
            args.only = METHODS
        else:
            options.error("PyTorch is missing: pip install -e '.[experiments]', or --only others")
    measurement = Measurement(settings, args.data_dir)
    ledger = Ledger(args.output, digest=measurement.digest, **asdict(settings))
    threadpool_limits(1)
    rows: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    if "grid" in args.only:
        shares = [
            ledger.get(f"grid, batches of {b}", partial(measurement.grid, b), used) for b in BATCHES
        ]
        for centred in FORMS:
            forms = [share[centred] for share in shares]
            print_grid(forms, centred, args.quick)
            cells.append(max(
                ({"batch": b, "rate": rate, "updates": settings.grid_updates,
                  "held_out_accuracy": forms[j][i]}
                 for i, rate in enumerate(CLAIMED_GRID) for j, b in enumerate(BATCHES)),
                key=lambda cell: float(cell["held_out_accuracy"]),
            ))  # fmt: skip
            what = "softmax by mini-batches, best of the grid"
            make = partial(measurement.chosen, what, centred, cells[-1])
            entry = f"{what}, centred {centred}"
            rows.append(ledger.get(entry, make, used, cell=cells[-1]))
    if not {"long", "all"}.isdisjoint(args.only):
        what = f"softmax by mini-batches, {args.updates:,} updates"
        long = ledger.get(what, partial(measurement.long_run, what, args.updates), used)
        rows += long
        what += " at most"
        for centred, row in zip(FORMS, long if "all" in args.only else (), strict=False):
            curve = row["held_out_curve"]
            cell = {key: row[key] for key in ("batch", "rate")}
            cell["updates"] = int(max(curve, key=lambda stop: float(curve[stop])))
            cell["held_out_accuracy"] = curve[str(cell["updates"])]
            make = partial(measurement.chosen, what, centred, cell)
            rows.append(ledger.get(f"{what}, centred {centred}", make, used, cell=cell))
    for name in METHODS:
        for centred in FORMS if name in args.only else ():
            make = partial(measurement.other, name, centred)
            rows.append(ledger.get(f"{name}, centred {centred}", make, used[:1]))
    for row in rows:
        row["claimed"] = None if args.quick else claimed(row, args.updates)
    print_table([cells_of(row) for row in rows], "Linear classifiers")
    print_last_line({"rows": rows, "settings": asdict(settings)}, used)


if __name__ == "__main__":
    main()
