"""Whole-image units on MNIST, trained and untrained, and the bootstrap.

``python -m experiments.mnist_table --output FILE`` runs each row with the settings that stand in
``ROWS``, appends its metrics to FILE as one JSON line, and prints a Markdown table. Rows that FILE
holds already are not run again. A row of the same name with ``untrained`` has the same units,
drawn from the same seeds, left as they were drawn; only its linear weights are fitted.
"""

from typing import Any

from experiments.ledger import parser, run_rows
from varpro_nn import load

PAPER = {"recipe": "paper"}
BILINEAR = {"recipe": "bilinear"}
LARGE = BILINEAR | {"n_units": 5200, "n_subnetworks": 26}
RANK_2 = BILINEAR | {"rank": 2}
DENSE = BILINEAR | {"units": "dense", "n_subnetworks": 40, "images_per_subnetwork": 2000}
UNTRAINED = {"max_nfev": 0}
ROWS: dict[str, dict[str, Any]] = {
    "bilinear, 2,000 units": BILINEAR,
    "bilinear, 2,000 units, untrained": BILINEAR | UNTRAINED,
    "paper: quadratic, 5,200 units": PAPER,
    "paper, untrained": PAPER | UNTRAINED,
    "bilinear, 5,200 units": LARGE,
    "bilinear, 5,200 units, untrained": LARGE | UNTRAINED,
    "bilinear of rank 2, 2,000 units": RANK_2,
    "bilinear of rank 2, 2,000 units, untrained": RANK_2 | UNTRAINED,
    "dense, 2,000 units": DENSE,
    "dense, 2,000 units, untrained": DENSE | UNTRAINED,
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
    args = parser(__doc__.splitlines()[0]).parse_args()
    print("| network | parameters | test accuracy | CPU s | wall s | bootstrap |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, metrics in run_rows(ROWS, load("mnist", args.data_dir), args):
        print(line(name, metrics), flush=True)


if __name__ == "__main__":
    main()
