"""Decide which tensor of a dump is which layer, by one of our maps or by the user's own."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from tinymixnet.debug.names.candidates import Candidates, Names
from tinymixnet.debug.names.canonical import by_canonical, nearest, plain
from tinymixnet.debug.names.order import by_order
from tinymixnet.debug.names.tensorflow import by_tensorflow
from tinymixnet.debug.names.timm import by_timm
from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import TraceError

LARGEST_MAP = 1 << 22  # bytes of a user's JSON map
MAPS: dict[str, Callable[[Candidates, Architecture], Names]] = {
    "canonical": by_canonical,
    "tensorflow": by_tensorflow,
    "timm": by_timm,
    "onnx": by_order,
}


def choose_names(
    candidates: Candidates, architecture: Architecture, names: str | os.PathLike[str] | None
) -> tuple[str, Names]:
    """The map of names to use, by what it is called, and the layer that it gives each tensor.

    names: a shipped map, a JSON file {their name: canonical name}, or None for the shipped map that
    places most. Raises TraceError for a file that is no such map.
    """
    canonical = by_canonical(candidates, architecture)
    if names is None:
        found = {n: {**canonical, **MAPS[n](candidates, architecture)} for n in MAPS if n != "onnx"}
        best = max(found, key=lambda name: _fitting(candidates, found[name]))
        if 4 * _fitting(candidates, found[best]) >= len(candidates.shapes):
            return best, found[best]  # names say more than order and shapes
        ordered = by_order(candidates, architecture)
        if _fitting(candidates, ordered) > _fitting(candidates, found[best]):
            return "onnx", ordered
        return best, found[best]
    if os.fspath(names) in MAPS:
        chosen = str(names)
        places = MAPS[chosen](candidates, architecture)
        return chosen, places if chosen == "onnx" else {**canonical, **places}
    given = _read_map(
        Path(names), candidates
    )  # comes before our own names, should both name a layer
    return os.fspath(names), {**given, **canonical, **given}


def _fitting(candidates: Candidates, places: Names) -> int:
    """How many layers a map gives a tensor that fits."""
    return len({name for stored, name in places.items() if name and candidates.fits(stored, name)})


def _read_map(path: Path, candidates: Candidates) -> Names:
    if not path.is_file():
        raise TraceError(f"{path}: neither a file nor one of {', '.join(MAPS)}")
    try:
        if path.stat().st_size > LARGEST_MAP:
            raise TraceError(f"{path}: refused, too large for a map of names")
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, dict) or not all(isinstance(v, str) for v in entries.values()):
        raise TraceError(f"{path}: expected an object of names, {{theirs: canonical}}")
    for name in entries.values():
        if name not in candidates.expected:
            guess = nearest(name, list(candidates.expected))
            raise TraceError(f"{path}: no layer {name!r}" + (f", is it {guess}?" if guess else ""))
    exact = {stored: entries[stored] for stored in candidates.shapes if stored in entries}
    plain_entries = {plain(theirs): name for theirs, name in entries.items()}
    lossy = {s: plain_entries[plain(s)] for s in candidates.shapes if plain(s) in plain_entries}
    return {**lossy, **exact}
