"""Servers that send without end, too slowly, or lies: each ends in an error soon, and is harmless.

All of it is against a real server on 127.0.0.1. For those that are too slow, a minute has half a
second (`impatient`).
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.archive_server import (
    DATA,
    Behaviour,
    Handler,
    Server,
    chunk,
    drip,
    moved,
    raw,
    serve,
    status,
)
from tests.support.fake_network import LOCK, PART, publish
from tinymixnet.errors import FetchError
from weights_tools import download, fetch, http_get
from weights_tools.cache_files import size_of
from weights_tools.messages import printable, show_url

SOON = 15.0  # seconds; without an end, the server's SECONDS pass. Usual are some milliseconds
OK = b"HTTP/1.1 200 OK\r\n"
ZEROS = bytes(1 << 16)
MINUTE = http_get.MINUTE
SECRETS = ("s3cret", "t0ken")


def length(text: str) -> Behaviour:
    """A Content-Length of this text, and the right file."""
    return raw(OK + f"Content-Length: {text}\r\n\r\n".encode() + DATA)


def good_until_the_trailers(endless: bytes, pause: float = 0.0) -> Behaviour:
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    return raw(head + b"%x\r\n%s\r\n0\r\n" % (len(DATA), DATA), endless, pause)


def gzipped(handler: Handler) -> None:
    data = gzip.compress(DATA)
    handler.head(200, Content_Encoding="gzip", Content_Length=len(data))
    handler.wfile.write(data)


def one_byte_chunks(handler: Handler) -> None:
    handler.wfile.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    handler.wfile.write(b"".join(b"1;%s\r\n%c\r\n" % (b"x" * 200, byte) for byte in DATA[:20_000]))


ENDLESS = {
    "body": raw(OK + b"\r\n", ZEROS),
    "body with a length": raw(OK + b"Content-Length: 200000\r\n\r\n", ZEROS),
    "body in chunks": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8\r\n12345678\r\n"),
    "body of 404": raw(b"HTTP/1.1 404 No\r\n\r\n", ZEROS),
    "body of 500": raw(b"HTTP/1.1 500 No\r\n\r\n", ZEROS),
    "body of 416": raw(b"HTTP/1.1 416 No\r\n\r\n", ZEROS),
    "body of a redirect": raw(b"HTTP/1.1 302 No\r\nLocation: /x\r\n\r\n", ZEROS),
    "body of a redirect to itself": raw(b"HTTP/1.1 302 No\r\nLocation: ?\r\n\r\n", ZEROS),
    "100 Continue": raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 with headers": raw(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    "status line": raw(b"HTTP/1.1 200 ", b"OK" * 1000),
    "headers": raw(OK, b"X-Header: value\r\n"),
    "one header": raw(OK + b"X-Header: ", b"value" * 1000),
    "nothing but ends of lines": raw(b"", b"\r\n"),
    "zeros": raw(b"", ZEROS),
    "chunk of size -1": chunk("-1", ZEROS),
    "line of a chunk's size": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1000),
    "extension of a chunk": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 1000),
}
SLOW = {
    "100 Continue": raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "status line": raw(b"", b"HTTP/1.1 200 OK", 0.02),
    "header": raw(OK, b"X-Header: value\r\n", 0.02),
    "body": drip,
    "body without a length": raw(OK + b"\r\n", DATA, 0.02),
    "body in chunks": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02),
    "one long chunk": chunk("10000", DATA, 0.02),
    "line of a chunk's size": raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0", 0.02),
    "redirect": raw(b"HTTP/1.1 302 Found\r\nLocation: ", b"/moved", 0.02),
    "error page": raw(b"HTTP/1.1 500 ", b"Error ", 0.02),
}
LIES = {
    "chunk size -5": (chunk("-5"), "a chunk's size, found '-5'"),
    "chunk size of 15 digits": (chunk("f" * 15, ZEROS), "sends more"),
    "chunk size of 5000 digits": (chunk("f" * 5000), "a chunk's size"),
    "chunk size +5": (chunk("+5"), "a chunk's size"),
    "chunk size 0x5": (chunk("0x5"), "a chunk's size"),
    "chunk size 1_0": (chunk("1_0"), "a chunk's size"),
    "chunk size empty": (chunk(""), "a chunk's size"),
    "chunk size no number": (chunk("\x1b[31mred"), r"found '\x1b[31mred'"),
    "chunk longer than its size": (chunk("3", b"12345678"), "longer than it says"),
    "length -5": (length("-5"), "Content-Length is '-5'"),
    "length huge": (length("9" * 17), "the server offers 99999999999999999"),
    "length of 5000 digits": (length("9" * 5000), "Content-Length is '999"),
    "length +200000": (length("+200000"), "Content-Length is '+200000'"),
    "length 200_000": (length("200_000"), "Content-Length is '200_000'"),
    "length in other digits": (length("٢"), "Content-Length is"),
    "two lengths": (length("200000\r\nContent-Length: 5"), "Content-Length is '200000, 5'"),
    "length too short": (length("199999"), "expected 200000 bytes, the server offers 199999"),
    "length 0": (length("0"), "expected 200000 bytes, the server offers 0"),
    "encoding gzip": (gzipped, "(Content-Encoding: gzip)"),
    "transfer gzip": (raw(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n"), "'gzip, chunked'"),
    "HTTP/2": (raw(b"HTTP/2 200 OK\r\n\r\n"), "expected an answer in HTTP/1"),
    "status 1e3": (raw(b"HTTP/1.1 1e3 OK\r\n\r\n"), "expected an answer in HTTP/1"),
    "status -200": (raw(b"HTTP/1.1 -200 OK\r\n\r\n"), "expected an answer in HTTP/1"),
    "SSH": (raw(b"SSH-2.0-\x1b[31mOpenSSH\r\n"), r"found 'SSH-2.0-\x1b[31mOpenSSH'"),
    "nothing": (raw(b""), "no answer"),
    "half a head": (raw(OK + b"Content-"), "no answer"),
    "redirect to nowhere": (raw(b"HTTP/1.1 302 Found\r\n\r\n"), "which is not http"),
    "redirect to a file": (moved("file:///etc/passwd"), "file:///etc/passwd, which is not http"),
    "redirect to FTP": (moved("ftp://127.0.0.1/x"), "ftp://127.0.0.1/x, which is not http"),
    "redirect to data": (moved("data:text/plain,x", 308), "which is not http"),
    "redirect to FILE": (moved("FILE:/etc/passwd", 301), "which is not http"),
    "redirect with a bad host": (moved("http://[::1/x", 307), "which is not http"),
    "redirect with a bad port": (moved("http://127.0.0.1:x1/"), "not a usable URL"),
    "redirect without a host": (moved("http:///x", 303), "redirect"),
    "redirect to a terminal": (moved("file:\x1b]0;title\x07"), "which is not http"),
    "many redirects": (moved("?"), "more than 10 redirects"),
    "reason with escapes": (raw(b"HTTP/1.1 404 \x1b[2J\x9b1m\rx\r\n\r\n"), r"404 \x1b[2J\x9b1m\rx"),
    "long reason": (raw(b"HTTP/1.1 500 " + b"x" * 5000 + b"\r\n\r\n"), "500 xxx"),
}


def assert_harmless(cache: Path, server: Server) -> str:
    """`fetch` ends in an error soon; what it left does not disturb a good server afterwards."""
    start = time.perf_counter()
    with pytest.raises(FetchError) as caught:
        fetch.fetch("mixnet-l")
    assert time.perf_counter() - start < SOON
    assert server.sent < 128 << 20  # what nobody read: the system's buffers, of 11 connections
    message = str(caught.value)
    assert message.isprintable(), message
    assert len(message) < 3000
    assert {path.name for path in cache.iterdir()} <= {LOCK, PART}
    server.script = [serve]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http_get, "MINUTE", MINUTE)  # a good server has a whole one
        assert fetch.fetch("mixnet-l").read_bytes() == b"mixnet-l " + DATA
    return message


@pytest.fixture
def one_server(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"{server.url}/mixnet-l.tar.gz"
    publish(monkeypatch, url)
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(download, "PAUSES", (0.0,))
    return url


@pytest.mark.parametrize("kind", ENDLESS)
def test_without_an_end(one_server: str, cache: Path, server: Server, kind: str) -> None:
    server.script = [ENDLESS[kind]]
    tracemalloc.start()
    message = assert_harmless(cache, server)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert one_server in message
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", ["body", "body in chunks", "chunk of size -1"])
def test_without_an_end_and_without_a_published_size(
    one_server: str, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    publish(monkeypatch, one_server, size=None, sha384=None)
    server.script = [ENDLESS[kind]]
    assert_harmless(cache, server)


@pytest.mark.parametrize("endless", [b"X-Trailer: value\r\n", b"x" * 1000])
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_trailers_are_not_waited_for(
    one_server: str, server: Server, endless: bytes, pause: float
) -> None:
    server.script = [good_until_the_trailers(endless, pause)]
    start = time.perf_counter()
    assert fetch.fetch("mixnet-l").read_bytes() == b"mixnet-l " + DATA
    assert time.perf_counter() - start < SOON


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", SLOW)
def test_too_slowly(one_server: str, cache: Path, server: Server, kind: str) -> None:
    server.script = [SLOW[kind]]
    assert "too slow, expected" in assert_harmless(cache, server)
    assert len([first for _, first in server.requests]) <= 3  # the slow server is asked once


def test_what_came_slowly_is_kept(
    one_server: str, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some bytes at once, and then one by one."""
    head = OK + f"Content-Length: {len(DATA)}\r\n\r\n".encode()
    server.script = [raw(head + DATA[:10], DATA[10:], 0.02)]
    with monkeypatch.context() as patched:
        patched.setattr(http_get, "MINUTE", 0.5)
        with pytest.raises(FetchError, match=r"bytes are kept in .*\.part; running again resumes"):
            fetch.fetch("mixnet-l")
    kept = (cache / PART).read_bytes()
    assert 10 <= len(kept) <= 10 + server.sent < len(DATA)
    assert DATA.startswith(kept)
    server.script = [serve]
    fetch.fetch("mixnet-l")
    assert server.requests[-1][1] == len(kept)


