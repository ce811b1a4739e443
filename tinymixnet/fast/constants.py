"""Turn the weights of a file into those of the fast path, once for all input sizes."""

from collections.abc import Mapping

import numpy as np

from tinymixnet.engine.architecture import BATCH_NORM, Architecture, group_kernels
from tinymixnet.engine.kernels import Array, fold_batch_norm
from tinymixnet.engine.metadata import Metadata
from tinymixnet.errors import WeightsError, printable
from tinymixnet.fast.swish import Swish


def constants(
    architecture: Architecture, tensors: Mapping[str, Array], metadata: Metadata, swish: Swish
) -> dict[str, Array]:
    """Return the weights as the compiler takes them, named by step: blocks_3/expand/kernel_0, ...

    Batch norm is folded into the convolution before it. Weights before and after a swish have its
    factors in them, see `Swish`. Depthwise kernels stay (K, K, C, 1) and have a bias of their own.
    Project kernels become (O, C) without a bias, see `_postpone`. All other kernels become
    (O, C + 1): the last column is the bias, and the last row of their input is all ones. Raises
    WeightsError where the result overflows float32.
    """
    with np.errstate(all="ignore"):
        folded = _fold(architecture, tensors, metadata, swish)
        _postpone(architecture, folded)
    for name, array in folded.items():
        if not np.isfinite(array).all():
            weights = printable(metadata.name or architecture.variant)
            raise WeightsError(
                f"{weights}: {name} overflows float32 when the batch "
                "norm and the normalisation are folded into it; are the weights damaged, or the "
                "metadata's std or epsilon too small?"
            )
    return folded


def _fold(
    architecture: Architecture, tensors: Mapping[str, Array], metadata: Metadata, swish: Swish
) -> dict[str, Array]:
    folded: dict[str, Array] = {}

    # Layers around a swish have its factors in their weights: `read` is the factor of what a layer
    # reads, `put` that of what it puts out. All are 1, -1 or 1/2, so they round nothing.

    def convolution(name: str, conv: str, norm: str, read: float = 1, put: float = 1) -> None:
        """Fold each group's kernel with its part of the batch norm that follows."""
        start, biases = 0, []
        depthwise, project = conv.endswith("depthwise_conv"), conv.endswith("project_conv")
        kernels = group_kernels(conv, tensors) or [tensors[f"{conv}/kernel"]]
        for group, kernel in enumerate(kernels):
            end = start + kernel.shape[2 if depthwise else 3]
            gamma, beta, mean, variance = (tensors[f"{norm}/{s}"][start:end] for s in BATCH_NORM)
            kernel, bias = fold_batch_norm(kernel, gamma, beta, mean, variance, metadata.epsilon)
            if conv == "stem/conv":  # takes the image as it is, padded with the mean colour
                kernel = kernel / np.array(metadata.std, np.float32)[:, np.newaxis]
                bias = bias - np.einsum("ijco,c->o", kernel, folded["normalize/mean"])
            if not depthwise:
                kernel = kernel.reshape(-1, end - start).T
            *outer, inner = kernel.shape
            with_bias = not depthwise and not project
            out = np.empty((*outer, inner + with_bias), np.float32)
            np.multiply(kernel, np.float32(put * read), out=out[..., :inner])
            bias = bias * np.float32(put)
            if with_bias:
                out[..., inner] = bias
            folded[f"{name}/kernel_{group}"] = out
            biases.append(bias)
            start = end
        if depthwise or project:
            folded[f"{name}/bias"] = np.concatenate(biases)

    def dense(name: str, layer: str, read: float = 1, put: float = 1) -> None:
        kernel, bias = tensors[f"{layer}/kernel"], tensors[f"{layer}/bias"]
        kernel = kernel.reshape(-1, kernel.shape[-1])
        folded[f"{name}/kernel"] = kernel * np.float32(put * read)
        folded[f"{name}/bias"] = bias * np.float32(put)

    folded["normalize/mean"] = np.array(metadata.mean, np.float32)
    convolution("stem", "stem/conv", "stem/bn")
    for b in architecture.blocks:
        before, after = (swish.before, swish.after) if b.swish else (1, 1)
        factors = {"expand": (1, before), "depthwise": (after, before), "project": (after, 1)}
        if not b.expand_groups:  # then the depthwise convolution reads the block's input
            factors = {"depthwise": (1, before), "project": (after, 1)}
        for part, (read, put) in factors.items():
            names = f"{b.name}/{part}", f"{b.name}/{part}_conv", f"{b.name}/{part}_bn"
            convolution(*names, read, put)
        if b.se_width:
            dense(f"{b.name}/se_reduce", f"{b.name}/se_reduce", after, before)
            dense(f"{b.name}/se_expand", f"{b.name}/se_expand", after, swish.before)
    convolution("head", "head/conv", "head/bn")
    dense("logits", "logits")
    return folded


def _postpone(architecture: Architecture, folded: dict[str, Array]) -> None:
    """Move the biases of the project layers into the layers that read their outputs.

    What reads x + missing and computes W (x + missing) + b, can also compute W x + (W missing + b),
    and that is a matter of the weights alone. So no step adds these biases. What is missing in the
    output of a block, O numbers, is its bias; with a shortcut, also what is missing in its input.
    """
    missing = np.zeros(architecture.stem, np.float32)
    folded["stem/missing"] = missing
    for b in architecture.blocks:
        if b.expand_groups:
            _absorb(f"{b.name}/expand", missing, folded)
        else:  # the compiler adds it: a depthwise kernel would also add it to the padding
            missing = np.zeros_like(missing)
        bias = folded.pop(f"{b.name}/project/bias")
        missing = missing + bias if b.residual else bias
        folded[f"{b.name}/missing"] = missing
    _absorb("head", missing, folded)


def _absorb(layer: str, missing: Array, folded: dict[str, Array]) -> None:
    """Add to the biases of a 1x1 convolution what is missing in its input: a number a channel."""
    start = 0
    for kernel in group_kernels(layer, folded):
        end = start + kernel.shape[1] - 1
        kernel[:, -1] += kernel[:, :-1] @ missing[start:end]
        start = end
