"""The folder of a run on the command line: its files, and when they may be replaced.

A run writes and removes only the files of :data:`FILES` and its shards. If one of them is already
there, the folder must be recognised as a run by its ``config.json``, which has the settings of a
run, or by its ``contest.json``, which has them too. Files of a user are never replaced.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from varpro_nn._io.atomic import strict_json, write_atomically
from varpro_nn.data import Dataset
from varpro_nn.errors import VarProError
from varpro_nn.model.network import Network
from varpro_nn.training.config import TrainConfig
from varpro_nn.training.contest import contest
from varpro_nn.training.contest_results import Contest
from varpro_nn.training.pipeline import Run, run
from varpro_nn.training.plan import final_training_set, provenance
from varpro_nn.training.resources import versions
from varpro_nn.training.shards import REFIT, all_shard_files, check_removable

EXPORTS = ("model.onnx", "model.c", "model.html")
"""The files of the network for other programs."""
FILES = (
    *("contest.json", "config.json", "history.jsonl", "model.npz", "model-bootstrap.npz"),
    *("glue.npz", "report.html", "metrics.json", *EXPORTS),
)
"""The files of a run folder in the order in which they are written; ``shards/`` is the rest.

A folder with ``metrics.json`` is complete, but for the exported files, which are written after it.
"""
_MOST_BYTES = 2**20
"""No ``config.json`` or ``metrics.json`` of a run is larger."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder, and what may happen to a run that it holds already.

    Attributes
    ----------
    resume : bool
        Continue with the sub-networks that the folder has.
    overwrite : bool
        Replace a finished run; without ``resume`` its sub-networks too.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False

    @property
    def shards(self) -> Path:
        """Where finished sub-networks are kept."""
        return self.path / "shards"

    @property
    def n_kept(self) -> int:
        """Number of finished sub-networks that are kept."""
        return len(all_shard_files(self.shards))

    def check_writable(self) -> None:
        """Raise VarProError, before the work, if the folder cannot be written."""
        # The nearest folder that exists decides; nothing is made until there is something to keep.
        folders = (self.path, *self.path.absolute().parents)
        nearest = next(path for path in folders if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            msg = (
                f"{self.path}: the run folder cannot be written "
                f"({nearest} is not a writable folder)"
            )
            raise VarProError(msg)

    def check_free(self, *, after_contest: bool = False) -> None:
        """Raise VarProError if the folder holds something that the run must not replace.

        That is a run that is neither resumed nor overwritten, or a file of the user with the name
        of a file of a run. ``after_contest``: the contest of this run is there already.
        """
        there = [name for name in FILES if os.path.lexists(self.path / name)]
        if there and not (
            _are_settings(_json_object(self.path / "config.json"))
            or _are_settings(_json_object(self.path / "contest.json").get("config"))
        ):
            msg = (
                f"{self.path}: holds {', '.join(there)}, but no config.json of a run of varpro_nn, "
                "so these files are left alone; name another folder, or move them away"
            )
            raise VarProError(msg)
        if self.overwrite and not self.resume:
            check_removable(self.shards)
        if after_contest and there == ["contest.json"]:
            there = []
        if self.resume or self.overwrite or not (there or self.n_kept):
            return
        state = "a finished run" if "metrics.json" in there else "an unfinished run"
        msg = f"{self.path}: holds {state}; add --resume or --overwrite, or name another folder"
        raise VarProError(msg)

    def contest(
        self, dataset: Dataset, overrides: Mapping[str, Any], *, n_jobs: int, progress: bool
    ) -> Contest:
        """Choose settings, and write ``contest.json``; the caller holds the lock of the folder.

        A folder to resume has them already, if its contest was one of the same data, settings and
        versions.

        Raises
        ------
        VarProError
            The run to resume has another contest, and is not to be overwritten.
        ValueError, DatasetError
            As :func:`varpro_nn.training.contest.contest`.
        """
        path = self.path / "contest.json"
        packages = ("varpro_nn", "numpy", "scipy")
        key = {
            "data": dataset.train.digest,
            "overrides": dict(overrides),
            "versions": {name: versions()[name] for name in packages},
        }
        if self.resume and path.exists():
            theirs = _json_object(path)
            differing = [name for name, own in key.items() if theirs.get(name) != own]
            if not differing:
                with suppress(ValueError):  # damaged: hold it again
                    return Contest.from_dict(theirs)
            elif not self.overwrite:
                msg = (
                    f"{path}: is of another contest, {', '.join(differing)} differ; add "
                    "--overwrite to hold it again, or name another folder"
                )
                raise VarProError(msg)
        options = {"seed": 0, **overrides}
        found = contest(dataset, n_jobs=n_jobs, progress=progress, **options)
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(path, strict_json({**key, **found.to_dict()}))
        return found

    def finished(self, config: TrainConfig, dataset: Dataset, *, keep_sums: bool) -> str | None:
        """Return the metrics of the run to resume if it is finished, else None.

        Raises
        ------
        VarProError
            It is a run of other settings or data, or of another version, or its metrics are
            damaged.
        """
        path = self.path / "metrics.json"
        if not self.resume or self.overwrite or not path.exists():
            return None
        self._check_same(config, dataset)
        if keep_sums and not (self.path / "glue.npz").exists():
            return None
        metrics = _json_object(path)
        if "n_parameters" not in metrics:
            msg = (
                f"{path}: is damaged: expected one JSON object with the figures of a run; remove "
                "the file, and --resume measures again"
            )
            raise VarProError(msg)
        return strict_json(metrics).decode().strip()

    def _check_same(self, config: TrainConfig, dataset: Dataset) -> None:
        theirs = Network.load(self.path / "model.npz").training
        try:
            settings = TrainConfig.from_dict(theirs["config"]).options()
        except (KeyError, ValueError) as error:
            msg = (
                f"{self.path}: holds a run of another version of varpro_nn, whose settings cannot "
                "be compared; add --overwrite to replace its model, or name another folder"
            )
            raise VarProError(msg) from error
        differing = [name for name, own in config.options().items() if settings[name] != own]
        ours = provenance(config, dataset, final_training_set(config, dataset))
        if any(theirs.get(name) != ours[name] for name in ours if name.endswith("digest")):
            differing.append("data")
        if differing:
            msg = (
                f"{self.path}: holds a finished run of other settings, {', '.join(differing)} "
                "differ; add --overwrite to replace its model, or name another folder"
            )
            raise VarProError(msg)

    def train(
        self,
        config: TrainConfig,
        dataset: Dataset,
        *,
        n_jobs: int,
        executor: Executor | None = None,
        progress: bool = False,
        keep_sums: bool = False,
        report: Callable[[Path, Run], None] | None = None,
        contest: Contest | None = None,
    ) -> Run:
        """Train, and write the folder; the caller holds its lock.

        Parameters
        ----------
        config, dataset, n_jobs, executor, progress
            As for :func:`varpro_nn.run`.
        keep_sums : bool
            Write ``glue.npz`` too, the sums of the ridge layer.
        report : callable, optional
            Writes ``report.html``.
        contest : Contest, optional
            What chose the settings; its results become part of the metrics.

        Returns
        -------
        Run
            Its metrics have the folder as ``output``.
        """
        self.check_free(
            after_contest=contest is not None
        )  # once more: another process may have had it meanwhile
        if self.overwrite and not self.resume:
            # The rest of an earlier run stays until there is something to put in its place.
            for path in check_removable(self.shards):
                path.unlink()
            with suppress(OSError):
                (self.shards / REFIT).rmdir()
        result = run(
            config, dataset,
            n_jobs=n_jobs, executor=executor, progress=progress, shard_folder=self.shards,
            keep_sums=keep_sums, growth=report is not None,
        )  # fmt: skip
        more: dict[str, Any] = {"output": str(self.path)}
        if contest is not None:
            more = {"contest": contest.figures(), **more}
        else:
            (self.path / "contest.json").unlink(missing_ok=True)  # of the run that is replaced
        result = replace(result, metrics={**result.metrics, **more})
        self._write(config, result, report)
        return result

    def _write(
        self,
        config: TrainConfig,
        result: Run,
        report: Callable[[Path, Run], None] | None,
    ) -> None:
        """Write each file atomically and ``metrics.json`` last: with it the folder is complete."""
        folder = self.path
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
        for name in ("report.html", *EXPORTS):
            (folder / name).unlink(missing_ok=True)  # of the network that is replaced
        if report is not None:
            report(folder / "report.html", result)
        write_atomically(folder / "metrics.json", strict_json(result.metrics))


def default_path(name: str, recipe: str) -> Path:
    """Name a run folder by the time, the process, the data and the recipe."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    # A name has up to 255 bytes.
    stem = os.fsencode(Path(name).stem)[:180].decode(errors="ignore")
    # With the number of the process: jobs that start together keep apart.
    return Path("runs") / f"{stamp}-{os.getpid()}-{stem}-{recipe}"


def _are_settings(values: Any) -> bool:
    """Whether values are the settings of a run, of this version or another."""
    needed = {"recipe", "seed", "units", "subnetworks", "output"}
    return isinstance(values, dict) and needed <= set(values)


def _json_object(path: Path) -> dict[str, Any]:
    """Read a small file of one JSON object; {} if it is anything else."""
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def check_sums_can_be_kept(config: TrainConfig) -> None:
    """Raise VarProError for an output layer whose sums cannot be kept."""
    output = config.output
    if output.layer != "ridge" or output.n_copies:
        msg = (
            "--keep-glue needs --output-layer ridge and --n-copies 0, got "
            f"{output.layer} and {output.n_copies}"
        )
        raise VarProError(msg)
    if config.class_weight is not None:
        msg = (
            "--keep-glue needs images without weights, got --class-weight "
            f"{config.class_weight}; leave one of the two out"
        )
        raise VarProError(msg)


def _history(result: Run) -> Iterator[bytes]:
    """Make one line per sub-network, one for a middle layer, and one for the output layer."""
    for subnetwork in result.subnetworks:
        of_last = subnetwork.layer == "last"
        line: dict[str, Any] = {
            **({"subnetwork": subnetwork.index} if of_last else {"layer": subnetwork.layer}),
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