def test_slow_but_not_too_slow(
    one_server: str, cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a minute in all is no fault as long as enough comes in each.

    By a clock of the server's, which moves on by most of a minute when a piece has arrived.
    """
    seconds, piece = 0.0, 10_000
    monkeypatch.setattr(http_get, "MINUTE_BYTES", piece)
    monkeypatch.setattr(http_get, "time", SimpleNamespace(monotonic=lambda: seconds))

    def steady(handler: Handler) -> None:
        nonlocal seconds
        handler.head(200, Content_Length=len(DATA))
        for start in range(0, len(DATA), piece):
            handler.wfile.write(DATA[start : start + piece])
            while start + piece < len(DATA) and size_of(cache / PART) < start + piece:
                if handler.server.release.wait(0.001):
                    return
            seconds += 0.9 * MINUTE

    server.script = [steady]
    fetch.fetch("mixnet-l")
    assert seconds > 10 * MINUTE
    assert len(server.requests) == 1


def test_chunks_of_one_byte(one_server: str, cache: Path, server: Server) -> None:
    server.script = [one_byte_chunks]
    assert "after 20000 of 200000 bytes" in assert_harmless(cache, server)
    assert server.requests[-1][1] == 20_000


@pytest.mark.parametrize("kind", LIES)
def test_lies(one_server: str, cache: Path, server: Server, kind: str) -> None:
    server.script = [LIES[kind][0]]
    assert LIES[kind][1] in assert_harmless(cache, server)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
PARTS_OF_ANSWERS = [
    OK, CHUNKED, b"HTTP/1.1 100 \r\n\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"200000\r\n",
    b"5\r\n", b"-1", b"0\r\n", DATA[:5], DATA,
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([b"", OK, CHUNKED]),
    st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(PARTS_OF_ANSWERS)), max_size=12),
)
def test_any_bytes_at_all(start: bytes, pieces: list[bytes]) -> None:
    """No answer ends in anything but our errors or a body that was sent."""
    sent = b"".join([start, *pieces])
    client, other = socket.socketpair()

    def send() -> None:
        with contextlib.suppress(BrokenPipeError), other:
            other.sendall(sent)

    sender = threading.Thread(target=send)
    sender.start()
    with client, contextlib.suppress(FetchError, http_get.BrokenOff):
        connection = http_get._Connection(client, time.monotonic() + 5, "x")
        answer = http_get.Answer(connection, "x", contextlib.ExitStack())
        assert sum(map(len, answer.pieces())) < len(sent)
    sender.join()


# ---- what is shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/x", "http://host/x"),
        ("http://user:s3cret@host:80/x", "http://***@host:80/x"),
        ("http://user:s3/cr@et@host/x", "http://***@host/x"),
        ("http://user:s3cret?t0ken@host/x", "http://***@host/x"),
        ("user:s3cret@host/x", "***@host/x"),
        ("http:/user:s3cret@host/x", "http:/***@host/x"),
        ("http://user:s3\ncret@host/x", "http://***@host/x"),
        ("https://host/x?signature=t0ken", "https://host/x?..."),
        ("http://host/\x1b[31m\u202ex", r"http://host/\x1b[31m\u202ex"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert show_url(url) == shown


@settings(max_examples=50)
@given(st.text())
def test_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


@pytest.mark.parametrize(
    "mirror",
    [
        "{server}/x",
        "{server}/x?t0ken=t0ken",
        "ftp://user:s3cret@127.0.0.1/x",
        "user:s3cret@127.0.0.1/x",
        "http://user:s3cret@127.0.0.1:1/x",
        "http://user:s3cret@127.0.0.1:port/x",
        "http://user:s3cret@[::1/x",
        "http://user:s3cret/x",
        "http://user:s3cret@\x1b[31m/x",
        "http://user:s3cret@127.0.0.1:port\r\nHost: evil/x",
        "http://user:s3cret@\N{LATIN SMALL LETTER E WITH ACUTE}.invalid/x",
    ],
)
def test_a_mirror_whose_password_is_not_shown(
    one_server: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mirror: str,
) -> None:
    with_password = server.url.replace("http://", "http://user:s3cret@")
    monkeypatch.setenv("TINYMIXNET_MIRROR", mirror.format(server=with_password))
    server.script = [status(404)]
    with pytest.raises(FetchError) as caught:
        fetch.fetch("mixnet-l")
    chain, error = str(caught.value), caught.value.__cause__ or caught.value.__context__
    said = chain + capsys.readouterr().err.replace("\n", "")
    assert said.isprintable()
    while error is not None and not error.__suppress_context__:
        said, error = said + str(error), error.__cause__ or error.__context__
    for secret in SECRETS:
        assert secret not in said or mirror == "http://user:s3cret/x"  # a port, for all we know


def test_a_password_is_sent_but_not_shown(
    one_server: str,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sent = []

    def serve_and_look(handler: Handler) -> None:
        sent.append(handler.headers["Authorization"])
        serve(handler)

    with_password = server.url.replace("http://", "http://us%65r:s3cret@")
    server.script = [moved(f"{with_password}/x"), serve_and_look]
    fetch.fetch("mixnet-l")
    assert sent == ["Basic dXNlcjpzM2NyZXQ="]  # user:s3cret
    assert "s3cret" not in capsys.readouterr().err


def test_a_password_in_a_refused_redirect(one_server: str, cache: Path, server: Server) -> None:
    server.script = [moved("ftp://user:s3cret@127.0.0.1/x?t0ken")]
    message = assert_harmless(cache, server)
    assert "it redirects to ftp://***@127.0.0.1/x?..., which is not" in message


def test_a_password_does_not_go_to_another_server(
    one_server: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def serve_and_look(handler: Handler) -> None:
        sent.append(handler.headers["Authorization"])
        serve(handler)

    port = server.server_address[1]
    monkeypatch.setenv("TINYMIXNET_MIRROR", f"http://user:s3cret@127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    server.script = [moved(f"http://localhost:{port}/x"), serve_and_look]
    fetch.fetch("mixnet-l")
    assert sent == [None]


# ---- proxies and HTTPS


@pytest.fixture
def proxy(one_server: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is the proxy for everything; it wants a password."""
    monkeypatch.setattr("weights_tools.http_get.proxy_bypass", lambda _: False)
    address = server.url.replace("http://", "http://user:s3cret@")
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", address)


def test_a_proxy(proxy: None, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def serve_and_look(handler: Handler) -> None:
        sent.append((handler.path, handler.headers["Host"], handler.headers["Proxy-Authorization"]))
        serve(handler)

    publish(monkeypatch, "http://nowhere.invalid:81/mixnet-l.tar.gz?x=1")
    server.script = [serve_and_look]
    fetch.fetch("mixnet-l")
    url = "http://nowhere.invalid:81/mixnet-l.tar.gz?x=1"
    assert sent == [(url, "nowhere.invalid:81", "Basic dXNlcjpzM2NyZXQ=")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 \x1b[31mWho?\r\n\r\n", r"answers 407 \x1b[31mWho?"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answers 502 Bad Gateway (given up after 2 tries)"),
        (b"HTTP/1.1 200 OK\r\n\r\nthis is no TLS", "cannot be reached through the proxy 127.0.0.1"),
        (b"SSH\r\n", "expected an answer in HTTP/1, found 'SSH'"),
    ],
)
def test_a_proxy_that_does_not_connect(
    proxy: None, server: Server, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    publish(monkeypatch, "https://nowhere.invalid/mixnet-l.tar.gz")
    monkeypatch.setattr(Handler, "do_CONNECT", raw(answer), raising=False)
    with pytest.raises(FetchError) as caught:
        fetch.fetch("mixnet-l")
    message = str(caught.value)
    assert said in message
    assert "s3cret" not in message
    assert message.isprintable()


@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_a_proxy_without_an_end(
    proxy: None, server: Server, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    publish(monkeypatch, "https://nowhere.invalid/mixnet-l.tar.gz")
    endless = raw(OK, b"X-Header: value\r\n", pause)
    monkeypatch.setattr(Handler, "do_CONNECT", endless, raising=False)
    if pause:
        monkeypatch.setattr(http_get, "MINUTE", 0.5)
    start = time.perf_counter()
    with pytest.raises(FetchError, match="too slow" if pause else "head is over"):
        fetch.fetch("mixnet-l")
    assert time.perf_counter() - start < SOON


def test_a_proxy_of_another_kind(
    one_server: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "socks5://user:s3cret@127.0.0.1:1")
    with pytest.raises(FetchError, match=r"socks5://\*\*\*@127\.0\.0\.1:1: not a usable URL"):
        fetch.fetch("mixnet-l")


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_https(
    one_server: str, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a certificate that the user trusts; and not out of HTTPS; and not without trust."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", key, "-out", certificate]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*command, *name, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    publish(monkeypatch, f"{url}/mixnet-l.tar.gz")
    with pytest.raises(FetchError, match="certificate verify failed"):
        fetch.fetch("mixnet-l")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.script = [moved(f"{server.url}/x")]
    with pytest.raises(FetchError, match=f"it redirects to {server.url}/x, which is not https\\."):
        fetch.fetch("mixnet-l")
    server.script = [moved("/x"), serve]
    assert fetch.fetch("mixnet-l").read_bytes() == b"mixnet-l " + DATA
