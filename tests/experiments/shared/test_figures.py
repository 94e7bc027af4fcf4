"""The option that asks for a figure, and what is drawn."""

import argparse

import pytest

from experiments.shared.figures import SUFFIXES, add_figure, drawn, log_log


@pytest.fixture
def options():
    pytest.importorskip("matplotlib")
    made = argparse.ArgumentParser()
    add_figure(made)
    return made


def test_figures_that_cannot_be_drawn(options, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.svg").mkdir()
    for name, told in {
        "a.xyz": "must end with .svg, .png or .pdf, got 'a.xyz'",
        str(tmp_path / "a.svg"): "must be a file, got the folder",
    }.items():
        with pytest.raises(SystemExit):
            options.parse_args(["--figure", name])
        assert told in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        options.parse_args(["--figure", "a.svg"])
    assert "needs matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_drawing_gives_the_same_file(options, tmp_path, suffix):
    for name in ("first", "second"):
        path = options.parse_args(["--figure", str(tmp_path / f"{name}{suffix}")]).figure
        with drawn(path, (1, 2), (4, 2), sharey=True) as (figure, ((left, right),)):
            figure.suptitle("title")
            left.plot([1, 10], [2, 30])
            log_log(left, "seconds")
            assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second"))
    assert first == second
    assert b"CreationDate" not in first  # seconds, which are equal here


def test_nothing_is_written_where_drawing_fails(options, tmp_path):
    with pytest.raises(ZeroDivisionError), drawn(tmp_path / "a.svg", (1, 1), (1, 1)):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
