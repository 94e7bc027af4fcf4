"""Sub-networks on disk: kept whole, used again, never mixed with those of another run."""

import json
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from in_memory import train
from numpy.testing import assert_array_equal

from varpro_nn import Network, configure, load, run
from varpro_nn._io import archive
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.errors import ModelFileError, VarProError
from varpro_nn.train import main
from varpro_nn.training import plan
from varpro_nn.training.config import SubnetworkSettings
from varpro_nn.training.shards import Shards, check_removable
from varpro_nn.training.subnetwork import Subnetwork
from varpro_nn.units import whole_image_units

CONFIG = configure(
    "bilinear", n_units=24, n_subnetworks=4, images_per_subnetwork=120, max_nfev=4, n_train=500
)
OPTIONS = [
    "--recipe",
    "bilinear",
    "--n-units",
    "24",
    "--n-subnetworks",
    "4",
    "--images-per-subnetwork",
    "120",
]
OPTIONS += ["--max-nfev", "4", "--n-train", "500", "--n-jobs", "1", "--no-report"]


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """Run with a configuration, once, and bring its sub-networks to a folder: the run."""
    runs = {}

    def bring(config, folder):
        key = json.dumps(asdict(config))
        if key not in runs:
            kept = tmp_path_factory.mktemp("finished")
            runs[key] = kept, run(config, digits, n_jobs=1, shard_folder=kept)
        kept, found = runs[key]
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        return found

    return bring


@pytest.fixture(scope="module")
def trained(digits):
    units = whole_image_units("bilinear", (8, 8), 5)
    settings = SubnetworkSettings(n_subnetworks=3, images_per_subnetwork=100, max_nfev=4)
    return train(units, TrainingSet.of(digits), settings)


def test_round_trip(trained, tmp_path):
    shards = Shards(tmp_path / "shards", {"seed": 0})
    failed = Subnetwork(3, None, None, "made to fail", 2)
    written = [*trained, failed]
    for subnetwork in written:
        shards.write(subnetwork)
    found = shards.read()
    assert sorted(found) == [0, 1, 2, 3]
    for subnetwork in written[:3]:
        again = found[subnetwork.index]
        assert_array_equal(again.W, subnetwork.W)
        assert again.report.cost == subnetwork.report.cost
        # NaN (a refused step) must come back as NaN
        for mine, theirs in zip(subnetwork.report.history, again.report.history, strict=True):
            assert_array_equal(
                [mine.cost, mine.optimality, mine.loo_mse],
                [theirs.cost, theirs.optimality, theirs.loo_mse],
            )
    assert (found[3].W, found[3].report, found[3].error) == (None, None, "made to fail")
    assert found[3].n_missing_classes == 2


def test_shards_of_another_run_are_refused_by_what_differs(trained, tmp_path):
    Shards(tmp_path, {"seed": 0, "rank": 1}).write(trained[0])
    with pytest.raises(ModelFileError, match=r"belongs to another run: seed differ"):
        Shards(tmp_path, {"seed": 1, "rank": 1}).read()


def test_a_shard_of_other_packages_says_which_and_what_to_do(digits, trained, tmp_path):
    """A release of joblib or Python changes no weight, one of NumPy may change each."""
    (shard,) = trained[:1]
    ours = plan.identity(CONFIG, TrainingSet.of(digits))
    assert set(ours["versions"]) == {"varpro_nn", "numpy", "scipy"}
    with_more = {**ours, "versions": {**ours["versions"], "joblib": "1.4.0", "python": "3.11.2"}}
    Shards(tmp_path, with_more).write(shard)
    assert list(Shards(tmp_path, ours).read()) == [0]
    Shards(tmp_path, {**ours, "versions": {**ours["versions"], "numpy": "2.0.1"}}).write(shard)
    said = re.escape(
        f"was trained with numpy 2.0.1, and this is numpy {np.__version__}: the result would "
        "differ from an uninterrupted run. Install numpy 2.0.1 to continue, add --overwrite to "
        "train all sub-networks again, or name another folder."
    )
    with pytest.raises(ModelFileError, match=said):
        Shards(tmp_path, ours).read()


