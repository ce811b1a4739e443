"""convert and inspect: PyTorch's state dicts, and what can be said of any file."""

import numpy as np
import pytest

from tests.support.shared import SHARED
from tests.support.synthetic import TINY, synthetic_tensors
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.weights import BUNDLED, read_weights
from tinymixnet.errors import CheckpointError, WeightsError
from weights_tools.convert import convert
from weights_tools.formats.checkpoint_writer import write_checkpoint
from weights_tools.inspect_file import describe

numpy_files = pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A small network among the known ones, so that the files are small too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", (TINY.block_strings, TINY.stem_filters, 1.0))
        yield


STAGES = [1, 2, 4, 4, 4, 4]  # blocks in each of timm's stages of M and L; of S [1, 2, 4, 3, 3, 3]


def timm_names(variant):
    """Canonical tensor name -> timm's, typed from the facts."""
    stages = {"mixnet-s": [1, 2, 4, 3, 3, 3], "tiny": [1, 2, 1, 2]}.get(variant, STAGES)
    flat = [f"blocks.{stage}.{n}" for stage, blocks in enumerate(stages) for n in range(blocks)]
    layers = {
        "stem/conv": "conv_stem",
        "stem/bn": "bn1",
        "head/conv": "conv_head",
        "head/bn": "bn2",
        "logits": "classifier",
    }
    for i, block in enumerate(flat):
        ours = f"blocks_{i}"
        layers[f"{ours}/depthwise_conv"] = f"{block}.conv_dw"
        layers[f"{ours}/se_reduce"] = f"{block}.se.conv_reduce"
        layers[f"{ours}/se_expand"] = f"{block}.se.conv_expand"
        if i == 0:
            layers[f"{ours}/depthwise_bn"] = f"{block}.bn1"
            layers[f"{ours}/project_conv"] = f"{block}.conv_pw"
            layers[f"{ours}/project_bn"] = f"{block}.bn2"
        else:
            layers[f"{ours}/expand_conv"] = f"{block}.conv_pw"
            layers[f"{ours}/expand_bn"] = f"{block}.bn1"
            layers[f"{ours}/depthwise_bn"] = f"{block}.bn2"
            layers[f"{ours}/project_conv"] = f"{block}.conv_pwl"
            layers[f"{ours}/project_bn"] = f"{block}.bn3"
    return layers


def state_dict(variant, tensors):
    """The same weights as timm would save them: its names, PyTorch's layouts."""
    layers = timm_names(variant)
    parameters = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
        "kernel": "weight",
        "bias": "bias",
    }
    groups = {}
    for name in tensors:
        layer = name.rsplit("/", 1)[0]
        groups[layer] = groups.get(layer, 0) + ("/kernel_" in name)
    state = {}
    for name, tensor in tensors.items():
        layer, leaf = name.rsplit("/", 1)
        leaf, _, group = leaf.partition("_") if leaf.startswith("kernel") else (leaf, "", "")
        middle = f".{group}" if groups[layer] > 1 else ""
        if tensor.ndim == 4:  # HWIO -> OIHW; depthwise (k, k, C, 1) -> (C, 1, k, k)
            axes = (2, 3, 0, 1) if "depthwise" in layer else (3, 2, 0, 1)
            tensor = tensor.transpose(axes)
        elif tensor.ndim == 2:
            tensor = tensor.T
        state[f"{layers[layer]}{middle}.{parameters[leaf]}"] = np.ascontiguousarray(tensor)
        if leaf == "gamma":
            state[f"{layers[layer]}.num_batches_tracked"] = np.array(3, np.int64)
    return state


