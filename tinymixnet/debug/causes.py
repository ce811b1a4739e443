"""The result of `diagnose`: causes, each a mistake by name, with the evidence for it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tinymixnet.debug.measure import join_names
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.strict_json import json_values
from tinymixnet.errors import printable


class Cause(NamedTuple):
    """A mistake that explains their tensors: where it is, and how well it explains them.

    `before` and `after` are errors relative to what our layer computes from their inputs.
    """

    slug: str  # the mistake's name, for programs
    place: str  # the first layer that has the mistake
    places: tuple[str, ...]  # all layers that have it
    before: float  # error of the layer where the mistake first shows
    after: float  # error of the same layer if ours makes the same mistake
    sentence: str  # the mistake and its remedy, for people


class Evidence(NamedTuple):
    """How sure a diagnosis is: what its tensors were paired by, and which were not."""

    found: Mapping[str, int]  # how many layers were "given", or paired by "name", "value", "order"
    others: int = 0  # tensors of theirs that are no layer of ours, nor any of the two below
    after: tuple[str, ...] = ()  # those of them that stand after the last layer
    doubtful: tuple[tuple[str, str], ...] = ()  # (layer, their tensor) that is probably not it
    parts: int = 0  # tensors of theirs that are a part or a copy of a layer
    constants: int = 0  # weights, shapes and numbers

    def lines(self) -> list[str]:
        """Return the evidence as text."""
        ways = [
            f"{n} {'given' if how == 'given' else f'by {how}'}" for how, n in self.found.items()
        ]
        ways = [way for way in ways if not way.startswith("0 ")]
        count = sum(self.found.values())
        lines = [f"compared {count} layers: {', '.join(ways) or 'none'}"]
        if self.others:
            is_one = "tensor of theirs is" if self.others == 1 else "tensors of theirs are"
            lines[0] += f"; {self.others} {is_one} no layer of ours"
        besides = [
            f"{n} {one if n == 1 else many}"
            for n, one, many in (
                (self.parts, "part or copy of a layer", "parts or copies of layers"),
                (self.constants, "constant", "constants"),
            )
            if n
        ]
        if besides:
            lines[0] += f"; besides, theirs has {' and '.join(besides)}"
        if self.after:
            lines.append(f"after the last layer that is ours, theirs has {join_names(self.after)}")
        if self.doubtful:
            names = join_names([f"{theirs} (as {layer})" for layer, theirs in self.doubtful])
            lines.append(
                f"probably paired wrongly, or overwritten after use: {names}; these do not count"
            )
        return lines


class Diagnosis(NamedTuple):
    """All causes that `diagnose` found."""

    causes: tuple[Cause, ...]  # in the network's order; none for a correct port
    layers: int  # how many layers were compared
    first: str | None  # the first of them that differs
    evidence: Evidence = Evidence({})
    warnings: tuple[str, ...] = ()  # those of `compare`
    pairs: tuple[Pair, ...] = ()  # which tensor is which layer; empty if the names are certain

    @property
    def alike(self) -> bool:
        """Whether the port is correct."""
        return not self.causes

    @property
    def slugs(self) -> list[str]:
        """The names of the causes; ["none"] for a correct port."""
        return [cause.slug for cause in self.causes] or ["none"]

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as values that JSON has; infinity becomes null."""
        causes = [json_values(cause._asdict()) for cause in self.causes]
        return {
            "alike": self.alike,
            "layers": self.layers,
            "first": self.first,
            "causes": causes,
            **json_values(self.evidence._asdict()),
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """Return the diagnosis as text. The first line is for programs, the rest for people."""
        lines = [f"cause: {', '.join(self.slugs)}", *self.evidence.lines()]
        if self.alike:
            lines.append(f"all {self.layers} layers that could be compared agree with ours")
        else:
            lines.append(f"of {self.layers} layers compared, {self.first} is the first to differ")
        lines += [f"warning: {warning}" for warning in self.warnings]
        for cause in self.causes:
            more = f" and {len(cause.places) - 1} more" if len(cause.places) > 1 else ""
            lines += ["", f"{cause.slug}, at {cause.place}{more}", f"  {cause.sentence}"]
            explained = f", {cause.after:.1e} with this" if cause.slug != "unknown" else ""
            lines.append(f"  error fed with their input: {cause.before:.1e}{explained}")
        return "\n".join(map(printable, lines))  # names of theirs are somebody else's text
