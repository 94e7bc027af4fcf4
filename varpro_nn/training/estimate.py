"""What a run will take, before it starts: parameters, time, memory and disk.

Each step of a run is counted: operations by kind, and bytes of the arrays held at the same time.
Seconds are counts multiplied by the rates of this machine (:mod:`varpro_nn.training.rates`).
Letters: n images, h units of p weights and m cells each, k classes, q columns of ``Phi``, f fixed
columns, P = h p.

Nothing is trained. The iterations of a fit cannot be counted beforehand. Sub-networks are assumed
to use all evaluations that they may; for convex fits there are typical numbers, which were
measured.

``python -m experiments.benchmarks.estimates`` compares estimates with runs.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from varpro_nn._io.memory import available_memory_mib, peak_memory_mib, resident_memory_mib
from varpro_nn._typing import ImageArray
from varpro_nn.data import Dataset
from varpro_nn.data.augmentation import Augmentation
from varpro_nn.errors import TrainingError
from varpro_nn.linalg.blas_limit import single_threaded_blas
from varpro_nn.linalg.threads import effective_jobs
from varpro_nn.model.tables import as_html, as_text
from varpro_nn.output.fit import check_size
from varpro_nn.training.config import SubnetworkSettings, TrainConfig
from varpro_nn.training.growth import MOST_COLUMNS, MOST_IMAGES, MOST_POINTS
from varpro_nn.training.output_counts import OutputCounts
from varpro_nn.training.plan import (
    check_refit,
    make_units,
    middle_in_training,
    units_in_training,
)
from varpro_nn.training.rates import (
    SAMPLE,
    TYPICAL,
    Rates,
    UnitRates,
    measured_rates,
    measured_units,
    typical_units,
)
from varpro_nn.training.subnetwork_counts import SubnetworkCounts, Time
from varpro_nn.units import Units, UnitsOnMaps, array_fields, with_n_units
from varpro_nn.units.maps import N_IMAGES, n_columns, n_windows_of, shape_of_maps

KNOWN_ERROR = 1.5
"""Factor within which most estimates are right (``experiments.benchmarks.estimates``)."""
LONG = 600.0
"""Wall seconds from which on a run says how long it will take."""

_WORKER_SECONDS, _WORKER_MIB = 1.0, 90.0
"""What the start of a worker process takes, libraries included."""
_FIRST_LOOK_ERROR = 5.0
"""Factor by which an estimate with typical rates may be too low."""
_FIRST_USE_SECONDS = 0.3
"""Of the parts of SciPy that a process imports when it first fits."""
_HEADER_BYTES = 2500
"""Of the JSON in a model file or a shard."""
_RECORD_BYTES = 150
"""Of the JSON of one evaluation in a history."""
_REPORT_BYTES = 800_000
"""Of ``report.html``."""
_AGAIN = ", refit"
"""What the names of the steps of a second training end with."""
_MIB = 2**20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    name : str
    cpu_seconds : float
    wall_seconds : float
        If no other program needs the cores.
    memory_mib : float
        Of all processes together during the step, with what was in use before it.
    """

    name: str
    cpu_seconds: float
    wall_seconds: float
    memory_mib: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take.

    Attributes
    ----------
    n_parameters : int
        Exact, unless a sub-network fails.
    n_jobs : int
        Worker processes and threads.
    disk_mib : float
        Of the run folder and the largest temporary files: maps that a layer is trained on, or the
        features of the output layer.
    temporary_mib : float
        Of the temporary files alone.
    peak_before_mib : float
        Largest memory of this process before the estimate, for example while it read the data.
    steps : tuple of Step
        In the order of the run.
    """

    n_parameters: int
    n_jobs: int
    disk_mib: float
    temporary_mib: float
    peak_before_mib: float
    steps: tuple[Step, ...]

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all processes together."""
        return sum(step.cpu_seconds for step in self.steps)

    @property
    def wall_seconds(self) -> float:
        """Seconds from start to end, if no other program needs the cores."""
        return sum(step.wall_seconds for step in self.steps)

    @property
    def memory_mib(self) -> float:
        """Largest memory of all processes together, with what was in use before the run."""
        return max(self.peak_before_mib, *(step.memory_mib for step in self.steps))

    def summary(self) -> str:
        """Make a table of what the run will take, in all and step by step.

        Returns
        -------
        str
        """
        return as_text(self._rows())

    def _repr_html_(self) -> str:
        return as_html(self._rows(), "varpro_nn estimate")

    def _rows(self) -> list[tuple[str, str]]:
        steps = [
            (f"  {step.name}", f"{step.cpu_seconds:.3g} CPU s, {step.memory_mib:,.0f} MiB")
            for step in self.steps
        ]
        return [
            ("parameters", f"{self.n_parameters:,}"),
            ("CPU time", f"{self.cpu_seconds:.3g} s"),
            ("wall time", f"{self.wall_seconds:.3g} s with n_jobs={self.n_jobs}"),
            ("peak memory", f"{self.memory_mib:,.0f} MiB"),
            ("disk", f"{self.disk_mib:.3g} MiB"),
            *steps,
        ]


