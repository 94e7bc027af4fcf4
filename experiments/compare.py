"""Two runs of a table: ``python -m experiments.compare FIRST.jsonl SECOND.jsonl``.

Compares the results of entries that both files of a table hold, versions and seed left aside:
accuracies with the binomial standard error of their difference, and CPU seconds by ratio. Exit
status 1 if an accuracy differs by more than ``--most`` (3) standard errors, which two runs of one
seed on one machine never do: they are to be the same. Run the second one elsewhere, on another
day, or with another ``--seed``.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ledger import print_table

LEFT_ASIDE = ("versions", "seed")


def entries(path: Path) -> dict[str, Any]:
    """Results of a file by what was measured."""
    found = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        found[json.dumps(_plain(line["key"]), sort_keys=True)] = line["result"]
    return found


def _plain(key: Any) -> Any:
    """Leave versions and seeds aside, at any depth."""
    if isinstance(key, dict):
        return {name: _plain(value) for name, value in key.items() if name not in LEFT_ASIDE}
    return [_plain(value) for value in key] if isinstance(key, list) else key


def leaves(result: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Give the numbers of a result, each with the names that lead to it."""
    if isinstance(result, dict):
        for key, value in result.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(result, list):
        for i, value in enumerate(result):
            yield from leaves(value, f"{name}.{i}")
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield name, float(result)


def compare(first: Any, second: Any, n_test: int) -> Iterator[tuple[str, float, float]]:
    """Compare the accuracies and CPU seconds of two results of one entry.

    Yields
    ------
    name, difference, ratio : str, float, float
        Of accuracies, the difference by its standard error; of CPU seconds, the ratio; the other
        one is nan.
    """
    other = dict(leaves(second))
    for name, value in leaves(first):
        if name not in other:
            continue
        last = name.rsplit(".", 1)[-1]
        if last.endswith("accuracy") and 0 <= value <= 1:
            share = (value + other[name]) / 2
            error = (2 * share * (1 - share) / n_test) ** 0.5
            difference = other[name] - value
            yield name, difference / error if difference else 0.0, np.nan
        elif "cpu_seconds" in last and value > 0:
            yield name, np.nan, other[name] / value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--most", type=float, default=3.0, help="standard errors (%(default)s)")
    parser.add_argument("--n-test", type=int, default=10_000, help="test images (%(default)s)")
    args = parser.parse_args()
    first, second = entries(args.first), entries(args.second)
    both = [key for key in first if key in second]
    if not both:
        parser.error(f"{args.first} and {args.second} have no entry in common")
    found = [row for key in both for row in compare(first[key], second[key], args.n_test)]
    distances = np.array([abs(distance) for _, distance, _ in found if not np.isnan(distance)])
    ratios = np.array([ratio for _, _, ratio in found if not np.isnan(ratio)])
    cells = {"entries in both": f"{len(both)} of {len(first)} and {len(second)}"}
    if len(distances):
        cells["accuracies"] = f"{len(distances)}"
        cells["the same"] = f"{int((distances == 0).sum())}"
        cells["largest difference, standard errors"] = f"{distances.max():.2f}"
    if len(ratios):
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        cells["CPU seconds, second by first"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    print_table([cells])
    if len(distances) and distances.max() > args.most:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
