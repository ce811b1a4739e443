"""The game of `tinymixnet break`: a dump of our own network with mistakes in it, for you to find.

The mistakes are drawn from the same catalogue that `diagnose` tries (`suspects/`). A draw becomes
an exercise only if each of its mistakes shows in the dump, and if `diagnose` names exactly these
mistakes. So every exercise has a solution, and `diagnose` is one.

The dump does not say what is wrong with it. Its manifest has a hash of each mistake's name, which
is enough to judge a guess. Who wants to cheat can hash all names; who only looks is told nothing.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.debug.checks import expect
from tinymixnet.debug.diagnose import diagnose, resized
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.manifest import image_hash, typed_field, typed_list
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.canonical import nearest
from tinymixnet.debug.names.timm import timm_names
from tinymixnet.debug.runner import Change, run_with
from tinymixnet.debug.search import kind_of
from tinymixnet.debug.suspects import SUSPECTS
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.debug.traces import check_dump, open_trace, write_dump
from tinymixnet.engine.images import Source
from tinymixnet.engine.kernels import Array
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.errors import InputError, TraceError, short_repr
from tinymixnet.model import Model

MADE_BY = "tinymixnet break"
SHOWS = 1e-3  # error that each mistake makes in some layer of the dump, ten times the tolerance
MOST_DRAWS = 200  # that are tried until one is an exercise
LARGEST_SECRET = 999_999_999
FROM_DATA = ("other-resize", "raw-weights")  # mistakes that are not in the catalogue without data


class Level(NamedTuple):
    """How hard an exercise is."""

    mistakes: int
    answer: str  # "changes": the best label is another one; "stays"; or "" for either
    one_place: bool  # whether a mistake is in one layer only, not in all that can have it
    port: bool  # whether the dump is as from PyTorch: timm's names and modules, NCHW
    share: float  # of the layers that the dump has; blocks' outputs and the logits always


LEVELS = {
    1: Level(1, "changes", one_place=False, port=False, share=1),
    2: Level(1, "", one_place=True, port=False, share=1),
    3: Level(2, "", one_place=False, port=True, share=1),
    4: Level(2, "stays", one_place=True, port=True, share=1),
    5: Level(3, "stays", one_place=True, port=True, share=0.6),
}


class Exercise(NamedTuple):
    """What may be told of an exercise, and what is in its dump's manifest."""

    secret: int
    level: int
    mistakes: int  # how many there are
    image: str  # its name
    layers: int  # how many the dump has


class Judgement(NamedTuple):
    """What is right and wrong in a guess."""

    found: list[str]  # names that were guessed, and are in the dump
    wrong: list[str]  # names that were guessed, and are not
    left: int  # how many mistakes nobody has named

    @property
    def right(self) -> bool:
        """Whether all mistakes were named, and no others."""
        return not self.wrong and not self.left

    def text(self) -> str:
        """Return the judgement in one line."""
        parts = []
        if self.found:
            parts.append(f"right: {', '.join(self.found)}")
        if self.wrong:
            parts.append(f"wrong: {', '.join(self.wrong)}")
        if self.left:
            parts.append(f"{self.left} mistake{'s' * (self.left > 1)} still to find")
        return "; ".join(parts)


# -- making an exercise ---------------------------------------------------------------------------


