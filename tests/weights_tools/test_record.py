"""Recorders: a live network in each framework, recorded, must come out equal to ours by layer."""

import os
import re
import sys

import numpy as np
import pytest

from benchmarks.side_network import network
from benchmarks.side_tensorflow import TensorFlowOperations
from tests.support.synthetic import TINY
from tests.weights_tools.recorded import (
    ABOUT,
    NORMALISED,
    PIXELS,
    TENSORS,
    assert_same,
    layers,
    left_behind,
    needed,
    to_nchw,
    write_onnx,
)
from tinymixnet.cli import run
from tinymixnet.debug.traces import open_trace
from tinymixnet.engine.kernels import same_padding, split_channels
from tinymixnet.engine.weights import Weights
from tinymixnet.errors import InputError, TraceError
from weights_tools.__main__ import parser
from weights_tools.record import (
    record_file,
    record_keras,
    record_onnx,
    record_tensorflow,
    record_torch,
)

STAGES = ["0.0", "1.0", "1.1", "2.0", "3.0", "3.1"]  # TINY's blocks as timm counts them


# -- PyTorch --------------------------------------------------------------------------------------


def torch_mixnet():
    """TINY with the module names of timm's tf_mixnet, whose batch norms apply the activation."""
    torch = needed("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Conv(nn.Module):  # SAME padding
        def __init__(self, kernel, stride=1, depthwise=False, bias=None):
            super().__init__()
            axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
            self.weight = nn.Parameter(torch.tensor(kernel.transpose(axes).copy()))
            self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
            self.stride, self.groups = stride, kernel.shape[2] if depthwise else 1

        def forward(self, x):
            k = self.weight.shape[-1]
            (top, bottom), (left, right) = (same_padding(n, k, self.stride) for n in x.shape[2:])
            x = functional.pad(x, (left, right, top, bottom))
            return functional.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)

    class Mixed(nn.ModuleDict):
        def __init__(self, layer, inputs, stride=1):
            kernels = [TENSORS[f"{layer}/kernel_{g}"] for g in range(len(inputs))]
            mixing = layer.endswith("depthwise_conv")
            super().__init__({str(g): Conv(k, stride, mixing) for g, k in enumerate(kernels)})
            self.inputs = inputs

        def forward(self, x):
            parts = zip(self.values(), torch.split(x, self.inputs, 1), strict=True)
            return torch.cat([conv(part) for conv, part in parts], 1)

    class NormAct(nn.BatchNorm2d):
        def __init__(self, layer, act):
            kinds = ("gamma", "beta", "moving_mean", "moving_variance")
            gamma, beta, mean, variance = (torch.tensor(TENSORS[f"{layer}/{k}"]) for k in kinds)
            super().__init__(len(gamma), eps=ABOUT.epsilon)
            self.weight, self.bias = nn.Parameter(gamma), nn.Parameter(beta)
            self.running_mean, self.running_var = mean, variance
            self.drop, self.act = nn.Identity(), act

        def forward(self, x):
            return self.act(self.drop(super().forward(x)))

    class SqueezeExcite(nn.Module):
        def __init__(self, block, act):
            super().__init__()
            for name, layer in {"conv_reduce": "se_reduce", "conv_expand": "se_expand"}.items():
                kernel, bias = (TENSORS[f"{block}/{layer}/{k}"] for k in ("kernel", "bias"))
                setattr(self, name, Conv(kernel, bias=bias))
            self.act1, self.gate = act, nn.Sigmoid()

        def forward(self, x):
            gate = self.conv_reduce(x.mean((2, 3), keepdim=True))
            return x * self.gate(self.conv_expand(self.act1(gate)))

    class Block(nn.Module):
        def __init__(self, block):
            super().__init__()
            act = nn.SiLU if block.swish else nn.ReLU
            # In place, as timm's are: what a hook sees must be written before this changes it.
            self.convs = ["conv_pw", "conv_dw", "conv_pwl"]
            names = ["expand", "depthwise", "project"]
            if not block.expand_groups:
                self.convs, names = ["conv_dw", "conv_pw"], names[1:]
            splits = {
                "expand": split_channels(block.inputs, block.expand_groups or 1),
                "depthwise": split_channels(block.expanded, len(block.kernel_sizes)),
                "project": split_channels(block.expanded, block.project_groups),
            }
            for i, (conv, name) in enumerate(zip(self.convs, names, strict=True), start=1):
                stride = block.stride if name == "depthwise" else 1
                mixed = Mixed(f"{block.name}/{name}_conv", splits[name], stride)
                last = nn.Identity() if name == "project" else act(inplace=True)
                setattr(self, conv, mixed)
                setattr(self, f"bn{i}", NormAct(f"{block.name}/{name}_bn", last))
            self.se = nn.Identity()
            if block.se_width:
                self.se = SqueezeExcite(block.name, act(inplace=True))
            self.residual = block.residual

        def forward(self, x):
            shortcut = x
            for i, conv in enumerate(self.convs, start=1):
                x = self.se(x) if i == len(self.convs) else x
                x = getattr(self, f"bn{i}")(getattr(self, conv)(x))
            return x + shortcut if self.residual else x

    class MixNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv_stem = Conv(TENSORS["stem/conv/kernel"], 2)
            self.bn1 = NormAct("stem/bn", nn.ReLU(inplace=True))
            stages = {}
            for name, block in zip(STAGES, TINY.blocks, strict=True):
                stages.setdefault(name[0], []).append(Block(block))
            self.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in stages.values()))
            self.conv_head = Conv(TENSORS["head/conv/kernel"])
            self.bn2 = NormAct("head/bn", nn.ReLU(inplace=True))
            self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
            kernel, bias = TENSORS["logits/kernel"], TENSORS["logits/bias"]
            self.classifier = nn.Linear(*kernel.shape)
            self.classifier.weight = nn.Parameter(torch.tensor(kernel.T.copy()))
            self.classifier.bias = nn.Parameter(torch.tensor(bias))

        def forward(self, x):
            x = self.blocks(self.bn1(self.conv_stem(x)))
            return self.classifier(self.global_pool(self.bn2(self.conv_head(x))))

    return torch, MixNet()


