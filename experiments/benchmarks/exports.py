"""What the exports answer, and how fast, beside Python: ONNX, C and JavaScript on the test images.

``python -m experiments.benchmarks.exports --model runs/NAME`` (or without a model: it trains the
recipe ``default`` on MNIST first) writes every format, runs it on the test images in one thread
each and prints the largest difference of a probability, labels that differ, test accuracy and
images a second of CPU time. ``--output FILE`` keeps the rows; ``--quick`` trains four units on
slices of the data. Needs gcc, node and ``pip install 'varpro-nn[onnx]'``. The last line is JSON.
"""

import ctypes
import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared.ledger import Ledger, print_last_line, settings_of
from experiments.shared.options import parser, whole_number
from experiments.shared.tables import print_table
from varpro_nn import Network, configure, load, to_c, to_html, to_onnx, train_network
from varpro_nn.data import ImageSet
from varpro_nn.exporters.folded import fold
from varpro_nn.exporters.page import plain_values

QUICK: dict[str, Any] = {"n_units": 4, "images_per_subnetwork": 400, "n_rounds": 1, "n_copies": 0}
RUN_JS = """
const fs = require('fs');
const {varproNetwork} = require(process.argv[2]);
const model = JSON.parse(fs.readFileSync(process.argv[3]));
const bytes = new Uint8Array(fs.readFileSync(process.argv[4]));
const {predict} = varproNetwork(model), size = bytes.length / Number(process.argv[5]);
const out = [], start = process.cpuUsage();
for (let i = 0; i < bytes.length; i += size) out.push(...predict(bytes.subarray(i, i + size)));
const used = process.cpuUsage(start);
fs.writeFileSync(process.argv[6], Buffer.from(new Float64Array(out).buffer));
console.log((used.user + used.system) / 1e6);
"""


def _cpu(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def run_onnx(network: Network, images: Any, folder: Path) -> tuple[Any, float]:
    """Probabilities of images by ONNX Runtime, and CPU seconds."""
    import onnxruntime

    to_onnx(network, folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    session.run(["probabilities"], {"images": images[:100]})  # the first call makes ready

    def work() -> Any:
        return np.concatenate([
            session.run(["probabilities"], {"images": images[i : i + 100]})[0]
            for i in range(0, len(images), 100)
        ])  # fmt: skip

    return _cpu(work)


def run_c(
    network: Network, images: Any, folder: Path, *, int8: bool, flags: str
) -> tuple[Any, float]:
    """Probabilities of images by the C program, and CPU seconds."""
    source, library = folder / "model.c", folder / f"model{int8}{len(flags)}.so"
    to_c(network, source, int8=int8)
    subprocess.run(
        ["gcc", "-std=c99", *flags.split(), "-shared", "-fPIC", "-o", str(library), str(source),
         "-lm"], check=True,
    )  # fmt: skip
    predict = ctypes.CDLL(str(library)).varpro_predict
    shares = np.empty((len(images), len(network.classes)), dtype=np.float32)
    step_in, step_out = images[0].nbytes, shares[0].nbytes
    at_in, at_out = images.ctypes.data, shares.ctypes.data

    def work() -> None:
        for i in range(len(images)):
            predict(ctypes.c_void_p(at_in + i * step_in), ctypes.c_void_p(at_out + i * step_out))

    return shares, _cpu(work)[1]


def _javascript(network: Network, images: Any, folder: Path) -> tuple[Any, float]:
    (folder / "model.json").write_text(json.dumps(plain_values(fold(network))), encoding="utf-8")
    (folder / "run.js").write_text(RUN_JS, encoding="utf-8")
    (folder / "images").write_bytes(images.tobytes())
    script = str(files("varpro_nn.exporters") / "templates" / "predict.js")
    done = subprocess.run(
        ["node", "run.js", script, "model.json", "images", str(len(images)), "out"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return np.fromfile(folder / "out").reshape(len(images), -1), float(done.stdout)


def measure(network: Network, test: ImageSet, n_repeats: int) -> dict[str, Any]:
    """Run every format on the test images in turn; a row for each, and bytes of the files."""
    images, labels = np.ascontiguousarray(test.images), test.labels
    rows: dict[str, dict[str, Any]] = {}
    reference = network.predict_proba(images)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        ways: dict[str, Callable[[], tuple[Any, float]]] = {
            "Python": lambda: _cpu(lambda: network.predict_proba(images)),
            "ONNX Runtime": lambda: run_onnx(network, images, folder),
            "C": lambda: run_c(network, images, folder, int8=False, flags="-O3 -march=native"),
            "C, -O2": lambda: run_c(network, images, folder, int8=False, flags="-O2"),
            "C, int8": lambda: run_c(network, images, folder, int8=True, flags="-O3 -march=native"),
            "JavaScript": lambda: _javascript(network, images, folder),
        }
        for _ in range(n_repeats):  # in turn, so that a disturbance hits all of them
            for name, run in ways.items():
                shares, seconds = run()
                row = rows.setdefault(name, {"images_per_cpu_second": 0.0})
                rate = len(images) / seconds
                answers = shares.argmax(axis=1)
                row.update(
                    largest_difference=float(np.abs(shares - reference).max()),
                    labels_that_differ=int((answers != reference.argmax(axis=1)).sum()),
                    test_accuracy=float((answers == labels).mean()),
                    images_per_cpu_second=max(rate, row["images_per_cpu_second"]),
                )
        to_html(network, folder / "model.html")
        sizes = {name: (folder / name).stat().st_size for name in ("model.onnx", "model.html")}
        for int8 in (False, True):
            to_c(network, folder / "model.c", int8=int8)
            sizes["model.c, int8" if int8 else "model.c"] = (folder / "model.c").stat().st_size
    return {"rows": rows, "bytes": sizes, "n_parameters": network.n_parameters}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", help="a run folder, or a model file")
    options.add_argument("--data", default="mnist", help="of bytes (%(default)s)")
    options.add_argument("--repeats", type=whole_number(1), default=3, metavar="N")
    args = options.parse_args()
    dataset = load(args.data, args.data_dir)
    train, test = dataset.train, dataset.test
    assert test is not None
    if args.quick:
        train, test = train.take(slice(1000)), test.take(slice(200))
    if args.model:
        path = Path(args.model)
        file = path / "model.npz" if path.is_dir() else path
        network = Network.load(file)
        made_by: dict[str, Any] = {"model": hashlib.sha256(file.read_bytes()).hexdigest()}
    else:
        recipe, few = ("tiny", QUICK) if args.quick else ("default", {})
        config = configure(recipe, data=dataset, seed=args.seed, **few)
        network = train_network(
            config, train.images, train.labels, dataset.classes, n_jobs=args.n_jobs
        )[0]
        made_by = {"config": settings_of(config)}
    ledger = Ledger(args.output, data=dataset.digest, images=len(test), repeats=args.repeats)
    packages = ("onnx", "onnxruntime")
    run = partial(measure, network, test, args.repeats)
    result = ledger.get("exports", run, packages, **made_by)
    cells = [
        {
            "format": name,
            "largest difference": f"{row['largest_difference']:.1e}",
            "labels that differ": str(row["labels_that_differ"]),
            "test accuracy": f"{row['test_accuracy']:.4f}",
            "images a CPU second": f"{row['images_per_cpu_second']:,.0f}",
        }
        for name, row in result["rows"].items()
    ]
    print_table(cells, f"Exports on the {len(test):,} test images of {dataset.name}")
    print_last_line(result, packages)


if __name__ == "__main__":
    main()
