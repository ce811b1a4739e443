"""inspect of graphs: which of our tensors are missing, and which of theirs are left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights_tools import foreign
from tests.weights_tools.foreign import WEIGHTS, assert_equal, needed, save_with_keras
from tinymixnet.cli import run
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.weights import read_weights
from tinymixnet.errors import CheckpointError
from weights_tools.__main__ import parser
from weights_tools.convert import convert
from weights_tools.exporters.keras_model import keras_model
from weights_tools.exporters.onnx_graph import onnx_model
from weights_tools.inspect_file import describe, inspect

known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)


def saved_onnx(path: Path, change: Callable[[Any], None]) -> Path:
    onnx = needed("onnx")
    model = onnx_model(WEIGHTS)
    del model.metadata_props[:]
    change(model)
    onnx.save(model, path)
    return path


def without_a_layer(model: Any) -> None:
    """Take one convolution out, and join what was before it to what was after it."""
    nodes = model.graph.node
    conv = next(node for node in nodes if node.input[1:2] == ["blocks_0/project_conv/kernel"])
    for node in nodes:
        for i, name in enumerate(node.input):
            if name == conv.output[0]:
                node.input[i] = conv.input[0]
    nodes.remove(conv)


def with_a_layer(model: Any) -> None:
    """Put one more convolution behind the stem, with a shape that another layer has."""
    onnx = needed("onnx")
    values = np.eye(5, dtype=np.float32)[:, :, None, None]
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "extra"))
    place, first = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "Relu")
    node = onnx.helper.make_node("Conv", ["raw", "extra"], [first.output[0]])
    first.output[0] = "raw"
    model.graph.node.insert(place + 1, node)


def test_a_layer_that_is_missing(tmp_path: Path) -> None:
    """Only that layer is named, although all later ones stand at another place."""
    path = saved_onnx(tmp_path / "model.onnx", without_a_layer)
    found = inspect(path)
    assert found["network"] == "tiny"
    names = ["conv/kernel_0", *(f"bn/{n}" for n in ("gamma", "beta", "moving_mean"))]
    names.append("bn/moving_variance")
    assert found["missing"] == [f"blocks_0/project_{name}" for name in names]
    assert all(name.startswith("blocks_0/project_") for name in found["surplus"])
    assert "blocks_0/project_conv/kernel" in found["surplus"]
    assert found["problem"]
    assert any(line.startswith("missing: blocks_0/project_conv") for line in describe(path))


def test_a_layer_that_is_too_much(tmp_path: Path) -> None:
    found = inspect(saved_onnx(tmp_path / "model.onnx", with_a_layer))
    assert (found["network"], found["missing"], found["surplus"]) == ("tiny", [], ["extra"])
    assert found["problem"]


def test_a_graph_with_a_spare_constant(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        onnx = needed("onnx")
        spare = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "spare")
        model.graph.initializer.append(spare)

    found = inspect(saved_onnx(tmp_path / "model.onnx", change))
    assert (found["missing"], found["surplus"], found["problem"]) == ([], ["spare"], "")


def test_a_graph_that_is_no_network_of_ours(tmp_path: Path) -> None:
    onnx = needed("onnx")
    helper = onnx.helper
    kernel = onnx.numpy_helper.from_array(np.ones((4, 3, 3), np.float32), "kernel")
    x, y = (helper.make_tensor_value_info(n, 1, None) for n in "xy")
    node = helper.make_node("Conv", ["x", "kernel"], ["y"])  # of sound: three axes
    graph = helper.make_graph([node], "g", [x], [y], [kernel])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    found = inspect(tmp_path / "model.onnx")
    assert (found["network"], found["surplus"]) == (None, ["kernel"])
    assert found["problem"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as every kind of graph."""
    from weights_tools.exporters.openvino_ir import openvino_model

    folder = tmp_path_factory.mktemp("graphs")
    save_with_keras(folder)
    needed("openvino").save_model(openvino_model(WEIGHTS), folder / "model.xml")
    saved_onnx(folder / "model.onnx", lambda model: None)
    return folder


