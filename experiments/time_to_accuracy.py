"""Test accuracy against CPU seconds and parameters: the recipes, and networks of PyTorch.

``python -m experiments.time_to_accuracy DATASET --output FILE`` trains each recipe (but
``paper``), the same with its units as they were drawn (``NAME-untrained``), and the networks of
``experiments.torch_networks``, one after the other, each alone in a process of its own with
``--threads`` threads. Each row is appended to FILE as one JSON line; rows that FILE holds already
are not run again. A Markdown table of all of them ends standard output. CPU seconds are those of
training alone, of all threads and processes.

The test set says nothing here but how good a row is in the end: rows of several epochs are all
told, none is chosen.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn import load
from varpro_nn.recipes import RECIPES, configure
from varpro_nn.resources import versions

GREY = ("LeNet-5", "MLP-800", "patches-logistic", "patches-rectifier")
NETWORKS = {"mnist": GREY, "fashion-mnist": GREY, "cifar10": ("CNN-3",)}
"""Networks of ``experiments.torch_networks`` for each data set."""
EPOCHS = {"mnist": (1, 3, 10), "fashion-mnist": (1, 3, 10), "cifar10": (1, 3, 5)}
UNTRAINED = "-untrained"
METRICS = (
    "n_parameters", "test_accuracy", "test_accuracy_standard_error", "training_cpu_seconds",
    "training_wall_seconds",
)  # fmt: skip
"""What is kept of the metrics of a run."""
STYLES = {
    "this project": ("o", "#0072B2"),
    "the same, units as drawn": ("^", "#009E73"),
    "PyTorch, Adam": ("s", "#D55E00"),
}
"""Marker and colour (Okabe and Ito's, safe for the colour-blind) of each kind of row."""
TRAINED, DRAWN, TORCH = STYLES


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes
    ----------
    network : str
        What ``--only`` calls it.
    kind : str
        A key of ``STYLES``.
    settings : dict
        All settings of a recipe; the number of epochs of a PyTorch network.
    """

    network: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network, and after how many epochs."""
        if self.kind != TORCH:
            return self.network
        n = self.settings["epochs"]
        return f"{self.network}, {n} epoch{'s' if n > 1 else ''}"


def rows(dataset: str, epochs: Sequence[int], seed: int) -> list[Row]:
    """All rows of a data set, in the order of the table."""
    made = []
    for recipe in RECIPES:
        if recipe == "paper":
            continue
        settings = asdict(configure(recipe, data=dataset, seed=seed))
        made.append(Row(recipe, TRAINED, settings))
        if settings["max_nfev"] > 0:
            drawn = asdict(configure(recipe, data=dataset, seed=seed, max_nfev=0))
            made.append(Row(recipe + UNTRAINED, DRAWN, drawn))
    for network in NETWORKS[dataset]:
        made += [Row(network, TORCH, {"epochs": n}) for n in epochs]
    return made


def torch_version() -> str:
    """Version of PyTorch, without importing it.

    Raises
    ------
    SystemExit
        It is not installed.
    """
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        msg = "error: PyTorch is missing: pip install -e '.[experiments]', or --only a recipe"
        raise SystemExit(msg) from None


def measure(
    chosen: Sequence[Row], args: argparse.Namespace, digest: str
) -> list[tuple[Row, dict[str, Any]]]:
    """Take each row from the file, or run it and append it; rows with their metrics."""
    entries = []
    if args.output.exists():
        entries = [json.loads(line) for line in args.output.read_text("utf-8").splitlines()]
    done = {_text(entry["key"]): entry["metrics"] for entry in entries}
    keys = {}
    for row in chosen:
        used = versions() | ({"torch": torch_version()} if row.kind == TORCH else {})
        keys[row.name] = {
            "name": row.name, "dataset": args.dataset, "data": digest, "seed": args.seed,
            "threads": args.threads, "settings": row.settings, "versions": used,
        }  # fmt: skip
    for network in dict.fromkeys(row.network for row in chosen):
        missing = [
            row for row in chosen if row.network == network and _text(keys[row.name]) not in done
        ]
        if not missing:
            continue
        print(f"{network} ...", file=sys.stderr, flush=True)
        for row, metrics in zip(missing, run(missing, args), strict=True):
            kept = {name: metrics[name] for name in METRICS}
            done[_text(keys[row.name])] = kept
            with open(args.output, "a", encoding="utf-8") as file:
                line = {"row": row.name, "key": keys[row.name], "metrics": kept}
                file.write(json.dumps(line) + "\n")
    return [(row, done[_text(keys[row.name])]) for row in chosen]


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def run(missing: Sequence[Row], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run rows of one network in one process; the metrics of each."""
    network, kind = missing[0].network, missing[0].kind
    common = ["--seed", str(args.seed)]
    if args.data_dir is not None:
        common += ["--data-dir", args.data_dir]
    if kind == TORCH:
        epochs = [str(row.settings["epochs"]) for row in missing]
        lines = child(
            ["experiments.torch_networks", network, args.dataset, "--epochs", *epochs,
             "--threads", str(args.threads), *common], args.threads
        )  # fmt: skip
        told = {metrics["epochs"]: metrics for metrics in map(json.loads, lines)}
        return [told[row.settings["epochs"]] for row in missing]
    untrained = ["--max-nfev", "0"] if kind == DRAWN else []
    with tempfile.TemporaryDirectory() as folder:
        lines = child(
            ["varpro_nn.train", args.dataset, "--recipe", network.removesuffix(UNTRAINED),
             "--no-report", "--n-jobs", str(args.threads), "--output", str(Path(folder) / "run"),
             "--quiet", *untrained, *common], args.threads
        )  # fmt: skip
    return [json.loads(lines[-1])]


def child(command: Sequence[str], threads: int) -> list[str]:
    """Run a module in a process that has ``threads`` threads; the lines that it prints."""
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: str(threads) for name in libraries}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=os.environ | limits, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        msg = f"error: python -m {' '.join(command)} ended with status {done.returncode}"
        raise SystemExit(msg)
    return done.stdout.splitlines()


def table(measured: Sequence[tuple[Row, dict[str, Any]]]) -> Iterator[str]:
    """Lines of the Markdown table."""
    yield "| network | parameters | test accuracy | CPU s | wall s |"
    yield "| --- | --- | --- | --- | --- |"
    for row, metrics in measured:
        yield (
            f"| {row.name} | {metrics['n_parameters']:,} "
            f"| {metrics['test_accuracy']:.4f} ± {metrics['test_accuracy_standard_error']:.4f} "
            f"| {metrics['training_cpu_seconds']:.1f} | {metrics['training_wall_seconds']:.1f} |"
        )


def draw(measured: Sequence[tuple[Row, dict[str, Any]]], title: str, path: Path) -> None:
    """Draw test error against CPU seconds and against parameters, all axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "varpro_nn"  # the same rows give the same file
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    labels: list[list[tuple[float, float, str, str]]] = [[], []]
    axes = {
        "training_cpu_seconds": "CPU seconds of training",
        "n_parameters": "parameters, all",
    }
    for panel, texts, (quantity, meaning) in zip(panels, labels, axes.items(), strict=True):
        for network in dict.fromkeys(row.network for row, _ in measured):
            mine = [(row, metrics) for row, metrics in measured if row.network == network]
            x = [metrics[quantity] for _, metrics in mine]
            y = [100 * (1 - metrics["test_accuracy"]) for _, metrics in mine]
            kind = mine[0][0].kind
            marker, colour = STYLES[kind]
            panel.plot(
                x, y, color=colour, marker=marker, markersize=6, linewidth=1, label=kind,
                zorder=2 if kind == TORCH else 3,
            )  # fmt: skip
            best = min(range(len(y)), key=y.__getitem__)
            texts.append((x[best], y[best], network.replace(UNTRAINED, ", as drawn"), colour))
        panel.set(xscale="log", yscale="log", xlabel=meaning)
        panel.margins(x=0.22, y=0.12)
        panel.grid(True, which="major", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test error, %")
    for axis in (panels[0].yaxis, panels[0].xaxis, panels[1].xaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if axis is panels[0].yaxis else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    handles = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.suptitle(title)
    figure.draw_without_rendering()  # settles where the points lie
    for panel, texts in zip(panels, labels, strict=True):
        _label(panel, texts)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=150)
    plt.close(figure)


def _label(panel: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each label beside its point, where it covers least of lines and other labels."""
    taken: list[tuple[float, float, float, float]] = []
    for line in panel.lines:
        points = panel.transData.transform(line.get_xydata())
        taken += [(x - 10, y - 10, x + 10, y + 10) for x, y in points]
        for start, end in pairwise(points):
            between = start + np.linspace(0, 1, 100)[:, None] * (end - start)
            taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in between]
    # The first ones are the nearest: 40 square pixels covered are better than the next one.
    places = [(8, 0, "left"), (-8, 0, "right"), (0, 13, "center"), (0, -13, "center")]
    places += [(7, 9, "left"), (7, -9, "left"), (-7, 9, "right"), (-7, -9, "right")]
    places += [(0, 22, "center"), (0, -22, "center"), (12, 20, "left"), (12, -20, "left")]
    frame = panel.get_window_extent().extents
    for x, y, text, colour in labels:
        candidates = []
        for number, (dx, dy, side) in enumerate(places):
            note = panel.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center",
                color=colour, fontsize=8, in_layout=False,
            )  # fmt: skip
            box = note.get_window_extent().extents
            covered = sum(_overlap(box, other) for other in taken)
            outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
            candidates.append((covered + outside + 40 * number, number, note, tuple(box)))
        best = min(candidates, key=lambda candidate: candidate[:2])
        for candidate in candidates:
            if candidate is not best:
                candidate[2].remove()
        taken.append(best[3])


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=tuple(NETWORKS))
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw it: .svg, .png, .pdf")
    parser.add_argument(
        "--threads", type=int, default=1, help="of each training (%(default)s), and its processes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks alone")
    parser.add_argument(
        "--epochs", type=int, nargs="+", metavar="N",
        help="measure the networks of PyTorch after so many (1 3 10; cifar10: 1 3 5)",
    )  # fmt: skip
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    epochs = sorted(set(args.epochs or EPOCHS[args.dataset]))
    if args.threads < 1 or epochs[0] < 1:
        parser.error("--threads and --epochs must be at least 1")
    chosen = rows(args.dataset, epochs, args.seed)
    names = list(dict.fromkeys(row.network for row in chosen))
    unknown = sorted(set(args.only or []) - set(names))
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)} among {', '.join(names)}")
    if args.only:
        chosen = [row for row in chosen if row.network in args.only]
    if args.figure and importlib.util.find_spec("matplotlib") is None:
        parser.error("--figure needs matplotlib: pip install -e '.[experiments]'")
    if any(row.kind == TORCH for row in chosen):
        torch_version()  # found out before the work
    measured = measure(chosen, args, load(args.dataset, args.data_dir).digest)
    if args.figure:
        threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
        title = f"{args.dataset}: {threads}, seed {args.seed}"
        if any(row.kind == TORCH for row in chosen):
            title += f"; epochs of PyTorch: {', '.join(map(str, epochs))}"
        draw(measured, title, args.figure)
    print("\n".join(table(measured)))


if __name__ == "__main__":
    main()
