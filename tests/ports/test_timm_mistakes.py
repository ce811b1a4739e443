"""Mistakes planted in timm's model: `diagnose` names them as it does in TensorFlow's.

It needs the extra `test-ports`; without it these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinymixnet
from tests.support.planted import raw_tensors
from tests.support.synthetic import synthetic_image
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.engine.weights import BUNDLED
from tinymixnet.model import Model
from weights_tools.record import record_torch

torch = pytest.importorskip("torch", reason="the extra test-ports is not installed")
pytest.importorskip("timm", reason="the extra test-ports is not installed")
nn, functional = torch.nn, torch.nn.functional

SIDE, RATE = 64, 0.2
Plant = Callable[[Any], object]


@pytest.fixture(scope="module")
def model() -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TINYMIXNET_WEIGHTS", raising=False)
        return tinymixnet.load()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return synthetic_image(1, SIDE, SIDE, seed=4).astype(np.float32)


def port(model: Model, tensors: Any = None) -> Any:
    from tests.ports.pytorch import timm_module

    return timm_module("tf_mixnet_l", model.architecture, tensors or model.tensors)


# -- the parts of timm's model ---------------------------------------------------------------------


def blocks(net: Any) -> list[Any]:
    return [block for stage in net.blocks for block in stage]


def early(net: Any) -> Any:
    """A block with a shortcut and squeeze-and-excite, after another of the same shape."""
    return net.blocks[2][2]


def norms(net: Any) -> Iterator[Any]:
    return (part for part in net.modules() if isinstance(part, nn.BatchNorm2d))


def squeezes(net: Any) -> list[Any]:
    return [block.se for block in blocks(net) if hasattr(block.se, "conv_reduce")]


def strided(net: Any) -> list[Any]:
    """The layers with a stride: a whole mixed convolution counts as one."""
    mixed = [block.conv_dw for block in blocks(net)]
    return [net.conv_stem, *(layer for layer in mixed if kernels(layer)[0].stride != (1, 1))]


def kernels(layer: Any) -> list[Any]:
    return [part for part in layer.modules() if isinstance(part, nn.Conv2d)]


def shortcuts(net: Any) -> list[Any]:
    return [block for block in blocks(net) if block.has_skip]


# -- what is planted -------------------------------------------------------------------------------


def each(parts: Callable[[Any], Any], change: Callable[[Any], object]) -> Plant:
    """Return a plant that changes several parts of the model."""

    def plant(net: Any) -> None:
        for part in parts(net):
            change(part)

    return plant


def activations(of: Any, make: Callable[[], Any]) -> Plant:
    def plant(net: Any) -> None:
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, of):
                    setattr(parent, name, make())

    return plant


class Function(nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def after(change: Callable[[Any, Any], Any]) -> Callable[[Any], object]:
    """Change what a part gives: change(its first input, its output)."""
    return lambda part: part.register_forward_hook(lambda _, x, y: change(x[0], y))


def before(change: Callable[[Any], Any]) -> Callable[[Any], object]:
    return lambda part: part.register_forward_pre_hook(lambda _, x: (change(x[0]),))


def gate_of(se: Any, x: Any, pooled: Any = None) -> Any:
    mean = x.mean((2, 3), keepdim=True) if pooled is None else pooled
    return torch.sigmoid(se.conv_expand(se.act1(se.conv_reduce(mean))))


def forward(change: Callable[[Any, Any], Any]) -> Callable[[Any], object]:
    """Replace a part's computation by change(part, x)."""
    return lambda part: setattr(part, "forward", lambda x: change(part, x))


def se_first(block: Any, x: Any) -> Any:
    y = block.se(block.bn1(block.conv_pw(x)))
    y = block.bn3(block.conv_pwl(block.bn2(block.conv_dw(y))))
    return y + x if block.has_skip else y


def outside_the_root(norm: Any) -> None:
    """gamma / (sqrt(variance) + epsilon): the variance for which PyTorch's formula gives that."""
    variance = norm.running_var
    variance.copy_((variance.sqrt() + norm.eps).square() - norm.eps)


def exchanged(block: Any) -> None:
    one, two = block.bn1, block.bn2
    if one.weight.shape == two.weight.shape:
        state = {name: x.clone() for name, x in one.state_dict().items()}
        one.load_state_dict(two.state_dict())
        two.load_state_dict(state)


def gamma_and_beta(norm: Any) -> None:
    gamma = norm.weight.data.clone()
    norm.weight.data.copy_(norm.bias.data)
    norm.bias.data.copy_(gamma)


def twice(block: Any) -> None:
    once = block.forward
    block.forward = lambda x: once(once(x))


def in_training(part: Any) -> Any:
    """A part that stays in training when `model.eval()` is called: somebody has forgotten it."""
    part.train()
    part.train = lambda mode=True: part
    return part


