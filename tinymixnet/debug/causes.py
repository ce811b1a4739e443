"""What a diagnosis consists of: causes, each a mistake by name, with the evidence for it."""

from typing import Any, NamedTuple

import numpy as np


class Cause(NamedTuple):
    """A mistake that explains what they computed, where it shows and how well it explains it."""

    slug: str
    place: str  # the first layer
    places: tuple[str, ...]
    before: float  # error at the layer where it first shows, fed their input
    after: float  # the same, with the mistake made here as well
    sentence: str


class Diagnosis(NamedTuple):
    """What `diagnose` found."""

    causes: tuple[Cause, ...]  # in the network's order; none for a correct port
    layers: int  # compared
    first: str | None  # the first of them that differs

    @property
    def alike(self) -> bool:
        return not self.causes

    @property
    def slugs(self) -> list[str]:
        return [cause.slug for cause in self.causes] or ["none"]

    def as_json(self) -> dict[str, Any]:
        causes = [
            {**cause._asdict(), "before": _number(cause.before), "after": _number(cause.after)}
            for cause in self.causes
        ]
        return {"alike": self.alike, "layers": self.layers, "first": self.first, "causes": causes}

    def text(self) -> str:
        """The first line is for programs, the rest for people."""
        lines = [f"cause: {', '.join(self.slugs)}"]
        if self.alike:
            lines.append(f"all {self.layers} layers that could be compared agree with ours")
        else:
            lines.append(f"of {self.layers} layers compared, {self.first} is the first to differ")
        for cause in self.causes:
            more = f" and {len(cause.places) - 1} more" if len(cause.places) > 1 else ""
            lines += ["", f"{cause.slug}, at {cause.place}{more}", f"  {cause.sentence}"]
            explained = f", {cause.after:.1e} with this" if cause.slug != "unknown" else ""
            lines.append(f"  error fed with their input: {cause.before:.1e}{explained}")
        return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no infinity
