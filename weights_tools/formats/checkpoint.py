"""Read a TensorFlow checkpoint (the format called TensorBundle V2) with NumPy and nothing else.

A checkpoint is a few files with one prefix. PREFIX.index says of every variable its type, its shape
and its place. PREFIX.data-00000-of-00001 (there may be several) holds the values, little-endian,
end to end. The modules around this one each do one part of the work:

    checkpoint_files     find the files, on the disk or (checkpoint_archive) in a .tar.gz
    checkpoint_table     the index is a sorted table from keys to values
    checkpoint_index     a key is a variable's name, a value is a message about it
    protobuf, crc32c     how messages are stored; the checksums of the table and of the values

Nothing in a file is trusted. Every number is checked against what is there before it is used, every
block and tensor against its checksum, and whatever is wrong raises `CheckpointError`.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import final

import numpy as np

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError, TinyMixNetError
from weights_tools.formats import bfloat16
from weights_tools.formats.checkpoint_archive import is_archive, open_archive
from weights_tools.formats.checkpoint_files import EXPECTED, OpenPart, Part, find_parts
from weights_tools.formats.checkpoint_index import READABLE, Variable, parse_index
from weights_tools.formats.crc32c import masked_crc32c
from weights_tools.formats.refusals import damaged, name_format

MAX_INDEX_BYTES = 4 << 20  # MixNet-L's has 150,000; parsing takes time for every byte

__all__ = ["Checkpoint", "Variable", "open_checkpoint"]


@final
class Checkpoint:
    """An open checkpoint: `variables` lists what it holds, `read` returns the values of one.

    Use it in a `with` statement, or call `close`. Made by `open_checkpoint`.
    """

    def __init__(self, path: Path, variables: dict[str, Variable], shards: list[Part]) -> None:
        self.path = path
        self.variables = variables
        self._shards = shards

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self.variables)} variables)"

    def read(self, name: str) -> np.ndarray:
        """Return the values of one variable, checked against its CRC-32C, in a new array.

        float16, float32, float64, int32 and int64 come as they are; bfloat16, the upper half of a
        float32, comes widened to float32, which is exact. Raises `CheckpointError` for a name that
        is not there, any other type (strings, say), damaged values, and a closed checkpoint.
        """
        try:
            return self._read(name)
        except TinyMixNetError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        except (OSError, MemoryError) as error:
            raise CheckpointError(f"{self.path}: cannot read {name!r}: {error!r}") from error

    def _read(self, name: str) -> np.ndarray:
        if name not in self.variables:
            raise CheckpointError(f"no variable {name!r} among the {len(self.variables)} in it")
        variable = self.variables[name]
        if variable.dtype not in READABLE:
            readable = ", ".join(READABLE)
            raise CheckpointError(
                f"{name!r} is of type {variable.dtype}; only {readable} can be read"
            )
        if not self._shards:
            raise CheckpointError(f"closed already; read {name!r} inside the with statement")
        budget.check("checkpoint_bytes", variable.size, repr(name))
        data = self._shards[variable.shard].read(variable.offset, variable.size)
        if len(data) != variable.size:
            raise damaged(f"the data file ends inside {name!r}")
        if masked_crc32c(data.data) != variable.crc:
            raise damaged(f"the values of {name!r} do not match their checksum")
        array = data.view(READABLE[variable.dtype])
        if variable.dtype == "bfloat16":
            array = bfloat16.widen(array)
        return array.reshape(variable.shape)

    def close(self) -> None:
        """Close the data files; closing twice does no harm."""
        for shard in self._shards:
            shard.close()
        self._shards = []

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a TensorFlow checkpoint: read and check its index; `read` gets the values later.

    `path` is any of these:

    - the prefix ("run/model.ckpt"), or one of the files that begin with it;
    - a folder, where the text file `checkpoint` names the prefix or, without that file, the only
      *.index in the folder or one folder down does;
    - a .tar.gz, .tgz or .tar. It is read without unpacking anything to disk; links in it are
      ignored.

    Raises `CheckpointError` for anything missing, damaged, of another format, or beyond this
    reader: compressed blocks, partitioned variables, big-endian values, version 1 checkpoints.
    """
    try:
        return _open_checkpoint(as_path(path))
    except TinyMixNetError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the path, say
        raise CheckpointError(f"{path}: cannot be read: {error!r}") from error


def _open_checkpoint(path: Path) -> Checkpoint:
    open_part = find_parts(path) or _open_other(path)
    index = open_part(".index")
    try:
        if index.size > MAX_INDEX_BYTES:
            raise CheckpointError(
                f"the index has {index.size:,} bytes, more than {MAX_INDEX_BYTES:,}: not a MixNet's"
            )
        variables, shard_count = parse_index(index.read(0, index.size).tobytes())
    finally:
        index.close()
    with ExitStack() as stack:
        shards = []
        for shard in range(shard_count):
            shards.append(open_part(f".data-{shard:05d}-of-{shard_count:05d}"))
            stack.callback(shards[-1].close)
        _check_places(variables, [part.size for part in shards])
        stack.pop_all()
    return Checkpoint(path, variables, shards)


def _open_other(path: Path) -> OpenPart:
    """Return how to open the files in an archive; say what a file of another format is."""
    if is_archive(path):
        return open_archive(path)
    name = name_format(path) or "not a TensorFlow checkpoint or one without its index"
    raise CheckpointError(f"this is {name}; {EXPECTED}")


def _check_places(variables: dict[str, Variable], shard_sizes: list[int]) -> None:
    """Raise unless every variable lies inside its data file and apart from the others."""
    ends = [0] * len(shard_sizes)
    for variable in sorted(variables.values(), key=lambda v: (v.shard, v.offset, v.size)):
        end = variable.offset + variable.size
        if end > shard_sizes[variable.shard]:
            raise damaged(
                f"{variable.name!r} should end at byte {end} of data file {variable.shard}, which"
                f" has {shard_sizes[variable.shard]} bytes"
            )
        if variable.size and variable.offset < ends[variable.shard]:
            raise damaged(f"{variable.name!r} overlaps the variable before it in the data file")
        ends[variable.shard] = max(end, ends[variable.shard])