def drop_path(net: Any) -> None:
    """Drop the branches of some blocks, and enlarge those of the others, as timm does it."""
    from timm.layers import DropPath

    torch.manual_seed(1)
    for block in shortcuts(net):
        block.drop_path = in_training(DropPath(RATE))


def dropout(net: Any) -> None:
    """Dropout as a module of its own, which shows what it drops. timm's is a function."""
    torch.manual_seed(1)
    net.global_pool = nn.Sequential(net.global_pool, in_training(nn.Dropout(RATE)))


def sorted_by_name(net: Any) -> None:
    labels = tinymixnet.load(BUNDLED).metadata.labels
    order = sorted(range(len(labels)), key=labels.__getitem__)
    net.classifier.weight.data = net.classifier.weight.data[order]
    net.classifier.bias.data = net.classifier.bias.data[order]


def pooled_after(layer: Any) -> None:
    for conv in kernels(layer):
        conv.stride = (1, 1)
    layer.register_forward_hook(lambda _, x, y: functional.avg_pool2d(y, 2))


def sliced_before(layer: Any) -> None:
    for conv in kernels(layer):
        conv.stride = (1, 1)
    layer.register_forward_pre_hook(lambda _, x: (x[0][..., ::2, ::2],))


def padded(mode: str) -> Callable[[Any], object]:
    """Pad a convolution as SAME does, but not with zeros."""

    def run(conv: Any, x: Any) -> Any:
        pads = []
        for axis in (3, 2):
            n, k, s = x.shape[axis], conv.kernel_size[0], conv.stride[0]
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pads += [total // 2, total - total // 2]
        x = functional.pad(x, pads, mode=mode)
        return functional.conv2d(x, conv.weight, None, conv.stride, 0, 1, conv.groups)

    return forward(run)


def dilated(conv: Any) -> None:
    """Every other pixel is skipped; the padding grows with the kernel."""
    side = conv.kernel_size[0] - 1
    conv.forward = lambda x: functional.conv2d(x, conv.weight, None, 1, side, 2, conv.groups)


def pool_first(net: Any) -> None:
    net.bn2.act = nn.Identity()
    before(functional.relu)(net.classifier)


def permuted(net: Any) -> None:
    order = torch.randperm(net.classifier.out_features, generator=torch.Generator().manual_seed(1))
    net.classifier.weight.data = net.classifier.weight.data[order]
    net.classifier.bias.data = net.classifier.bias.data[order]


def untrained(net: Any) -> None:
    """Weights of another training: the same shapes, other numbers."""
    generator = torch.Generator().manual_seed(2)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.3 * torch.randn(tensor.shape, generator=generator).clamp(-2, 2))


def overflowing(norm: Any) -> None:
    def half(x: Any, y: Any) -> Any:
        factor = 65504 / float(y.abs().max()) * 1.5
        return (y * factor).half().float() / factor

    norm.register_forward_hook(lambda _, x, y: half(x, y))


