"""Other ways to resize a photo: bilinear as frameworks do it on tensors, without antialiasing."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.kernels import Array

if TYPE_CHECKING:
    from PIL.Image import Image

CROP = 0.875  # of the shorter side, as the presets crop

Places = Callable[[int, int], Array]  # (pixels of an axis, positions) -> where they lie


def corners_aligned(size: int, positions: int) -> Array:
    """The first and the last position lie on the first and the last pixel."""
    return np.arange(positions) * ((size - 1) / max(positions - 1, 1))


def half_pixels(size: int, positions: int) -> Array:
    """Positions and pixels are squares that fill the same length: OpenCV's and PyTorch's way."""
    return np.clip((np.arange(positions) + 0.5) * (size / positions) - 0.5, 0, size - 1)


def corners_at_start(size: int, positions: int) -> Array:
    """Positions and pixels begin at the same corner: TensorFlow 1's way."""
    return np.arange(positions) * (size / positions)


def bilinear(image: Array, height: int, width: int, places: Places) -> Array:
    """Resize (H, W, 3) to (height, width, 3) between the four nearest pixels, in float32."""
    x = image
    for axis, positions in enumerate((height, width)):
        where = places(x.shape[axis], positions)
        before = np.floor(where).astype(int).clip(0, x.shape[axis] - 1)
        after = np.minimum(before + 1, x.shape[axis] - 1)
        share = (where - before).astype(np.float32)
        share = share[:, None, None] if axis == 0 else share[:, None]
        low = x.take(before, axis).astype(np.float32)
        x = low + (x.take(after, axis).astype(np.float32) - low) * share
    return x


def ways(image: "Image", height: int, width: int) -> Iterator[tuple[str, Array]]:
    """Yield (how, pixels): other parts of the photo, each resized in three ways.

    Yields nothing for a photo that there is no memory for.
    """
    w, h = image.size
    if 8 * w * h > budget.photo_bytes:
        return
    photo = np.asarray(image)
    for part, share in {
        "squashing the whole photo": None,
        "a central square, all of it": 1.0,
        f"a central square of {CROP:g} of the shorter side": CROP,
    }.items():
        side = int((share or 1) * min(w, h))
        down, across = (h, w) if share is None else (side, side)
        top, left = (h - down + 1) // 2, (w - across + 1) // 2
        cut = photo[top : top + down, left : left + across]
        for how, places in {
            "bilinear with align_corners": corners_aligned,
            "bilinear without antialiasing": half_pixels,
            "bilinear as TensorFlow 1": corners_at_start,
        }.items():
            yield f"{part}, {how}", bilinear(cut, height, width, places)
