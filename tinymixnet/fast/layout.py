"""How the pixels of one channel lie in memory on the fast path."""

from typing import NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array


class Layout(NamedTuple):
    """The order in which the pixels of a plane (one channel of an image) lie in memory.

    A plane is cut into P x P phases, P being `phases_per_axis`, which lie one after another. Phase
    (r, q) has the rows r, r + P, r + 2P, ... and of these the columns q, q + P, q + 2P, ... So, for
    each output phase, one element of a kernel reads one input phase at a fixed offset: the numbers
    it reads lie side by side, and NumPy is fast with those.

    Where height or width is not a multiple of P, some phases lack a row or a column. They have
    padding in its place, so that all have one size. With P = 1 a plane is just its pixels in order.
    """

    height: int
    width: int
    phases_per_axis: int = 1

    @property
    def h(self) -> int:
        """Rows of a phase, padding and all."""
        return -(-self.height // self.phases_per_axis)

    @property
    def w(self) -> int:
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
        """The layout of the plane after a filter; what is in its padding means nothing."""
        height, width = -(-self.height // stride), -(-self.width // stride)
        return Layout(height, width, max(self.phases_per_axis // stride, 1))

    def phases(self, x: Array, cut: int) -> list[Array]:
        """Views of the pixels of x (C, size), one for each of cut x cut phases.

        cut is phases_per_axis or a multiple of it.
        """
        planes = x.reshape(len(x), self.phases_per_axis, self.phases_per_axis, self.h, self.w)
        finer, views = cut // self.phases_per_axis, []
        for r, q in np.ndindex(cut, cut):
            h, w = len(range(r, self.height, cut)), len(range(q, self.width, cut))
            plane = planes[:, r % self.phases_per_axis, q % self.phases_per_axis]
            views.append(
                plane[:, r // self.phases_per_axis :: finer, q // self.phases_per_axis :: finer][
                    :, :h, :w
                ]
            )
        return views

    def plane(self, x: Array) -> Array:
        """The pixels of x (C, size) as a new array (H, W, C)."""
        image = np.empty((self.height, self.width, len(x)), x.dtype)
        uncut = image.reshape(-1, len(x)).T
        for place, pixels in same_pixels(uncut, Layout(self.height, self.width), x, self):
            place[...] = pixels
        return image

    def ones(self) -> Array:
        """One at each pixel, zero in the padding: (size,)."""
        mask = np.zeros((1, self.size), np.float32)
        for pixels in self.phases(mask, self.phases_per_axis):
            pixels[...] = 1
        return mask[0]


def same_pixels(x: Array, a: Layout, y: Array, b: Layout) -> list[tuple[Array, Array]]:
    """Pairs of views, one of x (in layout a) and one of y (in layout b), of the same pixels."""
    if a == b and a.size == a.height * a.width:  # no padding to leave out: one pair will do
        return [(x, y)]
    cut = max(a.phases_per_axis, b.phases_per_axis)
    return list(zip(a.phases(x, cut), b.phases(y, cut), strict=True))
