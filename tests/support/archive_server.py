"""A server of archives on 127.0.0.1 that can misbehave in every way a server can.

Each request takes the next behaviour of the script, the last one again and again. Whatever sends
without end stops when the client hangs up, when the test is over, or after SECONDS.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DATA = random.Random(1).randbytes(200_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA384 = hashlib.sha384(DATA).hexdigest()
SECONDS = 20.0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))
        assert asked is not None
        self.first = int(asked[1])
        script = self.server.script
        self.server.requests.append((self.path, self.first))
        behave = script.pop(0) if len(script) > 1 else script[0]
        behave(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Has .script (what to do), .requests (path, first byte) and .release (ends what hangs)."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Behaviour] = [serve]
        self.requests: list[tuple[str, int]] = []
        self.release = threading.Event()
        self.sent = 0  # bytes that `forever` sent
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up early is part of the tests


Behaviour = Callable[[Handler], None]


def serve(handler: Handler, data: bytes = DATA, send: int | None = None) -> None:
    """As a good server does; `send` breaks off after so many bytes of the body."""
    first, size = handler.first, len(data)
    if first >= size:
        handler.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
        return
    headers: dict[str, object] = {"Content_Length": size - first}
    if first:
        headers["Content_Range"] = f"bytes {first}-{size - 1}/{size}"
    handler.head(206 if first else 200, **headers)
    handler.wfile.write(data[first:] if send is None else data[first : first + send])


def ignore_range(handler: Handler) -> None:
    handler.first = 0
    serve(handler)


def ignore_range_and_cut(handler: Handler) -> None:
    handler.first = 0
    serve(handler, send=70_000)


def cut(handler: Handler) -> None:
    serve(handler, send=70_000)


def cut_at_once(handler: Handler) -> None:
    serve(handler, send=0)


def hang_up(handler: Handler) -> None:
    handler.connection.close()


def hang(handler: Handler) -> None:
    serve(handler, send=100_000)
    handler.wfile.flush()
    handler.server.release.wait(SECONDS)


def hang_without_answer(handler: Handler) -> None:
    handler.server.release.wait(SECONDS)


def announce_more(handler: Handler) -> None:
    handler.head(200, Content_Length=len(DATA) + 5)
    handler.wfile.write(DATA)


def announce_less(handler: Handler) -> None:
    handler.head(200, Content_Length=len(DATA) - 5)
    handler.wfile.write(DATA)


def no_length(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(DATA)


def no_length_and_more(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(DATA + b"more")


def no_length_and_less(handler: Handler) -> None:
    handler.head(200)
    handler.wfile.write(DATA[:-9])


def chunked(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.head(200, Transfer_Encoding="chunked", Connection="close")
    for start in range(0, len(DATA), 50_000):
        piece = DATA[start : start + 50_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def chunked_and_cut(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.head(200, Transfer_Encoding="chunked", Connection="close")
    handler.wfile.write(b"%x\r\n%s\r\n" % (70_000, DATA[:70_000]))


def other_file(handler: Handler) -> None:
    serve(handler, data=DATA[::-1])


def shorter_file(handler: Handler) -> None:
    serve(handler, data=DATA[:1000])


def wrong_range(handler: Handler) -> None:
    """A range, but one that begins a byte too early."""
    first = handler.first
    if not first:
        return serve(handler)
    headers = {"Content_Range": f"bytes {first - 1}-{len(DATA) - 1}/{len(DATA)}"}
    handler.head(206, Content_Length=len(DATA) - first + 1, **headers)
    handler.wfile.write(DATA[first - 1 :])


def unasked_range(handler: Handler) -> None:
    """206 whatever was asked, always the middle."""
    handler.head(206, Content_Length=100, Content_Range=f"bytes 50-149/{len(DATA)}")
    handler.wfile.write(DATA[50:150])


def bare_range(handler: Handler) -> None:
    """206 that does not say which range it is."""
    if not handler.first:
        return serve(handler)
    handler.head(206, Content_Length=len(DATA) - handler.first)
    handler.wfile.write(DATA[handler.first :])


def claim_range(content_range: str, length: int | None, status: int = 206) -> Behaviour:
    """The Content-Range and Content-Length given, with the right rest (206) or all (200) below."""

    def behave(handler: Handler) -> None:
        if not handler.first:
            return serve(handler)
        headers = {} if length is None else {"Content_Length": length}
        handler.head(status, Content_Range=content_range, **headers)
        handler.wfile.write(DATA if status == 200 else DATA[handler.first :])

    return behave


def no_range(handler: Handler) -> None:
    if handler.first:
        handler.head(416, Content_Length=0)
    else:
        serve(handler)


def status(code: int) -> Behaviour:
    return lambda handler: handler.head(code, Content_Length=0)


def redirect(handler: Handler) -> None:
    if handler.path.startswith("/moved/"):
        return serve(handler)
    handler.head(302, Location=f"/moved{handler.path}", Content_Length=0)


def redirect_forever(handler: Handler) -> None:
    handler.head(302, Location=handler.path, Content_Length=0)


# ---- without an end, or too slowly


def forever(handler: Handler, piece: bytes, pause: float = 0.0) -> None:
    """Send a piece again and again; with a pause, one byte at a time."""
    end = time.monotonic() + SECONDS
    pieces = [piece[i : i + 1] for i in range(len(piece))] if pause else [piece]
    while time.monotonic() < end:
        for part in pieces:
            if handler.server.release.wait(pause):
                return
            handler.wfile.write(part)
            handler.wfile.flush()
            handler.server.sent += len(part)


def raw(start: bytes, endless: bytes = b"", pause: float = 0.0) -> Behaviour:
    """Send exactly these bytes, then `endless` forever, one byte at a time if there is a pause."""

    def behave(handler: Handler) -> None:
        handler.wfile.write(start)
        handler.wfile.flush()
        if endless:
            forever(handler, endless, pause)

    return behave


def drip(handler: Handler) -> None:
    """Send the right file, but byte by byte."""
    handler.head(200, Content_Length=len(DATA))
    handler.wfile.flush()
    forever(handler, DATA, pause=0.02)


def chunk(size: str, endless: bytes = b"", pause: float = 0.0) -> Behaviour:
    """A good chunk, and one whose size is this text."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    good = b"3e8\r\n" + DATA[:1000] + b"\r\n"
    return raw(head + good + size.encode() + b"\r\n", endless, pause)


def moved(location: str, code: int = 302) -> Behaviour:
    return raw(f"HTTP/1.1 {code} Moved\r\nLocation: {location}\r\n\r\n".encode("latin-1"))
