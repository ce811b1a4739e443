"""What `fetch` finds in the cache folder: its own memory, others' files, no room, no rights."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.archive_server import (
    DATA,
    SHA256,
    Handler,
    Server,
    other_file,
    serve,
)
from tests.support.fake_network import (
    LOCK,
    OTHER_DATA,
    PACKED,
    PART,
    REMEMBERED,
    WEIGHTS,
    assert_fetched,
    assert_refused,
    names_in,
    publish,
)
from tinymixnet.engine.weights import BUNDLED, read_weights
from tinymixnet.errors import FetchError
from weights_tools import fetch as fetching

# ---- a network without a published hash: the first good archive is remembered


@pytest.fixture
def unpublished(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache after a first fetch of a network of which neither size nor hash is published."""
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", size=None, sha384=None)
    assert_fetched(cache)
    assert (cache / REMEMBERED).read_text() == f"{SHA256}  {PACKED}\n"
    return cache


def serve_another(handler: Handler) -> None:
    serve(handler, data=OTHER_DATA)


def test_a_server_that_later_sends_another_archive_is_refused(
    unpublished: Path, server: Server
) -> None:
    server.script = [serve_another]
    for name in (PACKED, WEIGHTS):
        (unpublished / name).unlink()
    other_sha256 = hashlib.sha256(OTHER_DATA).hexdigest()
    assert_refused(SHA256, other_sha256, f"remove {unpublished / REMEMBERED} and run again")
    assert names_in(unpublished) == {LOCK, REMEMBERED}
    (unpublished / REMEMBERED).unlink()  # as the error says, for who wants the new one
    fetching.fetch("mixnet-l")
    assert (unpublished / PACKED).read_bytes() == OTHER_DATA
    assert other_sha256 in (unpublished / REMEMBERED).read_text()


def test_the_same_archive_is_taken_again(unpublished: Path, server: Server) -> None:
    for name in (PACKED, WEIGHTS):
        (unpublished / name).unlink()
    assert_fetched(unpublished)
    (unpublished / WEIGHTS).unlink()
    assert_fetched(unpublished)  # from the archive
    assert len(server.requests) == 2


def test_another_archive_put_there_by_hand_is_refused_and_kept(unpublished: Path) -> None:
    (unpublished / WEIGHTS).unlink()
    (unpublished / PACKED).write_bytes(OTHER_DATA)
    assert_refused(
        SHA256, f"remove {unpublished / REMEMBERED}", f"else remove {unpublished / PACKED}"
    )
    assert (unpublished / PACKED).read_bytes() == OTHER_DATA
    (unpublished / PACKED).unlink()
    assert_fetched(unpublished)


def test_weights_of_another_archive_are_refused(unpublished: Path) -> None:
    (unpublished / WEIGHTS).write_bytes(b"mixnet-l " + OTHER_DATA)
    assert_refused(hashlib.sha256(OTHER_DATA).hexdigest(), SHA256, str(unpublished / REMEMBERED))


@pytest.mark.parametrize(
    "text", [b"", b"x" * 64, SHA256[:-1].encode(), b"\xff" * 2000, SHA256.encode() * 2]
)
def test_a_damaged_memory_is_refused(unpublished: Path, server: Server, text: bytes) -> None:
    (unpublished / REMEMBERED).write_bytes(text)
    assert_refused(f"{unpublished / REMEMBERED}: expected one line as sha256sum writes it")
    (unpublished / WEIGHTS).unlink()
    assert_refused(f"{unpublished / REMEMBERED}: expected one line as sha256sum writes it")
    assert len(server.requests) == 1


