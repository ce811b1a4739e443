"""From a photo to the pixels the network sees: `read_image` decodes it, a preset crops and resizes.

How a file is opened stands in `photo_files`, how its pixels become RGB in `rgb`.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.photo_files import (
    LONGEST_SIDE,
    check_work,
    open_regular,
    read_bounded,
    signature,
)
from tinymixnet.engine.rgb import to_rgb
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, printable, short_repr

if TYPE_CHECKING:  # Pillow takes longer to import than this whole package, so only photos import it
    from PIL.Image import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image | np.ndarray"

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # each further decoder is a further risk
CROP = 224 / 256  # how much of the shorter side the presets keep
BAND_PIXELS = 1 << 22  # that a preset takes from a photo at a time, for little memory

_DECODING = threading.Lock()  # Pillow's limit and the filters of warnings belong to all threads


def read_image(source: Source) -> "Image":
    """Decode a photo to 8-bit RGB as a person sees it: turned upright, transparency over white.

    source is a path, the bytes of an image file, a file object, a PIL image, or a uint8 array
    (H, W), (H, W, 3) or (H, W, 4). Of an animation the first frame is read.

    Raises ImageError when it cannot be read, is of a format not in FORMATS, is no regular file, or
    asks for more bytes, pixels or work than `budget` allows.
    """
    from PIL import Image

    kind = None
    name = "array" if isinstance(source, np.ndarray) else "image"
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
    try:
        if isinstance(source, np.ndarray):
            return to_rgb(_from_array(source), None)
        if isinstance(source, Image.Image):
            with _decoding():
                check_work(source, None)
                photo = to_rgb(source, None)
            return photo.copy() if photo is source else photo
        with _open(source) as file, _decoding():
            kind = signature(file)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                check_work(image, file)
                return to_rgb(image, file)
    except Image.DecompressionBombError:
        reason = (
            f"refused, too many pixels: at most {budget.photo_pixels:,} are allowed; "
            "TINYMIXNET_BUDGET=photo_pixels=... sets another limit"
        )
    except Image.UnidentifiedImageError:
        reason = f"not an image we read, expected one of {', '.join(FORMATS)}"
        if kind:
            reason = f"a {kind} file that is damaged, or of a kind that is not read"
    except TinyMixNetError as error:
        reason = str(error)
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files
        reason = f"cannot be read as an image ({error or type(error).__name__})"
    raise ImageError(printable(f"{name}: {reason}"))


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Set Pillow's limit of pixels to ours, and keep it from warning; one thread at a time."""
    from PIL import Image

    with _DECODING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, budget.photo_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def _open(source: Any) -> Iterator[IO[bytes]]:
    """Open what is no array and no PIL image as a file that can be read from its start again."""
    if isinstance(source, (str, os.PathLike)):
        with open_regular(source) as file:
            yield file
    elif isinstance(source, (bytes, bytearray, memoryview)):
        budget.check("photo_file_bytes", len(source), "the file")
        yield io.BytesIO(source)
    elif hasattr(source, "read"):
        yield io.BytesIO(read_bounded(source))
    else:
        raise ImageError(
            "expected a path, bytes, a file object, a PIL image or an array, "
            f"found {type(source).__name__}"
        )


def _from_array(array: np.ndarray) -> "Image":
    from PIL import Image

    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(
            f"expected uint8 (H, W), (H, W, 3) or (H, W, 4), found {array.dtype} "
            f"{array.shape}; pixels that are ready for the network go to model(pixels)"
        )
    if not 1 <= min(array.shape[:2]) <= max(array.shape[:2]) <= LONGEST_SIDE:
        raise ImageError(f"shape {array.shape}: expected 1..{LONGEST_SIDE} pixels a side")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


# -- presets --------------------------------------------------------------------------------------


def preprocess(
    photo: "Image", preset: str, size: int, parameters: Mapping[str, float] | None = None
) -> np.ndarray:
    """Crop and resize an RGB photo to what the network sees: (size, size, 3) float32, 0..255.

    preset is a name of PRESETS; parameters replace its defaults. Raises InputError for a preset or
    parameter that does not exist, ImageError for a photo that takes too much memory to resize.
    """
    check_preset(preset, parameters or {})
    function, defaults = PRESETS[preset]
    return np.asarray(function(photo, size, **{**defaults, **(parameters or {})}), np.float32)


def check_preset(preset: str, parameters: Mapping[str, float]) -> None:
    """Raise InputError unless there is such a preset, with such parameters of usable value."""
    if preset not in PRESETS:
        raise InputError(f"no preset {short_repr(preset)}: expected one of {', '.join(PRESETS)}")
    limits = {"crop": (0.1, 1)}  # a tiny crop would enlarge the photo
    for name, value in parameters.items():
        if name not in PRESETS[preset][1]:
            raise InputError(f"preset {short_repr(preset)} has no parameter {short_repr(name)}")
        low, high = limits[name]
        kinds = (int, type(PRESETS[preset][1][name]))
        if type(value) not in kinds or not low <= value <= high:
            raise InputError(
                f"preset {preset!r}: {name} is {short_repr(value)}, expected {low}..{high}"
            )


def tf_preset(photo: "Image", size: int, crop: float) -> np.ndarray:
    """TensorFlow's evaluation: a centre square, resized bilinearly as TensorFlow 1 did."""
    w, h = photo.size
    side = max(int(crop * min(h, w)), 1)
    top, left = (h - side + 1) // 2, (w - side + 1) // 2
    return tf_resize_bilinear(photo, (left, top, left + side, top + side), size)


