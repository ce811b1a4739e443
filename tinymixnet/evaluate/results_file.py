"""The file of results while it grows: opened, continued where it ended, never mixed or overwritten.

A row is written at once, with a single call. So a process that is killed loses nothing that it had
answered, and at most the last line is torn. At least once a second the disk has to confirm what was
written: a power failure costs no more than that.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tinymixnet.engine.files import check_output
from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.results import START, Row, read_rows, write_line

SYNC = 1.0  # seconds between two confirmations of the disk
# Parts of a header in which two runs may differ: names, and what is not evaluated anyway.
MAY_DIFFER = {("data", "name"), ("data", "left_out"), ("weights", "name"), ("weights", "source")}


class ResultsFile:
    """A file of results that is open for writing, with the rows that it has already.

    Raises InputError when the path holds anything but results of the same evaluation, or when
    another process writes to it.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Mapping[str, Any], inputs: Iterable[Any] = ()
    ) -> None:
        """inputs: what is read, and is not to be overwritten; not even inside of a folder."""
        check_results_place(path, inputs)
        self.path = Path(path)
        self.rows: list[Row] = []
        self.synced = time.monotonic()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            self._lock()
            self._continue(dict(header))
        except BaseException:
            os.close(self.file)
            raise

    def _lock(self) -> None:
        try:
            import fcntl  # Windows has none
        except ImportError:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.path}: another evaluation is writing to it") from None
        except OSError:
            return  # a file system without locks

    def _continue(self, header: dict[str, Any]) -> None:
        """Read what is there, drop a torn last line, and write the header if there is none."""
        before, self.rows, whole = read_rows(self.path)
        if before is None:
            os.ftruncate(self.file, 0)
            self._write(write_line(header))
            return
        if different := differences(before, header):
            raise InputError(
                f"{self.path}: holds results of another evaluation: {'; '.join(different)}; name "
                "another file, or move this one away"
            )
        if os.fstat(self.file).st_size > whole:
            os.ftruncate(self.file, whole)

    def add(self, row: Row) -> None:
        """Append a row. If the disk is full, no part of it stays in the file."""
        self._write(write_line(row.as_json()))
        self.rows.append(row)
        if time.monotonic() > self.synced + SYNC:
            self._sync()

    def _write(self, line: bytes) -> None:
        start = os.fstat(self.file).st_size
        try:
            rest = memoryview(line)
            while rest:  # a disk that becomes full takes a part
                rest = rest[os.write(self.file, rest) :]
        except OSError as error:
            with suppress(OSError):  # if not, the next run drops the torn line
                os.ftruncate(self.file, start)
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); {len(self.rows):,} photos are "
                "in it, and the same command goes on after them"
            ) from None

    def _sync(self) -> None:
        with suppress(OSError):  # of a file system that has nothing to confirm
            os.fsync(self.file)
        self.synced = time.monotonic()

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sync()
        os.close(self.file)


def check_results_place(path: str | os.PathLike[str], inputs: Iterable[Any] = ()) -> None:
    """Raise InputError unless the path is free, or holds results, and is none of the inputs."""
    sources = list(inputs)
    check_output(path, sources, own=_is_own)
    _refuse_inside(Path(path), sources)


def _is_own(path: Path) -> bool:
    """Whether a file is one of results, or is empty, or ends within the first bytes of one."""
    try:
        with path.open("rb") as file:
            start = file.read(len(START))
    except OSError:
        return False
    return START.startswith(start)


def _refuse_inside(path: Path, sources: Iterable[Any]) -> None:
    """Raise InputError for a file in a folder that is read: it would be one of the data."""
    place = Path(os.path.realpath(path))
    for source in sources:
        if not isinstance(source, (str, os.PathLike)) or not os.path.isdir(source):
            continue
        if Path(os.path.realpath(source)) in place.parents:
            raise InputError(f"{path}: lies in {source}, which is evaluated; name another file")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words in what two headers differ, leaving out what does not change results."""
    found = []
    for part in {**before, **now}:
        old, new, name = before.get(part), now.get(part), part.replace("_", " ")
        if old == new:
            continue
        if not isinstance(old, dict) or not isinstance(new, dict):
            short = [printable(str(value), 60) for value in (old, new)]
            found.append(f"{name} {short[0]}, now {short[1]}")
            continue
        for key in {**old, **new}:
            if (part, key) not in MAY_DIFFER and old.get(key) != new.get(key):
                short = [printable(str(value.get(key)), 20) for value in (old, new)]
                found.append(f"{name} {key.replace('_', ' ')} {short[0]}, now {short[1]}")
    return found
