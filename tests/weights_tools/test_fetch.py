"""Fetch and its cache folder, against a real server on 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.archive_server import (
    DATA,
    SECONDS,
    SHA256,
    SHA384,
    Behaviour,
    Handler,
    Server,
    announce_less,
    announce_more,
    bare_range,
    chunked,
    chunked_and_cut,
    claim_range,
    cut,
    cut_at_once,
    drip,
    hang,
    hang_up,
    hang_without_answer,
    ignore_range,
    ignore_range_and_cut,
    no_length,
    no_length_and_less,
    no_length_and_more,
    no_range,
    other_file,
    redirect,
    redirect_forever,
    serve,
    shorter_file,
    status,
    unasked_range,
    wrong_range,
)
from tests.support.fake_network import (
    LOCK,
    PACKED,
    PART,
    REMEMBERED,
    WEIGHTS,
    assert_fetched,
    names_in,
    publish,
)
from tests.support.shared import SHARED
from tinymixnet.errors import CheckpointError, FetchError
from weights_tools import cache_files, download, http_get
from weights_tools import fetch as fetching

REPOSITORY = Path(__file__).parents[2]
LONG = 60  # seconds after which something hangs, and no measure of what is slow


# ---- what works


@pytest.mark.parametrize("behave", [serve, no_length, chunked, redirect])
def test_a_good_server(cache: Path, server: Server, behave: Behaviour) -> None:
    server.script = [behave]
    assert_fetched(cache)
    assert server.requests[0] == ("/one/mixnet-l.tar.gz", 0)


def test_what_is_there_is_not_fetched_again(
    cache: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_fetched(cache)
    assert "already there" not in capsys.readouterr().err
    assert_fetched(cache)
    assert f"{cache / WEIGHTS} is already there" in capsys.readouterr().err
    (cache / WEIGHTS).unlink()
    assert_fetched(cache)  # from the archive
    assert len(server.requests) == 1


def test_an_archive_put_there_by_hand_is_used(cache: Path, server: Server) -> None:
    (cache / PACKED).write_bytes(DATA)
    assert_fetched(cache)
    assert server.requests == []


@pytest.mark.parametrize("bad", [DATA[:-1], DATA[::-1], DATA + b"x", b""])
def test_a_wrong_archive_put_there_by_hand_is_replaced(
    cache: Path, capsys: pytest.CaptureFixture[str], bad: bytes
) -> None:
    (cache / PACKED).write_bytes(bad)
    assert_fetched(cache)
    assert f"{cache / PACKED}: expected" in capsys.readouterr().err


def test_a_published_size_is_checked_without_a_hash_too(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", sha384=None)
    (cache / PACKED).write_bytes(DATA[:-1])
    assert_fetched(cache)


@pytest.mark.parametrize(
    ("behave", "requests"),
    [
        (serve, [1000]),
        (ignore_range, [1000]),
        (wrong_range, [1000, 0]),
        (bare_range, [1000, 0]),
        (no_range, [1000, 0]),
        (claim_range("bytes 999-199999/200000", 199_000), [1000, 0]),  # wrong start
        (claim_range("bytes 1000-199998/200000", 199_000), [1000, 0]),  # wrong end
        (claim_range("bytes 1000-200000/200001", 199_001), [1000, 0]),  # another file
        (claim_range("bytes 1000-199999/200000", 198_999), [1000, 0]),  # denied by the length
        (claim_range("bytes 1000-199999/*", 199_000), [1000, 0]),
        (claim_range(f"bytes 1000-{'9' * 5000}/200000", 199_000), [1000, 0]),
        (claim_range("bytes 1000-199999/200000", None, status=200), [1000]),  # not a range at all
    ],
)
def test_a_part_left_behind(
    cache: Path, server: Server, behave: Behaviour, requests: list[int]
) -> None:
    (cache / PART).write_bytes(DATA[:1000])
    server.script = [behave]
    assert_fetched(cache)
    assert [first for _, first in server.requests] == requests


def test_a_complete_part_needs_no_server(cache: Path, server: Server) -> None:
    (cache / PART).write_bytes(DATA)
    assert_fetched(cache)
    assert server.requests == []


def test_a_part_longer_than_the_archive_is_dropped(cache: Path, server: Server) -> None:
    (cache / PART).write_bytes(DATA + b"x")
    assert_fetched(cache)
    assert server.requests == [("/one/mixnet-l.tar.gz", 0)]


def test_a_part_of_another_file_does_not_spoil_the_result(cache: Path, server: Server) -> None:
    (cache / PART).write_bytes(b"x" * 1000)
    assert_fetched(cache)  # the hash shows it, and the same server starts from nothing
    assert server.requests == [("/one/mixnet-l.tar.gz", 1000), ("/one/mixnet-l.tar.gz", 0)]


def test_a_connection_that_breaks_off_twice_is_resumed(cache: Path, server: Server) -> None:
    server.script = [cut, cut, serve]
    assert_fetched(cache)
    assert [first for _, first in server.requests] == [0, 70_000, 140_000]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_that_is_busy_is_asked_again_after_a_pause(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(download, "PAUSES", (0.15,))
    server.script = [status(code), serve]
    start = time.perf_counter()
    assert_fetched(cache)
    assert time.perf_counter() - start >= 0.15
    assert [path for path, _ in server.requests] == ["/one/mixnet-l.tar.gz"] * 2


@pytest.mark.parametrize("behave", [hang, hang_without_answer])
def test_a_server_that_hangs_is_left(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, behave: Behaviour
) -> None:
    usual = http_get.TIMEOUT
    monkeypatch.setattr(http_get, "TIMEOUT", 0.2)

    def be_patient_again(_: float) -> None:
        monkeypatch.setattr(http_get, "TIMEOUT", usual)

    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=be_patient_again))
    server.script = [behave, serve]
    start = time.perf_counter()
    assert_fetched(cache)
    assert time.perf_counter() - start < SECONDS / 2  # then the server would end by itself
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "behave",
    [status(404), status(204), announce_more, announce_less, other_file, shorter_file,
     no_length_and_more, unasked_range, redirect_forever],
)  # fmt: skip
def test_a_bad_server_is_followed_by_the_mirror(
    cache: Path, server: Server, behave: Behaviour
) -> None:
    server.script = [lambda handler: (serve if "/two/" in handler.path else behave)(handler)]
    assert_fetched(cache)
    assert server.requests[-1] == ("/two/mixnet-l.tar.gz", 0)


def test_the_mirror_variable_replaces_the_servers(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYMIXNET_MIRROR", f"{server.url}/mine/")
    server.script = [status(404)]
    with pytest.raises(FetchError, match=f"{server.url}/mine/mixnet-l.tar.gz.* 404 "):
        fetching.fetch("mixnet-l")
    server.script = [serve]
    assert_fetched(cache)
    assert server.requests == [("/mine/mixnet-l.tar.gz", 0)] * 2


# ---- what fails, and what it leaves behind


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (status(404), "404"),
        (status(500), "500.*given up after 4 tries"),
        (status(204), "204"),
        (announce_more, f"expected {len(DATA)} bytes, the server offers {len(DATA) + 5}"),
        (announce_less, f"expected {len(DATA)} bytes, the server offers {len(DATA) - 5}"),
        (shorter_file, f"expected {len(DATA)} bytes, the server offers 1000"),
        (no_length_and_more, f"expected {len(DATA)} bytes, the server sends more"),
        (other_file, f"SHA-384 {SHA384}.*{hashlib.sha384(DATA[::-1]).hexdigest()}"),
        (unasked_range, "206"),
        (redirect_forever, "redirect"),
        (cut_at_once, "after 0 of 200000 bytes"),
        (hang_up, "no answer"),
    ],
)
def test_a_bad_server_leaves_nothing(
    cache: Path, server: Server, behave: Behaviour, said: str
) -> None:
    server.script = [behave]
    with pytest.raises(FetchError) as caught:
        fetching.fetch("mixnet-l")
    message = str(caught.value)
    assert re.search(said, message), message
    assert f"{server.url}/one/mixnet-l.tar.gz" in message
    assert names_in(cache) == {LOCK}


@pytest.mark.parametrize(
    ("behave", "kept"), [(ignore_range_and_cut, 70_000), (no_length_and_less, len(DATA) - 9)]
)
def test_a_server_that_always_breaks_off(
    cache: Path, server: Server, behave: Behaviour, kept: int
) -> None:
    server.script = [behave]
    with pytest.raises(FetchError, match=f"{kept} bytes are kept in .*{PART}; running again"):
        fetching.fetch("mixnet-l")
    assert names_in(cache) == {LOCK, PART}
    assert (cache / PART).read_bytes() == DATA[:kept]
    server.script = [serve]
    assert_fetched(cache)
    assert server.requests[-1] == ("/one/mixnet-l.tar.gz", kept)


def test_offline_it_fails_at_once_and_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Server()  # takes a free port and gives it back
    closed.server_close()
    pauses: list[float] = []
    monkeypatch.setattr(download, "PAUSES", (5.0, 5.0))
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=pauses.append))
    publish(monkeypatch, f"{closed.url}/one/mixnet-l.tar.gz", f"{closed.url}/two.tar.gz")
    with pytest.raises(FetchError) as caught:
        fetching.fetch("mixnet-l")
    assert pauses == []
    for fact in (f"{closed.url}/one/mixnet-l.tar.gz", SHA384, f"put it at {cache / PACKED} "):
        assert fact in str(caught.value)
    assert names_in(cache) == {LOCK}


def test_offline_a_part_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Server()
    closed.server_close()
    publish(monkeypatch, f"{closed.url}/mixnet-l.tar.gz")
    (cache / PART).write_bytes(DATA[:1000])
    with pytest.raises(FetchError, match="1000 bytes are kept"):
        fetching.fetch("mixnet-l")
    assert (cache / PART).read_bytes() == DATA[:1000]


def test_an_unknown_name(cache: Path) -> None:
    with pytest.raises(FetchError, match=r"'mixnet-xl'.*mixnet-l"):
        fetching.fetch("mixnet-xl")
    assert names_in(cache) == set()


@pytest.mark.parametrize(
    "mirror",
    ["ftp://127.0.0.1/x", "127.0.0.1:80", "http://127.0.0.1:port", "http://[::1", "http://a b/"],
)
def test_a_mirror_variable_that_is_no_url(
    cache: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("TINYMIXNET_MIRROR", mirror)
    with pytest.raises(FetchError) as caught:
        fetching.fetch("mixnet-l")
    assert mirror in str(caught.value)
    assert names_in(cache) == {LOCK}


def test_a_cache_that_cannot_be_made(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TINYMIXNET_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(FetchError, match=r"file/cache.*TINYMIXNET_HOME"):
        fetching.fetch("mixnet-l")
    assert server.requests == []


# ---- archives whose hash or size is not published


@pytest.mark.parametrize("size", [len(DATA), None])
def test_without_a_published_hash_it_says_so(
    cache: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: int | None,
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", size=size, sha384=None)
    (cache / PART).write_bytes(DATA[:1000])
    assert_fetched(cache)
    assert server.requests == [("/mixnet-l.tar.gz", 1000)]
    said = capsys.readouterr().err
    missing = "size or hash" if size is None else "hash"
    assert f"no {missing} of mixnet-l was ever published" in said
    assert (f"the size, {len(DATA)} bytes, as published" in said) == bool(size)
    assert "TensorFlow's own checksums" in said
    assert f"its SHA-256 is {SHA256}, remembered in {cache / REMEMBERED}" in said
    assert (cache / REMEMBERED).read_text() == f"{SHA256}  {PACKED}\n"


def test_without_any_hash_a_bad_archive_does_not_stay(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", size=None, sha384=None)
    server.script = [other_file, serve]
    with pytest.raises(FetchError, match="was no mixnet-l checkpoint and is removed"):
        fetching.fetch("mixnet-l")
    assert names_in(cache) == {LOCK}
    assert_fetched(cache)


def test_a_verified_archive_stays_when_extracting_fails(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CheckpointError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(fetching, "extract", fail)
        with pytest.raises(CheckpointError, match="a fault of ours"):
            fetching.fetch("mixnet-l")
    assert names_in(cache) == {LOCK, PACKED}
    assert_fetched(cache)


@pytest.mark.parametrize("behave", [serve, no_length, chunked])
def test_without_a_published_size_there_is_a_cap(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, behave: Behaviour
) -> None:
    publish(monkeypatch, f"{server.url}/mixnet-l.tar.gz", size=None, sha384=None)
    monkeypatch.setattr(download, "MAX_BYTES", len(DATA) - 1)
    server.script = [behave]
    with pytest.raises(FetchError, match=f"{len(DATA) - 1} bytes"):
        fetching.fetch("mixnet-l")
    assert names_in(cache) == {LOCK}
    monkeypatch.setattr(download, "MAX_BYTES", len(DATA))
    assert_fetched(cache)


# ---- whatever the servers do

ANYTHING: list[Behaviour] = [
    serve, ignore_range, ignore_range_and_cut, cut, cut_at_once, hang_up, announce_more,
    announce_less, no_length, no_length_and_more, no_length_and_less, chunked, chunked_and_cut,
    other_file, shorter_file, wrong_range, unasked_range, bare_range, no_range, status(404),
    status(500), redirect,
]  # fmt: skip
PARTS = [b"", DATA[:1], DATA[:100_000], DATA[:-1], DATA, DATA + b"x", b"x" * 50_000, DATA[::-1]]


def test_any_misbehaviour_ends_in_the_right_file_or_an_error(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an error leaves no more than the lock and a part, from which a good server finishes."""

    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.sampled_from(ANYTHING), min_size=1, max_size=7), st.sampled_from(PARTS))
    def check(script: list[Behaviour], part: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=cache) as name:
            folder = Path(name)
            monkeypatch.setenv("TINYMIXNET_HOME", name)
            if part:
                (folder / PART).write_bytes(part)
            server.script = list(script)
            try:
                assert_fetched(folder)
            except FetchError:
                assert names_in(folder) <= {LOCK, PART}
                assert cache_files.size_of(folder / PART) <= len(DATA)
                server.script = [serve]
                assert_fetched(folder)

    check()


