"""Write files so that nothing is lost: whole or not at all, and never over what is not ours.

A command that writes calls `check_output` before it starts to work, then writes inside
`atomic_write` (a file) or `atomic_folder` (a folder).
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinymixnet.errors import InputError, short_repr

# .NAME.tinymixnet-HOST-PROCESS-RANDOM.tmp: hidden, and it says who writes to it.
TEMPORARY = re.compile(r"\..*\.tinymixnet-([0-9a-f]{8})-(\d{1,10})-[^-.]+\.tmp", re.DOTALL)
SPECIAL = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_in_use: set[str] = set()  # the temporary paths that this process is writing to


# -- what may be overwritten ----------------------------------------------------------------------


def check_output(
    path: str | os.PathLike[str],
    inputs: Iterable[Any] = (),
    own: Callable[[Path], bool] | None = None,
    folder: bool = False,
    force: bool = False,
) -> None:
    """Raise InputError unless a command may write to `path` without destroying anything.

    inputs: what the command reads: paths, or open files; everything else is ignored. The output
        must be none of them, however it is spelt or linked, nor a folder around one of them.
    own: tells whether an existing path is this command's own earlier output, which is replaced.
        Without it nothing that exists is replaced.
    folder: whether the command makes a folder. An empty one may be there already.
    force: replace a file by a file, whoever wrote it. Inputs, links, devices and folders stay
        refused.

    >>> check_output("page.html", inputs=["cat.jpg"], own=begins_with(b"<!doctype html><title>"))
    """
    place = _place(path)
    if not place.parent.is_dir():
        raise InputError(f"{path}: cannot be written, no folder {place.parent}; make it first")
    try:
        mode = os.lstat(place).st_mode
    except FileNotFoundError:
        return  # nothing is there
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    _refuse_special(path, place, mode)
    sources = list(inputs)
    if any(_covers(place, source) for source in sources):
        raise InputError(f"{path}: is an input of this command, too; name another output")
    if stat.S_ISDIR(mode) and not folder:
        raise InputError(f"{path}: is a folder, expected a file; name a file in it")
    if stat.S_ISDIR(mode) and not any(os.scandir(place)):
        return
    if own is not None and own(place):
        return
    if not (force and not folder and stat.S_ISREG(mode)) or any(
        _covers(source, place) for source in sources
    ):
        raise InputError(
            f"{path}: something else is there already, which this command did not write; "
            "name another output, or move it away first"
        )


def _refuse_special(path: str | os.PathLike[str], place: Path, mode: int) -> None:
    """Raise InputError for a link, a device, a pipe or a socket: a rename would destroy it."""
    if stat.S_ISLNK(mode):
        target = os.path.realpath(place)
        raise InputError(f"{path}: is a symbolic link; name its target {target}, or another output")
    if special := SPECIAL.get(stat.S_IFMT(mode)):
        raise InputError(f"{path}: is {special}, expected a new file; name another output")


def begins_with(*starts: bytes) -> Callable[[Path], bool]:
    """Return a test for `own`: whether a path is a file that begins with one of these bytes."""

    def is_own(path: Path) -> bool:
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return False
            with path.open("rb") as file:
                return file.read(max(map(len, starts))).startswith(starts)
        except OSError:
            return False

    return is_own


def _place(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path; links are followed in the folder, not in the last name."""
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise InputError(f"output: expected a path, found {type(path).__name__} {short_repr(path)}")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        raise InputError(f"output: {short_repr(str(path))} cannot be the name of a file") from None
    if "\0" in str(path):
        raise InputError(f"output: {str(path)!r:.80} is not a path, it has a null byte")
    given = Path(path)
    if given.name in ("", ".."):  # the root, this folder, the one above
        return Path(os.path.realpath(given))
    return Path(os.path.realpath(given.parent), given.name)


def _covers(outer: Any, inner: Any) -> bool:
    """Whether two inputs or outputs are the same file, or `inner` lies in the folder `outer`."""
    outside, inside = _status(outer), _status(inner)
    if not outside or not inside:
        return False
    if os.path.samestat(outside, inside):
        return True
    if not stat.S_ISDIR(outside.st_mode) or hasattr(inner, "fileno"):
        return False
    return Path(os.path.realpath(outer)) in Path(os.path.realpath(inner)).parents


def _status(source: Any) -> os.stat_result | None:
    """Return what the system says of a path or an open file; None if it is neither."""
    try:
        if hasattr(source, "fileno"):
            return os.fstat(source.fileno())
        return os.stat(source) if isinstance(source, (str, os.PathLike)) else None
    except (OSError, ValueError):  # no such file, or a stream without one
        return None


# -- writing --------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only if the block ends without an error.

    The temporary file lies in the same folder, because a file can only be renamed within one disk.
    """
    with _temporary(Path(path)) as (folder, final):
        new = folder / "new"
        yield new
        os.replace(new, final)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `path` if the block ends without an error.

    A folder that is there already is replaced only then. So call `check_output` once more as the
    last thing inside the block: somebody may have changed the folder.
    """
    with _temporary(Path(path)) as (folder, final):
        new, old = folder / "new", folder / "old" / final.name
        new.mkdir()
        yield new
        if not final.exists():
            os.replace(new, final)
            return
        old.parent.mkdir()
        os.replace(final, old)
        try:
            os.replace(new, final)
        except BaseException:
            os.replace(old, final)
            raise
        os.replace(old.parent, folder / "replaced")  # so that nobody puts it back


@contextmanager
def _temporary(final: Path) -> Iterator[tuple[Path, Path]]:
    """Make a hidden folder beside `final`, and remove it in the end."""
    import tempfile  # slow to import, and reading does not need it

    final = Path(os.path.realpath(final.parent), final.name)
    with suppress(FileNotFoundError):  # checked here, too: nobody may write without this check
        _refuse_special(final, final, os.lstat(final).st_mode)
    remove_stale(final.parent)
    shortened = os.fsencode(final.name)[:80].decode("utf-8", "ignore")
    prefix = f".{shortened}.tinymixnet-{_host()}-{os.getpid()}-"
    folder = tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=final.parent)
    _in_use.add(folder)
    try:
        yield Path(folder), final
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _in_use.discard(folder)


def remove_stale(folder: Path) -> None:
    """Remove what processes of this machine left behind in a folder when they were killed.

    A process that was killed while it replaced a folder may have moved the old one away already:
    that one is put back.
    """
    if os.name == "nt":  # there, asking whether a process lives would end it
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            written_by = TEMPORARY.fullmatch(entry.name)
            if not written_by or written_by[1] != _host() or entry.path in _in_use:
                continue
            process = int(written_by[2])
            if process != os.getpid() and _lives(process):
                continue
            if not entry.is_dir(follow_symlinks=False):
                continue
            for old in Path(entry.path, "old").glob("*"):
                if not os.path.lexists(folder / old.name):
                    os.replace(old, folder / old.name)
            shutil.rmtree(entry.path, ignore_errors=True)


def _host() -> str:
    """Return 8 digits for this machine: another one may write to the same disk."""
    import platform
    import zlib

    return f"{zlib.crc32(platform.node().encode()):08x}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # the process is alive, and belongs to somebody else
        return True
    return True
