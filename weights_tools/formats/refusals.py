"""What to say about files that cannot be read: what they are, and what to do with them."""

import os
from pathlib import Path, PurePath
from typing import BinaryIO

from tinymixnet.errors import CheckpointError

EXTRACT = "python -m weights_tools extract"
CONVERT = "python -m weights_tools convert"

HDF5 = "an HDF5 file: weights that tinymixnet reads as they are, or a Keras model (.h5)"
KERAS = f"a Keras model (.keras); turn it into weights with: {CONVERT}"
PYTORCH = f"a PyTorch file; turn it into weights with: {CONVERT}"
OLD_PYTORCH = (
    "a PyTorch file of the old kind, all of it one pickle, which may run any code when it is "
    "loaded: in PyTorch, call torch.save(torch.load(FILE, weights_only=True), 'new.pth'), then: "
    f"{CONVERT} new.pth"
)
PICKLE = "a Python pickle, which may run any code when it is loaded"
ONNX = f"an ONNX model; turn it into weights with: {CONVERT}"
GRAPH = (
    "a TensorFlow graph (.pb), not a checkpoint of its variables; turn it into weights with: "
    f"{CONVERT}"
)
SAVED_MODEL = (
    "a TensorFlow SavedModel, not a checkpoint of the original graph; turn it into weights with: "
    f"{CONVERT}"
)
SAFETENSORS = f"a safetensors file; turn it into weights with: {CONVERT}"
CHECKPOINT = f"a TensorFlow checkpoint; turn it into weights with: {EXTRACT}"
VERSION_1 = (
    "a TensorFlow checkpoint of version 1; load it in TensorFlow and save it again with "
    "tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V2)"
)
OBJECT_BASED = (
    "an object-based TensorFlow checkpoint (of tf.train.Checkpoint or Keras's save_weights), whose "
    "names are those of Python attributes; expected the original graph's names: build the graph, "
    "restore it, and save it with tf.compat.v1.train.Saver"
)
WEB_PAGE = "a web page: the download failed, fetch the file again"
LFS_POINTER = "a pointer of Git LFS, not the file itself: run git lfs pull"
NUMPY = "NumPy arrays (.npy, .npz), not a checkpoint"
TFLITE = f"a TensorFlow Lite model; turn it into weights with: {CONVERT}"
GGUF = "a GGUF file, which holds no MixNet"
ZIP = "a zip file: unpack it and give what is in it"
PACKED = "packed with bzip2, xz, zstd or 7-Zip: unpack it first"
PHOTO = "a picture"
JSON = "a text file (JSON), not the tensors themselves: give the .safetensors file"

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of a table of LevelDB's kind

_BEGINNINGS = {
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": OLD_PYTORCH,  # before version 1.6
    b"\x80\x02": PICKLE,
    b"\x80\x03": PICKLE,
    b"\x80\x04": PICKLE,
    b"\x80\x05": PICKLE,
    b"\x93NUMPY": NUMPY,
    b"GGUF": GGUF,
    b"version https://git-lfs": LFS_POINTER,
    b"BZh": PACKED,
    b"\xfd7zXZ": PACKED,
    b"\x28\xb5\x2f\xfd": PACKED,
    b"7z\xbc\xaf": PACKED,
    b"\xff\xd8\xff": PHOTO,
    b"\x89PNG": PHOTO,
}
_SUFFIXES = {
    ".h5": "an empty or damaged HDF5 file (Keras's .h5, or weights of tinymixnet)",
    ".onnx": ONNX,
    ".pb": GRAPH,
    ".pbtxt": GRAPH,
    ".keras": KERAS,
    ".pt": PYTORCH,
    ".pth": PYTORCH,
    ".tflite": TFLITE,
    ".json": JSON,
}


def damaged(what: str) -> CheckpointError:
    """Return an error for a file that breaks the rules of its format."""
    return CheckpointError(f"{what}. It is damaged or cut short: copy or fetch it again")


def open_plain_file(path: Path, expected: str) -> BinaryIO:
    """Open a file for reading, but nothing else: opening a named pipe would wait for ever."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing; {expected}")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not a plain file"
        raise CheckpointError(f"{path} is {what}; {expected}")
    return path.open("rb")


def is_plain_beside(folder: Path, location: str) -> bool:
    """Whether this is the name of a plain file in a folder, which no link leads out of."""
    place = PurePath(location)
    inside = not place.is_absolute() and ".." not in place.parts and "\\" not in location
    linked = os.path.realpath(folder / place) != os.path.join(os.path.realpath(folder), place)
    return bool(location) and inside and not linked and (folder / place).is_file()


def is_table(path: Path) -> bool:
    """Whether a file ends as a checkpoint's index does, or a whole checkpoint of version 1."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        return file.read() == TABLE_MAGIC


def name_format(path: Path) -> str | None:
    """Say what a file or folder is and what to do with it; None for an unknown format."""
    if path.is_dir():
        saved = any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))
        return SAVED_MODEL if saved else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"PK\x03\x04":
        return _name_zip(head, path.suffix.lower())
    if head[8:10] == b'{"':
        return SAFETENSORS
    if head[4:8] == b"TFL3":
        return TFLITE
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if is_table(path):
        return CHECKPOINT if path.suffix == ".index" else VERSION_1
    for beginning, name in _BEGINNINGS.items():
        if head.startswith(beginning):
            return name
    return _SUFFIXES.get(path.suffix.lower())


def _name_zip(head: bytes, suffix: str) -> str:
    """Tell zip files apart by the name of their first member, which stands at byte 30."""
    member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if member.endswith((b"/data.pkl", b"/version")) or suffix in (".pt", ".pth"):
        return PYTORCH
    if suffix == ".keras" or member in (b"metadata.json", b"config.json"):
        return KERAS
    if member.endswith(b".npy"):
        return NUMPY
    return ZIP
