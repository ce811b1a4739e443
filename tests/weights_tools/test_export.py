"""export: each format is read by its own framework, gives our answers and comes back unchanged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.shared import SHARED
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
)
from tinymixnet.cli import run
from tinymixnet.debug.compare import compare
from tinymixnet.debug.dumps import open_dump
from tinymixnet.engine.kernels import normalize
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, read_weights
from tinymixnet.errors import InputError, TinyMixNetError
from tinymixnet.model import Model
from weights_tools.__main__ import EXPORTS, parser
from weights_tools.convert import convert
from weights_tools.export import FORMATS, export
from weights_tools.extract import extract
from weights_tools.record import record_onnx

FRAMEWORKS = {"onnx": "onnx", "openvino": "openvino", "keras": "keras"}
known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.weights_file(tmp_path_factory.mktemp("weights") / "small.h5")


def exported(weights: Path, kind: str, folder: Path, **options: Any) -> Path:
    if kind in FRAMEWORKS:
        needed(FRAMEWORKS[kind])
    path = folder / f"out{FORMATS[kind].ending}"
    export(weights, kind, path, **options)
    return path


# -- and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["safetensors", "npz", "onnx", "keras"])
def test_comes_back_to_the_last_bit(weights: Path, kind: str, tmp_path: Path) -> None:
    back = convert(exported(weights, kind, tmp_path), tmp_path / "back.h5")
    assert_equal(back, read_weights(weights))
    assert_equal(read_weights(tmp_path / "back.h5"), back)
    assert not back.metadata.folded


def test_a_checkpoint_comes_back_to_the_last_bit(weights: Path, tmp_path: Path) -> None:
    assert_equal(extract(exported(weights, "tf-checkpoint", tmp_path), tmp_path / "b.h5"), WEIGHTS)


def test_openvino_comes_back_with_batch_norm_folded(weights: Path, tmp_path: Path) -> None:
    """OpenVINO's converter folds batch norm, so the tensors are others and the answers are not."""
    back = convert(exported(weights, "openvino", tmp_path), tmp_path / "back.h5")
    assert back.metadata.folded
    assert set(back.tensors["stem/bn/gamma"]) == {1}
    assert distance(logits(), logits(back)) < CLOSE


@pytest.mark.parametrize("kind", ["safetensors", "onnx", "openvino"])
def test_our_metadata_travel_in_the_notes(weights: Path, kind: str, tmp_path: Path) -> None:
    back = convert(exported(weights, kind, tmp_path), tmp_path / "back.h5").metadata
    same = replace(METADATA, source=back.source, source_sha256=back.source_sha256)
    if kind == "openvino":
        same = replace(same, folded=True, mean=back.mean, std=back.std)
    assert back == same
    assert back.source == f"out{FORMATS[kind].ending}"


@pytest.mark.parametrize("averages", [True, False])
def test_checkpoints_of_averages_and_of_raw_values(tmp_path: Path, averages: bool) -> None:
    from tinymixnet.engine.weights_writer import write_weights

    metadata = replace(METADATA, averages=averages)
    write_weights(tmp_path / "in.h5", WEIGHTS._replace(metadata=metadata))
    path = exported(tmp_path / "in.h5", "tf-checkpoint", tmp_path)
    assert extract(path, tmp_path / "back.h5").metadata.averages is averages


# -- in their own frameworks ----------------------------------------------------------------------


def run_onnx(path: Path, name: str, x: np.ndarray) -> list[np.ndarray]:
    session = needed("onnxruntime").InferenceSession(path)
    return session.run(None, {name: np.ascontiguousarray(x)})


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_gives_our_answers(weights: Path, batch: int, tmp_path: Path) -> None:
    path = exported(weights, "onnx", tmp_path)
    pixels = PIXELS[:batch]
    answer, probabilities = run_onnx(path, "image", pixels.transpose(0, 3, 1, 2))
    assert distance(logits(pixels=pixels), answer) < CLOSE
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_onnx_with_other_inputs(weights: Path, tmp_path: Path) -> None:
    bgr = exported(weights, "onnx", tmp_path, channels="BGR")
    turned = PIXELS[..., ::-1].transpose(0, 3, 1, 2)
    assert distance(logits(), run_onnx(bgr, "image", turned)[0]) < CLOSE
    (tmp_path / "other").mkdir()
    plain = exported(weights, "onnx", tmp_path / "other", normalized=True, size=96)
    large = np.pad(PIXELS, ((0, 0), (0, 32), (0, 32), (0, 0)), mode="reflect")
    x = normalize(large, METADATA.mean, METADATA.std).transpose(0, 3, 1, 2)
    assert distance(logits(pixels=large), run_onnx(plain, "normalize", x)[0]) < CLOSE


