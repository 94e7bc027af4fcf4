"""Fixtures of all tests; its folder is on the path, so ``import reference`` works below it."""

import functools
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from varpro_nn import load
from varpro_nn.compute.pool import ProcessPool
from varpro_nn.data import loading
from varpro_nn.linalg import blas_limit
from varpro_nn.training import recipes


def pytest_configure() -> None:
    """Hear SIGINT: a job in the background ignores it, and so would the runs that tests stop."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, metavar="N", help="seeds of each random test")
    parser.addoption(
        "--part", default="0/1", metavar="I/K",
        help="run only seeds I, I + K, I + 2 K and so on; part 0 also runs the tests without seeds",
    )  # fmt: skip
    parser.addoption(
        "--blas-threads", type=int, default=1, metavar="N", help="threads of BLAS in the tests"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that asks for ``rng`` seed 0, or as many as ``--seeds`` or its mark says."""
    if "rng" in metafunc.fixturenames:
        marks = metafunc.definition.iter_markers("seeds")
        n_seeds = max(metafunc.config.getoption("seeds"), *(mark.args[0] for mark in marks), 1)
        part, n_parts = map(int, metafunc.config.getoption("part").split("/"))
        seeds = range(n_seeds)[part::n_parts]
        metafunc.parametrize("rng", seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run long tests first, so that none is left over for the end; seedless ones only in part 0."""
    items.sort(key=lambda item: item.path.name not in ("test_mnist.py", "test_survival.py"))
    if config.getoption("part").split("/")[0] != "0":
        items[:] = [item for item in items if "rng" in getattr(item, "fixturenames", ())]


_close = ProcessPool.close


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Reuse worker processes for all tests: the imports of a new worker take a second.

    In tests marked ``own_workers``, workers start and end with each run.
    """
    own = item.get_closest_marker("own_workers") is not None
    ProcessPool.close = _close if own else lambda pool: None  # type: ignore[method-assign]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


@pytest.fixture(autouse=True, scope="session")
def _blas_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set the threads of BLAS: one is fastest with small matrices, and the workers have one."""
    with threadpool_limits(request.config.getoption("blas_threads"), user_api="blas"):
        yield


@pytest.fixture(autouse=True, scope="session")
def _looked_up_once() -> Iterator[None]:
    """Look for the libraries of BLAS after imports only; for versions and the digits once.

    Each takes milliseconds, as long as many a fit of a test.
    """
    found: dict[int, ThreadpoolController] = {}

    def controller() -> ThreadpoolController:
        n_modules = len(sys.modules)
        if n_modules not in found:
            found.clear()
            found[n_modules] = ThreadpoolController()
        return found[n_modules]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas_limit, "ThreadpoolController", controller)
        patch.setattr(importlib.metadata, "version", functools.cache(importlib.metadata.version))
        patch.setattr(loading, "_digits", functools.cache(loading._digits))
        yield


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the recipes train for a moment, for a page whose numbers are not looked at."""
    least = {"images_per_subnetwork": 150, "max_nfev": 1, "n_rounds": 1, "n_copies": 0}
    of_digits = recipes.VARIANTS["digits"]
    short = {name: {**of_digits.get(name, {}), **least} for name in recipes.RECIPES}
    monkeypatch.setitem(recipes.VARIANTS, "digits", short)


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set ``digits`` as a file: other processes import scikit-learn in 2 s to load it."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train, test = load("digits").train, load("digits").test
    assert test is not None
    np.savez(
        path, x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels
    )
    return path


@pytest.fixture
def in_child() -> Callable[[Callable[[], Any]], Any]:
    """Call a function in a forked process, and return what it returned; None if it hung."""

    def call(function: Callable[[], Any], seconds: int = 5) -> Any:
        read, write = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside other threads: these are what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            signal.alarm(seconds)
            os.write(write, json.dumps(function()).encode())
            os._exit(0)
        os.close(write)
        with open(read, encoding="utf-8") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return json.loads(said) if said else None

    return call


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The Chromium of this machine, driven by Playwright; not its own, so nothing is downloaded.

    For one module alone: while it is open, nothing else can run an event loop in this thread.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as client, client.chromium.launch(executable_path=path) as it:
        yield it


@pytest.fixture(scope="module")
def one_tab(chromium: Any) -> Iterator[Any]:
    """For all tests of a module: a process of its own for each would take half a second."""
    with chromium.new_page() as page:
        yield page


@pytest.fixture
def tab(one_tab: Any) -> Iterator[Any]:
    """A page of the browser; at the end its console must have no complaint.

    ``tab.urls`` are those that it asked for in this test.
    """
    one_tab.set_viewport_size({"width": 1000, "height": 900})
    one_tab.emulate_media(color_scheme="light")
    said: list[str] = []
    one_tab.urls = []
    listeners = {
        "request": lambda request: one_tab.urls.append(request.url),
        "console": lambda it: said.append(it.text) if it.type in ("error", "warning") else None,
        "pageerror": lambda error: said.append(str(error)),
    }
    for event, listener in listeners.items():
        one_tab.on(event, listener)
    yield one_tab
    one_tab.goto("about:blank")  # also lets what was still to be told arrive
    for event, listener in listeners.items():
        one_tab.remove_listener(event, listener)
    assert said == []
