"""From a photo to the pixels the network sees: decode safely, then crop and resize by a preset."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from tinymixnet.errors import ImageError, InputError

if TYPE_CHECKING:  # Pillow takes longer to import than all of ours: import it when a photo comes
    from PIL.Image import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image | np.ndarray"

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # each further decoder is a further risk
LONGEST_SIDE = 65535  # of a photo, also while resized: more is a decompression bomb by another way
CROP = 224 / 256  # how much of the shorter side the presets keep

_DECODING = threading.Lock()  # warnings.catch_warnings in two threads at once would never be undone


# -- decoding -------------------------------------------------------------------------------------


def read_image(source: Source) -> "Image":
    """Decode a photo to 8-bit RGB as a person sees it: turned upright, transparency over white.

    source is a path, the bytes of an image file, a file object, a PIL image, or a uint8 array
    (H, W), (H, W, 3) or (H, W, 4). Of an animation, the first frame. Raises ImageError when it
    cannot be read, is of a format not in FORMATS or has more pixels than Pillow deems safe.
    """
    from PIL import Image

    name = "array" if isinstance(source, np.ndarray) else "image"
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
    try:
        opened = _open(source)
        with _DECODING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(opened, Image.Image):
                return _to_rgb(opened)
            with Image.open(opened, formats=FORMATS) as image:
                return _to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: refused, too many pixels to decode safely ({error})") from None
    except Image.UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise ImageError(f"{name}: not an image we read, expected one of {kinds}") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except Exception as error:  # Pillow's decoders raise nearly any type on damaged files
        raise ImageError(f"{name}: cannot be read as an image ({error})") from None


def _open(source: Source) -> "str | os.PathLike[str] | IO[bytes] | Image":
    from PIL import Image

    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, os.PathLike, Image.Image)):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        return io.BytesIO(source.read())  # a pipe cannot seek, as Pillow needs
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
    if array.size == 0:
        raise ImageError(f"no pixels, shape {array.shape}")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image, ImageOps

    w, h = image.size
    if not 1 <= min(w, h) <= max(w, h) <= LONGEST_SIDE:
        raise ImageError(f"{w}x{h} pixels, expected 1..{LONGEST_SIDE} a side")
    # Mode I: older Pillows decode a 16-bit PNG to it. All else there could be of any range.
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError("32-bit pixels have no agreed range: save it with 8 or 16 bits")
    image.load()  # damage shows here, where nothing is suppressed
    with contextlib.suppress(Exception):  # damaged EXIF says nothing: leave the photo as it lies
        image = ImageOps.exif_transpose(image)
    key = image.info.get("transparency")  # in a PNG without alpha: the colour that is transparent
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert("RGB") would clip to 255
        values = np.asarray(image)
        image = Image.fromarray(np.where(values == key, 255, values >> 8).astype(np.uint8))
    elif isinstance(key, tuple) and max(key) > 255:  # Pillow made 8 bits of 16, but not of the key
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "P"):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


# -- presets --------------------------------------------------------------------------------------


def preprocess(
    photo: "Image", preset: str, size: int, parameters: Mapping[str, float] | None = None
) -> np.ndarray:
    """Crop and resize an RGB photo to what the network sees: (size, size, 3) float32, 0..255.

    preset is a name of PRESETS; parameters replace its defaults. Raises InputError for a preset or
    parameter that does not exist, ImageError for a photo too long and thin to resize.
    """
    check_preset(preset, parameters or {})
    function, defaults = PRESETS[preset]
    return np.asarray(function(photo, size, **{**defaults, **(parameters or {})}), np.float32)


def check_preset(preset: str, parameters: Mapping[str, float]) -> None:
    """See that there is such a preset, with such parameters of usable value, else InputError."""
    if preset not in PRESETS:
        raise InputError(f"no preset {preset!r}: expected one of {', '.join(PRESETS)}")
    limits = {"crop": (0.1, 1), "thumbnail": (1, 4096)}  # a tiny crop is a bomb: it enlarges
    for name, value in parameters.items():
        if name not in PRESETS[preset][1]:
            raise InputError(f"preset {preset!r} has no parameter {name!r}")
        low, high = limits[name]
        kinds = (int, type(PRESETS[preset][1][name]))
        if type(value) not in kinds or not low <= value <= high:
            raise InputError(f"preset {preset!r}: {name} is {value!r}, expected {low}..{high}")


def tf_preset(photo: "Image", size: int, crop: float) -> np.ndarray:
    """TensorFlow's evaluation: a centre square, resized bilinearly as TensorFlow 1 did."""
    pixels = np.asarray(photo)
    h, w, _ = pixels.shape
    side = max(int(crop * min(h, w)), 1)
    top, left = (h - side + 1) // 2, (w - side + 1) // 2
    return tf_resize_bilinear(pixels[top : top + side, left : left + side], size)


