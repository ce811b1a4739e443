"""The checksum of what is in the photos, so that results of changed photos are never mixed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np

from tinymixnet.engine.images import Source
from tinymixnet.engine.photo_files import PIECE, open_regular
from tinymixnet.errors import TinyMixNetError
from tinymixnet.evaluate.progress import Progress

THREADS = 8  # that read at once: a disk on the network takes long to answer, but answers many
UNREADABLE = b"cannot be read"  # takes the place of the checksum of such a photo


def contents_hash(files: list[str], read: Callable[[str], Source], progress: Progress) -> str:
    """Return the SHA-256 of the photos' own SHA-256s, in their order.

    read: gives for a name of `files` a path, bytes or an array. What cannot be read counts as such.
    """
    digest = sha256()
    with ThreadPoolExecutor(THREADS) as threads:
        hashes = threads.map(lambda file: _hash(file, read), files)
        for one in progress(hashes, len(files), 0, "checksum"):
            digest.update(one)
    return digest.hexdigest()


def _hash(file: str, read: Callable[[str], Source]) -> bytes:
    digest = sha256()
    try:
        source: Any = read(file)
        if isinstance(source, np.ndarray):
            digest.update(f"{source.dtype} {source.shape}".encode())
            digest.update(np.ascontiguousarray(source).data)
        elif isinstance(source, bytes):
            digest.update(source)
        else:
            with open_regular(source) as opened:
                while piece := opened.read(PIECE):
                    digest.update(piece)
    except (TinyMixNetError, OSError):
        return UNREADABLE
    return digest.digest()
