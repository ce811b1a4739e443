"""ONNX Runtime and OpenVINO, which both run the same ONNX model."""

from typing import Any

import numpy as np

from benchmarks.side import Ready, ready
from benchmarks.side_network import is_depthwise, mean_and_std, network, to_oihw
from tinymixnet.engine.kernels import same_padding
from tinymixnet.engine.weights import Weights


class OnnxOperations:
    """Build an ONNX graph: a tensor is its name here, and `sizes` has its height and width."""

    def __init__(self, weights: Weights, shape: tuple[int, ...]) -> None:
        from onnx import helper, numpy_helper

        self.helper = helper
        self.epsilon = weights.metadata.epsilon
        self.kernels = {name: tensor.shape for name, tensor in weights.tensors.items()}
        self.nodes: list[Any] = []
        self.sizes = {"image": shape[1:3]}
        constants = {name: to_oihw(name, tensor) for name, tensor in weights.tensors.items()}
        mean, std = mean_and_std(weights.metadata)
        constants |= {"mean": mean.reshape(1, 3, 1, 1), "std": std.reshape(1, 3, 1, 1)}
        self.initialisers = [
            numpy_helper.from_array(np.ascontiguousarray(constant), name)
            for name, constant in constants.items()
        ]

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node whose outputs have the height and width of its first input."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self.helper.make_node(kind, inputs, names, **attributes))
        self.sizes |= dict.fromkeys(names, self.sizes[inputs[0]])
        return names

    def conv(self, x: str, kernel: str, stride: int = 1, bias: str = "") -> str:
        kh, kw, c, _ = self.kernels[kernel]
        h, w = self.sizes[x]
        (top, bottom), (left, right) = same_padding(h, kh, stride), same_padding(w, kw, stride)
        [y] = self.node(
            "Conv",
            *(x, kernel, bias)[: 3 if bias else 2],
            kernel_shape=[kh, kw],
            strides=[stride, stride],
            pads=[top, left, bottom, right],
            group=c if is_depthwise(kernel) else 1,
        )
        self.sizes[y] = -(-h // stride), -(-w // stride)
        return y

    def norm(self, x: str, layer: str) -> str:
        vectors = [f"{layer}/{v}" for v in ("gamma", "beta", "moving_mean", "moving_variance")]
        return self.node("BatchNormalization", x, *vectors, epsilon=self.epsilon)[0]

    def relu(self, x: str) -> str:
        return self.node("Relu", x)[0]

    def swish(self, x: str) -> str:
        return self.multiply(x, self.sigmoid(x))

    def sigmoid(self, x: str) -> str:
        return self.node("Sigmoid", x)[0]

    def pool(self, x: str) -> str:
        [y] = self.node("GlobalAveragePool", x)
        self.sizes[y] = 1, 1
        return y

    def dense(self, x: str, layer: str) -> str:
        [flat] = self.node("Flatten", x)
        return self.node("Gemm", flat, f"{layer}/kernel", f"{layer}/bias")[0]

    def multiply(self, x: str, gate: str) -> str:
        return self.node("Mul", x, gate)[0]

    def add(self, x: str, shortcut: str) -> str:
        return self.node("Add", x, shortcut)[0]

    def split(self, x: str, sizes: list[int]) -> list[str]:
        from onnx import numpy_helper

        name = "split_" + "_".join(map(str, sizes))
        if not any(constant.name == name for constant in self.initialisers):
            self.initialisers.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
        return self.node("Split", x, name, outputs=len(sizes), axis=1)

    def concat(self, parts: list[str]) -> str:
        return self.node("Concat", *parts, axis=1)[0]


def onnx_model(weights: Weights, shape: tuple[int, ...]) -> bytes:
    """The network as an ONNX file: image (N, 3, H, W) RGB 0..255 to logits; shape is NHWC."""
    from onnx import TensorProto, checker, helper

    n, h, w, c = shape
    ops = OnnxOperations(weights, shape)
    [centred] = ops.node("Sub", "image", "mean")
    [normalised] = ops.node("Div", centred, "std")
    logits = network(ops, normalised, weights.architecture)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [n, c, h, w])
    output = helper.make_tensor_value_info(
        logits, TensorProto.FLOAT, [n, weights.architecture.classes]
    )
    graph = helper.make_graph(ops.nodes, "mixnet", [image], [output], ops.initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def onnx_runtime(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_model(weights, pixels.shape), options, providers=["CPUExecutionProvider"]
    )
    image = {"image": pixels.transpose(0, 3, 1, 2).copy()}
    return ready(lambda: session.run(None, image)[0])


def openvino(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(onnx_model(weights, pixels.shape), b"")
    request = core.compile_model(model, "CPU", options).create_infer_request()
    image = pixels.transpose(0, 3, 1, 2).copy()

    def run() -> np.ndarray:
        request.infer([image], share_inputs=True)
        return request.get_output_tensor(0).data.copy()

    return ready(run)
