"""Where the work of a run is done, as one value."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from varpro_nn._io.temporary import remove_left
from varpro_nn.compute.pool import (
    ProcessPool,
    can_start_processes,
    run_here,
    run_on_executor,
)
from varpro_nn.compute.published import Reference, named, stored, training_set_of
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import WorkerDiedError
from varpro_nn.linalg.threads import effective_jobs


class Compute:
    """Worker processes or a cluster, the folder through which they get images, and progress bars.

    Used in a ``with`` block, at the end of which what was put into the folder is removed.

    Parameters
    ----------
    n_jobs : int
        Worker processes for whole sub-networks, threads for everything else; -1 for all cores, -2
        for all but one. Where no process can start (in a process of ``multiprocessing.Pool``, or in
        a thread of joblib), only threads. No bit of a result depends on it.
    executor : concurrent.futures.Executor, optional
        Runs the tasks instead of worker processes of this machine, on a cluster for example.
    scratch : Path, optional
        Where large temporary data are put, such as images for workers; workers of other machines
        need a folder that they share. By default among the temporary files. What a killed run left
        there is removed.
    progress : bool
        Show bars on standard error (never off a terminal).

    Attributes
    ----------
    stage : str
        What the titles of progress bars add in brackets: which of several trainings this is.

    Raises
    ------
    TypeError
        ``executor`` is not a ``concurrent.futures.Executor``.
    ValueError
        ``n_jobs`` is 0.
    """

    def __init__(
        self,
        n_jobs: int = 1,
        *,
        executor: Executor | None = None,
        scratch: Path | None = None,
        progress: bool = False,
    ) -> None:
        if executor is not None and not isinstance(executor, Executor):
            msg = f"executor must be a concurrent.futures.Executor, got {type(executor).__name__}."
            raise TypeError(msg)
        self.n_jobs = effective_jobs(n_jobs)
        self.executor = executor
        self.progress = progress
        self.stage = ""
        self.scratch = scratch
        self._published: dict[int, tuple[TrainingSet, Reference]] = {}
        self._stack = ExitStack()
        self._pool = ProcessPool(max(2, self.n_jobs))

    def __enter__(self) -> "Compute":
        remove_left(self.scratch)
        return self

    def __exit__(self, *_: object) -> None:
        self._published.clear()
        self._stack.close()  # what is under way, then its images
        self._pool.close()

    @property
    def on_cluster(self) -> bool:
        """Whether tasks go to an executor that was given."""
        return self.executor is not None

    def distributes(self, training: TrainingSet) -> bool:
        """Whether a cluster computes on a training set; derived images stay on this machine."""
        return self.on_cluster and not training.derived

    @property
    def _in_this_process(self) -> bool:
        """Whether tasks are done here, one after the other."""
        return not self.on_cluster and (self.n_jobs == 1 or not can_start_processes())

    def threads_for(self, n_tasks: int) -> int:
        """Threads that each of ``n_tasks`` tasks may use: what workers there are, shared out."""
        if self.on_cluster:
            return 1
        n_at_once = 1 if self._in_this_process else max(1, n_tasks)
        return max(1, self.n_jobs // n_at_once)

    def map(
        self,
        function: Callable[..., Any],
        training: TrainingSet,
        tasks: Mapping[Any, tuple[Any, ...]],
    ) -> Iterator[tuple[Any, Any]]:
        """Run ``function(training, *arguments)`` for each task.

        Parameters
        ----------
        function : callable
            A function of a module.
        training : TrainingSet
            Workers get a reference to it.
        tasks : mapping of key to tuple
            The arguments of each task.

        Yields
        ------
        key, result
            As they land. The result of a task whose workers were killed each time is the
            :class:`~varpro_nn.errors.WorkerDiedError`.

        Raises
        ------
        TrainingError
            The executor broke down as a whole.
        """
        if not tasks:
            return
        if self._in_this_process:
            given = {key: (training, *arguments) for key, arguments in tasks.items()}
            yield from run_here(function, given)
            return
        reference = self._publish(training)
        given = {key: (function, reference, *arguments) for key, arguments in tasks.items()}
        if self.executor is not None:
            results = run_on_executor(_with_training_set, given, self.executor)
        else:
            results = self._pool.run(_with_training_set, given)
        # Where whoever asks for the results fails, tasks end with this block, not some time later.
        self._stack.callback(results.close)
        yield from results

    def map_in_order(
        self,
        function: Callable[..., Any],
        training: TrainingSet,
        tasks: list[tuple[Any, ...]],
    ) -> Iterator[Any]:
        """Run the same; results in the order of the tasks.

        What lands early waits here, so the tasks should be few.

        Raises
        ------
        WorkerDiedError
            The workers of a task were killed each time.
        TrainingError
            The executor broke down.
        """
        waiting: dict[int, Any] = {}
        n_given = 0
        for number, result in self.map(function, training, dict(enumerate(tasks))):
            if isinstance(result, WorkerDiedError):
                msg = f"could not compute block {number + 1} of {len(tasks)}: {result}"
                raise WorkerDiedError(msg)
            waiting[number] = result
            del result
            while n_given in waiting:  # whichever comes first
                yield waiting.pop(n_given)
                n_given += 1

    def bar(
        self, title: str, *, total: int | None = None, initial: int = 0, unit: str = "it"
    ) -> Any:
        """Make a tqdm progress bar; a silent one without ``progress`` or a terminal."""
        if not self.progress:
            # tqdm would start a thread and take a lock, which a fork would find held for ever.
            return _SilentBar()
        from tqdm import tqdm  # not at the top: imported where it is used

        title = f"{title} ({self.stage})" if self.stage else title
        # disable=None: silent if standard error is not a terminal.
        return tqdm(desc=title, total=total, initial=initial, unit=unit, disable=None)

    def _publish(self, training: TrainingSet) -> Reference:
        """Put a training set where workers find it, once."""
        held = self._published.get(id(training))
        if held is None:
            # A local worker maps the arrays at once. With a name, workers elsewhere load the images
            # themselves, and images that are already in a file are not copied.
            by_name = training.origin is not None and (self.on_cluster or training.on_disk)
            reference = (
                named(training)
                if by_name
                else self._stack.enter_context(
                    stored(training, self.scratch, copied=self.on_cluster)
                )
            )
            held = self._published[id(training)] = training, reference
        return held[1]


class _SilentBar(AbstractContextManager["_SilentBar"]):
    """A progress bar that shows nothing."""

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        """Advance by one."""

    def set_postfix(self, **_: str) -> None:
        """Show something beside the bar."""


def _with_training_set(function: Callable[..., Any], reference: Reference, *arguments: Any) -> Any:
    """Do a task in a worker."""
    return function(training_set_of(reference), *arguments)
