"""Find a weights file and read it. It is HDF5, one dataset a tensor, and nothing in it is trusted.

    /stem/conv/kernel, /blocks_3/depthwise_conv/kernel_0, ...   the tensors, TensorFlow's layouts
    /labels                                                     the class names, UTF-8
    attributes of /                                             all else that inference needs

The attributes are: format and format_version; the architecture (variant, block_strings separated by
spaces, stem_filters, head_filters, multiplier, classes); the fields of `Metadata`, of which
preset_parameters is JSON; and sha256, a checksum over the names, types, shapes and bytes of
everything else. All text has a fixed length. HDF5 keeps text of any other kind in a heap without
checksums, where a single wrong bit can send the HDF5 library into an endless loop.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.architecture import VARIANTS, Architecture, check_input_size, mixnet
from tinymixnet.engine.budget import budget
from tinymixnet.engine.hdf5 import DEFLATE, SHUFFLE, SIGNATURE, Hdf5File
from tinymixnet.engine.hdf5_structure import Dataset
from tinymixnet.engine.metadata import Metadata, check_format, read_architecture, read_metadata
from tinymixnet.errors import InputError, TinyMixNetError, WeightsError

BUNDLED = Path(__file__).parents[1] / "data" / "mixnet-l-tiny-imagenet.h5"

LARGEST_LABEL = 1024  # bytes
LARGEST_VALUE = 1e30  # of a weight: products of larger ones leave the range of float32


class Weights(NamedTuple):
    """A weights file in memory; tensors are float32 under canonical names."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    metadata: Metadata

    def __repr__(self) -> str:
        kind = f"{self.architecture.variant}, {self.architecture.classes} classes"
        return f"Weights({kind}, {len(self.tensors)} tensors)"


# -- finding --------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """The folder of fetched weights: TINYMIXNET_HOME, else in the user's cache folder."""
    if home := os.environ.get("TINYMIXNET_HOME"):
        return Path(os.path.expanduser(home))  # Path.expanduser fails for an unknown ~user
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tinymixnet"


def find_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """The file that is meant: a path, a fetched network's name, or None for the default.

    The default is TINYMIXNET_WEIGHTS (a path or name) where that is set, else the bundled file.
    Raises WeightsError when there is none, InputError for what is neither a path nor a name.
    """
    if not isinstance(weights, (str, os.PathLike, type(None))):
        kind = type(weights).__name__
        raise InputError(f"weights: expected a path or a network's name, found {kind}")
    wanted = weights or os.environ.get("TINYMIXNET_WEIGHTS") or BUNDLED
    if wanted in VARIANTS:
        path = cache_dir() / f"{wanted}.h5"
        if not os.path.lexists(path):
            raise WeightsError(
                f"{wanted}: not fetched yet, no {path}; run: python -m weights_tools fetch {wanted}"
            )
        if problem := _problem(path):
            raise WeightsError(f"{wanted}: {path}: {problem}; remove it and fetch {wanted} again")
        return path
    path = Path(wanted)
    if problem := _problem(path):
        names = ", ".join(VARIANTS)
        raise WeightsError(f"{path}: {problem}; expected a .h5 file or one of {names}")
    return path


def _problem(path: Path) -> str:
    """Say why a path cannot be a weights file, or "". The file is not opened."""
    try:
        if path.is_file():
            return ""
        if path.exists():
            return f"is a {'folder' if path.is_dir() else 'pipe or device'}, not a weights file"
        return "a link that leads nowhere" if path.is_symlink() else "no such weights file"
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        return f"cannot be opened ({error.strerror})"


# -- reading --------------------------------------------------------------------------------------