def test_a_bad_archive_is_not_remembered(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", size=None, sha384=None)
    server.script = [other_file]
    assert_refused("was no mixnet-l checkpoint and is removed")
    assert names_in(cache) == {LOCK}


# ---- what somebody else put into the cache

VICTIM = b"somebody's file"


def put(kind: str, path: Path) -> None:
    """Put something that is no usual file at this path."""
    victim = path.parent.parent / "victim"
    victim.write_bytes(VICTIM)
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            before = os.getcwd()
            os.chdir(path.parent)  # the whole path may be too long for a socket
            bound.bind(path.name)
            os.chdir(before)
    elif kind == "hard link":
        os.link(victim, path)
    else:
        target = {
            "symbolic link": victim,
            "dangling link": victim.with_name("nowhere"),
            "link to itself": path,
            "link to a device": Path("/dev/zero"),
        }
        path.symlink_to(target[kind])


KINDS = ["folder", "FIFO", "socket", "symbolic link", "dangling link", "link to itself",
         "link to a device"]  # fmt: skip
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs links and FIFOs")


@needs_links
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [PACKED, PART, LOCK, REMEMBERED])
def test_what_is_no_usual_file_is_refused_before_the_download(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", sha384=None)
    put(kind, cache / name)
    start = time.perf_counter()
    assert_refused(f"{cache / name} is a", "remove it and run again")
    assert time.perf_counter() - start < 30  # a FIFO or a device would take for ever
    assert server.requests == []
    assert names_in(cache) <= {name, LOCK}
    assert (cache.parent / "victim").read_bytes() == VICTIM
    assert not (cache.parent / "nowhere").exists()


@needs_links
@pytest.mark.parametrize("name", [PART, LOCK])
def test_a_hard_link_is_not_written_to(cache: Path, server: Server, name: str) -> None:
    put("hard link", cache / name)
    assert_refused(f"{cache / name} is a hard link")
    assert (cache.parent / "victim").read_bytes() == VICTIM


@needs_links
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_no_file_are_refused_before_the_download(
    cache: Path, server: Server, kind: str
) -> None:
    put(kind, cache / WEIGHTS)
    start = time.perf_counter()
    assert_refused(f"{cache / WEIGHTS} is not mixnet-l as published", "remove it and run again")
    assert time.perf_counter() - start < 30  # as above
    assert server.requests == []
    assert names_in(cache) == {WEIGHTS}


def test_weights_may_be_a_link_to_the_right_ones(cache: Path, server: Server) -> None:
    elsewhere = cache.parent / "elsewhere.h5"
    elsewhere.write_bytes(b"mixnet-l " + DATA)
    (cache / WEIGHTS).symlink_to(elsewhere)
    assert fetching.fetch("mixnet-l") == cache / WEIGHTS
    assert server.requests == []


@pytest.mark.parametrize("content", [b"", b"mixnet-l ", b"x", b"\0" * 1000])
def test_damaged_weights_are_not_believed(cache: Path, server: Server, content: bytes) -> None:
    (cache / WEIGHTS).write_bytes(content)
    assert_refused(f"{cache / WEIGHTS} is not mixnet-l as published: damaged")
    assert (cache / WEIGHTS).read_bytes() == content
    assert server.requests == []


def test_weights_of_another_network_are_not_believed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled file is MixNet-L, but with 200 classes; what reads it is the real thing."""
    monkeypatch.setattr(fetching, "read_weights", read_weights)
    shutil.copy(BUNDLED, cache / WEIGHTS)
    assert_refused("expected mixnet-l with 1000 classes, found mixnet-l with 200")
    archive = fetching.ARCHIVES["mixnet-l"]
    monkeypatch.setattr(fetching, "ARCHIVES", {"mixnet-s": archive})
    (cache / WEIGHTS).rename(cache / "mixnet-s.h5")
    with pytest.raises(FetchError, match="expected mixnet-s with 1000 classes, found mixnet-l"):
        fetching.fetch("mixnet-s")


def test_control_characters_in_the_name_of_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cache / "a\x1b[31m\nb"
    monkeypatch.setenv("TINYMIXNET_HOME", str(folder))
    fetching.fetch("mixnet-l")
    fetching.fetch("mixnet-l")
    (folder / WEIGHTS).write_bytes(b"")
    assert_refused(r"a\x1b[31m\nb")
    assert capsys.readouterr().err.replace("\n", "").isprintable()


def test_leftovers_of_a_killed_process_are_removed(cache: Path) -> None:
    old, new, other = (cache / f".{name}.tmp" for name in ("mixnet-l.h5.1", "mixnet-l.h5.2", "x"))
    for path in (old, new, other):
        path.write_bytes(b"half a file")
    for path in (old, other):
        os.utime(path, (0, 0))
    fetching.fetch("mixnet-l")
    assert names_in(cache) == {PACKED, WEIGHTS, LOCK, new.name, other.name}


# ---- a cache that cannot be written


@needs_links
@pytest.mark.parametrize("kind", ["file", "dangling link", "FIFO", "link to itself"])
def test_a_cache_that_is_no_folder(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    home = cache / "home"
    if kind == "file":
        home.write_bytes(b"x")
    else:
        put(kind, home)
    monkeypatch.setenv("TINYMIXNET_HOME", str(home))
    assert_refused(f"cannot write in the cache folder {home}", "TINYMIXNET_HOME")
    assert server.requests == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users and rights")
@pytest.mark.parametrize("there", [True, False])
def test_a_cache_without_the_right_to_write(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """An error, unless the weights are there already. Root becomes somebody else for this test."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv("TINYMIXNET_HOME", name)
        if there:
            (Path(name) / WEIGHTS).write_bytes(b"mixnet-l " + DATA)
        os.chmod(name, 0o555)
        if me == 0:
            os.seteuid(65534)
        try:
            if there:
                fetching.fetch("mixnet-l")
            else:
                assert_refused("ermission denied", "TINYMIXNET_HOME")
        finally:
            os.seteuid(me)
            os.chmod(name, 0o755)
    assert server.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of a file's size")
@pytest.mark.parametrize("limit", [100_000, 200_001])
def test_a_full_disk(cache: Path, server: Server, limit: int) -> None:
    """In the download, and in the extraction: what is whole or can be resumed is kept."""
    import resource

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))  # bytes of any file
    try:
        message = assert_refused(f"cannot write in the cache folder {cache}", "Make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "File too large" in message
    kept = PART if limit < len(DATA) else PACKED
    assert names_in(cache) == {LOCK, kept}
    assert (cache / kept).read_bytes() == DATA[:limit]
    assert_fetched(cache)
    assert [first for _, first in server.requests] == ([0, limit] if kept == PART else [0])
