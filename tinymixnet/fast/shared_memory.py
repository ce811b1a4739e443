"""Memory that several processes see: an object goes to a worker, and its arrays are not copied.

Pickle can hand out the contents of arrays apart from everything else (protocol 5, "out of band").
Here they go into a file that lives in memory, and every process that has the file open maps it.
The file has no name. So there is nothing to remove, and nothing is left behind by a crash: the
memory is freed with the last process that has it open or mapped.
"""

import mmap
import os
import pickle
import sys
import tempfile
from typing import IO, Any, NamedTuple

ALIGNMENT = 64  # bytes of a cache line: a vector that straddles two lines is slower to load


class Shared(NamedTuple):
    """An object in shared memory: what `attach` needs to build it in another process."""

    file: IO[bytes]
    pickled: bytes  # the object without its arrays' contents
    places: list[tuple[int, int]]  # (offset, bytes) of each array in the file


def share(value: Any) -> Shared:
    """Copy the arrays inside an object to shared memory."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    if sys.platform == "linux":
        file: IO[bytes] = open(os.memfd_create("tinymixnet"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    places = []
    for buffer in buffers:
        content = buffer.raw()
        file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
        places.append((file.tell(), content.nbytes))
        file.write(content)
    file.flush()
    return Shared(file, pickled, places)


def attach(file: int, pickled: bytes, places: list[tuple[int, int]]) -> Any:
    """The object of `share`; its arrays are read-only views of the shared memory.

    file is the number of the open file in this process.
    """
    if not places:
        return pickle.loads(pickled)
    memory = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    return pickle.loads(pickled, buffers=[memory[o : o + size] for o, size in places])
