"""Download one file over a connection that may break, to a .part file that grows as data comes.

Each piece is on its way to the disk before the next one is read. So whatever ends a download, a
broken connection, Ctrl-C or a crash, leaves the beginning of the file, and the next call goes on
from there.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from weights_tools.cache_files import open_file, size_of
from weights_tools.http_get import Answer, BrokenOff, get
from weights_tools.messages import failure, foreign, say, show_url

MAX_BYTES = 256 << 20  # where no size is published
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try of a connection that broke off


def download(url: str, part: Path, size: int | None) -> None:
    """Complete `part` from `url`, resuming after short pauses where the connection breaks off.

    size: how many bytes the file has, None if that is not known. Raises FetchError if the server
    does not deliver; `part` then holds what came. OSError is the disk's.
    """
    shown = show_url(url)
    say(f"downloading {shown}")
    for pause in (*PAUSES, None):
        try:
            _receive(url, part, size)
            return
        except BrokenOff as broken:
            if pause is None:
                tries = len(PAUSES) + 1
                raise failure(f"{shown}: {broken} (given up after {tries} tries)") from None
            say(f"{broken}; trying again in {pause} s")
            time.sleep(pause)


def _receive(url: str, part: Path, size: int | None) -> None:
    """Complete `part` over one connection, or keep what came of it; stop where it gets too long."""
    have = size_of(part)
    if have > (size or MAX_BYTES):
        part.unlink()
        have = 0
    if have and have == size:
        return
    answer, have = _open_at(url, have, size)
    with answer:
        limit = _limit(url, answer, have, size)
        total = limit if size or answer.length is not None else None
        with open_file(part, "ab") as file, _progress(have, total) as advance:
            file.truncate(have)
            try:
                for piece in answer.pieces():
                    have += len(piece)
                    file.write(piece)
                    file.flush()
                    advance(len(piece))
                    if have > limit:
                        break
            except BrokenOff as broken:
                of_all = f"of {total} " if total is not None else ""
                raise BrokenOff(f"{broken} after {have} {of_all}bytes") from None
    if have > limit:
        part.unlink()
        raise failure(f"{show_url(url)}: expected {limit} bytes, the server sends more; removed")
    if total is not None and have < total:
        raise BrokenOff(f"the connection broke off after {have} of {total} bytes")


def _limit(url: str, answer: Answer, have: int, size: int | None) -> int:
    """Return how long the whole file may get; FetchError if the server announces another size."""
    announced = None if answer.length is None else have + answer.length
    limit = size or (MAX_BYTES if announced is None else announced)
    if announced not in (None, limit) or limit > MAX_BYTES:
        expected = size or f"at most {MAX_BYTES}"
        coding = answer.headers.get("content-encoding")
        packed = f" (Content-Encoding: {foreign(coding)})" if coding else ""
        raise failure(
            f"{show_url(url)}: expected {expected} bytes, the server offers {announced}{packed}"
        )
    return limit


def _open_at(url: str, start: int, size: int | None) -> tuple[Answer, int]:
    """Ask for the bytes from `start` on; return the answer and the place where it really starts.

    A server may ignore the Range header (200: here is all of it), refuse it (416) or give another
    range than was asked for. Only an exact rest is used; anything else means starting over.
    """
    if start:
        answer = _request(url, {"Range": f"bytes={start}-"})
        if _is_rest(answer, start, size):
            return answer, start
        say(f"the server does not resume at byte {start}; starting over")
        if answer.status == 200:
            return answer, 0
        answer.close()
    answer = _request(url, {})
    if answer.status != 200:
        answer.close()
        raise failure(f"{show_url(url)}: expected HTTP status 200, found {answer.status}")
    return answer, 0


def _is_rest(answer: Answer, start: int, size: int | None) -> bool:
    """Whether the answer is the file from byte `start` to its end (RFC 9110, section 14.4)."""
    content_range = answer.headers.get("content-range", "")
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", content_range, re.ASCII)
    if answer.status != 206 or not match:
        return False
    first, last, total = map(int, match.groups())
    right_length = answer.length in (None, total - start)
    return first == start and last == total - 1 and total == (size or total) and right_length


def _request(url: str, headers: dict[str, str]) -> Answer:
    """Return the answer to a GET if its status is 2xx, or 416: no such range."""
    answer = get(url, headers)
    if 200 <= answer.status < 300 or answer.status == 416:
        return answer
    answer.close()
    said = f"the server answers {answer.status} {foreign(answer.reason)}"
    if answer.status >= 500 or answer.status in (408, 429):
        raise BrokenOff(said)
    raise failure(f"{show_url(url)}: {said}")


# -- progress -------------------------------------------------------------------------------------


@contextmanager
def _progress(done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Give a function to call with the size of each piece: a tqdm bar if stderr is a terminal.

    Without tqdm: a line for every tenth.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        tqdm = None
    if tqdm is None or sys.stderr is None:
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
            say(f"{10 * told} % of {total} bytes")

    return advance
