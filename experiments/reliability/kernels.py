"""OpenBLAS kernels: which ones this processor runs, and which one a process uses.

OpenBLAS implements its products and factorisations once per family of processors; such an
implementation is a kernel. By default it takes the best kernel that the processor runs. The
environment variable ``OPENBLAS_CORETYPE`` names another. Results of two kernels differ by rounding.
NumPy also has special loops for newer processors, for ``exp`` and ``tanh`` among others. A kernel
name with ``+plain`` (``Prescott+plain``) means this kernel with NumPy's loops for the oldest
processor.

``python -m experiments.reliability.kernels`` prints one line for each of :data:`KERNELS` and for
the default kernel: ``used`` for the default, ``runs`` for others that run here, or ``lacking`` and
why.

As a pytest plugin (``-p experiments.reliability.kernels``) this module stops the run if a library
uses another kernel than the variable names. The check is needed because OpenBLAS ignores a name
that it does not know.
"""

import importlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info

NEEDS = {
    "Prescott": ("pni",),
    "Nehalem": ("sse4_2",),
    "Sandybridge": ("avx",),
    "Haswell": ("avx2", "fma"),
    "SkylakeX": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
}
"""Processor flags that each kernel needs, as Linux names them; oldest kernel first."""

KERNELS = ("Prescott", "Sandybridge", "Haswell", "SkylakeX")
"""Kernels that the project is tested with. Nehalem shares most of its products with Prescott."""


REPORTED = {"Prescott": ("Prescott", "Katmai")}
"""Names under which OpenBLAS reports a kernel, if it has several."""


PLAIN = "+plain"


def environment(kernel: str) -> dict[str, str]:
    """Make the environment variables that select a kernel in a new process."""
    made = {"OPENBLAS_CORETYPE": kernel.removesuffix(PLAIN)}
    if kernel.endswith(PLAIN):
        # NumPy's public functions do not list them.
        loops: Any = importlib.import_module("numpy._core._multiarray_umath")
        made["NPY_DISABLE_CPU_FEATURES"] = " ".join(loops.__cpu_dispatch__)
    return made


def flags_of_processor() -> frozenset[str]:
    """Read the flags of the first processor; empty if the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:  # not Linux
        return frozenset()
    return frozenset(lines[0].split(":")[1].split()) if lines else frozenset()


def lacking(kernel: str) -> str | None:
    """Say why this processor does not run a kernel; None if it does.

    A kernel without an entry in :data:`NEEDS` is assumed to run.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"it needs an x86 processor, got {platform.machine()}"
    missing = sorted(set(NEEDS.get(kernel.removesuffix(PLAIN), ())) - flags_of_processor())
    return f"the processor has no {', '.join(missing)}" if missing else None


def split(kernels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split kernels into those that run here, and messages about the others."""
    reasons = {kernel: lacking(kernel) for kernel in kernels}
    runnable = [kernel for kernel, reason in reasons.items() if reason is None]
    left_out = [f"{kernel}: {reason}" for kernel, reason in reasons.items() if reason is not None]
    return runnable, left_out


def in_use() -> dict[str, str]:
    """Map each OpenBLAS file of this process to its kernel: NumPy and SciPy may have one each."""
    import numpy as np  # noqa: F401
    import scipy.linalg  # noqa: F401

    return {
        Path(library["filepath"]).name: library["architecture"]
        for library in threadpool_info()
        if library["internal_api"] == "openblas"
    }


def check(kernel: str) -> None:
    """Check that every OpenBLAS of this process uses the given kernel.

    Raises
    ------
    RuntimeError
        A library uses another kernel, or there is no OpenBLAS.
    """
    used = in_use()
    if not used:
        msg = f"the kernel {kernel} was asked for, but NumPy and SciPy do not use OpenBLAS"
        raise RuntimeError(msg)
    if other := {file: name for file, name in used.items() if not _is(kernel, name)}:
        told = ", ".join(f"{file} uses {name}" for file, name in other.items())
        msg = f"the kernel {kernel} was asked for, but {told}"
        raise RuntimeError(msg)


def _is(kernel: str, reported: str) -> bool:
    kernel = kernel.removesuffix(PLAIN)
    return reported.lower() in {name.lower() for name in REPORTED.get(kernel, (kernel,))}


def pytest_configure() -> None:
    kernel = os.environ.get("OPENBLAS_CORETYPE")
    if kernel is None:
        return
    try:
        check(kernel)
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header() -> str:
    return "OpenBLAS: " + ", ".join(f"{file} {kernel}" for file, kernel in in_use().items())


def default() -> str | None:
    """Name the kernel that NumPy uses in this process; None without OpenBLAS."""
    used = next(iter(in_use().values()), None)
    if used is None:
        return None
    return next((kernel for kernel in KERNELS if _is(kernel, used)), used)


def main() -> None:
    used = default()
    for kernel in dict.fromkeys([*KERNELS, *([used] if used else [])]):
        reason = lacking(kernel)
        if reason is not None:
            print(f"{kernel} lacking {reason}")
        else:
            print(f"{kernel} {'used' if kernel == used else 'runs'}")


if __name__ == "__main__":
    main()
