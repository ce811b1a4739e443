"""Run a model in its own framework on a photo, and compare its answer with ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.kernels import Array, softmax
from tinymixnet.engine.network import forward
from tinymixnet.engine.pixels import check_pixels
from tinymixnet.engine.weights import BUNDLED, Weights
from tinymixnet.errors import CheckpointError
from tinymixnet.model import Model
from weights_tools.extras import import_extra
from weights_tools.framework_errors import one_line
from weights_tools.graphs.from_keras import load_model
from weights_tools.graphs.from_tensorflow import graph_def, import_tensorflow
from weights_tools.graphs.graph import Graph
from weights_tools.sources import UNREADABLE, Source, read_graph
from weights_tools.state_dicts import BY_ORDER, STATE_DICTS, open_state_dict
from weights_tools.timm_names import canonical_sources, timm_sources

LARGEST_DIFFERENCE = 1e-4  # of the logits between the original and ours, to their largest value
LARGEST_SHORT_DIFFERENCE = 2e-2  # the same for a network that computes in float16
USUAL_DIFFERENCE = 1e-5  # above this, rounding alone is measured, too
PHOTO = BUNDLED.parent / "cat.jpg"  # that comes with the package


class Check(NamedTuple):
    """How far the answers of the original and ours are apart, as shares of the largest logit."""

    difference: float
    largest: float  # that is no mistake
    rounding: tuple[float, float] | None = None  # of ours and theirs, to the answers in float64

    @property
    def sentence(self) -> str:
        said = f"largest difference to the original at the logits: {self.difference:.1e}"
        if self.rounding:
            said += " (to the same network in float64: ours {:.1e}, the original {:.1e})".format(
                *self.rounding
            )
        return said


def check_original(path: Path, source: Source, weights: Weights) -> Check:
    """Compare the answers of the original, run in its own framework, with ours.

    Both get the photo that comes with the package. The original gets it as its input must be: in
    its size, its order of axes and colours, in its range, normalised or not. A model that gives
    only probabilities is compared by these. Where the two differ by more than usual, ours is also
    run in float64: badly scaled weights make the rounding large, and then both sides are off.
    Raises TinyMixNetError if its framework is not installed.
    """
    if source.kind == "keras-weights":
        raise CheckpointError(f"{path}: has no model that could be run: check its .keras file")
    if BY_ORDER in source.remarks:
        raise CheckpointError(
            f"{path}: --check runs state dicts in timm, and these are not timm's names; export its "
            "network to .onnx and convert that"
        )
    with one_line(path, CheckpointError, UNREADABLE):
        graph = None if source.kind in STATE_DICTS else read_graph(source.kind, path)
        size = (graph and graph.input_size) or weights.metadata.input_size
        model = Model(*weights._replace(metadata=replace(weights.metadata, input_size=size)))
        pixels = check_pixels(model.pixels(PHOTO)).astype(np.float32)
        ours = model(pixels)
        if graph is None:
            answers = _run_timm(path, source, weights, pixels)
        else:
            answers = RUNNERS[source.kind](path, _as_their_input(pixels, graph, source, weights))
    short = any(answer.dtype == np.float16 for answer in answers)
    answers = [np.asarray(answer, np.float32) for answer in answers]
    shown = [answer.reshape(ours.shape) for answer in answers if answer.size == ours.size]
    if not shown:
        shapes = [answer.shape for answer in answers]
        raise CheckpointError(
            f"{path}: none of its outputs has {ours.size} numbers, found shapes {shapes}"
        )
    # Probabilities count only if there are no logits: when one class is certain, they hide much.
    logits = [answer for answer in shown if not _are_probabilities(answer)]
    own = ours if logits else softmax(ours)
    theirs = min(logits or shown, key=lambda answer: _distance(answer, own))
    difference = _distance(theirs, own)
    largest = LARGEST_SHORT_DIFFERENCE if short else LARGEST_DIFFERENCE
    if short or not USUAL_DIFFERENCE < difference <= largest:
        return Check(difference, largest)
    layers = dict(forward(pixels.astype(np.float64), *_in_float64(weights)))
    exact = layers["logits" if logits else "probabilities"]
    return Check(difference, largest, (_distance(own, exact), _distance(theirs, exact)))


def _distance(answer: Array, reference: Array) -> float:
    """Return the largest difference of two answers, as a share of the largest number."""
    distance = float(np.abs(answer - reference).max() / np.abs(reference).max())
    return distance if np.isfinite(distance) else np.inf


def _in_float64(weights: Weights) -> Weights:
    tensors = {name: np.asarray(x, np.float64) for name, x in weights.tensors.items()}
    return weights._replace(tensors=tensors)


def _are_probabilities(answer: Array) -> bool:
    return bool((answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3))


def _as_their_input(pixels: Array, graph: Graph, source: Source, weights: Weights) -> Array:
    """Return the pixels as the graph takes them: pixels is (1, S, S, 3), RGB, 0..255."""
    preprocessing, metadata = source.preprocessing, weights.metadata
    assert preprocessing is not None  # every graph has some
    x = pixels
    if not preprocessing.inside:
        x = (x - np.array(metadata.mean, np.float32)) / np.array(metadata.std, np.float32)
    if preprocessing.unit:
        x = x / np.float32(255)
    if preprocessing.bgr != preprocessing.reversed_inside:
        x = x[..., ::-1]
    if graph.channels_first:
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def _run_onnx(path: Path, x: Array) -> list[Array]:
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    types = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
    return session.run(None, {image.name: x.astype(types.get(image.type, np.float32))})


def _run_openvino(path: Path, x: Array) -> list[Array]:
    core = import_extra("openvino", "openvino").Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled(x).values())


def _run_tensorflow(path: Path, x: Array) -> list[Array]:
    tf = import_tensorflow()
    definition, graph = graph_def(tf, path), tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    operations = graph.get_operations()
    taken = {tensor.name for op in operations for tensor in op.inputs}
    image = next(op for op in operations if op.type == "Placeholder").outputs[0]
    # A batch norm has more outputs than the one that counts; nobody takes these.
    ends = [
        op.outputs[0]
        for op in operations
        if op.outputs and taken.isdisjoint(t.name for t in op.outputs)
    ]
    floats = [t for t in ends if t.dtype == tf.float32 and t.name != image.name]
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(floats, {image: x})


def _run_keras(path: Path, x: Array) -> list[Array]:
    import_tensorflow()
    model = load_model(import_extra("keras", "keras"), path)
    answers = model(x, training=False)
    return [np.asarray(answer) for answer in (answers if isinstance(answers, list) else [answers])]


def _run_tflite(path: Path, x: Array) -> list[Array]:
    # From memory, because then the file's structure is checked: a damaged one could crash us.
    interpreter = import_tensorflow().lite.Interpreter(model_content=path.read_bytes())
    [image] = interpreter.get_input_details()
    interpreter.resize_tensor_input(image["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(end["index"]) for end in interpreter.get_output_details()]


def _run_timm(path: Path, source: Source, weights: Weights, pixels: Array) -> list[Array]:
    """Load the file's own tensors into timm's network, and run it on normalised pixels."""
    timm, torch = import_extra("timm", "timm"), import_extra("torch", "timm")
    state = open_state_dict(source.kind, path)
    theirs = canonical_sources(state.tensors, str(path))
    names = timm_sources(source.architecture)
    tensors = {
        names[ours].name: torch.from_numpy(state.read(place.name)).float()
        for ours, place in theirs.items()
    }
    name = f"tf_{source.architecture.variant.replace('-', '_')}"
    network = timm.create_model(name, num_classes=source.architecture.classes)
    network.load_state_dict(tensors)
    metadata = weights.metadata
    x = (pixels - np.array(metadata.mean, np.float32)) / np.array(metadata.std, np.float32)
    with torch.inference_mode():
        answer = network.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    return [answer.numpy()]


RUNNERS: dict[str, Any] = {
    "onnx": _run_onnx,
    "openvino": _run_openvino,
    "tensorflow": _run_tensorflow,
    "keras": _run_keras,
    "tflite": _run_tflite,
}