def test_onnx_has_a_node_for_every_layer(weights: Path, tmp_path: Path) -> None:
    """Its nodes and tensors have our names, so a recording of it is compared by name alone."""
    path = exported(weights, "onnx", tmp_path)
    model = needed("onnx").load(path)
    needed("onnx").checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import] == [17]
    layers = [layer.name for layer in WEIGHTS.architecture.layers(64, 64)]
    nodes = [node.name for node in model.graph.node]
    assert [name for name in nodes if name in layers] == layers[1:]  # the first one is the image
    assert len(set(nodes)) == len(nodes)

    record_onnx(path, PIXELS.transpose(0, 3, 1, 2), tmp_path / "dump.npz")
    dump = open_dump(tmp_path / "dump.npz", WEIGHTS.architecture, *PIXELS.shape[:3])
    assert dump.names == layers[1:]
    assert dump.map == "canonical"
    comparison = compare(Model(*WEIGHTS).layers(PIXELS), dump)
    assert comparison.alike
    assert comparison.missing == ["image"]


def test_keras_gives_our_answers(weights: Path, tmp_path: Path) -> None:
    path = exported(weights, "keras", tmp_path)
    model = needed("keras").models.load_model(path, compile=False, safe_mode=True)
    assert model.inputs[0].shape == (None, 64, 64, 3)
    assert distance(logits(), model(PIXELS, training=False)) < CLOSE


