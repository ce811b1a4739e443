"""Read the weights of a MixNet from any file of another framework.

`read_source` is the one entry: the content of the file tells its kind, a state dict is read by its
names, a graph by the order of its operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.errors import CheckpointError
from weights_tools.exporters.notes import read_notes
from weights_tools.formats.kinds import kind_of
from weights_tools.framework_errors import one_line
from weights_tools.graphs.graph import Graph
from weights_tools.graphs.match import match
from weights_tools.graphs.preprocessing import Preprocessing
from weights_tools.state_dicts import STATE_DICTS, read_state_dict

UNREADABLE = "cannot be read"


@dataclass(frozen=True)
class Source:
    """The weights of a MixNet that were found in a file."""

    kind: str  # see `formats.kinds.kind_of`
    framework: str  # who wrote the file, for people
    architecture: Architecture
    tensors: dict[str, np.ndarray]  # float32, by canonical name
    fields: Mapping[str, Any] = field(default_factory=dict)  # of `Metadata`, as the file says
    preprocessing: Preprocessing | None = None  # of a graph
    folded: bool = False  # whether a batch norm was folded
    only_size: int = 0  # the only pixels a side at which ours gives its answers; 0: any
    remarks: tuple[str, ...] = ()  # sentences that a person should read


def read_source(path: Path, variant: str | None = None) -> Source:
    """Return the weights in a file of any kind. Raises CheckpointError."""
    kind = kind_of(path)
    with one_line(path, CheckpointError, UNREADABLE):
        if kind in STATE_DICTS:
            read = read_state_dict(kind, path, variant)
            return Source(kind, *read[:4], remarks=read.remarks)
        if kind == "keras-weights":
            from weights_tools.formats.keras_weights import open_keras_weights

            architecture, tensors = open_keras_weights(path).read(variant)
            return Source(kind, "Keras", architecture, tensors)
        graph = read_graph(kind, path)
        found = match(graph, str(path), variant)
        known = read_notes(graph.notes, found.architecture.classes)
        known["epsilon"] = found.epsilon
        if found.preprocessing.inside:
            known |= {"mean": found.preprocessing.mean, "std": found.preprocessing.std}
        if size := graph.input_size:
            known.setdefault("input_size", size)
        asked = found.preprocessing
        told = asked.unknown or not asked.inside
        return Source(
            kind,
            graph.framework,
            found.architecture,
            found.tensors,
            known,
            asked,
            found.folded,
            found.only_size,
            (asked.sentence,) if told else (),
        )


def read_graph(kind: str, path: Path) -> Graph:
    """Return the graph in a file. Each reader imports its own framework."""
    if kind == "onnx":
        from weights_tools.graphs.from_onnx import read_onnx as read
    elif kind == "openvino":
        from weights_tools.graphs.from_openvino import read_openvino as read
    elif kind == "tflite":
        from weights_tools.graphs.from_tflite import read_tflite as read
    elif kind == "keras":
        from weights_tools.graphs.from_keras import read_keras as read
    else:
        from weights_tools.graphs.from_tensorflow import read_tensorflow as read
    return read(path)
