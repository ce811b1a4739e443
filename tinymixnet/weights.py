"""The weights file: HDF5, one dataset a tensor, read strictly.

    /stem/conv/kernel, /blocks_3/depthwise_conv/kernel_0, ...   the tensors, TensorFlow's layouts
    /labels                                                     the class names, UTF-8
    attributes of /                                             all else that inference needs

The attributes: format, format_version; the architecture (variant, block_strings separated by
spaces, stem_filters, head_filters, multiplier, classes); the fields of `Metadata`, of them
preset_parameters as JSON; and sha256, over the names, types, shapes and bytes of all else. All text
is of fixed length: HDF5 keeps other text in a heap without checksums, and a single wrong bit in it
can send the HDF5 library into an endless loop.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from io import BytesIO
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinymixnet.architecture import VARIANTS, Architecture, mixnet
from tinymixnet.errors import TinyMixNetError, WeightsError
from tinymixnet.images import PRESETS, check_preset

if TYPE_CHECKING:  # h5py takes longer to import than all of ours: import it when a file comes
    import h5py

FORMAT, FORMAT_VERSION = "tinymixnet weights", 1
BUNDLED = Path(__file__).parent / "data" / "mixnet-l-cifar10.h5"

LARGEST = 100_000_000  # numbers in a network, far above MixNet-L's: more is a size bomb
LARGEST_TEXT = 65_536  # bytes of an attribute
LARGEST_LABEL = 1024  # bytes
DEEPEST = 3  # names have at most three parts: blocks_0/project_conv/kernel_0
MOST_OBJECTS = 50_000  # in a file: more, and its groups may contain themselves


@dataclass(frozen=True)
class Metadata:
    """What a model needs besides its architecture and tensors, and where it all comes from."""

    labels: tuple[str, ...] = ()
    input_size: int = 224  # pixels a side that the preset makes
    preset: str = "tf"  # how a photo is cropped and resized: a name of images.PRESETS
    preset_parameters: Mapping[str, float] = field(default_factory=lambda: dict(PRESETS["tf"][1]))
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # RGB, subtracted from 0..255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)  # RGB, divided by
    epsilon: float = 1e-3  # batch norm's
    averages: bool = True  # moving averages of the training (EMA), or the raw last values
    name: str = ""  # what to call these weights
    source: str = ""
    source_sha256: str = ""
    licence: str = ""
    accuracy: str = ""  # as measured, with what on; empty: not measured


class Weights(NamedTuple):
    """A weights file in memory; tensors are float32 under canonical names."""

    architecture: Architecture
    tensors: dict[str, np.ndarray]
    metadata: Metadata


# -- finding --------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Where fetched weights lie: TINYMIXNET_HOME, else in the user's cache folder."""
    if home := os.environ.get("TINYMIXNET_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tinymixnet"


def find_weights(weights: str | os.PathLike[str] | None = None) -> Path:
    """The file that is meant: a path, a fetched network's name, or None for the default.

    The default is TINYMIXNET_WEIGHTS (a path or name) where that is set, else the bundled file.
    Raises WeightsError when there is none.
    """
    wanted = weights or os.environ.get("TINYMIXNET_WEIGHTS") or BUNDLED
    if wanted in VARIANTS:
        path = cache_dir() / f"{wanted}.h5"
        if not path.is_file():
            raise WeightsError(
                f"{wanted}: not fetched yet, no {path}; run: python -m weights_tools fetch {wanted}"
            )
        return path
    path = Path(wanted)
    if not path.is_file():
        what = "is a folder, not a weights file" if path.is_dir() else "no such weights file"
        raise WeightsError(f"{path}: {what}; expected a .h5 path or one of {', '.join(VARIANTS)}")
    return path


# -- writing --------------------------------------------------------------------------------------


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to beside `path`; it takes that name only when the block ends well."""
    import tempfile  # not needed to read, and slow to import, as is hashlib

    final = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # as if written in place: mkstemp's files are private
        os.replace(beside, final)
    finally:
        beside.unlink(missing_ok=True)


def write_weights(path: str | os.PathLike[str], weights: Weights, float16: bool = False) -> None:
    """Write a weights file that `read_weights` accepts; with float16 at half the size.

    The same weights give the same bytes. Raises WeightsError for tensors that do not fit the
    architecture or are not finite (or not in float16), for labels and metadata that `read_weights`
    would refuse, and when the file cannot be written.
    """
    dtype = np.float16 if float16 else np.float32
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(t, dtype) for name, t in weights.tensors.items()}
    problems = misfits({name: t.shape for name, t in tensors.items()}, weights.architecture)
    problems += [p for name, t in tensors.items() for p in _bad_values(name, t)]
    if problems:
        raise WeightsError(f"{path}: not written, " + listing(problems))
    try:
        image = _image(weights._replace(tensors=tensors))
        with written_whole(path) as beside:
            beside.write_bytes(image)
    except TinyMixNetError as error:
        raise WeightsError(f"{path}: not written, {error}") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from None


def _image(weights: Weights) -> bytes:
    """A whole weights file, made in memory: a full disk can crash the HDF5 library."""
    import h5py

    architecture, tensors, metadata = weights
    memory = BytesIO()
    with _create(memory, architecture) as file:
        for name in architecture.tensor_shapes():
            tensor = tensors[name]
            packed = {"compression": "gzip", "shuffle": True, "chunks": tensor.shape}
            file.create_dataset(name, data=tensor, **(packed if tensor.ndim > 1 else {}))
        labels = _encode(metadata.labels or default_labels(architecture.classes))
        text = h5py.string_dtype("utf-8", labels.dtype.itemsize)
        file.create_dataset("labels", data=labels.astype(text))
        attributes = _attributes(architecture, metadata)
        attributes["sha256"] = _sha256(attributes, {**tensors, "labels": labels})
        for name, value in attributes.items():
            if isinstance(value, str):
                value = _encode([value])[0]
                value = np.array(value, h5py.string_dtype("utf-8", max(len(value), 1)))
            file.attrs[name] = value
    with h5py.File(memory, "r") as file:
        _read(file)  # raises what a reader would
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


def _attributes(architecture: Architecture, metadata: Metadata) -> dict[str, Any]:
    about = {f.name: getattr(metadata, f.name) for f in fields(metadata) if f.name != "labels"}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "variant": architecture.variant,
        "block_strings": " ".join(architecture.block_strings),
        "stem_filters": architecture.stem_filters,
        "head_filters": architecture.head_filters,
        "multiplier": architecture.multiplier,
        "classes": architecture.classes,
        **about,
        "preset_parameters": json.dumps(dict(metadata.preset_parameters), sort_keys=True),
    }


def default_labels(classes: int) -> tuple[str, ...]:
    """What the classes are called where nobody named them."""
    return tuple(f"class {index}" for index in range(classes))


def _encode(texts: Sequence[str]) -> np.ndarray:
    """Texts as UTF-8 of one fixed length, at least 1."""
    return np.array([text.encode() for text in texts], np.bytes_)


def _sha256(attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """One checksum over attributes and arrays: of each its name, type, shape and bytes."""
    from hashlib import sha256

    digest = sha256()
    for name, value in sorted(attributes.items()):
        if name != "sha256":
            digest.update(f"@{name} {json.dumps(value)}\n".encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"/{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# -- reading --------------------------------------------------------------------------------------


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read a weights file; nothing in it is trusted before it is checked.

    The format's version comes first. Then, before any tensor is read: links, storage and filters
    that a plain weights file has no use for are refused, and every missing, unexpected or misshaped
    tensor is listed. Then the values: NaN, infinity, negative variances, the checksum. All that is
    wrong raises WeightsError.
    """
    import h5py

    try:
        if not Path(path).is_file() or not h5py.is_hdf5(path):
            raise WeightsError(_what_instead(Path(path)))
        with h5py.File(path, "r", locking=False) as file:
            return _read(file)
    except TinyMixNetError as error:
        raise WeightsError(f"{path}: {error}") from None
    except PermissionError:
        raise WeightsError(f"{path}: no permission to read it") from None
    except Exception as error:  # the HDF5 library raises nearly any type on damaged files
        raise WeightsError(f"{path}: damaged ({error})") from None


def _what_instead(path: Path) -> str:
    """What a file that is no HDF5 may be, by how it begins, and what to do with it."""
    if not path.is_file():
        return "no such weights file"
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:10] == b'{"':
        return "a safetensors file; turn it into weights with: python -m weights_tools convert"
    if start[:2] == b"\x1f\x8b" or path.suffix in (".index", ".meta") or ".data-" in path.name:
        return "a TensorFlow checkpoint? Turn it into weights: python -m weights_tools extract"
    return "not a weights file (no HDF5 inside), or damaged at its start"


