"""Tell by its content which format a file of weights has."""

import zipfile
from pathlib import Path

from tinymixnet.engine.hdf5 import SIGNATURE
from tinymixnet.errors import CheckpointError
from weights_tools.formats.refusals import name_format, open_plain_file

EXPECTED = (
    "expected .safetensors, .npz, PyTorch's .pth, .onnx, OpenVINO's .xml, a TensorFlow .pb or "
    "SavedModel folder, .tflite, or Keras's .keras, .h5 or .weights.h5"
)
ZIP = b"PK\x03\x04"
SMALLEST_ONNX_VERSION = 3  # of the file format; older files have no operator sets


def kind_of(path: Path) -> str:
    """Return what a file or folder is, or raise CheckpointError.

    That is safetensors, npz, pytorch, onnx, openvino, tensorflow (a frozen graph or a SavedModel),
    tflite, keras, or keras-weights (weights without their model).
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "tensorflow"
        raise CheckpointError(
            f"{path}: a folder, {name_format(path) or 'but no SavedModel'}; {EXPECTED}"
        )
    with open_plain_file(path, EXPECTED) as file:
        head = file.read(512)
    suffix = path.suffix.lower()
    if head[8:10] == b'{"' or suffix == ".safetensors":
        return "safetensors"
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(ZIP):
        return _kind_of_zip(path)
    if head.startswith(SIGNATURE):
        return _kind_of_hdf5(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"<?xml", b"<net")) and b"<net" in head:
        return "openvino"
    if kind := _kind_of_protobuf(head, suffix):
        return kind
    what = name_format(path)
    if suffix == ".bin":
        what = what or "perhaps the weights of an OpenVINO model: give its .xml"
    raise CheckpointError(f"{path}: {f'this is {what}; ' if what else ''}{EXPECTED}")


def is_known(path: Path) -> bool:
    """Whether this is no TensorFlow checkpoint, so that `kind_of` can say what it is."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        kind_of(path)
    except CheckpointError:  # of a damaged zip file, too, and that is no checkpoint either
        return path.is_file() and starts_as_zip(path)
    return True


def starts_as_zip(path: Path) -> bool:
    """Whether the first bytes of a file are those of a zip, whatever its name is."""
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises nearly any type on damaged files
        raise CheckpointError(f"{path}: a damaged zip file ({error})") from None
    if any(name.endswith("/data.pkl") for name in names):
        return "pytorch"
    if "config.json" in names and "model.weights.h5" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise CheckpointError(f"{path}: this is {name_format(path)}; {EXPECTED}")


def _kind_of_hdf5(path: Path) -> str:
    from tinymixnet.engine.hdf5 import Hdf5File

    structure = Hdf5File(path, isolated=True).structure
    attributes = structure.attributes
    if "block_strings" in attributes:
        raise CheckpointError(f"{path}: these are weights of tinymixnet already; {EXPECTED}")
    if any("model_config" in text for text in [*attributes, *structure.problems]):
        return "keras"
    if any("/vars/" in f"/{name}" for name in structure.datasets):
        return "keras-weights"
    return "keras"


def _kind_of_protobuf(head: bytes, suffix: str) -> str | None:
    """Tell ONNX from TensorFlow by the first field of the message; neither has a signature."""
    version = head[1] if head[:1] == b"\x08" and len(head) > 1 else 0
    if version >= SMALLEST_ONNX_VERSION and version < 0x80:
        return "onnx"
    if head[:1] == b"\x0a" or suffix == ".pb":
        return "tensorflow"
    return "onnx" if suffix == ".onnx" else None
