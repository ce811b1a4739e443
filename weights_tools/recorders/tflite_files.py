"""Record every tensor of a TensorFlow Lite model."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

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


def record_tflite(file: StrPath, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a .tflite file in TensorFlow's interpreter and record every tensor that it computes.

    Quantised tensors are recorded as the real numbers they stand for, float32. A quantised input
    takes real numbers, too, and is rounded here; integers are taken as they are. The interpreter
    keeps all tensors and uses no delegate, because a delegate computes several operations at once.
    """
    lite = import_package("tensorflow", "record-tflite").lite
    with open_recording(path, layers) as recording, one_line(file):
        interpreter = lite.Interpreter(
            model_path=os.fspath(file),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=(
                lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
        )
        inputs = {details["name"]: details for details in interpreter.get_input_details()}
        fed = named_feeds(feeds, list(inputs))
        for name, details in inputs.items():
            if tuple(details["shape"]) != np.shape(fed[name]):  # the interpreter says if it cannot
                interpreter.resize_tensor_input(details["index"], np.shape(fed[name]), strict=True)
        interpreter.allocate_tensors()
        for name, details in inputs.items():
            interpreter.set_tensor(details["index"], quantise(fed[name], details))
        interpreter.invoke()
        tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
        nodes = [
            ([*map(str, node["inputs"])], [*map(str, node["outputs"])])
            for node in interpreter._get_ops_details()
        ]
        for index in computed(nodes, [str(details["index"]) for details in inputs.values()]):
            details = tensors.get(int(index))
            if details is not None and recording.wants(details["name"]):
                recording.write(details["name"], real(interpreter.get_tensor(int(index)), details))
    return len(recording.names)


def quantise(x: Any, details: Any) -> np.ndarray:
    """Return real numbers as a quantised input has them; integers and other inputs as given."""
    x, dtype = np.asarray(x), np.dtype(details["dtype"])
    scale, zero = details["quantization"]
    if x.dtype.kind == "f" and dtype.kind in "iu" and scale:
        limits = np.iinfo(dtype)
        return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(dtype)
    return x.astype(dtype, copy=False)


def real(x: np.ndarray, details: Any) -> np.ndarray:
    """Return what a tensor stands for: (x - zero point) * scale, each one or one per channel."""
    about = details["quantization_parameters"]
    scales, zeros = about["scales"], about["zero_points"]
    if not len(scales) or x.dtype.kind not in "iu":
        return x
    shape = [1] * x.ndim
    if len(scales) > 1:
        shape[about["quantized_dimension"]] = len(scales)
    scale, zero = (np.asarray(v, np.float32).reshape(shape) for v in (scales, zeros))
    return ((x.astype(np.float32) - zero) * scale).astype(np.float32)
