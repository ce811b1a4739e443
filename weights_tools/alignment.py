"""Pair two lists by what their items look like, where one of them may lack some or have more."""

from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher


def aligned(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return pairs of places (in ours, in theirs) whose items are equal, in order."""
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
