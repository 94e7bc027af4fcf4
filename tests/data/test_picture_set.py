"""Pictures read into memory or to disk, in one process or several."""

import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from varpro_nn import configure, load, run
from varpro_nn.data import picture_set
from varpro_nn.data.images_on_disk import ImagesOnDisk
from varpro_nn.errors import DatasetError, WorkerDiedError


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for number in range(30):
        for subset in ("train", "test"):
            path = tmp_path / "data" / subset / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (8 + number % 3, 8, 3)
            Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(path)
    return tmp_path / "data"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_images_on_disk_are_those_in_memory(folder, tmp_path, monkeypatch, n_jobs):
    monkeypatch.setattr(picture_set, "_WORTH", 1e-9)
    monkeypatch.setattr(picture_set, "_AT_A_TIME", 7)
    in_memory = load(folder, n_jobs=1)
    on_disk = load(folder, n_jobs=n_jobs, images_on_disk=tmp_path / "new" / "place")
    for part in (on_disk.train, on_disk.test):
        assert isinstance(part.images, ImagesOnDisk)
        assert part.images.path.is_relative_to(tmp_path / "new" / "place")
    assert on_disk.digest == in_memory.digest
    assert on_disk.cropped
    held_out = on_disk.hold_out(0.2)
    assert isinstance(held_out.validation.images, ImagesOnDisk)


def test_nothing_passes_through_the_parent(folder, tmp_path, monkeypatch):
    """Workers write the images to their rows."""
    parts = []
    done = picture_set._done
    monkeypatch.setattr(
        picture_set, "_done", lambda *given: (parts.append(p) or p for p in done(*given))
    )
    load(folder, images_on_disk=tmp_path)
    assert parts
    assert all(images is None for images, _ in parts)


def test_a_network_is_the_same(folder, tmp_path):
    results = []
    for place in (None, tmp_path):
        data = load(folder, images_on_disk=place)
        config = configure(
            "tiny", data=data, n_units=2, images_per_subnetwork=20, n_rounds=1, n_copies=0
        )
        results.append(run(config, data, n_jobs=1))
    first, second = (result.network for result in results)
    np.testing.assert_array_equal(first.W, second.W)
    np.testing.assert_array_equal(first.A, second.A)
    assert first.preparation == second.preparation
    assert results[0].metrics["test_accuracy"] == results[1].metrics["test_accuracy"]


def test_the_file_goes_when_the_process_ends(folder, tmp_path):
    code = (
        "import sys; from varpro_nn import load\n"
        "data = load(sys.argv[1], images_on_disk=sys.argv[2], n_jobs=1)\n"
        "print(data.train.images.path.stat().st_size)"
    )
    place = tmp_path / "place"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(place)],
        capture_output=True, text=True, check=True, cwd=Path(picture_set.__file__).parents[2],
    )  # fmt: skip
    assert int(done.stdout) > 30 * 3 * 8 * 8
    assert list(place.iterdir()) == []


def test_nothing_is_left_of_pictures_that_cannot_be_read(folder, tmp_path):
    (folder / "train" / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "place").mkdir()
    with pytest.raises(DatasetError, match=r"broken\.png"):
        load(folder, images_on_disk=tmp_path / "place", image_size=(8, 8))
    assert list((tmp_path / "place").iterdir()) == []


def test_a_disk_without_room(folder, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(picture_set.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(DatasetError, match=r"must have .* bytes free .*got 1,000"):
        load(folder, images_on_disk=tmp_path)


def test_images_larger_than_the_memory(folder, tmp_path, monkeypatch):
    """Refused before any is read, unless they are kept on disk."""
    monkeypatch.setattr(picture_set, "resident_memory_mib", lambda: 100.0)
    monkeypatch.setattr(picture_set, "available_memory_mib", lambda: 100.01)
    monkeypatch.setattr(picture_set, "_read_all", lambda *_: pytest.fail("read"))
    with pytest.raises(DatasetError, match=r"images of 3 x 64 x 64 need 1 MiB .*--images-on-disk"):
        load(folder, image_size=(64, 64))
    monkeypatch.undo()
    monkeypatch.setattr(picture_set, "available_memory_mib", lambda: 0.0)
    assert len(load(folder, images_on_disk=tmp_path).train) == 30


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed(folder, monkeypatch):
    monkeypatch.setattr(picture_set, "_WORTH", 1e-9)
    monkeypatch.setattr(picture_set, "_AT_A_TIME", 7)
    first = iter([picture_set._read_some])
    tasks = picture_set._done
    monkeypatch.setattr(
        picture_set,
        "_done",
        lambda task, *rest: tasks(lambda s: (next(first, _die), task(s)[1]), *rest),
    )
    with pytest.raises(WorkerDiedError, match=r"read pictures was killed.* 2 processes"):
        load(folder, n_jobs=2)


def test_a_place_that_is_a_file(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file: cannot hold images \(images_on_disk\)"):
        load(folder, images_on_disk=tmp_path / "file")


@pytest.mark.parametrize(("worth", "n_workers"), [(1e4, 1), (1e-9, 3)])
def test_workers_start_where_they_have_enough_to_read(folder, monkeypatch, worth, n_workers):
    """Each takes a second to start."""
    numbers = []
    parallel = picture_set.Parallel
    monkeypatch.setattr(picture_set, "_WORTH", worth)
    monkeypatch.setattr(picture_set, "_AT_A_TIME", 7)
    monkeypatch.setattr(
        picture_set, "Parallel", lambda n, **given: numbers.append(n) or parallel(1, **given)
    )
    load(folder, n_jobs=3)
    assert set(numbers) == {n_workers}
