"""The sides of the comparison: tinymixnet, and the same network in four other frameworks.

The network is written once, in `network`, over a handful of operations that PyTorch, TensorFlow and
ONNX each supply; ONNX Runtime and OpenVINO both run the ONNX model. So the sides differ in how they
compute, never in what. A side is a function (weights, pixels, threads) -> Ready. It prepares
everything untimed, and converts the pixels to the framework's own layout there too.
"""

from collections.abc import Callable
from importlib.util import find_spec
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.engine.kernels import same_padding, split_channels
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.model import Model


class Ready(NamedTuple):
    """A side that is prepared for one batch of pixels (N, H, W, 3) float32."""

    logits: Callable[[], np.ndarray]  # (N, classes); another side's may differ by a constant
    seconds: Callable[[], float]  # how long one run over the batch takes


def ready(run: Callable[[], np.ndarray]) -> Ready:
    """Return a side whose timed run is the one that gives its logits."""

    def seconds() -> float:
        start = perf_counter()
        run()
        return perf_counter() - start

    return Ready(run, seconds)


class Peer(NamedTuple):
    """A side, or a variation of one: of those with the same name the table shows the best."""

    name: str
    build: Callable[[Weights, np.ndarray, int], Ready]
    how: str = ""
    needs: tuple[str, ...] = ()  # the modules it imports
    batches: tuple[int, ...] = (1, 8, 32)  # to try for throughput; empty: latency only
    latency: bool = True

    @property
    def label(self) -> str:
        return f"{self.name}, {self.how}" if self.how else self.name


