import importlib
import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import all as all_tables


def last_line(**told):
    versions = {"numpy": "1.2"}
    occasion = {"date": ["2001-02-03"], "commit": ["abc"], "load": [0.5, 1.5], "machine": ["X"]}
    return json.dumps({"versions": versions, **occasion, **told})


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["all", *arguments])
    all_tables.main()


def test_every_script_is_there():
    for table in all_tables.TABLES.values():
        module = importlib.util.find_spec(f"experiments.{table.module}")
        assert module is not None, table.module


def test_every_script_has_a_quick_form():
    scripts = {table.module for table in all_tables.TABLES.values()}
    quick = {t.module for t in all_tables.TABLES.values() if t.quick is not None}
    assert scripts == quick


def test_every_quick_form_is_run_by_its_tests_or_by_ci():
    root = all_tables.RESULTS.parents[1]
    (line,) = re.findall(r"experiments\.all --quick .*--only (.*)", (root / ".ci/run").read_text())
    for name, table in all_tables.TABLES.items():
        folder, module = table.module.split(".")
        of_field = {"field.table": "field_table", "field.calibration": "calibration_table"}
        file = root / f"tests/experiments/{folder}/test_{of_field.get(table.module, module)}.py"
        tested = file.exists() and '"--quick"' in file.read_text()
        assert table.quick is None or name in line.split() or tested, name


def test_every_table_stands_in_the_ledger():
    folder = all_tables.RESULTS.parent
    told = (folder / "README.md").read_text(encoding="utf-8").split("## The tables")[1]
    pages = {path.stem for path in all_tables.RESULTS.glob("*.md")}
    assert pages <= set(all_tables.TABLES)
    for name, table in all_tables.TABLES.items():
        assert f"`{name}`" in told, name
        if name in pages:
            head = (all_tables.RESULTS / f"{name}.md").read_text(encoding="utf-8")
            command = " ".join([f"experiments.{table.module}", *table.options])
            assert f"`python -m {command}`" in head, name


def test_a_table_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    commands = []

    def child(command):
        commands.append(command)
        if "bootstrap" in command[0]:
            msg = "bootstrap went wrong"
            raise SystemExit(msg)
        return ["| a |", "| --- |", "| 1 |", last_line()]

    monkeypatch.setattr(all_tables, "child", child)
    names = ["bootstrap", "random_units", "features"]
    with pytest.raises(SystemExit, match="bootstrap went wrong"):
        run(monkeypatch, "--quick", "--output", str(tmp_path), "--only", *names)
    assert [command[0] for command in commands] == [
        "experiments.claims.bootstrap", "experiments.claims.random_units",
        "experiments.benchmarks.features",
    ]  # fmt: skip
    assert commands[1][1:] == ["--quick", "--output", str(tmp_path / "random_units.jsonl")]
    assert "--output" not in commands[2]
    assert not (tmp_path / "bootstrap.md").exists()
    page = (tmp_path / "random_units.md").read_text(encoding="utf-8")
    assert page.startswith(
        "# random_units\n\n`python -m experiments.claims.random_units --quick`, 2001-02-03"
    )
    assert "commit abc" in page
    assert "load of the machine 0.5 to 1.5" in page
    assert page.endswith("| 1 |\n")
    assert page in capsys.readouterr().out


def test_tables_side_by_side(tmp_path, monkeypatch):
    both = threading.Barrier(2)

    def child(command):
        both.wait(timeout=60)  # broken where they run one after the other
        if "bootstrap" in command[0]:
            msg = "bootstrap went wrong"
            raise SystemExit(msg)
        return [last_line()]

    monkeypatch.setattr(all_tables, "child", child)
    options = ["--output", str(tmp_path), "--n-jobs", "2", "--only", "bootstrap", "features"]
    with pytest.raises(SystemExit, match="bootstrap went wrong"):
        run(monkeypatch, *options)
    assert [path.name for path in tmp_path.iterdir()] == ["features.md"]


def test_ctrl_c_starts_no_other_table(tmp_path, monkeypatch):
    commands, over = [], threading.Event()

    def child(command):
        commands.append(command)
        if len(commands) == 1:
            raise KeyboardInterrupt
        over.wait(timeout=60)  # the second may have begun before the first is known to be over
        return [last_line()]

    def shutdown(executor, **options):
        ThreadPoolExecutor.shutdown(executor, wait=False, **options)
        over.set()
        ThreadPoolExecutor.shutdown(executor)

    observed = type("Observed", (ThreadPoolExecutor,), {"shutdown": shutdown})
    monkeypatch.setattr(all_tables, "ThreadPoolExecutor", observed)
    monkeypatch.setattr(all_tables, "child", child)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, "--output", str(tmp_path))
    assert len(commands) <= 2


def test_a_page_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "features.md").mkdir()
    monkeypatch.setattr(all_tables, "child", lambda _: [last_line()])
    with pytest.raises(SystemExit, match="error: features: "):
        run(monkeypatch, "--output", str(tmp_path), "--only", "features", "calibration")
    assert (tmp_path / "calibration.md").exists()


def test_figures_of_another_folder_go_there(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(all_tables, "child", lambda c: commands.append(c) or [last_line()])
    run(monkeypatch, "--only", "scaling_laws", "--output", str(tmp_path))
    assert commands[0][1:3] == ["--figure", str(tmp_path / "scaling_laws.svg")]


def test_a_table_without_a_quick_form(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--quick", "--only", "field_cifar10", "features")
    assert "field_cifar10 has no quick form" in capsys.readouterr().err


def test_all_of_them_quickly(tmp_path, monkeypatch, capsys):
    """Each script once; the full run keeps its results in the folder of results."""
    commands = []
    monkeypatch.setattr(all_tables, "RESULTS", tmp_path)
    monkeypatch.setattr(all_tables, "child", lambda c: commands.append(c) or [last_line()])
    run(monkeypatch, "--quick")
    assert len(commands) == len({command[0] for command in commands})
    commands.clear()
    run(monkeypatch, "--only", "features")
    assert [command[0] for command in commands] == ["experiments.benchmarks.features"]
    assert [path.name for path in tmp_path.iterdir()] == ["features.md"]
