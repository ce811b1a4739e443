"""Read an ONNX file as a graph. Needs the extra `onnx`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.extras import import_extra
from weights_tools.formats.refusals import is_plain_beside
from weights_tools.graphs.graph import Graph, Node

MOST_NODES = 100_000  # the old exporter of PyTorch makes 2,000


def read_onnx(path: Path) -> Graph:
    """Return the graph of an .onnx file. Raises CheckpointError."""
    onnx = import_extra("onnx", "onnx")
    budget.check("weights_file_bytes", path.stat().st_size, "the file")
    model = onnx.load(os.fspath(path), load_external_data=False)
    graph = model.graph
    if len(graph.node) > MOST_NODES:
        raise CheckpointError(f"{len(graph.node):,} operations, at most {MOST_NODES:,} are allowed")
    constants = {tensor.name: _array(onnx, tensor, path.parent) for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = _constant(onnx, options, path.parent)
            continue
        inputs, outputs = tuple(node.input), tuple(node.output)
        if node.domain == "com.microsoft.nchwc":
            raise CheckpointError(
                "rearranged by ONNX Runtime for one kind of processor; take the file from before "
                "its optimisation, or one that was optimised less"
            )
        if node.op_type == "FusedConv":  # ONNX Runtime's, with an activation inside
            made = (f"{outputs[0]}:before its activation",)
            nodes.append(Node("Conv", node.name, inputs, made, _options("Conv", options)))
            nodes.append(Node("Activation", node.name, made, outputs))
        else:
            kept = _options(node.op_type, options)
            nodes.append(Node(node.op_type, node.name, inputs, outputs, kept))
    fed = [value for value in graph.input if value.name not in constants]
    shape = tuple(d.dim_value for d in fed[0].type.tensor_type.shape.dim) if fed else ()
    producer = " ".join(word for word in (model.producer_name, model.producer_version) if word)
    return Graph(
        f"ONNX, of {producer or 'an unknown tool'}",
        tuple(nodes),
        constants,
        tuple(value.name for value in fed),
        shape,
        {entry.key: entry.value for entry in model.metadata_props},
    )


def _options(operation: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that we look at, as `Node` has them."""
    if operation == "Conv":
        same = options.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        return {
            "axes": "OIHW",
            "groups": options.get("group", 1),
            "strides": tuple(options.get("strides", (1, 1))),
            "pads": None if same else tuple(options.get("pads", (0, 0, 0, 0))),
        }
    if operation == "Gemm":
        return {"transposed": bool(options.get("transB", 0))}
    if operation == "BatchNormalization":
        return {"epsilon": options.get("epsilon", 1e-5)}
    return options if operation != "Cast" else {}


def _constant(onnx: Any, options: dict[str, Any], folder: Path) -> np.ndarray:
    if "value" in options:
        return _array(onnx, options["value"], folder)
    [value] = options.values() or [()]  # value_float, value_ints, ...
    return np.array(value) if not isinstance(value, bytes) else np.array([])


def _array(onnx: Any, tensor: Any, folder: Path) -> np.ndarray:
    """Return the values of a tensor, also if they lie in a file beside the graph."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not is_plain_beside(folder, location):
            raise CheckpointError(
                f"tensor {tensor.name[:80]!r}: its values should be in {location[:80]!r}; expected "
                "a file in the folder of the .onnx"
            )
        return _external(onnx, tensor, entries, folder / location)
    return onnx.numpy_helper.to_array(tensor)


def _external(onnx: Any, tensor: Any, entries: dict[str, str], target: Path) -> np.ndarray:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    budget.check("weights_file_bytes", size, f"tensor {tensor.name[:80]!r}")
    start, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    with target.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    if length != size or len(data) != size:
        raise CheckpointError(
            f"tensor {tensor.name[:80]!r}: expected {size:,} bytes in {target.name}, "
            f"found {min(length, len(data)):,}"
        )
    return np.frombuffer(data, dtype).reshape(shape)