@np.errstate(all="ignore")  # a mistake may well make NaN of everything
def make_exercise(
    model: Model,
    pixels: Array,
    path: str | os.PathLike[str],
    secret: int,
    level: int = 1,
    photo: "Source | None" = None,
    image_name: str = "",
    inputs: Iterable[Any] = (),
    force: bool = False,
) -> Exercise:
    """Write a dump of the model's run on `pixels` with mistakes in it, and say what may be told.

    pixels (N, H, W, 3), 0..255. secret: the same one gives the same mistakes, with the same model,
    pixels and version of this package. photo: the file of the pixels, so that they can be resized
    wrongly, too. inputs and force as in `write_trace`. Raises InputError for a secret or a level
    that does not exist, and TraceError for what cannot be written or if no draw fits this model.

    >>> make_exercise(model, pixels, "puzzle", secret=7, level=2).mistakes
    1
    """
    expect(model, Model, "model")
    pixels = check_pixels(pixels).astype(np.float32)
    _check_number("secret", secret, 0, LARGEST_SECRET)
    _check_number("level", level, min(LEVELS), max(LEVELS))
    expect(image_name, str, "image_name")
    check_dump(path, MADE_BY, inputs, force)
    changes, names = _find_exercise(model, pixels, secret, level, photo)
    slugs = {change.suspect.slug for change in changes}
    notes = {
        "secret": secret,
        "level": level,
        "image": image_name,
        "image_sha256": image_hash(pixels),
        "mistakes": sorted(_hash(secret, level, slug) for slug in slugs),
    }
    layers = _dumped(model, pixels, changes, names, LEVELS[level].port)
    write_dump(path, layers, MADE_BY, inputs, force, notes)
    return Exercise(secret, level, len(slugs), image_name, len(names))


def _find_exercise(
    model: Model, pixels: Array, secret: int, number: int, photo: "Source | None"
) -> tuple[list[Change], dict[str, str]]:
    """Draw until there is an exercise: its mistakes, and the layers of its dump with their names.

    number: of the level.
    """
    level = LEVELS[number]
    suspects = [*SUSPECTS, *(resized(model, photo, pixels) if photo is not None else ())]
    right = model(pixels).argmax(axis=-1)
    for attempt in range(MOST_DRAWS):
        rng = np.random.default_rng([secret, number, attempt])
        changes = _draw(rng, level, suspects, model)
        names = _names(rng, level, model)
        answer = _answer(model, pixels, changes)
        if answer is None or level.answer == ("changes" if (answer == right).all() else "stays"):
            continue
        if _all_show(model, pixels, changes, names) and _is_solved(
            model, pixels, changes, names, level.port, photo
        ):
            return changes, names
    raise TraceError(
        f"no exercise of level {number} with the secret {secret} was found for this network and "
        "this image; try another secret, or a lower level"
    )


