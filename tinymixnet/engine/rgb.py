"""Turn a decoded photo of any mode into 8-bit RGB, as a person sees it: upright, over white."""

from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.photo_files import orientation
from tinymixnet.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom

STRIP_PIXELS = 1 << 20  # that are converted at a time: no second copy of a large photo is made
NO_RANGE = "have no agreed range: save it with 8 or 16 bits, unsigned"
GREY_STEP = {"1": 255, "L;2": 85, "L;4": 17}  # raw mode of a PNG: what Pillow multiplies greys by

# TIFF tags
BITS, PHOTOMETRIC, PLANES, PREDICTOR, SAMPLE_FORMAT, SUBSAMPLING = 258, 262, 284, 317, 339, 530
WHITE_IS_ZERO, YCBCR, SEPARATE_PLANES, UNSIGNED, SIGNED = 0, 6, 2, 1, 2
NO_PREDICTOR = ("raw", "packbits")  # ways to compress, by Pillow's names: libtiff ignores it there

# EXIF orientation: how a strip of rows is turned upright, whether it then is a strip of columns,
# and whether the first strip comes last.
TURNS = {
    1: (None, False, False),
    2: ("FLIP_LEFT_RIGHT", False, False),
    3: ("ROTATE_180", False, True),
    4: ("FLIP_TOP_BOTTOM", False, True),
    5: ("TRANSPOSE", True, False),
    6: ("ROTATE_270", True, True),
    7: ("TRANSVERSE", True, True),
    8: ("ROTATE_90", True, False),
}


def to_rgb(image: "Image", file: IO[bytes] | None) -> "Image":
    """Decode an opened photo and return it as RGB: itself, if it is just that already.

    file is what the photo was opened from, if it can be read again. Raises ImageError for pixels
    whose range nobody knows, and what Pillow raises for damaged files.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        kind = "signed" if _tag(image, SAMPLE_FORMAT, UNSIGNED) == SIGNED else "32-bit"
        raise ImageError(f"{kind} pixels {NO_RANGE}")
    shift, negative = 8, False  # of 16-bit pixels; Pillow 10 decodes a PNG of them to mode I
    if image.format == "TIFF" and hasattr(image, "tag_v2"):
        shift, negative = _prepare_tiff(image)
    tiles = getattr(image, "tile", None)  # still to be decoded: (decoder, box, offset, raw mode)
    _, frame, _, raw_mode = tiles[0] if tiles else (None, None, None, None)
    key = image.info.get("transparency")  # the colour that is transparent, in a PNG without alpha
    if isinstance(key, int) and image.mode in ("1", "L"):
        key = key * GREY_STEP.get(str(raw_mode), 1) & 255
    _load(image)

    low_bytes = None
    if isinstance(key, tuple) and raw_mode == "RGB;16B" and file is not None:
        low_bytes = _low_bytes(file)
    elif isinstance(key, tuple) and max(key) > 255:
        key = tuple(value >> 8 for value in key)

    def convert(box: Box) -> "Image":
        strip = image.crop(box)
        if low_bytes is not None:
            return _without_key(strip, low_bytes.crop(box), key)
        if image.mode.startswith("I"):
            return _high_byte(strip, shift, negative, key)
        return _over_white(strip, key)

    turned = orientation(image)
    if image.mode == "RGB" and key is None:
        if turned == 1:
            return image
        budget.check("photo_bytes", 8 * image.width * image.height, "to turn it upright")
    photo = _from_strips(convert, image.width, image.height, turned)
    if image.format == "GIF" and frame is not None:
        _whiten_around(photo, frame)
    return photo


def _from_strips(convert: Callable[[Box], "Image"], w: int, h: int, turned: int) -> "Image":
    """Convert a photo of w x h pixels in strips of whole rows, and put them together upright."""
    from PIL import Image

    method, sideways, from_the_end = TURNS[turned]
    photo = Image.new("RGB", (h, w) if sideways else (w, h))
    rows = max(STRIP_PIXELS // w, 1)
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        strip = convert((0, top, w, bottom))
        if method:
            strip = strip.transpose(Image.Transpose[method])
        offset = h - bottom if from_the_end else top
        photo.paste(strip, (offset, 0) if sideways else (0, offset))
    return photo


def _whiten_around(photo: "Image", frame: Box) -> None:
    """Paint the area outside a GIF's frame white, as browsers show it on a white page."""
    w, h = photo.size
    left, top, right, bottom = frame
    for box in (0, 0, w, top), (0, bottom, w, h), (0, top, left, bottom), (right, top, w, bottom):
        if box[0] < box[2] and box[1] < box[3]:
            photo.paste("white", box)


