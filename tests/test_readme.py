"""What the README shows must run."""

import doctest
import re
from pathlib import Path

import pytest

import varpro_nn

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_example_runs_and_is_ten_lines(tmp_path, monkeypatch, capsys, briefly):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    lines = [text for text in example.splitlines() if text.strip()]
    assert len(lines) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert "all parameters" in printed
    assert (tmp_path / "digits-model.npz").exists()


@pytest.mark.parametrize("name", ["main job", "tests"])
def test_commands_make_their_own_environment(name):
    (command,) = re.findall(rf"<!-- command: {name} -->\n```sh\n(.*?)\n```", README)
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")


@pytest.mark.usefixtures("briefly")
def test_docstring_example_of_the_package():
    assert doctest.testmod(varpro_nn).failed == 0


def test_scikit_learn_example_runs():
    from sklearn.datasets import load_digits

    (example,) = re.findall(r"```py\n(.*?)```", README, flags=re.DOTALL)
    X, y = load_digits(return_X_y=True)
    names = {"X": X, "y": y}
    exec(compile(example, "README.md", "exec"), names)
    sets = names["classifier"].predict_set(X, alpha=0.1)
    assert sets[range(len(y)), y].mean() > 0.88
