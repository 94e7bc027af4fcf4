"""A run folder is recognised as one, or left alone."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from varpro_nn import TrainConfig
from varpro_nn.errors import VarProError
from varpro_nn.exporters import WRITERS
from varpro_nn.training.run_folder import EXPORTS, FILES, RunFolder, default_path
from varpro_nn.training.shards import Shards
from varpro_nn.training.subnetwork import Subnetwork


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def with_run(folder, *files):
    """Write what a run leaves: its settings, some other files, and a shard."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(TrainConfig())))
    for name in files:
        (folder / name).write_text("of a run")
    Shards(folder / "shards", {}).write(Subnetwork(0, np.zeros((2, 3)), None, "", 0))
    return folder


FLAGS = [{}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}]


def test_a_run_folder_knows_the_files_of_every_export():
    """Else a file of the network that is replaced would stay."""
    assert set(EXPORTS) == {f"model.{name}" for name in WRITERS}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_user_is_left_alone(name, tmp_path):
    """Whatever its name is, and whatever is said on the command line."""
    (tmp_path / name).write_text('{"model_type": "bert", "seed": 3}')
    before = contents(tmp_path)
    for flags in FLAGS:
        with pytest.raises(VarProError, match=f"holds {name}, but no config.json of a run"):
            RunFolder(tmp_path, **flags).check_free()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text", ["", "[1]", "null", '{"recipe": "tiny", "seed": 0', "[" * 10**5], ids=len
)
def test_settings_of_something_else_make_no_run(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(VarProError, match=r"no config\.json of a run"):
        RunFolder(tmp_path, overwrite=True).check_free()


def test_a_link_to_nowhere_is_a_file_of_the_user(tmp_path):
    (tmp_path / "report.html").symlink_to(tmp_path / "unmounted" / "report.html")
    with pytest.raises(VarProError, match=r"holds report\.html"):
        RunFolder(tmp_path, overwrite=True).check_free()


def test_other_files_beside_a_run_are_no_hindrance(tmp_path):
    (tmp_path / "log.txt").write_text("mine")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine.npz").write_text("mine")
    RunFolder(tmp_path).check_free()
    assert RunFolder(tmp_path).n_kept == 0


@pytest.mark.parametrize(
    ("files", "state"), [((), "an unfinished"), (("model.npz", "metrics.json"), "a finished")]
)
def test_a_run_is_replaced_only_if_asked_for(files, state, tmp_path):
    folder = with_run(tmp_path / "run", *files)
    with pytest.raises(VarProError, match=f"holds {state} run; add --resume or --overwrite"):
        RunFolder(folder).check_free()
    for flags in FLAGS[1:]:
        RunFolder(folder, **flags).check_free()
    (folder / "config.json").unlink()
    if not files:  # nothing but shards, as a run leaves that was killed early
        with pytest.raises(VarProError, match="holds an unfinished run"):
            RunFolder(folder).check_free()


def test_shards_of_another_folder_are_not_removed_through_a_link(tmp_path):
    one, other = (with_run(tmp_path / name) for name in ("one", "other"))
    (one / "shards" / "000000.npz").unlink()
    (one / "shards").rmdir()
    (one / "shards").symlink_to(other / "shards")
    before = contents(other)
    with pytest.raises(VarProError, match="shards: is a link"):
        RunFolder(one, overwrite=True).check_free()
    RunFolder(one, resume=True).check_free()
    assert contents(other) == before


def test_a_name_for_the_folder_is_never_too_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stem in ("x" * 251, "\N{SNOWMAN}" * 83):
        path = default_path(f"{stem}.npz", "accurate")
        path.mkdir(parents=True)
        assert path.name.endswith("-accurate")
