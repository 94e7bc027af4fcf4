"""What the paper says of its networks: sizes of its arrays, MNIST, and colour images.

``python -m experiments.claims.paper --output FILE`` prints five tables.

*Arrays* (the paper's Table 2): dimensions and bytes of every array of the paper's Jacobian, in
double precision, and of what this project keeps instead, for the paper's sub-network (N = 2,000
images, I = 50 units), for the same units on 60,000 images, and for the whole network (I = 5,200).
The paper writes the number of weights ``ipar`` as I (K + 1) in section 3 and as I (L + 1) in
section 8.2. Its unit has L weights and a bias, so I (L + 1) it is: classes (K) have no place in
the number of *nonlinear* weights. A third count, from the indices of section 8.2
(k_{j+1} = k_j + L + R + 1), is that of bilinear units. *Measured*: memory that Python and NumPy
hold, and its peak, while this project's functional and its Jacobian are evaluated
(``tracemalloc``), in each form.

*MNIST* (Tables 3 and 4): the paper's settings and those of the recipe ``paper``; the rows of the
paper as it states them, beside rows of this project on the test images, looked at once. The paper
counts unit weights alone and leaves out linear ones; both counts are printed. Its 0.12 % comes
after a training pass over the test images with labels that the network guessed itself
(``experiments.claims.bootstrap`` repeats that); before it the paper states 90.15 %, an error of
9.85 %. Its first 50,000 images train the quadratic units here too, 50 units on 2,000 of them a
sub-network, 15 evaluations; bilinear units have the settings of their recipe: 200 on 4,000 of all
60,000 images, 10 evaluations. (The rows on colour images have the same settings.)

*Colour* (section 6.2): quadratic units with a weight for each colour plane on CIFAR-10, and
bilinear ones, 1,000 units in 20 sub-networks of 2,500 images. The paper's abstract says 93.7 %;
its section 6.2 has no figure and ends with "WORK IN PROCESS". The bootstrap of section 5, for the
paper's units, stands in separate columns: agreement with guesses is not accuracy.

``--quick`` takes the digits of scikit-learn, for colour with three planes made of them.
"""

import argparse
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from experiments.shared.ledger import Ledger, print_last_line
from experiments.shared.options import parser
from experiments.shared.runs import run_rows
from experiments.shared.tables import print_table, rounded_seconds
from varpro_nn import VarProFunctional, configure, load, whole_image_units
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.data.images import one_hot

MNIST: dict[str, dict[str, Any]] = {
    "quadratic (recipe paper)": {"recipe": "paper"},
    "bilinear": {"recipe": "bilinear", "n_units": 5200, "n_subnetworks": 26},
}
OF_COLOUR: dict[str, Any] = {
    "recipe": "bilinear", "n_units": 1000, "n_subnetworks": 20, "images_per_subnetwork": 2500,
}  # fmt: skip
COLOUR = {
    "quadratic": OF_COLOUR | {"units": "quadratic", "bootstrap": True},
    "bilinear": OF_COLOUR,
}
TABLE_4 = (
    ("Standard NN", "2, 800", "1.25 M", 1.60),
    ("SVM Gaussian Kernel", "NA", "NA", 1.40),
    ("Dropout NN", "3, 1024", "8.125 M+", 1.35),
    ("Dropout NN", "3, 1024", "8.125 M+", 1.25),
    ("Dropout NN + max-norm", "3, 1024", "8.125 M+", 1.06),
    ("Dropout NN + max-norm", "3, 2048", "16.25 M+", 1.04),
    ("Dropout NN + max-norm", "2, 4096", "32.5 M+", 1.01),
    ("Dropout NN + max-norm", "2, 8192", "65 M+", 0.95),
    ("DropConnect", "2, 1600", "1.26 M", 0.21),
    ("This algorithm (after its bootstrap)", "1, 5200", "0.151 M", 0.12),
)
"""The paper's Table 4: method, layers and units, parameters, error in percent."""
TABLE_3 = {
    "Train Total": 50_000, "Test": 10_000, "Units Total": 5200, "Sub-nets": 104,
    "Mini-batches": 2000, "Units in sub-nets": 50,
}  # fmt: skip


class Array(NamedTuple):
    """An array of the Jacobian's computation, and whether this project forms it."""

    name: str
    dimensions: str
    shape: tuple[int, ...]
    itemsize: int
    formed: str

    @property
    def n_bytes(self) -> int:
        """Of the array, if it is formed."""
        size = self.itemsize
        for length in self.shape:
            size *= length
        return size


def arrays(n: int, units: int, side: int, k: int) -> list[Array]:
    """List the arrays of the paper, and this project's, for quadratic units with a bias."""
    p = side + 1
    ipar, q = units * p, units + 1
    double, single = 8, 4
    return [
        Array("Phi", "N, I+1", (n, q), double, "yes"),
        Array("DPhi", "N, I+1, ipar", (n, q, ipar), double, "no"),
        Array("U", "N, r", (n, q), double, "yes, as Q1"),
        Array("P DPhi", "N, I+1, ipar", (n, q, ipar), double, "no"),
        Array("A (the paper's W)", "I+1, K", (q, k), double, "yes"),
        Array("J", "N K, ipar", (n * k, ipar), double, "no"),
        Array("compact dPhi", "N, 1, I, L+1", (n, 1, units, p), single, "operator form"),
        Array("reduced problem", "ipar+1, ipar", (ipar + 1, ipar), double, "reduced form"),
    ]


