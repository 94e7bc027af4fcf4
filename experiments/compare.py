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

from experiments.shared.ledger import described
from experiments.shared.tables import print_table

LEFT_ASIDE = ["versions", "seed", "repetition"]
SHARES = {
    "accuracy", "test_accuracy", "test", "held_out_accuracy", "held out",
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


def pairs(first: Entries, second: Entries) -> Iterator[tuple[str, Any, Any]]:
    """Pair results of what is named: the same seed where both have it, then others in order."""
    for plain, ours in first.items():
        theirs = dict(second.get(plain, []))
        yield from ((plain, result, theirs.pop(key)) for key, result in ours if key in theirs)
        rest = [result for key, result in ours if key not in dict(second.get(plain, []))]
        yield from ((plain, *both) for both in zip(rest, theirs.values(), strict=False))


def leaves(result: Any, name: str = "", n: int | None = None) -> Iterator[tuple[str, float, Any]]:
    """Give the numbers of a result: the names that lead to it, value, and of how many images."""
    if isinstance(result, dict):
        n = result.get("n_test", n)
        for key, value in result.items():
            yield from leaves(value, f"{name}.{key}" if name else key, n)
    elif isinstance(result, list):
        for i, value in enumerate(result):
            yield from leaves(value, f"{name}.{i}", n)
    elif isinstance(result, int | float) and not isinstance(result, bool):
        yield name, float(result), n


def compare(
    first: Any, second: Any, n_test: int | None = None
) -> Iterator[tuple[str, float, float]]:
    """Compare the shares and CPU seconds of two results of one entry.

    Yields
    ------
    name, difference, ratio : str, float, float
        Of shares, the difference by its standard error; of CPU seconds, the ratio; the other
        one is nan.

    Raises
    ------
    ValueError
        A result does not tell of how many images it is, and neither does ``n_test``.
    """
    other = {name: value for name, value, _ in leaves(second)}
    for name, value, n in leaves(first, n=n_test):
        if name not in other:
            continue
        last = name.rsplit(".", 1)[-1]
        if last in SHARES:
            if n is None:
                msg = f"a result with {name} does not tell of how many images: give --n-test"
                raise ValueError(msg)
            share = (value + other[name]) / 2
            error = (2 * share * (1 - share) / n) ** 0.5
            difference = other[name] - value
            yield name, difference / error if difference else 0.0, np.nan
        elif "cpu_seconds" in last and value > 0:
            yield name, np.nan, other[name] / value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--most", type=float, default=4.0, help="standard errors (%(default)s)")
    parser.add_argument("--n-test", type=int, help="images, where a result does not tell")
    args = parser.parse_args()
    try:
        first, second = entries(args.first), entries(args.second)
        both = list(pairs(first, second))
        found = [
            (distance, f"{described(json.loads(plain))}: {name}", ratio)
            for plain, ours, theirs in both
            for name, distance, ratio in compare(ours, theirs, args.n_test)
        ]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        parser.error(f"a file must be rows of a table, JSON, one a line: {error!r}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not both:
        parser.error(f"{args.first} and {args.second} have no entry in common")
    shares = [row for row in found if not np.isnan(row[0])]
    ratios = [ratio for *_, ratio in found if not np.isnan(ratio)]
    alone = [sum(map(len, each.values())) - len(both) for each in (first, second)]
    cells = {
        "entries in both": f"{len(both)}",
        "in one alone": " / ".join(map(str, alone)),
        "shares": f"{len(shares)}",
    }
    distance = 0.0
    if shares:
        distance, where, _ = max(shares, key=lambda row: abs(row[0]))
        cells["the same"] = f"{sum(row[0] == 0 for row in shares)}"
        cells["largest difference, standard errors"] = f"{abs(distance):.2f} ({where})"
    if ratios:
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        cells["CPU seconds, second by first"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    print_table([cells])
    if abs(distance) > args.most:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
