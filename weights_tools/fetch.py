"""Fetch: bring the official weights from the network into the cache: whole and checked.

`fetch("mixnet-l")` downloads the archive that MixNet's authors published and extracts it. The
files, all in the cache folder (`tinymixnet.weights.cache_dir()`):

    mixnet-l.tar.gz        the archive as published; you may put it there by hand
    mixnet-l.tar.gz.part   what has arrived of it so far; the next call goes on from there
    mixnet-l.h5            the weights, which `tinymixnet.load("mixnet-l")` reads
    mixnet-l.lock          empty; whoever holds its lock does the work, the others wait

A name without `.part` always means a whole file: each is made beside its place and moved there.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tinymixnet.engine.weights import cache_dir
from tinymixnet.errors import CheckpointError, FetchError
from weights_tools.extract import extract


class Archive(NamedTuple):
    """A published archive: where it lies, its bytes and SHA-384 (None: not published), and how
    often its network is right on ImageNet's validation photos at 224 pixels, preset `tf`.
    """

    urls: tuple[str, ...]
    size: int | None
    sha384: str | None
    accuracy: str = ""


# The first URLs are those of the README in the TensorFlow TPU repository (models/official/mnasnet/
# mixnet). Size, SHA-384 and the second URL of mixnet-l are those of the Open Model Zoo's entry;
# the size of mixnet-s is that of the file on the authors' server.
OFFICIAL = "https://storage.googleapis.com/cloud-tpu-checkpoints/mixnet/"
OPEN_MODEL_ZOO = "https://storage.openvinotoolkit.org/repositories/open_model_zoo/public/2022.1/"
ARCHIVES = {
    "mixnet-l": Archive(
        urls=(OFFICIAL + "mixnet-l.tar.gz", OPEN_MODEL_ZOO + "mixnet-l/mixnet-l.tar.gz"),
        size=54_302_843,
        sha384="6207ab87851c7e2c8f3dafe716a596b2f52dd88c6c5db0d5"
        "1795e312f3cad62c715a35c1f03311084f43566660ac691b",
        accuracy="top-1 0.78846, top-5 0.94212",
    ),
    "mixnet-m": Archive(
        urls=(OFFICIAL + "mixnet-m.tar.gz",),
        size=None,
        sha384=None,
        accuracy="top-1 0.77072, top-5 0.93368",
    ),
    "mixnet-s": Archive(
        urls=(OFFICIAL + "mixnet-s.tar.gz",),
        size=30_633_801,
        sha384=None,
        accuracy="top-1 0.75800, top-5 0.92788",
    ),
}
LICENCE = "Apache-2.0, from the TensorFlow TPU repository"
PUBLISHED = " on ImageNet's validation photos, as published; not measured here"

MAX_BYTES = 256 << 20  # where no size is published
TIMEOUT = 30.0  # seconds without an answer or a byte
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try of a connection that broke off
CHUNK = 1 << 16


class _BrokenOff(Exception):
    """The server was reached but did not send everything: trying again may help."""


def fetch(name: str) -> Path:
    """Download a network's official weights, unless they are there, and return the path of the .h5.

    name: "mixnet-l", "mixnet-m" or "mixnet-s". The environment variable TINYMIXNET_MIRROR, a base
    URL such as http://127.0.0.1:8000, replaces the servers: the archive is then
    TINYMIXNET_MIRROR/mixnet-l.tar.gz. Reports on stderr. Any number of processes may call at once.

    Raises FetchError for an unknown name, a server that does not deliver, a file that is not the
    published one, a cache that cannot be written. CheckpointError and WeightsError are `extract`'s.
    """
    if name not in ARCHIVES:
        raise FetchError(f"no network {name!r} can be fetched; there are {', '.join(ARCHIVES)}")
    cache = cache_dir()
    weights = cache / f"{name}.h5"
    try:
        if not weights.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with _lock(cache / f"{name}.lock", name):
                if not weights.exists():  # another process may have made it meanwhile
                    _make_weights(name, cache / f"{name}.tar.gz", weights)
                    return weights
        _say(f"{weights} is already there")
        return weights
    except OSError as error:  # the network's are caught where they arise: this one is the disk's
        raise FetchError(
            f"cannot write in the cache folder {cache}: {error}. Make room or give yourself the "
            "right to write there, or set TINYMIXNET_HOME to another folder; then run again"
        ) from error


def _make_weights(name: str, packed: Path, weights: Path) -> None:
    """Extract the archive to the weights file; download the archive unless it is there already."""
    archive = ARCHIVES[name]
    if packed.exists():
        try:
            _verify(packed, archive, str(packed))
        except FetchError as error:
            _say(f"{error}; fetching it anew")
    if not packed.exists():  # _verify removes a wrong file
        _download(name, archive, packed)
    try:
        extract(
            packed, weights, variant=name, licence=LICENCE, accuracy=archive.accuracy + PUBLISHED
        )
    except CheckpointError as error:
        if archive.sha384 is not None:
            raise
        # Without a published hash only this could show that the file is bad; keeping it would make
        # every later call fail the same way.
        packed.unlink()
        raise FetchError(f"{packed} was no {name} checkpoint and is removed: {error}") from error


def _download(name: str, archive: Archive, packed: Path) -> None:
    """Make `packed` from the first server that delivers the published file, byte for byte."""
    part = packed.with_name(packed.name + ".part")
    failures = []
    for url in _urls(name, archive):
        try:
            _receive_patiently(url, part, archive)
            _verify(part, archive, url)
            os.replace(part, packed)
            return
        except FetchError as error:
            _say(str(error))
            failures.append(f"  {error}\n")
    if kept := _size(part):
        failures.append(f"{kept} bytes are kept in {part}; running again resumes there.\n")
    else:
        part.unlink(missing_ok=True)
    size = f"{archive.size} bytes" if archive.size else "size not published"
    raise FetchError(
        f"cannot fetch {packed.name}:\n{''.join(failures)}"
        f"Without a network: get {archive.urls[0]} some other way ({size}, "
        f"SHA-384 {archive.sha384 or 'not published'}), put it at {packed} and run again."
    )


def _urls(name: str, archive: Archive) -> tuple[str, ...]:
    """The addresses to try, in order: the user's mirror alone if there is one."""
    mirror = os.environ.get("TINYMIXNET_MIRROR")
    if not mirror:
        return archive.urls
    if not mirror.lower().startswith(("http://", "https://")):
        raise FetchError(f"TINYMIXNET_MIRROR is {mirror!r}; expected an http:// or https:// URL")
    return (f"{mirror.rstrip('/')}/{name}.tar.gz",)


