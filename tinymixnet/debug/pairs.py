"""Which tensor of theirs is which layer of ours, and how that was found."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinymixnet.debug.strict_json import json_values


class Pair(NamedTuple):
    """A tensor of theirs and what it is."""

    name: str
    layer: str = ""  # empty: no layer of ours, nor a part of one
    found: str = ""  # by its "name", its "value" or the "order"; "given" by the user
    layout: str = ""
    part: str = ""  # what part of the layer it is; without a layer, what kind of constant
    error: float | None = None  # of the layer, fed with their input, as in `compare --isolated`

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what this tensor is."""
        return not self.layer and not self.part

    @property
    def constant(self) -> bool:
        """Whether it is a number, a shape or a weight, and no activation."""
        return not self.layer and bool(self.part)


def pairs_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return pairs as an object that --names takes back, theirs -> what it is."""
    result: dict[str, Any] = {}
    for pair in pairs:
        if pair.name in result:  # they leave a layer out, so its input is its output as well
            result[pair.name].setdefault("also", []).append(pair.layer)
            continue
        entry: dict[str, Any] = {"layer": "" if pair.part else pair.layer}
        if pair.constant:
            entry["constant"] = pair.part
        elif pair.part:
            entry["part_of"], entry["part"] = pair.layer, pair.part
        if pair.layer:
            entry["found"] = pair.found
        if pair.layer and not pair.part:
            entry["error"] = pair.error
        result[pair.name] = json_values(entry)
    return result


def counts(pairs: Sequence[Pair]) -> dict[str, int]:
    """Return how many layers were paired in each way."""
    layers = [pair for pair in pairs if pair.layer and not pair.part]
    found = dict.fromkeys(("given", "name", "value", "order"), 0)
    for pair in layers:
        found[pair.found] = found.get(pair.found, 0) + 1
    return found
