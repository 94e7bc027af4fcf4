"""CPU time and memory of reading a class folder, beside Pillow alone.

``python -m experiments.benchmarks.reading_pictures`` makes JPEG pictures of 64 to 256 pixels, of
gradients and noise. Then it reads them with the same number of processes by Pillow alone
(``Image.open``, ``convert``, ``resize`` with means over areas), by :func:`varpro_nn.load`, and by
``load`` with ``images_on_disk``. Memory is the largest resident memory of the process, and of a
worker. The last line is JSON.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray
from PIL import Image

from experiments.shared.ledger import print_last_line
from experiments.shared.options import whole_number
from experiments.shared.processes import child
from varpro_nn import load

N_CLASSES = 10
SIDE = 64
AT_A_TIME = 200


def write_pictures(folder: Path, numbers: Sequence[int]) -> None:
    """Write the pictures of some numbers: colour gradients, with noise."""
    noises = np.random.default_rng(0).normal(0, 12, (512, 512, 3)).astype(np.float32)
    for number in numbers:
        rng = np.random.default_rng(number)
        rows, columns = rng.integers(64, 257, size=2)
        down = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
        across = np.linspace(0, 1, columns, dtype=np.float32)[:, None]
        slopes = rng.uniform(-100, 100, (2, 3)).astype(np.float32)
        top, left = rng.integers(0, 256, size=2)
        noise = noises[top : top + rows, left : left + columns]
        pixels = 128 + down * slopes[0] + across * slopes[1] + noise
        path = folder / str(number % N_CLASSES) / f"{number:07}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=80)


def read_some(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Read pictures with Pillow alone."""
    images = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    for image, path in zip(images, paths, strict=True):
        with Image.open(path) as picture:
            resized = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
        image[...] = np.asarray(resized)
    return images


def by_pillow(folder: Path, n_jobs: int) -> int:
    paths = sorted(chain.from_iterable(entry.iterdir() for entry in folder.iterdir()))
    images = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    starts = range(0, len(paths), AT_A_TIME)
    parts = Parallel(n_jobs, return_as="generator")(
        delayed(read_some)(paths[start : start + AT_A_TIME]) for start in starts
    )
    for start, part in zip(starts, parts, strict=True):
        images[start : start + len(part)] = part
    return len(images)


def by_load(folder: Path, n_jobs: int, on_disk: Path | None = None) -> int:
    dataset = load(
        folder, image_size=(SIDE, SIDE), n_jobs=n_jobs, progress=False, images_on_disk=on_disk
    )
    return len(dataset.train)


def by_load_to_disk(folder: Path, n_jobs: int) -> int:
    return by_load(folder, n_jobs, folder.parent)


WAYS: dict[str, Callable[[Path, int], int]] = {
    "Pillow": by_pillow, "load": by_load, "to disk": by_load_to_disk,
}  # fmt: skip


def _seconds() -> float:
    """CPU seconds of this process and of the workers that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(way: str, folder: Path, n_jobs: int) -> dict[str, Any]:
    """Read the folder in this process and its workers."""
    cpu, wall = _seconds(), time.perf_counter()
    n_read = WAYS[way](folder, n_jobs)
    wall = time.perf_counter() - wall
    if n_jobs > 1:
        get_reusable_executor().shutdown(wait=True)  # their time counts when they have ended
    kinds = {"peak_mib": resource.RUSAGE_SELF, "worker_mib": resource.RUSAGE_CHILDREN}
    peaks = {name: resource.getrusage(kind).ru_maxrss / 2**10 for name, kind in kinds.items()}
    return {"way": way, "n_read": n_read, "cpu": _seconds() - cpu, "wall": wall, **peaks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pictures", type=whole_number(N_CLASSES), nargs="+", default=[100_000], metavar="N"
    )
    parser.add_argument("--n-jobs", type=whole_number(1), default=2)
    parser.add_argument("--folder", help="where the pictures are written, for a while")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), args.n_jobs)))
        return
    rows = []
    print(
        f"{'pictures':>9}{'':>9}{'CPU s':>9}{'wall s':>9}{'ratio':>8}{'MiB':>8}{'worker MiB':>12}"
    )
    for n in args.pictures:
        with tempfile.TemporaryDirectory(dir=args.folder) as text:
            folder = Path(text) / "pictures"
            folder.mkdir()
            Parallel(args.n_jobs)(
                delayed(write_pictures)(folder, range(start, min(start + AT_A_TIME, n)))
                for start in range(0, n, AT_A_TIME)
            )
            alone = None
            for way in WAYS:
                command = ["experiments.benchmarks.reading_pictures", "--one", way, str(folder)]
                row = json.loads(child([*command, "--n-jobs", str(args.n_jobs)])[-1])
                alone = alone or row
                row["ratio"] = row["cpu"] / alone["cpu"]
                rows.append(row)
                print(
                    f"{row['n_read']:>9,}{way:>9}{row['cpu']:>9.1f}{row['wall']:>9.1f}"
                    f"{row['ratio']:>8.2f}{row['peak_mib']:>8.0f}{row['worker_mib']:>12.0f}",
                    flush=True,
                )
    print_last_line({"rows": rows, "n_jobs": args.n_jobs})


if __name__ == "__main__":
    main()