def _tag(image: "Image", number: int, otherwise: int) -> Any:
    """Return a TIFF tag; if it has one value for each channel, the largest of them."""
    value = getattr(image, "tag_v2", {}).get(number, otherwise)
    return max(value, default=otherwise) if isinstance(value, tuple) else value


def _prepare_tiff(image: Any) -> tuple[int, bool]:
    """Return (bits beyond 8, is it a negative) of 16-bit grey pixels; refuse what would go wrong.

    Pillow decodes some TIFFs to wrong pixels without an error. Checked against tifffile.
    """
    bits, planes = _tag(image, BITS, 1), _tag(image, PLANES, 1)
    photometric = _tag(image, PHOTOMETRIC, WHITE_IS_ZERO)
    if _tag(image, SAMPLE_FORMAT, UNSIGNED) != UNSIGNED:
        raise ImageError(f"signed or floating-point pixels {NO_RANGE}")
    if bits not in (1, 2, 4, 8, 12, 16):
        raise ImageError(f"{bits}-bit pixels are not read: save it with 8 or 16 bits")
    if planes == SEPARATE_PLANES and image.mode in ("LA", "La", "PA"):
        raise ImageError("grey and alpha in separate planes are not read: save them interleaved")
    if planes == SEPARATE_PLANES and image.mode == "LAB":
        raise ImageError("Lab colours in separate planes are not read: save them interleaved")
    if _tag(image, PREDICTOR, 1) != 1 and image.info.get("compression") in NO_PREDICTOR:
        raise ImageError("a predictor is only read with LZW or Deflate: save it with one of them")
    uncompressed = image.tile and image.tile[0][0] == "raw"
    if photometric == YCBCR and uncompressed and image.tag_v2.get(SUBSAMPLING, (2, 2)) != (1, 1):
        raise ImageError("YCbCr of subsampled colours is not read without compression")
    if planes == SEPARATE_PLANES and bits == 16 and uncompressed:
        end = ";16B" if image.tag_v2.prefix == b"MM" else ";16L"  # Pillow forgets the 16 bits
        image.tile = [_with_raw_mode(tile, tile[3][0] + end) for tile in image.tile]
    return bits - 8, photometric == WHITE_IS_ZERO


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    arguments = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    if hasattr(tile, "_replace"):  # Pillow 11 has made a named tuple of it
        return tile._replace(args=arguments)
    return (*tile[:3], arguments)


def _load(image: Any) -> None:
    """Decode the pixels: a damaged file raises its error here."""
    name = getattr(image, "filename", None)
    if not name:
        image.load()
        return
    image.filename = ""  # else Pillow 11 to 13 map a turned TIFF with width and height exchanged
    try:
        image.load()
    finally:
        image.filename = name


def _low_bytes(file: IO[bytes]) -> "Image":
    """Decode the lower halves of a PNG with 16 bits a channel; Pillow hands out the upper ones."""
    from PIL import Image

    file.seek(0)
    image: Any = Image.open(file, formats=("PNG",))
    image.tile = [_with_raw_mode(tile, "RGB;16L") for tile in image.tile]
    image.load()
    return image


def _without_key(high: "Image", low: "Image", key: Any) -> "Image":
    """Make the pixels white whose 16-bit colour is the transparent one."""
    from PIL import Image

    pixels = np.array(high)
    upper, lower = [value >> 8 for value in key], [value & 255 for value in key]
    clear = (pixels == upper).all(axis=-1) & (np.asarray(low) == lower).all(axis=-1)
    pixels[clear] = 255
    return Image.fromarray(pixels)


def _high_byte(strip: "Image", shift: int, negative: bool, key: object) -> "Image":
    """Convert grey of 12 or 16 bits, of which convert("RGB") would clip all but the lowest 8."""
    from PIL import Image

    values = np.asarray(strip)
    grey = values >> shift
    grey = 255 - grey if negative else grey
    return Image.fromarray(np.where(values == key, 255, grey).astype(np.uint8)).convert("RGB")


def _over_white(strip: "Image", key: object) -> "Image":
    from PIL import Image

    if strip.mode == "La":  # premultiplied grey
        strip = strip.convert("LA")
    if key is not None:
        strip.info["transparency"] = key
    if key is not None or strip.mode in ("RGBA", "LA", "PA", "RGBa", "P"):
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return strip.convert("RGB")
