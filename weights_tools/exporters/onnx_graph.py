"""Make an ONNX graph of a MixNet in which every layer keeps its canonical name.

A layer is one node, and the node and its output have the layer's name (`blocks_3/expand_bn`).
Where ONNX has no single operation for a layer, the nodes before the last one have a longer name
(`blocks_3/expand_act/sigmoid`). So `weights_tools record` on the file gives a dump in which every
layer is found by its name.

ONNX stores images as (N, C, H, W) and kernels as (O, I, H, W). The batch may have any size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinymixnet.engine.architecture import Block, group_kernels
from tinymixnet.engine.weights import Weights
from weights_tools.exporters.notes import file_notes
from weights_tools.extras import import_extra

OPSET = 17
IR_VERSION = 8  # the file format of ONNX's release with opset 17


def onnx_model(
    weights: Weights, normalized: bool = False, channels: str = "RGB", size: int | None = None
) -> Any:
    """Return the network as an `onnx.ModelProto`, checked by ONNX's own checker.

    The input is `image`, (N, 3, size, size) float32 of 0..255, and the network subtracts the mean
    and divides by the deviation itself. normalized: the input is `normalize`, for which the caller
    has done that already. channels="BGR": the input has blue first. size: pixels a side, without it
    the input size of the weights. The outputs are `logits` and `probabilities`, (N, classes).
    """
    onnx = import_extra("onnx", "onnx")
    graph = _Graph(onnx, weights, reverse=channels == "BGR")
    name = "normalize" if normalized else "image"
    size = weights.metadata.input_size if size is None else size
    graph.network(name)
    value = onnx.helper.make_tensor_value_info
    float32, classes = onnx.TensorProto.FLOAT, weights.architecture.classes
    outputs = ("logits", "probabilities")
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            weights.metadata.name or weights.architecture.variant,
            [value(name, float32, ["N", 3, size, size])],
            [value(output, float32, ["N", classes]) for output in outputs],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tinymixnet",
    )
    for name, text in file_notes(weights).items():
        model.metadata_props.add(key=name, value=text)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes and constants of the graph, in order. Each method adds a layer or a part."""

    def __init__(self, onnx: Any, weights: Weights, reverse: bool) -> None:
        self.onnx = onnx
        self.weights = weights
        self.reverse = reverse  # blue first: in the input, the means and the first kernel
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    # -- the network -------------------------------------------------------------------------------

    def network(self, image: str) -> None:
        metadata = self.weights.metadata
        x = image
        if image != "normalize":
            mean = self.constant("normalize/mean", self.colours(metadata.mean))
            std = self.constant("normalize/std", self.colours(metadata.std))
            x = self.node("Sub", "normalize/centred", x, mean)
            x = self.node("Div", "normalize", x, std)
        x = self.conv("stem/conv", x, stride=2)
        x = self.batch_norm("stem/bn", x)
        x = self.node("Relu", "stem/act", x)
        for block in self.weights.architecture.blocks:
            x = self.block(block, x)
        x = self.conv("head/conv", x)
        x = self.batch_norm("head/bn", x)
        x = self.node("Relu", "head/act", x)
        x = self.node("GlobalAveragePool", "head/pool/mean", x)
        x = self.node("Flatten", "head/pool", x)
        kernel, bias = (self.weight(f"logits/{tensor}") for tensor in ("kernel", "bias"))
        x = self.node("Gemm", "logits", x, kernel, bias)
        self.node("Softmax", "probabilities", x)

    def block(self, block: Block, entry: str) -> str:
        name, x = block.name, entry
        if block.expand_groups:
            x = self.conv(f"{name}/expand_conv", x)
            x = self.batch_norm(f"{name}/expand_bn", x)
            x = self.activation(f"{name}/expand_act", x, block.swish)
        x = self.conv(f"{name}/depthwise_conv", x, block.stride, depthwise=True)
        x = self.batch_norm(f"{name}/depthwise_bn", x)
        x = self.activation(f"{name}/depthwise_act", x, block.swish)
        if block.se_width:
            gate = self.node("GlobalAveragePool", f"{name}/se_pool", x)
            gate = self.conv(f"{name}/se_reduce", gate)
            gate = self.activation(f"{name}/se_act", gate, block.swish)
            gate = self.conv(f"{name}/se_expand", gate)
            gate = self.node("Sigmoid", f"{name}/se_gate", gate)
            x = self.node("Mul", f"{name}/se_scale", x, gate)
        x = self.conv(f"{name}/project_conv", x)
        x = self.batch_norm(f"{name}/project_bn", x)
        if block.residual:
            return self.node("Add", f"{name}/output", x, entry)
        return self.node("Identity", f"{name}/output", x)

    # -- layers ------------------------------------------------------------------------------------

    def conv(self, layer: str, x: str, stride: int = 1, depthwise: bool = False) -> str:
        """A convolution. Several groups are cut from the channels and put together again."""
        tensors = self.weights.tensors
        kernels = group_kernels(layer, tensors) or [tensors[f"{layer}/kernel"]]
        bias = [self.weight(f"{layer}/bias")] if f"{layer}/bias" in tensors else []

        def one(name: str, x: str, kernel: np.ndarray) -> str:
            axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
            if layer == "stem/conv" and self.reverse:
                kernel = kernel[:, :, ::-1]
            stored = self.constant(f"{name}/kernel", kernel.transpose(axes))
            return self.node(
                "Conv",
                name,
                x,
                stored,
                *bias,
                kernel_shape=kernel.shape[:2],
                strides=[stride, stride],
                group=kernel.shape[2] if depthwise else 1,
                auto_pad="SAME_UPPER",  # TensorFlow's padding: the odd zero comes last
            )

        if len(kernels) == 1:
            return one(layer, x, kernels[0])
        sizes = np.array([kernel.shape[2] for kernel in kernels], np.int64)
        parts = [f"{layer}/split_{g}" for g in range(len(kernels))]
        self.node("Split", f"{layer}/split", x, self.constant(f"{layer}/sizes", sizes),
                  outputs=parts, axis=1)  # fmt: skip
        done = [
            one(f"{layer}/group_{g}", part, kernel)
            for g, (part, kernel) in enumerate(zip(parts, kernels, strict=True))
        ]
        return self.node("Concat", layer, *done, axis=1)

    def batch_norm(self, layer: str, x: str) -> str:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        statistics = [self.weight(f"{layer}/{name}") for name in names]
        epsilon = self.weights.metadata.epsilon
        return self.node("BatchNormalization", layer, x, *statistics, epsilon=epsilon)

    def activation(self, layer: str, x: str, swish: bool) -> str:
        if not swish:
            return self.node("Relu", layer, x)
        return self.node("Mul", layer, x, self.node("Sigmoid", f"{layer}/sigmoid", x))

    # -- nodes and constants -----------------------------------------------------------------------

    def node(
        self, operation: str, name: str, *inputs: str, outputs: Sequence[str] = (), **options: Any
    ) -> str:
        """Add a node; its output has the node's name unless `outputs` names others."""
        make = self.onnx.helper.make_node
        self.nodes.append(make(operation, inputs, outputs or [name], name=name, **options))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        stored = np.ascontiguousarray(array)
        self.constants.append(self.onnx.numpy_helper.from_array(stored, name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights.tensors[name])

    def colours(self, values: Sequence[float]) -> np.ndarray:
        """Return three numbers, one a colour, as (1, 3, 1, 1)."""
        ordered = values[::-1] if self.reverse else values
        return np.array(ordered, np.float32).reshape(1, 3, 1, 1)


def export_onnx(weights: Weights, output: Path, **options: Any) -> None:
    """Write the graph into a file."""
    output.write_bytes(onnx_model(weights, **options).SerializeToString())
