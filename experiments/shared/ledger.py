"""What the tables share: options, results kept in a file, Markdown, and the last line of JSON.

A table is a list of rows; a row comes from an *entry*, what is measured under which settings.
:class:`Ledger` keeps each entry in a file of JSON lines as soon as it is there, so that a stopped
table goes on, and takes it from there when settings, data and versions are the same.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.shared.provenance import commit, occasion, versions
from varpro_nn import TrainConfig


class Ledger:
    """Results in a file of JSON lines, which is read anew each time: two runs may share it.

    Parameters
    ----------
    path : Path or None
        The file. None: nothing is kept.
    settings : dict
        What all entries depend on: the digest of the data, the seed.
    """

    def __init__(self, path: Path | None, **settings: Any) -> None:
        self.path, self.settings = path, settings
        commit()  # of the code as it is now, not at the end of the first measurement

    def get(
        self, entry: Any, make: Callable[[], Any], packages: Sequence[str] = (), **more: Any
    ) -> Any:
        """Take the result of an entry from the file, or make it and write it there.

        Parameters
        ----------
        entry : str or dict
            What is measured.
        make : callable
            Gives the result, which JSON can hold.
        packages : sequence of str
            Whose versions count too, beside those that the package itself computes with.
        more : dict
            Settings of this entry.
        """
        (result,) = self.get_all([entry], lambda _: [make()], packages, **more)
        return result

    def get_all(
        self,
        entries: Sequence[Any],
        make: Callable[[list[Any]], Any],
        packages: Sequence[str] = (),
        **more: Any,
    ) -> list[Any]:
        """Take results of entries that are measured in one go; ``make`` those that are missing.

        ``make`` has a list of the missing entries, and gives (or yields) their results in turn.
        """
        depends = {**self.settings, **more, "versions": versions(*packages)}
        keys = [_text({"entry": entry, **depends}) for entry in entries]
        lines = self._read()
        done = {key: line["result"] for key, line in lines.items()}
        missing = [i for i, key in enumerate(keys) if key not in done]
        if missing:
            named = described(json.loads(keys[missing[0]]))
            number = "" if self.path is None else f"{self.path.stem}, row {len(lines) + 1}: "
            print(f"{number}{named} ...", file=sys.stderr, flush=True)
            results = make([entries[i] for i in missing])
            for i, result in zip(missing, results, strict=True):
                line = {"key": json.loads(keys[i]), "result": result, **occasion()}
                done[keys[i]] = json.loads(json.dumps(result))
                if self.path is not None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    with open(self.path, "a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                lines[keys[i]] = line
        _handed_out.extend({name: lines[key].get(name) for name in occasion()} for key in keys)
        return [done[key] for key in keys]

    def _read(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a write was cut off
            os.truncate(self.path, len(whole.encode()))
        return {
            _text(_without_later(line["key"])): line for line in map(json.loads, whole.splitlines())
        }


_handed_out: list[dict[str, Any]] = []
"""When the results that this process was given by ledgers were measured."""


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)


LATER = {
    name: value
    for name, value in TrainConfig().options().items()
    if name in ("batch_size", "cells_below", "class_weight", "refit", "training_grid")
    or name.startswith(("first_", "middle_"))
}
"""Settings that came after the first rows, with the values that say: as before."""


def _without_later(key: Any) -> Any:
    """Leave :data:`LATER` settings that are as before out of all settings in a key."""
    if isinstance(key, list):
        return [_without_later(value) for value in key]
    if not isinstance(key, dict):
        return key
    found = {name: _without_later(value) for name, value in key.items()}
    if "recipe" not in found or "n_units" not in found:  # not those of a run
        return found
    return {n: v for n, v in found.items() if n not in LATER or v != LATER[n]}


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Name the settings of a run as all rows have named them: those that are kept stay valid."""
    settings = _without_later(config.options())
    settings["glue_ridge"] = settings.pop("output_penalty")
    # Settings that the package had when the first rows were written, as they were left then.
    return {**settings, "n_parts": 1, "patience": None}


TOLD = ("recipe", "units", "n_units", "scheme", "output_layer", "weight_decay", "ridge")
"""Settings by which a row of the table is known while it is measured."""


def described(key: dict[str, Any]) -> str:
    """Name what a key stands for, on a line."""
    entry = key["entry"]
    parts = [str(entry)] if not isinstance(entry, dict) else []
    for found in (entry, key.get("config"), key):
        if isinstance(found, dict):
            settings = {**found, **found.get("config", {})} if found is entry else found
            many = len(settings) > 12 or found is not entry
            names = (*TOLD, "seed") if many else settings
            parts += [f"{n} {settings[n]}" for n in names if n in settings and n != "config"]
    return ", ".join(dict.fromkeys(parts))[:150]


def print_last_line(result: Mapping[str, Any], packages: Sequence[str] = ()) -> None:
    """Print ``result`` as JSON with what its figures depend on, and when they were measured."""
    measured = _handed_out or [occasion()]
    told = {
        "versions": versions(*packages),
        **{name: sorted({row[name] for row in measured}, key=str) for name in occasion()},
    }
    print(json.dumps({**result, **told}))
