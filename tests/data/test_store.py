import gzip
import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny_files import CONTENTS, FILES, GZIPPED, MemorySource, tiny_set

from varpro_nn.data.fetch.store import obtain
from varpro_nn.errors import DatasetError


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def fill(folder, contents=CONTENTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetches_into_the_cache_then_reads_it(cache):
    source = MemorySource()
    assert obtain(tiny_set(source), data_dir=None, cache=cache) == CONTENTS
    assert files_in(cache / "tiny") == CONTENTS
    assert source.asked == ["images", "labels"]
    assert obtain(tiny_set(source), data_dir=None, cache=cache, offline=True) == CONTENTS
    assert source.asked == ["images", "labels"]


def test_fetches_into_the_folder_of_the_user(cache, tmp_path):
    mine = tmp_path / "not" / "yet"
    obtain(tiny_set(MemorySource()), data_dir=mine, cache=cache)
    assert files_in(mine / "tiny") == CONTENTS
    assert not cache.exists()


@pytest.mark.parametrize("place", [".", "tiny", "Tiny/raw"])
@pytest.mark.parametrize(
    "contents",
    [CONTENTS, GZIPPED, {f"{name}.old": content for name, content in CONTENTS.items()}],
    ids=["raw", "gz", "other name"],
)
def test_finds_files_where_users_have_them(cache, mine, place, contents):
    fill(mine / place, contents)
    assert obtain(tiny_set(), data_dir=mine, cache=cache, offline=True) == CONTENTS


def test_search_order(cache, mine, tmp_path):
    """The user's folder, the cache, the system; only what is missing is fetched."""
    system = tmp_path / "system"
    source = MemorySource()
    file_set = tiny_set(source, system_folders=(str(system),))
    fill(system, {"images.gz": GZIPPED["images.gz"]})
    assert obtain(file_set, data_dir=mine, cache=cache) == CONTENTS
    assert source.asked == ["labels"]
    fill(mine)
    (mine / "tiny" / "labels").unlink()
    fill(cache / "tiny", {"images": b"damaged"})  # not looked at: the user's folder has it
    assert obtain(file_set, data_dir=mine, cache=cache) == CONTENTS


@pytest.mark.parametrize("damage", [b"", CONTENTS["images"] + b"x", b"x" * 10])
def test_damaged_cached_file_is_fetched_again(cache, damage, caplog):
    source = MemorySource()
    fill(cache / "tiny", CONTENTS | {"images": damage})
    assert obtain(tiny_set(source), data_dir=None, cache=cache) == CONTENTS
    assert files_in(cache / "tiny") == CONTENTS
    assert source.asked == ["images"]
    assert str(cache / "tiny" / "images") in caplog.text


def test_damaged_cached_file_offline(cache):
    fill(cache / "tiny", CONTENTS | {"images": b"damaged"})
    with pytest.raises(DatasetError, match=r"images: expected .* \(damaged\)"):
        obtain(tiny_set(MemorySource()), data_dir=None, cache=cache, offline=True)


@pytest.mark.parametrize(
    ("name", "damage", "found"),
    [
        ("images", CONTENTS["images"][:-1], "found 75 bytes with sha256 [0-9a-f]{64}"),
        ("images", CONTENTS["images"] + b"x", "found more bytes"),
        ("images.gz", gzip.compress(bytes(10_000_000), mtime=0), "found more bytes"),
        ("images.gz", GZIPPED["images.gz"][:-4], "cannot be read"),
    ],
    ids=["truncated", "longer", "bomb", "truncated gz"],
)
def test_damaged_file_of_the_user_is_an_error(cache, mine, name, damage, found):
    fill(mine, {name: damage})
    source = MemorySource()
    with pytest.raises(DatasetError, match=found) as caught:
        obtain(tiny_set(source), data_dir=mine, cache=cache)
    assert str(mine / name) in str(caught.value)
    if "cannot" not in found:
        assert f"expected 76 bytes with sha256 {FILES[0].sha256}" in str(caught.value)
    assert files_in(mine) == {name: damage}  # as it was
    assert source.asked == []


def test_good_file_beside_a_damaged_one_is_used(cache, mine):
    fill(mine, CONTENTS | {"images": b"damaged", "images.gz": GZIPPED["images.gz"]})
    assert obtain(tiny_set(), data_dir=mine, cache=cache) == CONTENTS


def test_file_of_another_data_set_is_passed_over(cache, mine):
    """MNIST and Fashion-MNIST use the same names."""
    fill(mine, {"images": b"another"})
    stranger = hashlib.sha256(b"another").hexdigest()
    assert (
        obtain(tiny_set(MemorySource()), data_dir=mine, cache=cache, strangers=[stranger])
        == CONTENTS
    )
    assert (mine / "images").read_bytes() == b"another"
    # but where the file would go, it is not replaced
    fill(mine / "tiny", {"images": b"another"})
    with pytest.raises(DatasetError, match="left as it is"):
        obtain(tiny_set(MemorySource()), data_dir=mine, cache=cache, strangers=[stranger])
    assert (mine / "tiny" / "images").read_bytes() == b"another"


def test_next_source_gives_what_is_missing(cache):
    sources = [
        MemorySource({"images": CONTENTS["images"]}, fault="line went dead"),
        MemorySource({"labels": b"wrong"}),
        MemorySource(),
    ]
    assert obtain(tiny_set(*sources), data_dir=None, cache=cache) == CONTENTS
    assert [source.asked for source in sources] == [["images", "labels"], ["labels"], ["labels"]]


def test_no_source_answers(cache, mine):
    sources = [
        MemorySource({}, fault="no connection\nat all", name="first mirror"),
        MemorySource({"labels": b"wrong"}, name="second mirror"),
        MemorySource({"labels": CONTENTS["labels"]}, name="third mirror"),
    ]
    with pytest.raises(DatasetError) as caught:
        obtain(tiny_set(*sources), data_dir=mine, cache=cache)
    head, first, second, third, way_out = str(caught.value).splitlines()
    assert head == "tiny: 1 of 2 files were not found:"
    assert first == "  - first mirror: no connection at all"
    assert second.startswith("  - second mirror: labels: expected 11 bytes with sha256 ")
    assert third == "  - third mirror: does not have images"
    assert way_out.endswith(f"into {mine / 'tiny'} and try again: images")
    # what was good is kept
    assert files_in(mine / "tiny") == {"labels": CONTENTS["labels"]}


def test_what_the_message_says_helps(cache, mine):
    with pytest.raises(DatasetError, match="no source was asked: offline"):
        obtain(tiny_set(), data_dir=mine, cache=cache, offline=True)
    fill(mine / "tiny", GZIPPED)
    assert obtain(tiny_set(), data_dir=mine, cache=cache, offline=True) == CONTENTS


def test_folder_that_cannot_be_made(cache, tmp_path):
    (tmp_path / "file").write_text("")
    source = MemorySource()
    with pytest.raises(DatasetError, match=r"cannot be written.*VARPRO_NN_DATA"):
        obtain(tiny_set(source), data_dir=tmp_path / "file", cache=cache)
    assert source.asked == []


def test_progress_goes_to_standard_error(cache, capsys):
    obtain(tiny_set(MemorySource()), data_dir=None, cache=cache, progress=True)
    assert capsys.readouterr() == ("", "tiny: memory ...\n")


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_fault_in_the_middle_of_a_write_leaves_nothing(cache, monkeypatch, step, fault):
    def fail(*args):
        raise fault

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((DatasetError, KeyboardInterrupt)) as caught:
        obtain(tiny_set(MemorySource()), data_dir=None, cache=cache)
    assert files_in(cache / "tiny") == {}
    if isinstance(fault, OSError):
        assert f"{cache / 'tiny' / 'images'}: cannot be written: No space" in str(caught.value)


def run_python(code, *args):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{os.getcwd()}"}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def test_killed_process_leaves_no_file_under_its_name(cache):
    killed = run_python(
        """
        import os, pathlib, sys
        from tiny_files import MemorySource, tiny_set
        from varpro_nn.data.fetch.store import obtain
        os.fsync = lambda _: os._exit(9)
        obtain(tiny_set(MemorySource()), data_dir=None, cache=pathlib.Path(sys.argv[1]))
        """,
        cache,
    )
    assert killed.wait(60) == 9
    assert not set(CONTENTS) & set(files_in(cache / "tiny"))
    assert obtain(tiny_set(MemorySource()), data_dir=None, cache=cache) == CONTENTS


def test_two_processes_fetch_at_the_same_time(cache):
    """Both are inside their first fetch when either writes."""
    code = """
        import pathlib, sys, time
        from tiny_files import CONTENTS, MemorySource, tiny_set
        from varpro_nn.data.fetch.store import obtain

        cache, me = pathlib.Path(sys.argv[1]), sys.argv[2]

        class Slow(MemorySource):
            def fetch(self, files, *, progress):
                (cache.parent / f"ready-{me}").touch()
                deadline = time.monotonic() + 60
                while len(list(cache.parent.glob("ready-*"))) < 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                return super().fetch(files, progress=progress)

        assert obtain(tiny_set(Slow()), data_dir=None, cache=cache) == CONTENTS
    """
    processes = [run_python(code, cache, me) for me in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert files_in(cache / "tiny") == CONTENTS
