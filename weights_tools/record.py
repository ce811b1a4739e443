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
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from tinymixnet.debug.arrays import NpyFiles, reading
from tinymixnet.engine.hdf5 import SIGNATURE
from tinymixnet.errors import TraceError
from weights_tools.graphs.from_keras import load_model
from weights_tools.recorders.keras_models import record_keras
from weights_tools.recorders.onnx_files import record_onnx
from weights_tools.recorders.openvino_files import record_openvino
from weights_tools.recorders.shared import StrPath, import_package, loading, one_line
from weights_tools.recorders.tensorflow_graphs import record_tensorflow
from weights_tools.recorders.tflite_files import record_tflite
from weights_tools.recorders.torch_modules import record_torch

__all__ = [
    "read_input", "record_file", "record_keras", "record_onnx", "record_openvino",
    "record_tensorflow", "record_tflite", "record_torch",
]  # fmt: skip

KINDS = ".onnx, .keras, .h5, .tflite, OpenVINO's .xml, a frozen .pb or a SavedModel's folder"
_BY_SUFFIX = {
    ".onnx": "onnx",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".pb": "tensorflow",
    ".tflite": "tflite",
    ".xml": "openvino",
    ".pt": "torch",
    ".pth": "torch",
}


def record_file(file: StrPath, inputs: np.ndarray, path: StrPath, layers: Sequence[str]) -> int:
    """Record a file of any kind in `KINDS` that takes one input."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs a lot when it starts
    if not os.path.exists(file):
        raise TraceError(f"{file}: no such file or folder")
    if not os.path.isdir(file) and not os.path.isfile(file):  # reading a pipe would wait for ever
        raise TraceError(f"{file}: neither a file nor a folder")
    kind = kind_of_file(Path(file))
    if kind == "keras":
        keras = import_package("keras", "record-tensorflow")
        with loading(file):
            model = load_model(keras, Path(file))
        with one_line(file):
            return record_keras(model, inputs, path, layers)
    recorders = {
        "onnx": record_onnx,
        "tensorflow": record_tensorflow,
        "tflite": record_tflite,
        "openvino": record_openvino,
    }
    if kind in recorders:
        return recorders[kind](file, inputs, path, layers)
    raise TraceError(
        f"{file}: expected {KINDS}; no file of a PyTorch module is safe to load: call "
        "weights_tools.record.record_torch from Python"
    )


def kind_of_file(path: Path) -> str:
    """Return what a file or folder is: by its first bytes, or else by the end of its name.

    ONNX files and frozen graphs begin with nothing of their own. "" for what nothing tells.
    """
    with reading(path):
        if path.is_dir():
            return "tensorflow" if (path / "saved_model.pb").exists() else ""
        with open(path, "rb") as stream:
            start = stream.read(4096)
        if start[4:8] == b"TFL3":
            return "tflite"
        if start[:8] == SIGNATURE:
            return "keras"
        if start.lstrip()[:1] == b"<" and b"<net" in start:
            return "openvino"
        if start[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                members = {member.rpartition("/")[2] for member in archive.namelist()}
            if "data.pkl" in members:
                return "torch"
        return _BY_SUFFIX.get(path.suffix.lower(), "")


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
