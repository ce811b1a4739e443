"""Photos that nobody vouches for: pipes, devices, sizes, and how much memory and time they take."""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.engine.test_images import WHOLE, encode, noise
from tests.engine.test_rgb import PILLOW, png_chunk
from tests.support.processes import run_measured
from tinymixnet.engine.budget import budget
from tinymixnet.engine.images import preprocess, read_image
from tinymixnet.engine.photo_files import RUN_LENGTH_PIXELS, read_bounded
from tinymixnet.errors import ImageError, TinyMixNetError

PHOTO = encode(noise(40, 40), "PNG")
MOST_MEMORY = 600e6  # bytes, of the whole process
MOST_SECONDS = 30  # for one photo on a busy machine; alone, the slowest takes 5


def refused(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source)
    assert str(caught.value).isprintable()
    return str(caught.value)


# -- what is opened -------------------------------------------------------------------------------


def test_pipes_devices_sockets_and_folders_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # to open it would wait for ever
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket may not be long
        listening.bind("socket.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / "socket.png", tmp_path / "link.png"):
        assert f"{path}: cannot be read: it is a pipe, socket or device" in refused(path)
    for device in ("/dev/zero", "/dev/null", "/dev/random"):
        assert f"{device}: cannot be read: it is a pipe, socket or device" in refused(device)
    assert "it is a folder" in refused(tmp_path)


def test_links_to_photos_are_read(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(PHOTO)
    (tmp_path / "link.png").symlink_to(tmp_path / "photo.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "missing.png")
    assert (np.asarray(read_image(tmp_path / "link.png")) == noise(40, 40)).all()
    assert "cannot be read" in refused(tmp_path / "loop.png")
    assert "no such file" in refused(tmp_path / "dangling.png")


class Endless:
    """A file object that counts what is taken from it."""

    taken = 0

    def read(self, size: int) -> bytes:
        self.taken += size
        return bytes(size)


class Odd:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def read(self, size: int) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_files_longer_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "photo_file_bytes", 5_000_000)
    endless = Endless()
    assert "TINYMIXNET_BUDGET=photo_file_bytes" in refused(endless)
    assert endless.taken <= 7_000_000
    sparse = tmp_path / "sparse.png"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    assert "1,099,511,627,776 file bytes" in refused(sparse)
    assert "photo_file_bytes" in refused(bytes(5_000_001))
    padded = PHOTO + bytes(5_000_000 - len(PHOTO))
    assert read_image(io.BytesIO(padded)).size == (40, 40)
    assert read_bounded(io.BytesIO(padded)) == padded
    with pytest.raises(TinyMixNetError):
        read_bounded(io.BytesIO(padded + b"\0"))


@pytest.mark.parametrize(
    "answer", ["text", None, 3, [1], OSError("\x1b[31m\n"), ValueError("closed")]
)
def test_file_objects_that_do_not_give_bytes(answer: Any) -> None:
    refused(Odd(answer))


def test_names_and_messages_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\nb\u202e.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x1b[31m" * 3)
    assert "a\\x1b[31m\\nb\\u202e.png: a PNG file that is damaged" in refused(path)
    assert "no such file" in refused(tmp_path / "\udc80.png")


def test_a_photo_of_a_known_kind_is_not_told_of_the_kinds() -> None:
    for name, data in WHOLE.items():
        if name != "mpo":
            message = refused(data[:12] + b"\xff" * 30)
            assert "expected one of" not in message, name


# -- what they may ask for ------------------------------------------------------------------------


def flat_png(width: int, height: int, depth: int, kind: int, chunks: bytes = b"") -> bytes:
    """A PNG of zeros, made without holding its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    squeeze = zlib.compressobj(1)
    packed = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + chunks + png_chunk(b"IDAT", packed)
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def flat_webp(side: int) -> bytes:
    """A lossless WebP of one colour, of a few bytes whatever its size."""
    data = bytearray(encode(Image.new("RGB", (16, 16), "navy"), "WEBP", lossless=True))
    start = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, start)
    struct.pack_into("<I", data, start, bits & ~0xFFFFFFF | (side - 1) << 14 | side - 1)
    return bytes(data)


PALETTE = png_chunk(b"PLTE", bytes(range(6))) + png_chunk(b"tRNS", b"\x80")
LARGE = {
    "1 bit": lambda: flat_png(9450, 9460, 1, 0),
    "palette with transparency": lambda: flat_png(9450, 9460, 8, 3, PALETTE),
    "RGBA": lambda: flat_png(9400, 9400, 8, 6),
    "WebP": lambda: flat_webp(5300),
}


@pytest.mark.parametrize("name", LARGE)
def test_memory_and_time_of_large_photos(tmp_path: Path, name: str) -> None:
    """The whole `classify` process, whether it answers or refuses."""
    path = tmp_path / "photo"
    path.write_bytes(LARGE[name]())
    assert path.stat().st_size < 2_000_000
    run = run_measured([sys.executable, "-m", "tinymixnet", "classify", str(path)])
    print(f"{name}: {run.peak / 1e6:.0f} MB, {run.seconds:.1f} s")
    assert run.peak < MOST_MEMORY
    assert run.seconds < MOST_SECONDS
    answer = run.output
    assert "Traceback" not in answer
    if name == "RGBA":
        assert "to decode it asks for" in answer
        assert run.returncode == 2
    else:
        assert "%" in answer
        assert run.returncode == 0


def test_memory_is_asked_for_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """By kind, the bytes a pixel that Pillow was measured to need."""
    image = Image.fromarray(noise(100, 100))
    exif = Image.Exif()
    exif[0x112] = 6
    asked = {
        "RGB PNG": (encode(image, "PNG"), 4),
        "grey PNG": (encode(image.convert("L"), "PNG"), 5),
        "RGBA PNG": (encode(image.convert("RGBA"), "PNG"), 8),
        "16-bit PNG": (encode(np.ones((100, 100), np.uint16), "PNG"), 6 if PILLOW >= 11 else 8),
        "turned PNG": (encode(image, "PNG", exif=exif), 8),
        "JPEG": (encode(image, "JPEG"), 4),
        "turned JPEG": (encode(image, "JPEG", exif=exif), 8),
        "CMYK JPEG": (encode(image.convert("CMYK"), "JPEG"), 8),
        "progressive JPEG": (encode(image, "JPEG", progressive=True), 7),
        "progressive 4:4:4": (encode(image, "JPEG", progressive=True, subsampling=0), 10),
        "WebP": (encode(image, "WEBP"), 16),
        "GIF": (encode(image, "GIF"), 5),
        "TIFF": (encode(image, "TIFF"), 4),
        "one strip": (encode(image, "TIFF", compression="tiff_lzw", tiffinfo={278: 100}), 7),
    }
    for name, (data, per_pixel) in asked.items():
        need = per_pixel * 100 * 100 + len(data)
        monkeypatch.setattr(budget, "photo_bytes", need)
        assert read_image(data).size == (100, 100), name
        monkeypatch.setattr(budget, "photo_bytes", need - 1)
        assert f"photo_bytes={need}" in refused(data), name


def test_a_png_turned_by_what_follows_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1, 6) + bytes(4)
    data = encode(noise(30, 50), "PNG")
    data = data[:-12] + png_chunk(b"eXIf", exif) + data[-12:]
    assert (np.asarray(read_image(data)) == np.rot90(noise(30, 50), -1)).all()
    monkeypatch.setattr(budget, "photo_bytes", 8 * 30 * 50 - 1)
    assert "to turn it upright" in refused(data)


def test_more_pixels_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Image.MAX_IMAGE_PIXELS
    for limit in (1600, 1599, 799):
        monkeypatch.setattr(budget, "photo_pixels", limit)
        if limit == 1600:
            assert read_image(PHOTO).size == (40, 40)
        else:
            assert "photo_pixels=" in refused(PHOTO)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_jpeg_of_very_many_scans() -> None:
    """64 kB that go through 9 million pixels 2500 times would take half a minute."""
    data = encode(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    began = time.process_time()
    assert "a JPEG of 2510 scans" in refused(data[:-2] + scan * 2500 + data[-2:])
    assert time.process_time() - began < 5
    assert read_image(data).size == (3000, 3000)


def test_a_run_length_bmp_that_is_large() -> None:
    side = 4097
    assert side * side > RUN_LENGTH_PIXELS
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 6, 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    start = 54 + len(palette)
    data = b"BM" + struct.pack("<IHHI", start + 6, 0, 0, start) + header + palette + b"\0\0" * 3
    assert "takes too long" in refused(data)


@pytest.mark.parametrize("preset", ["timm", "omz"])
def test_presets_ask_before_they_copy(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = read_image(noise(100, 150))
    monkeypatch.setattr(budget, "photo_bytes", 4 * 100 * 150)
    monkeypatch.setattr(budget, "preset_pixels", 1000)
    with pytest.raises(TinyMixNetError, match="TINYMIXNET_BUDGET"):
        preprocess(photo, preset, 64)


def test_presets_of_a_photo_larger_than_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bands or at once, to the same pixels."""
    photo = read_image(noise(150, 210))
    whole = {name: preprocess(photo, name, 32) for name in ("tf", "square")}
    monkeypatch.setattr("tinymixnet.engine.images.BAND_PIXELS", 1000)
    for name, expected in whole.items():
        assert np.array_equal(preprocess(photo, name, 32), expected)


# -- mutations ------------------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    end=st.floats(0, 1) | st.just(1),
    tail=st.binary(max_size=16),
)
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_mutated_photos(
    name: str, changes: list[tuple[float, int]], end: float, tail: bytes
) -> None:
    """Any bytes end in an image or in an ImageError of one line."""
    data = bytearray(WHOLE[name])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    try:
        photo = read_image(bytes(data[: int(end * len(data))]) + tail)
    except ImageError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert photo.mode == "RGB"
