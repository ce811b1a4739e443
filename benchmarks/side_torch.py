"""PyTorch, eager: every operation is called from Python, as in most research code."""

from typing import Any

import numpy as np

from benchmarks.side import Ready, ready
from benchmarks.side_network import Arithmetic, is_depthwise, mean_and_std, network, to_oihw
from tinymixnet.engine.kernels import same_padding
from tinymixnet.engine.weights import Weights


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
