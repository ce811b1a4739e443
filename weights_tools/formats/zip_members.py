"""Open a member of a zip that should be stored as it is, which PyTorch and Keras always do.

A member that is packed may say that it has a few bytes and unpack to gigabytes: zipfile unpacks
first and compares then, and bzip2 has no limit at all.
"""

import zipfile
from typing import IO

from tinymixnet.errors import CheckpointError


def open_stored(archive: zipfile.ZipFile, name: str, most: int) -> IO[bytes]:
    """Return a stream of a member. Raises CheckpointError if it is packed, or over `most` bytes."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            f"{name[:80]!r}: refused, it is packed; expected a file as its framework writes it, "
            "where everything is stored as it is"
        )
    if info.file_size > most:
        raise CheckpointError(
            f"{name[:80]!r}: refused, {info.file_size:,} bytes, at most {most:,} are allowed"
        )
    return archive.open(info)
