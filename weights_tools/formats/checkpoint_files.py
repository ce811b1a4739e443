"""Find the files of a checkpoint, whichever way the user says where it is.

A checkpoint is a few files with one prefix: PREFIX.index, and PREFIX.data-00000-of-00001 and so on.
They may lie in a folder or in a tar archive (`checkpoint_archive`).
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tinymixnet.errors import CheckpointError
from weights_tools.formats.refusals import (
    VERSION_1,
    damaged,
    is_table,
    name_format,
    open_plain_file,
)

EXPECTED = (
    "expected PREFIX.index with its data files beside it: give the prefix, the folder or a .tar.gz"
)

MAX_FOLDER_ENTRIES = 20_000  # a folder with more is surely not that of a checkpoint
MAX_STATE_BYTES = 1 << 20  # of the text file `checkpoint`, which lists every checkpoint of a run

MAX_NAME = 255  # of a file, in characters; usual disks allow no more

_STATE_LINE = re.compile(rb'[ \t]*model_checkpoint_path[ \t]*:[ \t]*"((?:[^"\\]|\\.)*)"')


class Part(NamedTuple):
    """One file of a checkpoint: `size` bytes of a stream, which begin at byte `start` of it."""

    stream: BinaryIO
    start: int
    size: int

    def read(self, offset: int, size: int) -> np.ndarray:
        """Return some bytes of the file as a new array; fewer where the file ends before."""
        data = np.empty(max(0, min(size, self.size - offset)), np.uint8)
        self.stream.seek(self.start + offset)
        count = self.stream.readinto(data.data)  # type: ignore[attr-defined]
        return data[:count]

    def close(self) -> None:
        self.stream.close()


OpenPart = Callable[[str], Part]  # opens the file that is the prefix plus a suffix (".index")


def find_parts(path: Path) -> OpenPart | None:
    """Return how to open the files of the checkpoint that a path means; None for another file."""
    prefix = re.sub(r"\.(index|meta|data-[0-9]{5}-of-[0-9]{5})$", "", str(path))
    if Path(f"{prefix}.index").is_file():
        return partial(open_part, prefix)
    if path.is_dir():
        return partial(open_part, _prefix_in(path))
    if not path.exists():
        _refuse_version_1(_version_1_files(Path(prefix)))
        raise CheckpointError(f"there is no such file, nor {prefix}.index; {EXPECTED}")
    if path.name == "checkpoint":
        return partial(open_part, _prefix_in(path.parent))
    return None


def open_part(prefix: str, suffix: str) -> Part:
    """Open one file of a checkpoint whose files lie on the disk."""
    stream = open_plain_file(Path(prefix + suffix), EXPECTED)
    return Part(stream, 0, os.fstat(stream.fileno()).st_size)


def only_prefix(indexes: list[str]) -> str:
    """Return the prefix of the only *.index among some names."""
    if len(indexes) > 1:
        listed = ", ".join(indexes[:10]) + (", ..." if len(indexes) > 10 else "")
        raise CheckpointError(f"{len(indexes)} checkpoints are here, give one of them: {listed}")
    return indexes[0].removesuffix(".index")


def _prefix_in(folder: Path) -> str:
    """Return the prefix that the folder's file `checkpoint` names, or that of its only index."""
    if (folder / "checkpoint").is_file():
        prefix = folder / _name_in_state(folder / "checkpoint")
        if not Path(f"{prefix}.index").exists():
            _refuse_version_1(_version_1_files(prefix))
        return str(prefix)
    if name := name_format(folder):
        raise CheckpointError(f"this is {name}; {EXPECTED}")
    entries = list(_visible_entries(folder, MAX_FOLDER_ENTRIES))
    inner = _visible_entries_of_folders(entries)
    for candidates in (entries, inner):
        indexes = sorted(e.path for e in candidates if e.name.endswith(".index"))
        if indexes:
            return only_prefix(indexes)
    _refuse_version_1(Path(entry.path) for entry in entries)
    raise CheckpointError(f"there is no *.index in this folder or one folder down; {EXPECTED}")


def _visible_entries(folder: str | Path, limit: int) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count == limit:
                raise CheckpointError(f"more than {MAX_FOLDER_ENTRIES} files here; {EXPECTED}")
            if not entry.name.startswith("."):
                yield entry


def _visible_entries_of_folders(entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    """List what lies one folder down."""
    inner: list[os.DirEntry[str]] = []
    for entry in entries:
        if entry.is_dir():
            try:
                inner += _visible_entries(entry.path, MAX_FOLDER_ENTRIES - len(inner))
            except PermissionError:  # a folder that the user may not read
                continue
    return inner


def _version_1_files(prefix: Path) -> list[Path]:
    """List the files of a checkpoint of version 1: a file called like the prefix, or its shards."""
    return [prefix, *prefix.parent.glob(f"{glob.escape(prefix.name)}-00000-of-?????")]


def _refuse_version_1(files: Iterable[Path]) -> None:
    """Raise CheckpointError if one of these is a file of a version 1 checkpoint."""
    for file in files:
        if file.is_file() and is_table(file):
            raise CheckpointError(f"this is {VERSION_1}")


def _name_in_state(state: Path) -> str:
    """Return the file name that a `checkpoint` file gives: protobuf in text form, C-like escapes.

    Only the last part of the path in it counts. Often it is a path on the machine that trained, and
    the files meant are those beside it.
    """
    with open_plain_file(state, EXPECTED) as file:
        lines = file.read(MAX_STATE_BYTES).splitlines()
    match = next(filter(None, map(_STATE_LINE.match, lines)), None)
    if not match:
        raise damaged("the file `checkpoint` names no model_checkpoint_path")
    raw = re.sub(
        rb"\\(?:([0-7]{1,3})|(.))",
        lambda escape: bytes([int(escape[1], 8) & 0xFF]) if escape[1] else escape[2],
        match[1],
    )
    try:
        name = re.split(r"[/\\]", raw.decode())[-1]
    except UnicodeDecodeError:
        raise damaged("the file `checkpoint` names a path that is not UTF-8") from None
    if not name:
        raise damaged("the file `checkpoint` names a folder, not a prefix")
    if len(name) > MAX_NAME:
        raise damaged(f"the file `checkpoint` names a file with {len(name):,} characters")
    return name
