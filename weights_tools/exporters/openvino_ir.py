"""Write the OpenVINO model of the Open Model Zoo's card: an .xml file, and a .bin beside it."""

import io
from pathlib import Path
from typing import Any

from tinymixnet.engine.weights import Weights
from weights_tools.exporters.notes import file_notes
from weights_tools.exporters.onnx_graph import onnx_model
from weights_tools.extras import import_extra


def openvino_model(
    weights: Weights, normalized: bool = False, channels: str = "BGR", size: int | None = None
) -> Any:
    """Return the network as OpenVINO's own converter makes it from our ONNX graph.

    The input is `image`, (1, 3, size, size) of 0..255, with blue first as on the model card. The
    output is `logits`. The settings are those of `onnx_model`.
    """
    openvino = import_extra("openvino", "openvino")
    graph = onnx_model(weights, normalized, channels, size)
    del graph.graph.output[1:]  # the card's model has no softmax
    graph.graph.node.pop()
    size = weights.metadata.input_size if size is None else size
    stream = io.BytesIO(graph.SerializeToString())
    name = graph.graph.input[0].name
    model = openvino.convert_model(stream, input=[(name, [1, 3, size, size])])
    for note, text in file_notes(weights).items():
        model.set_rt_info(text, [note])
    return model


def export_openvino(weights: Weights, xml: Path, binary: Path, **options: Any) -> None:
    """Write the .xml and the .bin of the model."""
    openvino = import_extra("openvino", "openvino")
    named = xml.with_suffix(".xml")  # OpenVINO insists on this ending
    openvino.save_model(openvino_model(weights, **options), named, compress_to_fp16=False)
    named.with_suffix(".bin").replace(binary)
    named.replace(xml)
