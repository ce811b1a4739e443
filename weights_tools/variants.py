"""Which MixNet a set of foreign tensors belongs to."""

from collections.abc import Callable

from tinymixnet.engine.architecture import VARIANTS, Architecture, mixnet
from tinymixnet.engine.weights import join_problems
from tinymixnet.errors import CheckpointError


def find_variant(
    source: str, classes: int, problems: Callable[[Architecture], list[str]], variant: str | None
) -> Architecture:
    """The variant, of all or only the one asked for, with which nothing is wrong.

    problems lists what is wrong with an architecture. Raises CheckpointError with the list of the
    nearest variant when each has some.
    """
    candidates = [mixnet(name, classes) for name in ([variant] if variant else VARIANTS)]
    found = [(problems(architecture), architecture) for architecture in candidates]
    wrong, nearest = min(found, key=lambda pair: len(pair[0]))
    if wrong:
        asked = "it is not" if variant else "no known network; nearest is"
        raise CheckpointError(f"{source}: {asked} {nearest.variant}, {join_problems(wrong)}")
    return nearest