def why_skipped(peer: Peer) -> str:
    """Return why a side cannot run here, or an empty string where it can."""
    missing = [module for module in peer.needs if find_spec(module) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if peer.build is tinymixnet_map and not hasattr(Model, "map"):
        return "this tinymixnet has no Model.map"
    return ""


# -- tinymixnet -----------------------------------------------------------------------------------
#
# Its threads are those of NumPy's BLAS; measure.py sets them before the process loads NumPy.


def tinymixnet(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    model = Model(*weights)
    return ready(lambda: model(pixels))


def tinymixnet_readable(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    model = Model(*weights)

    def run() -> np.ndarray:
        for name, tensor in model.layers(pixels):
            if name == "logits":
                logits = tensor
        return logits

    return ready(run)


def tinymixnet_map(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    """Photos through `Model.map` with one process for each thread; it also crops and names them.

    The clock starts when all processes are running: the other sides' start is not timed either.
    """
    model = Model(*weights)
    photos = list(pixels.astype(np.uint8))
    n, classes = len(photos), model.architecture.classes
    first = 4 * threads  # after so many answers every process is at work

    def logits() -> np.ndarray:
        probabilities = np.empty((n, classes))
        answers = model.map(photos, workers=threads, top=classes)
        for row, answer in zip(probabilities, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            for prediction in answer:
                row[prediction.index] = prediction.probability
        return np.log(probabilities)

    def seconds() -> float:
        answers = model.map((photos[i % n] for i in range(first + n)), workers=threads)
        for _ in range(first):
            next(answers)
        start = perf_counter()
        count = sum(1 for _ in answers)
        seconds = perf_counter() - start
        assert count == n
        return seconds

    return Ready(logits, seconds)


# -- the network, over any framework's operations -------------------------------------------------


def network(ops: Any, x: Any, architecture: Architecture) -> Any:
    """Compute the logits of normalised pixels; ops supplies the operations and the weights."""
    x = ops.relu(ops.norm(ops.conv(x, "stem/conv/kernel", stride=2), "stem/bn"))
    for block in architecture.blocks:
        x = mixnet_block(ops, x, block)
    x = ops.relu(ops.norm(ops.conv(x, "head/conv/kernel"), "head/bn"))
    return ops.dense(ops.pool(x), "logits")


def mixnet_block(ops: Any, x: Any, block: Block) -> Any:
    """Expand, filter with several kernel sizes, weigh the channels, project, add the input."""
    name, act, shortcut = block.name, ops.swish if block.swish else ops.relu, x
    groups = split_channels(block.inputs, block.expand_groups) if block.expand_groups else []
    if groups:
        x = grouped(ops, x, f"{name}/expand_conv", groups)
        x = act(ops.norm(x, f"{name}/expand_bn"))
    groups = split_channels(block.expanded, len(block.kernel_sizes))
    x = grouped(ops, x, f"{name}/depthwise_conv", groups, block.stride)
    x = act(ops.norm(x, f"{name}/depthwise_bn"))
    if block.se_width:
        gate = ops.conv(ops.pool(x), f"{name}/se_reduce/kernel", bias=f"{name}/se_reduce/bias")
        gate = ops.conv(act(gate), f"{name}/se_expand/kernel", bias=f"{name}/se_expand/bias")
        x = ops.multiply(x, ops.sigmoid(gate))
    groups = split_channels(block.expanded, block.project_groups)
    x = ops.norm(grouped(ops, x, f"{name}/project_conv", groups), f"{name}/project_bn")
    return ops.add(x, shortcut) if block.residual else x


def grouped(ops: Any, x: Any, layer: str, groups: list[int], stride: int = 1) -> Any:
    """Convolve each group of channels by itself, and put the results side by side."""
    parts = ops.split(x, groups) if len(groups) > 1 else [x]
    parts = [ops.conv(part, f"{layer}/kernel_{g}", stride) for g, part in enumerate(parts)]
    return ops.concat(parts) if len(parts) > 1 else parts[0]


class Arithmetic:
    """The operations of frameworks whose tensors know Python's operators."""

    def multiply(self, x: Any, gate: Any) -> Any:
        return x * gate

    def add(self, x: Any, shortcut: Any) -> Any:
        return x + shortcut


def is_depthwise(kernel: str) -> bool:
    return "/depthwise_conv/" in kernel


def to_oihw(name: str, tensor: np.ndarray) -> np.ndarray:
    """Return a kernel in the layout of PyTorch and ONNX, where a depthwise one is (C, 1, k, k)."""
    if tensor.ndim != 4:
        return tensor
    return tensor.transpose((2, 3, 0, 1) if is_depthwise(name) else (3, 2, 0, 1))


# -- PyTorch eager --------------------------------------------------------------------------------


class TorchOperations(Arithmetic):
    """What timm's tf_mixnet_l runs in evaluation: unfolded batch norms, activations in place."""

    def __init__(self, weights: Weights, memory_format: Any) -> None:
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.epsilon = weights.metadata.epsilon
        self.tensors = {}
        for name, tensor in weights.tensors.items():
            value = torch.from_numpy(to_oihw(name, tensor).copy())
            if tensor.ndim == 4:
                value = value.contiguous(memory_format=memory_format)
            self.tensors[name] = value.T.contiguous() if name == "logits/kernel" else value

    def conv(self, x: Any, kernel: str, stride: int = 1, bias: str = "") -> Any:
        weight = self.tensors[kernel]
        (top, bottom), (left, right) = (
            same_padding(size, k, stride)
            for size, k in zip(x.shape[2:], weight.shape[2:], strict=True)
        )
        if (top, left) != (bottom, right):  # a copy; timm makes one in this case only, too
            x = self.functional.pad(x, (left, right, top, bottom))
            top = left = 0
        groups = x.shape[1] if is_depthwise(kernel) else 1
        return self.functional.conv2d(
            x, weight, self.tensors.get(bias), stride, (top, left), groups=groups
        )

    def norm(self, x: Any, layer: str) -> Any:
        gamma, beta, mean, variance = (
            self.tensors[f"{layer}/{v}"]
            for v in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return self.functional.batch_norm(x, mean, variance, gamma, beta, eps=self.epsilon)

    def relu(self, x: Any) -> Any:
        return x.relu_()

    def swish(self, x: Any) -> Any:
        return self.functional.silu(x, inplace=True)

    def sigmoid(self, x: Any) -> Any:
        return x.sigmoid()

    def pool(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def dense(self, x: Any, layer: str) -> Any:
        weight, bias = self.tensors[f"{layer}/kernel"], self.tensors[f"{layer}/bias"]
        return self.functional.linear(x.flatten(1), weight, bias)

    def split(self, x: Any, sizes: list[int]) -> Any:
        return self.torch.split(x, sizes, 1)

    def concat(self, parts: list[Any]) -> Any:
        return self.torch.cat(parts, 1)


def _torch(weights: Weights, pixels: np.ndarray, threads: int, memory_format: str) -> Ready:
    import torch

    torch.set_num_threads(threads)
    layout = getattr(torch, memory_format)
    ops = TorchOperations(weights, layout)
    image = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in mean_and_std(weights.metadata))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(ops, (image - mean) / std, weights.architecture).numpy()

    return ready(run)


def torch_channels_last(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    return _torch(weights, pixels, threads, "channels_last")


def torch_contiguous(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    return _torch(weights, pixels, threads, "contiguous_format")


def mean_and_std(metadata: Metadata) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(metadata.mean, np.float32), np.asarray(metadata.std, np.float32)


# -- TensorFlow, frozen graph ---------------------------------------------------------------------


class TensorFlowOperations(Arithmetic):
    """The operations of the original graph; its optimiser folds and fuses what it can."""

    def __init__(self, weights: Weights) -> None:
        import tensorflow as tf

        self.tf = tf
        self.epsilon = weights.metadata.epsilon
        self.variables = {name: tf.Variable(tensor) for name, tensor in weights.tensors.items()}

    def conv(self, x: Any, kernel: str, stride: int = 1, bias: str = "") -> Any:
        conv = self.tf.nn.depthwise_conv2d if is_depthwise(kernel) else self.tf.nn.conv2d
        x = conv(x, self.variables[kernel], strides=[1, stride, stride, 1], padding="SAME")
        return self.tf.nn.bias_add(x, self.variables[bias]) if bias else x

    def norm(self, x: Any, layer: str) -> Any:
        gamma, beta, mean, variance = (
            self.variables[f"{layer}/{v}"]
            for v in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return self.tf.compat.v1.nn.fused_batch_norm(
            x, gamma, beta, mean, variance, epsilon=self.epsilon, is_training=False
        )[0]

    def relu(self, x: Any) -> Any:
        return self.tf.nn.relu(x)

    def swish(self, x: Any) -> Any:
        return self.tf.nn.silu(x)

    def sigmoid(self, x: Any) -> Any:
        return self.tf.sigmoid(x)

    def pool(self, x: Any) -> Any:
        return self.tf.reduce_mean(x, (1, 2), keepdims=True)

    def dense(self, x: Any, layer: str) -> Any:
        kernel, bias = self.variables[f"{layer}/kernel"], self.variables[f"{layer}/bias"]
        return self.tf.nn.bias_add(self.tf.squeeze(x, (1, 2)) @ kernel, bias)

    def split(self, x: Any, sizes: list[int]) -> Any:
        return self.tf.split(x, sizes, 3)

    def concat(self, parts: list[Any]) -> Any:
        return self.tf.concat(parts, 3)


def tensorflow_frozen(weights: Weights, pixels: np.ndarray, threads: int) -> Ready:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if tf.config.threading.get_intra_op_parallelism_threads() == 0:  # once a process
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    ops = TensorFlowOperations(weights)
    mean, std = mean_and_std(weights.metadata)

    def graph(image: Any) -> Any:
        return network(ops, (image - mean) / std, weights.architecture)

    traced = tf.function(graph, input_signature=[tf.TensorSpec(pixels.shape, tf.float32)])
    frozen = convert_variables_to_constants_v2(traced.get_concrete_function())
    image = tf.constant(pixels)
    return ready(lambda: frozen(image)[0].numpy())


# -- ONNX Runtime and OpenVINO --------------------------------------------------------------------


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


THREAD_SETTINGS = (
    "OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and MKL_NUM_THREADS for every side; "
    "torch.set_num_threads; TensorFlow's intra- and inter-op threads; "
    "ONNX Runtime's intra_op_num_threads; OpenVINO's INFERENCE_NUM_THREADS"
)

PEERS = (
    Peer("tinymixnet", tinymixnet),
    Peer("tinymixnet", tinymixnet_map, "map, a process a core", batches=(64,), latency=False),
    Peer("tinymixnet's readable path", tinymixnet_readable, batches=()),
    Peer("PyTorch eager", torch_channels_last, "channels last", ("torch",)),
    Peer("PyTorch eager", torch_contiguous, "contiguous", ("torch",)),
    Peer("TensorFlow frozen graph", tensorflow_frozen, "", ("tensorflow",)),
    Peer("ONNX Runtime", onnx_runtime, "", ("onnx", "onnxruntime")),
    Peer("OpenVINO", openvino, "", ("onnx", "openvino")),
)
