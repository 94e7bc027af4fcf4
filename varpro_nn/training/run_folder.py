"""The folder of a run on the command line: what is in it, and when it may be touched."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from varpro_nn._io.atomic import strict_json, write_atomically
from varpro_nn.data import Dataset
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import VarProError
from varpro_nn.model.network import Network
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.pipeline import Run


def check_same(folder: Path, config: TrainConfig, dataset: Dataset) -> None:
    """Refuse to go on with a finished run of other settings or data.

    Raises
    ------
    VarProError
    """
    theirs = Network.load(folder / "model.npz").training
    settings = theirs.get("config")
    settings = settings if isinstance(settings, dict) else {}
    differing = [name for name, own in asdict(config).items() if settings.get(name) != own]
    if theirs.get("digest") != TrainingSet.of(dataset, config.n_train).digest:
        differing.append("data")
    if differing:
        msg = (
            f"{folder}: holds a finished run of other settings, {', '.join(differing)} differ; "
            "add --overwrite to replace its model, or name another folder"
        )
        raise VarProError(msg)


def write_run(
    folder: Path,
    config: TrainConfig,
    result: Run,
    metrics: dict[str, Any],
    report: Callable[[Path], None] | None = None,
) -> None:
    """Write a run folder, each file atomically and ``metrics.json`` last.

    A folder that holds ``metrics.json`` is therefore complete. ``report`` writes ``report.html``.
    Sums that were kept become ``glue.npz``.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    write_atomically(folder / "config.json", strict_json(asdict(config)))
    write_atomically(folder / "history.jsonl", b"".join(_history(result)))
    result.network.save(folder / "model.npz")
    (folder / "model-bootstrap.npz").unlink(missing_ok=True)
    if result.bootstrap is not None:
        result.bootstrap.network.save(folder / "model-bootstrap.npz")
    (folder / "glue.npz").unlink(missing_ok=True)
    if result.output_layer.ridge_layer is not None:
        result.output_layer.ridge_layer.save(folder / "glue.npz")
    (folder / "report.html").unlink(missing_ok=True)
    if report is not None:
        report(folder / "report.html")
    write_atomically(folder / "metrics.json", strict_json(metrics))


def _history(result: Run) -> Iterator[bytes]:
    """One line a sub-network, one for the output layer."""
    for subnetwork in result.subnetworks:
        line: dict[str, Any] = {
            "subnetwork": subnetwork.index,
            "error": subnetwork.error,
            "n_missing_classes": subnetwork.n_missing_classes,
        }
        if subnetwork.report is not None:
            line["reason"] = subnetwork.report.reason
            line["form"] = subnetwork.report.form
            line["history"] = [asdict(record) for record in subnetwork.report.history]
        yield strict_json(line)
    trace = asdict(replace(result.output_layer, left_out=None, ridge_layer=None))
    del trace["A"], trace["left_out"], trace["ridge_layer"]
    yield strict_json({"output_layer": trace})


def choose_folder(output: str | None, name: str, recipe: str) -> Path:
    """Choose the run folder and find out before the work whether it can be written."""
    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        # With the number of the process: jobs that start together keep apart.
        folder = Path("runs") / f"{stamp}-{os.getpid()}-{Path(name).stem}-{recipe}"
    else:
        folder = Path(output)
    # The nearest folder that exists decides; nothing is made until there is something to keep.
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        msg = f"{folder}: the run folder cannot be written ({nearest} is not a writable folder)"
        raise VarProError(msg)
    return folder


def look_for_earlier_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to touch a run that is there, unless told what to do with it."""
    if resume or overwrite:
        return
    for name, state in (("metrics.json", "a finished run"), ("shards/*.npz", "an unfinished run")):
        if any(folder.glob(name)):
            msg = f"{folder}: holds {state}; add --resume or --overwrite, or name another folder"
            raise VarProError(msg)
