"""One look at the tensors of a dump, paired as they are: which layers are wrong, and why."""

from collections.abc import Callable, Sequence
from itertools import chain
from math import inf
from typing import NamedTuple

from tinymixnet.debug.answers import adds_up
from tinymixnet.debug.causes import Cause
from tinymixnet.debug.compare import HALF_TOLERANCE
from tinymixnet.debug.dumps import Dump
from tinymixnet.debug.evidence import FORMAT, TheirTensors
from tinymixnet.debug.limits import Limits
from tinymixnet.debug.measure import error, join_names
from tinymixnet.debug.precision import judgements
from tinymixnet.debug.runner import PartRunner
from tinymixnet.debug.search import Search, kind_of
from tinymixnet.debug.suspects.context import Suspect
from tinymixnet.engine.kernels import Array
from tinymixnet.errors import TraceError
from tinymixnet.model import Model

EQUAL = 2e-5  # largest error of a layer of a whole run that is ours but for rounding
INCONCLUSIVE = ["image", "normalize", "probabilities", "se_gate", "se_pool", "head/pool"]
TOLERANCE = 1e-4  # largest error of a whole run of a correct port, as in `compare`


class Findings(NamedTuple):
    """What a look at their tensors has found."""

    theirs: TheirTensors  # without the doubtful ones
    causes: Sequence[Cause]
    differing: Sequence[str]  # layers of a whole run that are beyond the tolerance
    doubtful: Sequence[str]  # layers that are probably paired wrongly
    search: Search | None  # None if there was nothing to look for

    @property
    def doubts(self) -> bool:
        """Whether other pairs may explain more."""
        unknown = any(cause.slug == "unknown" for cause in self.causes)
        return unknown or bool(self.doubtful or self.theirs.dump.homeless())


def look(
    model: Model,
    pixels: Array,
    dump: Dump,
    suspects: Callable[[], Sequence[Suspect]],
    progress: bool,
) -> Findings:
    """Compare their tensors with ours, and look for the mistakes behind what differs.

    suspects: called if anything differs.
    """
    theirs = TheirTensors(dump)
    causes = theirs.correct_dump_errors(model, pixels)
    if not set(theirs.names) - {"image"}:
        shapes = [f"{name} is {its}, not {due}" for name, (its, due) in dump.mismatched.items()]
        why = shapes[0] if shapes else "no name is known: --names says which is which"
        raise TraceError(f"{dump.trace.path}: no layer could be compared ({why})")
    differing, doubtful = _different(model, pixels, theirs)
    theirs.without(doubtful)
    if not differing:
        return Findings(theirs, causes, differing, doubtful, None)
    runner = PartRunner(model, pixels, theirs)
    search, found = _search(runner, theirs, suspects(), progress)
    if guesses := _wrong_guesses(dump, theirs, found):
        theirs.without(guesses)
        doubtful += guesses
        search, found = _search(runner, theirs, suspects(), progress)
        differing = [name for name in differing if name not in guesses]
    return Findings(theirs, causes + found, differing, doubtful, search)


def unpaired_end(found: Findings) -> list[Cause]:
    """Return a cause if their network may go on after the last layer that was compared.

    All that was compared is right. But tensors with the shape of later layers are there, and equal
    none of them: what they are nobody can tell, and a mistake may hide in them.
    """
    dump = found.theirs.dump
    order = list(dump.expected)
    end = max(order.index(layer) for layer in found.theirs.names)
    candidates = dump.homeless() | {dump.theirs[layer]: [layer] for layer in found.doubtful}
    later: dict[str, list[str]] = {}
    for name, layers in candidates.items():
        some = [layer for layer in layers if order.index(layer) > end]
        # After the logits anything may have their shape, but probabilities add up to one.
        if some == ["probabilities"] and not adds_up(dump.trace[name]):
            some = []
        if some:
            later[name] = some
    if not later:
        return []
    layers = sorted({*chain.from_iterable(later.values())}, key=order.index)
    sentence = (
        f"all layers up to {order[end]} are right, but {join_names([*later])} could not be paired: "
        f"nothing that ours computes is like it, and its shape is that of {join_names(layers)}. "
        "Say with --names which layer it is"
    )
    return [Cause("unknown", layers[0], tuple(layers), inf, inf, sentence)]


def _search(
    runner: PartRunner, theirs: TheirTensors, suspects: Sequence[Suspect], progress: bool
) -> tuple[Search, list[Cause]]:
    """Return a search and the causes that it finds, few digits among them."""
    rounded = theirs.rounding()
    verdicts = None
    if rounded:
        how, unrounded = FORMAT[rounded.how], rounded.others
        verdicts = judgements(runner.model, runner.pixels, theirs, how, unrounded=unrounded)
    search = Search(runner, suspects, Limits(theirs.fine, verdicts), progress)
    causes = search.run()
    if rounded:
        causes.append(search.rounding(rounded.how, rounded.places))
    return search, causes


def _wrong_guesses(dump: Dump, theirs: TheirTensors, causes: Sequence[Cause]) -> list[str]:
    """Return the layers that only the order speaks for, and that no known mistake explains.

    They were probably paired wrongly, unless they are most of what there is.
    """
    guessed = {pair.layer for pair in dump.pairs if pair.found == "order" and not pair.part}
    unknown = {place for cause in causes if cause.slug == "unknown" for place in cause.places}
    wrong = [layer for layer in theirs.names if layer in guessed and layer in unknown]
    others = set(theirs.names) - guessed - {"image"}
    return wrong if len(others) > len(wrong) else []


def _different(model: Model, pixels: Array, theirs: TheirTensors) -> tuple[list[str], list[str]]:
    """Return the layers beyond the tolerance in a whole run, or of another shape, and the doubtful.

    Every layer but the image leads to all that follow. So what stands before a layer of theirs that
    equals ours cannot be wrong, whatever it looks like: it is doubtful whether it is that layer.

    Ports store the image in different forms: as raw pixels, say, or with blue first. So differences
    before the first convolution are ignored if that agrees.
    """
    tolerance = HALF_TOLERANCE if theirs.half else TOLERANCE
    right: dict[str, bool] = {}
    equal: list[str] = []
    for name, x in model.layers(pixels):
        if name in theirs:
            apart = error(x, theirs[name]).max_error
            right[name] = apart <= tolerance
            if apart <= EQUAL and kind_of(name) not in INCONCLUSIVE:
                equal.append(name)
        elif name in theirs.dump.mismatched and name != "image":
            right[name] = False
    for name in ("image", "normalize"):
        later = [fine for other, fine in right.items() if other not in ("image", name)]
        if later and later[0]:
            right.pop(name, None)
    order = list(right)
    before = order[: order.index(equal[-1])] if equal else []
    doubtful = [name for name in before if not right[name] and name in theirs]
    differing = [name for name, fine in right.items() if not fine and name not in before]
    return differing, doubtful