def tf_resize_bilinear(photo: "Image", box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Resize a square of an RGB photo to (size, size, 3) float32 as TensorFlow 1's resize_bilinear.

    Output pixel i lies at i * side / size of the square, without the half-pixel offset used since,
    and nothing is averaged when shrinking. All steps are in float32 and in TensorFlow's order, so
    that the results are bit-close.
    """
    side = box[2] - box[0]
    if side == size:
        return np.asarray(photo.crop(box)).astype(np.float32)  # what the steps below would return
    before, after, distance = _bilinear_axis(side, size)
    needed, place = np.unique(np.concatenate([before, after]), return_inverse=True)
    first, second = place[:size], place[size:]
    pixels = np.empty((len(needed), side, 3), np.uint8)
    for start, band in _bands(photo, box):
        here = slice(*np.searchsorted(needed, [start, start + band.height]))
        pixels[here] = np.asarray(band)[needed[here] - start]
    if len(needed) < side:
        pixels = pixels[:, needed]
    columns = pixels.astype(np.float32).swapaxes(0, 1)  # (W, rows, C): long runs to copy
    x = columns[first]
    x += (columns[second] - x) * distance[:, None, None]
    x = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(len(needed), size * 3)
    above, below = x[first], x[second]
    return (above + (below - above) * distance[:, None]).reshape(size, size, 3)


def _bands(photo: "Image", box: tuple[int, int, int, int]) -> Iterator[tuple[int, "Image"]]:
    """Cut a box out of a photo in bands of whole rows; yield (its first row in the box, band).

    A copy of the whole box could be as large as the photo.
    """
    left, top, right, bottom = box
    rows = max(BAND_PIXELS // (right - left), 1)
    for start in range(top, bottom, rows):
        yield start - top, photo.crop((left, start, right, min(start + rows, bottom)))


def _bilinear_axis(size: int, positions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each position on an axis, the pixel before, the one after, and the distance."""
    places = np.arange(positions, dtype=np.float32) * (np.float32(size) / np.float32(positions))
    before = np.floor(places).astype(np.intp)
    return before, np.minimum(before + 1, size - 1), places - before.astype(np.float32)


def timm_preset(photo: "Image", size: int, crop: float) -> "Image":
    """timm's evaluation: resize the shorter side (bicubic, antialiased), then a centre crop."""
    from PIL import Image

    w, h = photo.size
    short = int(size / crop)
    h, w = (int(short * h / w), short) if w <= h else (short, int(short * w / h))
    if max(h, w) > LONGEST_SIDE:
        raise ImageError(f"photo of {photo.width}x{photo.height}: too long and thin to resize")
    _ask("preset_pixels", h * w, f"preset timm for {photo.width}x{photo.height}")
    resized = photo.resize((w, h), Image.Resampling.BICUBIC)
    top, left = round((h - size) / 2), round((w - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def omz_preset(photo: "Image", size: int, crop: float) -> "Image":
    """The Open Model Zoo's: crop about the centre, then resize without keeping the proportions."""
    from PIL import Image

    w, h = photo.size
    ch, cw = max(int(h * crop), 1), max(int(w * crop), 1)
    top, left = (h - ch) // 2, (w - cw) // 2
    cropped = _crop(photo, (left, top, left + cw, top + ch))
    return cropped.resize((size, size), Image.Resampling.BICUBIC)


def _crop(photo: "Image", box: tuple[int, int, int, int]) -> "Image":
    """Return a copy of a part of a photo, if there is enough memory for both."""
    w, h = box[2] - box[0], box[3] - box[1]
    if (w, h) == photo.size:
        return photo
    _ask("photo_bytes", 4 * (photo.width * photo.height + w * h), "to crop the photo")
    return photo.crop(box)


def _ask(limit: str, asked: int, what: str) -> None:
    """As `budget.check`, but as an error of this one photo."""
    try:
        budget.check(limit, asked, what)
    except TinyMixNetError as error:
        raise ImageError(str(error)) from None


def square_preset(photo: "Image", size: int, crop: float) -> "Image":
    """The bundled weights': a centre square, resized (bicubic, antialiased). Nothing is distorted.

    crop is the side of the square over the shorter side of the photo.
    """
    from PIL import Image

    w, h = photo.size
    side = max(int(crop * min(w, h)), 1)
    left, top = (w - side) // 2, (h - side) // 2
    narrow = _resize_rows(photo, (left, top, left + side, top + side), size)
    return narrow.resize((size, size), Image.Resampling.BICUBIC)


def _resize_rows(photo: "Image", box: tuple[int, int, int, int], width: int) -> "Image":
    """Resize a box along its rows only, band by band.

    Pillow resizes a square first along its rows and then along its columns, so that a resize of the
    columns that follows gives the same pixels as a resize of both at once.
    """
    from PIL import Image

    height = box[3] - box[1]
    _ask("photo_bytes", 4 * (photo.width * photo.height + width * height), "to resize the photo")
    narrow = Image.new("RGB", (width, height))
    for start, band in _bands(photo, box):
        narrow.paste(band.resize((width, band.height), Image.Resampling.BICUBIC), (0, start))
    return narrow


# name: function, its parameters' defaults
PRESETS: dict[str, tuple[Callable[..., "np.ndarray | Image"], dict[str, float]]] = {
    "tf": (tf_preset, {"crop": CROP}),
    "timm": (timm_preset, {"crop": CROP}),
    "omz": (omz_preset, {"crop": CROP}),
    "square": (square_preset, {"crop": 1.0}),
}
