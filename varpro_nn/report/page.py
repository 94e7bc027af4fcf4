"""The report of a run: one HTML page with its figures, its pictures, and a canvas to draw on.

The text of the page is ``templates/report.html``. A section that a run has nothing for is left out,
and the page says so. Charts come from :mod:`varpro_nn.report.figures`, the canvas from
:mod:`varpro_nn.exporters.page`. The page loads and sends nothing, and forbids itself to.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn._io.pages import fill, read_template, write_page
from varpro_nn._typing import FloatArray
from varpro_nn.data import Dataset, ImageSet
from varpro_nn.exporters.page import drawing, policy
from varpro_nn.model.network import Network, probabilities
from varpro_nn.output.calibration import calibration_curve
from varpro_nn.report import figures
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.growth import Growth
from varpro_nn.training.metrics import confusion_matrix
from varpro_nn.training.pipeline import Run, said_of_refit
from varpro_nn.units import PatchUnits, UnitsOnMaps
from varpro_nn.units.maps import n_columns_below

MIDDLE = "middle layer"
"""Its name among the sub-networks."""
MOST_WRONG, MOST_FILTERS, MOST_VECTORS = 40, 64, 6


def write_report(path: str | Path, run: Run, dataset: Dataset) -> None:
    """Write a page with the settings and results of a run on ``dataset``, atomically.

    It fits nothing and labels no image: all figures are those of the run. The same run gives the
    same bytes. Test labels are used only to measure.

    Raises
    ------
    VarProError
        Matplotlib is not installed.
    OSError
        The file cannot be written; an older one stays.
    """
    figures.check_matplotlib()
    network, metrics = run.network, run.metrics
    notes = []
    canvas = None
    try:
        canvas = drawing(network)
    except (TypeError, ValueError) as error:
        notes.append(f"There is no canvas to draw on: {error}")
    training = _of_training(run)
    if training is None:
        notes.append("The units are random and untrained: there are no cost curves.")
    test = dataset.test
    matrices = list(_matrices(run, test))
    if run.growth is None:
        notes.append(
            "What each sub-network adds was not measured: call varpro_nn.run with growth=True."
        )
    if test is None:
        matrix = "" if matrices else "the confusion matrix, "
        notes.append(
            "The data set has no test images. Left out for that: accuracy on new images, "
            f"{matrix}the wrongest images, calibration, and what each sub-network adds."
        )
    if metrics["refitted"]:
        said = said_of_refit(metrics)
        notes.append(f"{said[0].upper()}{said[1:]}.")
    style = read_template("varpro_nn.report", "report.css")
    reports = [subnetwork.report for subnetwork in run.subnetworks]
    page = fill(
        "varpro_nn.report",
        "report.html",
        policy=f"{policy(styles=[style])}; img-src data:",
        style=style,
        notes=notes,
        metrics=metrics,
        figures={
            n: v
            for n, v in metrics.items()
            if not (n == "contest" or n.endswith("_confusion_matrix"))
        },
        matrices=matrices,
        subnetworks_cpu_seconds=sum(report.cpu_seconds for report in reports if report),
        summary=[re.split(" {2,}", line, maxsplit=1) for line in network.summary().splitlines()],
        settings=TrainConfig.from_dict(network.training["config"]).options().items(),
        drawing=canvas,
        training=training,
        glue=None if run.growth is None else _of_glue(run, run.growth),
        test=None if test is None else _of_test(run, test),
        units=_of_units(network),
        said=_said,
    )
    write_page(path, page)


def _of_training(run: Run) -> dict[str, Any] | None:
    reports = {s.index: s.report for s in run.subnetworks if s.report and s.layer == "last"}
    if not reports:
        return None
    middle = [s.report.history for s in run.subnetworks if s.report and s.layer == "middle"]
    of_last = {str(index + 1): report.history for index, report in reports.items()}
    histories = {**({MIDDLE: middle[0]} if middle else {}), **of_last}
    step = "pass" if any(each.solver == "kfac" for each in reports.values()) else "evaluation"
    first, last = (np.median([h[at].cost for h in of_last.values()]) for at in (0, -1))
    alt = "Costs of the middle layer, and of " if middle else "Costs of "
    alt += f"{len(of_last)} sub-networks, in the median {first:.4g} at first, "
    alt += f"{last:.4g} at last, against "
    steps = "passes" if step == "pass" else "evaluations"
    return {
        "step": step,
        "middle": bool(middle),
        "by_step": figures.cost_curves(histories, alt + steps, by_time=False, step=step),
        "by_time": figures.cost_curves(histories, alt + "CPU seconds", by_time=True),
    }


def _of_glue(run: Run, growth: Growth) -> dict[str, Any]:
    sizes, accuracies, path = growth.sizes, growth.accuracies, growth.path
    network, k = run.network, len(run.network.classes)
    m, n_below = network.units.n_cells, n_columns_below(network.units)
    values = np.sqrt(path.eigenvalues[::-1])
    alt = f"{len(values):,} singular values from {values[0]:.3g} down; rank {path.rank:,}"
    curve = None
    if sizes:
        points = zip(sizes, accuracies[0], strict=True)
        of_sizes = ", ".join(f"{100 * share:.2f} % with {size}" for size, share in points)
        fixed = network.n_parameters - network.W.size - network.A.size + k
        names = ("trained units", "random units") if len(accuracies) > 1 else ("random units",)
        curve = figures.growth_curve(
            sizes, dict(zip(names, accuracies, strict=True)),
            f"Test accuracy by number of sub-networks: {of_sizes}",
            n_test=run.metrics["n_test"], whole=run.metrics["test_accuracy"],
            parameters=(fixed, growth.units_per_subnetwork * (network.units.n_weights + m * k)),
        )  # fmt: skip
    return {
        "n_images": growth.n_images,
        "n_columns": len(path.mean_Phi),
        "n_all_columns": len(network.W) * m,
        "n_below": n_below,
        "rank": path.rank,
        "singular": figures.singular_values(values, path.rank, alt),
        "with_random": len(accuracies) > 1,
        "curve": curve,
    }


def _matrices(run: Run, test: ImageSet | None) -> Iterator[dict[str, Any]]:
    """Yield the confusion matrices of test and validation images, as tables or pictures."""
    names, k = run.network.classes.astype(str).tolist(), len(run.network.classes)
    for subset in ("test", "validation"):
        counts = np.array(run.metrics.get(f"{subset}_confusion_matrix", ()), np.int64)
        if not len(counts):  # more classes than the metrics have matrices for
            if subset != "test" or test is None:
                continue
            counts = confusion_matrix(_outputs_of(run).argmax(axis=1), test.labels, k)
        off = np.where(np.eye(k, dtype=bool), 0, counts)
        most = [divmod(i, k) for i in np.argsort(-off, axis=None, kind="stable")[:3].tolist()]
        yield {
            "subset": subset,
            "n": int(counts.sum()),
            "often": [f"{names[i]} taken for {names[j]} ({off[i, j]:,})"
                      for i, j in most if off[i, j]],
            "table": figures.confusion(counts, names),
        }  # fmt: skip


def _outputs_of(run: Run) -> FloatArray:
    assert run.test_outputs is not None  # the run has measured the network on these images
    return run.test_outputs


def _of_test(run: Run, test: ImageSet) -> dict[str, Any]:
    network, outputs = run.network, _outputs_of(run)
    proba = probabilities(outputs, network.output_layer, network.temperature)
    given, names = outputs.argmax(axis=1), network.classes.astype(str).tolist()
    curve = calibration_curve(proba, test.labels)
    alt = ", ".join(f"{100 * r:.0f} % at {100 * s:.0f} %" for _, s, r in zip(*curve, strict=True))
    wrong = np.flatnonzero(given != test.labels)
    wrong = wrong[np.argsort(-proba[wrong, given[wrong]], kind="stable")]
    images: Any = test.images[wrong[:MOST_WRONG]]
    white = 255 if images.dtype == np.uint8 else images.max(initial=0)
    wrongest = []
    for number, pixels in zip(wrong.tolist(), images, strict=False):
        label, true = names[given[number]], names[test.labels[number]]
        share = proba[number, given[number]]
        said = f"taken for {label} with {100 * share:.1f} %, true label {true}"
        picture = figures.image(pixels, f"Test image {number}: {said}", min(0, pixels.min()), white)
        wrongest.append((picture, label, share, true))
    return {
        "n_wrong": len(wrong),
        "wrongest": wrongest,
        "calibration": figures.calibration(*curve, f"Correct by probability: {alt}"),
    }


def _of_units(network: Network) -> dict[str, Any]:
    units: Any = network.units
    W = network.W
    of_units = network.A[: units.n_cells * len(W)].reshape(units.n_cells, len(W), -1)
    sizes = np.linalg.norm(of_units, axis=(0, 2))
    order = np.argsort(-sizes, kind="stable")[:MOST_FILTERS].tolist()
    below = isinstance(units, UnitsOnMaps)
    while isinstance(units, UnitsOnMaps):  # filters of the first layer can be drawn
        units, W = units.below.units, units.below.W
        order = list(range(min(MOST_FILTERS, len(W))))
    whole = not isinstance(units, PatchUnits)
    shape = network.image_shape if whole else units.windows.shape
    filters = units.effective_filters(W[order])[:, :-1].reshape(-1, *shape)
    pairs = list(zip(order, filters, strict=True))
    vectors = None
    if whole and units.kind != "dense":
        some = dict(pairs[:MOST_VECTORS])
        alt = f"Vectors of the units {', '.join(map(str, some))}"
        vectors = figures.vectors(some, units.rank, alt)
    return {
        "whole": whole,
        "n_units": len(W),
        "below": below,
        "in_colour": len(shape) == 3 and shape[0] == 3,
        "filters": [figures.filter_image(f, f"Filter of unit {i}") for i, f in pairs],
        "vectors": vectors,
    }


def _said(value: Any) -> str:
    """Write a figure or a setting for the reader."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(entry)}" for name, entry in value.items())
    form = {int: ",", float: ".6g"}.get(type(value), "")
    return format(value, form) if form else str(value)
