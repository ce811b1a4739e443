"""Describe what is in a file: its metadata and the table of its tensors."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.hdf5 import SIGNATURE, Hdf5File
from tinymixnet.engine.metadata import CLASS_LISTS
from tinymixnet.engine.weights import find_weights, read_weights
from tinymixnet.errors import printable
from weights_tools.formats.checkpoint import open_checkpoint
from weights_tools.formats.safetensors import open_safetensors


def describe(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the lines that `inspect` prints of a weights file, a .safetensors or a checkpoint.

    A weights file is read as strictly as for inference. Control characters in names and notes are
    escaped. Raises WeightsError or CheckpointError.
    """
    yield from map(printable, _describe(path))


def _describe(path: str | os.PathLike[str]) -> Iterator[str]:
    as_path(path)
    if path in VARIANTS and not os.path.exists(path):
        path = find_weights(path)
    suffix, head = Path(path).suffix.lower(), _head(Path(path))
    if suffix == ".safetensors" or head[8:10] == b'{"':
        state_dict = open_safetensors(path)
        for key, value in state_dict.notes.items():
            yield f"{key}: {value}"
        tensors = sorted(state_dict.tensors.items())
        yield from _table((name, stored.dtype, stored.shape) for name, stored in tensors)
    elif suffix in (".h5", ".hdf5") or head.startswith(SIGNATURE):
        yield from _describe_weights(path)
    else:
        with open_checkpoint(path) as checkpoint:
            yield f"TensorFlow checkpoint: {checkpoint.path}"
            variables = checkpoint.variables.values()
            yield from _table((v.name, v.dtype, v.shape) for v in variables)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; none if there is no file, which its reader will say."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(10)
    except (OSError, ValueError):
        return b""


def _describe_weights(path: str | os.PathLike[str]) -> Iterator[str]:
    architecture, tensors, metadata = read_weights(path)
    yield f"variant: {architecture.variant}"
    yield f"block_strings: {' '.join(architecture.block_strings)}"
    for item in fields(metadata):
        value = getattr(metadata, item.name)
        if item.name in ("labels", *CLASS_LISTS):
            shown = ", ".join(map(str, value[:10]))
            value = f"{len(value)}, {shown}{', ...' * (len(value) > 10)}" if value else "none"
        yield f"{item.name}: {value}"
    file = Hdf5File(path, isolated=False)
    yield f"sha256: {file.structure.attributes['sha256']}"
    types = {name: str(file.header(name).dtype) for name in tensors}
    yield from _table((name, types[name], tensor.shape) for name, tensor in tensors.items())


def _table(rows: Iterable[tuple[str, str, tuple[int, ...]]]) -> Iterator[str]:
    table = [
        f"{name:<72} {dtype:<9} {' x '.join(map(str, shape)) or 'scalar'}"
        for name, dtype, shape in rows
    ]
    yield from table
    yield f"{len(table)} tensors"