def _read(file: "h5py.File") -> Weights:
    found = [_read_attribute(file, name) for name in ("format", "format_version")]
    if found != [FORMAT, FORMAT_VERSION]:
        raise WeightsError(
            f"expected format {FORMAT!r}, version {FORMAT_VERSION}; found {found[0]!r}, version "
            f"{found[1]!r}: make the file anew (weights_tools)"
        )
    attributes = {name: _read_attribute(file, name) for name in file.attrs}
    architecture, metadata = _read_architecture(attributes), _read_metadata(attributes)
    datasets = _walk(file)
    labels = datasets.pop("labels", None)
    shapes = {name: dataset.shape or () for name, dataset in datasets.items()}
    problems = misfits(shapes, architecture)
    problems += [p for name, d in datasets.items() for p in _bad_storage(name, d)]
    problems += _bad_labels(labels, architecture.classes)
    if problems or labels is None:
        raise WeightsError(listing(problems) + _guess(shapes, architecture))

    stored = {name: _unpack(dataset) for name, dataset in datasets.items()}
    problems = [p for name, tensor in stored.items() for p in _bad_values(name, tensor)]
    encoded = _unpack(labels)
    if _sha256(attributes, {**stored, "labels": encoded}) != attributes.get("sha256"):
        problems.append("sha256: the checksum does not match, the file was damaged or edited")
    if problems:
        raise WeightsError(listing(problems))
    names = architecture.tensor_shapes()
    tensors = {name: stored[name].astype(np.float32, copy=False) for name in names}
    texts = tuple(label.decode() for label in encoded.tolist())
    return Weights(architecture, tensors, replace(metadata, labels=texts))


