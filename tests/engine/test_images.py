"""Photos in: every mode, format and source; damage and bombs refused; the presets pixel by pixel.

Run with -s to see the measured differences from TensorFlow.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import io
import os
import random
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from tests.support.shared import SHARED
from tinymixnet.engine.images import FORMATS, LONGEST_SIDE, PRESETS, preprocess, read_image
from tinymixnet.errors import ImageError, InputError, printable

pytestmark = pytest.mark.filterwarnings("error")  # no photo, however damaged, may make us warn

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
LOSSLESS = {"PNG": {}, "BMP": {}, "GIF": {}, "TIFF": {}, "WEBP": {"lossless": True}}
JPEG = {"quality": 100, "subsampling": 0}
JPEG_ERROR = 3  # of 255, of a flat colour at quality 100: its YCbCr is rounded twice


def quadrants(height: int = 16, width: int = 24) -> np.ndarray:
    """Red, green over blue, yellow: no turn or flip of it is like another."""
    picture = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture[:top, :left], picture[:top, left:] = RED, GREEN
    picture[top:, :left], picture[top:, left:] = BLUE, YELLOW
    return picture


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(image: Image.Image | np.ndarray, format: str, **options: Any) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    file = io.BytesIO()
    image.save(file, format, **options)  # leaves settings in the image: hence the copy
    return file.getvalue()


def animate(format: str, *frames: np.ndarray, **options: Any) -> bytes:
    first, *others = [Image.fromarray(frame) for frame in frames]
    return encode(first, format, save_all=True, append_images=others, **options)


def read(source: Any) -> np.ndarray:
    photo = read_image(source)
    assert isinstance(photo, Image.Image)
    assert photo.mode == "RGB"
    return np.asarray(photo)


def row(*colours: tuple[int, ...]) -> np.ndarray:
    """Pixels side by side: (1, W, 3), signed so that differences of them are."""
    return np.array([colours], int)


def over_white(colour: tuple[int, ...], alpha: int) -> tuple[int, ...]:
    return tuple(round((value * alpha + 255 * (255 - alpha)) / 255) for value in colour)


def png(
    pixels: bytes, width: int, height: int, depth: int, kind: int, transparent: bytes = b""
) -> bytes:
    """A PNG by hand: kind 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA; rows with no filter."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    step = max(len(pixels) // height, 1)
    rows = b"".join(b"\0" + pixels[i : i + step] for i in range(0, len(pixels), step))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png16(kind: int, *values: int, transparent: tuple[int, ...] = ()) -> bytes:
    """One row of 16-bit pixels."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    pack = f">{len(values)}H", f">{len(transparent)}H"
    pixels, key = struct.pack(pack[0], *values), struct.pack(pack[1], *transparent)
    return png(pixels, len(values) // channels, 1, 16, kind, key)


# -- sources --------------------------------------------------------------------------------------


class Stream:
    """A file object that can do nothing but be read, once."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        assert 0 < size <= 1 << 20
        data, self.data = self.data[:size], self.data[size:]
        return data


@contextlib.contextmanager
def pipe(data: bytes) -> Iterator[IO[bytes]]:
    reading, writing = os.pipe()
    with open(reading, "rb") as end:
        with open(writing, "wb") as file:
            file.write(data)
        yield end


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = quadrants()
    data = encode(picture, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)]
    sources += [Stream(data), Image.open(io.BytesIO(data)), Image.fromarray(picture), picture]
    for source in sources:
        assert (read(source) == picture).all(), type(source)
    with pipe(data) as end:
        assert not end.seekable()
        assert (read(end) == picture).all()
    with path.open("rb") as file:
        assert (read(file) == picture).all()
        assert not file.closed  # it is the caller's


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(format: str) -> None:
    data = encode(quadrants(), format, **LOSSLESS.get(format, JPEG))
    error = np.abs(read(data).astype(int) - quadrants()).max()
    assert error <= (JPEG_ERROR if format == "JPEG" else 0)


def test_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "n02105855_2933.JPEG"
    path.write_bytes(encode(quadrants(), "PNG"))
    assert (read(path) == quadrants()).all()


