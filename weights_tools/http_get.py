"""One GET request to a server that need not be honest.

Python's own client (urllib, http.client) reads the body of a redirect, "100 Continue" lines and
chunk trailers for as long as the server sends them, and takes a negative chunk size. A timeout does
not help, because it starts anew with each byte. This client is small enough to have a limit for
everything it reads:

    head        at most HEAD_BYTES, and there within a MINUTE, connecting and redirects included
    body        at least MINUTE_BYTES in each MINUTE; the caller limits how much it takes in all
    silence     at most TIMEOUT
    redirects   at most REDIRECTS, never out of HTTPS, never to anything but HTTP and HTTPS;
                their bodies, those of error pages, and chunk trailers are not read at all

Sources: RFC 9110 (HTTP) and RFC 9112 (HTTP/1.1: the head, chunks).
"""

from __future__ import annotations

import base64
import io
import re
import socket
import ssl
import string
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urldefrag, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from weights_tools.messages import failure, foreign, show_url

TIMEOUT = 30.0  # seconds without a byte
MINUTE = 60.0  # seconds for a head, or for MINUTE_BYTES of a body; tests make it shorter
MINUTE_BYTES = 300_000  # of a body in each MINUTE: 5 kB/s, what a slow modem reaches
HEAD_BYTES = 1 << 16  # of status line and headers, "100 Continue" included
CHUNK_LINE_BYTES = 256  # of the line before a chunk, which says its size
REDIRECTS = 10
PIECE = 1 << 16  # bytes to read at once, at most


class BrokenOff(Exception):
    """The server was reached but did not send everything: trying again may help."""


class Answer:
    """A server's answer: its head is read, its body waits.

    status, reason and headers (names in lower case) are as the server sent them, so show them with
    `foreign` only. length: how many bytes of body it announces, None if it does not say.
    """

    def __init__(self, connection: _Connection, url: str, opened: ExitStack) -> None:
        self._connection = connection
        self._file = io.BufferedReader(connection)
        self._url = url
        self._opened = opened
        self._head_left = HEAD_BYTES
        self.status = 100
        while 100 <= self.status < 200:  # 1xx: the answer proper is still to come
            self.status, self.reason = self._read_status()
            self.headers = self._read_headers()
        self.chunked = "transfer-encoding" in self.headers
        self.length = None if self.chunked else self._announced()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def _line(self) -> str:
        line = self._file.readline(self._head_left + 1)
        self._head_left -= len(line)
        if self._head_left < 0:
            raise failure(f"{self._url}: the answer's head is over {HEAD_BYTES:,} bytes; refused")
        if not line.endswith(b"\n"):
            raise BrokenOff("no answer from the server: it hung up before the answer's head ended")
        return line.decode("latin-1").rstrip("\r\n")

    def _read_status(self) -> tuple[int, str]:
        line = self._line()
        match = re.fullmatch(r"HTTP/1\.\d ([1-9]\d\d)(?: (.*))?", line, re.ASCII | re.DOTALL)
        if not match:
            raise failure(f"{self._url}: expected an answer in HTTP/1, found '{foreign(line)}'")
        return int(match[1]), match[2] or ""

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def _announced(self) -> int | None:
        text = self.headers.get("content-length")
        if text is None:
            return None
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
            raise failure(
                f"{self._url}: expected a number of bytes, Content-Length is '{foreign(text)}'"
            )
        return int(text)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises BrokenOff if it ends early, FetchError if it comes too slowly.
        """
        self._connection.start_body()
        if not self.chunked:
            yield from self._pieces_of(self.length)
            return
        coding = self.headers["transfer-encoding"]
        if coding.lower() != "chunked":
            raise failure(f"{self._url}: expected chunks, Transfer-Encoding is '{foreign(coding)}'")
        while size := self._chunk_size():
            yield from self._pieces_of(size)
            if self._file.readline(2).strip(b"\r\n"):
                raise BrokenOff("the connection broke off: a chunk is longer than it says")

    def _chunk_size(self) -> int:
        line = self._file.readline(CHUNK_LINE_BYTES)
        match = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?\r?\n", line, re.DOTALL)
        if not match:
            text = foreign(line.decode("latin-1").rstrip("\r\n"))
            raise BrokenOff(f"the connection broke off: expected a chunk's size, found '{text}'")
        return int(match[1], 16)

    def _pieces_of(self, count: int | None) -> Iterator[bytes]:
        """Yield so many bytes of the body; None: all until the server closes the connection."""
        while count is None or count > 0:
            piece = self._file.read1(PIECE if count is None else min(count, PIECE))
            if not piece:
                if count is None:
                    return
                raise BrokenOff("the connection broke off")
            if count is not None:
                count -= len(piece)
            self._connection.progress(len(piece))
            yield piece


class _Connection(io.RawIOBase):
    """What a socket receives until a deadline. The deadline moves on when enough has arrived."""

    def __init__(self, opened: socket.socket, deadline: float, url: str) -> None:
        self._socket, self._deadline, self._url = opened, deadline, url
        self._wanted = "the whole head of an answer"  # before the deadline
        self._arrived = 0  # bytes of the body since the deadline was set

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            self._socket.settimeout(_seconds_left(self._deadline))
            return self._socket.recv_into(buffer)
        except TimeoutError:
            if time.monotonic() < self._deadline:
                raise BrokenOff(f"no answer from the server for {TIMEOUT:g} s") from None
            raise failure(
                f"{self._url}: too slow, expected {self._wanted} within {MINUTE:g} s"
            ) from None
        except OSError as error:
            raise BrokenOff(f"no answer from the server: {_why(error)}") from None

    def start_body(self) -> None:
        self._wanted = f"at least {MINUTE_BYTES:,} bytes of the file"
        self._arrived, self._deadline = 0, time.monotonic() + MINUTE

    def progress(self, count: int) -> None:
        self._arrived += count
        if self._arrived >= MINUTE_BYTES:
            self.start_body()


def _seconds_left(deadline: float) -> float:
    """How long the next wait may be. Raises TimeoutError if there is no time left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return min(TIMEOUT, left)


