"""How much memory and work a file may ask for. Every reader asks here before it allocates anything.

A small file can describe something huge: a photo of a billion pixels, a network of a thousand
layers. The limits below are generous for MixNet at 1024 pixels. Who needs more raises a limit, in
Python or for one command:

    from tinymixnet.engine.budget import budget
    budget.photo_pixels = 200_000_000

    TINYMIXNET_BUDGET="photo_pixels=2e8, layer_bytes=4e9" tinymixnet classify huge.png
"""

import os
from dataclasses import dataclass, fields

from tinymixnet.errors import InputError, TinyMixNetError, short_repr


@dataclass
class Budget:
    """The most that a file may ask for. Each field is a limit, its name ends in its unit."""

    photo_file_bytes: int = 256 << 20  # of a photo's file, or of what comes through a pipe
    photo_pixels: int = 89_478_485  # width times height; the same as Pillow's own limit
    photo_bytes: int = 460_000_000  # of memory to decode it: all copies that exist at one time
    photo_scan_pixels: int = 2_000_000_000  # of a JPEG: its pixels times its scans; 12 are usual
    preset_pixels: int = 4096 * 4096  # that a photo is resized to before it is cropped
    network_numbers: int = 100_000_000  # weights; MixNet-L has 7 million
    network_multiply_adds: int = 50_000_000_000  # for one image; MixNet-L at 1024 px: 12 billion
    activation_bytes: int = 1 << 30  # of the largest layer; MixNet-L at 1024 px: 200 million
    plan_bytes: int = 4 << 30  # of the fast path's arrays; MixNet-L at 1024 px: 550 million
    weights_file_bytes: int = 1 << 30
    layer_bytes: int = 1 << 29  # of one layer of a dump, unpacked
    dump_layers: int = 20_000  # arrays in a dump; other files in a folder count, too
    checkpoint_bytes: int = 512 << 20  # of a TensorFlow checkpoint, unpacked

    def check(self, limit: str, asked: float, what: str) -> None:
        """Raise TinyMixNetError if `what` asks for more than the limit of this name."""
        allowed = getattr(self, limit)
        if asked > allowed:
            unit = limit.split("_", 1)[1].replace("_", " ")
            raise TinyMixNetError(
                f"{what} asks for {asked:,.0f} {unit}, at most {allowed:,} are allowed; if you "
                f"trust it, set TINYMIXNET_BUDGET={limit}={asked:.0f}"
            )

    def set(self, text: str) -> None:
        """Set limits from text such as "photo_pixels=2e8, layer_bytes=4e9", else InputError."""
        names = [field.name for field in fields(self)]
        if not isinstance(text, str):
            raise InputError(f"TINYMIXNET_BUDGET: expected text, found {short_repr(text)}")
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, value = (side.strip() for side in [*part.split("=", 1), ""][:2])
            try:
                number = int(float(value))
                if name not in names or number < 0:
                    raise ValueError
                setattr(self, name, number)
            except (ValueError, OverflowError):
                raise InputError(
                    "TINYMIXNET_BUDGET: expected limits such as photo_pixels=2e8, found "
                    f"{short_repr(part)}; there are {', '.join(names)}"
                ) from None


budget = Budget()


def read_environment() -> None:
    """Take the limits from TINYMIXNET_BUDGET. `load` and the commands call this."""
    budget.set(os.environ.get("TINYMIXNET_BUDGET", ""))
