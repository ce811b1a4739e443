"""Read a TensorFlow Lite model as a graph. Needs `tensorflow`, which knows the format."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.graphs.from_tensorflow import import_tensorflow
from weights_tools.graphs.graph import Graph, Node

OPERATIONS = {  # TensorFlow Lite's name of an operation -> ONNX's
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "FULLY_CONNECTED": "Gemm",
    "ADD": "Add",
    "SUB": "Sub",
    "MUL": "Mul",
    "DIV": "Div",
    "CONCATENATION": "Concat",
    "SPLIT": "Split",
    "SPLIT_V": "Split",
    "DEQUANTIZE": "Cast",
    "CAST": "Cast",
    "RESHAPE": "Reshape",
    "TRANSPOSE": "Transpose",
    "SQUEEZE": "Squeeze",
    "EXPAND_DIMS": "Unsqueeze",
    "PAD": "Pad",
    "PADV2": "Pad",
    "STRIDED_SLICE": "Slice",
    "REVERSE_V2": "Reverse",
    "GATHER": "Gather",
}
DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 9: "i1", 10: "<f8"}


def read_tflite(path: Path) -> Graph:
    """Return the graph of a .tflite file; quantised constants as the floats that they stand for."""
    import_tensorflow()
    schema = import_module("tensorflow.lite.python.schema_py_generated")
    budget.check("weights_file_bytes", path.stat().st_size, "the file")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    [graph] = model.subgraphs or [None]
    if graph is None or not graph.operators:
        raise CheckpointError("a TensorFlow Lite model without operations")
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    names_of = [
        f"{i}:{(t.name or b'').decode('utf-8', 'replace')}" for i, t in enumerate(graph.tensors)
    ]
    constants = {
        name: array
        for name, tensor in zip(names_of, graph.tensors, strict=True)
        if (array := _array(tensor, model.buffers[tensor.buffer].data)) is not None
    }
    nodes = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "?")
        inputs = tuple(names_of[i] if i >= 0 else "" for i in operator.inputs)
        outputs = tuple(names_of[i] for i in operator.outputs)
        name, settings = outputs[0], operator.builtinOptions
        operation = OPERATIONS.get(kind, kind)
        fused = getattr(settings, "fusedActivationFunction", 0)
        made = (f"{name}:before its activation",) if fused else outputs
        nodes.append(Node(operation, name, inputs, made, _options(kind, settings)))
        if fused:
            nodes.append(Node("Activation", name, made, outputs))
    fed = tuple(names_of[i] for i in graph.inputs)
    shape = tuple(max(int(side), 0) for side in graph.tensors[graph.inputs[0]].shape)
    return Graph("TensorFlow Lite", tuple(nodes), constants, fed, shape)


def _options(kind: str, settings: Any) -> dict[str, Any]:
    """Return the options that we look at, as `Node` has them."""
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return {
            "axes": "OHWI",
            "depthwise": kind != "CONV_2D",
            "strides": (settings.strideH, settings.strideW),
            "pads": None,
        }
    return {"transposed": True} if kind == "FULLY_CONNECTED" else {}


def _array(tensor: Any, data: Any) -> np.ndarray | None:
    """Return the values of a constant; None for a tensor that is computed."""
    if data is None or not len(data) or tensor.type not in DTYPES:
        return None
    values = np.asarray(data, np.uint8).view(DTYPES[tensor.type])
    array = values.reshape([int(side) for side in tensor.shape])
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return array
    shape = [1] * array.ndim
    if len(quantization.scale) > 1:
        shape[quantization.quantizedDimension] = -1
    scale = np.asarray(quantization.scale, np.float32).reshape(shape)
    zero = np.asarray(quantization.zeroPoint, np.float32).reshape(shape)
    return (array.astype(np.float32) - zero) * scale
