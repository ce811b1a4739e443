"""Record the intermediates of an ONNX graph."""

import os
from collections.abc import Sequence

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


def record_onnx(file: StrPath, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run an .onnx file in ONNX Runtime, unoptimised, and record every intermediate and output.

    A copy of the graph has all of them as outputs. One run computes them, and all are in memory
    until they are written: if that is too much, record some `layers` at a time. Constants (the
    initialisers, and what is computed only from them) are left out. Quantised values are recorded
    as the integers they are.
    """
    onnx = import_package("onnx", "record-onnx")
    runtime = import_package("onnxruntime", "record-onnx")
    with open_recording(path, layers) as recording, one_line(file):
        model = onnx.load(os.fspath(file))
        graph = model.graph
        constants = {constant.name for constant in graph.initializer}
        fed = named_feeds(feeds, [i.name for i in graph.input if i.name not in constants])
        nodes = [(node.input, [name for name in node.output if name]) for node in graph.node]
        names = [name for name in computed(nodes, fed) if recording.wants(name)]
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # only fatal ones: errors are raised, too
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name, value in zip(names, session.run(names, fed) if names else [], strict=True):
            recording.write(name, value)
    return len(recording.names)
