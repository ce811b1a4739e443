"""Suspects that need data: the raw weights, or the photo resized in another way."""

from collections.abc import Callable, Mapping

from tinymixnet.debug.suspects.context import FILTERS, NORMS, POINTWISE, Suspect
from tinymixnet.engine.kernels import Array


def raw_weights(raw: Mapping[str, Array]) -> list[Suspect]:
    """Return suspects that take raw weights in place of their moving averages.

    All of them, batch norm's statistics alone, all but the statistics, or gamma and beta alone.
    """

    def taken(moving: tuple[bool, ...]) -> Callable[[str, Array], Array]:
        return lambda name, tensor: raw[name] if ("/moving_" in name) in moving else tensor

    def scales(name: str, tensor: Array) -> Array:
        return raw[name] if name.endswith(("/gamma", "/beta")) else tensor

    kinds = f"{FILTERS} {POINTWISE} {NORMS}"
    advice = "raw weights: take the checkpoint's exponential moving averages, of every tensor"
    return [
        Suspect("raw-weights", kinds, f"these are {advice}", weights=taken((False, True))),
        Suspect(
            "raw-weights", NORMS, f"batch norm's statistics are {advice}", weights=taken((True,))
        ),
        Suspect(
            "raw-weights", kinds, f"all but the statistics are {advice}", weights=taken((False,))
        ),
        Suspect("raw-weights", NORMS, f"gamma and beta are {advice}", weights=scales),
    ]


def other_pixels(how: str, pixels: Array) -> Suspect:
    """Return the suspect that the photo was resized as `how` says, to these pixels."""
    sentence = f"the photo is cropped or resized in another way: as by {how}"
    return Suspect("other-resize", "image", sentence, lambda at: pixels)
