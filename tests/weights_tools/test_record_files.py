"""Recorders of files: OpenVINO's and TensorFlow Lite's; and what a file is, whatever its name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.side_network import network
from benchmarks.side_tensorflow import TensorFlowOperations
from tests.support.synthetic import TINY
from tests.weights_tools.recorded import (
    ABOUT,
    NORMALISED,
    OURS,
    PIXELS,
    TENSORS,
    layers,
    left_behind,
    needed,
    to_nchw,
    write_onnx,
)
from tinymixnet.cli import run
from tinymixnet.debug.traces import open_trace
from tinymixnet.engine.weights import Weights
from tinymixnet.errors import InputError, TraceError
from weights_tools.__main__ import parser
from weights_tools.record import kind_of_file, record_file, record_openvino, record_tflite


@pytest.fixture(scope="module")
def openvino_file(tmp_path_factory) -> Path:
    """The network as OpenVINO converts it from ONNX: model.xml, with model.bin beside it."""
    needed("onnxruntime")
    openvino = needed("openvino")
    folder = tmp_path_factory.mktemp("openvino")
    model = openvino.convert_model(str(write_onnx(folder / "tiny.onnx")))
    openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
    return folder / "model.xml"


def converted(folder: Path, name: str, eight_bits: bool) -> Path:
    tf = needed("tensorflow")
    operations = TensorFlowOperations(Weights(TINY, TENSORS, ABOUT))

    def answer(image):
        return {"answer": tf.nn.softmax(network(operations, image, TINY))}

    signature = tf.TensorSpec((1, *PIXELS.shape[1:]), name="image")
    function = tf.function(answer, input_signature=[signature]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], operations)
    if eight_bits:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: [[x[None]] for x in NORMALISED] * 4
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
    (folder / name).write_bytes(converter.convert())
    return folder / name


@pytest.fixture(scope="module")
def lite_file(tmp_path_factory) -> Path:
    return converted(tmp_path_factory.mktemp("lite"), "model.tflite", eight_bits=False)


def held(trace, ours):
    """The layers of ours that some recorded tensor equals, whatever its name, in NHWC or NCHW."""
    stored = [trace[name] for name in trace.names]
    stored += [x.transpose(0, 2, 3, 1) for x in stored if x.ndim == 4]
    return {
        name
        for name, x in ours.items()
        if any(y.shape == x.shape and np.abs(y - x).max() < 1e-4 * np.abs(x).max() for y in stored)
    }


# -- OpenVINO -------------------------------------------------------------------------------------


def test_openvino_every_node(tmp_path, openvino_file):
    openvino = needed("openvino")
    count = record_openvino(openvino_file, to_nchw(NORMALISED), tmp_path / "dump")
    trace = open_trace(tmp_path / "dump")
    nodes = openvino.Core().read_model(openvino_file).get_ordered_ops()
    names = [node.get_friendly_name() for node in nodes]
    assert len(trace.names) == count
    assert {name.split(".")[0] for name in trace.names} <= {name.split(".")[0] for name in names}
    assert any("WithoutBiases" in name for name in trace.names)  # a scale is in the weights
    places = [names.index(name) for name in trace.names if name in names]
    assert places == sorted(places)
    assert held(trace, OURS) >= {*layers("project_bn", "output", "logits")}
    record_openvino(openvino_file, {"image": to_nchw(NORMALISED)}, tmp_path / "some", ["*/Relu*"])
    some = open_trace(tmp_path / "some")
    assert some.names == [name for name in trace.names if "/Relu" in name]
    for name in some.names:
        np.testing.assert_allclose(some[name], trace[name], rtol=1e-5, atol=1e-5)


def test_openvino_says_what_is_wrong(tmp_path, openvino_file):
    pixels = to_nchw(NORMALISED)
    text = openvino_file.read_bytes()
    alone = tmp_path / "alone.xml"
    alone.write_bytes(text)  # without its .bin
    with pytest.raises(TraceError, match=r"alone.xml: cannot be recorded"):
        record_openvino(alone, pixels, tmp_path / "dump")
    shutil.copy(openvino_file.with_suffix(".bin"), tmp_path / "cut.bin")
    for length in (10, 1000, len(text) // 2, len(text) - 10):
        (tmp_path / "cut.xml").write_bytes(text[:length])
        with pytest.raises(TraceError, match=r"cut.xml: cannot be recorded") as caught:
            record_openvino(tmp_path / "cut.xml", pixels, tmp_path / "dump")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no layer is called nonsense"):
        record_openvino(openvino_file, pixels, tmp_path / "dump", ["nonsense"])
    with pytest.raises(TraceError, match="takes the inputs"):
        record_openvino(openvino_file, {"picture": pixels}, tmp_path / "dump")
    with pytest.raises(TraceError, match="cannot be recorded"):
        record_openvino(openvino_file, NORMALISED, tmp_path / "dump")  # NHWC
    assert left_behind(tmp_path) == ["alone.xml", "cut.bin", "cut.xml"]


# -- TensorFlow Lite ------------------------------------------------------------------------------


def test_tflite_every_tensor(tmp_path, lite_file):
    count = record_tflite(lite_file, NORMALISED[:1], tmp_path / "dump")
    trace = open_trace(tmp_path / "dump")
    assert len(trace.names) == count > 60
    ours = {name: x[:1] for name, x in OURS.items()}
    assert held(trace, ours) >= {*layers("output", "probabilities")}
    assert trace[trace.names[-1]].shape == ours["probabilities"].shape


def test_tflite_of_8_bits_is_recorded_as_real_numbers(tmp_path):
    file = converted(tmp_path, "int8.tflite", eight_bits=True)
    record_tflite(file, NORMALISED[:1], tmp_path / "dump.npz")
    trace = open_trace(tmp_path / "dump.npz")
    assert {trace.header(name).dtype.name for name in trace.names} == {"float32"}
    stem = next(x for x in map(trace.__getitem__, trace.names) if x.ndim == 4)
    ours = OURS["stem/act"][:1]
    assert stem.shape == ours.shape
    assert np.abs(stem - ours).max() < 0.03 * ours.max()  # 8 bits, and not its integers
    assert len(np.unique(stem)) <= 256
    theirs = trace[trace.names[-1]]
    assert theirs.shape == (1, 6)
    assert 0.95 < theirs.sum() < 1.05


def test_tflite_damaged_files_do_not_crash_the_process(tmp_path, lite_file):
    """The interpreter believes what a file says: only a check beforehand saves it."""
    data = lite_file.read_bytes()
    for length in (3, 30, 3000, len(data) // 2, len(data) - 100):
        (tmp_path / "cut.tflite").write_bytes(data[:length])
        with pytest.raises(TraceError, match=r"cut.tflite: cannot be recorded") as caught:
            record_tflite(tmp_path / "cut.tflite", NORMALISED[:1], tmp_path / "dump")
        assert "\n" not in str(caught.value)
    with pytest.raises(TraceError, match="cannot be recorded"):
        record_tflite(lite_file, NORMALISED[:1, :, :, :2], tmp_path / "dump")
    assert left_behind(tmp_path) == ["cut.tflite"]


# -- what a file is -------------------------------------------------------------------------------


def test_files_are_known_by_their_content(tmp_path, openvino_file, lite_file, capsys):
    shutil.copy(lite_file, tmp_path / "lite.onnx")
    shutil.copy(openvino_file, tmp_path / "vino.txt")
    shutil.copy(openvino_file.with_suffix(".bin"), tmp_path / "vino.bin")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with zipfile.ZipFile(tmp_path / "module.zip", "w") as archive:
        archive.writestr("module/data.pkl", b"")
    (tmp_path / "saved").mkdir()
    kinds = {path.name: kind_of_file(path) for path in tmp_path.iterdir()}
    assert kinds == {
        "lite.onnx": "tflite",
        "vino.txt": "openvino",
        "vino.bin": "",
        "weights.h5": "keras",
        "module.zip": "torch",
        "saved": "",
    }
    assert kind_of_file(lite_file) == "tflite"
    np.save(tmp_path / "input.npy", NORMALISED[:1])
    arguments = [str(tmp_path / "input.npy"), "-o", str(tmp_path / "dump")]
    assert run(parser(), ["record", str(tmp_path / "lite.onnx"), *arguments]) == 0
    capsys.readouterr()
    for other in ("module.zip", "vino.bin", "saved"):
        assert run(parser(), ["record", str(tmp_path / other), *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        for kind in (".onnx", ".keras", ".h5", ".tflite", ".xml", ".pb", "SavedModel", "PyTorch"):
            assert kind in said


def test_missing_packages_name_their_extra(tmp_path, openvino_file, lite_file, monkeypatch):
    for package in ("openvino", "ai_edge_litert", "ai_edge_litert.interpreter", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
    for file, extra in ((openvino_file, "record-openvino"), (lite_file, "record-tflite")):
        with pytest.raises(TraceError, match=rf"pip install 'tinymixnet\[{extra}\]'"):
            record_file(file, NORMALISED, tmp_path / "dump", ["*"])


def test_tflite_says_nothing_but_the_result(tmp_path, lite_file):
    """TensorFlow's own warnings would hide the one line that counts."""
    np.save(tmp_path / "input.npy", NORMALISED[:1, :, :, :2])
    command = [sys.executable, "-m", "weights_tools", "record", str(lite_file)]
    command += [str(tmp_path / "input.npy"), "-o", str(tmp_path / "dump")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tinymixnet") or "recorded" in done.stderr
    assert "DeprecationWarning" not in done.stderr
    assert "warnings.warn" not in done.stderr
