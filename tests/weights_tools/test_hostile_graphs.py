"""convert and inspect: files of other frameworks that ask for more than a network needs."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import threading
import zipfile
from configparser import ConfigParser
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.weights_tools import foreign
from tests.weights_tools.foreign import needed
from tinymixnet.errors import CheckpointError, TinyMixNetError
from weights_tools.convert import convert
from weights_tools.graphs.graph import Graph, Node
from weights_tools.inspect_file import inspect

known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)


def test_a_pickle_with_an_endless_bytearray(tmp_path: Path) -> None:
    """Python makes the bytearray, of 3 GB here, before it reads the bytes."""
    path, before = tmp_path / "model.pth", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with zipfile.ZipFile(path, "w") as archive:
        content = b"\x80\x05" + pickle.BYTEARRAY8 + struct.pack("<Q", 3 << 30) + b"."
        archive.writestr("model/data.pkl", content)
    with pytest.raises(CheckpointError, match="holds a bytearray"):
        convert(path, tmp_path / "out.h5")
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 1 << 30


@pytest.mark.parametrize("operation", ["Add", "Mul", "DequantizeLinear"])
def test_a_constant_that_would_be_huge(operation: str) -> None:
    """A column and a row together are a table of 10^10 numbers; it is not computed."""
    column, row = np.ones((100_000, 1), np.float32), np.ones((1, 100_000), np.float32)
    if operation == "DequantizeLinear":
        column, row = np.ones((100_000, 1), np.int8), row.ravel()
        node = Node(operation, "", ("a", "b"), ("c",), {"axis": 1})
    else:
        node = Node(operation, "", ("a", "b"), ("c",))
    graph = Graph("ONNX", (node,), {"a": column, "b": row}, ())
    if operation == "DequantizeLinear":
        with pytest.raises(ValueError, match="100000 scales"):
            graph.with_constants_computed()
    else:
        assert "c" not in graph.with_constants_computed().constants


def test_many_constants_that_would_be_huge_together() -> None:
    nodes = [Node("Add", "", (f"x{i}", f"x{i}"), (f"x{i + 1}",)) for i in range(100)]
    graph = Graph("ONNX", tuple(nodes), {"x0": np.ones(1 << 22, np.float32)}, ())
    assert 10 < len(graph.with_constants_computed().constants) < 20


@pytest.mark.parametrize("ends", [("a", "b"), ("b", "a")])
def test_operations_in_a_circle(ends: tuple[str, str], tmp_path: Path) -> None:
    """Whoever follows a tensor to its end, or back to its beginning, would walk for ever."""
    onnx = needed("onnx")
    helper, values = onnx.helper, np.ones((5, 3, 3, 3), np.float32)
    kernel = onnx.numpy_helper.from_array(values, "kernel")
    x, y = (helper.make_tensor_value_info(name, 1, None) for name in "xy")
    conv = helper.make_node("Conv", ["b", "kernel"], ["a"])
    nodes = [conv, *(helper.make_node("Identity", [one], [other]) for one, other in (ends, "ab"))]
    graph = helper.make_graph(nodes, "g", [x], [y], [kernel])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="in no order in which they could be computed"):
        convert(tmp_path / "model.onnx", tmp_path / "out.h5")
    with pytest.raises(CheckpointError, match="in no order in which they could be computed"):
        inspect(tmp_path / "model.onnx")


def test_external_data_behind_a_linked_folder(tmp_path: Path) -> None:
    onnx = needed("onnx")
    for name in ("model", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret" / "values.bin").write_bytes(bytes(1000))
    (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
    model = onnx.ModelProto(ir_version=8)
    tensor = model.graph.initializer.add(name="a", data_type=onnx.TensorProto.FLOAT, dims=[10])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="link/values.bin")
    (tmp_path / "model" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="expected a file in the folder"):
        convert(tmp_path / "model" / "model.onnx", tmp_path / "out.h5")


@pytest.mark.parametrize("name", ["model.xml", "model.h5", "model.keras", "model"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    said: list[str] = []

    def look() -> None:
        for command in (inspect, lambda path: convert(path, tmp_path / "out.h5")):
            with pytest.raises(TinyMixNetError) as caught:
                command(tmp_path / name)
            said.append(str(caught.value))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert len(said) == 2


def test_an_openvino_model_whose_weights_are_a_link(tmp_path: Path) -> None:
    needed("openvino")
    (tmp_path / "model.xml").write_text("<?xml version='1.0'?><net/>")
    (tmp_path / "model.bin").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match=r"found a link; expected model\.bin in the same"):
        convert(tmp_path / "model.xml", tmp_path / "out.h5")


def test_an_openvino_model_of_far_too_much_text(tmp_path: Path) -> None:
    needed("openvino")
    (tmp_path / "model.xml").write_text("<?xml version='1.0'?><net>" + "<a/>" * (5 << 20))
    (tmp_path / "model.bin").touch()
    with pytest.raises(CheckpointError, match="refused, a description of 20,971,546 bytes"):
        convert(tmp_path / "model.xml", tmp_path / "out.h5")


@pytest.mark.parametrize("name", ["model.weights.h5", "model.npz"])
def test_a_file_of_a_hundred_gigabytes_of_nothing(name: str, tmp_path: Path) -> None:
    """On most disks it takes no place, but to read all of it would take minutes."""
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, x=np.ones(3))
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            start = archive.start_dir
        with path.open("wb") as file:
            file.write(content[:start])
            file.seek(100 << 30)
            file.write(content[start:])
    else:
        with h5py.File(path, "w") as stored:
            stored["layers/dense/vars/0"] = np.ones(3, np.float32)
        os.truncate(path, 100 << 30)
    with pytest.raises(CheckpointError, match="the file asks for 107,374,182,4"):
        convert(path, tmp_path / "out.h5")


def test_a_wide_layer_in_an_old_keras_file(tmp_path: Path) -> None:
    needed("keras")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"config": {"units": 1 << 40}})
    with pytest.raises(CheckpointError, match="refused, its description has the size"):
        convert(tmp_path / "model.h5", tmp_path / "out.h5")


def test_every_extra_that_a_message_names_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    settings = ConfigParser()
    settings.read(root / "setup.cfg")
    named = {
        extra
        for path in (root / "weights_tools").rglob("*.py")
        for extra in re.findall(r'import_extra\("[^"]+", "([^"]+)"\)', path.read_text("utf-8"))
    }
    assert {"onnx", "openvino", "tensorflow", "keras", "timm"} <= named
    assert named <= {*settings["options.extras_require"]}


GARBAGE = {
    "model.pb": (b"\x0a", "tensorflow"),
    "model.tflite": (b"\x1c\0\0\0TFL3", "tensorflow"),
    "model.onnx": (b"\x08\x08", "onnx"),
    "model.keras": (b"PK\x03\x04", "numpy"),
}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("convert", "model.pb"),
        ("record", "model.pb"),
        ("inspect", "model.tflite"),
        ("convert", "model.onnx"),
        ("inspect", "model.keras"),
    ],
)
def test_a_damaged_file_gives_one_line(command: str, name: str, tmp_path: Path) -> None:
    """Also where the framework would greet with lines of its own: in a process of its own."""
    start, framework = GARBAGE[name]
    needed(framework)
    path, out = tmp_path / name, str(tmp_path / "out")
    path.write_bytes(start + bytes(range(256)) * 8)
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8, 3), np.float32))
    rest = {"convert": ["-o", f"{out}.h5"], "record": [str(tmp_path / "x.npy"), "-o", out]}
    words = [command, str(path), *rest.get(command, [])]
    run = [sys.executable, "-m", "weights_tools", *words]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(rf"python -m weights_tools: {re.escape(str(path))}: .+\n", done.stderr)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, "x.npy"])