def test_array_shapes() -> None:
    picture = noise(5, 7)
    grey, alpha = picture[..., 0], picture[..., 1]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    assert (read(grey) == as_rgb).all()
    assert (read(grey[..., None]) == as_rgb).all()
    assert (read(picture[::-1, ::2]) == picture[::-1, ::2]).all()
    assert (read(np.asfortranarray(picture)) == picture).all()
    expected = picture * (alpha / 255)[..., None] + 255 * (1 - alpha / 255)[..., None]
    assert np.abs(read(np.dstack([picture, alpha])) - expected).max() <= 1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.array([[None]]),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_bad_arrays(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected uint8") as caught:
        read_image(array)
    assert f"found {array.dtype} {array.shape}" in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 0), (0, 4, 3), (4, 0, 3), (0, 4)])
def test_no_pixels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="pixels"):
        read_image(np.zeros(shape, np.uint8))
    for mode in ("RGB", "L", "I;16", "P"):
        with pytest.raises(ImageError, match="pixels"):
            read_image(Image.new(mode, (shape[0], shape[1])))


@pytest.mark.parametrize("source", [None, 3, 2.5, [1, 2], object()])
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(ImageError, match=f"found {type(source).__name__}"):
        read_image(source)


def test_a_text_file_object() -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]


def test_nothing_of_the_source_changes() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    rgba = np.dstack([quadrants(), quadrants()[..., 0]])
    palette = Image.fromarray(quadrants()).quantize(4)
    palette.info["transparency"] = b"\0\x80"
    deep = Image.open(io.BytesIO(png16(2, 1, 2, 3, 60000, 0, 9, transparent=(60000, 0, 9))))
    turned = Image.open(io.BytesIO(encode(quadrants(), "PNG", exif=exif)))
    for image in (Image.fromarray(quadrants()), Image.fromarray(rgba), palette, deep, turned):
        image.load()
        before = image.mode, image.size, image.tobytes(), dict(image.info), dict(image.getexif())
        photo = read_image(image)
        photo.paste("black", (0, 0, *photo.size))
        photo.info["ours"] = True
        after = image.mode, image.size, image.tobytes(), dict(image.info), dict(image.getexif())
        assert before == after
    for array in (quadrants(), rgba, rgba[..., 0].copy()):
        before_array = array.copy()
        photo = read_image(array)
        photo.paste("black", (0, 0, *photo.size))
        assert (array == before_array).all()


# -- modes ----------------------------------------------------------------------------------------


def palette_image(transparency: bytes | int | None = None) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def pixels(mode: str, *values: Any) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


def cmyk_to_rgb(c: int, m: int, y: int, k: int) -> tuple[int, ...]:
    return tuple(round((255 - ink) * (255 - k) / 255) for ink in (c, m, y))


ORANGE, HALF = (200, 100, 50), 128
INKS = ((0, 255, 255, 0), (10, 60, 120, 30), (0, 0, 0, 255), (0, 0, 0, 0), (200, 100, 50, 100))
MODES: dict[str, tuple[Image.Image, np.ndarray]] = {
    "1": (pixels("1", 0, 255), row((0, 0, 0), (255, 255, 255))),
    "L": (pixels("L", 0, 100, 255), row((0, 0, 0), (100, 100, 100), (255, 255, 255))),
    "LA": (
        pixels("LA", (100, 0), (100, HALF), (100, 255)),
        row(*[over_white((100, 100, 100), alpha) for alpha in (0, HALF, 255)]),
    ),
    "P": (palette_image(), row(RED, GREEN, BLUE)),
    "P, one clear": (palette_image(1), row(RED, (255, 255, 255), BLUE)),
    "P, alphas": (
        palette_image(b"\0\x80"),
        row(over_white(RED, 0), over_white(GREEN, HALF), BLUE),
    ),
    "RGB": (pixels("RGB", RED, ORANGE), row(RED, ORANGE)),
    "RGBA": (
        pixels("RGBA", (*ORANGE, 0), (*ORANGE, HALF), (*ORANGE, 255)),
        row(*[over_white(ORANGE, alpha) for alpha in (0, HALF, 255)]),
    ),
    "CMYK": (pixels("CMYK", *INKS), row(*[cmyk_to_rgb(*inks) for inks in INKS])),
    "YCbCr": (pixels("YCbCr", (100, 128, 128), (76, 85, 255)), row((100, 100, 100), RED)),
    "HSV": (pixels("HSV", (0, 255, 255), (85, 255, 255)), row(RED, GREEN)),
    "RGBa": (pixels("RGBa", (100, 50, 25, HALF)), row(over_white((199, 100, 50), HALF))),
    "I;16": (pixels("I;16", 0, 255, 256, 65535), row((0,) * 3, (0,) * 3, (1,) * 3, (255,) * 3)),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    image, expected = MODES[name]
    assert np.abs(read(image) - expected).max() <= 1  # Pillow and we may round a half differently


@pytest.mark.parametrize(
    ("name", "format"),
    [(name, "PNG") for name in ("1", "L", "LA", "P", "P, one clear", "P, alphas", "RGB", "RGBA")]
    + [("I;16", "PNG"), ("I;16", "TIFF"), ("CMYK", "TIFF"), ("LA", "TIFF"), ("RGBA", "TIFF")]
    + [("P", "GIF"), ("P, one clear", "GIF"), ("P", "BMP"), ("P", "TIFF"), ("1", "TIFF")]
    + [("RGBA", "WEBP"), ("1", "BMP"), ("L", "BMP")],
)
def test_modes_in_files(name: str, format: str) -> None:
    image, expected = MODES[name]
    data = encode(image, format, **LOSSLESS[format])
    assert np.abs(read(data) - expected).max() <= 1


def test_a_palette_with_alpha() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, 0, *GREEN, 255], "RGBA")
    image.putdata([0, 1])
    assert (read(image) == row((255, 255, 255), GREEN)).all()