def tf_resize_bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W, C) to (size, size, C) float32 as TensorFlow 1's resize_bilinear.

    Output pixel i lies at i * H / size of the input, without the half-pixel offset used since, and
    nothing is averaged when shrinking. All steps in float32, in TensorFlow's order: bit-close.
    """
    h, w, c = pixels.shape
    if h == w == size:
        return pixels.astype(np.float32)  # what all of this would give, too
    top, bottom, dy = _bilinear_axis(h, size)
    left, right, dx = _bilinear_axis(w, size)
    rows, place = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    columns = pixels[rows].astype(np.float32).swapaxes(0, 1)  # (W, rows, C): long runs to copy
    x = columns[left]
    x += (columns[right] - x) * dx[:, None, None]
    x = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(len(rows), size * c)
    above, below = x[place[:size]], x[place[size:]]
    return (above + (below - above) * dy[:, None]).reshape(size, size, c)


def _bilinear_axis(size: int, positions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each position along one axis: the pixel before, the one after, how far in between."""
    at = np.arange(positions, dtype=np.float32) * (np.float32(size) / np.float32(positions))
    before = np.floor(at).astype(np.intp)
    return before, np.minimum(before + 1, size - 1), at - before.astype(np.float32)


def timm_preset(photo: "Image", size: int, crop: float) -> "Image":
    """timm's evaluation: resize the shorter side (bicubic, antialiased), then a centre crop."""
    from PIL import Image

    w, h = photo.size
    short = int(size / crop)
    h, w = (int(short * h / w), short) if w <= h else (short, int(short * w / h))
    if max(h, w) > LONGEST_SIDE:
        raise ImageError(f"photo of {photo.width}x{photo.height}: too long and thin to resize")
    resized = photo.resize((w, h), Image.Resampling.BICUBIC)
    top, left = round((h - size) / 2), round((w - size) / 2)
    return resized.crop((left, top, left + size, top + size))


def omz_preset(photo: "Image", size: int, crop: float) -> "Image":
    """The Open Model Zoo's: crop about the centre, then resize without keeping the proportions."""
    from PIL import Image

    w, h = photo.size
    ch, cw = max(int(h * crop), 1), max(int(w * crop), 1)
    top, left = (h - ch) // 2, (w - cw) // 2
    cropped = photo.crop((left, top, left + cw, top + ch))
    return cropped.resize((size, size), Image.Resampling.BICUBIC)


def thumbnail_preset(photo: "Image", size: int, thumbnail: int) -> "Image":
    """For weights trained on thumbnails (CIFAR-10): a centre square, made small, then enlarged.

    The detour matters: a network that has only ever seen enlarged 32-pixel photos is lost before a
    sharp one.
    """
    from PIL import Image

    w, h = photo.size
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    small = square.resize((thumbnail, thumbnail), Image.Resampling.BICUBIC)
    return small.resize((size, size), Image.Resampling.BICUBIC)


# name: function, its parameters' defaults
PRESETS: dict[str, tuple[Callable[..., "np.ndarray | Image"], dict[str, float]]] = {
    "tf": (tf_preset, {"crop": CROP}),
    "timm": (timm_preset, {"crop": CROP}),
    "omz": (omz_preset, {"crop": CROP}),
    "thumbnail": (thumbnail_preset, {"thumbnail": 32}),
}
