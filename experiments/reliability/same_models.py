"""Whether a change leaves trained networks as they were, bit by bit.

``python -m experiments.reliability.same_models --output FILE`` trains the networks of :data:`RUNS`
by the command line, each with one and with two jobs, and writes the SHA-256 of every array of
``model.npz``. Run it before a change and after it; ``--against FILE`` names the earlier file, and
the exit status is 1 where an array differs. The header of a model file names settings and
versions, which may change where no array does, so the digest of the whole file is shown beside.
``--only NAME`` runs those whose name contains it. All of them take about 25 CPU minutes.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from varpro_nn._io import archive

RUNS: dict[str, str] = {
    **{f"digits-{name}": f"digits --recipe {name}" for name in ("default", "tiny", "accurate")},
    "digits-bilinear": "digits --recipe bilinear",
    "digits-paper": "digits --recipe paper",
    "mnist-tiny": "mnist --recipe tiny",
    "mnist-default": "mnist",
    "mnist-bilinear": "mnist --recipe bilinear --n-units 400 --n-subnetworks 4",
    "mnist-paper": "mnist --recipe paper --n-units 520 --n-subnetworks 104 "
    "--images-per-subnetwork 500",
    "cifar10-tiny": "cifar10 --recipe tiny",
}
"""Arguments of ``varpro_nn.train``, by the name of the run."""


def digests(model: Path) -> dict[str, Any]:
    """SHA-256 of a model file, and of each of its arrays."""
    _, arrays = archive.read(model)
    return {
        "file": hashlib.sha256(model.read_bytes()).hexdigest(),
        "arrays": {
            name: hashlib.sha256(array.tobytes()).hexdigest()
            for name, array in sorted(arrays.items())
        },
    }


def trained(arguments: str, n_jobs: int) -> dict[str, Any]:
    """Train by the command line, and take the digests."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [
            sys.executable, "-m", "varpro_nn.train", *arguments.split(), "--seed", "0",
            "--n-jobs", str(n_jobs), "--output", str(run), "--quiet", "--no-report",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        return digests(run / "model.npz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file of digests to write")
    parser.add_argument("--against", type=Path, help="file of an earlier run")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of runs")
    args = parser.parse_args()
    earlier = json.loads(args.against.read_text(encoding="utf-8")) if args.against else {}
    found: dict[str, Any] = {}
    differing = 0
    for name, arguments in RUNS.items():
        if not any(part in name for part in args.only):
            continue
        for n_jobs in (1, 2):
            key = f"{name}, {n_jobs} jobs"
            found[key] = trained(arguments, n_jobs)
            args.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
            said = found[key]["arrays"]["W"][:12]
            if key in earlier:
                same = earlier[key]["arrays"] == found[key]["arrays"]
                differing += not same
                whole = "same file" if earlier[key]["file"] == found[key]["file"] else "same arrays"
                said += f"  {whole if same else 'DIFFERS'}"
            print(f"{key:<28} {said}", flush=True)
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
