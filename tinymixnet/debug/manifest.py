"""The manifest of a trace: what the trace was made from, and which layers it has.

docs/traces.md describes the format.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from tinymixnet.debug.arrays import CHUNK, LARGEST_NUMBER
from tinymixnet.debug.checks import expect
from tinymixnet.debug.strict_json import read_json
from tinymixnet.engine import __version__
from tinymixnet.engine.architecture import Architecture
from tinymixnet.engine.budget import budget
from tinymixnet.engine.weights import tensors_hash
from tinymixnet.errors import InputError, TraceError, printable, short_repr
from tinymixnet.model import Model

FORMAT, VERSION = "tinymixnet trace", 1
DUMP = "tinymixnet dump"  # the format of `write_dump`: layers in order, of any network
MADE_BY = "tinymixnet"  # begins `made_by` in the manifests of our own traces

Layer = tuple[str, str, tuple[int, ...], str]  # name, file, shape, dtype


@dataclass(frozen=True)
class Manifest:
    """What a trace was made from, and its layers as (name, shape, dtype) in the network's order."""

    architecture: Architecture
    image_shape: tuple[int, ...]  # N, H, W, 3
    image_sha256: str  # `image_hash` of the pixels
    weights_sha256: str  # `weights_hash` of the model
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epsilon: float
    weights_name: str = ""
    image_name: str = ""
    preprocessing: str = ""  # the preset; empty if the pixels were used as they came
    made_by: str = f"{MADE_BY} {__version__}"
    layout: str = "NHWC"
    version: int = VERSION
    layers: tuple[tuple[str, tuple[int, ...], str], ...] = ()


# -- reading --------------------------------------------------------------------------------------


def read_manifest(data: bytes) -> dict[str, Any]:
    """Return what manifest.json holds, once its format and version are known to be right."""
    fields = read_json(data)
    if not isinstance(fields, dict) or fields.get("format") not in (FORMAT, DUMP):
        raise TraceError(f"not a trace's: expected format {FORMAT!r}; other dumps need no manifest")
    if fields.get("version") != VERSION:
        version = printable(str(fields.get("version"))[:40])
        raise TraceError(f"expected version {VERSION}, found {version}: record it anew")
    return fields


def manifest_layers(fields: dict[str, Any]) -> list[Layer]:
    """Return the layers of a manifest as (name, file, shape, dtype)."""
    entries = typed_field(fields, "layers", list)
    budget.check("dump_layers", len(entries), "a manifest")
    layers = [check_layer(entry) for entry in entries]
    if len({name for name, *_ in layers}) < len(layers):
        raise TraceError("lists a layer twice")
    return layers


def our_manifest(fields: dict[str, Any], layers: list[Layer]) -> Manifest:
    """Return the manifest of one of our own traces, with every value checked."""
    architecture = typed_field(fields, "architecture", dict)
    network = Architecture(
        variant=typed_field(architecture, "variant", str),
        block_strings=tuple(typed_list(architecture, "block_strings", str)),
        stem_filters=typed_field(architecture, "stem_filters", int),
        head_filters=typed_field(architecture, "head_filters", int),
        multiplier=typed_field(architecture, "multiplier", float),
        classes=typed_field(architecture, "classes", int),
    )
    image_shape = tuple(typed_list(fields, "image_shape", int, 4))
    if min(image_shape) < 1 or max(image_shape) > CHUNK:
        raise TraceError(f"image_shape: expected [N, H, W, 3], found {image_shape}")
    texts = "image_sha256 weights_sha256 weights_name image_name preprocessing made_by layout"
    if fields.get("layout") != "NHWC":
        raise TraceError("layout: expected NHWC")
    return Manifest(
        architecture=network,
        image_shape=image_shape,
        mean=tuple(typed_list(fields, "mean", float, 3)),
        std=tuple(typed_list(fields, "std", float, 3)),
        epsilon=typed_field(fields, "epsilon", float),
        **{name: typed_field(fields, name, str) for name in texts.split()},
        layers=tuple((name, shape, dtype) for name, _, shape, dtype in layers),
    )


def check_layer(entry: Any) -> Layer:
    """Return an entry of `layers`, once its file is known to lie inside the trace."""
    if not isinstance(entry, dict):
        raise TraceError("layers: expected objects with name, shape and dtype")
    name, dtype = typed_field(entry, "name", str), typed_field(entry, "dtype", str)
    file = typed_field({"file": f"{name}.npy", **entry}, "file", str)
    parts = file.split("/")
    outside = any(part[:1] in ("", ".") for part in parts) or re.search(r"[\\:\0]", file)
    if outside or not file.endswith(".npy"):
        raise TraceError(f"refused, the file {file[:80]!r} may lie outside the trace")
    return name, file, tuple(typed_list(entry, "shape", int)), dtype


def typed_field(fields: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return fields[key] if it is of a type and no huge number; an int may stand for a float."""
    value = fields.get(key)
    if kind is float and type(value) is int and abs(value) < CHUNK:
        value = float(value)
    usable = not isinstance(value, (int, float)) or abs(value) < LARGEST_NUMBER  # NaN is not
    if type(value) is not kind or not usable:
        raise TraceError(f"{key}: expected {kind.__name__}, found {short_repr(value)}")
    return value


def typed_list(
    fields: Mapping[str, Any], key: str, kind: type, length: int | None = None
) -> list[Any]:
    values = typed_field(fields, key, list)
    if length not in (None, len(values)):
        raise TraceError(f"{key}: expected {length} values, found {len(values)}")
    return [typed_field({key: value}, key, kind) for value in values]


# -- writing --------------------------------------------------------------------------------------


def manifest_text(fields: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    """Return manifest.json with a line for each fact and each layer."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()]
    rows = ",\n  ".join(map(json.dumps, layers))
    return "{\n " + ",\n ".join([*lines, f'"layers": [\n  {rows}\n ]']) + "\n}\n"


def manifest_of(
    model: Model, images: np.ndarray, image_name: str = "", preprocessing: str = ""
) -> Manifest:
    """Return the manifest of a trace of this run; images (N, H, W, 3) float32."""
    metadata = expect(model, Model, "model").metadata
    expect(images, np.ndarray, "images")
    return Manifest(
        architecture=model.architecture,
        image_shape=images.shape,
        image_sha256=image_hash(images),
        weights_sha256=weights_hash(model),
        mean=metadata.mean,
        std=metadata.std,
        epsilon=metadata.epsilon,
        weights_name=metadata.name,
        image_name=image_name,
        preprocessing=preprocessing,
    )


def image_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 of the pixels as float32, NHWC, in C order, little-endian."""
    if expect(pixels, np.ndarray, "pixels").dtype.kind not in "fiu":
        raise InputError(f"pixels: expected numbers, found {pixels.dtype}")
    return sha256(np.ascontiguousarray(pixels, "<f4").data).hexdigest()


def weights_hash(model: Model) -> str:
    """Return the SHA-256 of all tensors by name, shape and values, whatever file they came in."""
    return tensors_hash(expect(model, Model, "model").tensors)