def test_files_without_the_name_of_a_shard_are_not_touched(trained, tmp_path):
    shards = Shards(tmp_path, {})
    shards.write(trained[1])
    for name in ("mine.npz", "1.npz", "0000001.npz", "-00001.npz", "00\N{SUPERSCRIPT TWO}000.npz"):
        (tmp_path / name).write_bytes(b"mine")
    assert list(shards.read()) == [1]
    assert check_removable(tmp_path) == [tmp_path / "000001.npz"]


def test_what_is_no_shard_or_lies_elsewhere_is_not_removed(trained, tmp_path):
    folder = tmp_path / "shards"
    Shards(folder, {}).write(trained[0])
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(VarProError, match="link: is a link, and sub-networks in another folder"):
        check_removable(tmp_path / "link")
    network = folder / "000007.npz"
    archive.write(network, {"identity": {}}, {"W": np.zeros((2, 3))})
    with pytest.raises(VarProError, match=r"000007\.npz: is damaged or not a sub-network"):
        check_removable(folder)
    network.write_bytes(b"PK")
    with pytest.raises(VarProError, match=r"000007\.npz: is damaged or not a sub-network"):
        check_removable(folder)


def test_a_damaged_shard_is_refused(trained, tmp_path):
    shards = Shards(tmp_path, {})
    shards.write(trained[0])
    (path,) = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        shards.read()


def test_a_network_is_no_shard(tmp_path):
    archive.write(tmp_path / "000000.npz", {"identity": {}}, {"W": np.zeros((2, 3))})
    with pytest.raises(ModelFileError, match="does not describe a sub-network"):
        Shards(tmp_path, {}).read()


