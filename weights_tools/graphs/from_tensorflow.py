"""Read a frozen TensorFlow graph or a SavedModel as a graph. Needs `tensorflow`."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.extras import import_extra
from weights_tools.graphs.graph import Graph, Node
from weights_tools.graphs.tensorflow_safety import check_files, check_graph, check_saved_model

OPERATIONS = {  # TensorFlow's name of an operation -> ONNX's
    "Conv2D": "Conv",
    "DepthwiseConv2dNative": "Conv",
    "FusedBatchNorm": "BatchNormalization",
    "FusedBatchNormV2": "BatchNormalization",
    "FusedBatchNormV3": "BatchNormalization",
    "BiasAdd": "Add",
    "AddV2": "Add",
    "RealDiv": "Div",
    "ConcatV2": "Concat",
    "SplitV": "Split",
    "PadV2": "Pad",
    "ExpandDims": "Unsqueeze",
    "StridedSlice": "Slice",
    "ReverseV2": "Reverse",
    "GatherV2": "Gather",
}


def read_tensorflow(path: Path) -> Graph:
    """Return the graph of a frozen .pb or of a SavedModel's folder. Raises CheckpointError."""
    kind = "TensorFlow SavedModel" if path.is_dir() else "TensorFlow, a frozen graph"
    tf = import_tensorflow()
    return _graph(tf, graph_def(tf, path), kind)


def graph_def(tf: Any, path: Path) -> Any:
    """Return the GraphDef of a frozen .pb, or of a SavedModel's signature serving_default."""
    if not path.is_dir():
        budget.check("weights_file_bytes", path.stat().st_size, "the file")
        definition = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        check_graph(definition)
        return definition
    check_files(path)
    check_saved_model((path / "saved_model.pb").read_bytes())
    with _silent():
        saved = tf.saved_model.load(os.fspath(path))  # keeps the variables alive
        if "serving_default" not in saved.signatures:
            raise CheckpointError("has no signature serving_default; save the model with one")
        definition = _frozen(saved.signatures["serving_default"])
    check_graph(definition)
    return definition


def read_keras_function(model: Any) -> Graph:
    """Return the graph of a Keras model that is called as a function of TensorFlow."""
    tf = import_tensorflow()
    shape = [1, *(side or 64 for side in model.inputs[0].shape[1:])]
    called = tf.function(lambda x: model(x, training=False))
    concrete = called.get_concrete_function(tf.TensorSpec(shape, tf.float32))
    return _graph(tf, _frozen(concrete), "Keras")


def import_tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs a lot when it starts
    return import_extra("tensorflow", "tensorflow")


@contextmanager
def _silent() -> Iterator[None]:
    """Drop what TensorFlow logs about a SavedModel.

    It warns a lot about those of TensorFlow 1, and it prints a traceback for a damaged fingerprint,
    which it does not need.
    """
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _frozen(function: Any) -> Any:
    """Return the GraphDef of a function, with its variables as constants."""
    module = import_module("tensorflow.python.framework.convert_to_constants")
    return module.convert_variables_to_constants_v2(function).graph.as_graph_def()


def _graph(tf: Any, definition: Any, framework: str) -> Graph:
    constants: dict[str, np.ndarray] = {}
    nodes, fed, shape = [], [], ()
    for node in definition.node:
        if node.op == "Const":
            constants[node.name] = tf.make_ndarray(node.attr["value"].tensor)
        elif node.op == "Placeholder":
            fed.append(node.name)
            shape = shape or tuple(max(d.size, 0) for d in node.attr["shape"].shape.dim)
        else:
            inputs = tuple(_tensor(name) for name in node.input if not name.startswith("^"))
            if node.op == "ConcatV2":
                inputs = inputs[:-1]  # the last one is the axis
            outputs = (node.name, *(f"{node.name}:{i}" for i in range(1, _outputs(node))))
            options = _options(node)
            operation = OPERATIONS.get(node.op, node.op)
            if operation == "Slice" and _turns_channels(node, constants):
                operation = "Reverse"
            nodes.append(Node(operation, node.name, inputs, outputs, options))
    return Graph(framework, _in_order(nodes), constants, tuple(fed), shape)


def _tensor(name: str) -> str:
    return name.removesuffix(":0")


def _outputs(node: Any) -> int:
    return int(node.attr["num_split"].i) if node.op in ("Split", "SplitV") else 1


def _options(node: Any) -> dict[str, Any]:
    """Return the options that we look at, as `Node` has them."""
    if node.op in ("Conv2D", "DepthwiseConv2dNative"):
        steps = list(node.attr["strides"].list.i)
        channels_first = node.attr["data_format"].s == b"NCHW"
        return {
            "axes": "HWIO",
            "depthwise": node.op != "Conv2D",
            "strides": tuple(steps[2:] if channels_first else steps[1:3]),
            "pads": None,
        }
    if node.op == "MatMul":
        return {"transposed": node.attr["transpose_b"].b}
    if node.op.startswith("FusedBatchNorm"):
        return {"epsilon": node.attr["epsilon"].f}
    return {}


def _turns_channels(node: Any, constants: dict[str, np.ndarray]) -> bool:
    """Whether a StridedSlice is x[..., ::-1]."""
    steps = constants.get(_tensor(node.input[3]))
    return steps is not None and steps.size > 0 and int(steps[-1]) == -1


def _in_order(nodes: list[Node]) -> tuple[Node, ...]:
    """Return the nodes so that each comes after those that it needs, which a .pb need not do."""
    waiting, ordered = {node.outputs[0]: node for node in nodes}, []
    makers = {name: node.outputs[0] for node in nodes for name in node.outputs}
    state: dict[str, int] = {}  # 1: being visited, 2: done
    for first in waiting:
        stack = [first]
        while stack:
            name = stack[-1]
            if state.get(name) is None:
                state[name] = 1
                needed = [makers[i] for i in waiting[name].inputs if i in makers]
                stack += [other for other in reversed(needed) if state.get(other) is None]
            else:
                stack.pop()
                if state[name] == 1:
                    state[name] = 2
                    ordered.append(waiting[name])
    return tuple(ordered)
