"""Foreign dumps: every naming, layout and type that a port may write must come out as ours."""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.arrays import open_arrays
from tinymixnet.debug.dumps import Dump, open_dump
from tinymixnet.debug.names.canonical import nearest
from tinymixnet.debug.names.layouts import layouts_of
from tinymixnet.debug.names.timm import timm_blocks
from tinymixnet.debug.traces import write_dump
from tinymixnet.engine.architecture import Architecture, mixnet, parse_block_string
from tinymixnet.errors import TraceError
from tinymixnet.model import Model

Tensors = dict[str, np.ndarray]
SIZE = (32, 48)  # not square, so that no shape fits both ways


def layers_of(architecture: Architecture, n: int = 1, size: tuple[int, int] = SIZE) -> Tensors:
    """Made-up values of every layer: what the maps of names are about is not what is in them."""
    rng = np.random.default_rng(0)
    shapes = architecture.layer_shapes(*size)
    return {name: rng.normal(size=(n, *s)).astype(np.float32) for name, s in shapes.items()}


@pytest.fixture(scope="module")
def tiny() -> Tensors:
    """All layers of a real run of the tiny network on one picture."""
    model = Model(TINY, synthetic_tensors(TINY))
    return dict(model.layers(synthetic_image(1, *SIZE)))


def opened(
    folder: Path,
    tensors: Tensors,
    architecture: Architecture = TINY,
    n: int = 1,
    names: str | Path | None = None,
    layout: str | None = None,
    size: tuple[int, int] = SIZE,
) -> Dump:
    path = folder / "other.npz"
    np.savez(path, **tensors)
    return open_dump(path, architecture, n, *size, names, layout)


def as_nchw(tensors: Tensors) -> Tensors:
    return {n: x.transpose(0, 3, 1, 2) if x.ndim == 4 else x for n, x in tensors.items()}


def assert_same(dump: Dump, layers: Tensors, names: list[str] | None = None) -> None:
    """The dump holds exactly these layers, with these values."""
    names = list(layers) if names is None else names
    assert dump.names == [name for name in layers if name in names]
    for name in names:
        np.testing.assert_array_equal(dump[name], layers[name], err_msg=name)


# -- layouts, batch, types ------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("batch", ["batch", "no batch", "two images"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_layout_batch_and_type(tmp_path: Path, layout: str, batch: str, dtype: str) -> None:
    n = 2 if batch == "two images" else 1
    layers = layers_of(TINY, n)
    stored = {name: x.astype(dtype) for name, x in layers.items()}
    theirs = as_nchw(stored) if layout == "NCHW" else stored
    dump = opened(
        tmp_path, {k: x[0] for k, x in theirs.items()} if batch == "no batch" else theirs, n=n
    )
    wide = np.float64 if dtype == "float64" else np.float32
    assert_same(dump, {name: x.astype(wide) for name, x in stored.items()})
    assert dump["stem/conv"].dtype == wide
    assert dump["stem/conv"].flags.c_contiguous
    assert {dump.layouts[n] for n, x in layers.items() if x.ndim == 4} == {layout}
    assert dump.half == (dtype == "float16")
    assert (dump.ambiguous, dump.mismatched, dump.missing, dump.unmatched) == ([], {}, [], {})


def test_full_size_nchw(tmp_path: Path) -> None:
    network = mixnet("mixnet-l")
    layers = layers_of(network, size=(32, 32))
    assert_same(opened(tmp_path, as_nchw(layers), network, size=(32, 32)), layers)


