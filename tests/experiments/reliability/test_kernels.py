import os
import subprocess
import sys

import pytest

from experiments.reliability import kernels


def test_a_kernel_that_the_processor_lacks_is_named(monkeypatch):
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kernels, "flags_of_processor", lambda: frozenset(["pni", "avx2", "avx"]))
    runnable, reasons = kernels.split(["Prescott", "Sandybridge", "Haswell"])
    assert runnable == ["Prescott", "Sandybridge"]
    assert reasons == ["Haswell: the processor has no fma"]
    monkeypatch.setattr(kernels.platform, "machine", lambda: "aarch64")
    assert kernels.split(["Haswell"]) == ([], ["Haswell: it needs an x86 processor, got aarch64"])


def test_a_kernel_that_is_not_in_use_ends_the_run(monkeypatch):
    used = {"numpy.so": "Haswell", "scipy.so": "Katmai"}
    monkeypatch.setattr(kernels, "in_use", lambda: used)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    with pytest.raises(pytest.UsageError, match=r"Prescott was asked for, but numpy\.so uses Hasw"):
        kernels.pytest_configure()
    used["numpy.so"] = "Prescott"
    kernels.pytest_configure()
    assert "scipy.so Katmai" in kernels.pytest_report_header()
    used.clear()
    with pytest.raises(pytest.UsageError, match="do not use OpenBLAS"):
        kernels.pytest_configure()
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    kernels.pytest_configure()


def test_the_kernels_of_this_process():
    """NumPy and SciPy run on what the processor has."""
    if not (used := kernels.in_use()):
        pytest.skip("NumPy does not use OpenBLAS")
    known = set(used.values()) & set(kernels.NEEDS)
    assert [kernels.lacking(kernel) for kernel in known] == [None] * len(known)


def test_the_list_for_the_shell(monkeypatch, capsys):
    reasons = {"SkylakeX": "the processor has no avx512f"}
    monkeypatch.setattr(kernels, "lacking", reasons.get)
    monkeypatch.setattr(kernels, "in_use", lambda: {"numpy.so": "Haswell", "scipy.so": "HASWELL"})
    kernels.main()
    assert capsys.readouterr().out.splitlines() == [
        "Prescott runs", "Sandybridge runs", "Haswell used",
        "SkylakeX lacking the processor has no avx512f",
    ]  # fmt: skip
    monkeypatch.setattr(kernels, "in_use", lambda: {"numpy.so": "Zen"})
    kernels.main()
    assert capsys.readouterr().out.splitlines()[2:] == [
        "Haswell runs", "SkylakeX lacking the processor has no avx512f", "Zen used",
    ]  # fmt: skip


def test_plain_loops_of_numpy():
    """``exp`` has loops for newer processors on x86; none of them is left in the child."""
    if kernels.lacking("Prescott") is not None:
        pytest.skip("no x86 processor")
    environment = kernels.environment("Prescott+plain")
    assert environment["OPENBLAS_CORETYPE"] == "Prescott"
    code = (
        "import numpy as np; from numpy._core import _multiarray_umath as loops;"
        "print([name for name in loops.__cpu_dispatch__ if loops.__cpu_features__[name]])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