def _why(error: Exception) -> str:
    return foreign(getattr(error, "strerror", None) or str(error) or type(error).__name__)


# -- asking ---------------------------------------------------------------------------------------


class _Address(NamedTuple):
    """A URL in parts. credentials is "Basic ..." of its user and password, or empty."""

    scheme: str
    host: str
    port: int
    netloc: str  # host and, if the URL has one, port
    path: str  # with the query
    credentials: str


def get(url: str, headers: dict[str, str]) -> Answer:
    """Send a GET, follow redirects, and return the answer; use it in a `with` statement.

    Raises FetchError where asking again is useless, no network included; BrokenOff where it helps.
    """
    deadline = time.monotonic() + MINUTE
    target = url
    for _ in range(REDIRECTS + 1):
        answer = _ask(target, headers, deadline)
        if answer.status not in (301, 302, 303, 307, 308):
            return answer
        with answer:
            target = _redirected(target, answer.headers.get("location", ""))
    raise failure(f"{show_url(url)}: more than {REDIRECTS} redirects")


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads.

    It may not lead out of HTTPS: for two archives no hash is published that would show a swap.
    """
    allowed = ("https",) if url.lower().startswith("https:") else ("http", "https")
    quoted = quote(location, safe=string.punctuation, encoding="latin-1")
    try:
        target = urldefrag(urljoin(url, quoted)).url
    except ValueError:  # its text could hold a password
        target = ""
    if not location or target.partition(":")[0].lower() not in allowed:
        elsewhere = foreign(show_url(target or location))
        raise failure(
            f"{show_url(url)}: it redirects to {elsewhere}, which is not {' or '.join(allowed)}"
        )
    return target


def _parse(url: str, what: str = "") -> _Address:
    """Take a URL apart. Raises FetchError, which begins with `what` it is, if it cannot be used."""
    try:
        parts = urlsplit(url)
        default_port = {"http": 80, "https": 443}[parts.scheme]
        if not (parts.hostname and url.isascii() and url.isprintable() and " " not in url):
            raise ValueError
        port = parts.port or default_port
    except (ValueError, KeyError):  # the texts of these errors could hold a password
        raise failure(f"{what}{show_url(url)}: not a usable URL, expected http://...") from None
    user, at, netloc = parts.netloc.rpartition("@")
    encoded = base64.b64encode(unquote_to_bytes(user)).decode()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Address(
        parts.scheme, parts.hostname, port, netloc, path, f"Basic {encoded}" if at else ""
    )


def _ask(url: str, headers: dict[str, str], deadline: float) -> Answer:
    """Send one GET, through the user's proxy if there is one, and read the head of the answer."""
    address = _parse(url)
    proxy = _proxy_for(address)
    path = address.path
    sent = {"Host": address.netloc, "User-Agent": "tinymixnet", "Connection": "close"}
    sent |= {"Accept-Encoding": "identity", "Authorization": address.credentials, **headers}
    if proxy and address.scheme == "http":
        path = f"http://{address.netloc}{path}"
        sent["Proxy-Authorization"] = proxy.credentials
    opened = ExitStack()
    try:
        connected = opened.enter_context(_connect(proxy or address, deadline))
        if address.scheme == "https":
            if proxy:
                _open_tunnel(connected, address, proxy, deadline)
            connected = opened.enter_context(_encrypt(connected, address.host, deadline))
        _send(connected, f"GET {path}", sent, deadline)
        return Answer(_Connection(connected, deadline, show_url(url)), show_url(url), opened)
    except (OSError, ValueError) as error:
        opened.close()
        through = f" through the proxy {proxy.netloc}" if proxy else ""
        raise failure(f"{show_url(url)}: cannot be reached{through}: {_why(error)}") from None
    except BaseException:
        opened.close()
        raise


def _proxy_for(address: _Address) -> _Address | None:
    """Return the proxy that the user's environment or system names for this address."""
    proxy = getproxies().get(address.scheme)
    if not proxy or proxy_bypass(address.netloc):
        return None
    return _parse(proxy if "://" in proxy else f"http://{proxy}", "the proxy ")


def _connect(address: _Address, deadline: float) -> socket.socket:
    return socket.create_connection((address.host, address.port), _seconds_left(deadline))


def _open_tunnel(
    connected: socket.socket, address: _Address, proxy: _Address, deadline: float
) -> None:
    """Ask a proxy to pass on all bytes to the address from now on."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    headers = {"Host": target, "Proxy-Authorization": proxy.credentials}
    _send(connected, f"CONNECT {target}", headers, deadline)
    shown = f"the proxy {proxy.netloc}"
    answer = Answer(_Connection(connected, deadline, shown), shown, ExitStack())
    if answer.status != 200:
        message = f"{shown} answers {answer.status} {foreign(answer.reason)}"
        raise BrokenOff(message) if answer.status >= 500 else failure(message)


def _encrypt(connected: socket.socket, host: str, deadline: float) -> ssl.SSLSocket:
    connected.settimeout(_seconds_left(deadline))  # for the whole handshake
    return ssl.create_default_context().wrap_socket(connected, server_hostname=host)


def _send(connected: socket.socket, line: str, headers: dict[str, str], deadline: float) -> None:
    """Send the head of a request. Headers without a value are left out."""
    lines = [f"{line} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items() if text)]
    connected.settimeout(_seconds_left(deadline))
    connected.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