def test_torch_with_timms_names(tmp_path):
    torch, model = torch_mixnet()
    count = record_torch(model, to_nchw(NORMALISED), tmp_path / "dump")
    trace = open_trace(tmp_path / "dump")
    assert len(trace.names) == count
    assert trace.names[:3] == ["conv_stem", "bn1.drop", "bn1.act"]  # as they were computed
    assert "blocks.2.0.conv_dw.4" in trace.names
    wanted = {
        *layers("expand_conv", "expand_act", "depthwise_conv", "depthwise_act", "project_conv"),
        *layers("se_reduce", "se_act", "se_expand", "se_gate", "se_scale", "project_bn", "output"),
        *("stem/conv", "stem/act", "head/conv", "head/act", "head/pool", "logits"),
    }
    dump = assert_same(tmp_path / "dump", wanted)
    assert dump.map == "timm"
    assert dump.layouts["blocks_3/expand_conv"] == "NCHW"


def test_torch_module_is_left_as_it_was(tmp_path):
    torch, model = torch_mixnet()
    model.train()
    model.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    statistics = model.bn1.running_mean.clone()
    record_torch(model, torch.tensor(to_nchw(NORMALISED)), tmp_path / "good")
    with pytest.raises(RuntimeError, match="channels"):
        record_torch(model, np.zeros((1, 5, 64, 64), np.float32), tmp_path / "bad")
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks for part in model.modules())
    assert torch.equal(model.bn1.running_mean, statistics)
    assert left_behind(tmp_path) == ["good"]


