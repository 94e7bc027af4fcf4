"""Hostile files: millions of damaged inputs for every reader, with coverage as the guide.

``python -m experiments.reliability.fuzz`` gives each reader of files (IDX, CIFAR batches, ``.npz``
and ``.npy`` data sets, model files, shards, glues) inputs that atheris (libFuzzer) mutates towards
code that no input reached before; ``pip install atheris`` first. A reader may refuse an input with
the error that it documents; anything else, and more than ``--memory`` MiB, is a crash. Prints
inputs and crashes of each reader; the last line is JSON. Inputs that crash are left in ``--keep``.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

READERS = ("idx", "cifar", "npz", "folder", "model", "shard", "glue")
_STATISTIC = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one reader in this process, until the limits in ``arguments`` of libFuzzer."""
    import atheris

    # Before the readers are imported: from then on every branch of them is seen.
    with atheris.instrument_imports(include=["varpro_nn"]):
        from experiments.reliability.readers import reader
    # In memory, where there is such a folder: each input of an archive is a file.
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as text:
        folder = Path(text)
        (folder / "work").mkdir()
        (folder / "corpus").mkdir()
        read, refused, seeds = reader(name, folder / "work")
        for number, seed in enumerate(seeds):
            (folder / "corpus" / f"seed{number}").write_bytes(seed)

        def one_input(data: bytes) -> None:
            with suppress(refused):
                read(data)

        atheris.Setup([sys.argv[0], *arguments, str(folder / "corpus")], one_input)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, metavar="N", help="for each reader"
    )
    parser.add_argument("--seconds", type=int, default=600, metavar="S", help="for each, at most")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--keep", type=Path, default=Path("crashes"), metavar="DIR")
    parser.add_argument("--one", choices=READERS, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args()
    if args.one:
        fuzz(args.one, rest)
        return
    args.keep.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in args.readers:
        before = set(args.keep.glob(f"{name}-*"))
        done = subprocess.run(
            [sys.executable, "-m", "experiments.reliability.fuzz", "--one", name,
             f"-runs={args.inputs}",
             f"-max_total_time={args.seconds}", f"-rss_limit_mb={args.memory}", "-max_len=16384",
             f"-artifact_prefix={args.keep}/{name}-", "-print_final_stats=1", "-seed=1",
             "-timeout=20"],
            capture_output=True, text=True,
        )  # fmt: skip
        count = _STATISTIC.search(done.stderr)
        if count is None:
            raise SystemExit(done.stderr[-2000:])
        crashes = len(set(args.keep.glob(f"{name}-*")) - before)
        found[name] = {"inputs": int(count[1]), "crashes": crashes}
        print(f"{name:<6} {found[name]['inputs']:>10,} inputs, {crashes} crashes", flush=True)
        if crashes:
            print(done.stderr[-3000:], file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
