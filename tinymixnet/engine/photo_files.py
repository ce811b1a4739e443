"""Open a photo that may be hostile: which files are read, and how much work they may cause.

A file of a few kilobytes can describe a photo of a billion pixels. So the size of the file is
checked before it is read, and the memory and time it needs before anything is decoded.
"""

import io
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from tinymixnet.engine.budget import budget
from tinymixnet.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

PIECE = 1 << 20  # bytes read at a time from a pipe: one call could ask for any amount of memory
LONGEST_SIDE = 65535  # pixels; Pillow's work on a longer row may grow with the square of its length
RUN_LENGTH_PIXELS = 4096 * 4096  # of a run-length BMP: Pillow decodes it in Python, 0.1 us a pixel
MOST_SCANS = 100_000  # of a JPEG that are counted
WEBP_BYTES = 16  # a pixel, as measured: the decoder keeps two canvases, and Pillow copies twice

# The first bytes of a file of each format. They tell a damaged photo from a file that is no photo.
SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF....WEBP": "WEBP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II[*+]\0": "TIFF",
    b"MM\0[*+]": "TIFF",
}


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a regular file for reading. Raise ImageError for anything else, without opening it.

    To open a named pipe would wait for its writer, and a device may never end.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise ImageError(
                f"cannot be read: it is {kind}, expected a regular file "
                "(what a pipe brings is read from standard input, as -)"
            )
        budget.check("photo_file_bytes", status.st_size, "the file")
        file = open(path, "rb")  # noqa: SIM115  # closed below
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte in it
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot be read: {reason}") from None
    with file:
        yield file


def read_bounded(file: IO[bytes]) -> bytes:
    """Return the rest of a file object, in pieces: a pipe does not say where it ends.

    Raises TinyMixNetError when it is longer than `budget.photo_file_bytes`.
    """
    content = io.BytesIO()
    while piece := file.read(PIECE):
        budget.check(
            "photo_file_bytes", content.tell() + len(piece), "the file, not yet at its end,"
        )
        content.write(piece)
    return content.getvalue()


def signature(file: IO[bytes]) -> str | None:
    """Return the format that a file's first bytes announce, if it is one that is read."""
    file.seek(0)
    start = file.read(16)
    for pattern, name in SIGNATURES.items():
        if re.match(pattern, start, re.DOTALL):
            return name
    return None


def check_work(image: "Image", file: IO[bytes] | None) -> None:
    """Raise TinyMixNetError if a photo takes too much memory or time. Call it before `load`.

    The memory counts what exists at one time, as measured: the decoded pixels, what the decoder
    holds beside them, and the 8-bit RGB copy, at 4 bytes a pixel in Pillow.
    """
    if file is None:
        _check_work(image, None)
        return
    position = file.tell()  # where Pillow goes on to read
    _check_work(image, file)
    file.seek(position)


def _check_work(image: "Image", file: IO[bytes] | None) -> None:
    w, h = image.size
    if not 1 <= min(w, h) <= max(w, h) <= LONGEST_SIDE:
        raise ImageError(f"{w}x{h} pixels, expected 1..{LONGEST_SIDE} a side")
    tiles = getattr(image, "tile", None)
    if file is None and not tiles:
        return  # decoded already
    pixels = w * h
    budget.check("photo_pixels", pixels, "refused, too many pixels: it")
    decoded = {"1": 1, "L": 1, "P": 1}.get(image.mode, 2 if image.mode.startswith("I;16") else 4)
    # Asked for its EXIF, Pillow would decode a PNG. Where EXIF follows the pixels, `to_rgb` checks.
    upright = (image.format == "PNG" and "exif" not in image.info) or orientation(image) == 1
    copy = 0 if image.mode == "RGB" and upright and "transparency" not in image.info else 4
    extra: float = 0  # bytes a pixel that the decoder needs, and frees before the copy is made
    if image.format in ("JPEG", "MPO"):
        extra = _jpeg_bytes(image, pixels, file)
    elif image.format == "TIFF":
        extra = _tiff_bytes(image, pixels, file)
    elif image.format == "WEBP":
        extra = WEBP_BYTES - decoded
    elif copy and tiles and tiles[0][3] == "RGB;16B" and "transparency" in image.info:
        copy = 8  # of a PNG: the lower halves of its 16 bits are decoded as well
    elif image.format == "BMP" and tiles and tiles[0][0] == "bmp_rle":
        extra = 2
        if pixels > RUN_LENGTH_PIXELS:
            raise ImageError(f"a run-length BMP of {pixels:,} pixels takes too long to decode")
    size = _size(file)
    budget.check("photo_bytes", pixels * (decoded + max(extra, copy)) + size, "to decode it")


