"""Callbacks of scikit-learn 1.9 and later, and what stands in for them before."""

from collections.abc import Callable
from typing import Any, TypeVar

from varpro_nn.training.config import TrainConfig
from varpro_nn.training.subnetwork import Subnetwork

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupportMixin
    from sklearn.callback import with_callbacks as _managed
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def _managed(method: Any) -> Any:
        return method


F = TypeVar("F", bound=Callable[..., Any])


def with_callbacks(method: F) -> F:
    """Run a method so that callbacks are torn down whatever happens."""
    return _managed(method)


class Progress:
    """Tells callbacks of the fit and of each sub-network that lands.

    A sub-network is a task of the fit. A callback that asks for an estimator as if the fit had
    ended there (``ScoringMonitor``) gets one: the sub-networks that have landed and a ridge layer
    on their units, whatever layer the end will have. Each costs the fit of that layer.

    Parameters
    ----------
    estimator : ImageEstimator
    config : TrainConfig
    X, y : array_like
        What ``fit`` was given.
    rebuild : callable
        ``rebuild(subnetworks)``: the attributes of such an estimator.
    """

    def __init__(
        self,
        estimator: Any,
        config: TrainConfig,
        X: Any,
        y: Any,
        rebuild: Callable[[list[Subnetwork]], dict[str, Any]],
    ) -> None:
        self._estimator, self._rebuild = estimator, rebuild
        self._with: dict[str, Any] = {"estimator": estimator, "X": X, "y": y}
        self._landed: dict[int, Subnetwork] = {}
        self._n = config.n_subnetworks
        self._context: Any = None
        if hasattr(estimator, "_init_callback_context"):
            # The scheme refine lands each of them twice.
            n_tasks = None if config.scheme == "refine" else self._n
            self._context = estimator._init_callback_context(max_subtasks=n_tasks)

    def __enter__(self) -> "Progress":
        if self._context is not None:
            self._context.call_on_fit_task_begin(**self._with)
        return self

    def __exit__(self, *_: object) -> None:
        if self._context is not None:
            self._context.call_on_fit_task_end(**self._with)

    def landed(self, subnetwork: Subnetwork) -> None:
        """Tell of a sub-network; a wish to stop is not heeded, since others are under way."""
        self._landed[subnetwork.index % self._n] = subnetwork
        if self._context is None:
            return
        task = self._context.subcontext(task_name="sub-network")
        task.call_on_fit_task_begin(**self._with)
        there = list(self._landed.values())
        task.call_on_fit_task_end(
            **self._with, reconstruction_attributes=lambda: self._rebuild(there)
        )