def estimate(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int = -1,
    growth: bool = False,
    keep_sums: bool = False,
) -> Estimate:
    """Estimate what :func:`varpro_nn.run` will take on this machine, without training.

    Time and memory are typically right within a factor of 1.5. The rates of the machine are
    measured, which takes about two seconds.

    Parameters
    ----------
    config : TrainConfig
    dataset : Dataset
    n_jobs : int
        Worker processes and threads; -1 for all cores.
    growth : bool
        Include the ridge layers that a report compares.
    keep_sums : bool
        Include memory and disk space of the sums of the ridge layer (``keep_sums`` of
        :func:`varpro_nn.run`).

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        The settings do not fit the images, or the output layer would have too many columns.
    """
    sizes = _Sizes.of(config, dataset, effective_jobs(n_jobs), growth, keep_sums)
    with single_threaded_blas():
        rates, of_layers = measured_rates(), sizes.rates_of_layers(config, measured_units)
    return _Run(config, sizes, rates, of_layers).estimate()


def first_look(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int = -1,
    growth: bool = False,
    keep_sums: bool = False,
) -> Estimate:
    """Estimate by typical rates, without measuring any: memory is the same, time is rougher.

    Parameters, result and errors are as for :func:`estimate`.
    """
    sizes = _Sizes.of(config, dataset, effective_jobs(n_jobs), growth, keep_sums)
    return _Run(config, sizes, TYPICAL, sizes.rates_of_layers(config, typical_units)).estimate()


def check_before_start(
    config: TrainConfig,
    dataset: Dataset,
    *,
    n_jobs: int,
    growth: bool,
    keep_sums: bool,
    scratch: Path | None,
) -> None:
    """Refuse a run that will not fit into memory or on the disk; log how long a long one will take.

    Short runs start at once: a first look with typical rates decides whether rates are measured.

    Parameters
    ----------
    scratch : Path or None
        Where the temporary files will be; None for the folder of temporary files.

    Raises
    ------
    TrainingError
        The run needs more memory than there is, even if the estimate is too high by its known
        error; or its temporary files are larger than what is free on the disk. The message names
        the settings that need less.
    ValueError
        As :func:`estimate`.
    """
    found = first_look(config, dataset, n_jobs=n_jobs, growth=growth, keep_sums=keep_sums)
    _check_memory(found)
    _check_disk(found, Path(tempfile.gettempdir()) if scratch is None else scratch)
    if found.wall_seconds < LONG / _FIRST_LOOK_ERROR:
        return
    found = estimate(config, dataset, n_jobs=n_jobs, growth=growth, keep_sums=keep_sums)
    if found.wall_seconds > LONG:
        _logger.warning(
            "this run will take about %.0f minutes with n_jobs=%d (%.0f CPU minutes)",
            found.wall_seconds / 60, found.n_jobs, found.cpu_seconds / 60,
        )  # fmt: skip


def _check_memory(found: Estimate) -> None:
    available = available_memory_mib()
    largest = max(found.steps, key=lambda step: step.memory_mib)
    if available is None or largest.memory_mib <= KNOWN_ERROR * available:
        return
    msg = (
        f"the run needs about {largest.memory_mib:,.0f} MiB of memory (step: {largest.name}), and "
        f"{available:,.0f} MiB are available. "
        f"Reduce {_REMEDIES[largest.name.removesuffix(_AGAIN)]}."
    )
    raise TrainingError(msg)


