"""Every mode, bit depth and arrangement of pixels: as a second decoder reads it, or refused."""

from __future__ import annotations

import importlib
import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from tinymixnet.engine import rgb
from tinymixnet.engine.images import read_image
from tinymixnet.errors import ImageError

H, W = 21, 37  # odd: rows that end within a byte
Y, X = np.mgrid[:H, :W]
COLOURS = np.stack([X * 6, Y * 11, (X + Y) * 4, 255 - X * 3], axis=-1).astype(np.uint8)
GREY = COLOURS[..., 0]
PILLOW = int(PIL.__version__.split(".")[0])
ROUNDING = 1  # of 255: Pillow and numpy may round a half differently


def second_decoder(name: str) -> Any:
    """Import another decoder; skip the test where it is not installed, except in CI."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("CI") != "true":
        return pytest.importorskip(name, reason=f"{name} is not installed")
    return importlib.import_module(name)


def read(source: Any) -> np.ndarray:
    return np.asarray(read_image(source)).astype(int)


def error(source: Any, expected: np.ndarray) -> float:
    pixels = read(source)
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert pixels.shape[:2] == expected.shape[:2]
    return float(np.abs(pixels - expected).max())


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return 255 + (colour.astype(float) - 255) * (alpha / 255)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(values: np.ndarray, depth: int, kind: int, chunks: bytes = b"") -> bytes:
    """Write (H, W, channels) as a PNG. kind: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    height, width, _ = values.shape
    if depth < 8:
        bits = (values >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in values]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + chunks
        + png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + png_chunk(b"IEND", b"")
    )


def tiff(data: bytes, width: int, height: int, *, order: str = "<", **tags: int) -> bytes:
    """Write a TIFF of one uncompressed strip; tags are numbers by name, such as BitsPerSample."""
    numbers = {
        "ImageWidth": 256, "ImageLength": 257, "BitsPerSample": 258, "Compression": 259,
        "Photometric": 262, "StripOffsets": 273, "Orientation": 274, "SamplesPerPixel": 277,
        "RowsPerStrip": 278, "StripByteCounts": 279, "PlanarConfiguration": 284,
        "TileWidth": 322, "TileLength": 323, "SampleFormat": 339,
    }  # fmt: skip
    entries = {
        "ImageWidth": width, "ImageLength": height, "Compression": 1, "Photometric": 1,
        "SamplesPerPixel": 1, "RowsPerStrip": height, "StripByteCounts": len(data), **tags,
    }  # fmt: skip
    entries["StripOffsets"] = 8 + 2 + 12 * (len(entries) + 1) + 4
    listed = sorted((numbers[name], value) for name, value in entries.items())
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in listed)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(listed)) + fields + struct.pack("<I", 0) + data


def grey16(values: np.ndarray, order: str = "<") -> bytes:
    return values.astype(f"{order}u2").tobytes()


# -- TIFF: grey of every depth --------------------------------------------------------------------


def packed(values: np.ndarray, bits: int) -> bytes:
    """Values of any number of bits one after the other, each row padded to a whole byte."""
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = planes.reshape(len(values), -1).astype(np.uint8)
    return b"".join(np.packbits(row).tobytes() for row in rows)


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_tiff_grey_of_few_bits(bits: int, white_is_zero: bool) -> None:
    values = GREY.astype(int) >> (8 - bits)
    stored = (1 << bits) - 1 - values if white_is_zero else values
    data = tiff(packed(stored, bits), W, H, BitsPerSample=bits, Photometric=1 - white_is_zero)
    assert error(data, values * 255 // ((1 << bits) - 1)) == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_grey_of_16_bits(order: str) -> None:
    values = GREY.astype(int) * 257
    data = tiff(grey16(values, order), W, H, order=order, BitsPerSample=16)
    assert error(data, GREY) == 0


def test_tiff_16_bits_white_is_zero() -> None:
    values = GREY.astype(int) * 257
    data = tiff(grey16(65535 - values), W, H, BitsPerSample=16, Photometric=0)
    assert error(data, GREY) == 0
    turned = tiff(grey16(65535 - values), W, H, BitsPerSample=16, Photometric=0, Orientation=8)
    assert error(turned, np.rot90(GREY)) == 0


def test_tiff_12_bits() -> None:
    values = GREY.astype(int) * 16 + 15
    assert error(tiff(packed(values, 12), W, H, BitsPerSample=12), GREY) == 0


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 24, 32, 64])
def test_tiff_of_other_depths_is_refused(bits: int, white_is_zero: bool) -> None:
    values = (GREY.astype(np.uint64) << np.uint64(56)) >> np.uint64(64 - bits)
    planes = (values[..., None] >> np.arange(bits - 1, -1, -1).astype(np.uint64)) & np.uint64(1)
    rows = np.packbits(planes.reshape(H, -1).astype(np.uint8), axis=1)
    data = tiff(rows.tobytes(), W, H, BitsPerSample=bits, Photometric=1 - white_is_zero)
    assert_refused(data)


