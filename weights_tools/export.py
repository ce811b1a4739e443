"""From a weights file of ours to a file of another framework."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tinymixnet.debug.checks import as_path
from tinymixnet.engine.files import atomic_folder, atomic_write, check_output
from tinymixnet.engine.weights import Weights, find_weights, read_weights
from tinymixnet.errors import InputError, short_repr
from weights_tools.exporters.keras_model import export_keras
from weights_tools.exporters.onnx_graph import export_onnx
from weights_tools.exporters.openvino_ir import export_openvino
from weights_tools.exporters.state_dict import export_npz, export_safetensors
from weights_tools.exporters.tensorflow_checkpoint import export_checkpoint


class Format(NamedTuple):
    """How a format is written. options: the names of those settings of `export` that it takes."""

    write: Callable[..., None]
    ending: str  # of a file's name; "" for a folder
    options: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(export_safetensors, ".safetensors"),
    "npz": Format(export_npz, ".npz"),
    "onnx": Format(export_onnx, ".onnx", ("normalized", "channels", "size")),
    "openvino": Format(export_openvino, ".xml", ("normalized", "channels", "size")),
    "tf-checkpoint": Format(export_checkpoint, ""),
    "keras": Format(export_keras, ".keras", ("normalized", "size")),
}


def export(
    weights: str | os.PathLike[str],
    kind: str,
    output: str | os.PathLike[str],
    **options: Any,
) -> Weights:
    """Write weights in the format of another framework, and return what they are.

    weights: a weights file, or the name of fetched weights. kind: a key of `FORMATS`. output: a new
    file, whose name has the format's ending; for "tf-checkpoint" a new folder, for "openvino" the
    .xml, and a .bin of the same name appears beside it. options, for formats with a graph: size,
    pixels a side of the input; normalized=True for an input that is normalised already;
    channels="BGR" or "RGB" for the order of its colours (OpenVINO: BGR, as on the model card).

    Raises InputError for an output that is there already, for an option that the format has not,
    and TinyMixNetError if a framework is needed that is not installed.
    """
    if kind not in FORMATS:
        raise InputError(f"format {short_repr(kind)}: expected one of {', '.join(FORMATS)}")
    wanted, path = FORMATS[kind], as_path(output)
    given = {name: value for name, value in options.items() if value is not None}
    _check_options(kind, wanted, given)
    if path.suffix != wanted.ending and wanted.ending:
        raise InputError(f"{path}: expected a name that ends in {wanted.ending}, for {kind}")
    source = find_weights(weights)
    check_output(path, inputs=[source], folder=not wanted.ending)
    read = read_weights(source)
    if not wanted.ending:
        with atomic_folder(path) as folder:
            wanted.write(read, folder, **given)
    elif kind == "openvino":
        _write_pair(read, path, given)
    else:
        with atomic_write(path) as temporary:
            wanted.write(read, temporary, **given)
    return read


def _write_pair(weights: Weights, path: Path, options: dict[str, Any]) -> None:
    """Write OpenVINO's two files. The .bin comes first: without it, the .xml is of no use."""
    binary = path.with_suffix(".bin")
    check_output(binary)
    with atomic_write(path) as temporary, atomic_write(binary) as temporary_binary:
        export_openvino(weights, temporary, temporary_binary, **options)


def _check_options(kind: str, wanted: Format, given: dict[str, Any]) -> None:
    for name in given:
        if name not in wanted.options:
            takers = [other for other, form in FORMATS.items() if name in form.options]
            raise InputError(f"{name}: {kind} has no such setting; {', '.join(takers)} have it")
    size = given.get("size", 224)
    if type(size) is not int or not 32 <= size <= 4096:
        raise InputError(f"size: expected 32 to 4096 pixels a side, found {short_repr(size)}")
    if given.get("channels", "RGB") not in ("RGB", "BGR"):
        raise InputError(
            f"channels: expected 'RGB' or 'BGR', found {short_repr(given['channels'])}"
        )
