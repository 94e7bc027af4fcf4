import multiprocessing
import signal
from dataclasses import replace

import numpy as np
import pytest

from experiments.field import own_data, own_methods, own_sets
from experiments.shared.processes import ProcessFailed
from varpro_nn import Dataset, configure, run
from varpro_nn.data import ImageSet
from varpro_nn.data.images import intensities
from varpro_nn.training.contest_results import Contest, Entry
from varpro_nn.training.recipes import RECIPES


@pytest.fixture
def folder(tmp_path, digits):
    """Two small data sets, one of them with test images, and a file that is none."""
    made = tmp_path / "sets"
    made.mkdir()
    pixels = (digits.train.images * 255).astype(np.uint8)
    np.savez(made / "own.npz", x_train=pixels[:400], y_train=digits.train.labels[:400])
    with_test = {"x_test": pixels[200:260], "y_test": digits.train.labels[200:260]}
    np.savez(made / "tested.npz", x_train=pixels[:200], y_train=digits.train.labels[:200],
             **with_test)  # fmt: skip
    (made / "notes.txt").write_text("nothing to learn")
    return made


def test_quick_run(folder, run_script, in_this_process, tmp_path, monkeypatch):
    in_this_process(own_data)
    small = RECIPES["tiny"].with_options(n_units=4, n_rounds=1, max_nfev=2)
    monkeypatch.setitem(RECIPES, "tiny", small)
    file = tmp_path / "rows.jsonl"
    options = [str(folder), "--quick", "--recipe", "tiny", "--output", str(file), "--only", "own",
               "tested", "notes",
               "--methods", "tiny-untrained", "tiny", "ridge", "SVM"]  # fmt: skip
    lines, told = run_script(own_data, *options)
    first, second = told["sets"]
    assert (first["n_train"], first["n_test"]) == (300, 100)
    assert (second["n_train"], second["n_test"]) == (200, 60)
    assert list(first["methods"]) == ["tiny", "tiny-untrained", "SVM", "ridge"]
    for row in (*first["methods"].values(), *second["methods"].values()):
        (result,) = row["results"]
        assert row["outcome"] is None
        assert 0.7 < result["accuracy"] <= 1
        assert result["training_cpu_seconds"] > 0
        assert result["model_bytes"] > 1000
    assert set(first["methods"]["SVM"]["results"][0]["chosen"]) == {"C", "gamma"}
    assert first["methods"]["tiny-untrained"]["results"][0]["chosen"]["scheme"] == "untrained"
    assert [pair["set"] for pair in told["summary"]] == ["own", "tested"]
    assert any("of 2 sets" in line for line in lines)
    monkeypatch.setattr(own_data, "child", lambda _: pytest.fail("measured twice"))
    assert run_script(own_data, *options)[0] == lines


def test_methods_that_do_not_end_have_rows(folder, run_script, monkeypatch, tmp_path, capsys):
    tried = []

    def child(command):
        tried.append((command[1], command[5]))
        status = {"SVM": -signal.SIGXCPU, "ridge": -signal.SIGKILL}.get(command[1])
        if status is not None and command[5] == "1":
            raise ProcessFailed(command, status)
        return ['{"n_test": 100, "accuracy": 0.9, "balanced_accuracy": 0.8, "model_bytes": 5000, '
                '"balanced_accuracy_standard_error": 0.04, "training_cpu_seconds": 2, '
                '"labelling_cpu_seconds": 1}']  # fmt: skip

    monkeypatch.setattr(own_data, "child", child)
    options = [str(folder), "--recipe", "tiny", "--only", "own", "--limit", "7", "--seeds", "0",
               "1", "2", "--output", str(tmp_path / "rows.jsonl"), "--methods"]  # fmt: skip
    lines, told = run_script(own_data, *options, "tiny", "random forest", "SVM")
    assert (
        "| SVM | 0.9000 ± 0.0300; more than 7 CPU s (seed 1) | 0.8000 ± 0.0400 | 2 | 1 | 5 |"
        in (lines)
    )
    (pair,) = told["summary"]
    assert (pair["best"], pair["where"], pair["cpu_ratio"]) == ("random forest", "within", None)
    assert len(tried) == 8
    with pytest.raises(SystemExit, match="some methods failed"):
        run_script(own_data, *options, "ridge", "SVM")
    assert "failed (seed 1, status -9)" in capsys.readouterr().out
    assert tried[8:] == [("ridge", "0"), ("ridge", "1")]


def test_above_and_below():
    def row(share, seconds):
        return {
            "results": [{"accuracy": share, "n_test": 100, "training_cpu_seconds": seconds}],
            "outcome": None,
        }

    for share, where in ((0.99, "above"), (0.9, "within"), (0.8, "below")):
        rows = {"tiny": row(share, 3.0), "SVM": row(0.9, 2.0), "ridge": row(0.6, 1.0)}
        pair = own_data.compared({"set": "a", "methods": rows}, "tiny")
        assert (pair["where"], pair["best"], pair["cpu_ratio"]) == (where, "SVM", 1.5)
    rows["tiny"]["outcome"] = "failed"
    assert own_data.compared({"set": "a", "methods": rows}, "tiny") is None


