"""Our own names of the layers, and names that are nearly ours."""

import difflib
import re
from collections.abc import Sequence

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.engine.architecture import Architecture


def plain(name: str) -> str:
    """A name without all that is lost in file names: lower case, and `_` for other characters."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate most like a name, None where none is like it."""
    forms = {plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(plain(name), forms, n=1, cutoff=0.6)
    return forms[close[0]] if close else None


def by_canonical(candidates: Candidates, architecture: Architecture) -> Names:
    """Our own names; whatever stands before them does not matter (run1/stem/conv)."""
    layers = {plain(name): name for name in candidates.expected}
    places = {}
    for stored in candidates.shapes:
        words = plain(stored).split("_")
        tails = ("_".join(words[i:]) for i in range(min(len(words), 16)))
        if found := next((layers[tail] for tail in tails if tail in layers), None):
            places[stored] = found
    return places
