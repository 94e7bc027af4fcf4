"""Two runs of a table: ``python -m experiments.compare FIRST.jsonl SECOND.jsonl``.

Pairs the entries of two files of a table, versions left aside: those of one seed first, then those
that differ in the seed alone. Compares shares of images that are no training images (``SHARES``)
by the binomial standard error of the difference of two samples, and CPU seconds by their ratio.
Both runs have the same images, so that differences are smaller than that by chance. Exit status 1
if a share differs by more than ``--most`` (4) standard errors. Two runs of one seed on one machine
are to be the same; run the second elsewhere, on another day, or with another ``--seed``.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ledger import print_table

LEFT_ASIDE = ["versions", "seed", "repetition"]
SHARES = {
    "test_accuracy", "test", "held_out_accuracy", "held out",
    "agreement", "agreement_with_guesses", "true_guesses",
    "true_before", "true_after", "true_accuracy_before", "true_accuracy_after",
}  # fmt: skip
"""Names of shares of images that are no training images."""
Entries = dict[str, list[tuple[str, Any]]]
"""Whole keys and results by keys without seeds."""


def entries(path: Path) -> Entries:
    """Results of a file by what was measured."""
    found: Entries = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        whole, plain = (_without(line["key"], names) for names in (["versions"], LEFT_ASIDE))
        found.setdefault(plain, []).append((whole, line["result"]))
    return found


def _without(key: Any, names: list[str]) -> str:
    """Write a key without some names, at any depth."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept(each) for name, each in value.items() if name not in names}
        return [kept(each) for each in value] if isinstance(value, list) else value

    return json.dumps(kept(key), sort_keys=True)


def pairs(first: Entries, second: Entries) -> Iterator[tuple[Any, Any]]:
    """Pair results: the same seed where both have it, then other seeds in their order."""
    for plain, ours in first.items():
        theirs = dict(second.get(plain, []))
        yield from ((result, theirs.pop(key)) for key, result in ours if key in theirs)
        rest = [result for key, result in ours if key not in dict(second.get(plain, []))]
        yield from zip(rest, theirs.values(), strict=False)


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
    """Compare the shares and CPU seconds of two results of one entry.

    Yields
    ------
    name, difference, ratio : str, float, float
        Of shares, the difference by its standard error; of CPU seconds, the ratio; the other
        one is nan.
    """
    other = dict(leaves(second))
    for name, value in leaves(first):
        if name not in other:
            continue
        last = name.rsplit(".", 1)[-1]
        if last in SHARES:
            share = (value + other[name]) / 2
            error = (2 * share * (1 - share) / n_test) ** 0.5
            difference = other[name] - value
            yield name, difference / error if difference else 0.0, np.nan
        elif "cpu_seconds" in last and value > 0:
            yield name, np.nan, other[name] / value


def n_of(result: Any, otherwise: int) -> int:
    """Look up of how many images the shares of a result are."""
    told = result.get("n_test", otherwise) if isinstance(result, dict) else otherwise
    return int(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--most", type=float, default=4.0, help="standard errors (%(default)s)")
    parser.add_argument("--n-test", type=int, default=10_000,
                        help="images, where a result does not tell (%(default)s)")  # fmt: skip
    args = parser.parse_args()
    both = list(pairs(entries(args.first), entries(args.second)))
    if not both:
        parser.error(f"{args.first} and {args.second} have no entry in common")
    found = [row for ours, theirs in both for row in compare(ours, theirs, n_of(ours, args.n_test))]
    distances = np.array([abs(distance) for _, distance, _ in found if not np.isnan(distance)])
    ratios = np.array([ratio for _, _, ratio in found if not np.isnan(ratio)])
    cells = {"entries in both": f"{len(both)}", "shares": f"{len(distances)}"}
    if len(distances):
        cells["the same"] = f"{int((distances == 0).sum())}"
        worst = max(found, key=lambda row: 0.0 if np.isnan(row[1]) else abs(row[1]))
        cells["largest difference, standard errors"] = f"{distances.max():.2f} ({worst[0]})"
    if len(ratios):
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        cells["CPU seconds, second by first"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    print_table([cells])
    if len(distances) and distances.max() > args.most:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
