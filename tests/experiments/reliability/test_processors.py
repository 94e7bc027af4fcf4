import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.reliability import kernels, processors
from varpro_nn import configure


def test_differences_are_from_the_first_answers():
    first = {"outputs": np.array([[0.0, 1.0], [2.0, 1.0]]),
             "probabilities": np.array([[0.1, 0.9], [0.75, 0.25]])}  # fmt: skip
    ours = {"outputs": np.array([[0.0, 1.0], [1.5, 1.75]]),
            "probabilities": np.array([[0.1, 0.9], [0.25, 0.75]])}  # fmt: skip
    assert processors.difference(ours, first, np.array([1, 1])) == {
        "test_accuracy": 1.0, "labels_that_differ": 1, "largest_difference_of_outputs": 0.75,
        "largest_difference_of_probabilities": 0.5,
    }  # fmt: skip
    exported = {"probabilities": first["probabilities"]}
    row = processors.difference(exported, ours, np.array([1, 1]))
    assert set(row) == {"test_accuracy", "labels_that_differ",
                        "largest_difference_of_probabilities"}  # fmt: skip
    assert row["test_accuracy"] == 0.5


def test_kernels_answer_alike(monkeypatch, run_script, first_digits, tmp_path):
    """Processes in the place of this one would use the kernels; here they are all the same one."""
    few = {"n_units": 3, "images_per_subnetwork": 100, "n_rounds": 1, "max_nfev": 2}
    dataset = first_digits(200, 50)
    config = configure("tiny", data=dataset, **few)
    asked = []

    def child(command, environment):
        asked.append(environment["OPENBLAS_CORETYPE"])
        args = SimpleNamespace(quick=True)
        processors.train_and_answer(json.loads(command[command.index("--task") + 1]), args)

    monkeypatch.setattr(processors, "child", child)
    monkeypatch.setattr(processors, "settings", lambda *_: (dataset, config))
    monkeypatch.setattr(processors, "exports", lambda network, images, _: {
        "elsewhere": {"probabilities": network.predict_proba(images)[:, ::-1]}
    })  # fmt: skip
    monkeypatch.setattr(kernels, "check", lambda _: None)
    monkeypatch.setattr(kernels, "default", lambda: "Haswell")
    monkeypatch.setattr(kernels, "lacking", lambda kernel: "no C" if kernel == "C" else None)
    options = ["--quick", "--kernels", "C", "Prescott", "--output", str(tmp_path / "rows.jsonl")]
    printed, last = run_script(processors, *options)
    assert asked == ["Haswell", "Prescott"]
    assert "Left out: C: no C." in printed
    result = last["results"]["mnist"]
    same, other = result["trained"]["Prescott"], result["predicted"]["elsewhere"]
    assert (same["labels_that_differ"], same["largest_difference_of_outputs"]) == (0, 0)
    assert other["labels_that_differ"] > 25
    assert other["largest_difference_of_probabilities"] > 0.1
    assert result["n_test"] == 50
    assert any(line.startswith("| elsewhere | ") for line in printed)
    asked.clear()
    assert run_script(processors, *options)[1]["results"]["mnist"] == result
    assert asked == []


def test_what_is_not_installed_is_left_out_by_name(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(processors.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(processors.shutil, "which", lambda _: "gcc")
    monkeypatch.setattr(processors, "run_c", lambda *_, flags, int8: (flags, 0.0))
    found = processors.exports(None, None, tmp_path)
    assert {name: each["probabilities"] for name, each in found.items()} == processors.FLAGS
    assert "Left out: ONNX Runtime is not installed." in capsys.readouterr().out


def test_a_process_checks_its_kernel():
    task = {"kernel": "Nonesuch"}
    with pytest.raises(RuntimeError, match="Nonesuch was asked"):
        processors.train_and_answer(task, SimpleNamespace())
