"""Read a Keras model as a graph: its own layers, with their weights as they are. Needs `keras`."""

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.errors import CheckpointError
from weights_tools.extras import import_extra
from weights_tools.formats.kinds import starts_as_zip
from weights_tools.graphs.from_tensorflow import import_tensorflow, read_keras_function
from weights_tools.graphs.graph import Graph, Node
from weights_tools.graphs.keras_safety import check_keras_file

OPERATIONS = {  # Keras's name of a layer's class -> ONNX's of its operation
    "Conv2D": "Conv",
    "DepthwiseConv2D": "Conv",
    "Dense": "MatMul",
    "Concatenate": "Concat",
    "Activation": "Activation",
    "ZeroPadding2D": "Pad",
    "Permute": "Transpose",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "TrueDivide": "Div",
    "Divide": "Div",
    "Take": "Gather",
    "Flip": "Reverse",
}
OWN_OPERATIONS = {
    "keras.src.ops.numpy": (
        "Split", "TrueDivide", "Divide", "GetItem", "Flip", "Take", "Mean", "Squeeze", "ExpandDims",
        "Transpose",
    ),
    "keras.src.ops.nn": ("Relu", "Sigmoid", "Silu"),
}  # fmt: skip
WITH_CONSTANTS = ("Add", "Subtract", "Multiply", "TrueDivide", "Divide", "Take")


def read_keras(path: Path) -> Graph:
    """Return the graph of a Keras model, .keras or .h5, which must not bring code of its own.

    A functional model is read layer by layer, so that a batch norm stays what it is. Any other
    model becomes a TensorFlow graph first.
    """
    import_tensorflow()
    keras = import_extra("keras", "keras")
    model = load_model(keras, path)
    if len(model.inputs) != 1:
        raise CheckpointError(f"expected a Keras model with one input, found {len(model.inputs)}")
    functional = isinstance(model, keras.Model) and hasattr(model, "operations")
    if not functional or any(hasattr(op, "operations") for op in model.operations):
        return read_keras_function(model)
    constants: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    for op in model.operations:
        if type(op).__name__ != "InputLayer":
            nodes += _nodes(op, constants)
    shape = tuple(side or 0 for side in model.inputs[0].shape)
    return Graph("Keras", tuple(nodes), constants, (_tensor(model.inputs[0]),), shape)


def load_model(keras: Any, path: Path) -> Any:
    """Return the Keras model of a .keras or .h5 file, which must not bring code of its own.

    Raises CheckpointError or TinyMixNetError for a file that is not fit for Keras, and whatever
    Keras raises.

    Keras writes .h5 files that it cannot read again: it does not find its own operations that are
    no layers. So these are given to it. Operations with a layer's name (Add, say) stay layers.
    """
    check_keras_file(path)
    known: dict[str, Any] = {}
    packed = starts_as_zip(path)
    if not packed:
        for module, names in OWN_OPERATIONS.items():
            there = vars(import_module(module))
            known |= {name: there[name] for name in names if name in there}

    with tempfile.TemporaryDirectory() as folder:
        # Keras goes by the end of the name, whatever is in the file.
        named = Path(folder, "model.keras" if packed else "model.h5")
        named.symlink_to(path.resolve())

        def load() -> Any:
            options = {"custom_objects": known, "compile": False, "safe_mode": True}
            return keras.models.load_model(named, **options)

        # A layer allocates its variables before it finds out that the file has others. In the first
        # round no variable gets any memory, and every array of the file is compared with the
        # variable that it is for.
        with keras.StatelessScope(initialize_variables=False):
            load()
        return load()


def _turns_channels(key: Any) -> bool:
    """Whether an index is that of x[..., ::-1]."""
    last = key[-1] if isinstance(key, (list, tuple)) and key else None
    return isinstance(last, slice) and last.step == -1


def _tensor(tensor: Any) -> str:
    return f"tensor {id(tensor)}"


def _nodes(op: Any, constants: dict[str, np.ndarray]) -> list[Node]:
    """Return what one layer of Keras is: an operation, and its activation if it has one."""
    kind, name = type(op).__name__, op.name
    if len(op._inbound_nodes) != 1:
        raise CheckpointError(f"its layer {name[:80]!r} is used {len(op._inbound_nodes)} times")
    inputs = tuple(map(_tensor, op._inbound_nodes[0].input_tensors))
    outputs = tuple(map(_tensor, op._inbound_nodes[0].output_tensors))

    def constant(label: str, values: Any) -> str:
        constants[f"{name}/{label}"] = np.asarray(values)
        return f"{name}/{label}"

    if kind == "Normalization":
        centred = f"{name}/centred"
        mean, std = constant("mean", op.mean), constant("std", np.sqrt(np.asarray(op.variance)))
        return [
            Node("Sub", name, (*inputs, mean), (centred,)),
            Node("Div", name, (centred, std), outputs),
        ]
    if kind == "Rescaling":
        scaled = f"{name}/scaled"
        factor, offset = constant("scale", op.scale), constant("offset", op.offset)
        return [
            Node("Mul", name, (*inputs, factor), (scaled,)),
            Node("Add", name, (scaled, offset), outputs),
        ]
    given = op._inbound_nodes[0].arguments
    arguments = [*given.args, *given.kwargs.values()]
    if kind in WITH_CONSTANTS and len(inputs) == 1 and len(arguments) == 2:  # x / 255, say
        inputs = tuple(
            _tensor(value) if hasattr(value, "_keras_history") else constant(f"value_{i}", value)
            for i, value in enumerate(arguments)
        )
    elif kind == "GetItem" and _turns_channels(arguments[-1]):
        kind = "Flip"
    options: dict[str, Any] = {}
    if kind in ("Conv2D", "DepthwiseConv2D", "Dense"):
        kernel, *bias = op.get_weights()
        options = {
            "axes": "HWIO",
            "depthwise": kind == "DepthwiseConv2D",
            "groups": getattr(op, "groups", 1),
            "strides": getattr(op, "strides", (1, 1)),
            "pads": None,
        }
        inputs = (*inputs, constant("kernel", kernel), *(constant("bias", b) for b in bias))
    elif kind == "BatchNormalization":
        options = {"epsilon": op.epsilon}
        scale, center = op.gamma, op.beta
        ones = np.ones_like(np.asarray(op.moving_mean))
        values = {
            "gamma": ones if scale is None else scale,
            "beta": 0 * ones if center is None else center,
            "mean": op.moving_mean,
            "variance": op.moving_variance,
        }
        inputs = (*inputs, *(constant(label, value) for label, value in values.items()))
    activation = getattr(getattr(op, "activation", None), "__name__", "linear")
    operation = OPERATIONS.get(kind, kind)
    if activation == "linear":
        return [
            Node("Identity" if kind == "Activation" else operation, name, inputs, outputs, options)
        ]
    if kind == "Activation":
        return [Node("Activation", name, inputs, outputs)]
    made = (f"{name}/before its activation",)
    return [
        Node(operation, name, inputs, made, options),
        Node("Activation", name, made, outputs),
    ]