def _walk(file: "h5py.File") -> dict[str, "h5py.Dataset"]:
    """All datasets by full name: in a bounded number of steps, and never into another file."""
    from h5py import Dataset, h5d, h5g, h5l, h5o

    found: dict[str, Dataset] = {}
    groups, objects = [("", file["/"].id)], 0
    for start, group in groups:  # grows as it goes
        objects += group.get_num_objs()
        if objects > MOST_OBJECTS:
            raise WeightsError(f"refused, more than {MOST_OBJECTS} tensors and groups")
        for name in group:
            path = start + name.decode()
            # A name with a slash in it would be looked up as a path, by way of any link.
            if b"/" in name or group.links.get_info(name).type != h5l.TYPE_HARD:
                raise WeightsError(f"{path}: refused, a soft or external link")
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID) and path.count("/") < DEEPEST - 1:
                groups.append((f"{path}/", item))
            elif not isinstance(item, h5d.DatasetID):
                raise WeightsError(f"{path}: unexpected, neither a tensor nor a group of tensors")
            # Already to ask a virtual dataset for its shape may open the files it is made of.
            elif item.get_create_plist().get_layout() == h5d.VIRTUAL:
                raise WeightsError(f"{path}: refused, a virtual dataset")
            else:
                found[path] = Dataset(item)
    return found


def _unpack(dataset: "h5py.Dataset") -> np.ndarray:
    """All values of a dataset that `_bad_storage` found plain.

    Packed ones are unpacked here, to no more bytes than the shape asks for: the HDF5 library would
    go on for as long as the packed data does.
    """
    if not dataset.chunks:
        return dataset[()]
    skipped, packed = dataset.id.read_direct_chunk((0,) * dataset.ndim)
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(packed, dataset.nbytes + 1)
    if len(data) != dataset.nbytes or not unpacker.eof or skipped:
        raise WeightsError(f"{dataset.name[1:]}: damaged, its packed data has another size")
    # HDF5's shuffle: the first bytes of all numbers, then all second bytes, ...
    planes = np.frombuffer(data, np.uint8).reshape(dataset.dtype.itemsize, -1)
    return np.stack([*planes], axis=-1).view(dataset.dtype).reshape(dataset.shape)


def _read_attribute(file: "h5py.File", name: str) -> Any:
    """An attribute as plain Python: str, int, float, bool, or a tuple of up to three; else None."""
    from h5py import h5a, h5t

    if not h5a.exists(file.id, name.encode()):
        return None
    attribute = h5a.open(file.id, name.encode())
    kind = attribute.get_type()
    plain = isinstance(kind, (h5t.TypeIntegerID, h5t.TypeFloatID, h5t.TypeEnumID))
    plain |= isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
    few = attribute.shape is not None and prod(attribute.shape) <= 3
    if not plain or not few or attribute.get_storage_size() > LARGEST_TEXT:
        raise WeightsError(f"attribute {name}: refused, neither numbers nor text of fixed length")
    value = file.attrs[name]
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = value.decode() if isinstance(value, bytes) else value
    return tuple(value) if isinstance(value, list) else value


def _attribute(attributes: Mapping[str, Any], name: str, kind: type) -> Any:
    value = attributes.get(name)
    if type(value) is not kind:
        raise WeightsError(f"attribute {name}: expected {kind.__name__}, found {value!r}")
    return value


def _read_architecture(attributes: Mapping[str, Any]) -> Architecture:
    architecture = Architecture(
        variant=_attribute(attributes, "variant", str),
        block_strings=tuple(_attribute(attributes, "block_strings", str).split()),
        stem_filters=_attribute(attributes, "stem_filters", int),
        head_filters=_attribute(attributes, "head_filters", int),
        multiplier=_attribute(attributes, "multiplier", float),
        classes=_attribute(attributes, "classes", int),
    )
    size = sum(map(prod, architecture.tensor_shapes().values()))
    if size > LARGEST:
        raise WeightsError(f"refused, its block strings ask for {size:,} numbers (a size bomb?)")
    return architecture


