"""convert, inspect and evaluate: PyTorch's state dicts, and what can be said of any file."""

import numpy as np
import pytest

import tinymixnet
from tests.support.shared import SHARED
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.images import PRESETS
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import BUNDLED, Weights, read_weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import CheckpointError, WeightsError
from weights_tools.convert import convert
from weights_tools.evaluate import evaluate
from weights_tools.formats.checkpoint_writer import write_checkpoint
from weights_tools.inspect_file import describe

numpy_files = pytest.importorskip("safetensors.numpy")

STAGES = [1, 2, 4, 4, 4, 4]  # blocks in each of timm's stages of M and L; of S [1, 2, 4, 3, 3, 3]


def timm_names(variant):
    """Canonical tensor name -> timm's, typed from the facts."""
    stages = [1, 2, 4, 3, 3, 3] if variant == "mixnet-s" else STAGES
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


@pytest.fixture(scope="module")
def small():
    tensors = synthetic_tensors(mixnet("mixnet-s", classes=2))
    return state_dict("mixnet-s", tensors)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("classifier.bias"), "no classifier.bias"),
        (lambda s: s.pop("blocks.2.1.conv_dw.1.weight"), "depthwise_conv/kernel_1: missing"),
        (lambda s: s.update({"fc.weight": s["classifier.weight"]}), "1 others: fc.weight"),
        (lambda s: s.update({"bn1.weight": s["bn2.weight"]}), r"stem/bn/gamma: expected \(16,\)"),
        (lambda s: s.update({"conv_stem.weight": s["bn2.weight"]}), "conv_stem.weight has an un"),
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
    source = SHARED / "weights" / "mixnet-l-cifar10.safetensors"
    if not source.is_file():
        pytest.skip(f"no {source}: it lies beside the repository where the project is developed")
    tensors = read_weights(BUNDLED).tensors
    for name, value in numpy_files.load_file(source).items():
        if name == "blocks.3.1.conv_dw.1.weight":
            expected = value.transpose(2, 3, 0, 1).astype(np.float16)
            assert np.array_equal(tensors["blocks_8/depthwise_conv/kernel_1"], expected)
        if name == "classifier.weight":
            assert np.array_equal(tensors["logits/kernel"], value.T.astype(np.float16))


def test_describe_every_kind_of_file(tmp_path, small):
    state = save(tmp_path / "model.safetensors", small, architecture="tf_mixnet_s")
    lines = list(describe(state))
    assert lines[0] == "architecture: tf_mixnet_s"
    assert f"{len(small)} tensors" == lines[-1]
    assert any(line.split() == ["classifier.bias", "float32", "2"] for line in lines)

    write_checkpoint(tmp_path / "model.ckpt", {"stem/x": np.ones((2, 3), np.float32)})
    lines = list(describe(tmp_path / "model.ckpt"))
    assert lines[1].split() == ["stem/x", "float32", "2", "x", "3"]

    lines = list(describe(BUNDLED))
    about = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert about["variant"] == "mixnet-l"
    assert about["labels"].startswith("10, airplane, automobile")
    assert any(line.split()[:2] == ["stem/conv/kernel", "float16"] for line in lines)
    assert len(about["sha256"]) == 64
    assert lines[-1] == f"{len(read_weights(BUNDLED).tensors)} tensors"


@pytest.mark.parametrize("name", ["none.h5", "none.safetensors", "none", "text.txt"])
def test_describe_refuses_what_it_cannot_read(tmp_path, name):
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises((CheckpointError, WeightsError), match=name):
        list(describe(tmp_path / name))


def test_evaluate_counts_right_answers_and_notes_them(tmp_path):
    labels = tuple("abcdef")
    about = Metadata(
        labels=labels, input_size=32, preset="omz", preset_parameters=PRESETS["omz"][1]
    )
    tensors = synthetic_tensors(TINY)
    write_weights(tmp_path / "w.h5", Weights(TINY, tensors, about), float16=True)
    model = tinymixnet.load(tmp_path / "w.h5")
    images = synthetic_image(8, 40, 40)
    answers = np.array([model.classify(image, top=1)[0].index for image in images])
    wrong = (answers + 1) % 6
    np.savez(tmp_path / "photos.npz", images=images, labels=np.where([1, 0] * 4, answers, wrong))
    assert evaluate(tmp_path / "w.h5", tmp_path / "photos.npz") == 0.5
    assert read_weights(tmp_path / "w.h5").metadata.accuracy == ""
    evaluate(tmp_path / "w.h5", tmp_path / "photos.npz", write=True)
    after = read_weights(tmp_path / "w.h5")
    assert after.metadata.accuracy == "top-1 0.5000 on 8 photos of photos.npz"
    assert all(np.array_equal(after.tensors[n], model.tensors[n]) for n in tensors)


def test_evaluate_refuses_other_files(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "objects.npz", images=np.array([{}]), labels=np.array([0]))
    np.savez(tmp_path / "high.npz", images=synthetic_image(1, 32, 32), labels=np.array([10]))
    for name in ("text.npz", "objects.npz", "high.npz", "none.npz"):
        with pytest.raises(WeightsError, match=name):
            evaluate(BUNDLED, tmp_path / name)
