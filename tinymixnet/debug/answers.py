"""The answers in a nameless dump: logits and probabilities.

No layer follows that could confirm them, so they are looked for in other ways than all other layers
(`pairing.py`).
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.layouts import layouts_of
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.parts_of_layers import ALIKE, BIAS_MISSING
from tinymixnet.debug.stored_tensors import as_layer
from tinymixnet.engine.kernels import Array, softmax


def answers_by_order(dump: Dump) -> Iterator[Pair]:
    """Yield pairs for the end of the network, where nothing follows that could confirm a pair.

    A tensor that has one number for each class, and is the only one left, may be the answer.
    """
    left = [pair.name for pair in dump.pairs if pair.unknown]
    unbiased = [
        pair.name for pair in dump.pairs if (pair.layer, pair.part) == ("logits", BIAS_MISSING)
    ]
    for layer in ("logits", "probabilities"):
        if layer in dump.theirs or layer in dump.mismatched:
            continue
        found = []
        for name in left + unbiased * (layer == "logits"):
            for layout in layouts_of(dump.headers[name].shape, dump.expected[layer])[:1]:
                x = as_layer(dump.trace[name], layout, dump.expected[layer])
                if layer == "probabilities" or not adds_up(x):
                    found.append(Pair(name, layer, "order", layout))
        if len(found) == 1:
            left = [name for name in left if name != found[0].name]
            yield found[0]


def softmax_again(dump: Dump) -> list[Pair]:
    """Return other pairs if theirs goes on with a second softmax; [] if it does not.

    Then the result of that one is their answer, and what goes into it stands for the logits.
    """
    if "probabilities" not in dump.theirs:
        return []
    expected = dump.expected["probabilities"]
    twice = softmax(dump["probabilities"].astype(np.float32, copy=False))
    for pair in dump.pairs:
        for layout in layouts_of(dump.headers[pair.name].shape, expected) if pair.unknown else ():
            if error(twice, as_layer(dump.trace[pair.name], layout, expected)).max_error <= ALIKE:
                pairs = [p for p in dump.pairs if p.layer and not p.part]
                if "logits" in dump.theirs:
                    pairs = [p for p in pairs if p.layer != "probabilities"]
                logits = {"probabilities": "logits"}
                pairs = [p._replace(layer=logits.get(p.layer, p.layer)) for p in pairs]
                return [*pairs, Pair(pair.name, "probabilities", "value", layout)]
    return []


def odd_answers(dump: Dump) -> Dump:
    """Return the dump with answers that have one class too many, if it has no others."""
    n, classes = dump.expected["logits"]
    odd: dict[str, str] = {}
    for pair in dump.pairs:
        if pair.unknown and prod(dump.headers[pair.name].shape) == n * (classes + 1):
            x = dump.trace[pair.name].reshape(n, classes + 1)
            odd.setdefault("probabilities" if adds_up(x) else "logits", pair.name)
    absent = dump.missing
    return dump.with_misshaped({layer: name for layer, name in odd.items() if layer in absent})


def adds_up(x: Array) -> bool:
    """Whether these are probabilities; x (N, classes)."""
    with np.errstate(all="ignore"):
        return bool((x >= 0).all() and np.allclose(x.sum(axis=-1), 1, atol=1e-2))