@pytest.mark.parametrize("lost", [[0], [1, 3], [0, 1, 2, 3]], ids=str)
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(digits, finished, tmp_path, lost):
    whole = finished(CONFIG, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert len(kept) == 4
    for index in lost:
        (tmp_path / f"{index:06d}.npz").unlink()
    resumed = run(CONFIG, digits, n_jobs=1, shard_folder=tmp_path)
    assert_array_equal(resumed.network.W, whole.network.W)
    assert_array_equal(resumed.network.A, whole.network.A)
    again = {p for p, written in kept.items() if p.stat().st_mtime_ns != written}
    assert again == {tmp_path / f"{index:06d}.npz" for index in lost}  # the others: not repeated


@pytest.mark.parametrize(
    ("change", "name"), [({"seed": 1}, "seed"), ({"ridge": 2.0}, "ridge"), ({"n_train": 400}, "")]
)
def test_what_the_weights_depend_on_is_compared(digits, finished, tmp_path, change, name):
    finished(CONFIG, tmp_path)
    with pytest.raises(ModelFileError, match=f"{name}.* differ"):
        run(CONFIG.with_options(**change), digits, n_jobs=1, shard_folder=tmp_path)


PATCHES = configure(
    "tiny", data="digits",
    n_units=8, n_subnetworks=2, images_per_subnetwork=100, n_rounds=2, max_nfev=2, n_train=300,
    output_penalty=2.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"scalarisation": "bilinear"}, "scalarisation"),
        ({"whitening": 0.1}, "whitening"),
        ({"stride": 2}, "stride"),
        ({"training_stride": 2}, "training_stride"),
        ({"loss": "squares"}, "loss"),
        ({"n_rounds": 3}, "n_rounds"),
        ({"shift": 2}, "shift"),
        ({"scheme": "stages", "n_stages": 2}, "n_stages, scheme"),
    ],
    ids=str,
)
def test_what_the_weights_of_patch_units_depend_on_is_compared(digits, tmp_path, change, name):
    identity = plan.identity(PATCHES, TrainingSet.of(digits, PATCHES.n_train))
    Shards(tmp_path, identity).write(Subnetwork(0, None, None, "made to fail", 0))
    with pytest.raises(ModelFileError, match=f"another run: {name} differ"):
        run(PATCHES.with_options(**change), digits, n_jobs=1, shard_folder=tmp_path)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (CONFIG, {"output_layer": "softmax"}),
        (CONFIG, {"bootstrap": True, "bootstrap_rule": "argmax", "bootstrap_ridge": 3.0}),
        (PATCHES, {"output_penalty": None, "recipe": "accurate"}),
        (PATCHES, {"output_layer": "ridge", "standardise": False, "views": "flip"}),
        (PATCHES, {"shift": 1, "n_copies": 3, "output_penalty": 3.0}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.units.kind,
)
def test_what_comes_after_the_subnetworks_may_change(digits, finished, tmp_path, config, change):
    """They are used again, and the rest is that of a run from scratch."""
    if "n_copies" in change:
        config = config.with_options(shift=1)  # what the sub-networks are trained with
    first = finished(config, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    again = run(config.with_options(**change), digits, n_jobs=1, shard_folder=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == written
    assert again.metrics["n_resumed_subnetworks"] == config.subnetworks.n_subnetworks
    assert_array_equal(again.network.W, first.network.W)
    scratch = run(config.with_options(**change), digits, n_jobs=1)
    assert scratch.metrics["n_resumed_subnetworks"] == 0
    assert_array_equal(again.network.A, scratch.network.A)
    output = config.with_options(**change).output
    assert (again.network.output_layer, again.network.views) == (output.layer, output.views)


def test_command_line_resumes_and_says_what_is_there(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["digits", *OPTIONS, "--output", str(folder)]
    assert main(arguments) == 0
    model = (folder / "model.npz").read_bytes()
    for name in ("metrics.json", "model.npz", "shards/000001.npz"):
        (folder / name).unlink()
    capsys.readouterr()
    assert main(arguments) == 1
    assert "holds an unfinished run; add --resume or --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert (folder / "model.npz").read_bytes() == model
    assert "no sub-networks there" not in (said := capsys.readouterr()).err
    assert json.loads(said.out)["n_subnetworks"] == 4
    mistyped = str(tmp_path / "ran")
    assert main([*arguments[:-1], mistyped, "--resume"]) == 0
    assert f"{mistyped}: no sub-networks there to resume" in capsys.readouterr().err
    assert main([*arguments, "--seed", "1", "--resume"]) == 1
    assert "seed differ" in capsys.readouterr().err
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert (folder / "model.npz").read_bytes() != model


def test_resume_counts_what_was_there_and_leaves_no_model_of_another_kind(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["digits", *OPTIONS, "--output", str(folder)]
    assert main([*arguments, "--bootstrap"]) == 0
    assert (folder / "model-bootstrap.npz").exists()
    assert main([*arguments, "--resume", "--overwrite"]) == 0
    assert not (folder / "model-bootstrap.npz").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(text)["n_resumed_subnetworks"] for text in lines] == [0, 4]


@pytest.mark.parametrize("lost", [[0], [1], [0, 1]], ids=str)
def test_schemes_are_resumed_bit_for_bit(digits, finished, tmp_path, lost):
    config = PATCHES.with_options(scheme="stages", n_stages=2)
    whole = finished(config, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    last = sorted(tmp_path.glob("*.npz"))[-2:]
    for number in lost:
        last[number].unlink()
    resumed = run(config, digits, n_jobs=1, shard_folder=tmp_path)
    assert_array_equal(resumed.network.W, whole.network.W)
    assert_array_equal(resumed.network.A, whole.network.A)


def test_command_line_resumes_with_another_output_layer(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["digits", "--recipe", "tiny", "--n-units", "6", "--n-train", "300"]
    arguments += ["--max-nfev", "2", "--n-jobs", "1", "--quiet", "--no-report"]
    arguments += ["--output", str(folder)]
    assert main(arguments) == 0
    first = Network.load(folder / "model.npz")
    other = [*arguments, "--resume", "--output-layer", "softmax"]
    assert main(other) == 1  # a finished model is not replaced unless one says so
    assert_array_equal(Network.load(folder / "model.npz").A, first.A)
    assert main([*other, "--overwrite"]) == 0
    second = Network.load(folder / "model.npz")
    assert (first.output_layer, second.output_layer) == ("hinge", "softmax")
    assert_array_equal(first.W, second.W)
    assert not np.array_equal(first.A, second.A)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["n_resumed_subnetworks"] for line in lines] == [0, 1]
    assert [line["output_layer"] for line in lines] == ["hinge", "softmax"]
    config = json.loads((folder / "config.json").read_text())
    assert config["output"]["layer"] == "softmax"


def test_resume_needs_a_folder(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["digits", "--resume"])
    assert caught.value.code == 2
    assert "--resume and --overwrite need --output" in capsys.readouterr().err