def amount(n_bytes: float) -> str:
    """Write bytes with a decimal unit."""
    power = min(int(np.log10(max(n_bytes, 1)) // 3), 4)
    return f"{n_bytes / 1000**power:,.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def table_of_arrays(sizes: list[tuple[int, int]], side: int, k: int) -> list[dict[str, str]]:
    """One row an array, one column of bytes for each (images, units)."""
    columns = {f"N={n:,}, I={units:,}": arrays(n, units, side, k) for n, units in sizes}
    table = []
    for i, array in enumerate(next(iter(columns.values()))):
        cells = {
            "array": array.name,
            "dimensions": array.dimensions,
            "type": "single" if array.itemsize == 4 else "double",
            "formed here": array.formed,
        }
        table.append(cells | {name: amount(listed[i].n_bytes) for name, listed in columns.items()})
    return table


def memory(task: Callable[[], Any]) -> dict[str, int]:
    """Bytes that a result holds, and the peak on the way to it."""
    tracemalloc.start()
    result = task()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return {"held": held, "peak": peak}


def measured_memory(examples: ImageSet, n: int, n_units: int) -> dict[str, dict[str, int]]:
    """Memory of the cost and the Jacobian at the start, by the form of the problem."""
    rng = np.random.default_rng(0)
    own = rng.choice(len(examples), n, replace=False)
    images, tau = examples.images[own], one_hot(examples.labels[own], 10)
    units = whole_image_units("quadratic", images.shape[1:], n_units)
    w = units.init(images, rng).ravel()
    takes: dict[str, Callable[[VarProFunctional], Any]] = {
        "operator (the default)": lambda f: (f.residual(w), f.jacobian(w)),
        "reduced": lambda f: f.reduced(w),
        "reduced, in blocks": lambda f: f.reduced(w),
        "dense J (as MINPACK takes it)": lambda f: (f.residual(w), f.jacobian(w, form="array")),
    }

    def evaluated(name: str) -> Any:
        size = n // 4 if name.endswith("blocks") else None
        f = VarProFunctional(units, images, tau, ridge=1.0, weight_decay=0.1, block_size=size)
        return f, takes[name](f)

    with threadpool_limits(1, user_api="blas"):
        told = {name: memory(partial(evaluated, name)) for name in takes}
        W = w.reshape(n_units, -1).astype(np.float32)
        dPhi = units.features_and_derivative(W, images)[1]
    return {"compact dPhi alone": {"held": dPhi.nbytes, "peak": dPhi.nbytes}, **told}


def coloured(examples: ImageSet) -> ImageSet:
    """Make colour images of grey ones: the image, its negative and its transpose."""
    X = examples.images
    return ImageSet(np.stack([X, X.max() - X, X.swapaxes(1, 2)], axis=1), examples.labels)


def pairs(rows: dict[str, dict[str, Any]], quick: bool) -> dict[str, dict[str, Any]]:
    """Put each row before one of the same units untrained; few units for ``quick``."""
    few = {"n_units": 40, "n_subnetworks": 4, "images_per_subnetwork": 300, "max_nfev": 4}
    both: dict[str, dict[str, Any]] = {}
    for name, settings in rows.items():
        trained = settings | (few if quick else {})
        both[name] = trained
        both[f"{name}, untrained"] = trained | {"max_nfev": 0, "bootstrap": False}
    return both


def measured(
    rows: dict[str, dict[str, Any]], dataset: Dataset, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run rows, and add to the metrics their name and the parameters as the paper counts them."""
    results = []
    shape = dataset.train.images.shape[1:]
    kind = None if args.quick else dataset.name
    for name, metrics in run_rows(rows, dataset, args, kind):
        units = configure(
            data=kind or dataset, **rows[name]
        ).units.kind  # the paper knows no windows
        weights = None if units == "patch" else whole_image_units(units, shape, 1).n_weights
        n = None if weights is None else weights * metrics["n_units"]
        extra = {"name": name, "weights_of_a_unit": weights, "n_unit_weights": n}
        results.append({**metrics, **extra})
    return results


def print_mnist(rows: list[dict[str, Any]], n_test: int) -> None:
    """Print the paper's Tables 3 and 4 beside this project's figures."""
    c = configure("paper")
    how = c.subnetworks
    images = how.images_per_subnetwork
    ours = c.n_train, n_test, c.units.n_units, how.n_subnetworks, images, c.units_per_subnetwork
    settings = [
        {"setting": name, "the paper": f"{value:,}", "recipe paper": f"{mine:,}"}
        for (name, value), mine in zip(TABLE_3.items(), ours, strict=True)
    ]
    print_table(settings, "Table 3 of the paper and the recipe")
    print(
        "\n104 sub-networks of 2,000 of 50,000 images use each image 4.2 times in the mean; the "
        "paper says it does one pass through the data."
    )
    table = [
        {"network": f"paper: {name}", "layers, units": units, "parameters by the paper": n,
         "all parameters": "", "test error %": f"{error:.2f}", "CPU s": ""}
        for name, units, n, error in TABLE_4
    ]  # fmt: skip
    table.append(
        table[-1]
        | {"network": "paper: This algorithm, before its bootstrap", "test error %": "9.85"}
    )
    for m in rows:
        unit_weights = m["n_unit_weights"]
        table.append({
            "network": f"here: {m['name']}",
            "layers, units": f"1, {m['n_units']}",
            "parameters by the paper": "" if unit_weights is None else f"{unit_weights:,}",
            "all parameters": f"{m['n_parameters']:,}",
            "test error %": f"{100 * (1 - m['test_accuracy']):.2f} ± "
            f"{100 * m['test_accuracy_standard_error']:.2f}",
            "CPU s": rounded_seconds(m["training_cpu_seconds"]),
        })  # fmt: skip
    print_table(
        table,
        f"Table 4 of the paper, and this project's rows on true test labels: {rows[0]['dataset']}",
    )
    print(
        "\nThe paper calls 0.12 % against 0.21 % an improvement of 57 %; it is one of 43 % "
        "(57 % is what is left). The 0.12 % follows training on guessed labels of the test set."
    )


def print_colour(rows: list[dict[str, Any]]) -> None:
    """Print the rows of section 6.2."""
    table = []
    for m in rows:
        told = m.get("bootstrap", {})
        table.append({
            "units": m["name"],
            "weights of a unit": str(m["weights_of_a_unit"]),
            "parameters by the paper": f"{m['n_unit_weights']:,}",
            "all parameters": f"{m['n_parameters']:,}",
            "test accuracy": f"{m['test_accuracy']:.4f} ± {m['test_accuracy_standard_error']:.4f}",
            "CPU s": rounded_seconds(m["training_cpu_seconds"]),
            "agreement with guesses": f"{told['agreement_with_guesses']:.4f}" if told else "",
            "true accuracy after them": f"{told['true_accuracy_after']:.4f}" if told else "",
        })  # fmt: skip
    print_table(table, f"Colour images: {rows[0]['dataset']} (the abstract claims 0.937)")
    best = max(m["test_accuracy"] for m in rows)
    if rows[0]["dataset"] == "cifar10":
        print(f"\nThe best row has {best:.4f}: 0.937 is {'' if best >= 0.937 else 'not '}reached.")


def main() -> None:
    args = parser(__doc__).parse_args()
    if args.quick:
        grey = load("digits")
        assert grey.test is not None
        sets = coloured(grey.train), coloured(grey.test)
        colour = Dataset("digits in three planes", grey.classes, *sets)
        sizes = [(200, 5), (1500, 5), (1500, 40)]
    else:
        grey, colour = load("mnist", args.data_dir), load("cifar10", args.data_dir)
        sizes = [(2000, 50), (60_000, 50), (60_000, 5200)]
    assert grey.test is not None
    n, n_units = sizes[0]
    side, k = grey.train.images.shape[-1], len(grey.classes)
    bytes_of_arrays = table_of_arrays(sizes, side, k)
    print_table(bytes_of_arrays, f"Arrays of the Jacobian: L = {side}, K = {k}, ipar = I (L + 1)")
    weights = whole_image_units("quadratic", (side, side), n_units).n_weights * n_units
    print(
        f"\nipar of {n_units} units: I (K + 1) = {n_units * (k + 1):,}, I (L + 1) = "
        f"{n_units * (side + 1):,}; the units have {weights:,} weights."
    )
    ledger = Ledger(args.output, data=grey.digest, n=n, n_units=n_units)
    memories = ledger.get("memory of a Jacobian", lambda: measured_memory(grey.train, n, n_units))
    title = f"Measured memory of one residual and Jacobian, {n:,} images, {n_units} quadratic units"
    texts = [{key: amount(value) for key, value in m.items()} for m in memories.values()]
    print_table([{"form": f} | text for f, text in zip(memories, texts, strict=True)], title)
    few = {"n_units": 24, "n_subnetworks": 2, "n_copies": 0} if args.quick else {}
    default = {"windows (recipe default)": {"recipe": "default", **few}}
    rows = measured(pairs(MNIST, args.quick) | default, grey, args)
    print_mnist(rows, len(grey.test))
    colour_measured = measured(pairs(COLOUR, args.quick), colour, args)
    print_colour(colour_measured)
    told = {"arrays": bytes_of_arrays, "memory": memories}
    if args.quick:
        print("\nDigits and small networks (--quick): not to be compared with the paper's figures.")
    print_last_line(told | {"mnist": rows, "colour": colour_measured})


if __name__ == "__main__":
    main()
