"""Record what every layer of another framework's model computes, for `compare` and `diagnose`.

A recording is a dump as `tinymixnet.debug.traces.write_dump` writes it: a folder, or a .npz if the
path ends in .npz. Names and layouts are the model's own, in the order of the computation.

Every recorder takes the input as the model takes it (PyTorch: mostly NCHW and normalised) and
`layers`, fnmatch patterns of the names to keep. It returns how many layers it wrote. It raises
TraceError when a package is missing, when there is nothing to record, or when the dump cannot be
written, and InputError for a pattern that matches no name. Exceptions of a PyTorch or Keras model
pass through; what a runtime says of a file becomes a TraceError. No recorder leaves half a dump
behind.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinymixnet.debug.arrays import NpyFiles, reading
from tinymixnet.errors import InputError, TinyMixNetError, TraceError, short_repr
from weights_tools.recording import open_recording

StrPath = str | os.PathLike[str]
Feeds = np.ndarray | Mapping[str, np.ndarray]  # the only input, or each by its name
Nodes = Iterable[tuple[Iterable[str], Iterable[str]]]  # (inputs, outputs), in order

ALL = ("*",)
# Names of the copies that TensorFlow adds at the inputs and outputs of functions.
_COPY = re.compile(r"Func/.*|(\w*PartitionedCall/)*Identity(_\d+)?")


def record_torch(module: Any, inputs: Any, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a torch.nn.Module and record the output of every submodule by name (`blocks.1.0.bn1`).

    inputs is what the module takes, a tensor or array; it is converted to the type and device of
    the weights. The module runs in eval mode without gradients and is left as it was. If a
    submodule is called again, that call's name gets the suffix #1, #2, ... Outputs that are no
    tensors are left out.
    """
    torch = _import("torch", "record-torch")
    if not isinstance(module, torch.nn.Module):
        raise TraceError(f"expected a torch.nn.Module, found a {type(module).__name__}")
    modes = {part: part.training for part in module.modules()}
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    try:
        tensor = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"inputs: expected a tensor, found {short_repr(inputs)}") from None
    hooks = []
    with open_recording(path, layers) as recording:
        try:
            for name, part in module.named_modules():
                if name and recording.wants(name):
                    hooks.append(part.register_forward_hook(recording.hook(name)))
            module.eval()
            with torch.inference_mode():
                module(tensor if weight is None else tensor.to(weight))
        finally:
            for hook in hooks:
                hook.remove()
            for part, training in modes.items():
                part.training = training
    return len(recording.names)


