"""convert: graphs of every framework, read by the order of their operations and not by names."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_tensors
from tests.weights_tools import foreign
from tests.weights_tools.foreign import (
    CLOSE,
    METADATA,
    PIXELS,
    WEIGHTS,
    assert_equal,
    distance,
    logits,
    needed,
    save_with_keras,
)
from tinymixnet.cli import run
from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.weights import Weights, read_weights
from tinymixnet.errors import CheckpointError, TinyMixNetError
from tinymixnet.model import Model
from weights_tools.__main__ import parser
from weights_tools.convert import convert
from weights_tools.exporters.keras_model import keras_model
from weights_tools.exporters.onnx_graph import onnx_model
from weights_tools.exporters.openvino_ir import openvino_model
from weights_tools.formats.kinds import kind_of
from weights_tools.inspect_file import describe, inspect

METADATA_OF_ONE = replace(METADATA, labels=("cat",))
known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)


def check_converted(path: Path, folder: Path, folded: bool = True) -> Weights:
    """It gives our answers on both paths, and says whether batch norm was folded."""
    weights = convert(path, folder / "converted.h5")
    assert weights.architecture == WEIGHTS.architecture
    assert weights.metadata.folded is folded
    assert distance(logits(), logits(weights)) < CLOSE
    assert distance(logits(), dict(Model(*weights).layers(PIXELS))["logits"]) < CLOSE
    if folded:
        epsilon = np.float32(weights.metadata.epsilon)
        for kind, value in {"gamma": 1, "moving_mean": 0, "moving_variance": 1 - epsilon}.items():
            assert np.unique(weights.tensors[f"head/bn/{kind}"]) == pytest.approx([value], rel=1e-6)
    return weights


# -- ONNX -----------------------------------------------------------------------------------------


def save_onnx(path: Path, change: Callable[[Any], None] | None = None, **options: Any) -> Path:
    onnx = needed("onnx")
    model = onnx_model(WEIGHTS, **options)
    del model.metadata_props[:]  # our own note, which no other tool writes
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}"
    if change:
        change(model)
    onnx.save(model, path)
    return path


def renamed(model: Any) -> None:
    """Give every tensor a number in place of its name, as some exporters do."""
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"c{len(names)}")
    for node in model.graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = names.setdefault(name, f"t{len(names)}")
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]


def behind(operations: list[str]) -> Callable[[Any], None]:
    """Put nodes between every kernel and the convolution that takes it."""

    def change(model: Any) -> None:
        onnx = needed("onnx")
        nodes = list(model.graph.node)
        del model.graph.node[:]
        for node in nodes:
            if node.op_type == "Conv":
                [tensor] = [t for t in model.graph.initializer if t.name == node.input[1]]
                kernel, made = onnx.numpy_helper.to_array(tensor), tensor.name
                for operation in operations:
                    options = {"perm": [3, 2, 1, 0]} if operation == "Transpose" else {}
                    options |= {"to": onnx.TensorProto.FLOAT} if operation == "Cast" else {}
                    following = f"{made}>"
                    make = onnx.helper.make_node
                    model.graph.node.append(make(operation, [made], [following], **options))
                    made = following
                if "Transpose" in operations:
                    kernel = np.ascontiguousarray(kernel.transpose(3, 2, 1, 0))
                if "Cast" in operations:
                    kernel = kernel.astype(np.float64)
                tensor.CopyFrom(onnx.numpy_helper.from_array(kernel, tensor.name))
                node.input[1] = made
            model.graph.node.append(node)

    return change


@pytest.mark.parametrize(
    "operations", [[], ["Identity"], ["Transpose"], ["Cast"], ["Identity", "Cast", "Transpose"]]
)
def test_onnx(operations: list[str], tmp_path: Path) -> None:
    def change(model: Any) -> None:
        behind(operations)(model)
        renamed(model)

    weights = check_converted(save_onnx(tmp_path / "model.onnx", change), tmp_path, folded=False)
    assert_equal(weights, WEIGHTS)
    assert weights.metadata.input_size == 64
    assert weights.metadata.mean == METADATA.mean


def test_layers_of_a_single_output_channel(tmp_path: Path) -> None:
    """One class, and squeeze-and-excite of one unit: their kernels look like depthwise ones."""
    blocks = (*TINY.block_strings[:-1], "r2_k3.5_a1.1_p1_s11_e3_i9_o9_se0.11_sw")
    single = replace(TINY, classes=1, block_strings=blocks)
    assert single.blocks[-1].se_width == 1
    weights = Weights(single, synthetic_tensors(single), METADATA_OF_ONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", (blocks, TINY.stem_filters, 1.0))
        needed("onnx")
        (tmp_path / "model.onnx").write_bytes(onnx_model(weights).SerializeToString())
        assert_equal(convert(tmp_path / "model.onnx", tmp_path / "out.h5"), weights)


def optimized(folder: Path, level: str) -> Path:
    """The graph as ONNX Runtime saves it after it has optimised it."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(folder / "folded.onnx")
    options.log_severity_level = 4
    runtime.InferenceSession(str(save_onnx(folder / "model.onnx")), options)
    return folder / "folded.onnx"


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
def test_onnx_with_batch_norm_folded_by_onnx_runtime(level: str, tmp_path: Path) -> None:
    optimized(tmp_path, level)
    weights = check_converted(tmp_path / "folded.onnx", tmp_path)
    norms = [node for node in needed("onnx").load(tmp_path / "folded.onnx").graph.node
             if node.op_type == "BatchNormalization"]  # fmt: skip
    assert len(norms) < 20  # those behind a Concat stay, the others are gone
    assert weights.tensors["stem/bn/gamma"].tolist() == [1] * 5


