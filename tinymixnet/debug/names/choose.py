"""Choose the map of names for a dump: one of ours, or the user's own."""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import by_canonical, nearest, plain
from tinymixnet.debug.names.order import by_order
from tinymixnet.debug.names.tensorflow import by_tensorflow
from tinymixnet.debug.names.timm import by_timm
from tinymixnet.debug.strict_json import LARGEST_JSON, read_json
from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import InputError, TraceError

MAPS: dict[str, Callable[[Candidates, Architecture], Names]] = {
    "canonical": by_canonical,
    "tensorflow": by_tensorflow,
    "timm": by_timm,
    "onnx": by_order,
}


class Chosen(NamedTuple):
    """The names that are used for a dump."""

    map: str  # the name of the map
    places: Names
    # Stored name -> more layers that it is, where theirs leaves out what is between them.
    also: Mapping[str, Sequence[str]] = MappingProxyType({})


def choose_names(
    candidates: Candidates, architecture: Architecture, names: str | os.PathLike[str] | None
) -> Chosen:
    """Return the map that is used, and the layer that it gives each tensor.

    names: a shipped map, a JSON file {their name: canonical name}, or None for the shipped map that
    places most tensors. Raises TraceError for a file that is no such map.
    """
    canonical = by_canonical(candidates, architecture)
    if names is None:
        maps = {n: {**canonical, **MAPS[n](candidates, architecture)} for n in MAPS if n != "onnx"}
        placed = {name: _count_placed(candidates, places) for name, places in maps.items()}
        best = max(placed, key=lambda name: placed[name])
        if 4 * placed[best] < len(candidates.shapes):  # these names say little: try the order
            ordered = by_order(candidates, architecture)
            if _count_placed(candidates, ordered) > placed[best]:
                return Chosen("onnx", ordered)
        return Chosen(best, maps[best])
    if not isinstance(names, (str, os.PathLike)):
        raise InputError(f"names: expected a path or a name, found {type(names).__name__}")
    if os.fspath(names) in MAPS:
        chosen = str(names)
        places = MAPS[chosen](candidates, architecture)
        return Chosen(chosen, places if chosen == "onnx" else {**canonical, **places})
    entries = _read_map(Path(names), candidates)
    given = {stored: layers[0] for stored, layers in entries.items()}
    also = {stored: layers[1:] for stored, layers in entries.items() if layers[1:]}
    # The user's map comes first, because of two tensors for one layer the first one is taken.
    return Chosen(os.fspath(names), {**given, **canonical, **given}, also)


def _count_placed(candidates: Candidates, places: Names) -> int:
    """Return how many layers get a tensor that fits."""
    return len({name for stored, name in places.items() if name and candidates.fits(stored, name)})


def _read_map(path: Path, candidates: Candidates) -> dict[str, list[str]]:
    """Return the layers of each tensor that a user's map names, mostly one.

    A tensor whose name is not in it may match one as file names keep it.
    """
    try:
        if not path.is_file():
            raise TraceError(f"neither a file nor one of {', '.join(MAPS)}")
        if path.stat().st_size > LARGEST_JSON:
            raise TraceError("refused, too large for a map of names")
        entries = read_json(path.read_bytes())
        if not isinstance(entries, dict):
            raise TraceError("expected an object of names, {theirs: canonical}")
        entries = {theirs: _layers_of(entry) for theirs, entry in entries.items()}
        for name in chain.from_iterable(entries.values()):
            if name and name not in candidates.expected:
                guess = nearest(name, list(candidates.expected))
                hint = f", is it {guess}?" if guess else ""
                raise TraceError(f"no layer {name[:80]!r}{hint}")
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    except (TraceError, ValueError) as error:  # ValueError: a path with a null byte
        raise TraceError(f"{path}: {error}") from None
    exact = {stored: entries[stored] for stored in candidates.shapes if stored in entries}
    plain_entries = {plain(theirs): name for theirs, name in entries.items()}
    lossy = {s: plain_entries[plain(s)] for s in candidates.shapes if plain(s) in plain_entries}
    return {**lossy, **exact}


def _layers_of(entry: object) -> list[str]:
    """Return the layers of an entry: a name, or an object as --pairs prints it."""
    layers = [entry]
    if isinstance(entry, dict):
        also = entry.get("also", [])
        layers = [entry.get("layer"), *(also if isinstance(also, list) else [None])]
    names = [layer for layer in layers if isinstance(layer, str)]
    if len(names) < len(layers):
        raise TraceError("expected an object of names, {theirs: canonical}, or what --pairs prints")
    return names