def read_wanted(weights: str | os.PathLike[str] | None = None) -> Weights:
    """Find weights as `find_weights` does, and read them.

    Raises WeightsError also where the file of a fetched network holds another network.
    """
    path = find_weights(weights)
    content = read_weights(path)
    wanted = weights or os.environ.get("TINYMIXNET_WEIGHTS")
    if wanted in VARIANTS and content.architecture.variant != wanted:
        raise WeightsError(
            f"{path}: expected {wanted}, found {content.architecture.variant}; remove it and fetch "
            f"{wanted} again"
        )
    return content


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read a weights file and check all of it.

    The format's version comes first. Then, before any tensor is read, every missing, unexpected or
    misshaped tensor is listed. Then come the values: NaN, infinity, negative variances, the
    checksum. Whatever is wrong raises WeightsError.
    """
    try:
        if not Path(path).is_file() or not _is_hdf5(Path(path)):
            raise WeightsError(_what_instead(Path(path)))
        budget.check("weights_file_bytes", Path(path).stat().st_size, "this file")
        return _read(Hdf5File(path, isolated=False))
    except TinyMixNetError as error:
        raise WeightsError(f"{path}: {error}") from None
    except PermissionError:
        raise WeightsError(f"{path}: no permission to read it") from None
    except Exception as error:  # the HDF5 library raises nearly any type on damaged files
        raise WeightsError(f"{path}: damaged ({error})") from None


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def _what_instead(path: Path) -> str:
    """Say what a file that is not HDF5 seems to be, by its first bytes, and what to do."""
    if not path.is_file():
        return "no such weights file"
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:10] == b'{"':
        return "a safetensors file; turn it into weights with: python -m weights_tools convert"
    if start[:2] == b"\x1f\x8b" or path.suffix in (".index", ".meta") or ".data-" in path.name:
        return "a TensorFlow checkpoint? Turn it into weights: python -m weights_tools extract"
    return "not a weights file (no HDF5 inside), or damaged at its start"


def _read(file: Hdf5File) -> Weights:
    datasets, attributes, problems = file.structure
    check_format(attributes)
    if problems:
        raise WeightsError(join_problems(problems))
    architecture = read_architecture(attributes)
    metadata = read_metadata(attributes, architecture.classes)
    check_size(architecture, metadata)

    tensors = {name: dataset for name, dataset in datasets.items() if name != "labels"}
    shapes = {name: dataset.shape for name, dataset in tensors.items()}
    problems = shape_problems(shapes, architecture)
    for name, dataset in tensors.items():
        problems += [f"{name}: {problem}" for problem in _storage_problems(dataset)]
    labels = datasets.get("labels")
    problems += [f"labels: {problem}" for problem in _label_problems(labels, architecture.classes)]
    if problems:
        raise WeightsError(join_problems(problems) + _guess(shapes, architecture))

    stored = file.read_all(tensors)
    encoded = file.read("labels")
    problems = [p for name, tensor in stored.items() for p in value_problems(name, tensor)]
    if checksum(attributes, {**stored, "labels": encoded}) != attributes.get("sha256"):
        problems.append("sha256: the checksum does not match, the file was damaged or edited")
    if problems:
        raise WeightsError(join_problems(problems))
    names = architecture.tensor_shapes()
    texts = tuple(label.decode() for label in encoded.tolist())
    return Weights(
        architecture,
        {name: stored[name].astype(np.float32, copy=False) for name in names},
        replace(metadata, labels=texts),
    )


def check_size(architecture: Architecture, metadata: Metadata) -> None:
    """Raise TinyMixNetError if the network, at its input size, is too large for the budget."""
    numbers = sum(map(prod, architecture.tensor_shapes().values()))
    budget.check("network_numbers", numbers, "the network of its block strings")
    size = metadata.input_size
    check_input_size(architecture, size, size)
    crop = metadata.preset_parameters.get("crop", 1)
    budget.check("preset_pixels", (size / crop) ** 2, f"input_size {size} over crop {crop}")


def checksum(attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over attributes and arrays: of each its name, type, shape and bytes."""
    import json
    from hashlib import sha256

    digest = sha256()
    for name, value in sorted(attributes.items()):
        if name != "sha256":
            digest.update(f"@{name} {json.dumps(value)}\n".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"/{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def tensors_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of all tensors by name, shape and float32 values, whatever file they came in."""
    from hashlib import sha256

    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor, "<f4").data)
    return digest.hexdigest()


# -- what can be wrong ----------------------------------------------------------------------------


def shape_problems(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> list[str]:
    """Every tensor that is missing, that has no place in the architecture, or of another shape."""
    expected = architecture.tensor_shapes()
    missing = [f"{name}: missing" for name in expected if name not in shapes]
    unexpected = [f"{name}: unexpected" for name in shapes if name not in expected]
    misshaped = [
        f"{name}: expected {expected[name]}, found {shape}"
        for name, shape in shapes.items()
        if name in expected and tuple(shape) != expected[name]
    ]
    return missing + unexpected + misshaped


def value_problems(name: str, tensor: np.ndarray) -> list[str]:
    """Values that no trained network has: NaN, infinity, huge ones, negative variances."""
    if not np.isfinite(tensor).all():
        return [f"{name}: NaN or infinity in {tensor.dtype}"]
    if tensor.dtype != np.float16 and (largest := np.abs(tensor).max(initial=0)) > LARGEST_VALUE:
        return [f"{name}: values up to {largest:g}, too large to compute with in float32"]
    if name.endswith("moving_variance") and (tensor < 0).any():
        return [f"{name}: a negative variance, {tensor.min():g}"]
    return []


def _storage_problems(dataset: Dataset) -> list[str]:
    """List what `write_weights` would never do when it stores a tensor."""
    chunks, shape, filters = dataset.chunks, dataset.shape, dataset.filters
    expected = (SHUFFLE, DEFLATE) if chunks else ()
    checks = {
        dataset.problem: bool(dataset.problem),
        f"refused, filters {[*filters]}, expected {[*expected]}": filters != expected,
        f"refused, chunks {chunks}": chunks not in (None, shape),
        f"refused, type {np.dtype(dataset.dtype)}, expected float32 or float16": (
            dataset.dtype not in ("<f4", "<f2")
        ),
    }
    return [problem for problem, is_there in checks.items() if is_there]


def _label_problems(labels: Dataset | None, classes: int) -> list[str]:
    if labels is None:
        return ["missing"]
    if labels.shape != (classes,):
        return [f"expected ({classes},), found {labels.shape}"]
    if labels.dtype[:2] != "|S":
        return [f"expected text of fixed length, found {np.dtype(labels.dtype)}"]
    if (size := np.dtype(labels.dtype).itemsize) > LARGEST_LABEL:
        return [f"refused, {size} bytes each, at most {LARGEST_LABEL} expected"]
    return [labels.problem] if labels.problem else []


def join_problems(problems: list[str]) -> str:
    """Return all that is wrong, as one line for an error's message."""
    return f"{count_problems(problems)}: {'; '.join(problems)}"


def count_problems(problems: list[str]) -> str:
    """Return how many things are wrong, in words."""
    return f"{len(problems)} thing{'s' * (len(problems) > 1)} wrong"


def _guess(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> str:
    """Which known network the tensors would fit, if it is another than the file says."""
    bias = shapes.get("logits/bias") or (architecture.classes,)
    counts = {v: len(shape_problems(shapes, mixnet(v, max(bias[0], 1)))) for v in VARIANTS}
    best = min(counts, key=lambda variant: counts[variant])
    if counts[best] == 0:
        return f". They fit {best} with {bias[0]} classes"
    return f". Of the known networks {best} is nearest, with {counts[best]} misfits"