SILU, RELU = nn.SiLU, nn.ReLU
ACTS = (SILU, RELU)
MISTAKES: dict[str, tuple[str, Plant]] = {
    "gelu": ("gelu", activations(SILU, nn.GELU)),
    "gelu by tanh": ("gelu", activations(SILU, lambda: nn.GELU("tanh"))),
    "mish": ("mish", activations(SILU, nn.Mish)),
    "quick gelu": (
        "quick-gelu",
        activations(SILU, lambda: Function(lambda x: x * torch.sigmoid(1.702 * x))),
    ),
    "epsilon outside the root": ("bn-epsilon-outside-root", each(norms, outside_the_root)),
    "residual twice": ("residual-twice", each(shortcuts, after(lambda x, y: y + x))),
    "gate added": ("se-gate-added", each(squeezes, forward(lambda se, x: x + gate_of(se, x)))),
    "gate twice": ("se-gate-twice", each(squeezes, forward(lambda s, x: x * gate_of(s, x) ** 2))),
    "se sums": (
        "se-sum",
        each(squeezes, forward(lambda s, x: x * gate_of(s, x, x.sum((2, 3), keepdim=True)))),
    ),
    "se before depthwise": (
        "se-before-depthwise",
        each(
            lambda net: [b for b in blocks(net) if hasattr(b.se, "conv_reduce")], forward(se_first)
        ),
    ),
    "no se": ("missing-se", each(squeezes, forward(lambda se, x: x))),
    "no batch norm": (
        "missing-bn",
        lambda net: forward(lambda norm, x: norm.act(x))(early(net).bn2),
    ),
    "bn1 and bn2 exchanged": ("bn-exchanged", lambda net: exchanged(early(net))),
    "gamma and beta exchanged": ("gamma-beta-exchanged", lambda n: gamma_and_beta(early(n).bn1)),
    "neighbour's weights": (
        "neighbour-weights",
        lambda net: early(net).load_state_dict(net.blocks[2][1].state_dict()),
    ),
    "block skipped": ("block-skipped", lambda net: forward(lambda block, x: x)(early(net))),
    "block run twice": ("block-twice", lambda net: twice(early(net))),
    "drop path": ("drop-connect", drop_path),
    "drop path's scaling": (
        "drop-connect",
        each(lambda n: [b.drop_path for b in shortcuts(n)], after(lambda x, y: y * (1 - RATE))),
    ),
    "dropout": ("dropout", dropout),
    "dropout's scaling": ("dropout", lambda net: before(lambda x: x * (1 - RATE))(net.classifier)),
    "pooling for stride": ("stride-by-pooling", each(strided, pooled_after)),
    "slicing for stride": ("stride-by-slicing", each(strided, sliced_before)),
    "pool before activation": ("pool-before-activation", pool_first),
    "classes permuted": ("classes-permuted", permuted),
    "classes sorted by name": ("classes-sorted", sorted_by_name),
    "log-softmax": (
        "log-softmax",
        lambda net: after(lambda x, y: functional.log_softmax(y, -1))(net.classifier),
    ),
    "softmax in the logits": (
        "softmax-twice",
        lambda net: after(lambda x, y: functional.softmax(y, -1))(net.classifier),
    ),
    "replicate padding": (
        "replicate-padding",
        each(lambda n: [c for b in blocks(n) for c in kernels(b.conv_dw)], padded("replicate")),
    ),
    "reflect padding": (
        "reflect-padding",
        each(lambda net: kernels(net.blocks[1][0].conv_dw), padded("reflect")),
    ),
    "dilation": ("dilation", each(lambda net: kernels(early(net).conv_dw), dilated)),
    "clipped everywhere": (
        "relu6",
        activations(ACTS, nn.ReLU6),
    ),
    "relu6": ("relu6", activations(RELU, nn.ReLU6)),
    "other weights": ("other-weights", untrained),
    "overflow": ("fp16-overflow", lambda net: overflowing(early(net).bn2)),
}


def found(model: Model, pixels: np.ndarray, net: Any, path: Path, raw: Any = None) -> list[str]:
    """Record a port and return the slugs of its diagnosis."""
    about = model.metadata
    normalized = (pixels - np.float32(about.mean)) / np.float32(about.std)
    record_torch(net, normalized.transpose(0, 3, 1, 2).astype(np.float32), path)
    dump = open_dump(path, model.architecture, *pixels.shape[:3], names="timm")
    slugs: list[str] = diagnose(model, pixels, dump, raw=raw).slugs
    return slugs


def test_without_a_mistake(model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    assert found(model, pixels, port(model), tmp_path / "dump.npz") == ["none"]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_timm(name: str, model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    net = port(model)
    slug, plant = MISTAKES[name]
    with torch.no_grad():
        plant(net)
    assert found(model, pixels, net, tmp_path / "dump.npz") == [slug]


def test_averages_partly_applied(model: Model, pixels: np.ndarray, tmp_path: Path) -> None:
    raw = raw_tensors(model.tensors, seed=5)
    mixed = dict(model.tensors) | {n: x for n, x in raw.items() if n.startswith("blocks_7/")}
    raw_model = Model(model.architecture, raw, model.metadata)
    assert found(model, pixels, port(model, mixed), tmp_path / "d.npz", raw_model) == [
        "raw-weights"
    ]


def test_dropout_cannot_be_read_from_the_logits(
    model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    """timm drops inside a function, so no tensor shows which values were dropped."""
    net = port(model)
    before(lambda x: functional.dropout(x, RATE, training=True))(net.classifier)
    torch.manual_seed(1)
    assert found(model, pixels, net, tmp_path / "dump.npz") == ["unknown"]


PAIRS = (
    ("gelu", "gate added"),
    ("pooling for stride", "classes permuted"),
    ("neighbour's weights", "dropout's scaling"),
    ("replicate padding", "residual twice"),
    ("se sums", "block skipped"),
    ("drop path", "classes sorted by name"),
    ("dropout", "mish"),
)


@pytest.mark.parametrize("names", PAIRS, ids=" + ".join)
def test_two_mistakes_in_timm(
    names: tuple[str, ...], model: Model, pixels: np.ndarray, tmp_path: Path
) -> None:
    net = port(model)
    with torch.no_grad():
        for name in names:
            MISTAKES[name][1](net)
    slugs = found(model, pixels, net, tmp_path / "dump.npz")
    assert sorted(slugs) == sorted(MISTAKES[name][0] for name in names)