def test_onnx_rearranged_for_one_processor(tmp_path: Path) -> None:
    path = optimized(tmp_path, "ORT_ENABLE_ALL")
    domains = {node.domain for node in needed("onnx").load(path).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("ONNX Runtime has no blocked layout for this processor or these channels")
    with pytest.raises(CheckpointError, match="take the file from before its optimisation"):
        convert(path, tmp_path / "out.h5")


def test_onnx_with_external_data(tmp_path: Path) -> None:
    onnx = needed("onnx")
    folder = tmp_path / "model"
    folder.mkdir()
    model = onnx.load(save_onnx(tmp_path / "whole.onnx"))
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="values.bin",
              size_threshold=0)  # fmt: skip
    assert (folder / "values.bin").stat().st_size > 10_000
    assert_equal(convert(folder / "model.onnx", tmp_path / "out.h5"), WEIGHTS)
    (folder / "values.bin").unlink()
    with pytest.raises(CheckpointError, match=r"its values should be in 'values\.bin'"):
        convert(folder / "model.onnx", tmp_path / "other.h5")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "", "a\\b.bin"])
def test_onnx_with_external_data_elsewhere(location: str, tmp_path: Path) -> None:
    onnx = needed("onnx")

    def change(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "model.onnx"
    model = onnx_model(WEIGHTS)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="expected a file in the folder") as caught:
        convert(path, tmp_path / "out.h5")
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("options", "mean", "sentence"),
    [
        ({}, METADATA.mean, "normalises inside; its input is RGB, 0..255"),
        ({"channels": "BGR"}, METADATA.mean, "normalises inside; its input is BGR, 0..255"),
        ({"normalized": True}, METADATA.mean, "no normalisation in the graph"),
    ],
)
def test_preprocessing_is_recognised(
    options: dict[str, Any], mean: tuple[float, ...], sentence: str, tmp_path: Path
) -> None:
    path = save_onnx(tmp_path / "model.onnx", **options)
    weights = convert(path, tmp_path / "out.h5", check=True)
    assert_equal(weights, WEIGHTS)
    assert weights.metadata.mean == mean
    assert any(sentence in line for line in describe(path))