def _check_disk(found: Estimate, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / _MIB
    if found.temporary_mib > free:
        msg = (
            f"{folder}: temporary files need {found.temporary_mib:,.0f} MiB, and {free:,.0f} MiB "
            f"are free. Free disk space; or, for the features of the output layer, reduce "
            f"{_REMEDIES['output layer']}; for the maps of a layer, n_components, "
            "middle_components or n_jobs."
        )
        raise TrainingError(msg)


_REMEDIES = {
    "sub-networks": "images_per_subnetwork, n_units or n_jobs, or increase n_subnetworks",
    "first layer": "first_units or window",
    "middle layer": "images_per_subnetwork or middle_units",
    "output layer": "n_units, n_copies, grid (patch units), cells_below or n_train",
    "measurement": "n_units",
    "comparison for the report": "n_units, or leave the report out (--no-report)",
    "bootstrap": "images_per_subnetwork, n_units or n_jobs",
}
"""The settings that decide on the memory of each step."""


def fixed_columns(settings: SubnetworkSettings, columns_of_one: int) -> Iterator[tuple[int, int]]:
    """Sub-networks that train at the same time, and the columns that are fixed meanwhile.

    No other part of the estimate knows about schemes.

    Parameters
    ----------
    columns_of_one : int
        Columns of the units of one sub-network.

    Yields
    ------
    n_members, n_fixed : int
    """
    before = 0
    for group in settings.stages:
        yield len(group), before * columns_of_one
        before += len(group)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The sizes of a run, and the units that are measured.

    Attributes
    ----------
    units, of_one : Units
        Of the whole network, and of one sub-network while it trains.
    middle : UnitsOnMaps or None
        The middle layer, while it trains.
    sample : ndarray
        The first training images.
    n, n_test, n_validation, k : int
    bytes_of_image : int
    before_mib : float
        Memory of this process before the run.
    peak_before_mib : float
    """

    units: Units
    of_one: Units
    middle: UnitsOnMaps | None
    sample: ImageArray
    n: int
    n_test: int
    n_validation: int
    k: int
    bytes_of_image: int
    n_jobs: int
    growth: bool
    keep_sums: bool
    before_mib: float
    peak_before_mib: float

    @classmethod
    def of(
        cls, config: TrainConfig, dataset: Dataset, n_jobs: int, growth: bool, keep_sums: bool
    ) -> "_Sizes":
        """Read the sizes off settings and data, and make the units."""
        check_refit(config, dataset)
        before = resident_memory_mib(), peak_memory_mib()
        train = dataset.train.images
        n = len(train) if config.n_train is None else min(config.n_train, len(train))
        sample = train[: min(SAMPLE, n)]
        with single_threaded_blas():
            units = make_units(config, sample, None)
        most = n + len(dataset.validation) if config.refit and dataset.validation else n
        check_size(n_columns(units), most * (1 + config.output.n_copies))
        return cls(
            units, units_in_training(config, units), middle_in_training(config, units), sample, n,
            0 if dataset.test is None else len(dataset.test),
            0 if dataset.validation is None else len(dataset.validation), len(dataset.classes),
            prod(train.shape[1:]) * train.dtype.itemsize, n_jobs, growth, keep_sums,
            *before,
        )  # fmt: skip

    def rates_of_layers(
        self,
        config: TrainConfig,
        measure: Callable[[Units, Units, ImageArray, Augmentation], UnitRates],
    ) -> tuple[UnitRates, UnitRates]:
        """Measure the units, and those of the middle layer if there is one."""
        of_last = measure(self.units, self.of_one, self.sample, config.distortion)
        if self.middle is None:
            return of_last, of_last
        return of_last, measure(self.middle, self.middle, self.sample, config.distortion)


class _Run:
    """A run, counted step by step."""

    def __init__(
        self,
        config: TrainConfig,
        sizes: _Sizes,
        rates: Rates,
        of_layers: tuple[UnitRates, UnitRates],
    ) -> None:
        self.config, self.rates = config, rates
        self.of_units, of_middle = of_layers
        self.again: _Run | None = None
        if config.refit:
            merged = replace(sizes, n=sizes.n + sizes.n_validation, n_validation=0)
            self.again = _Run(config.with_options(refit=False), merged, rates, of_layers)
        self.settings = config.subnetworks
        if self.settings.scheme == "untrained":
            self.settings = replace(self.settings, max_nfev=0)
        self.units, self.n, self.n_test, self.k = sizes.units, sizes.n, sizes.n_test, sizes.k
        image_shape = sizes.sample.shape[1:]
        self.n_validation = sizes.n_validation
        self.growth = sizes.growth
        self.n_jobs, self.before_mib = sizes.n_jobs, sizes.before_mib
        self.peak_before_mib = sizes.peak_before_mib
        self.threads = min(sizes.n_jobs, effective_jobs(-1))
        self.one = SubnetworkCounts(
            self.settings, sizes.of_one, sizes.k, image_shape, sizes.bytes_of_image,
            config.distortion, rates, self.of_units,
        )  # fmt: skip
        self.layer = OutputCounts(
            config.output, sizes.units, sizes.n, sizes.k, image_shape, sizes.bytes_of_image,
            config.distortion, self.threads, sizes.keep_sums, rates, self.of_units,
        )  # fmt: skip
        self.middle: SubnetworkCounts | None = None
        if sizes.middle is not None:
            alone = replace(self.settings, n_subnetworks=1, n_stages=1)
            self.middle = replace(self.one, units=sizes.middle, settings=alone, of_units=of_middle)

    def estimate(self) -> Estimate:
        """Put all steps together."""
        steps = [*self._training(), self._measurement()]
        if self.again is not None:
            again = self.again._training()
            steps[-1:-1] = [replace(step, name=f"{step.name}{_AGAIN}") for step in again]
        if self.growth:
            steps.append(self._comparison())
        if self.config.bootstrap.enabled and self.n_test:
            steps.append(self._bootstrap())
        learnt = sum(array.size for array in array_fields(self.units).values())
        n_parameters = self.units.n_units * self.units.n_weights + learnt
        n_parameters += (self.layer.q + 1) * self.k
        temporary = max(run.bytes_of_temporary() for run in (self, self.again or self)) / _MIB
        return Estimate(
            n_parameters, self.n_jobs, self._disk() / _MIB + temporary, temporary,
            self.peak_before_mib, tuple(steps),
        )  # fmt: skip

    def bytes_of_temporary(self) -> float:
        """Largest temporary files that are there at the same time."""
        at_once = min(self.n_jobs, self.settings.n_subnetworks)
        of_middle = 0 if self.middle is None else self.middle.bytes_of_temporary(self.n)
        maps = max(of_middle, at_once * self.one.bytes_of_temporary(self.n))
        return max(maps, self.layer.bytes_of_temporary())

    def _training(self) -> list[Step]:
        steps = [self._subnetworks(self.one, self.n, "sub-networks"), self._output()]
        if self.middle is not None:
            steps.insert(0, self._subnetworks(self.middle, self.n, "middle layer"))
        if isinstance(self.units, UnitsOnMaps):
            steps.insert(0, self._first_layer(self.units))
        return steps

    def _first_layer(self, units: UnitsOnMaps) -> Step:
        """Count maps of some images, the covariance of their windows, and its directions."""
        below, rates = units.below, self.rates
        n, d = min(self.n, N_IMAGES), below.windows.n_pixels
        n_windows = n_windows_of(d)
        seconds = n * self.of_units.maps + n_windows * d**2 * rates.double_product
        # Reduction 4/3; taking the windows out of the maps, measured as 40 passes.
        seconds += 4 / 3 * d**3 * rates.factorisation + 40 * 8 * n_windows * d * rates.elementwise
        maps = 2 * 4 * n * prod(shape_of_maps(below.units, len(below.W)))
        memory = self.before_mib + (maps + 4 * 8 * d**2) / _MIB
        return Step("first layer", seconds, seconds, memory)

    # --- sub-networks ------------------------------------------------------------------------

    def _subnetworks(self, counts: SubnetworkCounts, n: int, name: str) -> Step:
        """Count all sub-networks on ``n`` images, each stage after the other."""
        settings, cpu, wall, most = counts.settings, 0.0, 0.0, 0.0
        columns = counts.units.n_units * counts.units.n_cells
        for members, fixed in fixed_columns(settings, columns):
            at_once = min(self.threads, members)
            one = counts.seconds(n, fixed)
            cpu += members * one.cpu
            wall += -(-members // at_once) * one.wall(max(1, self.threads // members))
            # More jobs than cores take turns, but each has its memory.
            most = max(most, min(self.n_jobs, members) * counts.memory(n, fixed) / _MIB)
        if settings.max_nfev:
            cpu += self.threads * _FIRST_USE_SECONDS
            wall += _FIRST_USE_SECONDS
        if self.n_jobs > 1:
            cpu += self.n_jobs * _WORKER_SECONDS
            wall += _WORKER_SECONDS
        return Step(name, cpu, wall, self.before_mib + self._of_workers_mib() + most)

    def _of_workers_mib(self) -> float:
        """Memory of the worker processes, which stay until the output layer is fitted."""
        n_workers = min(self.n_jobs, self.settings.n_subnetworks)
        return n_workers * _WORKER_MIB if self.n_jobs > 1 else 0.0

    # --- output layer ------------------------------------------------------------------------

    def _output(self) -> Step:
        """Count the output layer on all images and their copies."""
        time, n_bytes = self.layer.seconds(), self.layer.memory()
        memory = self.before_mib + self._of_workers_mib() + n_bytes / _MIB
        return Step("output layer", time.cpu, time.wall(self.threads), memory)

    # --- the rest ----------------------------------------------------------------------------

    def _measurement(self) -> Step:
        """Accuracy on training, validation and test images, and calibration."""
        n_new = self.n_test + self.n_validation
        time = self.layer.outputs(self.n) + self.layer.outputs(n_new)
        # Calibration errors of 200 draws: random numbers and counts, measured as 160 passes.
        # Digests and checks of all images, measured as 25.
        draws = 200 * 160 * 8 * n_new * self.rates.elementwise
        checks = 25 * (self.n + n_new) * self.layer.bytes_of_image * self.rates.elementwise
        time += Time(draws + checks)
        memory = self.before_mib + self.layer.bytes_of_block(max(self.n, n_new)) / _MIB
        return Step("measurement", time.cpu, time.wall(self.threads), memory)

    def _comparison(self) -> Step:
        """Ridge layers of the first sub-networks, and of random units, for the report."""
        rates = self.rates
        n = min(self.n, MOST_IMAGES)
        m = self.units.n_cells
        q = min(self.units.n_units, max(1, MOST_COLUMNS // m)) * m
        sizes = q * np.geomspace(1 / self.settings.n_subnetworks, 1, MOST_POINTS)
        solves = float(14 / 3 * (sizes**3).sum()) * rates.factorisation
        gram = n * q**2 * rates.product
        share = q / self.layer.q
        one = Time(solves, gram) + self.layer.features((n + self.n_test) * share)
        one += Time(MOST_POINTS * 2 * self.n_test * q * self.k * rates.thin_product)
        time = one.times(2 if self.settings.max_nfev else 1)
        memory = self.before_mib + (8 * q**2 * 6 + self.layer.bytes_of_block(n)) / _MIB
        return Step("comparison for the report", time.cpu, time.wall(self.threads), memory)

    def _bootstrap(self) -> Step:
        """Sub-networks and a ridge layer once more, on the test images, with all windows."""
        rates, per = self.of_units, self.config.units_per_subnetwork
        slower = rates.features / rates.features_in_training
        counts = replace(
            self.one,
            settings=replace(self.settings, n_stages=1),
            units=with_n_units(self.units, per),
            of_units=replace(
                rates,
                features_in_training=rates.features,
                derivative=slower * rates.derivative,
            ),
        )
        again = self._subnetworks(counts, self.n_test, "bootstrap")
        time = self.layer.primal(self.n_test) + self.layer.outputs(self.n_test).times(2)
        memory = max(
            again.memory_mib,
            self.before_mib + self.layer.bytes_of_primal(self.n_test) / _MIB,
        )
        return Step(
            "bootstrap", again.cpu_seconds + time.cpu,
            again.wall_seconds + time.wall(self.threads), memory,
        )  # fmt: skip

    def _disk(self) -> float:
        """Model, sub-networks, histories, and what else was asked for."""
        units, settings = self.units, self.settings
        learnt = sum(array.nbytes for array in array_fields(units).values())
        linear = 8 * (self.layer.q + 1) * self.k
        model = 4 * units.n_units * units.n_weights + linear + learnt + _HEADER_BYTES
        records = settings.max_nfev * settings.n_rounds * _RECORD_BYTES
        shard = 8 * self.one.units.n_units * units.n_weights + _HEADER_BYTES + records
        shards = 2 * shard if self.again is not None else shard
        total = model + settings.n_subnetworks * (shards + records) + _HEADER_BYTES
        if self.config.bootstrap.enabled:
            total += model
        if self.layer.keep_sums:
            q = self.layer.q
            total += 8 * q**2 if self.n > q else 4 * self.n * q
        return total + (_REPORT_BYTES if self.growth else 0)