KINDS = (
    "model.onnx", "model.xml", "model.keras", "model.weights.h5", "saved", "frozen.pb",
    "model.tflite",
)  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_missing_or_left_over(name: str, files: Path) -> None:
    found = inspect(files / name)
    assert (found["missing"], found["surplus"]) == ([], []), name
    assert (found["network"], found["problem"]) == ("tiny", "")


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_options_count_for_every_graph(name: str, files: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\nthree\nfour\nfive\nsix\n")
    arguments = ["convert", str(files / name), "-o", str(tmp_path / "out.h5")]
    given = ["--labels", str(labels), "--preset", "tf", "--input-size", "96", "--licence", "MIT"]
    assert run(parser(), [*arguments, *given, "--variant", "mixnet-s"]) == 2
    assert not (tmp_path / "out.h5").exists()
    check = [] if name == "model.weights.h5" else ["--check"]  # at the size of the graph
    assert run(parser(), [*arguments, *given, *check]) == 0
    metadata = read_weights(tmp_path / "out.h5").metadata
    assert metadata.labels == ("one", "two", "three", "four", "five", "six")
    assert (metadata.preset, metadata.input_size, metadata.licence) == ("tf", 96, "MIT")
    assert metadata.preset_parameters == PRESETS["tf"][1]
    labels.write_text("one\ntwo\n")
    assert run(parser(), [*arguments, "--labels", str(labels)]) == 2


# -- .weights.h5 ----------------------------------------------------------------------------------


def other_layers(dense_se: bool, conv_classifier: bool) -> Any:
    """The same network in Keras with other kinds of layers than we would take."""
    keras = needed("keras")
    model = keras_model(WEIGHTS)

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if conv_classifier and isinstance(layer, keras.layers.Dense):
            return keras.layers.Conv2D(config["units"], 1, name=config["name"])
        if dense_se and "se_" in layer.name and isinstance(layer, keras.layers.Conv2D):
            return keras.layers.Dense(config["filters"], name=config["name"])
        return layer.__class__.from_config(config)

    return model, clone


@pytest.mark.parametrize("dense_se", [False, True])
@pytest.mark.parametrize("conv_classifier", [False, True])
def test_other_kinds_of_layers(dense_se: bool, conv_classifier: bool, tmp_path: Path) -> None:
    """Only the layers matter for the file: it has no graph, so the model need not run."""
    keras = needed("keras")
    model, clone = other_layers(dense_se, conv_classifier)
    layers = []
    for layer in model.layers:
        if layer.get_weights():
            new = clone(layer)
            wide = len(layer.input.shape) == 2 and isinstance(new, keras.layers.Conv2D)
            new.build((None, 1, 1, layer.input.shape[1]) if wide else layer.input.shape)
            new.set_weights([
                value.reshape(wanted.shape)
                for value, wanted in zip(layer.get_weights(), new.weights, strict=True)
            ])  # fmt: skip
            layers.append(new)

    class Holder(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = layers
            self.built = True

    Holder().save_weights(tmp_path / "a.weights.h5")
    assert_equal(convert(tmp_path / "a.weights.h5", tmp_path / "out.h5"), WEIGHTS)
    found = inspect(tmp_path / "a.weights.h5")
    assert (found["missing"], found["surplus"], found["network"]) == ([], [], "tiny")


def test_weights_without_a_layer(tmp_path: Path) -> None:
    h5py = needed("h5py")
    keras_model(WEIGHTS).save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        del file["layers/batch_normalization_3"]
    with pytest.raises(CheckpointError, match="batch_normalization: expected"):
        convert(tmp_path / "a.weights.h5", tmp_path / "out.h5")
    found = inspect(tmp_path / "a.weights.h5")
    assert len(found["missing"]) == 4
    assert found["surplus"] == []
