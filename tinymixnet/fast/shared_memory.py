"""Memory that several processes have in common, for arrays that nobody has to copy.

`share` and `attach` send an object to other processes without copying the arrays in it.

Pickle can hand over the contents of arrays apart from everything else (protocol 5, "out of band").
Here they go into a file that lies in memory, and every process that has the file open maps it. The
file has no name, so nothing has to be removed, and a crash leaves nothing behind: the memory is
freed with the last process that has it open or mapped. `SharedNumbers` lie in such a file, too.
"""

import mmap
import os
import pickle
import sys
import tempfile
from math import prod
from typing import IO, Any, NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array

ALIGNMENT = 64  # bytes, a cache line: a vector that straddles two lines is slower to load


class Shared(NamedTuple):
    """What `attach` needs to build an object in another process."""

    file: IO[bytes]
    pickled: bytes  # the object without the contents of its arrays
    places: list[tuple[int, int]]  # (offset, bytes) of each array in the file


def nameless_file() -> IO[bytes]:
    """Open a new file that lies in memory, where the system has such files, and has no name."""
    if sys.platform == "linux":
        return open(os.memfd_create("tinymixnet"), "w+b")
    return tempfile.TemporaryFile()


def share(value: Any) -> Shared:
    """Copy the arrays inside an object to shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    file = nameless_file()
    places = []
    try:
        for buffer in buffers:
            content = buffer.raw()
            file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
            places.append((file.tell(), content.nbytes))
            file.write(content)
        file.flush()
    except BaseException:
        file.close()
        raise
    return Shared(file, pickled, places)


def attach(file: int, pickled: bytes, places: list[tuple[int, int]]) -> Any:
    """Return the object of `share`; its arrays are read-only views of the shared memory.

    file is the number of the open file in this process.
    """
    empty = not any(size for _, size in places)
    memory = memoryview(b"" if empty else mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    return pickle.loads(pickled, buffers=[memory[start : start + n] for start, n in places])


class SharedNumbers:
    """float32 numbers that several processes read and write; at first they are zeros.

    file is the number of an open file, the same file in all processes.
    """

    def __init__(self, file: int) -> None:
        self.file = file
        self.numbers = np.zeros(0, np.float32)

    def grow(self, size: int) -> None:
        """Make the file large enough for `size` numbers. One process does this for all."""
        if os.fstat(self.file).st_size < 4 * size:
            os.ftruncate(self.file, 4 * size)

    def array(self, *shape: int) -> Array:
        """Return the first numbers as an array of this shape. The file has to be large enough."""
        size = prod(shape)
        if self.numbers.size < size:
            self.numbers = np.frombuffer(mmap.mmap(self.file, 0), np.float32)
        return self.numbers[:size].reshape(shape)
