"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` only if the block ends without an error.

    The temporary file lies in the same folder, because a file can only be renamed within one disk.
    """
    import tempfile  # slow to import, and reading needs neither

    final = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a usual file is not private
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
