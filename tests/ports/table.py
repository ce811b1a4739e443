"""Which ports there are, what is recorded of each, and what is true of it.

    python -m tests.ports.table FOLDER [PATTERN ...]

records them all, or those whose names fit a pattern, into FOLDER/NAME.npz (a dump that is a folder
has no suffix), for pictures of 64 x 64 pixels in FOLDER/pixels.npy.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import tinymixnet
from tests.ports import graphs, pytorch
from tests.ports import tensorflow as tf_ports
from weights_tools import record

SIDE = 64
RIGHT: tuple[str, ...] = ()


@dataclass
class Workshop:
    """The network, the picture, and the files that several ports are made from."""

    folder: Path
    pixels: np.ndarray  # (1, 64, 64, 3) float32, RGB, 0 to 255
    model: Any = field(default_factory=tinymixnet.load)

    @property
    def network(self) -> tuple[Any, Any]:
        return self.model.architecture, self.model.tensors

    @cached_property
    def normalized(self) -> np.ndarray:
        """(1, 64, 64, 3) float32, as most ports take it."""
        about = self.model.metadata
        mean, std = np.float32(about.mean), np.float32(about.std)
        return (self.pixels - mean) / std

    @cached_property
    def planes(self) -> np.ndarray:
        """The same as (1, 3, 64, 64)."""
        return np.ascontiguousarray(self.normalized.transpose(0, 3, 1, 2))

    @cached_property
    def timm(self) -> Any:
        return pytorch.timm_module("tf_mixnet_l", *self.network)

    @cached_property
    def plain_timm(self) -> Any:
        return pytorch.timm_module("mixnet_l", *self.network)

    def file(self, name: str, make: Callable[[Path], Path]) -> Path:
        """Return FOLDER/files/name, made if it is not there yet."""
        path = self.folder / "files" / name
        path.parent.mkdir(exist_ok=True)
        return path if path.exists() else make(path)

    def onnx(self, new: bool, plain: bool = False) -> Path:
        name = f"{'plain_' if plain else ''}{'new' if new else 'old'}.onnx"
        module = self.plain_timm if plain else self.timm
        return self.file(name, lambda p: graphs.export_onnx(module, self.planes, p, new))


Make = Callable[[Workshop, Path], Any]


@dataclass(frozen=True)
class Port:
    """One port: how it is recorded, and the causes that a diagnosis must name."""

    name: str
    what: str
    recorded: str
    make: Make
    truth: tuple[str, ...] = RIGHT

    @property
    def truth_line(self) -> str:
        """The first line that `diagnose` must print."""
        return f"cause: {', '.join(self.truth) or 'none'}"

    @property
    def truth_in_words(self) -> str:
        return ", ".join(self.truth) or "correct"

    def dump(self, folder: Path) -> Path:
        return folder / (self.name if self.name.endswith("folder") else f"{self.name}.npz")


def _module(make: Callable[[Workshop], Any]) -> Make:
    return lambda shop, path: record.record_torch(make(shop), shop.planes, path)


def _onnx(make: Callable[[Workshop], Path]) -> Make:
    return lambda shop, path: record.record_onnx(make(shop), shop.planes, path)


def _optimised(level: str) -> Make:
    def make(shop: Workshop) -> Path:
        old = shop.onnx(new=False)
        return shop.file(f"{level}.onnx", lambda path: graphs.optimise_onnx(old, path, level))

    return _onnx(make)


def _simplified(new: bool) -> Make:
    def make(shop: Workshop) -> Path:
        source = shop.onnx(new)
        return shop.file(f"sim_{source.name}", lambda path: graphs.simplify_onnx(source, path))

    return _onnx(make)


def _openvino(source: str) -> Make:
    def record_it(shop: Workshop, path: Path) -> Any:
        def make(to: Path) -> Path:
            if source == "module":
                return graphs.convert_openvino(shop.timm, to, shop.planes)
            return graphs.convert_openvino(shop.onnx(new=source == "new"), to)

        file = shop.file(f"openvino_{source}.xml", make)
        return record.record_openvino(file, shop.planes, path)

    return record_it


def _openvino_epsilon(shop: Workshop, path: Path) -> Any:
    def make(to: Path) -> Path:
        module = pytorch.efficient_module(*shop.network, epsilon=1e-5)
        return graphs.convert_openvino(module, to, shop.planes)

    file = shop.file("openvino_epsilon.xml", make)
    return record.record_openvino(file, shop.planes, path)


def _frozen(shop: Workshop, path: Path) -> Any:
    function = tf_ports.concrete_function(*shop.network, SIDE)
    file = shop.file("frozen.pb", lambda to: tf_ports.frozen_graph(function, to))
    return record.record_tensorflow(file, shop.normalized, path)


def _lite(shop: Workshop, path: Path) -> Any:
    function = tf_ports.concrete_function(*shop.network, SIDE)
    file = shop.file("float.tflite", lambda to: tf_ports.lite_file(function, to))
    return record.record_tflite(file, shop.normalized, path)


def _keras(named: bool) -> Make:
    def record_it(shop: Workshop, path: Path) -> Any:
        model = tf_ports.keras_model(*shop.network, SIDE, named)
        return record.record_keras(model, shop.normalized, path)

    return record_it


PADDING, EPSILON = "symmetric-padding", "bn-epsilon"
PLAIN = (PADDING, EPSILON)
MODULES, NODES = "every module, by hooks", "every intermediate of the graph"
PORTS = (
    Port("timm_tf_mixnet_l", "timm, `tf_mixnet_l`", MODULES, _module(lambda w: w.timm)),
    Port("timm_mixnet_l", "timm, `mixnet_l`", MODULES, _module(lambda w: w.plain_timm), PLAIN),
    Port(
        "geffnet_tf_mixnet_l", "geffnet, `tf_mixnet_l`", MODULES,
        _module(lambda w: pytorch.geffnet_module("tf_mixnet_l", *w.network)),
    ),
    Port(
        "geffnet_mixnet_l", "geffnet, `mixnet_l`", MODULES,
        _module(lambda w: pytorch.geffnet_module("mixnet_l", *w.network)), PLAIN,
    ),
    Port(
        "pytorchcv_mixnet_l", "pytorchcv, `mixnet_l`", MODULES,
        _module(lambda w: pytorch.pytorchcv_module(*w.network, SIDE)), PLAIN,
    ),
    Port(
        "efficientnet_style", "PyTorch, names as in EfficientNet-PyTorch", MODULES,
        _module(lambda w: pytorch.efficient_module(*w.network)),
    ),
    Port(
        "efficientnet_style_epsilon", "the same, batch norm as PyTorch has it", MODULES,
        _module(lambda w: pytorch.efficient_module(*w.network, epsilon=1e-5)), (EPSILON,),
    ),
    Port(
        "torchvision_style", "PyTorch, names as in torchvision", MODULES,
        _module(lambda w: pytorch.torchvision_module(*w.network)),
    ),
    Port(
        "torchvision_style_padding", "the same, padding as PyTorch has it", MODULES,
        _module(lambda w: pytorch.torchvision_module(*w.network, symmetric=True)), (PADDING,),
    ),
    Port("onnx_old", "ONNX, TorchScript exporter", NODES, _onnx(lambda w: w.onnx(new=False))),
    Port("onnx_new", "ONNX, torch.export exporter", NODES, _onnx(lambda w: w.onnx(new=True))),
    Port(
        "onnx_old_padding", "ONNX of timm's `mixnet_l`, TorchScript exporter", NODES,
        _onnx(lambda w: w.onnx(new=False, plain=True)), PLAIN,
    ),
    Port(
        "onnx_new_padding", "ONNX of timm's `mixnet_l`, torch.export exporter", NODES,
        _onnx(lambda w: w.onnx(new=True, plain=True)), PLAIN,
    ),
    Port("onnxsim_old", "ONNX, old exporter, onnxsim", NODES, _simplified(new=False)),
    Port("onnxsim_new", "ONNX, new exporter, onnxsim", NODES, _simplified(new=True)),
    *(
        Port(f"ort_{level.split('_')[-1].lower()}", f"ONNX Runtime, {level}", NODES,
             _optimised(level))
        for level in graphs.LEVELS
    ),
    Port("openvino_onnx_old", "OpenVINO of the old ONNX", "every node", _openvino("old")),
    Port("openvino_onnx_new", "OpenVINO of the new ONNX", "every node", _openvino("new")),
    Port("openvino_module", "OpenVINO of the PyTorch module", "every node", _openvino("module")),
    Port(
        "openvino_epsilon", "OpenVINO, batch norm as PyTorch has it", "every node",
        _openvino_epsilon, (EPSILON,),
    ),
    Port("tf_frozen", "TensorFlow, frozen graph", "every tensor of two axes or more", _frozen),
    Port("tf_lite", "TensorFlow Lite, float", "every tensor", _lite),
    Port("keras_named", "Keras, named layers", "every layer", _keras(named=True)),
    Port("keras_automatic", "Keras, automatic names", "every layer", _keras(named=False)),
    Port("keras_automatic_folder", "the same", "every layer, as a folder", _keras(named=False)),
)  # fmt: skip


def picture() -> np.ndarray:
    """Return pixels (1, 64, 64, 3) float32 that look like a photo: soft shapes, edges and noise."""
    rng = np.random.RandomState(13)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    planes = [
        128 + 90 * np.sin(5 * x + phase) * np.cos(4 * y - phase) + 40 * (x + y > 1 + phase / 9)
        for phase in (0.0, 0.9, 2.1)
    ]
    pixels = np.stack(planes, -1) + rng.uniform(-12, 12, (SIDE, SIDE, 3))
    return np.clip(np.round(pixels), 0, 255)[None].astype(np.float32)


def record_ports(
    folder: Path, patterns: Sequence[str] = ("*",), keep: bool = False
) -> Iterator[str]:
    """Record the ports whose names fit a pattern, and report each. keep: those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pixels.npy", picture())
    shop = Workshop(folder, picture())
    for port in PORTS:
        wanted = any(fnmatchcase(port.name, pattern) for pattern in patterns)
        if wanted and not (keep and port.dump(folder).exists()):
            start = time.perf_counter()
            count = port.make(shop, port.dump(folder))
            yield f"{port.name}: {count} tensors, {time.perf_counter() - start:.1f} s"


if __name__ == "__main__":
    for line in record_ports(Path(sys.argv[1]), sys.argv[2:] or ("*",)):
        print(line, flush=True)