def record_keras(model: Any, inputs: Any, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a Keras model, functional or subclassed, and record the output of every layer in it.

    A layer inside another is called `outer/inner`; everything else is as in `record_torch`. Every
    call of a layer goes through one method of Keras, which is replaced during the run: do not run
    another model at the same time.
    """
    bases = {base.__name__: base for base in type(model).__mro__}
    base: Any = bases.get("Operation", bases.get("Layer"))  # of Keras 3, of earlier ones
    if base is None:
        raise TraceError(f"expected a Keras model, found a {type(model).__name__}")
    call = base.__call__
    inside: list[str] = []  # the names of the layers being called, the model's own first
    with open_recording(path, layers) as recording:

        def recorded(layer: Any, *args: Any, **kwargs: Any) -> Any:
            inside.append(layer.name)
            try:
                output = call(layer, *args, **kwargs)
                name = "/".join(inside[1:])
                if name and recording.wants(name):
                    recording.write(name, output)
                return output
            finally:
                inside.pop()

        base.__call__ = recorded
        try:
            model(inputs, training=False)
        finally:
            base.__call__ = call
    return len(recording.names)


def record_onnx(file: StrPath, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run an .onnx file in ONNX Runtime, unoptimised, and record every intermediate and output.

    A copy of the graph has all of them as outputs. One run computes them, and all are in memory
    until they are written: if that is too much, record some `layers` at a time. Constants (the
    initialisers, and what is computed only from them) are left out. Quantised values are recorded
    as the integers they are.
    """
    onnx = _import("onnx", "record-onnx")
    runtime = _import("onnxruntime", "record-onnx")
    with open_recording(path, layers) as recording, _one_line(file):
        model = onnx.load(os.fspath(file))
        graph = model.graph
        constants = {constant.name for constant in graph.initializer}
        fed = _feeds(feeds, [i.name for i in graph.input if i.name not in constants])
        nodes = [(node.input, [name for name in node.output if name]) for node in graph.node]
        names = [name for name in _computed(nodes, fed) if recording.wants(name)]
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


def record_tensorflow(graph: Any, feeds: Feeds, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a TensorFlow graph and record every tensor of floats with two axes or more.

    graph is a frozen .pb, the folder of a SavedModel (its serving_default) or a GraphDef. The names
    are TensorFlow's without :0. The graph runs once, as it is: TensorFlow's optimizer is off. For
    the memory see `record_onnx`.
    """
    tf = _import("tensorflow", "record-tensorflow")
    with open_recording(path, layers) as recording, _one_line(graph):
        definition, loaded = _graph_def(tf, graph), tf.Graph()
        with loaded.as_default():
            tf.import_graph_def(definition, name="")
        operations = loaded.get_operations()
        fed = _feeds(feeds, [op.name for op in operations if op.type == "Placeholder"])
        tensors = {_name(t): t for op in operations for t in op.outputs}
        nodes = [([*map(_name, op.inputs)], [*map(_name, op.outputs)]) for op in operations]
        floats = [n for n in _computed(nodes, fed) if tensors[n].dtype.is_floating]
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


def record_file(file: StrPath, inputs: np.ndarray, path: StrPath, layers: Sequence[str]) -> int:
    """Record an .onnx, .keras, .h5 or .pb file or a SavedModel's folder that takes one input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs a lot when it starts
    suffix = Path(file).suffix.lower()
    if not os.path.exists(file):
        raise TraceError(f"{file}: no such file or folder")
    if not os.path.isdir(file) and not os.path.isfile(file):  # reading a pipe would wait for ever
        raise TraceError(f"{file}: neither a file nor a folder")
    if suffix == ".onnx":
        return record_onnx(file, inputs, path, layers)
    if suffix in (".keras", ".h5", ".hdf5"):
        keras = _import("keras", "record-tensorflow")
        with _one_line(file):  # safe_mode: the file must not bring its own code
            model = keras.models.load_model(file, compile=False, safe_mode=True)
            return record_keras(model, inputs, path, layers)
    if suffix == ".pb" or os.path.isdir(file):
        return record_tensorflow(file, inputs, path, layers)
    raise TraceError(
        f"{file}: expected .onnx, .keras, .h5, .pb or a SavedModel's folder; no file of a PyTorch "
        "module is safe to load: call weights_tools.record.record_torch from Python"
    )


def read_input(path: StrPath) -> np.ndarray:
    """Read a model's input from a .npy file of numbers. Raises TraceError."""

    @contextmanager
    def opened(name: str) -> Iterator[tuple[IO[bytes], int]]:
        with open(name, "rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size

    with reading(Path(path)):
        if not os.path.isfile(path):  # reading a pipe would wait for ever
            raise TraceError("expected a .npy file, found " + _what_is_at(path))
        return NpyFiles([os.fspath(path)], opened).read(os.fspath(path))


def _what_is_at(path: StrPath) -> str:
    if not os.path.exists(path):
        return "no such file"
    return "a folder" if os.path.isdir(path) else "neither a file nor a folder"


# -- graphs ---------------------------------------------------------------------------------------


def _feeds(feeds: Feeds, names: list[str]) -> dict[str, np.ndarray]:
    """Return the inputs by name; an array alone is the only input."""
    given = feeds if isinstance(feeds, Mapping) else dict.fromkeys(names[:1], feeds)
    if set(given) != set(names):
        raise TraceError(f"takes the inputs {names}, found {list(given)}: give a dict, from Python")
    return dict(given)


def _computed(nodes: Nodes, fed: Iterable[str]) -> Iterator[str]:
    """Yield the outputs that depend on what is fed; all others are constants."""
    depend = set(fed)
    for inputs, outputs in nodes:
        if not depend.isdisjoint(inputs):
            depend.update(outputs)
            yield from outputs


def _name(tensor: Any) -> str:
    return tensor.name.removesuffix(":0")


def _graph_def(tf: Any, graph: Any) -> Any:
    if not isinstance(graph, (str, os.PathLike)):
        return graph
    if os.path.isdir(graph):
        constants = import_module("tensorflow.python.framework.convert_to_constants")
        saved = tf.saved_model.load(os.fspath(graph))  # keeps the variables alive
        serving = saved.signatures["serving_default"]
        return constants.convert_variables_to_constants_v2(serving).graph.as_graph_def()
    return tf.compat.v1.GraphDef.FromString(Path(graph).read_bytes())


@contextmanager
def _one_line(file: Any) -> Iterator[None]:
    """Turn whatever a runtime raises about a file into a TraceError of one line."""
    name = file if isinstance(file, (str, os.PathLike)) else "the graph"
    try:
        yield
    except TinyMixNetError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise TraceError(f"{name}: cannot be recorded ({why})") from error


def _import(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise TraceError(
            f"recording this needs {module}: pip install 'tinymixnet[{extra}]'"
        ) from None