# ---- several processes

SCRIPT = """
import json, sys
from tests.support.fake_network import fake_extract, fake_read_weights
from weights_tools import fetch
url, size, sha384 = json.loads(sys.argv[1])
fetch.ARCHIVES = {"mixnet-l": fetch.Archive((url,), size, sha384)}
fetch.extract, fetch.read_weights = fake_extract, fake_read_weights
print(fetch.fetch("mixnet-l"))
"""


def start_process(server: Server) -> subprocess.Popen[str]:
    archive = json.dumps([f"{server.url}/mixnet-l.tar.gz", len(DATA), SHA384])
    command = [sys.executable, "-c", SCRIPT, archive]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_two_processes_make_one_download(cache: Path, server: Server) -> None:
    def wait_and_serve(handler: Handler) -> None:
        server.release.wait(LONG)
        serve(handler)

    server.script = [wait_and_serve]
    first = start_process(server)
    wait_until(lambda: bool(server.requests))
    second = start_process(server)
    assert second.stderr is not None
    line = second.stderr.readline()
    server.release.set()
    errors = ""
    for process in (first, second):
        output, errors = process.communicate(timeout=LONG)
        assert process.returncode == 0, errors
        assert output.strip() == str(cache / WEIGHTS)
    assert line == "fetch: another process is fetching mixnet-l; waiting for it\n"
    assert errors == f"fetch: {cache / WEIGHTS} is already there\n"  # the second's
    assert len(server.requests) == 1
    assert (cache / WEIGHTS).read_bytes() == b"mixnet-l " + DATA
    assert names_in(cache) == {PACKED, WEIGHTS, LOCK}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_leaves_a_part_and_no_lock(cache: Path, server: Server) -> None:
    server.script = [hang, serve]
    process = start_process(server)
    wait_until(lambda: (cache / PART).exists() and (cache / PART).stat().st_size > 0)
    process.kill()
    process.communicate(timeout=LONG)
    arrived = (cache / PART).read_bytes()
    assert DATA.startswith(arrived)
    assert names_in(cache) == {LOCK, PART}
    start = time.perf_counter()
    assert_fetched(cache)
    assert time.perf_counter() - start < LONG  # did not wait for the dead process's lock
    assert server.requests[1:] == [("/one/mixnet-l.tar.gz", len(arrived))]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_keeps_what_came(cache: Path, server: Server) -> None:
    server.script = [drip, serve]
    process = start_process(server)
    wait_until(lambda: (cache / PART).exists() and (cache / PART).stat().st_size > 9)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LONG)
    arrived = (cache / PART).read_bytes()
    assert len(arrived) > 9
    assert DATA.startswith(arrived)
    assert f"stopped; {len(arrived)} bytes are kept in {cache / PART}" in errors
    assert names_in(cache) == {LOCK, PART}
    assert_fetched(cache)
    assert server.requests[1:] == [("/one/mixnet-l.tar.gz", len(arrived))]


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_only_on_a_terminal(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tqdm")
    assert_fetched(cache)
    assert "%" not in capsys.readouterr().err
    for file in cache.iterdir():
        file.unlink()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert_fetched(cache)
    assert "100%|" in terminal.getvalue()


def test_without_tqdm_a_line_for_every_tenth(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(http_get, "PIECE", 7001)
    assert_fetched(cache)
    tenths = re.findall(r"fetch: (\d+) % of 200000 bytes\n", capsys.readouterr().err)
    assert tenths == [str(tenth) for tenth in range(10, 101, 10)]


# ---- the published facts


def test_the_table_is_that_of_the_collected_facts() -> None:
    facts = SHARED / "mixnet-facts.md"
    if not facts.exists():
        pytest.skip("no ../shared/mixnet-facts.md beside the repository")
    text = " ".join(facts.read_text(encoding="utf-8").split())
    large = re.search(r"-l\.tar\.gz: ([\d,]+) bytes, SHA-384 (\w{96}); mirror: (\S+)\. ", text)
    small = re.search(r"-s\.tar\.gz: ([\d,]+) bytes \(hash not published\)", text)
    assert large is not None
    assert small is not None
    table = fetching.ARCHIVES
    assert table["mixnet-l"][1:3] == (int(large[1].replace(",", "")), large[2])
    assert table["mixnet-l"].urls[1] == f"https://{large[3]}"
    assert table["mixnet-s"][1:3] == (int(small[1].replace(",", "")), None)
    assert table["mixnet-m"][1:3] == (None, None)
    for name, archive in table.items():
        official = f"https://storage.googleapis.com/cloud-tpu-checkpoints/mixnet/{name}.tar.gz"
        assert archive.urls[0] == official


def test_a_real_checkpoint_ends_as_loadable_weights(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tinymixnet
    from weights_tools.extract import extract

    reference = SHARED / "reference" / "mixnet-s"
    if not reference.exists():
        pytest.skip("no ../shared/reference/mixnet-s beside the repository")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as tar:
        for file in sorted(reference.glob("*c*kp*t*")):
            tar.add(file, f"mixnet-s/{file.name}")
    data = packed.getvalue()
    server.script = [lambda handler: serve(handler, data=data)]
    digest = hashlib.sha384(data).hexdigest()
    archive = fetching.Archive((f"{server.url}/mixnet-s.tar.gz",), len(data), digest)
    monkeypatch.setattr(fetching, "ARCHIVES", {"mixnet-s": archive})
    monkeypatch.setattr(fetching, "extract", extract)
    assert fetching.fetch("mixnet-s") == cache / "mixnet-s.h5"
    assert tinymixnet.load("mixnet-s") is not None
    assert names_in(cache) == {"mixnet-s.tar.gz", "mixnet-s.h5", "mixnet-s.lock"}