def save(path, state, **notes):
    numpy_files.save_file(state, path, metadata=notes or None)
    return path


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_is_recognised(tmp_path, variant):
    tensors = synthetic_tensors(mixnet(variant, classes=7))
    file = save(tmp_path / "model.safetensors", state_dict(variant, tensors))
    weights = convert(file, tmp_path / "out.h5")
    assert weights.architecture == mixnet(variant, classes=7)
    found = read_weights(tmp_path / "out.h5").tensors
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("classes", "labels"), [("cat,dog", ("cat", "dog")), ("cat", ()), ("cat,", ()), (None, ())]
)
def test_labels_may_be_noted_in_the_file(tmp_path, small, classes, labels):
    notes = {} if classes is None else {"classes": classes}
    convert(save(tmp_path / "model.safetensors", small, **notes), tmp_path / "out.h5")
    expected = labels or ("class 0", "class 1")
    assert read_weights(tmp_path / "out.h5").metadata.labels == expected
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    convert(tmp_path / "model.safetensors", tmp_path / "out.h5", labels=tmp_path / "labels.txt")
    assert read_weights(tmp_path / "out.h5").metadata.labels == ("one", "two")


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.model.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, small, prefix):
    plain = convert(save(tmp_path / "plain.safetensors", small), tmp_path / "plain.h5")
    wrapped = {prefix + name: tensor for name, tensor in small.items()}
    weights = convert(save(tmp_path / "model.safetensors", wrapped), tmp_path / "out.h5")
    assert weights.architecture == plain.architecture
    for name, tensor in plain.tensors.items():
        np.testing.assert_array_equal(weights.tensors[name], tensor)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "int8"])
def test_other_types_become_float32(tmp_path, small, dtype):
    state = {name: np.asarray(np.clip(tensor, -99, 99), dtype) for name, tensor in small.items()}
    weights = convert(save(tmp_path / "model.safetensors", state), tmp_path / "out.h5")
    stem = weights.tensors["stem/conv/kernel"]
    assert stem.dtype == np.float32
    expected = state["conv_stem.weight"].astype(np.float32)
    np.testing.assert_array_equal(stem.transpose(3, 2, 0, 1), expected)
    written = read_weights(tmp_path / "out.h5").tensors["stem/conv/kernel"]
    np.testing.assert_array_equal(written, stem)


def test_bfloat16_becomes_float32(tmp_path, small):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    state = {name: torch.from_numpy(tensor).bfloat16() for name, tensor in small.items()}
    save_file(state, tmp_path / "model.safetensors")
    weights = convert(tmp_path / "model.safetensors", tmp_path / "out.h5")
    expected = state["conv_head.weight"].float().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(weights.tensors["head/conv/kernel"], expected)
    assert "bfloat16" in "".join(describe(tmp_path / "model.safetensors"))


