"""Pixels that are ready for the network: checked, or read from a .npy file."""

import os
import warnings

import numpy as np

from tinymixnet.engine.kernels import Array
from tinymixnet.errors import ImageError, InputError

SMALLEST_INPUT = 32  # pixels a side: halved five times, one is left


def check_pixels(pixels: Array, layout: str = "NHWC", channels: str = "RGB") -> Array:
    """See that a batch is what the network takes, and turn it to NHWC, RGB (a view, no copy).

    Raises InputError for another rank, type, channel count, a side under 32, NaN, values far from
    0..255, and for values that look already normalised.
    """
    if layout not in ("NHWC", "NCHW"):
        raise InputError(f"layout={layout!r}: expected 'NHWC' or 'NCHW'")
    if channels not in ("RGB", "BGR"):
        raise InputError(f"channels={channels!r}: expected 'RGB' or 'BGR'")
    wanted = "(N, H, W, 3)" if layout == "NHWC" else "(N, 3, H, W)"
    x = np.asarray(pixels)
    if x.ndim != 4:
        hint = ": a single image goes in as pixels[None]" if x.ndim == 3 else ""
        raise InputError(f"pixels: expected {wanted}, found shape {x.shape}{hint}")
    if x.dtype not in (np.uint8, np.float32):
        raise InputError(f"pixels: expected uint8 or float32, found {x.dtype}: use .astype")
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
        _check_range(float(x.min()), float(x.max()))  # NaN anywhere makes both NaN
    return x


def _check_range(low: float, high: float) -> None:
    """Refuse values that no photo has; resizing may overshoot 0..255 somewhat, and that is fine."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("pixels: expected values 0..255, found NaN or infinity")
    if -5 < low < -0.1 and high < 5:
        raise InputError(
            f"pixels: values {low:.2f}..{high:.2f} look normalised already; expected 0..255, "
            "the network subtracts the mean and divides by the deviation itself"
        )
    if low < -64 or high > 320:
        raise InputError(f"pixels: expected values 0..255, found {low:g}..{high:g}")
    if 0 <= low < high <= 1:  # it could still be a very dark photo
        warnings.warn(f"pixels: values {low:g}..{high:g}, is that 0..1 for 0..255?", stacklevel=4)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Pixels from a .npy file, as they are: (H, W, 3) or (N, H, W, 3) -> (N, H, W, 3) float32.

    Raises ImageError for a file that is no array of numbers of such a shape.
    """
    name = os.fspath(path)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # a lying header maps nothing
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except Exception as error:  # whatever NumPy raises on damage
        raise ImageError(f"{name}: cannot be read as a .npy array ({error})") from None
    if mapped.ndim not in (3, 4) or mapped.shape[-1] != 3 or mapped.dtype.kind not in "uif":
        raise ImageError(
            f"{name}: expected pixels (H, W, 3) or (N, H, W, 3), 0..255, "
            f"found {mapped.dtype} {mapped.shape}"
        )
    pixels = np.asarray(mapped, np.float32)
    return pixels if pixels.ndim == 4 else pixels[np.newaxis]