def test_colours_of_0_to_1_are_recognised(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        onnx = needed("onnx")
        for tensor in model.graph.initializer:
            if tensor.name in ("normalize/mean", "normalize/std"):
                values = onnx.numpy_helper.to_array(tensor) / np.float32(255)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    path = save_onnx(tmp_path / "model.onnx", change)
    weights = convert(path, tmp_path / "out.h5", check=True)
    assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-6)
    assert any("its input is RGB, 0..1" in line for line in describe(path))


def test_symmetric_padding_is_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        for node in model.graph.node:
            options = {option.name: option for option in node.attribute}
            if node.op_type == "Conv" and [*options["strides"].ints] == [2, 2]:
                node.attribute.remove(options["auto_pad"])
                pads = [options["kernel_shape"].ints[0] // 2] * 4
                node.attribute.append(needed("onnx").helper.make_attribute("pads", pads))

    path = save_onnx(tmp_path / "model.onnx", change)
    with pytest.raises(CheckpointError, match="pads both sides alike where the stride is 2"):
        convert(path, tmp_path / "out.h5")


def test_symmetric_padding_of_an_odd_size_is_right(tmp_path: Path) -> None:
    """TensorFlow pads an image of 75 pixels a side alike on both sides, too."""

    def change(model: Any) -> None:
        stem = next(node for node in model.graph.node if node.op_type == "Conv")
        stem.attribute.remove(next(a for a in stem.attribute if a.name == "auto_pad"))
        stem.attribute.append(needed("onnx").helper.make_attribute("pads", [1, 1, 1, 1]))

    path = save_onnx(tmp_path / "odd.onnx", change, size=75)
    convert(path, tmp_path / "out.h5", check=True)
    with pytest.raises(CheckpointError, match="right only for the 75 pixels a side of its input"):
        convert(path, tmp_path / "other.h5", input_size=96)
    assert not (tmp_path / "other.h5").exists()
    path = save_onnx(tmp_path / "even.onnx", change, size=76)
    with pytest.raises(CheckpointError, match="pads both sides alike"):
        convert(path, tmp_path / "other.h5")


def test_a_network_that_is_no_mixnet(tmp_path: Path) -> None:
    onnx = needed("onnx")
    model = onnx_model(WEIGHTS)
    kernel = next(t for t in model.graph.initializer if t.name == "head/conv/kernel")
    wrong = np.zeros((16, 8, 1, 1), np.float32)
    kernel.CopyFrom(onnx.numpy_helper.from_array(wrong, kernel.name))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="head/conv: expected kernels"):
        convert(tmp_path / "model.onnx", tmp_path / "out.h5")
    lines = [*describe(tmp_path / "model.onnx")]
    assert "network: tiny" in lines  # the nearest
    assert any(line.startswith("missing: head/conv/kernel, head/bn/gamma") for line in lines)
    assert any(line.startswith("problem: no known network; nearest is tiny") for line in lines)


def test_check_finds_a_difference(tmp_path: Path) -> None:
    """A graph whose tensors fit and that computes something else: its swish is none."""

    def change(model: Any) -> None:
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "HardSigmoid"

    path = save_onnx(tmp_path / "model.onnx", change)
    convert(path, tmp_path / "unchecked.h5")
    with pytest.raises(CheckpointError, match="other answers than the converted weights"):
        convert(path, tmp_path / "out.h5", check=True)
    assert not (tmp_path / "out.h5").exists()


def test_check_is_not_blinded_by_certain_probabilities(tmp_path: Path) -> None:
    """Logits in the thousands make one class certain, and then wrong ones may look the same."""

    def change(model: Any) -> None:
        onnx = needed("onnx")
        for tensor in model.graph.initializer:
            if tensor.name == "logits/kernel":
                large = 10_000 * onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(large, tensor.name))
        for node in model.graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "HardSigmoid"

    path = save_onnx(tmp_path / "model.onnx", change)
    with pytest.raises(CheckpointError, match="other answers"):
        convert(path, tmp_path / "out.h5", check=True)


