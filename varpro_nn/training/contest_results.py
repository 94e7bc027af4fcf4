"""The results of a contest: what was chosen, and by which figures."""

from dataclasses import asdict, dataclass
from typing import Any

from varpro_nn.training.config import TrainConfig

_IN_FILES = {"accuracy": "held_out_accuracy", "standard_error": "held_out_standard_error"}
"""Names of figures in files, where ``accuracy`` alone would be taken for one on test images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One result of the contest.

    Attributes
    ----------
    round : int
        1 to 4.
    name : str
        The candidate.
    n_images, n_held, n_units : int
        Images it was trained on, images it was measured on, and units.
    accuracy, standard_error : float
        On the images that it was not trained on; balanced if the classes are weighted so.
    """

    round: int
    name: str
    n_images: int
    n_held: int
    n_units: int
    accuracy: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Contest:
    """What was chosen, and by which results.

    Attributes
    ----------
    config : TrainConfig
        Settings of the winner, in full size; its ``recipe`` is ``"auto"``.
    chosen : str
        The winner in words.
    entries : tuple of Entry
        In the order in which they were measured.
    cpu_seconds : float
    """

    config: TrainConfig
    chosen: str
    entries: tuple[Entry, ...]
    cpu_seconds: float

    @property
    def last_round(self) -> list[Entry]:
        """The results of the last round, with one of the winner."""
        return [entry for entry in self.entries if entry.round == self.entries[-1].round]

    @property
    def winner(self) -> Entry:
        """The result of the winner in the last round."""
        return next(entry for entry in self.last_round if entry.name == self.chosen)

    @property
    def sentence(self) -> str:
        """What was chosen, and by how much, in one line."""
        own = self.winner
        others = [entry for entry in self.last_round if entry is not own]
        others.sort(key=lambda entry: -entry.accuracy)
        found = f"{own.accuracy:.4f} ± {own.standard_error:.4f}"
        other = f"; {others[0].name}: {others[0].accuracy:.4f}" if others else ""
        return f"chosen: {self.chosen} (accuracy on held-out training images {found}{other})"

    def figures(self) -> dict[str, Any]:
        """Return the results as plain values, as in ``metrics.json``.

        Returns
        -------
        dict
            ``docs/metrics.md`` says what each key stands for.
        """
        entries = [asdict(entry) for entry in self.entries]
        named = [{_IN_FILES.get(name, name): v for name, v in e.items()} for e in entries]
        return {"chosen": self.chosen, "entries": named, "cpu_seconds": self.cpu_seconds}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values.

        Returns
        -------
        dict
            :meth:`figures`, and the settings as ``config``.
        """
        return {"config": asdict(self.config), **self.figures()}

    @classmethod
    def from_dict(cls, values: Any) -> "Contest":
        """Make a contest of what :meth:`to_dict` made of one.

        Parameters
        ----------
        values : mapping
            Other keys are ignored.

        Returns
        -------
        Contest

        Raises
        ------
        ValueError
            Values that are missing or of the wrong kind.
        """
        own = {name: in_file for in_file, name in _IN_FILES.items()}
        try:
            entries = [Entry(**{own.get(n, n): v for n, v in e.items()}) for e in values["entries"]]
            chosen, cpu_seconds = values["chosen"], float(values["cpu_seconds"])
            config = TrainConfig.from_dict(values["config"])
            whole = bool(entries) and isinstance(chosen, str)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"a contest needs config, chosen, entries and cpu_seconds, got {values!r:.200}."
            raise ValueError(msg) from error
        if not whole:
            msg = f"a contest needs a name as chosen and at least one entry, got {values!r:.200}."
            raise ValueError(msg)
        return cls(config, chosen, tuple(entries), cpu_seconds)