def test_openvino_has_the_input_of_the_model_card(weights: Path, tmp_path: Path) -> None:
    openvino = needed("openvino")
    path = exported(weights, "openvino", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.bin", "out.xml"]
    model = openvino.Core().read_model(path)
    assert [*model.inputs[0].names] == ["image"]
    assert [*model.inputs[0].shape] == [1, 3, 64, 64]
    assert len(model.outputs) == 1
    x = np.ascontiguousarray(PIXELS[:1, ..., ::-1].transpose(0, 3, 1, 2))
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = Model(*WEIGHTS)(x, layout="NCHW", channels="BGR")
    assert distance(ours, compiled(x)[0]) < CLOSE


def test_the_pair_of_the_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint of the original code to OpenVINO, as docs/formats.md tells it."""
    openvino = needed("openvino")
    checkpoint = SHARED / "reference" / "mixnet-l"
    if not checkpoint.is_dir():
        pytest.skip(f"no {checkpoint}: it lies beside the repository where it is developed")
    monkeypatch.setattr("tinymixnet.engine.architecture.HEAD_FILTERS", 1536)
    extract(checkpoint, tmp_path / "mixnet-l.h5")
    export(tmp_path / "mixnet-l.h5", "openvino", tmp_path / "mixnet-l.xml")
    model = openvino.Core().read_model(tmp_path / "mixnet-l.xml")
    assert [*model.inputs[0].shape] == [1, 3, 224, 224]
    recorded = np.load(checkpoint / "activations.npz")
    x = np.ascontiguousarray(recorded["image"][:1, ..., ::-1].transpose(0, 3, 1, 2), np.float32)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = Model(*read_weights(tmp_path / "mixnet-l.h5"))(x, layout="NCHW", channels="BGR")
    assert distance(ours, compiled(x)[0]) < CLOSE
    assert distance(recorded["logits"][:1], compiled(x)[0]) < CLOSE


def test_tensorflow_reads_the_checkpoint(weights: Path, tmp_path: Path) -> None:
    tf = needed("tensorflow")
    folder = exported(weights, "tf-checkpoint", tmp_path)
    reader = tf.train.load_checkpoint(str(folder))  # finds model.ckpt by the file `checkpoint`
    names = reader.get_variable_to_shape_map()
    assert "tiny/mixnet_model/blocks_1/depthwise_conv2d_1/depthwise_kernel" in names
    kernel = reader.get_tensor("tiny/mixnet_model/head/dense/kernel/ExponentialMovingAverage")
    assert kernel.tobytes() == WEIGHTS.tensors["logits/kernel"].tobytes()
    assert len(names) == 2 * len(WEIGHTS.tensors) + 1


TIMM = """
import sys, numpy, timm, torch
network = timm.create_model("tf_mixnet_l", num_classes=200, checkpoint_path=sys.argv[1]).eval()
with torch.inference_mode():
    numpy.save(sys.argv[3], network(torch.from_numpy(numpy.load(sys.argv[2]))))
"""


def test_timm_loads_the_state_dict(tmp_path: Path) -> None:
    """In a process of its own: with TensorFlow already in it, importing torchvision can crash."""
    if not importlib.util.find_spec("timm"):
        pytest.skip("no timm: it is in the extra test-ports")
    path = exported(BUNDLED, "safetensors", tmp_path)
    model = Model(*read_weights(BUNDLED))
    x = normalize(PIXELS[:1], model.metadata.mean, model.metadata.std).transpose(0, 3, 1, 2)
    np.save(tmp_path / "in.npy", np.ascontiguousarray(x))
    files = path, tmp_path / "in.npy", tmp_path / "out.npy"
    subprocess.run([sys.executable, "-c", TIMM, *map(str, files)], check=True)
    assert distance(model(PIXELS[:1]), np.load(files[2])) < CLOSE


def test_safetensors_notes(weights: Path, tmp_path: Path) -> None:
    path = exported(weights, "safetensors", tmp_path)
    safetensors = needed("safetensors")
    with safetensors.safe_open(path, "np") as file:
        notes = file.metadata()
        assert file.get_tensor("conv_stem.weight").shape == (5, 3, 3, 3)
    assert notes["format"] == "pt"
    config = json.loads(notes["config"])
    assert config["architecture"] == notes["architecture"] == "tf_tiny"
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert config["pretrained_cfg"]["mean"] == pytest.approx([0.485, 0.456, 0.406])


# -- what is refused ------------------------------------------------------------------------------


def test_the_command_knows_every_format() -> None:
    assert tuple(FORMATS) == EXPORTS


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_of_the_users_is_overwritten(weights: Path, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{FORMATS[kind].ending}"
    if FORMATS[kind].ending:
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine").write_text("mine")
    with pytest.raises(InputError, match="something else is there"):
        export(weights, kind, path)
    left = path if path.is_file() else path / "mine"
    assert left.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bin_beside_an_xml_is_not_overwritten(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out.bin").write_text("mine")
    with pytest.raises(InputError, match=r"out\.bin: something else"):
        export(weights, "openvino", tmp_path / "out.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("onnx", "out.h5", {}, "ends in .onnx"),
        ("tflite", "out.tflite", {}, "expected one of safetensors, npz, onnx"),
        ("npz", "out.npz", {"size": 64}, "size: npz has no such setting; onnx, openvino, keras"),
        ("keras", "out.keras", {"channels": "BGR"}, "keras has no such setting"),
        ("onnx", "out.onnx", {"size": 31}, "expected 32 to 4096 pixels"),
        ("onnx", "out.onnx", {"channels": "GRB"}, "expected 'RGB' or 'BGR'"),
        ("onnx", "none/out.onnx", {}, "no folder"),
    ],
)
def test_wrong_wishes(
    weights: Path, kind: str, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export(weights, kind, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", FRAMEWORKS)
def test_a_missing_framework_is_named(
    weights: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, FRAMEWORKS[kind], None)
    with pytest.raises(TinyMixNetError, match=rf"pip install 'tinymixnet\[{kind}\]'"):
        export(weights, kind, tmp_path / f"out{FORMATS[kind].ending}")
    assert not list(tmp_path.iterdir())


def test_command(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.safetensors"
    assert run(parser(), ["export", str(weights), "--to", "safetensors", "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: tiny, 6 classes, for safetensors\n"
    wrong = ["export", str(weights), "--to", "npz", "-o", str(tmp_path / "a.npz"), "--normalized"]
    assert run(parser(), wrong) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert isinstance(read_weights(weights).metadata, Metadata)
