"""Runs that are killed, by whatever and whenever, end with the same bits once they are resumed."""

import contextlib
import hashlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from experiments.reliability.chaos import children
from varpro_nn import train
from varpro_nn._io.atomic import locked

N = 6
OPTIONS = [
    *("--recipe", "bilinear", "--n-units", "48", "--n-subnetworks", str(N)),
    *("--images-per-subnetwork", "700", "--max-nfev", "8", "--output", "run", "--quiet"),
    "--no-report",
]
ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(digits_file):
    """Arguments of the command."""
    return [str(digits_file), *OPTIONS]


@pytest.fixture(scope="module")
def start(run):
    """Start the command in a process."""

    def call(folder, *options):
        return subprocess.Popen(
            [sys.executable, "-m", "varpro_nn.train", *run, *options],
            cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    return call


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def in_this_process(run, tmp_path, monkeypatch, capsys):
    """Call the command here, where nothing is to be killed: status, output and errors."""

    def call(*options):
        monkeypatch.chdir(tmp_path)
        status = train.main([*run, "--n-jobs", "1", *options])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def in_second_process(run, in_child, tmp_path):
    """The same in a forked process, where files may have ``largest`` bytes at most."""

    def call(*options, largest=resource.RLIM_INFINITY):
        def work():
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            os.chdir(tmp_path)
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = train.main([*run, *options])
            return status, out.getvalue(), err.getvalue()

        return in_child(work, 60)

    return call


def shards(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("run/shards/*.npz")}


def digest(folder):
    return hashlib.sha256((folder / "run" / "model.npz").read_bytes()).hexdigest()


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    status, _, err = finish(start(folder, "--n-jobs", "1"))
    assert (status, err) == (0, "")
    assert len(shards(folder)) == N
    return folder


@pytest.fixture
def finished(undisturbed, tmp_path):
    """Bring the undisturbed run to the folder of the test."""
    shutil.copytree(undisturbed / "run", tmp_path / "run")


@pytest.mark.parametrize("n_jobs", ["21", pytest.param("22", marks=pytest.mark.slow)])
def test_a_killed_driver_loses_and_repeats_nothing(
    n_jobs, undisturbed, start, in_this_process, tmp_path
):
    """Killed twice; the jobs of either run are given."""
    kept = {}
    for n_kept, jobs in zip((1, 4), n_jobs, strict=True):
        process = start(tmp_path, "--n-jobs", jobs, "--resume")
        wait_for(lambda n=n_kept: len(shards(tmp_path)) >= n, process)
        process.kill()
        assert finish(process)[0] == -signal.SIGKILL
        now = shards(tmp_path)
        assert kept.items() <= now.items()  # not written anew
        kept = now
    status, _, err = in_this_process("--resume")
    assert (status, err) == (0, "")
    assert kept.items() <= shards(tmp_path).items()
    assert digest(tmp_path) == digest(undisturbed)
    names = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not any(name.startswith(".") for name in names)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("deaths", [(2,), pytest.param((1, 4), marks=pytest.mark.slow)], ids=str)
def test_killed_workers_change_no_bit_and_lose_nothing_finished(
    deaths, undisturbed, start, tmp_path
):
    """One death; test_pool.py has several in a run."""
    process = start(tmp_path, "--n-jobs", "2")
    for n_kept in deaths:
        wait_for(lambda n=n_kept: len(shards(tmp_path)) >= n and children(process.pid), process)
        os.kill(children(process.pid)[0], signal.SIGKILL)
    status, _, err = finish(process)
    assert (status, err) == (0, "")
    assert digest(tmp_path) == digest(undisturbed)


def test_a_second_process_keeps_off(
    finished, undisturbed, in_this_process, in_second_process, tmp_path
):
    for name in ("metrics.json", "model.npz"):
        (tmp_path / "run" / name).unlink()
    with locked(tmp_path / "run"):
        status, out, err = in_second_process("--resume", "--n-jobs", "1")
        assert (status, out) == (1, "")
        assert "another process works on this run folder" in err
        assert err.count("\n") == 1
    assert in_this_process("--resume")[0] == 0
    assert digest(tmp_path) == digest(undisturbed)


def test_a_full_disk_is_said_and_the_rest_is_intact(
    finished, undisturbed, in_this_process, in_second_process, tmp_path
):
    """A limit on the size of files stands for the disk: the model is larger than a shard."""
    size = max(path.stat().st_size for path in tmp_path.glob("run/shards/*.npz"))
    assert (tmp_path / "run" / "model.npz").stat().st_size > size + 1
    for name in ("metrics.json", "model.npz"):
        (tmp_path / "run" / name).unlink()
    before = shards(tmp_path)
    status, out, err = in_second_process("--n-jobs", "1", "--resume", largest=size + 1)
    assert (status, out) == (1, "")
    assert "File too large" in err
    assert err.count("\n") == 1
    assert shards(tmp_path) == before
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert in_this_process("--resume")[0] == 0
    assert shards(tmp_path) == before
    assert digest(tmp_path) == digest(undisturbed)


@pytest.mark.slow
def test_a_disk_too_full_for_the_images_of_the_workers_is_an_error(
    undisturbed, in_this_process, in_second_process, tmp_path
):
    status, out, err = in_second_process("--n-jobs", "2", largest=100_000)
    assert (status, out) == (1, "")
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []
    assert in_this_process("--n-jobs", "2")[0] == 0
    assert digest(tmp_path) == digest(undisturbed)


def test_a_finished_run_of_other_settings_is_not_replaced(
    finished, undisturbed, in_this_process, tmp_path
):
    for other in (("--output-penalty", "5"), ("--seed", "4"), ("--n-train", "900")):
        status, out, err = in_this_process("--resume", *other)
        assert (status, out) == (1, "")
        assert "holds a finished run of other settings" in err
        assert digest(tmp_path) == digest(undisturbed)