@pytest.mark.parametrize("format", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_that_is_not_unsigned_is_refused(order: str, bits: int, format: int) -> None:
    data = b"\x7f" * (H * W * bits // 8)
    assert_refused(tiff(data, W, H, order=order, BitsPerSample=bits, SampleFormat=format))
    colour = tiff(
        data * 3, W, H, order=order, BitsPerSample=bits, SampleFormat=format,
        SamplesPerPixel=3, Photometric=2,
    )  # fmt: skip
    assert_refused(colour)


def assert_refused(data: bytes) -> None:
    """Refused in one line, which does not advise the format that it refuses."""
    with pytest.raises(ImageError) as caught:
        read_image(data)
    message = str(caught.value)
    assert message.isprintable()
    assert "expected one of" not in message
    assert "TIFF" not in message or "a TIFF file that is damaged, or of a kind" in message


# -- TIFF: turned, however it is given ------------------------------------------------------------

UPRIGHT = {  # EXIF orientation: what a viewer does with the stored rows
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def ways(path: Path) -> Iterator[Any]:
    """The same file in every way a photo can be given."""
    data = path.read_bytes()
    yield from (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data))
    yield Image.open(path)
    with path.open("rb") as file:
        yield file
    with path.open("rb") as file:
        yield Image.open(file)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "CMYK", "LA"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_turned_tiffs_however_they_are_given(tmp_path: Path, orientation: int, mode: str) -> None:
    """Pillow 11.3 to 13 map an uncompressed TIFF with width and height exchanged."""
    if mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(COLOURS[..., :3]).quantize(200)
    else:
        image = Image.fromarray(COLOURS).convert("RGB").convert(mode)
    expected = UPRIGHT[orientation](read(image))
    path = tmp_path / "photo.tif"
    image.save(path, tiffinfo={274: orientation})
    for source in ways(path):
        assert error(source, expected) == 0, type(source)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_strips_are_put_together_in_order(
    monkeypatch: pytest.MonkeyPatch, orientation: int, format: str
) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(COLOURS[..., :3]).save(file, format, exif=exif, **options)
    whole = read(file.getvalue())
    monkeypatch.setattr(rgb, "STRIP_PIXELS", 4 * W + 1)
    assert error(file.getvalue(), whole) == 0
    if format != "JPEG":
        assert (whole == UPRIGHT[orientation](COLOURS[..., :3])).all()


# -- TIFF: against tifffile -----------------------------------------------------------------------

LAYOUTS = {  # channels of COLOURS, photometric, what the fourth channel is
    "grey": ([0], "minisblack", None),
    "inverted grey": ([0], "miniswhite", None),
    "RGB": ([0, 1, 2], "rgb", None),
    "RGBA": ([0, 1, 2, 3], "rgb", "unassalpha"),
    "premultiplied RGBA": ([0, 1, 2, 3], "rgb", "assocalpha"),
    "RGB and one more": ([0, 1, 2, 3], "rgb", "unspecified"),
    "grey and alpha": ([0, 3], "minisblack", "unassalpha"),
    "premultiplied grey": ([0, 3], "minisblack", "assocalpha"),
    "inverted grey and alpha": ([0, 3], "miniswhite", "unassalpha"),
    "CMYK": ([0, 1, 2, 3], "separated", None),
}
READ_AS_WELL = {"grey", "inverted grey", "RGB", "RGBA", "premultiplied RGBA", "RGB and one more"}
READ_AS_WELL |= {"CMYK"}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_layouts(layout: str, planar: bool, bits: int) -> None:
    """As tifffile writes them, in every byte order, compression and tiling: right, or refused."""
    tifffile = second_decoder("tifffile")
    channels, photometric, extra = LAYOUTS[layout]
    colours = COLOURS[..., channels].copy()
    if extra == "assocalpha":
        colours[..., :-1] = np.rint(colours[..., :-1] * (colours[..., -1:] / 255))
    alpha = colours[..., -1:].astype(float)
    if photometric == "separated":
        expected = (255.0 - colours[..., :3]) * (255 - alpha) / 255
    elif extra == "unspecified":
        expected = colours[..., :3]
    elif extra == "assocalpha":
        expected = colours[..., :-1] + (255 - alpha)
    else:
        colour = colours[..., :-1] if extra else colours
        colour = 255 - colour if photometric == "miniswhite" else colour
        expected = over_white(colour, alpha) if extra else colour
    stored = colours if bits == 8 else colours.astype(np.uint16) * 256 + 37
    if len(channels) == 1:
        stored = stored[..., 0]
    options: dict[str, Any] = {"photometric": photometric}
    if extra:
        options["extrasamples"] = [extra]
    if planar and len(channels) > 1:
        options["planarconfig"] = "separate"
        stored = np.moveaxis(stored, -1, 0).copy()
    elif len(channels) > 1:
        options["planarconfig"] = "contig"
    answers = []
    for order in "<>":
        for tile in (None, (16, 16)):
            for compression in (None, "zlib"):
                file = io.BytesIO()
                tifffile.imwrite(
                    file, stored, byteorder=order, tile=tile, compression=compression, **options
                )
                try:
                    answers.append(error(file.getvalue(), expected))
                except ImageError:
                    answers.append(None)
    assert all(answer is None or answer <= ROUNDING for answer in answers)
    if layout == "inverted grey" and bits == 16:
        answers = answers[:4]  # Pillow does not know the big-endian ones
    if layout in READ_AS_WELL and not planar and PILLOW >= 11:
        assert None not in answers


def test_tiff_palette() -> None:
    tifffile = second_decoder("tifffile")
    palette = np.random.default_rng(0).integers(0, 256, (3, 256))
    file = io.BytesIO()
    colormap = (palette * 257).astype(np.uint16)
    tifffile.imwrite(file, GREY, photometric="palette", colormap=colormap)
    assert error(file.getvalue(), palette.T[GREY]) == 0


def test_tiff_bigtiff_is_read() -> None:
    tifffile = second_decoder("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, COLOURS[..., :3], photometric="rgb", bigtiff=True)
    try:
        assert error(file.getvalue(), COLOURS[..., :3]) == 0
    except ImageError as refused:
        assert "a TIFF file that is damaged, or of a kind" in str(refused)  # noqa: PT017


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_tiff_colour_spaces(mode: str) -> None:
    """Uncompressed YCbCr and Lab: the colours they stand for, by the formulas."""
    stored = np.array([[[100, 128, 128], [180, 128, 128]]], np.uint8)
    file = io.BytesIO()
    if mode == "YCbCr":
        assert_refused(
            tiff(bytes(48), 4, 4, BitsPerSample=8, SamplesPerPixel=3, Photometric=6)
        )  # by default, four pixels share a colour
        Image.fromarray(stored, mode).save(file, "TIFF")
        try:
            assert error(file.getvalue(), stored[..., :1]) <= ROUNDING
        except ImageError:
            assert PILLOW < 11
        return
    data = tiff(
        bytes([128, 0, 0, 255, 0, 0]), 2, 1, BitsPerSample=8, SamplesPerPixel=3, Photometric=8
    )
    pixels = read(data)[0]
    assert np.ptp(pixels, axis=-1).max() <= 2  # a = b = 0 is grey
    assert abs(int(pixels[0, 0]) - 119) <= 2  # L* 50.2 is 119 in sRGB
    assert pixels[1].min() >= 253


def test_tiff_lab_in_separate_planes_is_refused() -> None:
    """Pillow forgets the signs of a and b there: grey would come out blue."""
    tifffile = second_decoder("tifffile")
    file = io.BytesIO()
    planes = np.moveaxis(COLOURS[..., :3], -1, 0).copy()
    tifffile.imwrite(file, planes, photometric="cielab", planarconfig="separate")
    with pytest.raises(ImageError, match="Lab colours in separate planes"):
        read(file.getvalue())


def test_tiff_predictor_with_deflate() -> None:
    tifffile = second_decoder("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, COLOURS[..., :3], photometric="rgb", predictor=True, compression="zlib")
    assert error(file.getvalue(), COLOURS[..., :3]) == 0


@pytest.mark.parametrize("compression", ["packbits", "tiff_lzw"])
def test_tiff_predictor(compression: str) -> None:
    """libtiff ignores a predictor with PackBits, tifffile follows it: so it is refused."""
    file, horizontal = io.BytesIO(), 2
    image = Image.fromarray(COLOURS[..., :3])
    image.save(file, "TIFF", compression=compression, tiffinfo={317: horizontal})
    assert Image.open(io.BytesIO(file.getvalue())).tag_v2[317] == horizontal
    if compression == "packbits":
        with pytest.raises(ImageError, match="a predictor is only read with LZW or Deflate"):
            read(file.getvalue())
    else:
        assert error(file.getvalue(), COLOURS[..., :3]) == 0


# -- PNG: against TensorFlow ----------------------------------------------------------------------


def tensorflow_png(data: bytes) -> np.ndarray:
    tensorflow = second_decoder("tensorflow")
    rgba = tensorflow.io.decode_png(data, channels=4).numpy()
    return over_white(rgba[..., :3], rgba[..., 3:])


def png_values(depth: int, channels: int) -> np.ndarray:
    """Random pixels; row 0 is all of one colour, row 2 as well but for the lowest bit of red."""
    chance = np.random.default_rng(depth)
    values = chance.integers(0, 1 << depth, (5, W, channels))
    values[0] = values[2] = values[1, 3]
    values[2, ::2, 0] ^= 1
    return values


@pytest.mark.parametrize(
    ("kind", "channels", "depth"),
    [(0, 1, 8), (0, 1, 16), (2, 3, 8), (2, 3, 16), (4, 2, 8), (4, 2, 16), (6, 4, 8), (6, 4, 16)],
)
def test_png_as_tensorflow(kind: int, channels: int, depth: int) -> None:
    data = png(png_values(depth, channels), depth, kind)
    assert error(data, tensorflow_png(data)) <= ROUNDING


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_png_grey_of_few_bits(depth: int) -> None:
    values = png_values(depth, 1)  # TensorFlow 2.21 does not widen these
    assert error(png(values, depth, 0), values * 255 // ((1 << depth) - 1)) == 0


@pytest.mark.parametrize(
    ("kind", "channels", "depth"),
    [(0, 1, 1), (0, 1, 2), (0, 1, 4), (0, 1, 8), (0, 1, 16), (2, 3, 8), (2, 3, 16)],
)
def test_png_with_one_transparent_colour(kind: int, channels: int, depth: int) -> None:
    values = png_values(depth, channels)
    key = values[1, 3]
    data = png(values, depth, kind, png_chunk(b"tRNS", struct.pack(f">{channels}H", *key)))
    clear = (values == key).all(axis=-1)
    grey = values * 255 // ((1 << depth) - 1) if depth < 8 else values >> (depth - 8)
    expected = np.where(clear[..., None], 255, grey)
    assert error(data, expected) == 0
    opened = Image.open(io.BytesIO(data))  # without its file: 16-bit colours by their upper halves
    if depth < 16 or kind == 0:
        assert error(opened, expected) == 0
    assert np.abs(tensorflow_png(data) - expected).max() <= ROUNDING


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_palette_with_transparency(depth: int) -> None:
    chance = np.random.default_rng(0)
    palette = chance.integers(0, 256, 3 << depth, np.uint8).tobytes()
    alphas = chance.integers(0, 256, (1 << depth) // 2, np.uint8).tobytes()
    chunks = png_chunk(b"PLTE", palette) + png_chunk(b"tRNS", alphas)
    data = png(png_values(depth, 1), depth, 3, chunks)
    assert error(data, tensorflow_png(data)) <= ROUNDING


# -- JPEG, GIF, BMP -------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_and_ycck_jpeg_as_tensorflow(transform: int) -> None:
    tensorflow = second_decoder("tensorflow")
    file = io.BytesIO()
    Image.fromarray(COLOURS, "CMYK").save(file, "JPEG", quality=95, subsampling=0)
    data = bytearray(file.getvalue())
    data[data.index(b"Adobe") + 11] = transform
    whole = bytes(data)
    theirs = tensorflow.io.decode_jpeg(whole, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert error(whole, theirs) <= ROUNDING


def gif(box: tuple[int, int, int, int], size: tuple[int, int], transparent: int | None) -> bytes:
    """Write a GIF whose one frame has every pixel of index x + 8 y, with a random palette."""
    left, top, width, height = box
    out = b"GIF89a" + struct.pack("<HHBBB", *size, 0xF7, 0, 0) + GIF_PALETTE.tobytes()
    if transparent is not None:
        out += b"\x21\xf9\x04" + struct.pack("<BHBB", 1, 0, transparent, 0)
    out += b"\x2c" + struct.pack("<HHHHB", left, top, width, height, 0)
    codes = [256, *range(width * height), 257]  # 9 bits each, too few for the codes to grow
    bits = sum(code << (9 * i) for i, code in enumerate(codes))
    packed_codes = bits.to_bytes(9 * len(codes) // 8 + 1, "little")
    return out + bytes([8, len(packed_codes)]) + packed_codes + b"\0;"


GIF_PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)


@pytest.mark.parametrize("transparent", [None, 0, 11])
@pytest.mark.parametrize("place", [(0, 0, 8, 6), (3, 2, 15, 13), (0, 2, 8, 9), (3, 0, 20, 6)])
def test_gif_frames(place: tuple[int, int, int, int], transparent: int | None) -> None:
    """A frame that does not fill the screen lies on white."""
    left, top, width, height = place
    data = gif((left, top, 8, 6), (width, height), transparent)
    frame = GIF_PALETTE[np.arange(48).reshape(6, 8)].copy()
    if place == (0, 0, 8, 6):
        theirs = second_decoder("tensorflow").io.decode_gif(gif(place, (8, 6), None))
        assert (theirs.numpy()[0] == frame).all()
    if transparent is not None:
        frame[transparent // 8, transparent % 8] = 255
    expected = np.full((height, width, 3), 255)
    expected[top : top + 6, left : left + 8] = frame
    assert error(data, expected) == 0


def bmp(bits: int, data: bytes, masks: tuple[int, ...] = (), height: int = H) -> bytes:
    """Write a BMP 36 pixels wide, with the masks of its channels if there are any."""
    header = 108 if len(masks) == 4 else 40
    rest = struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + header + (len(rest) if header == 40 else 0)
    info = struct.pack(
        "<IiiHHIIiiII", header, 36, height, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0
    )
    padding = bytes(header - 40 - len(rest)) if header == 108 else b""
    return (
        b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + rest + padding + data
    )


def test_bmp_kinds() -> None:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (H, 36, 4), np.uint8)
    colour, alpha = pixels[..., 2::-1], pixels[..., 3:]
    raw = pixels[::-1].tobytes()  # from the bottom
    assert error(bmp(32, raw), colour) == 0
    rgba = bmp(32, raw, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    assert error(rgba, over_white(colour, alpha)) <= ROUNDING
    assert error(bmp(32, raw, (0xFF0000, 0xFF00, 0xFF, 0)), colour) == 0
    assert error(bmp(24, pixels[..., :3].tobytes(), height=-H), colour) == 0
    words = chance.integers(0, 1 << 16, (H, 36))
    stored = words[::-1].astype("<u2").tobytes()
    five = [(words >> shift & 31) * 255 // 31 for shift in (10, 5, 0)]
    assert error(bmp(16, stored), np.stack(five, -1)) <= ROUNDING
    six = [(words >> 11 & 31) * 255 // 31, (words >> 5 & 63) * 255 // 63, (words & 31) * 255 // 31]
    assert error(bmp(16, stored, (0xF800, 0x7E0, 0x1F)), np.stack(six, -1)) <= ROUNDING
    tensorflow = second_decoder("tensorflow")
    rgba_there = tensorflow.io.decode_bmp(rgba).numpy()
    assert (rgba_there == np.dstack([colour, alpha])).all()


@pytest.mark.parametrize("format", ["WEBP", "PNG", "GIF", "TIFF"])
def test_transparent_first_frame_of_an_animation(format: str) -> None:
    first = COLOURS.copy()
    first[..., 3] = np.where(X > 10, 255, 0)
    frames = [Image.fromarray(first), Image.fromarray(COLOURS[::-1].copy())]
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(file, format, save_all=True, append_images=frames[1:], **options)
    pixels = read(file.getvalue())
    assert (pixels[:, :11] == 255).all()
    tolerance = 12 if format == "GIF" else 0  # of a palette
    assert np.abs(pixels[:, 11:] - COLOURS[:, 11:, :3]).mean() <= tolerance