# -- TensorFlow, Keras, TensorFlow Lite, OpenVINO -------------------------------------------------


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Keras model, saved in every way that there is."""
    folder = tmp_path_factory.mktemp("keras")
    save_with_keras(folder).save(folder / "model.h5")  # the old format
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "folded"),
    [
        ("model.keras", "keras", False),
        ("model.h5", "keras", False),
        ("frozen.pb", "tensorflow", True),
        ("saved", "tensorflow", True),
        ("model.tflite", "tflite", True),
        ("model.weights.h5", "keras-weights", False),
    ],
)
def test_what_keras_saves(
    keras_files: Path, name: str, kind: str, folded: bool, tmp_path: Path
) -> None:
    path = tmp_path / "renamed"
    copy = shutil.copytree if (keras_files / name).is_dir() else shutil.copyfile
    copy(keras_files / name, path)  # the content tells what it is, not the name
    assert kind_of(path) == kind
    weights = check_converted(path, tmp_path, folded)
    if not folded:
        assert_equal(weights, WEIGHTS)
    if kind != "keras-weights":
        convert(path, tmp_path / "checked.h5", check=True)
        assert weights.metadata.input_size == 64
        assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-6)


def test_a_keras_model_of_other_layers(tmp_path: Path) -> None:
    """Activations inside the convolutions, Rescaling, and the classifier as a convolution."""
    keras = needed("keras")
    model = keras_model(WEIGHTS, normalized=True)
    image = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    mean, std = (np.array(v, np.float32) / 255 for v in (METADATA.mean, METADATA.std))
    x = keras.layers.Normalization(mean=mean, variance=std**2)(x)
    keras.Model(image, model(x)).save(tmp_path / "model.keras")  # a model in a model
    weights = check_converted(tmp_path / "model.keras", tmp_path)
    assert weights.metadata.mean == pytest.approx(METADATA.mean, rel=1e-5)
    assert weights.metadata.std == pytest.approx(METADATA.std, rel=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_kernels_of_8_bits_with_scales(kind: str, tmp_path: Path) -> None:
    """They become the floats that they stand for: whole multiples of the channel's scale."""
    onnx = needed("onnx")
    scales: dict[str, np.ndarray] = {}

    def change(model: Any) -> None:
        for tensor in list(model.graph.initializer):
            kernel = onnx.numpy_helper.to_array(tensor)
            if kernel.ndim != 4 or "kernel" not in tensor.name:
                continue
            scale = np.abs(kernel).max((1, 2, 3)) / np.float32(127)
            scales[tensor.name] = scale
            whole = np.round(kernel / scale[:, None, None, None]).astype(np.int8)
            parts = {"values": whole, "scale": scale, "zero": np.zeros(len(scale), np.int8)}
            names = []
            for part, array in parts.items():
                names.append(f"{tensor.name}/{part}")
                model.graph.initializer.append(onnx.numpy_helper.from_array(array, names[-1]))
            node = onnx.helper.make_node("DequantizeLinear", names, [tensor.name], axis=0)
            model.graph.node.insert(0, node)
            model.graph.initializer.remove(tensor)

    path = save_onnx(tmp_path / "model.onnx", change)
    if kind == "openvino":
        openvino = needed("openvino")
        small = openvino.convert_model(path, input=[("image", [1, 3, 64, 64])])
        openvino.save_model(small, tmp_path / "model.xml", compress_to_fp16=False)
        path = tmp_path / "model.xml"
    weights = convert(path, tmp_path / "out.h5", check=True)
    kernel = weights.tensors["head/conv/kernel"][0, 0]
    steps = kernel / scales["head/conv/kernel"]
    if kind == "onnx":
        assert np.abs(steps - np.round(steps)).max() < 1e-4
    assert 1e-4 < distance(logits(), logits(weights)) < 0.2


