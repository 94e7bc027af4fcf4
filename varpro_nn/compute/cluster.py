"""Executors of a cluster: the only user of Dask.

Through ``Client.get_executor()``, which is an executor of ``concurrent.futures`` like any other.
joblib's own backend for Dask is not used: it waits for ever for a task that keeps killing its
worker.
"""

import importlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import current_process
from typing import Any

from varpro_nn.compute.pool import TRIES
from varpro_nn.errors import ClusterError
from varpro_nn.linalg.threads import effective_jobs

BACKENDS = ("joblib", "dask")
"""Where sub-networks train."""
CONNECT_SECONDS = 30.0
"""How long to wait for a scheduler, and for its first worker."""
ANSWER_SECONDS = 30.0
"""Seconds after which a scheduler that does not answer is reported during training."""

_logger = logging.getLogger(__name__)


@contextmanager
def executor(
    backend: str, scheduler: str | None = None, n_jobs: int = -1
) -> Iterator[Executor | None]:
    """Give the executor of a backend, for a ``with`` block.

    Parameters
    ----------
    backend : {"joblib", "dask"}
    scheduler : str, optional
        Address of a running Dask scheduler, as ``tcp://10.0.0.1:8786`` (or ``tls://``, with the
        certificates of Dask's configuration). Without it, a cluster of ``n_jobs`` processes is
        started on this machine, for the length of the block.
    n_jobs : int
        -1: one process for each core.

    Yields
    ------
    Executor or None
        None for joblib: the pool of this machine, which :func:`varpro_nn.run` makes itself.

    Raises
    ------
    ClusterError
        Dask is not installed; there is no scheduler at the address, or no worker with it; or this
        process may start no others.
    """
    if backend == "joblib":
        yield None
        return
    try:
        # Modules without annotations; imported where they are used, since few need them.
        dask: Any = importlib.import_module("dask")
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        msg = "the backend dask needs distributed: pip install 'varpro-nn[dask]'"
        raise ClusterError(msg) from error
    # As talkative as this program is told to be; after the import, which sets levels of its own.
    level = _logger.getEffectiveLevel()
    logging.getLogger("distributed").setLevel(level)
    if level >= logging.WARNING:
        # What goes wrong is told by the error of the run, in one line.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        # Dask has workers hand every freed array back to the system, and take it anew: None is
        # its way to say that this is left as it is.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    with dask.config.set(settings):
        if scheduler is None:
            if current_process().daemon:
                msg = (
                    "a daemonic process, such as those of multiprocessing.Pool, cannot start "
                    "workers: name a --scheduler, or use the backend joblib."
                )
                raise ClusterError(msg)
            with ExitStack() as stack:
                with _interrupts_ignored():  # its processes begin with what this one does
                    local = distributed.LocalCluster(
                        n_workers=effective_jobs(n_jobs),
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",
                    )
                stack.enter_context(local)
                client = stack.enter_context(distributed.Client(local))
                yield client.get_executor(pure=False)
            return
        client = _connected(
            partial(distributed.Client, scheduler, timeout=CONNECT_SECONDS), scheduler
        )
        with client, _watched(client, scheduler):
            try:
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError as error:
                msg = f"--scheduler {scheduler}: no worker within {CONNECT_SECONDS:.0f} seconds"
                raise ClusterError(msg) from error
            yield client.get_executor(pure=False)


def _connected(connect: Callable[[], Any], scheduler: str) -> Any:
    """Return what ``connect()`` returns, in time.

    The time limit of Dask covers only the connection. For a stopped process, the system accepts the
    connection, and Dask waits for ever for the first message.
    """
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(connect())
        except Exception as error:
            done.set_exception(error)

    # A daemon: it must not hold up the end of the program.
    threading.Thread(target=work, daemon=True).start()
    try:
        return done.result(CONNECT_SECONDS + 1)  # Dask's own error, if there is one, comes first
    except TimeoutError as error:
        reason = str(error) or f"no answer within {CONNECT_SECONDS:.0f} seconds; is it stopped?"
    except (OSError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
        reason = str(error)
    msg = f"--scheduler {scheduler}: no Dask scheduler there ({reason})"
    raise ClusterError(msg)


@contextmanager
def _watched(client: Any, scheduler: str) -> Iterator[None]:
    """Log a warning whenever the scheduler stops answering; the run waits for it."""
    ended = threading.Event()

    def watch() -> None:
        answers = True
        while not ended.wait(ANSWER_SECONDS):
            answered = answers
            try:
                client.sync(client.scheduler.identity, callback_timeout=ANSWER_SECONDS)
                answers = True
            except Exception as error:  # of whatever kind: it is a report, no more
                answers = False
                if answered and not ended.is_set():
                    _logger.warning(
                        "--scheduler %s: no answer within %g seconds (%s); still waiting for it. "
                        "Ctrl-C stops the run, and --resume continues it",
                        scheduler, ANSWER_SECONDS, type(error).__name__,
                    )  # fmt: skip

    threading.Thread(target=watch, name="varpro_nn-scheduler", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C for a moment; in the main thread, which alone can say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