def _verify(file: Path, archive: Archive, source: str) -> None:
    """Check size and SHA-384 against the published ones; remove a file that differs and raise."""
    found, wanted = f"{_size(file)} bytes", f"{archive.size} bytes"
    if archive.size is None or found == wanted:
        digest = hashlib.sha384()
        with open(file, "rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
        found, wanted = f"SHA-384 {digest.hexdigest()}", f"SHA-384 {archive.sha384}"
        if archive.sha384 is None:
            missing = "SHA-384" if archive.size else "size or SHA-384"
            _say(f"no {missing} is published for {source}, so this may be another file than")
            _say(f"the authors'. To compare it elsewhere or to pin it, this one has {found}")
            return
    if found != wanted:
        file.unlink()
        raise FetchError(f"{source}: expected {wanted}, found {found}; the bad file is removed")


# ---- one archive over a connection that may break ----


def _receive_patiently(url: str, part: Path, archive: Archive) -> None:
    """Complete `part` from `url`, resuming after short pauses when the connection breaks off."""
    _say(f"downloading {url}")
    for pause in (*PAUSES, None):
        try:
            _receive(url, part, archive)
            return
        except _BrokenOff as broken:
            if pause is None:
                tries = len(PAUSES) + 1
                raise FetchError(f"{url}: {broken} (given up after {tries} tries)") from broken
            _say(f"{broken}; trying again in {pause} s")
            time.sleep(pause)


def _receive(url: str, part: Path, archive: Archive) -> None:
    """Complete `part` over one connection, or keep what came of it; stop where it gets too long."""
    have = _size(part)
    if have > (archive.size or MAX_BYTES):
        part.unlink()
        have = 0
    if have and have == archive.size:
        return
    response, have = _open_at(url, have, archive)
    with response:
        announced = None if response.length is None else have + response.length
        size = archive.size or announced
        limit = size or MAX_BYTES
        if announced not in (None, size) or limit > MAX_BYTES:
            expected = archive.size or f"at most {MAX_BYTES}"
            raise FetchError(f"{url}: expected {expected} bytes, the server offers {announced}")
        with open(part, "ab" if have else "wb") as file, _progress(have, size) as advance:
            while have <= limit and (chunk := _read(response)):
                have += len(chunk)
                file.write(chunk)
                advance(len(chunk))
    if have > limit:
        part.unlink()
        raise FetchError(f"{url}: expected {limit} bytes, the server sends more; removed")
    if size is not None and have < size:
        raise _BrokenOff(f"the connection broke off after {have} of {size} bytes")


def _open_at(url: str, start: int, archive: Archive) -> tuple[HTTPResponse, int]:
    """Ask for the bytes from `start` on; return the answer and the place where it really starts.

    A server may ignore the Range header (200: here is all of it), refuse it (416) or give another
    range than was asked for. Only an exact rest is used; anything else means starting over.
    """
    if start:
        response = _request(url, {"Range": f"bytes={start}-"})
        if response and _is_rest(response, start, archive.size):
            return response, start
        _say(f"the server does not resume at byte {start}; starting over")
        if response and response.status == 200:
            return response, 0
        if response:
            response.close()
    response = _request(url, {})
    if response is None or response.status != 200:
        found = response.status if response else 416
        raise FetchError(f"{url}: expected HTTP status 200, found {found}")
    return response, 0


def _is_rest(response: HTTPResponse, start: int, size: int | None) -> bool:
    """Whether the answer is the archive from byte `start` to its end (RFC 9110, section 14.4)."""
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", said.strip())
    if response.status != 206 or not match:
        return False
    first, last, total = map(int, match.groups())
    right_length = response.length in (None, total - start)
    return first == start and last == total - 1 and total == (size or total) and right_length


class _Redirects(HTTPRedirectHandler):
    """Follow redirects, but not out of HTTPS: two archives have no hash to show a swapped file."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise URLError(f"it redirects to {newurl}, which is not {' or '.join(allowed)}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, headers: dict[str, str]) -> HTTPResponse | None:
    """Send a GET; None stands for 416, "no such range".

    Raises FetchError where asking again is useless, no network included; _BrokenOff where it helps.
    """
    request_headers = {"User-Agent": "tinymixnet", "Accept-Encoding": "identity", **headers}
    try:
        request = Request(url, headers=request_headers)
        response: HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416:
            return None
        answer = f"the server answers {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _BrokenOff(answer) from error
        raise FetchError(f"{url}: {answer}") from error
    except URLError as error:
        raise FetchError(f"{url}: cannot be reached: {error.reason}") from error
    except (ValueError, InvalidURL) as error:
        raise FetchError(f"{url}: not a usable URL: {error}") from error
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"no answer from the server: {error!r}") from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"the connection broke off: {error!r}") from error


# ---- files, the lock, messages ----


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _lock(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of this file, alone among all processes; wait while another one holds it.

    The system frees it when its holder ends, however it ends. The file itself stays: removing it
    could leave two processes each with the lock of "the" file.
    """
    with open(path, "ab") as file:
        if not _try_lock(file):
            _say(f"another process is fetching {name}; waiting for it")
            while not _try_lock(file):
                time.sleep(0.1)
        yield


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def _progress(done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Give a function to call with each chunk's bytes: a tqdm bar if stderr is a terminal.

    Without tqdm: a line for every tenth.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None:
        yield _tenths(done, total)
    else:
        with tqdm(initial=done, total=total, unit="B", unit_scale=True, disable=None) as bar:
            yield bar.update


def _tenths(done: int, total: int | None) -> Callable[[int], None]:
    told = 10 * done // total if total else 0

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if total and 10 * done // total > told:
            told = 10 * done // total
            _say(f"{10 * told} % of {total} bytes")

    return advance


def _say(message: str) -> None:
    print(f"fetch: {message}", file=sys.stderr, flush=True)