def test_values_too_large_for_float32_are_refused(tmp_path, small):
    state = {**small, "bn1.weight": np.full(5, 1e300)}
    with pytest.raises(WeightsError, match="stem/bn/gamma: NaN or infinity"):
        convert(save(tmp_path / "model.safetensors", state), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("classes", ["a\x1b[2J,b", "a,\u202eb", "a," + "b" * 1025])
def test_notes_that_are_no_labels_are_refused(tmp_path, small, classes):
    file = save(tmp_path / "model.safetensors", small, classes=classes)
    with pytest.raises(CheckpointError, match="its note `classes`: label") as caught:
        convert(file, tmp_path / "out.h5")
    assert str(caught.value).isprintable()


@pytest.fixture(scope="module")
def small():
    return state_dict("tiny", synthetic_tensors(mixnet("tiny", classes=2)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("classifier.bias"), "no classifier.bias"),
        (lambda s: s.pop("blocks.1.1.conv_dw.1.weight"), "depthwise_conv/kernel_1: missing"),
        (lambda s: s.update({"fc.weight": s["classifier.weight"]}), "1 others: fc.weight"),
        (lambda s: s.update({"bn1.weight": s["bn2.weight"]}), r"stem/bn/gamma: expected \(5,\)"),
        (lambda s: s.update({"conv_stem.weight": s["bn2.weight"]}), "conv_stem.weight has an un"),
        (lambda s: s.update({"model.bn1.weight": s["bn1.weight"]}), "two values for one tensor"),
        (lambda s: s.update({f"blocks.{'9' * 5000}.0.bn1.weight": s["bn1.weight"]}), "1 others"),
        (lambda s: s.update({"bn1.\x1b[2Jweight": s["bn1.weight"]}), r"1 others: bn1.\\x1b\[2J"),
        (
            lambda s: s.update({f"x{n}": s["bn1.weight"] for n in range(999)}),
            "999 others.*991 more",
        ),
    ],
)
def test_names_what_does_not_fit(tmp_path, small, edit, message):
    state = dict(small)
    edit(state)
    with pytest.raises(CheckpointError, match=message):
        convert(save(tmp_path / "model.safetensors", state), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_refuses_the_variants_with_symmetric_padding(tmp_path, small):
    file = save(tmp_path / "model.safetensors", small, architecture="mixnet_s")
    with pytest.raises(CheckpointError, match="expected its tf_ variant"):
        convert(file, tmp_path / "out.h5")


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b'\x02\0\0\0\0\0\0\0{"'])
def test_refuses_damaged_files(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        convert(tmp_path / "model.safetensors", tmp_path / "out.h5")


def test_the_bundled_weights_are_the_converted_file():
    source = SHARED / "weights" / f"{BUNDLED.stem}.safetensors"
    if not source.is_file():
        pytest.skip(f"no {source}: it lies beside the repository where the project is developed")
    tensors = read_weights(BUNDLED).tensors
    for name, value in numpy_files.load_file(source).items():
        if name == "blocks.3.1.conv_dw.1.weight":
            expected = value.transpose(2, 3, 0, 1).astype(np.float16)
            assert np.array_equal(tensors["blocks_8/depthwise_conv/kernel_1"], expected)
        if name == "classifier.weight":
            assert np.array_equal(tensors["logits/kernel"], value.T.astype(np.float16))


def test_describe_escapes_what_could_change_a_terminal(tmp_path):
    tensors = {"a\x1b[2J\nb": np.ones(2, np.float32)}
    save(tmp_path / "model.safetensors", tensors, note="c\x1b[2J\nd", **{"\x07": "e"})
    write_checkpoint(tmp_path / "model.ckpt", tensors)
    for name in ("model.safetensors", "model.ckpt"):
        lines = list(describe(tmp_path / name))
        assert all(line.isprintable() for line in lines)
        assert any(line.startswith(r"a\x1b[2J\nb ") for line in lines)


def test_describe_every_kind_of_file(tmp_path, small):
    state = save(tmp_path / "model.safetensors", small, architecture="tf_mixnet_s")
    lines = list(describe(state))
    assert lines[:3] == ["file: safetensors", "architecture: tf_mixnet_s", "network: tiny"]
    assert f"{len(small)} tensors" == lines[-1]
    assert any(line.split() == ["classifier.bias", "float32", "2"] for line in lines)

    write_checkpoint(tmp_path / "model.ckpt", {"stem/x": np.ones((2, 3), np.float32)})
    lines = list(describe(tmp_path / "model.ckpt"))
    assert lines[0] == "file: TensorFlow checkpoint"
    assert "network: no known MixNet" in lines
    assert lines[-2].split() == ["stem/x", "float32", "2", "x", "3"]

    lines = list(describe(BUNDLED))
    about = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert about["variant"] == "mixnet-l"
    assert about["labels"].startswith("200, goldfish, European fire salamander")
    assert any(line.split()[:2] == ["stem/conv/kernel", "float16"] for line in lines)
    assert len(about["sha256"]) == 64
    assert lines[-1] == f"{len(read_weights(BUNDLED).tensors)} tensors"


@pytest.mark.parametrize("name", ["none.h5", "none.safetensors", "none", "text.txt"])
def test_describe_refuses_what_it_cannot_read(tmp_path, name):
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises((CheckpointError, WeightsError), match=name):
        list(describe(tmp_path / name))
