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
from tinymixnet.errors import CheckpointError, printable
from weights_tools.assemble import (
    check_weights_output,
    file_sha256,
    find_variant,
    to_float32,
)
from weights_tools.formats.checkpoint import Checkpoint, open_checkpoint
from weights_tools.formats.labels import read_labels
from weights_tools.formats.refusals import OBJECT_BASED

AVERAGE = "/ExponentialMovingAverage"


class Place(NamedTuple):
    """The part of a variable's name that does not vary between versions of TensorFlow."""

    scope: str  # stem, blocks_3, blocks_3/se, head
    kind: str  # conv2d, depthwise_conv2d, batch_normalization, dense
    tensor: str  # kernel, bias, depthwise_kernel, gamma, ...


_VARIABLE = re.compile(
    r"(?:.*/)?(?P<scope>stem|head|blocks_[0-9]{1,3}(?:/se)?)/"
    r"(?:tpu_)?(?P<kind>conv2d|depthwise_conv2d|batch_normalization|dense)(?:_(?P<number>[0-9]{1,6}))?/"
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

    checkpoint is a folder, a prefix or a .tar.gz. The values are the moving averages of all
    variables, batch norm's statistics included, or with raw the variables themselves. If only one
    of the two is there, that one is taken, and standard error says so. labels is a text file, one a
    line. Raises CheckpointError, and InputError for an output that would overwrite
    something else.
    """
    check_weights_output(output, inputs=[checkpoint, labels])
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
        tensors = {
            name: to_float32(opened.read(names[variable])) for name, variable in mapped.items()
        }
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
    """Return the SHA-256 of an archive, or for loose files that of all that the index says."""
    if path.is_file() and path.suffix in (".gz", ".tgz", ".tar"):
        return file_sha256(path)
    rows = [[v.name, v.dtype, v.shape, v.crc] for v in opened.variables.values()]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()


def choose_values(
    variables: Iterable[str], raw: bool, source: str = "checkpoint"
) -> tuple[dict[str, str], bool]:
    """Choose for each variable of the network its average or its raw value.

    Returns {name: full name in the checkpoint}, and whether these are averages. Raises
    CheckpointError when only some of the variables have an average: a mixture of both was never
    trained together.
    """
    known = set(variables)
    if "_CHECKPOINTABLE_OBJECT_GRAPH" in known:
        raise CheckpointError(f"{source}: this is {OBJECT_BASED}")
    base = {name.removesuffix(AVERAGE) for name in known}
    names = sorted(name for name in base if _VARIABLE.fullmatch(name))
    averaged = [name for name in names if name + AVERAGE in known]
    plain = [name for name in names if name in known]
    take_averages = len(averaged) == len(names) and not (raw and len(plain) == len(names))
    if names and not plain:
        print(f"{printable(source)}: holds only moving averages, taking those", file=sys.stderr)
    if names and not averaged:
        print(
            f"{printable(source)}: holds no moving averages, taking the raw values", file=sys.stderr
        )
    if take_averages:
        return {name: name + AVERAGE for name in names}, True
    if len(plain) == len(names) and (raw or not averaged):
        return {name: name for name in names}, False
    raise CheckpointError(
        f"{source}: of {len(names)} variables {len(averaged)} have a moving average and "
        f"{len(plain)} a raw value; expected all of one kind" + (", try --raw" * (not raw))
    )


def _classes(shapes: Mapping[str, tuple[int, ...]], source: str) -> int:
    """Return the number of classes, which is the length of the dense layer's bias."""
    for name, shape in shapes.items():
        if place(name) == Place("head", "dense", "bias") and len(shape) == 1 and shape[0] > 0:
            return shape[0]
    raise CheckpointError(f"{source}: expected a MixNet, found no head/dense/bias among its names")


def place(variable: str) -> Place:
    """Return the place that a checkpoint variable's name describes."""
    match = _VARIABLE.fullmatch(variable)
    assert match is not None, variable
    return Place(match["scope"], match["kind"], match["tensor"])


def place_of(variable: str) -> Place | None:
    """Return the place that a name describes; None if it is no variable of the network."""
    return place(variable) if _VARIABLE.fullmatch(variable) else None


def canonical_place(name: str) -> Place:
    """Return the place that the canonical name of a tensor describes."""
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
    """Return {canonical tensor name: checkpoint variable}, and a list of what does not match.

    Numbers in a checkpoint's names count over the whole graph and depend on TensorFlow's version.
    But within one place they have the order of the layers: expand before project, smaller kernels
    before larger. So both sides are sorted, and paired place by place.
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
        names, variables_there = ours.get(where, []), theirs.get(where, [])
        if len(names) == len(variables_there):
            mapped.update(zip(names, variables_there, strict=True))
        else:
            counts = f"expected {len(names)}, found {len(variables_there)}"
            problems.append(f"{'/'.join(where)}: {counts}")
    return mapped, problems


def _number(variable: str) -> int:
    match = _VARIABLE.fullmatch(variable)
    assert match is not None, variable
    return int(match["number"] or 0)
