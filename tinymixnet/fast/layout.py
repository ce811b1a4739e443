"""How the pixels of one channel lie in memory on the fast path."""

from math import lcm
from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array


class Layout(NamedTuple):
    """The order in which the pixels of a plane (one channel of an image) lie in memory.

    A plane is cut into P x P phases, which lie one after another; P is `phases_per_axis`. Phase
    (r, q) has the rows r, r + P, r + 2P, ... and of these the columns q, q + P, q + 2P, ... For
    each output phase, one element of a kernel then reads one input phase at a fixed offset. So the
    numbers it reads lie side by side, and that is what NumPy is fast with.

    Where P does not divide the height or width, some phases lack a row or a column. They have
    padding in its place, so that all phases have the same size. With P = 1 there is only one phase:
    all pixels in order.
    """

    height: int
    width: int
    phases_per_axis: int = 1

    @property
    def h(self) -> int:
        """Rows of a phase, with the padding."""
        return -(-self.height // self.phases_per_axis)

    @property
    def w(self) -> int:
        """Columns of a phase, with the padding."""
        return -(-self.width // self.phases_per_axis)

    @property
    def phase_size(self) -> int:
        """Numbers in a phase."""
        return self.h * self.w

    @property
    def size(self) -> int:
        """Numbers in all phases."""
        return self.phases_per_axis * self.phases_per_axis * self.phase_size

    def filtered(self, stride: int) -> "Layout":
        """Return the layout of the plane after a depthwise convolution.

        The convolution leaves any numbers in the padding of this layout: do not read them.
        """
        height, width = -(-self.height // stride), -(-self.width // stride)
        return Layout(height, width, max(self.phases_per_axis // stride, 1))

    def phases(self, x: Array, per_axis: int) -> list[Array]:
        """Return views of the pixels of x (C, size), one for each of per_axis x per_axis phases.

        per_axis is `phases_per_axis` or a multiple of it, which cuts the phases once more.
        """
        p = self.phases_per_axis
        planes, finer = x.reshape(len(x), p, p, self.h, self.w), per_axis // p
        views = []
        for r, q in np.ndindex(per_axis, per_axis):
            rows, columns = (
                len(range(r, self.height, per_axis)),
                len(range(q, self.width, per_axis)),
            )
            phase = planes[:, r % p, q % p, r // p :: finer, q // p :: finer]
            views.append(phase[:, :rows, :columns])
        return views

    def plane(self, x: Array) -> Array:
        """Return the pixels of x (C, size) as a new array (H, W, C)."""
        image = np.empty((self.height, self.width, len(x)), x.dtype)
        in_order = image.reshape(-1, len(x)).T
        for place, pixels in same_pixels(in_order, Layout(self.height, self.width), x, self):
            place[...] = pixels
        return image

    def ones(self) -> Array:
        """Return 1 at each pixel and 0 in the padding: (size,)."""
        mask = np.zeros((1, self.size), np.float32)
        for pixels in self.phases(mask, self.phases_per_axis):
            pixels[...] = 1
        return mask[0]


def same_pixels(x: Array, a: Layout, y: Array, b: Layout) -> list[tuple[Array, Array]]:
    """Return pairs of views of the same pixels: one of x (in layout a), one of y (in layout b)."""
    if a == b and a.size == a.height * a.width:  # there is no padding: the arrays are the views
        return [(x, y)]
    per_axis = lcm(a.phases_per_axis, b.phases_per_axis)
    return list(zip(a.phases(x, per_axis), b.phases(y, per_axis), strict=True))