def test_vectors_in_any_shape(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    logits, pooled = layers["logits"], layers["head/pool"]
    gate = layers["blocks_3/se_gate"]
    for shapes in (
        {"logits": logits[0], "head/pool": pooled[..., None, None], "blocks_3/se_gate": gate[0]},
        {
            "logits": logits[:, None, None],
            "head/pool": pooled[0, :, None, None],
            "blocks_3/se_gate": gate[:, 0, 0],
        },
        {"blocks_3/se_gate": gate[0, 0, 0], "logits": logits[..., None, None]},
    ):
        assert_same(opened(tmp_path, shapes), {n: layers[n] for n in layers if n in shapes})


def test_uint8_image(tmp_path: Path) -> None:
    image = synthetic_image(1, *SIZE)
    for theirs in (image, image[0], image.transpose(0, 3, 1, 2)):
        assert_same(opened(tmp_path, {"image": theirs}), {"image": image.astype(np.float32)})


SQUARE = Architecture("square", ("r1_k3_a1_p1_s11_e1_i8_o8",), stem_filters=8, classes=4)
CUBE = np.arange(8 * 8 * 8, dtype=np.float32).reshape(1, 8, 8, 8)  # stem/act for 16 x 16 pixels


def test_ambiguous_layers_follow_the_majority_then_what_is_stated(tmp_path: Path) -> None:
    image = np.zeros((1, 16, 16, 3), np.float32)
    turned = CUBE.transpose(0, 3, 1, 2)  # the same values as a port in NCHW stores them

    def read(tensors: Tensors, layout: str | None = None) -> Dump:
        return opened(tmp_path, tensors, SQUARE, size=(16, 16), layout=layout)

    dump = read({"stem/act": CUBE})
    assert dump.ambiguous == ["stem/act"]
    assert_same(dump, {"stem/act": CUBE})
    dump = read({"stem/act": turned}, "NCHW")
    assert dump.ambiguous == []
    assert_same(dump, {"stem/act": CUBE})
    for stated in (None, "NCHW"):  # the image says NHWC, whatever is stated
        dump = read({"stem/act": CUBE, "image": image}, stated)
        assert (dump.ambiguous, dump.layouts) == ([], {"image": "NHWC", "stem/act": "NHWC"})
        assert_same(dump, {"image": image, "stem/act": CUBE})
    dump = read({"stem/act": turned, "image": as_nchw({"i": image})["i"]})
    assert_same(dump, {"image": image, "stem/act": CUBE})
    # a vector fits both ways too, but there is nothing to be confused
    assert read({"logits": np.zeros((1, 4))}).ambiguous == []


def test_layouts_of_shapes() -> None:
    both = ("NHWC", "NCHW")
    assert layouts_of((1, 2, 3, 4), (1, 2, 3, 4)) == ("NHWC",)
    assert layouts_of((4, 2, 3), (1, 2, 3, 4)) == ("NCHW",)
    assert layouts_of((4, 2, 3), (2, 2, 3, 4)) == ()  # whose batch axis may not be missing
    assert layouts_of((4, 4, 4), (1, 4, 4, 4)) == both
    assert layouts_of((1, 3, 2, 4), (1, 2, 3, 4)) == ()  # height and width swapped
    assert layouts_of((4,), (1, 1, 1, 4)) == layouts_of((4,), (1, 4)) == both
    assert layouts_of((4, 1, 1), (1, 4)) == ("NCHW",)
    assert layouts_of((), (1, 4)) == ()


def test_bad_layout_and_bad_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="layout='NWHC'"):
        opened(tmp_path, {"logits": np.zeros((1, 6))}, layout="NWHC")
    dump = opened(tmp_path, {"logits": np.zeros((1, 6))})
    for ask in (dump.__getitem__, dump.raw):
        with pytest.raises(TraceError, match="stem/conv"):
            ask("stem/conv")


# -- what fits and what does not ------------------------------------------------------------------


