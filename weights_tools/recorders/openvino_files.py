"""Record every node of an OpenVINO model."""

import os
from collections.abc import Sequence
from typing import Any

from weights_tools.recorders.recording import open_recording
from weights_tools.recorders.shared import (
    ALL,
    Feeds,
    StrPath,
    computed,
    import_package,
    named_feeds,
    one_line,
)  # fmt: skip


def record_openvino(file: StrPath, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run an OpenVINO model, .xml with its .bin beside it, and record every node's outputs.

    The names are the friendly names of the nodes; of several outputs all but the first get the
    suffix .1, .2, ... The order is that of the graph. Constants, and what is computed only from
    them, are left out. Sums are kept in float32, also where the processor has something coarser.
    For the memory see `record_onnx`.
    """
    openvino = import_package("openvino", "record-openvino")
    with open_recording(path, layers) as recording, one_line(file):
        core = openvino.Core()
        model = core.read_model(os.fspath(file))
        inputs = {_input_name(port): port for port in model.inputs}
        fed = named_feeds(feeds, list(inputs))
        ports, nodes = {}, []
        for node in model.get_ordered_ops():
            outputs = {_name(output): output for output in node.outputs()}
            if node.get_type_name() not in ("Result", "Parameter"):
                ports.update(outputs)
                sources = [_name(port.get_source_output()) for port in node.inputs()]
                nodes.append((sources, list(outputs)))
        images = [_name(port) for port in model.inputs]
        names = [name for name in computed(nodes, images) if recording.wants(name)]
        if names:
            watched = openvino.Model([ports[name] for name in names], model.get_parameters())
            compiled = core.compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            values = compiled([fed[name] for name in inputs])
            for i, name in enumerate(names):
                recording.write(name, values[i])
    return len(recording.names)


def _name(output: Any) -> str:
    """Return the name of a node's output, a port of its own or the one that feeds another."""
    index = output.get_index()
    return output.get_node().get_friendly_name() + (f".{index}" if index else "")


def _input_name(port: Any) -> str:
    return min(port.get_names(), default=port.get_node().get_friendly_name())
