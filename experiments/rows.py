"""Rows of a table: one training run each, kept in a file so that a stopped table goes on."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from varpro_nn import configure, run
from varpro_nn.datasets import Dataset
from varpro_nn.resources import versions


def parser(description: str) -> argparse.ArgumentParser:
    """Make the options that all tables have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--n-jobs", type=int, default=-1)
    made.add_argument("--data-dir")
    return made


def run_rows(
    rows: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    args: argparse.Namespace,
    data: str = "mnist",
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run each row, or take it from the file if settings, data and versions are the same.

    ``data`` is the kind of data that recipes are to suit.
    """
    done: dict[str, dict[str, Any]] = {}
    if args.output.exists():
        for text in args.output.read_text(encoding="utf-8").splitlines():
            entry = json.loads(text)
            done[json.dumps(entry["key"], sort_keys=True)] = entry["metrics"]
    for name, settings in rows.items():
        config = configure(data=data, **{"seed": args.seed, **settings})
        key = {"config": asdict(config), "data": dataset.digest, "versions": versions()}
        metrics = done.get(json.dumps(key, sort_keys=True))
        if metrics is None:
            metrics = run(config, dataset, n_jobs=args.n_jobs, progress=True).metrics
            with open(args.output, "a", encoding="utf-8") as file:
                file.write(json.dumps({"row": name, "key": key, "metrics": metrics}) + "\n")
        yield name, metrics
