"""Our own names of the layers, names that are nearly ours, and what all maps of names need."""

import re
from collections.abc import Sequence
from functools import lru_cache

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.engine.architecture import Architecture

LONGEST_GUESS = 100  # characters: no layer has a name as long as that


@lru_cache(1 << 15)
def plain(name: str) -> str:
    """Return a name as file names keep it: lower case, and `_` for all but letters and digits."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def words_of(name: str) -> list[str]:
    """Return the words of a name: runs of lower-case letters and digits.

    The maps of names look at words, one after the other, and use no regular expressions: a pattern
    with several wildcards can take hours if somebody chose the name to make it slow.
    """
    return plain(name).split("_")


def is_number(word: str) -> bool:
    """Whether a word is a whole number of a sensible length."""
    return word.isdecimal() and len(word) < 10


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that is most like a name, or None if none is like it."""
    import difflib  # slow to import, and only needed if a name is unknown

    if len(name) > LONGEST_GUESS:
        return None
    forms = {plain(candidate): candidate for candidate in candidates}
    close = difflib.get_close_matches(plain(name), forms, n=1, cutoff=0.6)
    return forms[close[0]] if close else None


def by_canonical(candidates: Candidates, architecture: Architecture) -> Names:
    """Pair by our own names; whatever stands before them is ignored (run1/stem/conv)."""
    layers = {plain(name): name for name in candidates.expected}
    places = {}
    for stored in candidates.shapes:
        words = words_of(stored)[-16:]
        tails = ("_".join(words[i:]) for i in range(len(words)))
        if layer := next((layers[tail] for tail in tails if tail in layers), None):
            places[stored] = layer
    return places
