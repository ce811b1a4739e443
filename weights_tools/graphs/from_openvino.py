"""Read an OpenVINO model, an .xml file with a .bin beside it, as a graph. Needs `openvino`."""

import os
from pathlib import Path
from typing import Any

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.exporters.notes import NOTE
from weights_tools.extras import import_extra
from weights_tools.formats.refusals import is_plain_beside
from weights_tools.graphs.graph import Graph, Node

LARGEST_XML = 16 << 20  # bytes; MixNet-L's has 400,000, and OpenVINO takes 14 times the memory
OPERATIONS = {  # OpenVINO's name of an operation -> ONNX's
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "Multiply": "Mul",
    "Subtract": "Sub",
    "Divide": "Div",
    "Convert": "Cast",
    "VariadicSplit": "Split",
    "ReLU": "Relu",
    "StridedSlice": "Slice",
}


def read_openvino(path: Path) -> Graph:
    """Return the graph of an OpenVINO model. Raises CheckpointError."""
    openvino = import_extra("openvino", "openvino")
    binary = path.with_suffix(".bin")
    if not is_plain_beside(path.parent, binary.name):
        found = "found a link" if binary.is_symlink() else "its weights are missing"
        raise CheckpointError(f"{found}; expected {binary.name} in the same folder, a plain file")
    if path.stat().st_size > LARGEST_XML:
        raise CheckpointError(
            f"refused, a description of {path.stat().st_size:,} bytes, at most {LARGEST_XML:,} are "
            "allowed"
        )
    budget.check("weights_file_bytes", path.stat().st_size + binary.stat().st_size, "the file")
    model = openvino.Core().read_model(os.fspath(path), os.fspath(binary))
    constants, nodes, fed = {}, [], []
    for op in model.get_ordered_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        outputs = tuple(f"{name}:{i}" for i in range(op.get_output_size()))
        if kind == "Constant":
            constants[outputs[0]] = op.data
        elif kind == "Parameter":
            fed.append(outputs[0])
        else:
            inputs = tuple(_tensor(op.input_value(i)) for i in range(op.get_input_size()))
            options = _options(kind, op.get_attributes())
            nodes.append(Node(OPERATIONS.get(kind, kind), name, inputs, outputs, options))
    shape = tuple(
        side.get_length() if side.is_static else 0 for side in model.inputs[0].partial_shape
    )
    notes = {NOTE: model.get_rt_info([NOTE]).astype(str)} if model.has_rt_info([NOTE]) else {}
    return Graph("OpenVINO", tuple(nodes), constants, tuple(fed), shape, notes)


def _tensor(value: Any) -> str:
    return f"{value.get_node().get_friendly_name()}:{value.get_index()}"


def _options(kind: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the options that we look at, as `Node` has them."""
    if kind in ("Convolution", "GroupConvolution"):
        before, after = attributes["pads_begin"], attributes["pads_end"]
        same = str(attributes.get("auto_pad", "explicit")).startswith("same")
        return {
            "axes": "OIHW" if kind == "Convolution" else "GOIHW",
            "strides": tuple(attributes["strides"]),
            "pads": None if same else (*before, *after),
        }
    if kind == "MatMul":
        return {"transposed": bool(attributes["transpose_b"])}
    return {}