def test_names_lost_in_file_names(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    for change in (
        lambda name: name.replace("/", "_"),
        lambda name: name.replace("/", "."),
        lambda name: name.replace("/", "__").upper(),
        lambda name: f"run_7/acts.{name}",
        lambda name: f"/{name}",
    ):
        assert_same(opened(tmp_path, {change(name): x for name, x in layers.items()}), layers)


def test_missing_mismatched_and_unmatched(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    some = {n: layers[n] for n in ("stem/conv", "blocks_1/output", "head/act", "blocks_3/se_gate")}
    wrong = np.zeros((1, 7))  # a background class too many
    theirs = {
        **some,
        "logits": wrong,
        "blocks_1/expand_cnv": layers["blocks_1/expand_conv"],
        "7": np.zeros(3),
    }
    dump = opened(tmp_path, theirs)
    assert_same(dump, layers, list(some))
    assert dump.mismatched == {"logits": ((1, 7), (1, 6))}
    np.testing.assert_array_equal(dump.raw("logits"), wrong)
    assert dump.unmatched == {"blocks_1/expand_cnv": "blocks_1/expand_conv", "7": None}
    assert set(dump.missing) == set(layers) - set(some) - {"logits"}
    assert dump.theirs["stem/conv"] == "stem/conv"


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    twice = {"a/stem/conv": layers["stem/conv"], "b/stem/conv": 2 * layers["stem/conv"]}
    dump = opened(tmp_path, twice)
    assert_same(dump, {"stem/conv": layers["stem/conv"]})  # the first
    assert list(dump.unmatched) == ["b/stem/conv"]
    dump = opened(tmp_path, {"a/stem/conv": np.zeros(3), "b/stem/conv": layers["stem/conv"]})
    assert_same(dump, {"stem/conv": layers["stem/conv"]})  # the one that fits
    assert list(dump.unmatched) == ["a/stem/conv"]
    assert dump.mismatched == {}


def test_half_is_about_layers_that_were_placed(tmp_path: Path) -> None:
    tensors = {"logits": np.zeros((1, 6), np.float32), "else": np.zeros(3, np.float16)}
    assert not opened(tmp_path, tensors).half


def test_nearest() -> None:
    assert nearest("blocks-3.Expand_Conv1", ["blocks_2/output", "blocks_3/expand_conv"])
    assert nearest("zzz", ["stem/conv"]) is None
    assert nearest("x", []) is None


# -- a user's map ---------------------------------------------------------------------------------


def test_users_map(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    stem, out, logits = (layers[n] for n in ("stem/conv", "blocks_1/output", "logits"))
    names = tmp_path / "map.json"
    names.write_text(
        json.dumps({"Conv:0": "stem/conv", "b1.out": "blocks_1/output", "no": "image"})
    )
    dump = opened(tmp_path, {"Conv_0": stem, "b1/out": out, "logits": logits}, names=names)
    assert_same(dump, layers, ["stem/conv", "blocks_1/output", "logits"])
    assert dump.theirs["stem/conv"] == "Conv_0"
    # the user's word counts more than a name that happens to be ours
    dump = opened(tmp_path, {"stem/conv": stem * 2, "Conv:0": stem}, names=names)
    assert_same(dump, {"stem/conv": stem})
    assert list(dump.unmatched) == ["stem/conv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "stem/cnov"}', "no layer 'stem/cnov', is it stem/conv"),
        ('{"a": 3}', "expected an object"),
        ("[1]", "expected an object"),
        ("{", "not JSON"),
        ("\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (" " * (1 << 22) + "{}", "too large"),
    ],
)
def test_bad_maps(tmp_path: Path, text: str, message: str) -> None:
    names = tmp_path / "map.json"
    names.write_bytes(text.encode("latin1"))
    with pytest.raises(TraceError, match=message) as caught:
        opened(tmp_path, {"a": np.zeros(3)}, names=names)
    assert str(caught.value).startswith(str(names))
    with pytest.raises(TraceError, match="nor one of canonical, tensorflow, timm, onnx"):
        opened(tmp_path, {"a": np.zeros(3)}, names="pytroch")
    with pytest.raises(TraceError, match="neither a file"):
        opened(tmp_path, {"a": np.zeros(3)}, names=tmp_path)


# -- TensorFlow -----------------------------------------------------------------------------------


def original_nodes(architecture: Architecture, layers: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    """Every node of the original graph with what it computes; numbers as TensorFlow counts them."""
    counts: dict[str, int] = {}
    root = "mixnet-l/mixnet_model"

    def numbered(scope: str, kind: str) -> str:
        count = counts[f"{scope}/{kind}"] = counts.get(f"{scope}/{kind}", -1) + 1
        return f"{scope}/{kind}_{count}" if count else f"{scope}/{kind}"

    def module(scope: str, kind: str, operation: str) -> str:
        name = numbered("", kind).removeprefix("/")  # numbers go through the whole graph
        return f"{scope}/{name}/{operation}"

    def norm(scope: str, layer: str) -> Iterator[tuple[str, np.ndarray]]:
        yield numbered(scope, "batch_normalization") + "/FusedBatchNormV3", layers[layer]

    def act(scope: str, layer: str, swish: bool) -> Iterator[tuple[str, np.ndarray]]:
        y = layers[layer]
        if not swish:
            yield numbered(scope, "Relu"), y
            return
        yield numbered(scope, "mul"), y * 3  # beta times x
        yield numbered(scope, "Sigmoid"), y * 5
        for kind in ("mul", "Identity", "IdentityN"):
            yield numbered(scope, kind), y

    def conv(scope: str, layer: str, groups: int, deep: bool) -> Iterator[tuple[str, np.ndarray]]:
        y = layers[layer]
        kind, operation = ("depthwise_conv2d", "depthwise") if deep else ("conv2d", "Conv2D")
        if groups > 1:
            yield numbered(scope, "split"), y[..., : y.shape[-1] // groups]
            for part in np.array_split(y, groups, axis=-1):
                yield module(scope, kind, operation), part
            yield numbered(scope, "concat"), y
        else:
            yield module(scope, kind, operation), y

    yield f"{root}/stem/conv2d_94/Conv2D", layers["stem/conv"]
    yield from norm(f"{root}/stem", "stem/bn")
    yield f"{root}/stem/Relu", layers["stem/act"]
    for b in architecture.blocks:
        scope = f"{root}/{b.name}"
        if b.expand_groups:
            yield from conv(scope, f"{b.name}/expand_conv", b.expand_groups, False)
            yield from norm(scope, f"{b.name}/expand_bn")
            yield from act(scope, f"{b.name}/expand_act", b.swish)
        yield from conv(scope, f"{b.name}/depthwise_conv", len(b.kernel_sizes), True)
        yield from norm(scope, f"{b.name}/depthwise_bn")
        yield from act(scope, f"{b.name}/depthwise_act", b.swish)
        if b.se_width:
            se = f"{scope}/se"
            yield f"{se}/Mean", layers[f"{b.name}/se_pool"]
            name = module(se, "conv2d", "Conv2D")
            yield name, layers[f"{b.name}/se_reduce"] - 1
            yield name.replace("Conv2D", "BiasAdd"), layers[f"{b.name}/se_reduce"]
            yield from act(se, f"{b.name}/se_act", True)
            name = module(se, "conv2d", "Conv2D")
            yield name, layers[f"{b.name}/se_expand"] - 1
            yield name.replace("Conv2D", "BiasAdd"), layers[f"{b.name}/se_expand"]
            yield numbered(se, "Sigmoid"), layers[f"{b.name}/se_gate"]
            yield numbered(se, "mul"), layers[f"{b.name}/se_scale"]
        yield from conv(scope, f"{b.name}/project_conv", b.project_groups, False)
        yield from norm(scope, f"{b.name}/project_bn")
        if b.residual:
            yield numbered(scope, "Add"), layers[f"{b.name}/output"]
        yield numbered(scope, "Identity"), layers[f"{b.name}/output"]
    yield f"{root}/head/conv2d_95/Conv2D", layers["head/conv"]
    yield from norm(f"{root}/head", "head/bn")
    yield f"{root}/head/Relu", layers["head/act"]
    yield f"{root}/head/global_average_pooling2d/Mean", layers["head/pool"]
    yield f"{root}/head/dropout/Identity", layers["head/pool"]
    yield f"{root}/head/dense/MatMul", layers["logits"] - 1
    yield f"{root}/head/dense/BiasAdd", layers["logits"]


@pytest.mark.parametrize("suffix", ["", ":0"])
@pytest.mark.parametrize("variant", ["tiny", "mixnet-l", "mixnet-s"])
def test_tensorflow_nodes(tmp_path: Path, variant: str, suffix: str) -> None:
    network = TINY if variant == "tiny" else mixnet(variant)
    layers = layers_of(network)
    nodes = {name + suffix: x for name, x in original_nodes(network, layers)}
    expected = [n for n in layers if n not in ("image", "normalize", "probabilities")]
    for names in ("tensorflow", None):
        dump = opened(tmp_path, nodes, network, names=names)
        assert dump.map == "tensorflow"
        assert_same(dump, layers, expected)
        assert not dump.mismatched
        assert set(dump.unmatched) <= {
            n + suffix for n in ("mixnet-l/mixnet_model/head/dropout/Identity",)
        }


def test_tensorflow_nodes_some_only(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    nodes = dict(original_nodes(TINY, layers))
    for kind, layer in (("FusedBatchNormV3", "_bn"), ("Relu", "_act"), ("BiasAdd", "se_")):
        some = {name: x for name, x in nodes.items() if kind in name}
        dump = opened(tmp_path, some, names="tensorflow")
        assert len(dump.names) >= len(some) - (kind == "Relu")
        for name in dump.names:
            np.testing.assert_array_equal(dump[name], layers[name], err_msg=name)
        assert any(layer in name for name in dump.names)


def test_tensorflow_endpoints(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    theirs = {
        "stem": layers["stem/act"],
        "block_1": layers["blocks_1/output"],
        "block_1/expansion_output": layers["blocks_1/depthwise_act"],
        "block_3/expansion_output": layers["blocks_3/se_scale"],
        "blocks_2": layers["blocks_2/output"],
        "global_pool": layers["blocks_5/output"],
        "head": layers["logits"],
    }
    expected = [
        "stem/act",
        "blocks_1/output",
        "blocks_1/depthwise_act",
        "blocks_3/se_scale",
        "blocks_2/output",
        "blocks_5/output",
        "logits",
    ]
    dump = opened(tmp_path, theirs)
    assert_same(dump, layers, expected)
    assert dump.unmatched == {}


def test_wrong_shape_is_a_mismatch_not_another_layer(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    theirs = dict(original_nodes(TINY, layers))
    theirs["mixnet-l/mixnet_model/stem/conv2d_94/Conv2D"] = np.zeros((1, 23, 32, 5))
    dump = opened(tmp_path, theirs)
    assert dump.mismatched == {"stem/conv": ((1, 23, 32, 5), (1, 16, 24, 5))}


# -- timm -----------------------------------------------------------------------------------------


def timm_modules(architecture: Architecture, layers: Tensors) -> Iterator[tuple[str, np.ndarray]]:
    """Every module of timm's network with its output, inner ones too, NCHW."""
    stages = [0] + [stage for stage in range(1, 20) for _ in range(2)]
    flat = [
        (stage, parse_block_string(text).repeats)
        for stage, text in zip(stages, architecture.block_strings, strict=False)
    ]
    counted: list[tuple[int, int]] = []
    for stage, repeats in flat:
        start = sum(s == stage for s, _ in counted)
        counted += [(stage, start + i) for i in range(repeats)]

    def norm(name: str, layer: str, act: bool = True) -> Iterator[tuple[str, str]]:
        yield f"{name}.drop", layer
        yield f"{name}.act", layer
        yield name, layer

    def names() -> Iterator[tuple[str, str]]:
        yield "conv_stem", "stem/conv"
        yield from norm("bn1", "stem/act")
        for b, (stage, n) in zip(architecture.blocks, counted, strict=True):
            at = f"blocks.{stage}.{n}"
            if b.expand_groups:
                yield f"{at}.conv_pw.0", "image"
                yield f"{at}.conv_pw", f"{b.name}/expand_conv"
                yield from norm(f"{at}.bn1", f"{b.name}/expand_act")
                yield f"{at}.conv_dw", f"{b.name}/depthwise_conv"
                yield from norm(f"{at}.bn2", f"{b.name}/depthwise_act")
                yield f"{at}.aa", f"{b.name}/depthwise_act"
            else:
                yield f"{at}.conv_dw", f"{b.name}/depthwise_conv"
                yield from norm(f"{at}.bn1", f"{b.name}/depthwise_act")
            if b.se_width:
                yield f"{at}.se.conv_reduce", f"{b.name}/se_reduce"
                yield f"{at}.se.act1", f"{b.name}/se_act"
                yield f"{at}.se.conv_expand", f"{b.name}/se_expand"
                yield f"{at}.se.gate", f"{b.name}/se_gate"
                yield f"{at}.se", f"{b.name}/se_scale"
            last = "conv_pwl" if b.expand_groups else "conv_pw"
            yield f"{at}.{last}", f"{b.name}/project_conv"
            yield from norm(f"{at}.{'bn3' if b.expand_groups else 'bn2'}", f"{b.name}/project_bn")
            yield f"{at}.drop_path", f"{b.name}/project_bn"
            yield at, f"{b.name}/output"
        yield "blocks", f"{architecture.blocks[-1].name}/output"
        yield "conv_head", "head/conv"
        yield from norm("bn2", "head/act")
        yield "global_pool.pool", "head/pool"
        yield "global_pool", "head/pool"
        yield "classifier", "logits"

    nchw = as_nchw(layers)
    for name, layer in names():
        yield name, nchw[layer]


@pytest.mark.parametrize("variant", ["tiny", "mixnet-l", "mixnet-m", "mixnet-s"])
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_timm_modules(tmp_path: Path, variant: str, prefix: str) -> None:
    network = TINY if variant == "tiny" else mixnet(variant)
    layers = layers_of(network)
    modules = {prefix + name: x for name, x in timm_modules(network, layers)}
    expected = [
        n
        for n in layers
        if n not in ("image", "normalize", "probabilities")
        and not n.endswith("se_pool")
        and (not n.endswith("bn") or n.endswith("project_bn"))
    ]
    dump = opened(tmp_path, modules, network)
    assert dump.map == "timm"
    assert_same(dump, layers, expected)
    assert (dump.unmatched, dump.mismatched) == ({}, {})
    lossy = {name.replace(".", "_"): x for name, x in modules.items()}
    assert_same(opened(tmp_path, lossy, network, names="timm"), layers, expected)


def test_timm_one_block_only(tmp_path: Path) -> None:
    network = mixnet("mixnet-l")
    layers = layers_of(network)
    modules = {n: x for n, x in timm_modules(network, layers) if n.startswith("blocks.3.2")}
    dump = opened(tmp_path, modules, network)
    assert {name.split("/")[0] for name in dump.names} == {"blocks_9"}
    assert_same(dump, layers, dump.names)


def test_stages_of_published_networks() -> None:
    """timm's stages have 1, 2, 4, 4, 4, 4 blocks in L (and M), 1, 2, 4, 3, 3, 3 in S."""
    for variant, counts in (("mixnet-l", [1, 2, 4, 4, 4, 4]), ("mixnet-s", [1, 2, 4, 3, 3, 3])):
        pairs = timm_blocks(mixnet(variant))
        assert pairs == [(stage, n) for stage, count in enumerate(counts) for n in range(count)]


# -- order ----------------------------------------------------------------------------------------


def exported(architecture: Architecture, layers: Tensors) -> Iterator[tuple[str, str | None]]:
    """Operations of an ONNX export and the layer each computes (None: none), batch norm folded
    into convolutions of one group, as PyTorch's exporter does it."""

    def conv(name: str, groups: int) -> Iterator[tuple[str, str | None]]:
        if groups > 1:
            yield "Split", None
            for _ in range(groups):
                yield "Conv", None
            yield "Concat", f"{name}_conv"
            yield "BatchNormalization", f"{name}_bn"
        else:
            yield "Conv", f"{name}_bn"

    def act(layer: str, swish: bool) -> Iterator[tuple[str, str | None]]:
        if swish:
            yield "Sigmoid", None
        yield ("Mul" if swish else "Relu"), layer

    yield "Sub", None
    yield "Div", "normalize"
    yield "Conv", "stem/bn"
    yield "Relu", "stem/act"
    for b in architecture.blocks:
        if b.expand_groups:
            yield from conv(f"{b.name}/expand", b.expand_groups)
            yield from act(f"{b.name}/expand_act", b.swish)
        yield from conv(f"{b.name}/depthwise", len(b.kernel_sizes))
        yield from act(f"{b.name}/depthwise_act", b.swish)
        if b.se_width:
            yield "ReduceMean", f"{b.name}/se_pool"
            yield "Conv", f"{b.name}/se_reduce"
            yield from act(f"{b.name}/se_act", b.swish)
            yield "Conv", f"{b.name}/se_expand"
            yield "Sigmoid", f"{b.name}/se_gate"
            yield "Mul", f"{b.name}/se_scale"
        yield from conv(f"{b.name}/project", b.project_groups)
        if b.residual:
            yield "Add", f"{b.name}/output"
    yield "Conv", "head/bn"
    yield "Relu", "head/act"
    yield "GlobalAveragePool", "head/pool"
    yield "Gemm", "logits"
    yield "Softmax", "probabilities"


def numbered_nodes(
    architecture: Architecture, layers: Tensors, name: Callable[[int, str], str]
) -> tuple[Tensors, list[str]]:
    """The export's tensors under such names, in order, NCHW, and which layers are among them."""
    nodes, found = {}, []
    rng = np.random.default_rng(1)
    operations = list(exported(architecture, layers))
    for i, (operation, layer) in enumerate(operations):
        if layer:
            y = layers[layer]
            found.append(layer)
        elif operation in ("Conv", "Split"):  # half of the channels
            after = next(x for _, x in operations[i:] if x)
            y = rng.normal(size=(1, *layers[after].shape[1:3], layers[after].shape[3] // 2 + 1))
        else:
            after = next(x for _, x in operations[i:] if x)
            y = rng.normal(size=layers[after].shape)
        nodes[name(i, operation)] = as_nchw({"y": y.astype(np.float32)})["y"]
    return nodes, found


@pytest.mark.parametrize("style", ["/{1}_{0}", "/blocks/blocks.1/x/act{0}/{1}_output_0"])
@pytest.mark.parametrize("variant", ["tiny", "mixnet-l", "mixnet-s"])
def test_order_with_operations_named(tmp_path: Path, variant: str, style: str) -> None:
    network = TINY if variant == "tiny" else mixnet(variant)
    layers = layers_of(network)
    nodes, found = numbered_nodes(network, layers, style.format)
    nodes["logits"] = nodes.pop(list(nodes)[-2])  # as whoever exports names the output
    nodes["/Softmax"] = nodes.pop(list(nodes)[-2])
    path = tmp_path / "onnx"
    write_dump(path, nodes.items())
    dump = open_dump(path, network, 1, *SIZE)
    assert dump.map == "onnx"
    assert_same(dump, layers, found)


def test_order_of_opaque_names_takes_the_last_of_a_run(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    block_3 = ["expand_act", "se_pool", "se_act", "se_gate", "se_scale"]
    last = ["blocks_0/output", "blocks_1/expand_act", "blocks_1/depthwise_act", "blocks_2/output"]
    last += [f"blocks_3/{layer}" for layer in block_3]  # each the last of its shape before the next
    last += ["blocks_5/output", "head/act", "head/pool", "logits"]
    theirs = {f"t{9 + i}": layers[name] for i, name in enumerate(last)}
    for path in (tmp_path / "folder", tmp_path / "file.npz"):
        write_dump(path, theirs.items())
        dump = open_dump(path, TINY, 1, *SIZE)
        assert dump.map == "onnx"
        assert_same(dump, layers, last)
    for stored, x in theirs.items():  # without a manifest natural order holds: t9 before t10
        np.save(tmp_path / f"{stored}.npy", x)
    (tmp_path / "file.npz").unlink()
    (tmp_path / "folder" / "manifest.json").unlink()
    assert_same(open_dump(tmp_path / "folder", TINY, 1, *SIZE), layers, last)


def test_order_of_openvino(tmp_path: Path) -> None:
    """A Convolution there has its bias, and so the batch norm, added by the node after it."""
    layers = layers_of(TINY)
    junk = {name: layers[name] * 2 for name in ("stem/bn", "head/bn", "blocks_0/output")}
    theirs = {
        "Convolution_1": junk["stem/bn"],
        "Add_2": layers["stem/bn"],
        "Relu_3": layers["stem/act"],
        "GroupConvolution_4": junk["stem/bn"],
        "Add_5": layers["blocks_0/depthwise_bn"],
        "Relu_6": layers["blocks_0/depthwise_act"],
        "Convolution_7": junk["blocks_0/output"],
        "Add_8": layers["blocks_0/project_bn"],
        "Add_9": layers["blocks_0/output"],
        "Convolution_90": junk["head/bn"],
        "Add_91": layers["head/bn"],
        "Relu_92": layers["head/act"],
        "ReduceMean_93": layers["head/pool"],
        "MatMul_94": layers["logits"] * 2,
        "Add_95": layers["logits"],
    }
    expected = [
        "stem/bn",
        "stem/act",
        "blocks_0/depthwise_bn",
        "blocks_0/depthwise_act",
        "blocks_0/project_bn",
        "blocks_0/output",
        "head/bn",
        "head/act",
        "head/pool",
        "logits",
    ]
    assert_same(opened(tmp_path, theirs, names="onnx"), layers, expected)


def test_input_of_a_graph_may_be_normalised_already(tmp_path: Path) -> None:
    layers = layers_of(TINY)
    outside = {"image": layers["normalize"], "Gemm_1": layers["logits"]}
    assert_same(opened(tmp_path, outside, names="onnx"), layers, ["normalize", "logits"])
    inside = {"image": layers["image"], "Sub_1": layers["image"] + 1, "Div_2": layers["normalize"]}
    assert_same(opened(tmp_path, inside, names="onnx"), layers, ["image", "normalize"])


def test_many_opaque_tensors_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    write_dump(path, ((f"t{i}", np.zeros(1)) for i in range(5000)))
    dump = open_dump(path, TINY, 1, *SIZE)
    assert (dump.names, len(dump.unmatched)) == ([], 5000)


# -- where dumps come from ------------------------------------------------------------------------


def test_folder_npz_and_h5_alike(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    layers = layers_of(TINY)
    for name, x in layers.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "folder" / f"{name}.npy", x)
    with h5py.File(tmp_path / "file.h5", "w") as file:
        for i, (name, x) in enumerate(layers.items()):
            file.create_dataset(name, data=x, compression=(None, "gzip")[i % 2], shuffle=i % 2 == 1)
    for path in ("folder", "file.h5"):
        assert_same(open_dump(tmp_path / path, TINY, 1, *SIZE), layers)


def test_a_run_of_ours(tiny: Tensors, tmp_path: Path) -> None:
    assert_same(opened(tmp_path, tiny), tiny)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")
def test_an_archive_is_closed_when_nobody_needs_it(tmp_path: Path) -> None:
    """Also in a circle of references, which waits for the collector of circles."""
    path = tmp_path / "dump.npz"
    np.savez(path, a=np.zeros(3, np.float32))

    def is_open() -> bool:
        files = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        return any(os.path.realpath(file) == str(path.resolve()) for file in files)

    arrays = open_arrays(path)
    vars(arrays)["circle"] = arrays
    assert arrays.header("a.npy").shape == (3,)
    assert is_open()
    del arrays
    gc.collect()  # a file that nobody closes would warn here, and warnings are errors
    assert not is_open()
