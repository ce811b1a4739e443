"""Pixels that are ready for the network: checked, or read from a .npy file."""

import os
import warnings

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.photo_files import open_regular
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, printable, short_repr

SMALLEST_INPUT = 32  # pixels a side: halved five times, one is left


def check_pixels(pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
    """Check that the network can take a batch, and return it as NHWC, RGB (a view, no copy).

    pixels is (N, H, W, 3), or (N, 3, H, W) with layout="NCHW", of uint8 or float32, 0..255. Raises
    InputError for anything that is not such an array: another rank, type or channel count, a side
    under 32, NaN, values far from 0..255, and values that look already normalised. Warns of values
    0..1.
    """
    if not isinstance(layout, str) or layout not in ("NHWC", "NCHW"):
        raise InputError(f"layout={short_repr(layout)}: expected 'NHWC' or 'NCHW'")
    if not isinstance(channels, str) or channels not in ("RGB", "BGR"):
        raise InputError(f"channels={short_repr(channels)}: expected 'RGB' or 'BGR'")
    wanted = "(N, H, W, 3)" if layout == "NHWC" else "(N, 3, H, W)"
    try:
        x = np.asarray(pixels)
    except Exception as error:  # ragged lists, tensors with gradients: all types
        kind = type(pixels).__name__
        reason = f"pixels: expected an array {wanted}, found {kind} that is none ({error})"
        raise InputError(printable(reason)) from None
    if x.ndim != 4:
        hint = ": a single image goes in as pixels[None]" if x.ndim == 3 else ""
        kind = "" if isinstance(pixels, np.ndarray) else f" of {type(pixels).__name__}"
        raise InputError(f"pixels: expected {wanted}, found shape {x.shape}{kind}{hint}")
    if x.dtype not in (np.uint8, np.float32):
        reason = f"pixels: expected uint8 or float32, found {x.dtype}: use .astype"
        raise InputError(printable(reason))
    if x.shape[3 if layout == "NHWC" else 1] != 3:
        other = "NCHW" if layout == "NHWC" else "NHWC"
        hint = f': is it layout="{other}"?' if x.shape[1 if layout == "NHWC" else 3] == 3 else ""
        raise InputError(f"pixels: expected {wanted}, 3 channels, found shape {x.shape}{hint}")
    if layout == "NCHW":
        x = x.transpose(0, 2, 3, 1)
    if channels == "BGR":
        x = x[..., ::-1]
    n, h, w, _ = x.shape
    if min(h, w) < SMALLEST_INPUT:
        raise InputError(f"pixels: {h}x{w} is too small, expected {SMALLEST_INPUT} or more a side")
    if x.dtype == np.float32 and n:
        _check_range(_without_repeats(x))
    return x


def _without_repeats(x: Array) -> Array:
    """Return a view of x without the copies that `np.broadcast_to` shows of the same memory.

    Such an array can be of any size at no cost, and to look at all its values would never end.
    """
    return x[tuple(slice(1) if step == 0 else slice(None) for step in x.strides)]


def _check_range(x: Array) -> None:
    """Refuse values that no photo has; resizing may overshoot 0..255 somewhat, and that is fine."""
    low, high = float(x.min()), float(x.max())  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("pixels: expected values 0..255, found NaN or infinity")
    if -5 < low < -0.1 and high < 5:
        raise InputError(
            f"pixels: values {low:.2f}..{high:.2f} look normalised already; expected 0..255, "
            "the network subtracts the mean and divides by the deviation itself"
        )
    if low < -64 or high > 320:
        raise InputError(f"pixels: expected values 0..255, found {low:g}..{high:g}")
    if low < high <= 2 and not _is_dark_photo(x, low, high):
        warnings.warn(f"pixels: values {low:g}..{high:g}, is that 0..1 for 0..255?", stacklevel=6)


def _is_dark_photo(x: Array, low: float, high: float) -> bool:
    """Return whether values of at most 2 are those of a photo of 0..255 that is nearly black.

    Most of its values are whole numbers; of a photo scaled to 0..1 hardly any are. Where all values
    lie within 0..1, scaling is by far the likelier reason.
    """
    if 0 <= low < high <= 1:
        return False
    return bool(np.count_nonzero(x == np.rint(x)) > x.size / 2)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the pixels of a .npy file: (H, W, 3) or (N, H, W, 3) -> (N, H, W, 3) float32.

    The values are taken as they are. Raises ImageError for a file that is no array of numbers of
    such a shape, or that asks for more memory than `budget.photo_bytes`.
    """
    if not isinstance(path, (str, os.PathLike)):  # a number would be an open file, and closed
        raise InputError(f"path: expected that of a .npy file, found {short_repr(path)}")
    try:
        return _read_npy(path)
    except TinyMixNetError as error:
        reason = str(error)
    except Exception as error:  # whatever NumPy raises on damage
        reason = f"cannot be read as a .npy array ({error or type(error).__name__})"
    raise ImageError(printable(f"{os.fsdecode(path)}: {reason}"))


def _read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    with open_regular(path) as file:
        start = file.read(6)
    if start != b"\x93NUMPY":
        kind = "an .npz archive" if start[:2] == b"PK" else "another kind of file"
        raise ImageError(f"expected one array as numpy.save writes it, found {kind}")
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # reads the header, no pixels yet
    if mapped.ndim not in (3, 4) or mapped.shape[-1] != 3 or mapped.dtype.kind not in "uif":
        raise ImageError(
            "expected pixels (H, W, 3) or (N, H, W, 3), 0..255, "
            f"found {mapped.dtype} {mapped.shape}"
        )
    budget.check("photo_bytes", mapped.size * 4, "as float32, it")
    with np.errstate(over="ignore"):  # too large for float32: infinite, which the network refuses
        pixels = np.array(mapped, np.float32, order="C")
    return pixels if pixels.ndim == 4 else pixels[np.newaxis]
