"""The two sides that must be paired: the tensors of a dump and the layers of the network."""

from collections.abc import Mapping
from typing import NamedTuple

from tinymixnet.debug.names.layouts import Shape, layouts_of

Names = dict[str, str]  # stored name -> canonical name; "" for a tensor that is no layer


class Candidates(NamedTuple):
    """The tensors of a dump and the layers that they may be, each side in its own order."""

    shapes: Mapping[str, Shape]  # by stored name
    expected: Mapping[str, Shape]  # by canonical name: (N, H, W, C) or (N, C)

    def fits(self, stored: str, name: str) -> bool:
        """Whether the shape of a stored tensor is one that the layer can have."""
        return bool(layouts_of(self.shapes[stored], self.expected[name]))
