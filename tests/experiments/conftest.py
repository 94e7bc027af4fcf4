"""What tests of scripts share: a script as it is called, and its ledgers apart from each other."""

import importlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from experiments.shared import ledger
from varpro_nn import load
from varpro_nn.data import Dataset
from varpro_nn.errors import DatasetError


@pytest.fixture(autouse=True)
def _nothing_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_handed_out", [])


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits", progress=False)


@pytest.fixture
def first_digits(digits: Dataset) -> Callable[[int, int], Dataset]:
    """Digits with the first so many images of each part."""

    def first(n_train: int, n_test: int) -> Dataset:
        assert digits.test is not None
        train, test = digits.train.take(slice(n_train)), digits.test.take(slice(n_test))
        return replace(digits, train=train, test=test)

    return first


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    try:
        return load("mnist", progress=False)
    except DatasetError as error:
        pytest.skip(f"MNIST is missing: {error}")


@pytest.fixture
def run_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[str], Any]]:
    """Run a script's ``main`` with options; the lines that it prints, and its last one as JSON."""

    def run(module: ModuleType, *arguments: str) -> tuple[list[str], Any]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        *lines, last = capsys.readouterr().out.splitlines()
        return lines, json.loads(last)

    return run


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Let a script run its children in this process: their imports alone take seconds each.

    ``test_processes`` shows what a process of its own is for.
    """

    def child_lines(command: Sequence[str], threads: int = 1) -> list[str]:
        module: Any = importlib.import_module(command[0])
        with monkeypatch.context() as patch, redirect_stdout(io.StringIO()) as out:
            patch.setattr(sys, "argv", list(command))
            module.main()
        return out.getvalue().splitlines()

    def use(script: ModuleType) -> None:
        for name in {"child", "child_lines"} & set(vars(script)):
            monkeypatch.setattr(script, name, child_lines)

    return use