def orientation(image: "Image") -> int:
    """Return EXIF's orientation, 1 to 8; 1 where damaged EXIF does not say."""
    try:
        value = image.getexif().get(0x112, 1)
        return value if value in range(1, 9) else 1
    except Exception:
        return 1


def _size(file: IO[bytes] | None) -> int:
    return 0 if file is None else file.seek(0, os.SEEK_END)


def _jpeg_bytes(image: Any, pixels: int, file: IO[bytes] | None) -> float:
    """Return the decoder's bytes a pixel; raise if there are too many scans.

    A JPEG of several scans refines the whole photo with each of them. The decoder keeps all its
    coefficients, 2 bytes each, and goes through them once a scan.
    """
    scans = _scans(file)
    budget.check("photo_scan_pixels", pixels * len(scans), f"a JPEG of {len(scans)} scans")
    if not image.info.get("progressive") and scans.count(image.layers) == len(scans):
        return 0  # every scan holds all colours, so there is just one
    samples = [(v, h) for _, v, h, _ in image.layer]
    whole = math.prod(map(max, zip(*samples, strict=True))) or 1
    return 2 * sum(v * h for v, h in samples) / whole


def _scans(file: IO[bytes] | None) -> bytes:
    """Return how many colours each scan of a JPEG holds, a byte each.

    The marker that starts a scan cannot occur in compressed data. It can occur in a thumbnail,
    whose scans are counted, too.
    """
    if file is None:
        return b""
    file.seek(0)
    starts = re.finditer(rb"\xff\xda..(.)", file.read(), re.DOTALL)
    return b"".join(match[1] for match in islice(starts, MOST_SCANS))


def _tiff_bytes(image: Any, pixels: int, file: IO[bytes] | None) -> float:
    """Return the decoder's bytes a pixel; raise for tiles that are larger than the photo allows.

    A compressed TIFF is decoded in strips or tiles, and a single strip may be the whole photo.
    """
    tags = image.tag_v2
    tile = tags.get(322, 1) * tags.get(323, 1)  # TileWidth, TileLength
    budget.check("photo_pixels", tile, "refused, too many pixels: a tile of it")
    if image.info.get("compression") == "raw":
        return 0
    if image.info.get("compression") in ("jpeg", "tiff_jpeg") and file is not None:
        scans, sizes = len(_scans(file)), tags.get(279, tags.get(325, ()))  # of strips or tiles
        if sum(sizes) > _size(file):  # the same strip stands in the list many times: slow to decode
            raise ImageError("damaged: its strips or tiles overlap or go beyond its end")
        parts = max(len(sizes), 1)
        budget.check("photo_scan_pixels", pixels * scans / parts, f"a JPEG of {scans} scans")
    bits = tags.get(258, (1,))  # BitsPerSample
    bits = bits if len(bits) > 1 else bits * tags.get(277, 1)  # SamplesPerPixel
    per_pixel = max(sum(bits) / 8, 4 if tags.get(262) == 6 else 0)  # YCbCr comes as RGBX
    return per_pixel * max(tile / pixels, 1)
