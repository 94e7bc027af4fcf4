import json

import pytest

from experiments.field import figure, table
from experiments.shared import provenance
from varpro_nn import configure


def test_rows_in_the_file_are_not_run_again(monkeypatch, run_script, tmp_path):
    commands = []

    def child(command):
        commands.append(command)
        seed = int(command[command.index("--seed") + 1])
        result = {"n_parameters": 1000, "test_accuracy": 0.9 + 0.01 * seed,
                  "training_cpu_seconds": 2.0, "labelling_cpu_seconds": 0.1}  # fmt: skip
        n_epochs = len(command) - command.index("--epochs") - 1 if "--epochs" in command else 1
        return [json.dumps(result)] * n_epochs

    monkeypatch.setattr(table, "child", child)
    monkeypatch.setattr(table, "child_lines", child)
    monkeypatch.setattr(table.Network, "load", lambda folder: None)
    monkeypatch.setattr(table, "labelling", lambda network, dataset: 0.2)
    monkeypatch.setattr(table, "installed", lambda found: found)
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: "1.0")
    file = tmp_path / "rows.jsonl"
    options = ["--quick", "--output", str(file), "--repeats", "2", "--only"]
    names = ["tiny", "tiny-untrained", "SVC", "MLP-800"]
    first, told = run_script(table, *options, *names)
    assert [line.split("|")[1].strip() for line in first[5:]] == [
        "tiny", "tiny-untrained", "SVC",
        "MLP-800, 1 epoch", "MLP-800, 3 epochs", "MLP-800, 10 epochs",
    ]  # fmt: skip
    assert "| 1,000 | 0.9000 / 0.9100 | 0.9050 ± 0.0177 | 2 / 2 |" in first[5]
    assert [command[0].split(".")[-1] for command in commands] == [
        "train", "train", "peers", "torch_networks",
    ] * 2  # fmt: skip
    assert ["untrained" in command for command in commands[:3]] == [False, True, False]
    assert commands[3][-4:] == ["--epochs", "1", "3", "10"]
    rows = told["rows"]
    assert all(len(row["repetitions"]) == 2 for row in rows)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 12
    assert run_script(table, *options, *names)[0] == first
    assert len(commands) == 8
    once = ["--quick", "--output", str(file), "--repeats", "2", "--once", "SVC", "--only", *names]
    printed, told = run_script(table, *once)
    assert "**digits, one thread, seeds 0, 1 (SVC: 0)**" in printed
    rows = told["rows"]
    assert [len(row["repetitions"]) for row in rows] == [2, 2, 1, 2, 2, 2]
    assert len(commands) == 8
    # A row with an epoch that is missing is trained for that one alone.
    monkeypatch.setattr(table, "EPOCHS", (1, 5))
    run_script(table, *options, "MLP-800")
    assert [command[-2:] for command in commands[8:]] == [["--epochs", "5"]] * 2


def test_rows_of_missing_packages_are_left_out(capsys):
    found = [
        table.Entrant("a", figure.TRAINED, (), {}),
        table.Entrant("b", figure.LM, (), {}, ("scikit-learn", "no-such", "nor-this")),
        table.Entrant("c", figure.LM, (), {}, ("no-such",)),
    ]
    assert [entrant.name for entrant in table.installed(found)] == ["a"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "left out: b, c (no-such): pip install -e '.[experiments]'"
    assert table.installed(found[:1]) == found[:1]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("dataset", table.DATA)
def test_entrants(dataset):
    found = table.entrants(dataset)
    assert len({entrant.name for entrant in found}) == len(found)
    assert {entrant.kind for entrant in found} == set(figure.STYLES)
    by_name = {entrant.name: entrant for entrant in found}
    tiny = configure("tiny", data=dataset).units
    windows = [tiny.n_units, tiny.window, tiny.grid]
    for name in ("patches-logistic", "patches-logistic-LM"):
        assert by_name[name].settings["units"] == windows
    assert "units" not in by_name["LeNet-5"].settings
    for name in ("tiny", "default", "accurate", "bilinear"):
        trained, drawn = by_name[name], by_name[f"{name}-untrained"]
        different = {key for key, v in trained.settings.items() if drawn.settings[key] != v}
        assert {"scheme"} <= different <= {"scheme", "n_stages"}
        assert drawn.command[4:] == ("--scheme", "untrained", "--n-stages", "1")


def test_quick_run(run_script, in_this_process):
    """The commands of its processes: the same images, and a network with as many parameters."""
    in_this_process(table)
    names = ["tiny-untrained", "SVC"]
    last = run_script(table, "--quick", "--only", *names)[1]
    assert [row["entrant"] for row in last["rows"]] == names
    for row in last["rows"]:
        (result,) = row["repetitions"]
        assert 0.85 < result["test_accuracy"] < 1
        assert result["training_cpu_seconds"] > 0
        assert result["labelling_cpu_seconds"] > 0
    drawn, machine = (row["repetitions"][0] for row in last["rows"])
    assert drawn["n_parameters"] == 1_610
    assert (machine["n_parameters"] - 45) % (64 + 9) == 0


def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    results = [{"n_parameters": 1000 * k, "test_accuracy": 0.9, "training_cpu_seconds": 2.0 + k}
               for k in (1, 3)]  # fmt: skip
    rows = [
        {"entrant": entrant.name, "kind": entrant.kind, "repetitions": results}
        for entrant in {entrant.kind: entrant for entrant in table.entrants("mnist")}.values()
        for _ in range(2)
    ]
    points = table.points(rows)
    assert points[0][1:] == (rows[0]["kind"], 4.0, 2000.0, pytest.approx(10))
    figure.draw(points, "title", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    for kind in figure.STYLES:
        assert kind in text
