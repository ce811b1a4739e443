"""Write a weights file that `weights.read_weights` accepts; that module describes the format."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.files import atomic_write, check_output
from tinymixnet.engine.metadata import default_labels, to_attributes
from tinymixnet.engine.weights import (
    Weights,
    checksum,
    join_problems,
    read_weights,
    shape_problems,
    value_problems,
)
from tinymixnet.errors import InputError, TinyMixNetError, WeightsError, printable, short_repr

if TYPE_CHECKING:
    import h5py


def write_weights(path: str | os.PathLike[str], weights: Weights, float16: bool = False) -> None:
    """Write a weights file; with float16 at half the size.

    The same weights give the same bytes. A file that is there already is replaced. Raises
    WeightsError for tensors that do not fit the architecture or are not finite (or not in float16),
    for labels and metadata that `read_weights` would refuse, and when the file cannot be written:
    a link, a device or a pipe is never replaced.
    """
    try:
        check_output(path, force=True)
    except InputError as error:
        raise WeightsError(str(error)) from None
    if not isinstance(weights, Weights):
        raise WeightsError(f"weights: expected Weights, found {short_repr(weights)}")
    dtype = np.float16 if float16 else np.float32
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(t, dtype) for name, t in weights.tensors.items()}
    problems = shape_problems({name: t.shape for name, t in tensors.items()}, weights.architecture)
    problems += [p for name, t in tensors.items() for p in value_problems(name, t)]
    if problems:
        raise WeightsError(f"{path}: not written, " + join_problems(problems))
    try:
        content = _serialize(weights._replace(tensors=tensors))
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
            _read_back(temporary)
    except TinyMixNetError as error:
        raise WeightsError(f"{path}: not written, {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from None


def _read_back(written: Path) -> None:
    """Read the file, and raise the reader's error without the name of the temporary file."""
    try:
        read_weights(written)
    except WeightsError as error:
        raise WeightsError(str(error).removeprefix(f"{printable(written)}: ")) from None


def _serialize(weights: Weights) -> bytes:
    """The bytes of the file, made in memory: a full disk can crash the HDF5 library."""
    import h5py
    from h5py._objects import phil  # h5py's own lock, which some functions below do not take

    architecture, tensors, metadata = weights
    memory = BytesIO()
    with phil, _create(memory, architecture) as file:
        for name in architecture.tensor_shapes():
            tensor = tensors[name]
            packed = {"compression": "gzip", "shuffle": True, "chunks": tensor.shape}
            file.create_dataset(name, data=tensor, **(packed if tensor.ndim > 1 else {}))
        labels = _encode(metadata.labels or default_labels(architecture.classes))
        text = h5py.string_dtype("utf-8", labels.dtype.itemsize)
        file.create_dataset("labels", data=labels.astype(text))
        attributes = to_attributes(architecture, metadata)
        attributes["sha256"] = checksum(attributes, {**tensors, "labels": labels})
        for name, value in attributes.items():
            if isinstance(value, str):
                value = _encode([value])[0]
                value = np.array(value, h5py.string_dtype("utf-8", max(len(value), 1)))
            file.attrs[name] = value
    return memory.getvalue()


def _create(memory: BytesIO, architecture: Architecture) -> "h5py.File":
    """An open file in memory, with groups for all tensors."""
    import h5py
    from h5py import h5f, h5fd, h5g, h5p

    access, root, plain = map(h5p.create, (h5p.FILE_ACCESS, h5p.FILE_CREATE, h5p.GROUP_CREATE))
    access.set_fileobj_driver(h5fd.fileobj_driver, memory)
    # HDF5 1.10's layout has checksums on its own structures; the older default has none.
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    root.set_obj_track_times(False)  # groups would note the time of day
    plain.set_obj_track_times(False)
    file = h5py.File(h5f.create(b"in memory", fcpl=root, fapl=access))
    parents = {parent for name in architecture.tensor_shapes() for parent in Path(name).parents}
    for group in sorted(parents - {Path()}):
        h5g.create(file.id, group.as_posix().encode(), gcpl=plain)
    return file


def _encode(texts: Sequence[str]) -> np.ndarray:
    """Texts as UTF-8 of one fixed length, at least 1."""
    return np.array([text.encode() for text in texts], np.bytes_)
