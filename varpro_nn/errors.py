"""The exceptions of the package.

A caller's mistake (a wrong argument) is a ``ValueError`` or a ``TypeError``, as in the rest of
scientific Python. The classes here are for faults outside the caller's code: files, data, runs.
The command line turns each of them into one line on standard error and exit status 1. A warning
is a ``UserWarning``: there is a result, but it may not be what the caller expects.
"""


class VarProError(Exception):
    """Base of all errors that are not a wrong argument."""


class DatasetError(VarProError):
    """A data file is missing, damaged or not what it claims to be."""


class ModelFileError(VarProError):
    """A model file is damaged, lies about its contents, or comes from a newer format."""


class TrainingError(VarProError):
    """A training run cannot give a network (every sub-network failed, say)."""


class NonFiniteError(VarProError):
    """Features are NaN or infinite at the weights in question."""


class WorkerDiedError(VarProError):
    """The process that worked on a task was killed, each time that the task was tried.

    A task that reads pictures is tried once.
    """


class ConvergenceWarning(UserWarning):
    """A fit stopped before its optimum. Its result can be used, but is less accurate."""


class ClassSizeWarning(UserWarning):
    """Some class has few training images, or far fewer than another."""


class BusyError(VarProError):
    """Another process works on the same run folder."""


class SubnetworkWarning(UserWarning):
    """Some sub-networks failed, and the result does not contain them."""


class ClusterError(VarProError):
    """There is no cluster to train on."""


class IntensityWarning(UserWarning):
    """Some or all images are on another scale than the training images."""
