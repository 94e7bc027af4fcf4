"""What sub-networks should know of those trained before them, at several numbers of units.

``python -m experiments.field.stages DATASET --output FILE`` trains the units of ``default`` in
stages, all but the last 10,000 training images being there to train on. The last 10,000 measure
the result; the test images are not read. The sub-networks of a stage know of the earlier stages

* nothing (``independent``; all of them could train at the same time);
* all columns, as fixed columns of ``Phi`` (the scheme ``stages``);
* the leading directions of these columns, 100 of them;
* the outputs of a ridge layer on them, one column a class: boosting by projection.

The directions and the ridge layer come from 10,000 images, which the later sub-networks do not
draw, so the outputs are those for new images. Untrained units stand beside. Each network gets a
ridge layer, whose penalty is chosen on the images to train on. CPU seconds are those of the units,
what they know included; the layer takes as long again for each of the rows.

``--loss cross-entropy`` trains with cross-entropy, and the penalties of the recipe ``tiny``.
``--widths`` chooses numbers of units, ``--n-jobs`` the processes. Rows of all columns stop at
``--widest`` units. ``--quick`` takes a slice of MNIST. Prints a Markdown table; the last line is
JSON.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.tables import print_table
from varpro_nn import TrainConfig, configure, fit, load
from varpro_nn._typing import FloatArray, RealArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import distort
from varpro_nn.data.images import one_hot
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.output.fit import fit_output_layer
from varpro_nn.output.ridge_layer import RidgeLayer
from varpro_nn.output.settings import OutputSettings
from varpro_nn.training.metrics import accuracy, standard_error
from varpro_nn.training.plan import make_units, units_in_training
from varpro_nn.training.subnetwork import FUNCTIONALS
from varpro_nn.units import Units, with_n_units

SIZES = {"mnist": 12, "cifar10": 16}
"""Units of a sub-network of ``default``, by data set."""
WIDTHS = {"mnist": (72, 144, 288), "cifar10": (96, 192)}
KNOWN = ("untrained", "nothing", "all columns", "leading directions", "outputs")
N_STAGES, N_DIRECTIONS = 3, 100
N_IMAGES = 10_000
"""Images of the ridge layer, or of the directions, that a stage knows."""
LOSSES: dict[str, dict[str, Any]] = {
    "squares": {}, "cross-entropy": {"ridge": 0.2, "weight_decay": 0.05},
}  # fmt: skip
RIDGES = 10.0 ** np.arange(-2, 5)


@dataclass(frozen=True)
class Known:
    """What a stage knows: columns of trained units, times a matrix if there is one."""

    units: Units
    W: RealArray
    matrix: RealArray | None

    def columns(self, images: Any) -> RealArray:
        """Compute the fixed columns for images, (n, f)."""
        Phi = self.units.features(self.W, images)
        return Phi if self.matrix is None else Phi @ self.matrix


def train_one(
    units: Units, config: TrainConfig, images: Any, labels: Any, index: int, known: Known | None
) -> tuple[FloatArray, float]:
    """Train one sub-network as the recipe does; its weights (h, p), and CPU seconds."""
    start = time.process_time()
    settings = config.subnetworks
    with threadpool_limits(1, user_api="blas"):
        rng = np.random.default_rng([config.seed, index])
        n = min(settings.images_per_subnetwork, len(images))
        own = np.sort(rng.choice(len(images), n, replace=False))
        W = units.init(images[own], rng)
        drawn = distort(images[own], config.distortion, rng)
        make: Any = FUNCTIONALS[settings.loss]  # both take these arguments
        functional = make(
            units, drawn, one_hot(labels[own], int(labels.max()) + 1), ridge=settings.ridge,
            weight_decay=settings.weight_decay,
            fixed=None if known is None else known.columns(drawn),
        )  # fmt: skip
        solver: Any = settings.solver  # the recipes never use kfac
        report = fit(functional, W, solver=solver, max_nfev=settings.max_nfev)
    return report.w.reshape(units.n_units, -1), time.process_time() - start


def learn(what: str, units: Units, W: RealArray, config: TrainConfig, images: Any, labels: Any,
          rng: np.random.Generator) -> Known:  # fmt: skip
    """Make what the next stage knows of the units so far."""
    units = with_n_units(units, len(W))
    if what == "all columns":
        return Known(units, W, None)
    drawn = distort(images, config.distortion, rng)
    if what == "outputs":
        layer = RidgeLayer(units, W, int(labels.max()) + 1).add_images(drawn, labels)
        path = layer.path()
        # The constant is left out: the functional has one.
        A = path.solve(min(RIDGES, key=path.generalised_cross_validation))
        return Known(units, W, A[:-1].astype(np.float32))
    Phi = units.features(W, drawn)
    Phi -= Phi.mean(axis=0)
    _, V = np.linalg.eigh((Phi.T @ Phi).astype(np.float64))
    return Known(units, W, V[:, -N_DIRECTIONS:].astype(np.float32))


def measure(what: str, config: TrainConfig, train: Any, held_out: Any, n_jobs: int) -> Any:
    """Train units that know ``what`` of earlier ones, then a ridge layer; measure it."""
    images, labels = train.images, train.labels
    begin = time.process_time()
    rng = np.random.default_rng(config.seed)
    with threadpool_limits(1, user_api="blas"):
        units = make_units(config, images, rng)
    small = units_in_training(config, with_n_units(units, config.units_per_subnetwork))
    n_aside = min(N_IMAGES, len(images) // 2)
    aside, rest = np.split(rng.permutation(len(images)), [n_aside])
    n_stages = 1 if what in ("untrained", "nothing") else N_STAGES
    W = np.empty((0, units.n_weights), np.float32)
    seconds = 0.0
    for group in np.array_split(np.arange(config.subnetworks.n_subnetworks), n_stages):
        if what == "untrained":
            W = units.init(images[np.sort(rest[:N_IMAGES])], rng).astype(np.float32)
            break
        known = None
        if len(W):
            with threadpool_limits(1, user_api="blas"):
                known = learn(what, small, W, config, images[aside], labels[aside], rng)
        done: Iterable[Any] = Parallel(n_jobs)(
            delayed(train_one)(small, config, images[rest], labels[rest], index, known)
            for index in group
        )
        for own, taken in done:
            W = np.concatenate([W, own.astype(np.float32)])
            seconds += taken if n_jobs > 1 else 0.0
    seconds += time.process_time() - begin
    with Compute(n_jobs) as compute:
        training = TrainingSet.classified(images, labels, int(labels.max()) + 1)
        settings = OutputSettings(layer="ridge", standardise=True)
        layer = fit_output_layer(settings, units, W, training, compute, rng=rng)
        codes = np.concatenate([
            (units.features(W, block) @ layer.A[:-1] + layer.A[-1]).argmax(axis=1)
            for block in np.array_split(held_out.images, 20)
        ])  # fmt: skip
    share = accuracy(codes, held_out.labels)
    error = standard_error(share, len(codes))
    return {"held_out_accuracy": share, "error": error, "cpu_seconds": seconds}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", choices=tuple(SIZES))
    options.add_argument("--widths", type=whole_number(1), nargs="+")
    options.add_argument("--widest", type=whole_number(1), default=288)
    options.add_argument("--loss", choices=tuple(LOSSES), default="squares")
    options.add_argument("--known", nargs="+", choices=KNOWN, default=KNOWN)
    args = options.parse_args()
    data = load(args.dataset, args.data_dir)
    whole = data.train.take(slice(600 if args.quick else None))
    n = len(whole) - min(10_000, len(whole) // 3)
    train, held_out = whole.take(slice(n)), whole.take(slice(n, None))
    few: dict[str, Any] = {"images_per_subnetwork": 150, "max_nfev": 2} if args.quick else {}
    size = 3 if args.quick else SIZES[args.dataset]
    widths: Sequence[int] = (9,) if args.quick else args.widths or WIDTHS[args.dataset]
    ledger = Ledger(args.output, data=data.digest, n_train=n)
    cells, results = [], []
    for width in widths:
        for what in args.known:
            if what == "all columns" and width > args.widest:
                continue
            config = configure(
                data=args.dataset, seed=args.seed, n_units=width, n_subnetworks=width // size,
                scheme="independent", n_stages=1, n_copies=0, first_units=None,
                loss=args.loss,
                **LOSSES[args.loss],
                **few,
            )  # fmt: skip
            found = ledger.get(
                {"width": width, "known": what},
                partial(measure, what, config, train, held_out, args.n_jobs),
                config=settings_of(config),
            )
            results.append({"width": width, "known": what, **found})
            cells.append({
                "units": str(width), "known": what,
                "held-out accuracy": f"{found['held_out_accuracy']:.4f} ± {found['error']:.4f}",
                "CPU s of the units": f"{found['cpu_seconds']:.0f}",
            })  # fmt: skip
    print_table(cells, f"{args.dataset}, last {len(whole) - n:,} training images held out")
    print_last_line({"rows": results})


if __name__ == "__main__":
    main()
