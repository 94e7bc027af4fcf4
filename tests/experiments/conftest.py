"""What tests of scripts share: a script as it is called, and its ledgers apart from each other."""

import json
import sys
from collections.abc import Callable
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
