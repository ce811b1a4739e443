"""How far off a layer may be before it counts as wrong, and when a mistake has explained it.

float32 leaves the same small error in every layer. A port with fewer digits leaves more, in each
layer another amount: that is measured by rounding ours in the same way (`precision.py`).
"""

from collections.abc import Mapping

from tinymixnet.debug.measure import Error
from tinymixnet.debug.precision import BEYOND_IN_CHANNEL, Judgement

LARGER = 3  # rounding may make an error of so many times what it makes in our run


class Limits:
    """What rounding may leave in each layer."""

    def __init__(self, fine: float, judgements: Mapping[str, Judgement] | None = None) -> None:
        """fine: the error that rounding makes in any layer. judgements: of a port that rounds."""
        self.fine = fine
        self.judgements = judgements or {}

    def right(self, layer: str, error: Error) -> bool:
        """Whether a layer with this error, relative to ours, is right: ours got their input."""
        if error.max_error <= 3 * self.fine:
            return True
        judgement = self.judgements.get(layer)
        return judgement is not None and not judgement.beyond

    def alike(self, layer: str, error: Error) -> bool:
        """Whether a layer of a whole run, not fed with their input, is as it should be."""
        judgement = self.judgements.get(layer)
        rounding = LARGER * judgement.rounding if judgement else 0.0
        return error.max_error <= max(3 * self.fine, rounding)

    def explained(self, layer: str, distance: Error) -> bool:
        """Whether a mistake that leaves this distance from theirs has explained a layer."""
        if distance.max_error <= self.fine:
            return True
        judgement = self.judgements.get(layer)
        return (
            judgement is not None
            and distance.max_error <= BEYOND_IN_CHANNEL * judgement.largest
            and distance.rms_error <= LARGER * judgement.share
        )