def test_what_a_contest_claims_and_what_tests_say(digits, monkeypatch, capsys):
    config = configure("tiny", data=digits, n_units=16, n_subnetworks=4, n_rounds=1, max_nfev=5)
    entry = {"round": 3, "n_images": 300, "n_held": 150, "n_units": 4, "standard_error": 0.03}
    found = Contest(config, "a", (
        Entry(**entry | {"round": 2}, name="a", accuracy=0.1),
        Entry(**entry, name="b", accuracy=0.2), Entry(**entry, name="a", accuracy=0.99),
    ), 1.0)  # fmt: skip
    ran = []
    monkeypatch.setattr(own_methods, "run", lambda *given, **more: ran.append(given) or run(
        *given, **more))  # fmt: skip
    told = own_methods.of_contest(found, digits)
    ((small, data),) = ran
    assert (small.units.n_units, small.subnetworks.max_nfev) == (4, 2)
    assert abs(len(data.train) - 300) < 6
    assert data.test is digits.test
    assert (told["claimed"], told["claimed_standard_error"]) == (0.99, 0.03)
    assert 0.5 < told["on_test_images"] < 0.99
    more = {**told, "on_test_images": 0.89, "on_test_images_standard_error": 0.04}
    sets = [{"set": "x", "methods": {"auto": {"results": [{"contest": more}]}}},
            {"set": "y", "methods": {"auto": {"results": []}}}]  # fmt: skip
    own_data.print_contests(sets, "auto")
    out = capsys.readouterr().out
    assert "| x | 0.9900 | 0.8900 | +0.1000 ± 0.0500 |" in out
    assert "Mean difference: +0.1000 ± 0.0500." in out


def test_splits(digits):
    train = digits.train
    whole = Dataset("x", digits.classes, train.take(slice(1000)), None)
    first, again, other = (own_sets.split(whole, "own", seed) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert first.validation is None
    assert len(first.train) + len(first.test) == 1000
    assert abs(len(first.test) - 250) < 6
    assert abs(len(own_sets.split(whole, "yaleb", 0).test) - 500) < 6
    divided = replace(digits, validation=train.take(slice(50)), held=None)
    assert len(own_sets.split(divided, "own", 0, n_test=40).train) == 1550
    assert len(own_sets.split(divided, "own", 0, n_test=40).test) == 40


def test_parts_of_public_sets(digits):
    many = ImageSet(np.tile(digits.train.images, (5, 1, 1)), np.tile(digits.train.labels, 5))
    part = own_sets.split(replace(digits, name="mnist", train=many), "mnist-1000", 0)
    assert abs(len(part.train) - 1000) < 6
    assert part.name == "mnist-1000"
    assert len(part.test) == 297


def test_names_of_sets(folder):
    found = own_sets.sources(folder)
    assert found["own"] == str(folder / "own.npz")
    assert found["cifar10-5000"] == "cifar10"
    (folder / "own.csv").write_text("label,a\n")
    with pytest.raises(ValueError, match="two data sets are named own"):
        own_sets.sources(folder)
    with pytest.raises(ValueError, match="no b among"):
        own_sets.chosen_sets(found, ["b"])


def test_the_system_ends_a_process_past_its_limit():
    def busy():
        with own_methods.cpu_limit(1):
            while True:
                pass

    process = multiprocessing.get_context("fork").Process(target=busy)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGXCPU


def test_error_of_mean_recall():
    labels = np.array([0] * 4 + [1] * 16)
    error = own_methods.error_of_mean_recall(np.array([0.5, 0.5, 0.0]), labels)
    assert error == pytest.approx(np.sqrt(0.25 / 4 + 0.25 / 16) / 2)


@pytest.mark.parametrize("method", own_methods.CNNS)
def test_convolutional_network(digits, method, monkeypatch):
    pytest.importorskip("torch")
    from experiments.field import own_cnn

    monkeypatch.setattr(own_cnn, "EPOCHS", 8)
    monkeypatch.setattr(own_cnn, "STEPS", 1)
    small = own_sets.split(digits, "digits", 0)
    result = own_methods.measure(method, small, 0)
    assert result["accuracy"] > 0.6
    assert result["model_bytes"] > 4 * 50_000


def test_shifts(digits):
    pytest.importorskip("torch")
    from experiments.field.own_cnn import shifted

    images = intensities(digits.train.images[:50])[:, None]
    rng = np.random.default_rng(0)
    moved = shifted(images, 2, rng)
    assert moved.shape == images.shape
    for one, other in zip(images, moved, strict=True):
        padded = np.pad(one[0], 2, mode="edge")
        places = [(r, c) for r in range(5) for c in range(5)]
        assert any((padded[r : r + 8, c : c + 8] == other[0]).all() for r, c in places)
    assert shifted(images, 0, rng) is images


def test_a_recipe_that_is_not_there(run_script, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_script(own_data, "--recipe", "no-such")
    assert "--recipe must be one of default" in capsys.readouterr().err