def test_one_transparent_colour_in_a_png() -> None:
    grey = png(bytes([10, 200, 255]), 3, 1, 8, 0, struct.pack(">H", 10))
    assert (read(grey) == row((255,) * 3, (200,) * 3, (255,) * 3)).all()
    colour = png(bytes([*RED, *GREEN, *BLUE]), 3, 1, 8, 2, struct.pack(">3H", *BLUE))
    assert (read(colour) == row(RED, GREEN, (255, 255, 255))).all()


def test_16_bits_are_scaled_not_clipped() -> None:
    values = [0, 255, 256, 1000, 32768, 65279, 65535]
    expected = row(*[(value // 256,) * 3 for value in values])
    assert (read(png16(0, *values)) == expected).all()
    array = np.array([values], np.uint16)
    assert (read(encode(array, "TIFF")) == expected).all()
    assert (read(encode(array, "TIFF", compression="tiff_lzw")) == expected).all()
    for mode, order in (("I;16", "<"), ("I;16B", ">")):
        image = Image.frombytes(mode, (len(values), 1), array.astype(f"{order}u2").tobytes())
        assert (read(image) == expected).all()
        assert (read(encode(image, "TIFF")) == expected).all()


def test_16_bits_in_colour() -> None:
    opaque, half = 65535, 32768
    colours = [60000, 30000, 300]
    eighth = tuple(value // 256 for value in colours)
    assert (read(png16(2, *colours)) == row(eighth)).all()
    expected = row(eighth, over_white(eighth, 128))
    assert np.abs(read(png16(6, *colours, opaque, *colours, half)) - expected).max() <= 1
    grey = row((117,) * 3, over_white((117,) * 3, 128))
    assert np.abs(read(png16(4, 30000, opaque, 30000, half)) - grey).max() <= 1


def test_one_transparent_colour_of_16_bits() -> None:
    # 48 * 256 + 3 and 30000 end in the same eight bits: a key that was cut off would take both.
    grey = png16(0, 30000, 12291, 65535, transparent=(30000,))
    assert (read(grey) == row((255,) * 3, (48,) * 3, (255,) * 3)).all()
    colour = png16(2, *[30000] * 3, *[12291] * 3, 0, 1, 2, transparent=(30000,) * 3)
    assert (read(colour) == row((255,) * 3, (48,) * 3, (0, 0, 0))).all()


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("high", [1, 255, 65535, 1e6])
def test_pixels_of_no_agreed_range(dtype: type, high: float) -> None:
    image = Image.fromarray(np.array([[0, high]], dtype))
    for source in (image, encode(image, "TIFF")):
        with pytest.raises(ImageError, match="no agreed range"):
            read_image(source)


@pytest.mark.parametrize("inks", INKS)
def test_cmyk_jpeg(inks: tuple[int, int, int, int]) -> None:
    """As Photoshop writes them: all four inks inverted."""
    data = encode(Image.new("CMYK", (16, 16), inks), "JPEG", **JPEG)
    assert b"Adobe" in data
    assert np.abs(read(data) - row(cmyk_to_rgb(*inks))).max() <= JPEG_ERROR


def test_ycck_jpeg() -> None:
    """The same inks stored as YCbCr and black: the other half of the CMYK JPEGs there are."""
    stored = (120, 150, 90, 180)
    data = encode(Image.new("CMYK", (16, 16), tuple(255 - v for v in stored)), "JPEG", **JPEG)
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0
    data = data[:transform] + b"\2" + data[transform + 1 :]
    y, cb, cr = stored[0], stored[1] - 128, stored[2] - 128
    c, m, ye = y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb
    expected = row(cmyk_to_rgb(round(c), round(m), round(ye), 255 - stored[3]))
    assert np.abs(read(data) - expected).max() <= JPEG_ERROR


# -- orientation and frames -----------------------------------------------------------------------

# How a camera stores a picture that is upright as u, from where EXIF says that the first stored
# row and column are seen: 6, for one, has the first row at the right and the first column on top.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    6: lambda u: u[:, ::-1].swapaxes(0, 1),
    7: lambda u: u[::-1, ::-1].swapaxes(0, 1),
    8: lambda u: u[::-1].swapaxes(0, 1),
}


def oriented(picture: np.ndarray, orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = np.ascontiguousarray(picture)
    return encode(stored, format, exif=exif, **LOSSLESS.get(format, JPEG))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation(orientation: int, format: str) -> None:
    upright = quadrants(16, 32)
    data = oriented(STORED[orientation](upright), orientation, format)
    for source in (data, Image.open(io.BytesIO(data))):
        found = read(source)
        assert found.shape == upright.shape
        assert np.abs(found.astype(int) - upright).max() <= (JPEG_ERROR if format == "JPEG" else 0)


def test_orientation_of_16_bits() -> None:
    upright = np.array([[0, 20000, 40000], [50000, 60000, 65535]], np.uint16)
    stored = np.ascontiguousarray(STORED[8](upright))
    exif = Image.Exif()
    exif[0x112] = 8
    for format in ("PNG", "TIFF"):
        assert (read(encode(stored, format, exif=exif))[..., 0] == upright // 256).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientation_of_no_meaning(orientation: int) -> None:
    assert (read(oriented(quadrants(), orientation, "PNG")) == quadrants()).all()


@pytest.mark.parametrize(
    "damage", [b"", b"MM", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_exif_leaves_the_photo_as_it_lies(damage: bytes) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    whole = encode(quadrants(), "JPEG", exif=exif, **JPEG)
    start = whole.index(b"Exif\0\0") + 6
    length = struct.unpack(">H", whole[start - 8 : start - 6])[0] - 8
    data = whole[:start] + damage.ljust(length, b"\xff")[:length] + whole[start + length :]
    assert np.abs(read(data).astype(int) - quadrants()).max() <= JPEG_ERROR


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_exif_that_is_none(format: str) -> None:
    data = encode(quadrants(), format, exif=b"Exif\0\0garbage", **LOSSLESS[format])
    assert (read(data) == quadrants()).all()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame(format: str) -> None:
    frames = [np.full((16, 16, 3), colour, np.uint8) for colour in (RED, GREEN)]
    data = animate(format, *frames, **LOSSLESS.get(format, {}))
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert np.abs(read(data) - row(RED)).max() <= (JPEG_ERROR if format == "MPO" else 0)


# -- damage ---------------------------------------------------------------------------------------


def whole_files() -> dict[str, bytes]:
    """Small files of every format and of the compressions that differ."""
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    y, x = np.mgrid[:20, :24]
    picture = np.dstack([x * 10, y * 12, (x + y) * 5]).astype(np.uint8)
    frames = [np.ascontiguousarray(picture[::-1]), np.ascontiguousarray(picture[:, ::-1])]
    image = Image.fromarray(picture)
    few, deep = image.quantize(16), picture[..., 0].astype(np.uint16) * 257
    return {
        "jpeg": encode(image, "JPEG", exif=exif),
        "jpeg progressive": encode(image, "JPEG", progressive=True),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "mpo": animate("MPO", picture, frames[0]),
        "png": encode(image, "PNG", exif=exif),
        "png palette": encode(few, "PNG", transparency=b"\0\x80"),
        "png 16": encode(deep, "PNG"),
        "apng": animate("PNG", picture, *frames),
        "gif": animate("GIF", picture, *frames),
        "webp": encode(image, "WEBP", exif=exif),
        "webp lossless": encode(image.convert("RGBA"), "WEBP", lossless=True),
        "webp animated": animate("WEBP", picture, *frames),
        "bmp": encode(image, "BMP"),
        "bmp palette": encode(few, "BMP"),
        "tiff": encode(image, "TIFF", exif=exif),
        "tiff 16": encode(deep, "TIFF"),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff fax": encode(image.convert("1"), "TIFF", compression="group4"),
        "tiff deflate": encode(image, "TIFF", compression="tiff_adobe_deflate"),
    }


WHOLE = whole_files()


def refused(data: bytes) -> bool:
    """Whether read_image refuses it, as it should; any other exception fails the test."""
    try:
        read_image(data)
    except ImageError:
        return True
    return False


@pytest.mark.parametrize("name", WHOLE)
def test_files_are_whole_before_the_damage(name: str) -> None:
    assert not refused(WHOLE[name])


@pytest.mark.parametrize("name", WHOLE)
def test_truncated_files(name: str) -> None:
    data = WHOLE[name]
    cuts = sorted({*range(0, 64), *np.linspace(64, len(data) - 1, 60).astype(int).tolist()})
    answers = [refused(data[:cut]) for cut in cuts]
    assert all(answers[:26])  # there is no format whose header is shorter


@pytest.mark.parametrize("name", WHOLE)
def test_flipped_bits(name: str) -> None:
    chance = random.Random(name)
    answers = []
    for trial in range(120):
        data = bytearray(WHOLE[name])
        for _ in range(chance.choice([1, 1, 4])):
            place = chance.randrange(min(len(data), 64) if trial % 2 else len(data))
            data[place] ^= 1 << chance.randrange(8)
        answers.append(refused(bytes(data)))
    assert any(answers)


@pytest.mark.parametrize("name", ["png", "png palette", "png 16", "apng"])
def test_flipped_bits_under_a_right_checksum(name: str) -> None:
    chance = random.Random(name)
    answers = []
    for _ in range(150):
        data, place = bytearray(WHOLE[name]), 8
        while place < len(data):
            (length,) = struct.unpack_from(">I", data, place)
            checksum = place + 8 + length
            if length and chance.random() < 0.3:
                data[place + 8 + chance.randrange(length)] ^= 1 << chance.randrange(8)
            struct.pack_into(">I", data, checksum, zlib.crc32(data[place + 4 : checksum]))
            place = checksum + 4
        answers.append(refused(bytes(data)))
    assert any(answers)
    assert not all(answers)


@pytest.mark.parametrize("name", ["tiff jpeg", "tiff fax"])
def test_pixels_half_decoded(name: str) -> None:
    """Asked a second time, Pillow hands these out without complaint."""
    assert refused(WHOLE[name][: len(WHOLE[name]) * 2 // 3])


def test_damage_in_a_pil_image() -> None:
    """Pillow decodes late: what it then finds must come out as an ImageError too."""
    data = encode(noise(40, 40), "PNG")
    with pytest.raises(ImageError, match="truncated"):
        read_image(Image.open(io.BytesIO(data[: len(data) // 2])))
    closed = Image.open(io.BytesIO(data))
    closed.close()
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(closed)


@pytest.mark.parametrize(
    "format", ["PPM", "ICO", "TGA", "PCX", "SGI", "MSP", "XBM", "EPS", "PDF", "DDS"]
)
def test_refused_formats(format: str) -> None:
    image = Image.fromarray(quadrants(16, 16))
    data = encode(image.convert("1") if format in ("MSP", "XBM") else image, format)
    with pytest.raises(ImageError, match=f"expected one of {', '.join(FORMATS)}"):
        read_image(data)


def test_files_that_are_no_photos(tmp_path: Path) -> None:
    text, empty, missing = tmp_path / "a.jpg", tmp_path / "b.png", tmp_path / "c.jpg"
    text.write_text("not a photo " * 100)
    empty.touch()
    expected = {text: "not an image", empty: "not an image", missing: "no such file"}
    expected |= {tmp_path: "cannot be read", tmp_path / "nul\0byte": "cannot be read"}
    expected |= {text / "below-a-file": "cannot be read"}
    for path, reason in expected.items():
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert str(caught.value).startswith(printable(f"{path}: {reason}"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(quadrants(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


# -- bombs ----------------------------------------------------------------------------------------


def claim(width: int, height: int) -> dict[str, bytes]:
    """Small files that claim to be of this size."""

    def patch(data: bytes, place: int, layout: str, *values: int) -> bytes:
        patched = bytearray(data)
        struct.pack_into(layout, patched, place, *values)
        return bytes(patched)

    small = encode(quadrants(), "TIFF")
    tag_width, tag_height = small.index(struct.pack("<HH", 256, 4)), small.index(b"\x01\x01\x04\0")
    tiff = patch(patch(small, tag_width + 8, "<I", width), tag_height + 8, "<I", height)
    animated = WHOLE["webp animated"]
    assert animated[12:16] == b"VP8X"
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return {
        "png": png(b"", width, height, 8, 2),
        "gif": patch(WHOLE["gif"], 6, "<HH", width & 0xFFFF, height & 0xFFFF),
        "bmp": patch(WHOLE["bmp"], 18, "<ii", width, height),
        "tiff": tiff,
        "webp": animated[:24] + canvas + animated[30:],
    }


@pytest.mark.parametrize("name", claim(1, 1))
@pytest.mark.parametrize("side", [50_000, 10_000])  # Pillow would refuse the one, warn of the other
def test_bombs(name: str, side: int) -> None:
    data = claim(side, side)[name]
    assert len(data) < 4000
    with pytest.raises(ImageError, match="refused, too many pixels"):
        read_image(data)


@pytest.mark.parametrize("name", ["png", "tiff", "webp"])  # GIF cannot say so, BMP says it twice
def test_bombs_of_one_long_side(name: str) -> None:
    """Few enough pixels, but some of Pillow's decoders take time as the square of a row."""
    for width, height in ((4_000_000, 20), (LONGEST_SIDE + 1, 20), (24, LONGEST_SIDE + 1)):
        with pytest.raises(ImageError, match=f"{width}x{height} pixels, expected"):
            read_image(claim(width, height)[name])


# -- what is left behind --------------------------------------------------------------------------


def test_every_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[IO[Any]] = []

    def spy(*arguments: Any, **options: Any) -> IO[Any]:
        opened.append(real(*arguments, **options))
        return opened[-1]

    contents = {**WHOLE, **{f"bomb {name}": data for name, data in claim(50_000, 50_000).items()}}
    contents |= {f"cut {name}": data[: len(data) * 2 // 3] for name, data in WHOLE.items()}
    contents |= {"text": b"text", "empty": b"", "refused": encode(quadrants(), "PPM")}
    paths = [tmp_path / name for name in contents]
    for path in paths:
        path.write_bytes(contents[path.name])
    real = builtins.open
    monkeypatch.setattr(builtins, "open", spy)
    for path in paths:
        with contextlib.suppress(ImageError):
            read_image(path)
    monkeypatch.undo()
    assert len(opened) >= len(paths)
    assert [file.name for file in opened if not file.closed] == []
    gc.collect()  # an unclosed file would warn here, and warnings are errors


def test_threads_leave_the_warning_filters_alone() -> None:
    before = list(warnings.filters)
    data = encode(noise(60, 60), "PNG")
    start = threading.Barrier(4)

    def work() -> None:
        start.wait()
        for _ in range(50):
            read_image(data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# -- presets --------------------------------------------------------------------------------------


def naive_tf(picture: np.ndarray, size: int, crop: float) -> np.ndarray:
    """The preset as the facts have it, pixel by pixel, every step rounded to float32."""
    one = np.float32
    h, w, channels = picture.shape
    c = int(crop * min(h, w))
    top, left = (h - c + 1) // 2, (w - c + 1) // 2
    scale = one(c) / one(size)
    out = np.empty((size, size, channels), np.float32)
    for i, j, k in np.ndindex(out.shape):
        y, x = one(i) * scale, one(j) * scale
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, c - 1), min(x0 + 1, c - 1)
        dy, dx = y - one(y0), x - one(x0)
        nw, ne = one(picture[top + y0, left + x0, k]), one(picture[top + y0, left + x1, k])
        sw, se = one(picture[top + y1, left + x0, k]), one(picture[top + y1, left + x1, k])
        north, south = nw + (ne - nw) * dx, sw + (se - sw) * dx
        out[i, j, k] = north + (south - north) * dy
    return out


@pytest.mark.parametrize(
    ("height", "width", "size", "crop"),
    [
        (9, 9, 8, 0.875),
        (31, 20, 7, 0.875),
        (20, 31, 7, 0.875),
        (5, 8, 13, 0.875),
        (23, 23, 10, 1.0),
        (17, 40, 9, 0.6),
        (3, 2, 6, 0.875),
        (64, 64, 56, 0.875),
        (41, 42, 1, 0.5),
    ],
)
def test_tf_preset_pixel_by_pixel(height: int, width: int, size: int, crop: float) -> None:
    picture = noise(height, width)
    found = preprocess(read_image(picture), "tf", size, {"crop": crop})
    assert np.array_equal(found, naive_tf(picture, size, crop))


def test_tf_preset_as_the_original_code() -> None:
    path = SHARED / "reference" / "preprocess.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as recorded:
        for i in range(8):
            photo = read_image(recorded[f"{i}_decoded"])
            found = preprocess(photo, "tf", 224)
            error = np.abs(found - recorded[f"{i}_tf"]).max()
            print(f"photo {i}, {photo.width}x{photo.height}: {error:.1e} of 255 from TensorFlow")
            assert error <= 1e-4
            # From the file: decoders of JPEG differ, by no more than the facts say.
            ours = read(recorded[f"{i}_jpeg"].tobytes()).astype(int)
            assert np.abs(ours - recorded[f"{i}_decoded"]).max() <= 14


@pytest.mark.filterwarnings("default")  # TensorFlow's own are not ours to answer for
def test_tf_preset_against_tensorflow() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("CI") != "true":
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    import tensorflow as tf

    for h, w, size in [(48, 64, 32), (375, 500, 224), (33, 31, 224), (1, 1, 32), (400, 300, 97)]:
        picture = noise(h, w)
        c = max(int(0.875 * min(h, w)), 1)
        top, left = (h - c + 1) // 2, (w - c + 1) // 2
        cropped = tf.image.crop_to_bounding_box(picture, top, left, c, c)
        resize = tf.compat.v1.image.resize_bilinear
        expected = resize(cropped[None], [size, size], align_corners=False)[0].numpy()
        error = np.abs(preprocess(read_image(picture), "tf", size) - expected).max()
        print(f"{h}x{w} to {size}: {error:.1e} of 255 from TensorFlow")
        assert error <= 1e-4


def bicubic(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("height", "width", "resized", "left_top"),
    [
        # worked by hand for size 224, crop 0.875: the shorter side becomes 256
        (256, 256, (256, 256), (16, 16)),
        (256, 300, (256, 300), (38, 16)),
        (256, 257, (256, 257), (16, 16)),  # 16.5, rounded to even
        (256, 259, (256, 259), (18, 16)),  # 17.5, rounded to even
        (259, 256, (259, 256), (16, 18)),
        (375, 500, (256, 341), (58, 16)),  # 341.3 cut off; 58.5 to even
        (500, 333, (384, 256), (16, 80)),  # 384.4
        (10, 30, (256, 768), (272, 16)),
    ],
)
def test_timm_preset(
    height: int, width: int, resized: tuple[int, int], left_top: tuple[int, int]
) -> None:
    picture = noise(height, width)
    left, top = left_top
    whole = picture if resized == (height, width) else bicubic(picture, *resized)
    found = preprocess(read_image(picture), "timm", 224)
    assert np.array_equal(found, whole[top : top + 224, left : left + 224])


@pytest.mark.parametrize(("size", "crop"), [(64, 0.875), (48, 0.9), (33, 1.0), (33, 0.5)])
@pytest.mark.parametrize(("height", "width"), [(50, 70), (71, 50), (40, 40), (200, 61)])
def test_timm_preset_at_other_sizes(height: int, width: int, size: int, crop: float) -> None:
    """torchvision's Resize: int(short * long / short side); its CenterCrop: int(round(.../2))."""
    picture = noise(height, width)
    short = int(size / crop)
    new = [int(short * side / min(height, width)) for side in (height, width)]
    top, left = (int(round((side - size) / 2.0)) for side in new)  # noqa: RUF046
    expected = bicubic(picture, *new)[top : top + size, left : left + size]
    assert np.array_equal(preprocess(read_image(picture), "timm", size, {"crop": crop}), expected)


def test_omz_preset() -> None:
    picture = noise(256, 256)  # cropped to 224: nothing is left to resize
    assert np.array_equal(
        preprocess(read_image(picture), "omz", 224), picture[16:240, 16:240].astype(np.float32)
    )
    for height, width, box in [
        (160, 512, np.s_[10:150, 32:480]),  # 140 x 448
        (101, 50, np.s_[6:94, 3:46]),  # 88 x 43 of 88.4 x 43.75, the odd pixel left at the end
    ]:
        picture = noise(height, width)
        expected = bicubic(picture[box], 64, 64)
        assert np.array_equal(preprocess(read_image(picture), "omz", 64), expected)


def test_square_preset() -> None:
    for height, width, square in [
        (90, 60, np.s_[15:75, :]),
        (60, 91, np.s_[:, 15:75]),  # 15.5 cut off
        (32, 32, np.s_[:, :]),
        (8, 9, np.s_[:, 0:8]),
    ]:
        picture = noise(height, width)
        expected = bicubic(picture[square], 64, 64)
        assert np.array_equal(preprocess(read_image(picture), "square", 64), expected)
    picture = noise(90, 60)  # of the shorter side half is kept: 30 x 30 about the centre
    expected = bicubic(picture[30:60, 15:45], 64, 64)
    pixels = preprocess(read_image(picture), "square", 64, {"crop": 0.5})
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_rules(preset: str) -> None:
    photo = read_image(noise(70, 50))
    before = photo.tobytes()
    for size in (1, 32, 224):
        pixels = preprocess(photo, preset, size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.float32
        assert pixels.min() >= 0
        assert pixels.max() <= 255
    assert photo.tobytes() == before


@pytest.mark.parametrize("preset", PRESETS)
def test_one_pixel(preset: str) -> None:
    pixels = preprocess(read_image(row(ORANGE).astype(np.uint8)), preset, 224)
    assert pixels.shape == (224, 224, 3)
    assert (pixels == ORANGE).all()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(1, 60_000, 3), (60_000, 1, 3)])
def test_very_long_and_thin(preset: str, shape: tuple[int, ...]) -> None:
    picture = np.full(shape, ORANGE, np.uint8)
    photo = read_image(encode(picture, "PNG"))
    if preset == "timm":  # would enlarge it to 256 x 15,360,000
        with pytest.raises(ImageError, match=f"{photo.width}x{photo.height}: too long and thin"):
            preprocess(photo, preset, 224)
    else:
        assert (preprocess(photo, preset, 224) == ORANGE).all()


def test_presets_and_parameters_that_do_not_exist() -> None:
    photo = read_image(quadrants())
    with pytest.raises(InputError, match="expected one of tf, timm, omz, square"):
        preprocess(photo, "imagenet", 32)
    for preset, name in [("tf", "size"), ("square", "side"), ("timm", "Crop")]:
        with pytest.raises(InputError, match=f"{preset!r} has no parameter {name!r}"):
            preprocess(photo, preset, 32, {name: 1})


@pytest.mark.parametrize("value", [0, -1, 1.01, 1e-9, float("nan"), float("inf"), True, "1", None])
@pytest.mark.parametrize("preset", PRESETS)
def test_crops_out_of_range(preset: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"crop is .* expected"):
        preprocess(read_image(quadrants()), preset, 32, {"crop": value})


def test_a_crop_of_all_may_be_a_whole_number() -> None:
    photo = read_image(noise(40, 50))
    for preset in PRESETS:
        whole, fraction = (preprocess(photo, preset, 32, {"crop": crop}) for crop in (1, 1.0))
        assert np.array_equal(whole, fraction)
