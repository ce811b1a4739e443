"""What the names of the classes in a set of photos mean: `understand`.

Somebody's folders may be called n02123045 (a WordNet id), 281 (a number) or "tabby" (a label). Only
one of these is right for a whole set, and which one is always said.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import InputError, printable
from tinymixnet.evaluate.imagenet import imagenet_classes, known_wordnet_ids
from tinymixnet.evaluate.words import listed

WORDNET_ID = re.compile(r"n[0-9]{8}")
NUMBER = re.compile(r"[0-9]{1,6}")
WORDNET, NUMBERS, IMAGENET_NUMBERS, LABELS = (
    "WordNet ids",
    "class numbers of the weights",
    "class numbers of ImageNet's 1000",
    "label names",
)


class Understood(NamedTuple):
    """How names were understood, and the number of the class of each; None: not known."""

    kind: str
    number_of: dict[str, int | None]

    @property
    def unknown(self) -> list[str]:
        return sorted(name for name, number in self.number_of.items() if number is None)


def understand(
    names: Collection[str], metadata: Metadata, labels: Sequence[str], numbers_only: bool = False
) -> Understood:
    """Return which class of the weights each name of a class means.

    All names are of one kind. They are WordNet ids or numbers if more than half of them look like
    it, else labels. numbers_only: they are class numbers of the weights.

    Raises InputError when a name may mean two classes, when numbers are none of the weights', and
    when not one of the names is known.
    """
    ids = [name for name in names if WORDNET_ID.fullmatch(name)]
    numbers = [name for name in names if NUMBER.fullmatch(name)]
    if numbers_only or 2 * len(numbers) > len(names):
        understood = _as_numbers(names, metadata, len(labels), numbers_only)
    elif 2 * len(ids) > len(names):
        understood = _as_wordnet_ids(names, metadata, labels)
    else:
        understood = _as_labels(names, labels)
    if names and len(understood.unknown) == len(understood.number_of):
        raise InputError(
            f"none of {len(names):,} classes ({listed(sorted(names))}) is one of the weights' "
            f"{len(labels):,}; they were taken for {understood.kind}, expected WordNet ids "
            "(n02123045), numbers from 0, or labels"
        )
    return understood


def _as_wordnet_ids(
    names: Collection[str], metadata: Metadata, labels: Sequence[str]
) -> Understood:
    known = known_wordnet_ids(metadata, labels)
    if not known:
        raise InputError(
            f"the classes are WordNet ids ({listed(sorted(names))}), which these weights do not "
            "know; name the classes by their labels or numbers"
        )
    return Understood(WORDNET, _looked_up(names, {wnid: i for i, wnid in enumerate(known)}))


def _as_numbers(
    names: Collection[str], metadata: Metadata, classes: int, own_only: bool
) -> Understood:
    """Numbers below the number of classes are the weights' own.

    If some are higher, they are all ImageNet's, of weights that say which of ImageNet's classes
    they know. The numbers from 1 to the number of classes, all of them, count from 1: an error.
    """
    values = {name: int(name) for name in names if NUMBER.fullmatch(name)}
    highest = max(values.values(), default=0)
    if highest < classes:
        return Understood(NUMBERS, {name: values.get(name) for name in names})
    of_imagenet = {number: i for i, number in enumerate(metadata.imagenet_indices)}
    all_from_one = {*values.values()} == {*range(1, classes + 1)}
    most = len(imagenet_classes())
    if own_only or not of_imagenet or highest >= most or all_from_one:
        expected = f"numbers from 0 to {classes - 1}"
        if of_imagenet and not own_only and classes < most:
            expected += f", or ImageNet's from 0 to {most - 1}"
        hint = ""
        if highest in (classes, most) and 0 not in values.values():
            hint = "; do yours begin with 1?"
        raise InputError(f"classes: expected {expected}, found {highest}{hint}")
    numbers = {name: of_imagenet.get(values.get(name, -1)) for name in names}
    return Understood(IMAGENET_NUMBERS, numbers)


def _as_labels(names: Collection[str], labels: Sequence[str]) -> Understood:
    """Labels count as equal whatever their case and whatever stands between their words.

    A name that is spelt exactly as one label is that one: ImageNet has "Cardigan", a dog, and
    "cardigan". A part in brackets, as in "crane (bird)", may be missing where nothing else is
    called the same: neither another class of the weights, nor another of ImageNet's. Of several
    names between commas, as in "goldfish, Carassius auratus", the first is the label.
    """
    imagenet = [c.label for c in imagenet_classes()]
    others = imagenet if set(labels) <= set(imagenet) else []
    own: dict[tuple[Any, str], list[int]] = {}  # (a spelling, a label in it): the weights' classes
    meant: dict[str, set[str]] = {}  # a label in its loosest spelling: all that it may mean
    for i, label in enumerate(labels):
        for spelling in (_spelt, _simplified):
            own.setdefault((spelling, spelling(label)), []).append(i)
    for label in {*labels, *others}:
        for name in {_simplified(label), _without_brackets(label)}:
            meant.setdefault(name, set()).add(label)

    def number(name: str) -> int | None:
        for spelling in (_spelt, _simplified):
            if found := own.get((spelling, spelling(name))):
                return _only(name, found, [f"class {i}" for i in found])
        candidates = sorted(meant.get(_simplified(name), ()))
        if not candidates and "," in name:
            return number(name.split(",")[0])
        label = _only(name, candidates, candidates) if candidates else ""
        return labels.index(label) if label in labels else None

    return Understood(LABELS, {name: number(name) for name in names})


def _only(name: str, found: Sequence[Any], called: Sequence[str]) -> Any:
    """Return the only class that a name may mean."""
    if len(found) > 1:
        raise InputError(
            f"two classes are called {printable(name)}: {listed(called)}; say which one, by "
            "its whole label, its WordNet id or its number"
        )
    return found[0]


def _spelt(label: str) -> str:
    """Return a label with single spaces, and with a space for each _."""
    return " ".join(unicodedata.normalize("NFKC", label).replace("_", " ").split())


def _simplified(label: str) -> str:
    """Return a label's words in small letters: "Potter's_wheel" is "potters wheel"."""
    letters = re.sub("['\u2019]", "", _spelt(label).casefold())
    return " ".join(re.findall(r"\w+", letters)) or letters


def _without_brackets(label: str) -> str:
    return _simplified(re.sub(r"\([^()]*\)", " ", label))


def _looked_up(names: Collection[str], numbers: Mapping[str, int]) -> dict[str, int | None]:
    return {name: numbers.get(name) for name in names}
