"""The files of a cache folder that others may write to, too. Only regular files are opened.

Somebody else may have put a link there, which would lead our writing to a file elsewhere, or a
FIFO, which would make us wait forever. Both are refused before they are followed or opened.
"""

import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tinymixnet.engine.files import atomic_write
from weights_tools.messages import failure, say

# Windows lacks the first two and needs the third, or it would change the bytes of line ends.
_SAFE_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
STALE = 3600.0  # seconds after which a temporary file is no longer being written


def kind(mode: int) -> str:
    """Return in words what a file is, of its `st_mode`."""
    names = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a FIFO (named pipe)",
        stat.S_IFSOCK: "a socket",
    }
    return names.get(stat.S_IFMT(mode), "a device")


def is_there(path: Path) -> bool:
    """Return whether there is a usual file. Raises FetchError if there is something else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    _check(path, status)
    return True


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise failure(
            f"{path} is {kind(status.st_mode)}, expected a usual file or nothing; it is neither "
            "followed nor opened: remove it and run again"
        )


def open_file(path: Path, mode: str) -> IO[bytes]:
    """Open a usual file, mode "rb" to read or "ab" to append (it is made if it is missing).

    Raises FetchError if it is anything else, and, before writing, if the file has a second name
    (a hard link): writing would change what that other name stands for.
    """
    is_there(path)
    writing = mode == "ab"
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if writing else os.O_RDONLY
    handle = os.open(path, flags | _SAFE_FLAGS, 0o666)
    try:
        status = os.fstat(handle)  # once more: another process may have been quicker
        _check(path, status)
        if writing and status.st_nlink > 1:
            raise failure(
                f"{path} is a hard link: the same file has {status.st_nlink} names, and writing "
                "would change it under all; remove it and run again"
            )
        return os.fdopen(handle, mode)
    except BaseException:
        os.close(handle)
        raise


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 if there is none."""
    return path.lstat().st_size if is_there(path) else 0


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove what a process that was killed left of its unfinished files of this network."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):  # a leftover that cannot be removed does no harm
            status = leftover.lstat()
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > STALE:
                leftover.unlink()


# -- a remembered hash ----------------------------------------------------------------------------


def read_sha256(path: Path) -> str | None:
    """Return the SHA-256 that `write_sha256` wrote, None if there is no such file."""
    if not is_there(path):
        return None
    with open_file(path, "rb") as file:
        text = file.read(1000)
    match = re.fullmatch(rb"([0-9a-f]{64}) [ *][^\n]*\n?", text)
    if not match:
        raise failure(
            f"{path}: expected one line as sha256sum writes it, a SHA-256 and a file's name; "
            "remove it (the next archive is then taken and remembered) and run again"
        )
    return match[1].decode()


def write_sha256(path: Path, digest: str, name: str) -> None:
    """Write the hash of the file of this name as `sha256sum --check` reads it."""
    with atomic_write(path) as temporary:
        temporary.write_text(f"{digest}  {name}\n", encoding="ascii", newline="\n")


# -- the lock -------------------------------------------------------------------------------------


@contextmanager
def lock(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of this file while the block runs, alone among all processes.

    Waits while another process holds it. The system frees the lock when its holder ends, however
    that happens. The file stays: if it were removed, one process could lock the old file while
    another locks a new one of the same name.
    """
    with open_file(path, "ab") as file:
        if not _try_lock(file):
            say(f"another process is fetching {name}; waiting for it")
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
