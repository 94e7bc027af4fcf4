"""Rows of a table that are runs of the package, each by its settings."""

import argparse
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.shared.ledger import Ledger, settings_of
from varpro_nn import TrainConfig, configure, run
from varpro_nn.data import Dataset


def run_rows(
    rows: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    args: argparse.Namespace,
    data: str | Dataset | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train each row by its settings, once, and give its metrics.

    ``data`` is the kind of data that recipes are to suit, if not ``dataset``. Rows are the same for
    any number of jobs but for seconds: they tell the number, and none is trained anew for another.
    """
    ledger = Ledger(args.output, data=dataset.digest)
    for name, settings in rows.items():
        config = configure(data=data or dataset, **{"seed": args.seed, **settings})
        make = functools.partial(_metrics, config, dataset, args)
        yield name, ledger.get(settings_of(config), make)


def _metrics(config: TrainConfig, dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    metrics = run(config, dataset, n_jobs=args.n_jobs, progress=True).metrics
    del metrics["peak_memory_mib"]  # of all rows that this process has trained
    return metrics