@pytest.mark.parametrize(("size", "pixels"), [(1 << 40, 0), (1536, 1 << 30)])
def test_hostile_keras_models(size: int, pixels: int, keras_files: Path, tmp_path: Path) -> None:
    """A layer of far too many units, and a file that unpacks to a gigabyte."""
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(keras_files / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = files["config.json"].replace(b'"units": 6', b'"units": %d' % size)
    assert config != files["config.json"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (files | {"config.json": config}).items():
            archive.writestr(name, content)
        if pixels:
            archive.writestr("assets/bomb", bytes(pixels))
    with pytest.raises(CheckpointError, match=r"refused|at most"):
        convert(path, tmp_path / "out.h5")


@pytest.mark.parametrize("short", [False, True])
def test_openvino(short: bool, tmp_path: Path) -> None:
    openvino = needed("openvino")
    openvino.save_model(openvino_model(WEIGHTS), tmp_path / "model.xml", compress_to_fp16=short)
    assert kind_of(tmp_path / "model.xml") == "openvino"
    weights = convert(tmp_path / "model.xml", tmp_path / "out.h5", check=True)
    assert weights.metadata.folded
    assert distance(logits(), logits(weights)) < (5e-3 if short else CLOSE)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.bin in the same folder"):
        convert(tmp_path / "model.xml", tmp_path / "other.h5")


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_as_json(
    keras_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = inspect(save_onnx(tmp_path / "model.onnx"))
    assert (found["kind"], found["network"], found["problem"]) == ("onnx", "tiny", "")
    assert {"name": "stem/bn/beta", "dtype": "float32", "shape": [5]} in found["tensors"]
    for name in ("model.keras", "frozen.pb", "saved", "model.tflite", "model.weights.h5"):
        assert run(parser(), ["inspect", str(keras_files / name), "--json"]) == 0
        assert '"network": "tiny"' in capsys.readouterr().out


# -- damaged files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "model.keras", "frozen.pb", "model.tflite"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_cut_short(keras_files: Path, name: str, share: float, tmp_path: Path) -> None:
    whole = keras_files / name if name != "model.onnx" else save_onnx(tmp_path / "whole")
    content = whole.read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(TinyMixNetError) as caught:
        convert(tmp_path / name, tmp_path / "out.h5")
    assert str(caught.value).isprintable()
    assert name in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert run(parser(), ["inspect", str(tmp_path / name)]) in (0, 2)


@pytest.mark.parametrize("name", ["picture.jpg", "text.txt", "empty", "model.bin"])
def test_what_holds_no_weights(name: str, tmp_path: Path) -> None:
    content = {"picture.jpg": b"\xff\xd8\xff\xe0", "text.txt": b"hello", "model.bin": b"\0" * 99}
    (tmp_path / name).write_bytes(content.get(name, b""))
    with pytest.raises(CheckpointError, match=r"expected \.safetensors, \.npz"):
        convert(tmp_path / name, tmp_path / "out.h5")


def test_our_own_weights_need_no_conversion(tmp_path: Path) -> None:
    path = foreign.weights_file(tmp_path / "small.h5")
    with pytest.raises(CheckpointError, match="weights of tinymixnet already"):
        convert(path, tmp_path / "out.h5")
    assert_equal(read_weights(path), WEIGHTS)


def test_check_says_how_much_is_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above what is usual, both sides are compared with the same network in float64."""
    path = save_onnx(tmp_path / "model.onnx")
    convert(path, tmp_path / "out.h5", check=True)
    assert "float64" not in capsys.readouterr().out
    monkeypatch.setattr("weights_tools.check_original.USUAL_DIFFERENCE", -1)
    convert(path, tmp_path / "out.h5", check=True)
    said = re.search(
        r"(\S+) \(to the same network in float64: ours (\S+), the original (\S+)\)",
        capsys.readouterr().out,
    )
    assert said
    difference, ours, theirs = map(float, said.groups())
    assert 0 < ours < 1e-5
    assert 0 < theirs < 1e-5
    assert difference <= 1.1 * (ours + theirs)
