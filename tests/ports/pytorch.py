"""MixNet-L in PyTorch, as other people wrote it and as we write it in their manner.

Every function returns a module in eval mode that holds the given weights and takes normalised
pixels, NCHW.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tinymixnet.engine.architecture import Architecture, Block
from tinymixnet.engine.kernels import split_channels
from weights_tools.timm_names import canonical_sources

Tensors = Mapping[str, np.ndarray]
EPSILON = 1e-3  # TensorFlow's; PyTorch's own is 1e-5


def timm_module(name: str, architecture: Architecture, tensors: Tensors) -> nn.Module:
    """Return timm's model of a name (tf_mixnet_l, or mixnet_l: other padding and epsilon)."""
    import timm

    return load_timm(timm.create_model(name, num_classes=architecture.classes), tensors)


def geffnet_module(name: str, architecture: Architecture, tensors: Tensors) -> nn.Module:
    """Return the model of geffnet, an earlier package by timm's author with the same names."""
    import geffnet

    module = geffnet.create_model(name, num_classes=architecture.classes, pretrained=False)
    return load_timm(module, tensors)


def load_timm(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Load our tensors into a module with timm's names."""
    state = module.state_dict()
    for ours, (theirs, axes) in canonical_sources(state, "the module").items():
        value = np.ascontiguousarray(tensors[ours].transpose(np.argsort(axes)))
        state[theirs] = torch.from_numpy(value)
    module.load_state_dict(state)
    return module.eval()


def pytorchcv_module(architecture: Architecture, tensors: Tensors, side: int) -> nn.Module:
    """Return pytorchcv's mixnet_l for pictures of a side that 32 divides.

    Its names are its own. So the tensors are loaded in order, which is the order of ours.
    """
    from pytorchcv.models.mixnet import mixnet_l

    module = mixnet_l(num_classes=architecture.classes, in_size=(side, side))
    module.features.final_pool = nn.AvgPool2d(side // 32)  # made for 224 pixels only
    return load_in_order(module, architecture, tensors)


def load_in_order(module: nn.Module, architecture: Architecture, tensors: Tensors) -> nn.Module:
    """Load our tensors into a module that declares its own in the order of the computation."""
    state = module.state_dict()
    theirs = [name for name in state if not name.endswith("num_batches_tracked")]
    for name, (ours, shape) in zip(theirs, architecture.tensor_shapes().items(), strict=True):
        value = np.asarray(tensors[ours])
        if ours == "logits/kernel":
            value = value.T
        elif len(shape) == 4:
            value = value.transpose((2, 3, 0, 1) if "depthwise_conv" in ours else (3, 2, 0, 1))
        # A dense layer may stand where another port has a convolution of one pixel.
        if value.squeeze().shape != tuple(state[name].squeeze().shape):
            raise ValueError(f"{name}: {tuple(state[name].shape)}, but {ours} is {shape}")
        value = np.ascontiguousarray(value).reshape(state[name].shape)
        state[name] = torch.from_numpy(value)
    module.load_state_dict(state)
    return module.eval()


# -- ports of our own, in the manner of others --------------------------------------------------


class Padded(nn.Module):
    """A convolution with TensorFlow's SAME padding; symmetric padding is PyTorch's."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2 if symmetric else 0, 1, groups, bias=False
        )
        self.symmetric = symmetric

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.symmetric:
            (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
            pads = []
            for size in (x.shape[3], x.shape[2]):
                total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
                pads += [total // 2, total - total // 2]
            x = nn.functional.pad(x, pads)
        return self.conv(x)


class Mixed(nn.Module):
    """Several convolutions, each on its own part of the channels."""

    def __init__(self, convolutions: list[nn.Module], parts: list[int]) -> None:
        super().__init__()
        self.convs, self.sizes = nn.ModuleList(convolutions), parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(x, self.sizes, 1)
        return torch.cat([c(p) for c, p in zip(self.convs, parts, strict=True)], 1)


def grouped(inputs: int, outputs: int, groups: int) -> nn.Module:
    ins, outs = split_channels(inputs, groups), split_channels(outputs, groups)
    convs = [nn.Conv2d(i, o, 1, bias=False) for i, o in zip(ins, outs, strict=True)]
    return convs[0] if groups == 1 else Mixed(convs, list(ins))


def mixed(channels: int, kernels: tuple[int, ...], stride: int, symmetric: bool) -> nn.Module:
    parts = split_channels(channels, len(kernels))
    convs: list[nn.Module] = [
        Padded(c, c, k, stride, c, symmetric) for c, k in zip(parts, kernels, strict=True)
    ]
    return convs[0] if len(kernels) == 1 else Mixed(convs, list(parts))


class MBBlock(nn.Module):
    """A block in the manner of EfficientNet-PyTorch: one swish module for all activations."""

    def __init__(self, block: Block, epsilon: float, symmetric: bool) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=epsilon)
        self.expands, self.skips, self.squeezes = (
            block.expand_groups > 0, block.residual, block.se_width > 0
        )  # fmt: skip
        if self.expands:
            self._expand_conv = grouped(block.inputs, block.expanded, block.expand_groups)
            self._bn0 = norm(block.expanded)
        self._depthwise_conv = mixed(block.expanded, block.kernel_sizes, block.stride, symmetric)
        self._bn1 = norm(block.expanded)
        if self.squeezes:
            self._se_reduce = nn.Conv2d(block.expanded, block.se_width, 1)
            self._se_expand = nn.Conv2d(block.se_width, block.expanded, 1)
        self._project_conv = grouped(block.expanded, block.outputs, block.project_groups)
        self._bn2 = norm(block.outputs)
        self._swish = nn.SiLU() if block.swish else nn.ReLU()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = inputs
        if self.expands:
            x = self._swish(self._bn0(self._expand_conv(x)))
        x = self._swish(self._bn1(self._depthwise_conv(x)))
        if self.squeezes:
            squeezed = nn.functional.adaptive_avg_pool2d(x, 1)
            squeezed = self._se_expand(self._swish(self._se_reduce(squeezed)))
            x = torch.sigmoid(squeezed) * x
        x = self._bn2(self._project_conv(x))
        return x + inputs if self.skips else x


class EfficientStyle(nn.Module):
    """MixNet with the module names of EfficientNet-PyTorch; pool and SE are no modules."""

    def __init__(self, architecture: Architecture, epsilon: float, symmetric: bool) -> None:
        super().__init__()
        blocks = architecture.blocks
        self._conv_stem = Padded(3, blocks[0].inputs, 3, 2, symmetric=symmetric)
        self._bn0 = nn.BatchNorm2d(blocks[0].inputs, eps=epsilon)
        self._blocks = nn.ModuleList([MBBlock(b, epsilon, symmetric) for b in blocks])
        self._conv_head = nn.Conv2d(blocks[-1].outputs, architecture.head_filters, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(architecture.head_filters, eps=epsilon)
        self._fc = nn.Linear(architecture.head_filters, architecture.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = torch.relu(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


def efficient_module(
    architecture: Architecture, tensors: Tensors, epsilon: float = EPSILON, symmetric: bool = False
) -> nn.Module:
    """Return our network with EfficientNet-PyTorch's names (`_blocks.3._bn1`)."""
    module = EfficientStyle(architecture, epsilon, symmetric)
    return load_in_order(module, architecture, tensors)


class SequentialBlock(nn.Module):
    """A block in torchvision's manner: `block` is a sequence of convolution, norm, activation."""

    def __init__(self, block: Block, epsilon: float, symmetric: bool) -> None:
        super().__init__()
        from torchvision.ops.misc import SqueezeExcitation

        norm = partial(nn.BatchNorm2d, eps=epsilon)
        act: Callable[..., nn.Module] = nn.SiLU if block.swish else nn.ReLU
        steps: list[nn.Module] = []
        if block.expand_groups:
            expand = grouped(block.inputs, block.expanded, block.expand_groups)
            steps.append(nn.Sequential(expand, norm(block.expanded), act(inplace=True)))
        depthwise = mixed(block.expanded, block.kernel_sizes, block.stride, symmetric)
        steps.append(nn.Sequential(depthwise, norm(block.expanded), act(inplace=True)))
        if block.se_width:
            steps.append(SqueezeExcitation(block.expanded, block.se_width, act))
        project = grouped(block.expanded, block.outputs, block.project_groups)
        steps.append(nn.Sequential(project, norm(block.outputs)))
        self.block, self.use_res_connect = nn.Sequential(*steps), block.residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.use_res_connect else self.block(x)


def torchvision_module(
    architecture: Architecture, tensors: Tensors, epsilon: float = EPSILON, symmetric: bool = False
) -> nn.Module:
    """Return our network with torchvision's names and its SqueezeExcitation."""
    blocks = architecture.blocks
    norm, head = partial(nn.BatchNorm2d, eps=epsilon), architecture.head_filters
    stem = Padded(3, blocks[0].inputs, 3, 2, symmetric=symmetric)
    last = nn.Conv2d(blocks[-1].outputs, head, 1, bias=False)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Sequential(stem, norm(blocks[0].inputs), nn.ReLU(inplace=True)),
                *(SequentialBlock(block, epsilon, symmetric) for block in blocks),
                nn.Sequential(last, norm(head), nn.ReLU(inplace=True)),
            )
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Sequential(
                nn.Dropout(0.2), nn.Linear(head, architecture.classes), nn.Softmax(-1)
            )

        def forward(self, x: torch.Tensor) -> Any:
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    return load_in_order(Network(), architecture, tensors)