def _read_metadata(attributes: Mapping[str, Any]) -> Metadata:
    texts = ("name", "source", "source_sha256", "licence", "accuracy")
    try:
        parameters = dict(json.loads(_attribute(attributes, "preset_parameters", str)))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"attribute preset_parameters: not a JSON object ({error})") from None
    metadata = Metadata(
        input_size=_attribute(attributes, "input_size", int),
        preset=_attribute(attributes, "preset", str),
        preset_parameters=parameters,
        mean=_attribute(attributes, "mean", tuple),
        std=_attribute(attributes, "std", tuple),
        epsilon=_attribute(attributes, "epsilon", float),
        averages=_attribute(attributes, "averages", bool),
        **{name: _attribute(attributes, name, str) for name in texts},
    )
    mean, std, epsilon = metadata.mean, metadata.std, metadata.epsilon
    floats = all(type(number) is float and isfinite(number) for number in (*mean, *std, epsilon))
    if len(mean) != 3 or len(std) != 3 or not floats or min(*std, epsilon) <= 0:
        raise WeightsError(f"attributes mean, std, epsilon: unusable {mean}, {std}, {epsilon}")
    if not 32 <= metadata.input_size <= 4096:
        raise WeightsError(f"attribute input_size: expected 32..4096, found {metadata.input_size}")
    check_preset(metadata.preset, metadata.preset_parameters)
    return metadata


# -- what can be wrong ----------------------------------------------------------------------------


def misfits(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> list[str]:
    """Every tensor that the architecture lacks, that it has no place for, or of another shape."""
    expected = architecture.tensor_shapes()
    missing = [f"{name}: missing" for name in expected if name not in shapes]
    unexpected = [f"{name}: unexpected" for name in shapes if name not in expected]
    misshaped = [
        f"{name}: expected {expected[name]}, found {shape}"
        for name, shape in shapes.items()
        if name in expected and tuple(shape) != expected[name]
    ]
    return missing + unexpected + misshaped


def _bad_storage(name: str, dataset: "h5py.Dataset") -> list[str]:
    """Ways of storing a dataset that reach outside the file, load plugins or unpack to a bomb."""
    from h5py import h5t, h5z

    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    expected = [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE] if dataset.chunks else []
    plain = dataset.id.get_type() in (h5t.IEEE_F32LE, h5t.IEEE_F16LE)
    checks = {
        "stored in another file": plist.get_external_count() > 0,
        f"filters {filters}, expected {expected}": filters != expected,
        f"chunks {dataset.chunks}": dataset.chunks not in (None, dataset.shape),
        "nothing stored": dataset.id.get_storage_size() == 0,
        f"type {dataset.dtype}, expected float32 or float16": not plain and name != "labels",
    }
    return [f"{name}: refused, {what}" for what, found in checks.items() if found]


def _bad_labels(labels: "h5py.Dataset | None", classes: int) -> list[str]:
    from h5py import h5t

    if labels is None:
        return ["labels: missing"]
    if labels.shape != (classes,):
        return [f"labels: expected ({classes},), found {labels.shape}"]
    kind = labels.id.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str():
        return [f"labels: expected text of fixed length, found {labels.dtype}"]
    if kind.get_size() > LARGEST_LABEL or labels.nbytes > LARGEST:
        return [f"labels: refused, {kind.get_size()} bytes each, at most {LARGEST_LABEL} expected"]
    return _bad_storage("labels", labels)


def _bad_values(name: str, tensor: np.ndarray) -> list[str]:
    if not np.isfinite(tensor).all():
        return [f"{name}: NaN or infinity in {tensor.dtype}"]
    if name.endswith("moving_variance") and (tensor < 0).any():
        return [f"{name}: a negative variance, {tensor.min():g}"]
    return []


def listing(problems: list[str]) -> str:
    """All that is wrong as one line for an error's message."""
    return f"{len(problems)} thing{'s' * (len(problems) > 1)} wrong: {'; '.join(problems)}"


def _guess(shapes: Mapping[str, tuple[int, ...]], architecture: Architecture) -> str:
    """Which known network the tensors would fit, if it is another than the file says."""
    bias = shapes.get("logits/bias") or (architecture.classes,)
    counts = {v: len(misfits(shapes, mixnet(v, max(bias[0], 1)))) for v in VARIANTS}
    best = min(counts, key=lambda variant: counts[variant])
    if counts[best] == 0:
        return f". They fit {best} with {bias[0]} classes"
    return f". Of the known networks {best} is nearest, with {counts[best]} misfits"
