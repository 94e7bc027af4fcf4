"""The table of the README: trained and untrained networks on MNIST, and the bootstrap.

``python -m experiments.mnist_table --output FILE`` runs each row with the settings that stand in
``ROWS``, appends its metrics to FILE as one JSON line, and prints a Markdown table. Rows that FILE
holds already are not run again. A row of the same name with ``untrained`` has the same units,
drawn from the same seeds, left as they were drawn; only its linear weights are fitted.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from varpro_nn import configure, load, run

PAPER = {"recipe": "paper"}
BILINEAR = {"n_units": 5200, "n_subnetworks": 26}
UNTRAINED = {"max_nfev": 0}
ROWS: dict[str, dict[str, Any]] = {
    "default: bilinear, 2,000 units": {},
    "default, untrained": UNTRAINED,
    "paper: quadratic, 5,200 units": PAPER,
    "paper, untrained": PAPER | UNTRAINED,
    "bilinear, 5,200 units": BILINEAR,
    "bilinear, 5,200 units, untrained": BILINEAR | UNTRAINED,
    "bilinear of rank 2, 2,000 units": {"rank": 2},
    "bilinear of rank 2, 2,000 units, untrained": {"rank": 2} | UNTRAINED,
    "dense, 2,000 units": {"units": "dense", "n_subnetworks": 40, "images_per_subnetwork": 2000},
    "dense, 2,000 units, untrained": {"units": "dense"} | UNTRAINED,
    "paper + bootstrap": PAPER | {"bootstrap": True},
    "paper + bootstrap, logistic": PAPER | {"bootstrap": True, "bootstrap_rule": "margin-logistic"},
    "paper + bootstrap, argmax": PAPER | {"bootstrap": True, "bootstrap_rule": "argmax"},
}


def line(name: str, metrics: dict[str, Any]) -> str:
    """One row of the Markdown table."""
    cells = [
        name,
        f"{metrics['n_parameters']:,}",
        f"{metrics['test_accuracy']:.4f} ± {metrics['test_accuracy_standard_error']:.4f}",
        f"{metrics['training_cpu_seconds']:.0f}",
        f"{metrics['training_wall_seconds']:.0f}",
    ]
    told = metrics.get("bootstrap")
    cells.append(
        "" if told is None else
        f"{told['n_ambiguous']:,} random guesses; agreement {told['agreement_with_guesses']:.4f}; "
        f"true {told['true_accuracy_before']:.4f} → {told['true_accuracy_after']:.4f}"
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-jobs", type=int, default=-1)
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    dataset = load("mnist", args.data_dir)
    done: dict[tuple[str, int], dict[str, Any]] = {}
    if args.output.exists():
        for text in args.output.read_text().splitlines():
            entry = json.loads(text)
            done[entry["row"], entry["metrics"]["seed"]] = entry["metrics"]
    print("| network | parameters | test accuracy | CPU s | wall s | bootstrap |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, settings in ROWS.items():
        metrics = done.get((name, args.seed))
        if metrics is None:
            config = configure(**{"seed": args.seed, **settings})
            metrics = run(config, dataset, n_jobs=args.n_jobs, progress=True).metrics
            with open(args.output, "a", encoding="utf-8") as file:
                file.write(json.dumps({"row": name, "metrics": metrics}) + "\n")
        print(line(name, metrics), flush=True)


if __name__ == "__main__":
    main()
