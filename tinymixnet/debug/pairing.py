"""Find out by value which of their tensors is which layer of ours.

Names and order often say little, or something else than one thinks: `bn1` is a batch norm in one
port and the activation after it in another. The values say it all. So we walk along our network and
keep a few *hypotheses* about what has been seen so far. Each of them knows which tensors feed the
next layer. For each hypothesis we compute the next layer from *their* tensors and look for the
result in the dump. The layer is then

    paired    with the tensor that is nearest to the result: the nearer, the more points
    missing   their dump does not show it: the next layer takes what we have computed
    nothing   they leave it out: the next layer takes its input once more

A wrong layer gives few points itself. But if the right tensor is taken for it, then every later
layer that is computed *from that tensor* is right again, to the last digits. With a wrong tensor,
or with none, nothing fits any more. So the sum of all points decides, and the mistake stays where
it is made: at the one layer whose tensor is far from what its input should give.

Layers without weights (activations, sums, products) give few points, as they would fit in any
block. Names and order only decide between tensors that fit equally well.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from tinymixnet.debug.answers import answers_by_order, odd_answers, softmax_again
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.evidence import MIXED_UP
from tinymixnet.debug.leftovers import look_again
from tinymixnet.debug.measure import error
from tinymixnet.debug.names.choose import MAPS
from tinymixnet.debug.pairs import Pair
from tinymixnet.debug.single_layer import Step, steps
from tinymixnet.debug.stored_tensors import StoredTensors, sample
from tinymixnet.debug.walk import FITS, UNLIKE, Hypothesis, Walk
from tinymixnet.engine.kernels import Array
from tinymixnet.model import Model

FIRST = 8  # layers of ours that are looked for to see whether all is mixed up
FEW = 4  # outputs of blocks that are looked for
SAME, OTHER = 1e-3, 1e-2  # errors of images that are the same, and that are not
FOLLOWS = 0.15  # distance at which a layer confirms the tensor that it is computed from
Sample = tuple[tuple[int, ...], Array]  # the shape of a layer, and `sample` of it


@np.errstate(all="ignore")  # NaN and infinity in a dump are results, not accidents
def pair(model: Model, pixels: Array, dump: Dump, progress: bool = False) -> Dump:
    """Return the dump with each layer paired with the tensor that its values say it is.

    pixels (N, H, W, 3) float32, 0..255, as theirs had them. Names which leave no doubt (ours, or
    those that the user gives) are binding. progress: draw a bar if standard error is a terminal.

    >>> dump = pair(model, pixels, open_dump("theirs.npz", model.architecture, 1, 224, 224))
    >>> dump.pairs[0].found, dump.pairs[0].error < 1e-5
    ('name', True)
    """
    dump.guess_scales(model.layers(pixels))
    stored = stored_tensors(model, pixels, dump)
    bound = dump.suggested if dump.certain else {}
    best = Walk(model, pixels, stored, dump.expected, dump.suggested, bound).run(progress)
    pairs = []
    for hypothesis, sure in _believable(best, model, _reliable_names(best, dump)):
        view = hypothesis.option.view if hypothesis.option else hypothesis.left_out
        if view is not None:
            how = "value" if sure else "order"
            if dump.map != "onnx" and dump.suggested.get(view.name) == hypothesis.layer:
                how = "given" if dump.certain and dump.map not in MAPS else "name"
            pairs.append(Pair(view.name, hypothesis.layer, how, view.layout))
    more = {layer: stored for stored, layers in dump.also.items() for layer in layers}
    pairs = [pair for pair in pairs if pair.layer not in more]
    pairs += [
        Pair(stored, layer, "given", dump.layouts[layer])
        for layer, stored in more.items()
        if dump.theirs.get(layer) == stored
    ]
    paired = with_parts(model, pixels, dump, pairs)
    if _has_a_false_image(model, pixels, paired):
        pairs = [pair for pair in pairs if pair.layer != "image"]
        paired = with_parts(model, pixels, dump, pairs)
    if answers := list(answers_by_order(paired)):
        paired = with_parts(model, pixels, dump, [*pairs, *answers])
    if again := softmax_again(paired):
        paired = with_parts(model, pixels, dump, again)
    return odd_answers(paired)


def _has_a_false_image(model: Model, pixels: Array, dump: Dump) -> bool:
    """Whether their normalized image is what our image gives, but not what "their image" would be.

    So their image is ours, and what looks like one is something else: the same numbers rounded to
    0..255 for a network of 8 bits, say. An image that a name leads to is left alone.
    """
    found = {pair.layer: pair.found for pair in dump.pairs}
    if found.get("image") not in ("value", "order") or "normalize" not in found:
        return False
    layers = dict(islice(model.layers(pixels), 2))
    apart = {name: error(x, dump[name]).max_error for name, x in layers.items()}
    return apart["normalize"] < SAME < OTHER < apart["image"]


def stored_tensors(model: Model, pixels: Array, dump: Dump) -> StoredTensors:
    """Return their tensors, put in order if all of them are mixed up.

    Then none is like one of our first layers, unless it is read in another order. A dump
    need not show more than what the blocks give, so the first of those count as well.
    """
    shapes = dict.fromkeys(dump.expected.values())
    first = islice(dump.expected, FIRST)
    blocks = (layer for layer in dump.expected if layer.endswith("/output"))
    layers, outputs = _samples(model, pixels, first), _samples(model, pixels, islice(blocks, FEW))

    def known(stored: StoredTensors, samples: Sequence[Sample]) -> int:
        alike = (stored.distances(shape, x).min(initial=UNLIKE) for shape, x in samples)
        return sum(distance < FITS for distance in alike)

    plain = StoredTensors(dump.trace, shapes)
    if not known(plain, [*layers, *outputs]):
        for turned in MIXED_UP.values():
            other = StoredTensors(dump.trace, shapes, turned)
            if any(known(other, some) >= max(1, len(some) / 2) for some in (layers, outputs)):
                return other
    return plain


def _samples(model: Model, pixels: Array, wanted: Iterable[str]) -> list[Sample]:
    """Return shape and sample of some layers of ours, but for those that are images."""
    rest, result = set(wanted), []
    for layer, x in model.layers(pixels):
        if layer in rest and x.shape[-1] > 3:
            result.append((x.shape, sample(x)))
        rest.discard(layer)
        if not rest:
            break
    return result


def with_parts(model: Model, pixels: Array, dump: Dump, pairs: Sequence[Pair]) -> Dump:
    """Return the dump with these pairs, their errors, and what its other tensors are."""
    paired = {pair.name for pair in pairs}
    others = [name for name in dump.trace.names if name not in paired]
    measured, explained = look_again(model, pixels, dump.with_pairs(pairs), others)
    known = {pair.name for pair in explained}
    rest = [Pair(name) for name in others if name not in known]
    pairs = [pair._replace(error=measured.get(pair.layer)) for pair in pairs]
    return dump.with_pairs([*pairs, *explained, *rest])


def _reliable_names(best: Hypothesis, dump: Dump) -> Mapping[str, str]:
    """Return what names and order say, if it is mostly what the values say."""
    agree = [
        dump.suggested[h.option.view.name] == h.layer
        for h in best.chain()
        if h.option and h.option.distance < UNLIKE and dump.suggested.get(h.option.view.name)
    ]
    return dump.suggested if dump.certain or 2 * sum(agree) >= len(agree) else {}


def _believable(
    best: Hypothesis, model: Model, names: Mapping[str, str]
) -> Iterator[tuple[Hypothesis, bool]]:
    """Yield the pairs that something speaks for, and whether that is their value.

    It is the value if the tensor is near to what its input gives, or if a later layer with weights
    follows from the tensor. Without that, a name or the order may speak for it. If nothing does,
    it is no pair: the last tensors of a port that goes on in another way than ours would be blamed
    for no reason.
    """
    steps_of = {step.layer: step for step in steps(model.architecture)}
    chain = best.chain()
    confirmed = _confirmed(chain, steps_of.values())
    believed: set[str] = set()
    for hypothesis in chain:
        layer, option = hypothesis.layer, hypothesis.option
        sound = all(name in believed for name in steps_of[layer].inputs)
        if option is None:
            sure = believe = steps_of[layer].identity or layer in confirmed
            if sound:
                believed.add(layer)
        else:
            sure = layer in confirmed or (sound and option.distance < UNLIKE)
            believe = sure or names.get(option.view.name) == layer
        if believe:
            believed.add(layer)
            yield hypothesis, sure


def _confirmed(chain: Sequence[Hypothesis], every: Iterable[Step]) -> set[str]:
    """Return the layers from which a later tensor of theirs follows, by way of weights."""
    options = {hypothesis.layer: hypothesis.option for hypothesis in chain}
    readers: dict[str, list[str]] = {}
    for step in every:
        for layer in step.inputs:
            readers.setdefault(layer, []).append(step.layer)
    confirmed: set[str] = set()
    for hypothesis in reversed(chain):
        for reader in readers.get(hypothesis.layer, []):
            later = options[reader]
            if later and later.telling:
                follows = later.distance < FOLLOWS
            elif later and reader == "probabilities":
                follows = later.distance < FITS
            else:
                follows = reader in confirmed and (later is None or later.distance < FOLLOWS)
            if follows:
                confirmed.add(hypothesis.layer)
    return confirmed
