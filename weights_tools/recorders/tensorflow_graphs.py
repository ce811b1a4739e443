"""Record the tensors of a TensorFlow graph."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weights_tools.graphs.from_tensorflow import graph_def
from weights_tools.recorders.recording import open_recording
from weights_tools.recorders.shared import (
    ALL,
    Feeds,
    StrPath,
    computed,
    import_package,
    loading,
    named_feeds,
    one_line,
)  # fmt: skip

# Names of the copies that TensorFlow adds at the inputs and outputs of functions.
_COPY = re.compile(r"Func/.*|(\w*PartitionedCall/)*Identity(_\d+)?")


def record_tensorflow(graph: Any, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a TensorFlow graph and record every tensor of floats with two axes or more.

    graph is a frozen .pb, the folder of a SavedModel (its serving_default) or a GraphDef. The names
    are TensorFlow's without :0. The graph runs once, as it is: TensorFlow's optimizer is off. For
    the memory see `record_onnx`.
    """
    tf = import_package("tensorflow", "record-tensorflow")
    with open_recording(path, layers) as recording, one_line(graph):
        definition, loaded = _graph_def(tf, graph), tf.Graph()
        with loaded.as_default():
            tf.import_graph_def(definition, name="")
        operations = loaded.get_operations()
        fed = named_feeds(feeds, [op.name for op in operations if op.type == "Placeholder"])
        tensors = {_name(t): t for op in operations for t in op.outputs}
        nodes = [([*map(_name, op.inputs)], [*map(_name, op.outputs)]) for op in operations]
        floats = [n for n in computed(nodes, fed) if tensors[n].dtype.is_floating]
        wanted = {name: tensors[name] for name in floats if recording.wants(name)}
        options = tf.compat.v1.ConfigProto()
        options.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.compat.v1.Session(graph=loaded, config=options) as session:
            values = session.run(wanted, {tensors[name]: value for name, value in fed.items()})
        for name, value in values.items():
            # Vectors are left out: they are the statistics that a fused batch norm returns as well.
            if value.ndim >= 2 and not _COPY.fullmatch(name):
                recording.write(name, value)
    return len(recording.names)


def _name(tensor: Any) -> str:
    return tensor.name.removesuffix(":0")


def _graph_def(tf: Any, graph: Any) -> Any:
    if not isinstance(graph, (str, os.PathLike)):
        return graph
    with loading(graph):
        return graph_def(tf, Path(graph))