def _check_number(what: str, number: object, least: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        wanted = f"expected a whole number from {least} to {most:,}"
        raise InputError(f"{what}: {wanted}, found {short_repr(number)}")


def _draw(
    rng: np.random.Generator, level: Level, suspects: Sequence[Suspect], model: Model
) -> list[Change]:
    """Draw mistakes of different names, and the layers that have them."""
    by_slug: dict[str, list[Suspect]] = {}
    for suspect in suspects:
        by_slug.setdefault(suspect.slug, []).append(suspect)
    slugs = list(by_slug)
    changes = []
    for number in rng.permutation(len(slugs))[: level.mistakes]:
        variants = by_slug[slugs[number]]
        suspect = variants[rng.integers(len(variants))]
        kinds = suspect.kinds.split()
        places = [layer for layer in _layers(model) if kind_of(layer) in kinds]
        if level.one_place and places:
            places = [places[rng.integers(len(places))]]
        changes.append(Change(suspect, tuple(places)))
    return changes


def _layers(model: Model) -> list[str]:
    return [layer for part in model.architecture.parts() for layer in part.layers]


def _names(rng: np.random.Generator, level: Level, model: Model) -> dict[str, str]:
    """Return the layers that the dump has, each with its name there."""
    names = {layer: layer for layer in _layers(model)}
    if level.port:
        names = timm_names(model.architecture)
    drawn = rng.random(len(names)) < level.share
    return {
        layer: name
        for (layer, name), shown in zip(names.items(), drawn, strict=True)
        if shown or layer.endswith("/output") or layer == "logits"
    }


def _dumped(
    model: Model, pixels: Array, changes: Sequence[Change], names: Mapping[str, str], port: bool
) -> Iterator[tuple[str, Array]]:
    """Yield what the dump holds: (name in the dump, tensor in its layout)."""
    for layer, x in run_with(model, pixels, changes):
        if layer in names:
            yield names[layer], x.transpose(0, 3, 1, 2) if port and x.ndim == 4 else x


def _answer(model: Model, pixels: Array, changes: Sequence[Change]) -> Array | None:
    """Return the best class of each image (N,), or None if a layer has NaN, which is no riddle."""
    for _, x in run_with(model, pixels, changes):
        if not np.isfinite(x).all():
            return None
    return np.asarray(x.argmax(axis=-1))


def _all_show(
    model: Model, pixels: Array, changes: Sequence[Change], names: Mapping[str, str]
) -> bool:
    """Whether each mistake changes a layer of the dump, beside all others."""
    for change in changes:
        others = [other for other in changes if other is not change]
        runs = run_with(model, pixels, changes), run_with(model, pixels, others)
        pairs = (pair for pair in zip(*runs, strict=True) if pair[0][0] in names)
        if not any(_differ(x, other) for (_, x), (_, other) in pairs):
            return False
    return True


def _differ(x: Array, other: Array) -> bool:
    return x.shape != other.shape or error(other, x).max_error > SHOWS


def _is_solved(
    model: Model,
    pixels: Array,
    changes: Sequence[Change],
    names: Mapping[str, str],
    port: bool,
    photo: "Source | None",
) -> bool:
    """Whether `diagnose` names exactly these mistakes.

    Pairing by value takes most of its time. What it does not name when it is told the names of the
    layers it will not name without them either, so that is tried first.
    """
    n, h, w, _ = pixels.shape
    due = sorted({change.suspect.slug for change in changes})
    with tempfile.TemporaryDirectory(prefix="tinymixnet-") as folder:
        write_dump(f"{folder}/dump", _dumped(model, pixels, changes, names, port), MADE_BY)
        for told in ("timm", None) if port else (None,):
            dump = open_dump(f"{folder}/dump", model.architecture, n, h, w, told)
            if sorted(diagnose(model, pixels, dump, photo=photo).slugs) != due:
                return False
    return True


def _hash(secret: int, level: int, slug: str) -> str:
    return sha256(f"tinymixnet break {secret} {level} {slug}".encode()).hexdigest()


# -- judging a guess ------------------------------------------------------------------------------


def judge(path: str | os.PathLike[str], guess: str) -> Judgement:
    """Return what is right in a guess: the name of a mistake, or several, separated by commas.

    Needs only the dump. Raises InputError for a name that no mistake has, and TraceError for a dump
    that is no exercise.

    >>> judge("puzzle", "bgr, bn-epsilon").right
    False
    """
    names = [name.strip().lower() for name in expect(guess, str, "guess").split(",")]
    guesses = list(dict.fromkeys(name for name in names if name))
    known = known_mistakes()
    every = f"it is one of {', '.join(known)}"
    if not guesses:
        raise InputError(f"expected the name of a mistake, found none; {every}")
    for name in guesses:
        if name not in known:
            near = nearest(name, known)
            meant = f"did you mean {near}?" if near else every
            raise InputError(f"no mistake is called {short_repr(name)}: {meant}")
    secret, level, hashes = _read(path)
    found = [name for name in guesses if _hash(secret, level, name) in hashes]
    wrong = [name for name in guesses if name not in found]
    return Judgement(found, wrong, len(hashes) - len(found))


def known_mistakes() -> list[str]:
    """Return the names of all mistakes that `diagnose` knows, in order of the alphabet."""
    return sorted({suspect.slug for suspect in SUSPECTS}.union(FROM_DATA))


def _read(path: str | os.PathLike[str]) -> tuple[int, int, set[str]]:
    """Return secret, level and the hashes of the mistakes of an exercise."""
    trace = open_trace(path)
    if not trace.exercise:
        raise TraceError(f"{trace.path}: no exercise; `tinymixnet break -o DUMP` makes one")
    try:
        hashes = set(typed_list(trace.exercise, "mistakes", str))
        if not hashes:
            raise TraceError("mistakes: expected at least one, found none")
        secret, level = (typed_field(trace.exercise, key, int) for key in ("secret", "level"))
    except TraceError as error:
        raise TraceError(f"{trace.path}: the manifest's exercise is damaged, {error}") from None
    return secret, level, hashes
