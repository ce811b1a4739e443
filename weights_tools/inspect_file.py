"""What is in a file: its metadata and the table of its tensors."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from tinymixnet.engine.architecture import VARIANTS
from tinymixnet.engine.weights import find_weights, read_weights
from weights_tools.convert import read_safetensors
from weights_tools.formats.tf_checkpoint import open_checkpoint


def describe(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines `inspect` prints of a weights file, a .safetensors file or a checkpoint.

    A weights file is read as strictly as for inference. Raises WeightsError or CheckpointError.
    """
    if path in VARIANTS and not os.path.exists(path):
        path = find_weights(path)
    if Path(path).suffix == ".safetensors":
        tensors, notes = read_safetensors(str(path))
        for key, value in notes.items():
            yield f"{key}: {value}"
        yield from _table((n, str(t.dtype), t.shape) for n, t in sorted(tensors.items()))
    elif Path(path).suffix in (".h5", ".hdf5"):
        yield from _describe_weights(path)
    else:
        with open_checkpoint(path) as checkpoint:
            yield f"TensorFlow checkpoint: {checkpoint.path}"
            variables = checkpoint.variables.values()
            yield from _table((v.name, str(v.dtype), v.shape) for v in variables)


def _describe_weights(path: str | os.PathLike[str]) -> Iterator[str]:
    import h5py

    architecture, tensors, metadata = read_weights(path)
    yield f"variant: {architecture.variant}"
    yield f"block_strings: {' '.join(architecture.block_strings)}"
    for item in fields(metadata):
        value = getattr(metadata, item.name)
        if item.name == "labels":
            value = f"{len(value)}, {', '.join(value[:10])}{', ...' * (len(value) > 10)}"
        yield f"{item.name}: {value}"
    with h5py.File(path, "r") as file:
        yield f"sha256: {file.attrs['sha256'].decode()}"
        types = {name: str(file[name].dtype) for name in tensors}
    yield from _table((name, types[name], tensor.shape) for name, tensor in tensors.items())


def _table(rows: Iterable[tuple[str, str, tuple[int, ...]]]) -> Iterator[str]:
    table = [
        f"{name:<72} {dtype:<9} {' x '.join(map(str, shape)) or 'scalar'}"
        for name, dtype, shape in rows
    ]
    yield from table
    yield f"{len(table)} tensors"