def test_torch_repeated_calls_halves_and_other_outputs(tmp_path):
    torch = needed("torch")

    class Pair(torch.nn.Module):
        def forward(self, x):
            return x, x

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.pair, self.dense = torch.nn.ReLU(), Pair(), torch.nn.Linear(3, 2)
            self.dense.to(torch.bfloat16)

        def forward(self, x):
            x, _ = self.pair(self.act(self.act(x) - 1))
            return self.dense(x.bfloat16())

    x = np.array([[-1, 0.5, 2]])
    assert record_torch(Module(), x, tmp_path / "dump") == 3
    trace = open_trace(tmp_path / "dump")
    assert trace.names == ["act", "act#1", "dense"]
    np.testing.assert_array_equal(trace["act"], [[0, 0.5, 2]])
    np.testing.assert_array_equal(trace["act#1"], [[0, 0, 1]])
    assert trace["dense"].dtype == np.float32


def test_chosen_layers(tmp_path):
    torch, model = torch_mixnet()
    x = to_nchw(NORMALISED)
    assert record_torch(model, x, tmp_path / "dump", ["blocks.3.?", "classifier"]) == 3
    assert open_trace(tmp_path / "dump").names == ["blocks.3.0", "blocks.3.1", "classifier"]
    with pytest.raises(InputError, match="nonsense"):
        record_torch(model, x, tmp_path / "other", ["bn1", "nonsense*"])
    with pytest.raises(TraceError, match="nothing to record"):
        record_torch(torch.nn.ReLU(), x, tmp_path / "other")
    assert left_behind(tmp_path) == ["dump"]


def test_wrong_types_are_refused_in_one_line(tmp_path):
    torch = needed("torch")
    model, x = torch.nn.Sequential(torch.nn.ReLU()), to_nchw(NORMALISED)
    with pytest.raises(TraceError, match=r"expected a torch.nn.Module, found a NoneType"):
        record_torch(None, x, tmp_path / "dump")
    for inputs in (None, "x", [[1], [1, 2]]):
        with pytest.raises(InputError, match="inputs: expected a tensor"):
            record_torch(model, inputs, tmp_path / "dump")
    for wrong in (None, b"x", "x", [3]):
        with pytest.raises(InputError, match="layers: expected a list of names"):
            record_torch(model, x, tmp_path / "dump", wrong)
    assert not (tmp_path / "dump").exists()


def test_nothing_else_is_overwritten_and_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    torch, model = torch_mixnet()
    x = to_nchw(NORMALISED)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").touch()
    with pytest.raises(TraceError, match="thesis"):
        record_torch(model, x, tmp_path / "thesis")
    with pytest.raises(TraceError, match="no folder"):
        record_torch(model, x, tmp_path / "no/such")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", full)
    with pytest.raises(TraceError, match="No space left"):
        record_torch(model, x, tmp_path / "dump")
    assert left_behind(tmp_path) == ["thesis"]
    assert not any(part._forward_hooks for part in model.modules())


# -- ONNX -----------------------------------------------------------------------------------------


@pytest.fixture
def onnx_file(tmp_path):
    return write_onnx(tmp_path / "tiny.onnx")


def test_onnx_every_intermediate(tmp_path, onnx_file):
    import onnx

    before = onnx_file.read_bytes()
    count = record_onnx(onnx_file, {"image": to_nchw(NORMALISED)}, tmp_path / "dump")
    assert onnx_file.read_bytes() == before
    graph = onnx.load_from_string(before).graph
    trace = open_trace(tmp_path / "dump")
    assert trace.names == [name for node in graph.node for name in node.output]
    assert count == len(trace.names)
    assert_same(tmp_path / "dump", layers("depthwise_conv", "project_bn", "logits"), "onnx")
    record_onnx(onnx_file, to_nchw(NORMALISED), tmp_path / "one.npz")
    for name in trace.names:
        np.testing.assert_array_equal(open_trace(tmp_path / "one.npz")[name], trace[name])


