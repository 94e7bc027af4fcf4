"""What the tables share: options, results kept in a file, Markdown, and the last line of JSON.

A table is a list of rows; a row comes from an *entry*, what is measured under which settings.
:class:`Ledger` keeps each entry in a file of JSON lines as soon as it is there, so that a stopped
table goes on, and takes it from there when settings, data and versions are the same.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from varpro_nn import TrainConfig, configure, run
from varpro_nn.data import Dataset
from varpro_nn.training import resources
from varpro_nn.training.metrics import standard_error

ROOT = Path(__file__).parents[1]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make the options that all tables have; the first line of a docstring describes them."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--output", type=file_name, metavar="FILE", help="keep results in JSON lines")
    made.add_argument("--quick", action="store_true", help="small data, a minute at most")
    made.add_argument("--seed", type=whole_number(0), default=0)
    made.add_argument("--n-jobs", type=whole_number(1), default=1)
    made.add_argument("--data-dir")
    end_quietly()
    return made


def end_quietly() -> None:
    """Say one line where Ctrl-C ends this process, in the place of a traceback."""
    otherwise = sys.excepthook

    def told(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if kind is KeyboardInterrupt:
            print("interrupted: rows that are kept in a file stay there", file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    sys.excepthook = told


def file_name(text: str) -> Path:
    """Take the value of an option that names a file to write."""
    if Path(text).is_dir():
        msg = f"must be a file, got the folder {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Take the value of an option that must be a whole number of ``least`` or more."""

    def read(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            msg = f"must be a whole number of {least} or more, got {text!r}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return read


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, this package, and what it and the named ``packages`` compute with."""
    named = {name: importlib.metadata.version(name) for name in packages}
    return resources.versions() | named


class Ledger:
    """Results in a file of JSON lines, which is read anew each time: two runs may share it.

    Parameters
    ----------
    path : Path or None
        The file. None: nothing is kept.
    settings : dict
        What all entries depend on: the digest of the data, the seed.
    """

    def __init__(self, path: Path | None, **settings: Any) -> None:
        self.path, self.settings = path, settings
        _commit()  # of the code as it is now, not at the end of the first measurement

    def get(
        self, entry: Any, make: Callable[[], Any], packages: Sequence[str] = (), **more: Any
    ) -> Any:
        """Take the result of an entry from the file, or make it and write it there.

        Parameters
        ----------
        entry : str or dict
            What is measured.
        make : callable
            Gives the result, which JSON can hold.
        packages : sequence of str
            Whose versions count too, beside those that the package itself computes with.
        more : dict
            Settings of this entry.
        """
        (result,) = self.get_all([entry], lambda _: [make()], packages, **more)
        return result

    def get_all(
        self,
        entries: Sequence[Any],
        make: Callable[[list[Any]], Any],
        packages: Sequence[str] = (),
        **more: Any,
    ) -> list[Any]:
        """Take results of entries that are measured in one go; ``make`` those that are missing.

        ``make`` has a list of the missing entries, and gives (or yields) their results in turn.
        """
        depends = {**self.settings, **more, "versions": versions(*packages)}
        keys = [_text({"entry": entry, **depends}) for entry in entries]
        lines = self._read()
        done = {key: line["result"] for key, line in lines.items()}
        missing = [i for i, key in enumerate(keys) if key not in done]
        if missing:
            named = described(json.loads(keys[missing[0]]))
            number = "" if self.path is None else f"{self.path.stem}, row {len(lines) + 1}: "
            print(f"{number}{named} ...", file=sys.stderr, flush=True)
            results = make([entries[i] for i in missing])
            for i, result in zip(missing, results, strict=True):
                line = {"key": json.loads(keys[i]), "result": result, **occasion()}
                done[keys[i]] = json.loads(json.dumps(result))
                if self.path is not None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with open(self.path, "a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                lines[keys[i]] = line
        _handed_out.extend({name: lines[key].get(name) for name in occasion()} for key in keys)
        return [done[key] for key in keys]

    def _read(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a write was cut off
            os.truncate(self.path, len(whole.encode()))
        return {_text(line["key"]): line for line in map(json.loads, whole.splitlines())}


_handed_out: list[dict[str, Any]] = []
"""When the results that this process was given by ledgers were measured."""


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)


TOLD = ("recipe", "units", "n_units", "scheme", "output_layer", "weight_decay", "ridge")
"""Settings by which a row of the table is known while it is measured."""


def described(key: dict[str, Any]) -> str:
    """Name what a key stands for, on a line."""
    entry = key["entry"]
    parts = [str(entry)] if not isinstance(entry, dict) else []
    for found in (entry, key.get("config"), key):
        if isinstance(found, dict):
            settings = {**found, **found.get("config", {})} if found is entry else found
            many = len(settings) > 12 or found is not entry
            names = (*TOLD, "seed") if many else settings
            parts += [f"{n} {settings[n]}" for n in names if n in settings and n != "config"]
    return ", ".join(dict.fromkeys(parts))[:150]


def run_rows(
    rows: Mapping[str, Mapping[str, Any]],
    dataset: Dataset,
    args: argparse.Namespace,
    data: str | Dataset | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Train each row by its settings, once, and give its metrics.

    ``data`` is the kind of data that recipes are to suit, if not ``dataset``. Rows are the same for
    any number of jobs but for seconds: they tell the number, and none is trained anew for another.
    """
    ledger = Ledger(args.output, data=dataset.digest)
    for name, settings in rows.items():
        config = configure(data=data or dataset, **{"seed": args.seed, **settings})
        yield name, ledger.get(asdict(config), functools.partial(_metrics, config, dataset, args))


def _metrics(config: TrainConfig, dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    metrics = run(config, dataset, n_jobs=args.n_jobs, progress=True).metrics
    del metrics["peak_memory_mib"]  # of all rows that this process has trained
    return metrics


def child(command: Sequence[str], threads: int = 1) -> list[str]:
    """Run ``python -m`` with a module and its options in a process of its own, to its end.

    Returns
    -------
    list of str
        The lines that it prints; see :func:`child_lines`.
    """
    return list(child_lines(command, threads))


def child_lines(command: Sequence[str], threads: int = 1) -> Iterator[str]:
    """Run ``python -m`` with a module and its options in a process of its own.

    It has a memory, a clock and ``threads`` threads of its own.

    Yields
    ------
    str
        Each line that it prints, as it comes.

    Raises
    ------
    SystemExit
        It ended with another status than 0.
    """
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = {name: str(threads) for name in libraries}
    arguments = [sys.executable, "-m", *command]
    with subprocess.Popen(
        arguments, env=os.environ | limits, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # a pipe
        for line in process.stdout:
            yield line.rstrip("\n")
    if process.returncode:
        msg = f"error: python -m {' '.join(command)} ended with status {process.returncode}"
        raise SystemExit(msg)


def mean_and_error(shares: Sequence[float], n_images: int | Sequence[int]) -> tuple[float, float]:
    """Mean over seeds, and its standard error from both the images and the spread of seeds.

    All seeds are measured on the same images, or largely so (then ``n_images`` holds a number for
    each): the binomial variance, a mean over seeds, does not shrink with their number. The spread
    of several seeds comes to it in squares.
    """
    numbers = np.broadcast_to(n_images, len(shares))
    of_images = np.mean([standard_error(p, n) ** 2 for p, n in zip(shares, numbers, strict=True)])
    of_seeds = np.var(shares, ddof=1) / len(shares) if len(shares) > 1 else 0.0
    return float(np.mean(shares)), float(np.sqrt(of_images + of_seeds))


def rounded_seconds(value: float) -> str:
    """Write seconds with two digits at least."""
    return f"{value:,.0f}" if value >= 9.5 else f"{value:.2g}"


def print_table(rows: Sequence[Mapping[str, str]], title: str = "", note: str = "") -> None:
    """Print a Markdown table; its columns are the keys of the first row.

    ``note``, between title and table, says what the columns are, where they do not themselves.
    """
    print(f"\n**{title}**\n" if title else "")
    if note:
        print(f"{note}\n")
    for cells in (rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)):
        print(f"| {' | '.join(cells)} |", flush=True)


def print_last_line(result: Mapping[str, Any], packages: Sequence[str] = ()) -> None:
    """Print ``result`` as JSON with what its figures depend on, and when they were measured."""
    measured = _handed_out or [occasion()]
    told = {
        "versions": versions(*packages),
        **{name: sorted({row[name] for row in measured}, key=str) for name in occasion()},
    }
    print(json.dumps({**result, **told}))


def machine() -> str:
    """Tell what the figures are measured on."""
    name = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        name = models[0]
    except (OSError, IndexError):  # not Linux
        pass
    return f"{name or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def occasion() -> dict[str, Any]:
    """Tell when and where a figure was measured, and how busy the machine was (a minute's load).

    ``commit`` ends with ``+`` where files that git tracks differ from it, and is None outside git.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": _commit(),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
    }


@functools.cache
def _commit() -> str | None:
    """Of the code that runs: the tree may change while it does."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
