"""From the official TensorFlow checkpoint to a weights file."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights, shape_problems
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import CheckpointError
from weights_tools.formats.tf_checkpoint import Checkpoint, open_checkpoint
from weights_tools.labels import read_labels
from weights_tools.variants import find_variant

AVERAGE = "/ExponentialMovingAverage"


class Place(NamedTuple):
    """Where in the graph a variable stands, without the numbers that vary between versions."""

    scope: str  # stem, blocks_3, blocks_3/se, head
    kind: str  # conv2d, depthwise_conv2d, batch_normalization, dense
    tensor: str  # kernel, bias, depthwise_kernel, gamma, ...


_VARIABLE = re.compile(
    r"(?:.*/)?(?P<scope>stem|head|blocks_\d+(?:/se)?)/"
    r"(?:tpu_)?(?P<kind>conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(?P<number>\d+))?/"
    r"(?P<tensor>kernel|bias|depthwise_kernel|gamma|beta|moving_mean|moving_variance)"
)
_CANONICAL = {  # the last word of a canonical layer name: kind in the checkpoint
    "conv": "conv2d",
    "bn": "batch_normalization",
    "reduce": "conv2d",
    "expand": "conv2d",
    "logits": "dense",
}


def extract(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    variant: str | None = None,
    raw: bool = False,
    float16: bool = False,
    labels: str | os.PathLike[str] | None = None,
    licence: str = "",
    accuracy: str = "",
) -> Weights:
    """Write the weights file of a TensorFlow checkpoint and return what is in it.

    checkpoint is a folder, a prefix or a .tar.gz. Taken are the moving averages of all variables,
    batch norm's statistics included, unless raw; where only one of the two is there, that one, and
    standard error says so. labels is a text file, one a line. Raises CheckpointError.
    """
    with open_checkpoint(checkpoint) as opened:
        names, averages = choose_values(opened.variables, raw, str(checkpoint))
        shapes = {name: opened.variables[full].shape for name, full in names.items()}
        classes = _classes(shapes, str(checkpoint))

        def problems(architecture: Architecture) -> list[str]:
            mapped, unmatched = map_names(shapes, architecture)
            return unmatched + shape_problems(
                {n: shapes[v] for n, v in mapped.items()}, architecture
            )

        architecture = find_variant(str(checkpoint), classes, problems, variant)
        mapped, _ = map_names(shapes, architecture)
        tensors = {name: opened.read(names[variable]) for name, variable in mapped.items()}
        metadata = Metadata(
            labels=read_labels(labels, classes),
            averages=averages,
            name=architecture.variant,
            source=Path(checkpoint).resolve().name,
            source_sha256=checksum(Path(checkpoint), opened),
            licence=licence,
            accuracy=accuracy,
        )
    weights = Weights(architecture, tensors, metadata)
    write_weights(output, weights, float16)
    return weights


def checksum(path: Path, opened: Checkpoint) -> str:
    """SHA-256 of an archive; of loose files that of all names, types, shapes and checksums."""
    if path.is_file() and path.suffix in (".gz", ".tgz", ".tar"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    rows = [[v.name, v.dtype, v.shape, v.crc] for v in opened.variables.values()]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def choose_values(
    variables: Iterable[str], raw: bool, source: str = "checkpoint"
) -> tuple[dict[str, str], bool]:
    """Of each network variable the average or the raw value: ({name: full name}, averages taken).

    Raises CheckpointError when only some of the variables have an average: a network half of each
    was never trained.
    """
    known = set(variables)
    base = {name.removesuffix(AVERAGE) for name in known}
    names = sorted(name for name in base if _VARIABLE.fullmatch(name))
    averaged = [name for name in names if name + AVERAGE in known]
    plain = [name for name in names if name in known]
    take_averages = len(averaged) == len(names) and not (raw and len(plain) == len(names))
    if names and not plain:
        print(f"{source}: holds only moving averages, taking those", file=sys.stderr)
    if names and not averaged:
        print(f"{source}: holds no moving averages, taking the raw values", file=sys.stderr)
    if take_averages:
        return {name: name + AVERAGE for name in names}, True
    if len(plain) == len(names) and (raw or not averaged):
        return {name: name for name in names}, False
    raise CheckpointError(
        f"{source}: of {len(names)} variables {len(averaged)} have a moving average and "
        f"{len(plain)} a raw value; expected all of one kind" + (", try --raw" * (not raw))
    )


def _classes(shapes: Mapping[str, tuple[int, ...]], source: str) -> int:
    """How many classes the checkpoint's dense layer tells apart."""
    for name, shape in shapes.items():
        if place(name) == Place("head", "dense", "bias") and len(shape) == 1 and shape[0] > 0:
            return shape[0]
    raise CheckpointError(f"{source}: expected a MixNet, found no head/dense/bias among its names")


def place(variable: str) -> Place:
    """The place of a checkpoint variable's name."""
    match = _VARIABLE.fullmatch(variable)
    assert match is not None, variable
    return Place(match["scope"], match["kind"], match["tensor"])


def canonical_place(name: str) -> Place:
    """The same place, as the canonical name of a tensor tells it."""
    layer, tensor = name.rsplit("/", 1)
    scope, _, last = layer.rpartition("/")
    if last.startswith("se_"):
        scope += "/se"
    if last == "depthwise_conv":
        return Place(scope, "depthwise_conv2d", "depthwise_kernel")
    kind = _CANONICAL[last.split("_")[-1]]
    return Place(scope or "head", kind, re.sub(r"_\d+$", "", tensor))


def map_names(
    variables: Iterable[str], architecture: Architecture
) -> tuple[dict[str, str], list[str]]:
    """Canonical tensor name -> checkpoint variable, and what does not match.

    Numbers in a checkpoint's names count over the whole graph and depend on TensorFlow's version,
    but within one place their order is that of the layers: expand before project, smaller kernels
    before larger. So both sides are put in order and paired, place by place.
    """
    theirs: dict[Place, list[str]] = {}
    for variable in sorted(variables, key=_number):
        theirs.setdefault(place(variable), []).append(variable)
    ours: dict[Place, list[str]] = {}
    for name in architecture.tensor_shapes():
        ours.setdefault(canonical_place(name), []).append(name)

    mapped: dict[str, str] = {}
    problems = []
    for where in ours | theirs:
        names, found = ours.get(where, []), theirs.get(where, [])
        if len(names) == len(found):
            mapped.update(zip(names, found, strict=True))
        else:
            problems.append(f"{'/'.join(where)}: expected {len(names)}, found {len(found)}")
    return mapped, problems


def _number(variable: str) -> int:
    match = _VARIABLE.fullmatch(variable)
    assert match is not None, variable
    return int(match["number"] or 0)