def test_onnx_constants_are_left_out_and_integers_kept(tmp_path):
    needed("onnxruntime")
    onnx = needed("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {
        "scale": np.float32(0.5),
        "zero": np.int8(3),
        "packed": np.array([[2, 4]], np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["packed", "scale", "zero"], ["weights"]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["/a/Quantize:0"]),
        helper.make_node("DequantizeLinear", ["/a/Quantize:0", "scale", "zero"], ["/A/Quantize:0"]),
        helper.make_node("MatMul", ["/A/Quantize:0", "weights"], ["product"]),
        helper.make_node("Add", ["product", "one"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, kinds.FLOAT, ["n", None]) for n in "xy")
    initialisers = [onnx.numpy_helper.from_array(np.array(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "small", [x], [y], initialisers)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "q.onnx")

    record_onnx(tmp_path / "q.onnx", np.array([[1.1], [-4]], np.float32), tmp_path / "dump")
    trace = open_trace(tmp_path / "dump")
    assert trace.names == ["/a/Quantize:0", "/A/Quantize:0", "product", "y"]
    assert trace["/a/Quantize:0"].dtype == np.int8
    np.testing.assert_array_equal(trace["/a/Quantize:0"], [[5], [-5]])
    np.testing.assert_array_equal(trace["/A/Quantize:0"], [[1], [-4]])
    np.testing.assert_array_equal(trace["y"], [[0.5, 1.5], [3, -1]])


# -- Keras and TensorFlow -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    needed("tensorflow")
    return needed("keras")


class KerasOperations:
    """`network` in Keras layers, named as ours are but for the slash, which Keras forbids."""

    def __init__(self, keras):
        self.layers = keras.layers
        self.keras = keras
        self.weights = {}

    def conv(self, x, kernel, stride=1, bias=""):
        name = kernel.rpartition("/")[0] if bias or "stem" in kernel or "head" in kernel else kernel
        options = {"padding": "same", "use_bias": bool(bias), "name": name.replace("/", "_")}
        size, value = TENSORS[kernel].shape[0], TENSORS[kernel]
        if "depthwise" in kernel:
            layer = self.layers.DepthwiseConv2D(size, stride, **options)
        else:
            layer = self.layers.Conv2D(value.shape[3], size, stride, **options)
        y = layer(x)
        layer.set_weights([value, TENSORS[bias]] if bias else [value])
        self.layer = kernel.rpartition("/")[0]
        return y

    def norm(self, x, layer):
        norm = self.layers.BatchNormalization(epsilon=ABOUT.epsilon, name=layer.replace("/", "_"))
        y = norm(x)
        norm.set_weights([TENSORS[f"{layer}/{k}"] for k in STATISTICS])
        self.layer = layer
        return y

    def relu(self, x):
        return self.layers.ReLU(name=self._act())(x)

    def swish(self, x):
        return self.layers.Activation("silu", name=self._act())(x)

    def _act(self):
        stem = self.layer.replace("/", "_")
        return stem.removesuffix("_bn").replace("se_reduce", "se") + "_act"

    def sigmoid(self, x):
        name = self.layer.replace("/", "_").replace("se_expand", "se_gate")
        return self.layers.Activation("sigmoid", name=name)(x)

    def pool(self, x):
        return self.layers.GlobalAveragePooling2D(keepdims=True)(x)

    def dense(self, x, layer):
        dense = self.layers.Dense(TINY.classes, name=layer)
        y = dense(self.layers.Flatten()(x))
        dense.set_weights([TENSORS[f"{layer}/kernel"], TENSORS[f"{layer}/bias"]])
        return y

    def multiply(self, x, gate):
        return self.layers.Multiply()([x, gate])

    def add(self, x, shortcut):
        return self.layers.Add(name=self.layer.replace("/project_bn", "_output"))([x, shortcut])

    def split(self, x, sizes):
        ends = np.cumsum(sizes)
        pairs = zip(ends - sizes, ends, strict=True)
        return [x[..., int(start) : int(end)] for start, end in pairs]

    def concat(self, parts):
        return self.layers.Concatenate(name=self.layer.replace("/", "_"))(parts)


STATISTICS = ("gamma", "beta", "moving_mean", "moving_variance")


def keras_mixnet(keras):
    image = keras.Input(PIXELS.shape[1:])
    logits = network(KerasOperations(keras), image, TINY)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(logits))


def test_keras_functional(tmp_path, keras):
    model = keras_mixnet(keras)
    call = keras.Operation.__call__
    record_keras(model, NORMALISED, tmp_path / "dump")
    assert keras.Operation.__call__ is call
    wanted = layers("conv", "expand_bn", "expand_act", "depthwise_bn", "depthwise_act", "logits")
    wanted |= layers("se_reduce", "se_act", "se_expand", "se_gate", "project_bn", "act")
    grouped = {"blocks_1/expand_conv", "blocks_3/depthwise_conv", "blocks_3/project_conv"}
    assert_same(tmp_path / "dump", {*wanted, *grouped, "blocks_0/output"}, "canonical")


def test_keras_subclassed_with_layers_in_layers(tmp_path, keras):
    class Stem(keras.layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            kernel = keras.initializers.Constant(TENSORS["stem/conv/kernel"])
            self.conv = keras.layers.Conv2D(
                TINY.stem, 3, 2, "same", use_bias=False, kernel_initializer=kernel, name="conv"
            )
            start = {f"{k}_initializer": TENSORS[f"stem/bn/{k}"] for k in STATISTICS}
            start = {k: keras.initializers.Constant(v) for k, v in start.items()}
            self.bn = keras.layers.BatchNormalization(epsilon=ABOUT.epsilon, name="bn", **start)

        def call(self, x):
            return self.bn(self.conv(x))

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem, self.act = Stem(name="stem"), keras.layers.ReLU(name="act")

        def call(self, x):
            return self.act(self.stem(x))

    model, call = Net(), keras.Operation.__call__
    assert record_keras(model, NORMALISED, tmp_path / "dump") == 4
    assert open_trace(tmp_path / "dump").names == ["stem/conv", "stem/bn", "stem", "act"]
    assert_same(tmp_path / "dump", {"stem/conv", "stem/bn"}, "canonical")
    with pytest.raises(ValueError, match=r"."):
        record_keras(model, np.zeros((2, 3)), tmp_path / "bad")
    assert keras.Operation.__call__ is call
    assert left_behind(tmp_path) == ["dump"]
    with pytest.raises(TraceError, match="Keras"):
        record_keras(object(), NORMALISED, tmp_path / "bad")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, keras):
    """A folder with the network as a frozen graph, tiny.pb, and as a SavedModel, saved."""
    import tensorflow as tf

    convert = needed("tensorflow.python.framework.convert_to_constants")
    ops = TensorFlowOperations(Weights(TINY, TENSORS, ABOUT))

    def answer(image):
        return {"answer": tf.nn.softmax(network(ops, image, TINY))}

    traced = tf.function(answer, input_signature=[tf.TensorSpec(PIXELS.shape, name="image")])
    module = tf.Module()
    module.tracked = ops.variables
    folder = tmp_path_factory.mktemp("graphs")
    tf.saved_model.save(module, str(folder / "saved"), signatures=traced)
    frozen = convert.convert_variables_to_constants_v2(traced.get_concrete_function())
    (folder / "tiny.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    return folder


def test_tensorflow_graph(tmp_path, graphs):
    count = record_tensorflow(graphs / "tiny.pb", NORMALISED, tmp_path / "dump.npz")
    trace = open_trace(tmp_path / "dump.npz")
    assert len(trace.names) == count
    assert {"Conv2D", "FusedBatchNormV3", "depthwise"} <= {*trace.names}
    assert_same(tmp_path / "dump.npz", layers("depthwise_conv", "project_bn", "logits"), "onnx")

    import tensorflow as tf

    graph = tf.compat.v1.GraphDef.FromString((graphs / "tiny.pb").read_bytes())
    record_tensorflow(graph, {"image": NORMALISED}, tmp_path / "some", ["Relu*"])
    some = open_trace(tmp_path / "some")
    assert some.names == [name for name in trace.names if name.startswith("Relu")]
    np.testing.assert_array_equal(some["Relu_1"], trace["Relu_1"])


# -- the command line -----------------------------------------------------------------------------


def test_command(tmp_path, keras, onnx_file, graphs, capsys):
    keras_mixnet(keras).save(tmp_path / "tiny.keras")
    np.save(tmp_path / "nhwc.npy", NORMALISED)
    np.save(tmp_path / "nchw.npy", to_nchw(NORMALISED))
    for model, pixels in {
        onnx_file: "nchw.npy",
        tmp_path / "tiny.keras": "nhwc.npy",
        graphs / "tiny.pb": "nhwc.npy",
        graphs / "saved": "nhwc.npy",
    }.items():
        output = f"{tmp_path}/{model.name}.npz"
        command = ["record", str(model), str(tmp_path / pixels), "-o", output]
        assert run(parser(), command) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.startswith(f"{output}: ")
        assert_same(output, layers("project_bn", "logits"))
    assert run(parser(), [*command, "--layers", "*Bias*", "*Mean*"]) == 0  # replaces the last
    assert {re.sub(r".*/|_\d+", "", name) for name in open_trace(output).names} == {
        "BiasAdd",
        "Mean",
    }


@pytest.mark.parametrize(
    ("model", "content", "message"),
    [
        ("absent.onnx", None, "no such file"),
        ("bad.onnx", b"nonsense", "cannot be recorded"),
        ("bad.keras", b"nonsense", "not of Keras"),
        ("bad.pb", b"nonsense", "cannot be recorded"),
        ("module.pt", b"nonsense", "record_torch"),
        ("model.tflite", b"nonsense", "cannot be recorded"),
        ("model.xml", b"nonsense", "cannot be recorded"),
        ("notes.txt", b"nonsense", ".tflite, OpenVINO's .xml, a frozen .pb"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(
    tmp_path, keras, onnx_file, capsys, model, content, message
):
    if content:
        (tmp_path / model).write_bytes(content)
    np.save(tmp_path / "input.npy", PIXELS)
    before = left_behind(tmp_path)
    arguments = [str(tmp_path / model), str(tmp_path / "input.npy"), "-o", str(tmp_path / "dump")]
    assert run(parser(), ["record", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert left_behind(tmp_path) == before


def test_command_refuses_a_bad_input(tmp_path, onnx_file, capsys):
    bad = tmp_path / "input.npy"
    output = ["-o", str(tmp_path / "dump")]
    for content in (b"nonsense", b"\x93NUMPY\x01\x00\x76\x00{'descr'"):
        bad.write_bytes(content)
        assert run(parser(), ["record", str(onnx_file), str(bad), *output]) == 2
        assert "input.npy" in capsys.readouterr().err
    np.save(bad, NORMALISED)  # NHWC, which this graph does not take
    assert run(parser(), ["record", str(onnx_file), str(bad), *output]) == 2
    assert "tiny.onnx: cannot be recorded" in capsys.readouterr().err
    with pytest.raises(TraceError, match="image"):
        record_onnx(onnx_file, {"picture": PIXELS}, tmp_path / "dump")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_command_does_not_wait_for_pipes(tmp_path, onnx_file, capsys):
    np.save(tmp_path / "input.npy", PIXELS)
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "pipe.onnx")
    output = ["-o", str(tmp_path / "dump")]
    before = left_behind(tmp_path)
    for model, pixels in (
        (onnx_file, "pipe.npy"),
        (onnx_file, "."),
        (onnx_file, "none.npy"),
        (tmp_path / "pipe.onnx", "input.npy"),
    ):
        assert run(parser(), ["record", str(model), str(tmp_path / pixels), *output]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "expected a .npy file" in said or "neither a file nor a folder" in said
    assert left_behind(tmp_path) == before


def test_missing_packages_name_their_extra(tmp_path, onnx_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TraceError, match=r"onnxruntime, .*pip install 'tinymixnet\[record-onnx\]'"):
        record_file(onnx_file, PIXELS, tmp_path / "dump", ["*"])
