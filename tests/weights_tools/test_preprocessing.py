"""convert: what a graph does to its pixels before the first convolution, in many styles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights_tools import foreign
from tests.weights_tools.foreign import METADATA, WEIGHTS, needed
from tinymixnet.errors import CheckpointError
from weights_tools.convert import convert
from weights_tools.exporters.onnx_graph import onnx_model
from weights_tools.inspect_file import describe

known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)

MEAN = np.array(METADATA.mean, np.float32).reshape(1, 3, 1, 1)
STD = np.array(METADATA.std, np.float32).reshape(1, 3, 1, 1)
NORMALIZE = [("Sub", "rgb MEAN", "centred"), ("Div", "centred STD", "normalize")]
CONSTANTS = {
    "MEAN": MEAN,
    "STD": STD,
    "MEAN1": MEAN / 255,
    "STD1": STD / 255,
    "FACTOR": 1 / STD,
    "OFFSET": -MEAN / STD,
    "BACK": -MEAN,
    "255": np.float32(255),
    "gamma": np.ones(3, np.float32),
    "beta": np.zeros(3, np.float32),
    "mean": MEAN.ravel(),
    "variance": STD.ravel() ** 2,
    "axis": np.array([1]),
    "ones": np.array([1, 1, 1]),
    "turned": np.array([2, 1, 0]),
    "-1": np.array([-1]),
    "least": np.array([-(2**62)]),
    **{str(number): np.array([number]) for number in range(4)},
}
SLICES = [("Slice", f"image {i} {i + 1} axis", f"part{i}") for i in range(3)]
STYLES = {
    "factor": ([("Mul", "image FACTOR", "a"), ("Add", "OFFSET a", "normalize")], "RGB, 0..255"),
    "add": ([("Add", "BACK image", "a"), ("Mul", "FACTOR a", "normalize")], "RGB, 0..255"),
    "unit": ([("Sub", "image MEAN1", "a"), ("Div", "a STD1", "normalize")], "RGB, 0..1"),
    "by 255": (
        [("Div", "image 255", "a"), ("Sub", "a MEAN1", "b"), ("Div", "b STD1", "normalize")],
        "RGB, 0..255",
    ),
    "batch norm": (
        [("BatchNormalization", "image gamma beta mean variance", "normalize")],
        "RGB, 0..255",
    ),
    "gather": ([("Gather", "image turned", "rgb"), *NORMALIZE], "BGR, 0..255"),
    "split": (
        [("Split", "image ones", "a b c"), ("Concat", "c b a", "rgb"), *NORMALIZE],
        "BGR, 0..255",
    ),
    "slices": ([*SLICES, ("Concat", "part2 part1 part0", "rgb"), *NORMALIZE], "BGR, 0..255"),
    "ordered": ([*SLICES, ("Concat", "part0 part1 part2", "rgb"), *NORMALIZE], "RGB, 0..255"),
    "flip": ([("Slice", "image -1 least axis -1", "rgb"), *NORMALIZE], "BGR, 0..255"),
    "exchange alone": ([("Gather", "image turned", "normalize")], "so its input is BGR"),
    "unknown": ([("Abs", "image", "rgb"), *NORMALIZE], "also does Abs first"),
}


def save(path: Path, nodes: list[tuple[str, str, str]]) -> Path:
    onnx = needed("onnx")
    model = onnx_model(WEIGHTS, normalized=True)
    del model.metadata_props[:]  # our own note, which no other tool writes
    model.graph.input[0].name = "image"
    for i, (operation, inputs, outputs) in enumerate(nodes):
        options: dict[str, Any] = {"axis": 1} if operation in ("Gather", "Split", "Concat") else {}
        options |= {"epsilon": 0.0} if operation == "BatchNormalization" else {}
        made = onnx.helper.make_node(operation, inputs.split(), outputs.split(), **options)
        model.graph.node.insert(i, made)
    for name in dict.fromkeys(" ".join(inputs for _, inputs, _ in nodes).split()):
        if name in CONSTANTS:
            tensor = onnx.numpy_helper.from_array(np.asarray(CONSTANTS[name]), name)
            model.graph.initializer.append(tensor)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("style", STYLES)
def test_styles_in_onnx(style: str, tmp_path: Path) -> None:
    """ONNX Runtime, fed as we understand the graph, gives our answers."""
    nodes, sentence = STYLES[style]
    path = save(tmp_path / "model.onnx", nodes)
    weights = convert(path, tmp_path / "out.h5", check=True)
    assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-6)
    assert weights.metadata.std == pytest.approx(METADATA.std, rel=1e-6)
    assert weights.tensors["stem/conv/kernel"].tobytes() == (
        WEIGHTS.tensors["stem/conv/kernel"].tobytes()
    )
    assert any(sentence in line for line in describe(path) if line.startswith("preprocessing"))


def test_what_is_not_understood_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three colours that are normalised one by one: no table of ours, so `--check` refuses."""
    colours = [("Sub", "a 255", "a0"), ("Concat", "a0 b c", "normalize")]
    path = save(tmp_path / "model.onnx", [("Split", "image ones", "a b c"), *colours])
    convert(path, tmp_path / "out.h5")
    assert "which is not understood" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="other answers"):
        convert(path, tmp_path / "other.h5", check=True)


def test_a_graph_of_float16(tmp_path: Path) -> None:
    """It gets its pixels in float16, and computes in it, so it may be off by more."""
    onnx = needed("onnx")
    model = onnx_model(WEIGHTS)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            short = onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name)
            tensor.CopyFrom(short)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "model.onnx")
    weights = convert(tmp_path / "model.onnx", tmp_path / "out.h5", check=True)
    kernel = WEIGHTS.tensors["head/conv/kernel"]
    assert np.array_equal(weights.tensors["head/conv/kernel"], kernel.astype(np.float16))


MEAN3, STD3 = MEAN.ravel(), STD.ravel()
KERAS_STYLES: dict[str, Callable[[Any, Any], Any]] = {
    "numbers": lambda keras, x: (x / 255 - MEAN3 / 255) / (STD3 / 255),
    "factor": lambda keras, x: x * (1 / STD3) + -MEAN3 / STD3,
    "index": lambda keras, x: (x[..., ::-1] - MEAN3) / STD3,
    "flip": lambda keras, x: (keras.ops.flip(x, axis=-1) - MEAN3) / STD3,
    "take": lambda keras, x: (keras.ops.take(x, [2, 1, 0], axis=-1) - MEAN3) / STD3,
}


@pytest.mark.parametrize("style", KERAS_STYLES)
def test_styles_in_keras(style: str, tmp_path: Path) -> None:
    """Operations of a Keras model that are no layers, with numbers in them."""
    from weights_tools.exporters.keras_model import _Network

    needed("tensorflow")
    keras = needed("keras")
    network = _Network(keras, WEIGHTS)
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, network.logits(KERAS_STYLES[style](keras, image)))
    for layer, arrays in network.arrays.items():
        model.get_layer(layer).set_weights(arrays)
    model.save(tmp_path / "model.keras")
    weights = convert(tmp_path / "model.keras", tmp_path / "out.h5", check=True)
    assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-5)
    order = "RGB" if style in ("numbers", "factor") else "BGR"
    lines = [*describe(tmp_path / "model.keras")]
    assert f"preprocessing: normalises inside; its input is {order}, 0..255" in lines
