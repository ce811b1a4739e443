"""Record every tensor of a TensorFlow Lite model."""

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.errors import TraceError
from weights_tools.recorders.recording import open_recording
from weights_tools.recorders.shared import (
    ALL,
    Feeds,
    StrPath,
    computed,
    import_package,
    named_feeds,
    one_line,
)

Details = Mapping[str, Any]  # what the interpreter says of a tensor


def record_tflite(file: StrPath, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a .tflite file and record every tensor that it computes from its input.

    Quantised tensors are recorded as the real numbers that they stand for, float32. A quantised
    input takes real numbers, too, which are rounded here; integers are taken as they are. The
    interpreter keeps all tensors and uses no delegate, because a delegate computes several
    operations at once. Two tensors of one name get the suffixes of `record_torch`.
    """
    lite = _package()
    resolvers = (lite.experimental if hasattr(lite, "experimental") else lite).OpResolverType
    with open_recording(path, layers) as recording, one_line(file), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow says that its interpreter will move
        interpreter = lite.Interpreter(
            # From memory, because then the file's structure is checked: else a damaged file
            # crashes the process.
            model_content=Path(file).read_bytes(),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        inputs = {details["name"]: details for details in interpreter.get_input_details()}
        fed = named_feeds(feeds, list(inputs))
        for name, details in inputs.items():
            if tuple(details["shape"]) != np.shape(fed[name]):
                interpreter.resize_tensor_input(details["index"], np.shape(fed[name]), strict=True)
        interpreter.allocate_tensors()
        for name, details in inputs.items():
            interpreter.set_tensor(details["index"], quantised(fed[name], details))
        interpreter.invoke()
        tensors = {str(details["index"]): details for details in interpreter.get_tensor_details()}
        # Only this says in which order the tensors are computed, and which are constants.
        operations = interpreter._get_ops_details()
        nodes = [([*map(str, op["inputs"])], [*map(str, op["outputs"])]) for op in operations]
        for index in computed(nodes, [str(details["index"]) for details in inputs.values()]):
            details = tensors.get(index, {})
            if details and recording.wants(details["name"]):
                recording.write(details["name"], real(interpreter.get_tensor(int(index)), details))
    return len(recording.names)


def quantised(x: Any, details: Details) -> np.ndarray:
    """Return real numbers as a quantised input has them; anything else in the input's type."""
    x, dtype = np.asarray(x), np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    if x.dtype.kind == "f" and dtype.kind in "iu" and scale:
        limits: Any = np.iinfo(dtype.name)
        x = np.clip(np.round(x / scale) + zero_point, limits.min, limits.max)
    return x.astype(dtype, copy=False)


def real(x: np.ndarray, details: Details) -> np.ndarray:
    """Return what a tensor stands for: (x - zero point) * scale, for each channel if it says so."""
    parameters = details["quantization_parameters"]
    scale, zero_point = (np.float32(parameters[key]) for key in ("scales", "zero_points"))
    if not scale.size or x.dtype.kind not in "iu":
        return x
    shape = [1] * x.ndim
    if scale.size > 1:
        shape[parameters["quantized_dimension"]] = scale.size
    return (x.astype(np.float32) - zero_point.reshape(shape)) * scale.reshape(shape)


def _package() -> Any:
    """Return the module of the interpreter: a small package of its own, or TensorFlow's copy."""
    try:
        return import_module("ai_edge_litert.interpreter")
    except ImportError:
        try:
            return import_package("tensorflow", "record-tflite").lite
        except TraceError:
            return import_package("ai_edge_litert", "record-tflite")
