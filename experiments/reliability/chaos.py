"""Random kills over a run: nothing is lost, nothing repeated, and no bit of the model differs.

``python -m experiments.reliability.chaos`` trains a network of whole-image units on MNIST
undisturbed, then again while SIGKILL hits the driver or one of its workers at random moments, once
with the pool of this machine and once with a Dask cluster on loopback. A killed driver is started
again with ``--resume``. Prints what happened; the last line is JSON: ``kills``, ``lost``
(sub-networks that were kept and are gone or changed), ``repeated`` (kept, and written once more),
``digests_equal`` (those of ``model.npz``, disturbed and undisturbed), and the same for each
backend.
"""

import argparse
import hashlib
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.shared.ledger import print_last_line
from varpro_nn.compute.cluster import BACKENDS

PROBLEM = (
    "mnist", "--recipe", "bilinear", "--n-units", "960", "--n-subnetworks", "96",
    "--images-per-subnetwork", "2000", "--max-nfev", "8", "--quiet",
)  # fmt: skip
PAUSE = {"joblib": (0.3, 1.6), "dask": (0.6, 2.4)}
"""Seconds between two kills: at least, at most. A worker of Dask takes longer to start."""


@dataclass
class Tally:
    """What a disturbed run went through."""

    kills_of_drivers: int = 0
    kills_of_workers: int = 0
    lost: int = 0
    repeated: int = 0
    digests_equal: bool = False
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Kills of both kinds."""
        return self.kills_of_drivers + self.kills_of_workers


class Watch:
    """The sub-networks that were kept in a run folder, and what became of them."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._shards, self._tally = folder / "shards", tally
        self._seen: dict[str, tuple[int, str]] = {}

    def look(self) -> int:
        """Compare with what was there before; the number of sub-networks that are kept."""
        now = {}
        for path in self._shards.glob("*.npz"):
            now[path.name] = path.stat().st_mtime_ns, _digest(path)
        for name, (written, digest) in self._seen.items():
            if name not in now or now[name][1] != digest:
                self._tally.lost += 1
            elif now[name][0] != written:
                self._tally.repeated += 1
        self._seen = now
        return len(now)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it."""
    command = [sys.executable, "-m", "varpro_nn.train", *PROBLEM, "--no-report", "--resume"]
    return subprocess.Popen(
        [*command, "--output", str(folder), *options],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def disturb(
    folder: Path, backend: str, options: list[str], workers: Callable[[int], list[int]],
    n_kills: int, chance: random.Random,
) -> Tally:  # fmt: skip
    """Train in ``folder`` under ``n_kills`` kills; ``workers`` lists the workers of a driver."""
    tally, began = Tally(), time.perf_counter()
    watch = Watch(folder, tally)
    driver = start(folder, *options)
    while tally.kills < n_kills and driver.poll() is None:
        time.sleep(chance.uniform(*PAUSE[backend]))
        found = workers(driver.pid)
        n_kept = watch.look()
        # A driver that is still starting up has nothing to lose: it is left till it has workers.
        if not found:
            continue
        try:
            if chance.random() < 0.4:
                driver.kill()
                driver.wait()
                tally.kills_of_drivers += 1
                driver = start(folder, *options)
                who = "driver"
            else:
                os.kill(chance.choice(found), signal.SIGKILL)
                tally.kills_of_workers += 1
                who = "worker"
        except ProcessLookupError:
            continue  # it had just ended
        print(f"kill {tally.kills}: {who}, {n_kept} sub-networks kept", flush=True)
    if driver.wait() != 0:
        msg = f"the run ended with status {driver.returncode}"
        raise SystemExit(msg)
    watch.look()
    tally.seconds = round(time.perf_counter() - began, 1)
    return tally


def children(driver: int) -> list[int]:
    """Worker processes of the pool of this machine."""
    found = []
    for name in os.listdir("/proc"):
        try:
            text = Path("/proc", name, "stat").read_text(encoding="utf-8")
            command = Path("/proc", name, "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if int(text.rsplit(")", 1)[1].split()[1]) == driver and b"popen_loky" in command:
            found.append(int(name))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="on each backend")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if start(Path(name) / "undisturbed").wait() != 0:
            msg = "the undisturbed run failed"
            raise SystemExit(msg)
        expected = _digest(Path(name) / "undisturbed" / "model.npz")
        for backend in args.backends:
            options, workers = _cluster(stack) if backend == "dask" else ([], children)
            folder = Path(name) / backend
            tally = disturb(folder, backend, options, workers, args.kills, random.Random(args.seed))
            tally.digests_equal = _digest(folder / "model.npz") == expected
            tallies[backend] = tally
            print(f"{backend}: {tally.kills} kills, {tally}", flush=True)
    summed: dict[str, Any] = {
        "kills": sum(tally.kills for tally in tallies.values()),
        "lost": sum(tally.lost for tally in tallies.values()),
        "repeated": sum(tally.repeated for tally in tallies.values()),
        "digests_equal": all(tally.digests_equal for tally in tallies.values()),
    }
    print_last_line({**summed, "backends": {b: asdict(tally) for b, tally in tallies.items()}})


def _cluster(stack: ExitStack) -> tuple[list[str], Callable[[int], list[int]]]:
    """Start a scheduler and two workers; the options for it, and how to list the workers.

    A worker that has been killed is started again at the next look, as the manager of a cluster
    does.
    """
    dask: Any = importlib.import_module("dask")
    distributed: Any = importlib.import_module("distributed")
    # By chance a task may be hit more often than a run allows a bad one.
    stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 30}))
    local = stack.enter_context(
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    )
    command = [sys.executable, "-m", "distributed.cli.dask_worker", local.scheduler_address]
    command += ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"]
    started: list[subprocess.Popen[bytes]] = []

    def start_workers() -> None:
        started[:] = [worker for worker in started if worker.poll() is None]
        while len(started) < 2:
            quiet = subprocess.DEVNULL
            started.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))

    def workers(driver: int) -> list[int]:
        start_workers()
        # Only while there is a driver that has work for them.
        state = local.scheduler
        return [worker.pid for worker in started] if state.tasks and state.workers else []

    start_workers()
    stack.callback(lambda: list(map(subprocess.Popen.kill, started)))
    return ["--backend", "dask", "--scheduler", local.scheduler_address], workers


if __name__ == "__main__":
    main()
