"""extract: the TensorFlow checkpoint's names, values and variants."""

import random
import re
import tarfile

import numpy as np
import pytest

import tinymixnet
from tests.support.shared import SHARED
from tests.support.synthetic import TINY, synthetic_tensors
from tinymixnet.engine.architecture import VARIANTS, mixnet
from tinymixnet.engine.weights import read_weights
from tinymixnet.errors import CheckpointError
from weights_tools.extract import AVERAGE, canonical_place, extract
from weights_tools.formats.checkpoint_writer import NUMBERS, entry_message, write_checkpoint

NAMES = {
    "stem/conv/kernel": "stem/conv2d_94/kernel",
    "head/conv/kernel": "head/conv2d_95/kernel",
    "logits/kernel": "head/dense/kernel",
    "logits/bias": "head/dense/bias",
}


def official_names(tensors, start=0, part="mixnet_model/", prefix=""):
    """Canonical name -> the original graph's, whose numbers count over the whole graph."""
    names, conv, depthwise = {}, start, start
    for name in tensors:
        layer, tensor = name.rsplit("/", 1)
        block, _, kind = layer.rpartition("/")
        if name in NAMES:
            names[name] = f"mixnet-s/{part}{NAMES[name]}"
        elif kind.endswith("bn"):
            number = {"bn": 0, "expand_bn": 0, "depthwise_bn": 1, "project_bn": 2}[kind]
            if block == "blocks_0":
                number -= 1  # it has no expansion, hence one batch norm less
            numbered = f"_{number}" if number else ""
            names[name] = f"mixnet-s/{block}/{prefix}batch_normalization{numbered}/{tensor}"
        elif kind == "depthwise_conv":
            numbered = f"_{depthwise}" if depthwise else ""
            full = f"{block}/depthwise_conv2d{numbered}/depthwise_kernel"
            names[name] = f"mixnet-s/{part}{full}"
            depthwise += 1
        else:
            scope = f"{block}/se" if kind.startswith("se_") else block
            if tensor == "bias":
                names[name] = names[f"{layer}/kernel"].replace("kernel", "bias")
                continue
            numbered = f"_{conv}" if conv else ""
            names[name] = f"mixnet-s/{part}{scope}/{prefix}conv2d{numbered}/kernel"
            conv += 1
    return names


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """A small network among the known ones, so that the files are small too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", (TINY.block_strings, TINY.stem_filters, 1.0))
        yield mixnet("tiny", classes=7)


@pytest.fixture(scope="module")
def tensors(tiny):
    return synthetic_tensors(tiny)


@pytest.fixture(scope="module")
def variables(tensors):
    """A checkpoint's variables: averages, and raw values that differ from them."""
    both = {"global_step": np.array(5, np.int64)}
    for name, theirs in official_names(tensors).items():
        both[theirs] = tensors[name] + np.float32(1)
        both[theirs + AVERAGE] = tensors[name]
        both[theirs + "/RMSProp"] = np.zeros_like(tensors[name])  # an optimiser's, of no interest
    return both


def same(left, right, offset=0):
    return left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name] + np.float32(offset)) for name in left
    )


def test_takes_the_averages(tmp_path, variables, tensors, tiny, capsys):
    write_checkpoint(tmp_path / "model.ckpt", variables)
    extract(tmp_path, tmp_path / "out.h5")
    assert capsys.readouterr().err == ""
    architecture, found, metadata = read_weights(tmp_path / "out.h5")
    assert architecture == tiny
    assert same(found, tensors)
    assert metadata.averages
    assert len(metadata.source_sha256) == 64


def test_takes_the_raw_values_when_asked(tmp_path, variables, tensors, capsys):
    write_checkpoint(tmp_path / "model.ckpt", variables)
    weights = extract(tmp_path / "model.ckpt", tmp_path / "out.h5", raw=True)
    assert same(weights.tensors, tensors, offset=1)
    assert not weights.metadata.averages
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("raw", [False, True])
def test_only_averages(tmp_path, variables, tensors, capsys, raw):
    only = {name: value for name, value in variables.items() if name.endswith(AVERAGE)}
    write_checkpoint(tmp_path / "model.ckpt", only)
    weights = extract(tmp_path, tmp_path / "out.h5", raw=raw)
    assert same(weights.tensors, tensors)
    assert weights.metadata.averages
    assert "only moving averages" in capsys.readouterr().err


@pytest.mark.parametrize("raw", [False, True])
def test_only_raw_values(tmp_path, variables, tensors, capsys, raw):
    only = {name: value for name, value in variables.items() if not name.endswith(AVERAGE)}
    write_checkpoint(tmp_path / "model.ckpt", only)
    weights = extract(tmp_path, tmp_path / "out.h5", raw=raw)
    assert same(weights.tensors, tensors, offset=1)
    assert not weights.metadata.averages
    assert "no moving averages" in capsys.readouterr().err


def test_refuses_a_mixture_of_averages_and_raw_values(tmp_path, variables):
    mixed = dict(variables)
    del mixed[next(name for name in mixed if name.endswith(AVERAGE))]
    write_checkpoint(tmp_path / "model.ckpt", mixed)
    with pytest.raises(CheckpointError, match="try --raw"):
        extract(tmp_path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    "style", [{"start": 8}, {"start": 95}, {"part": ""}, {"prefix": "tpu_"}, {"part": "deep/er/"}]
)
def test_other_numbers_and_scopes(tmp_path, tensors, style):
    """From 8 and 95 the numbers pass 10 and 100, where the order of text and numbers part ways."""
    names = official_names(tensors, **style)
    items = [(names[name], tensor) for name, tensor in tensors.items()]
    random.Random(0).shuffle(items)
    write_checkpoint(tmp_path / "model.ckpt", dict(items))
    assert same(extract(tmp_path, tmp_path / "out.h5").tensors, tensors)


def test_reads_the_official_archive(tmp_path, variables, tensors):
    folder = tmp_path / "mixnet-s"
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt", variables)
    archive = tmp_path / "mixnet-s.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "mixnet-s")
    weights = extract(archive, tmp_path / "out.h5", variant="tiny")
    assert same(weights.tensors, tensors)
    assert weights.metadata.source == "mixnet-s.tar.gz"


def test_refuses_another_variant(tmp_path, variables):
    write_checkpoint(tmp_path / "model.ckpt", variables)
    with pytest.raises(CheckpointError, match="it is not mixnet-l"):
        extract(tmp_path, tmp_path / "out.h5", variant="mixnet-l")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v, n: v.pop(n["blocks_3/depthwise_conv/kernel_4"]), "depthwise_kernel: expected 5"),
        (lambda v, n: v.update({"a/stem/conv2d_99/kernel": v[n["stem/conv/kernel"]]}), "found 2"),
        (lambda v, n: v.pop(n["logits/bias"]), "head/dense/bias"),
        (
            lambda v, n: v.update({n["head/bn/gamma"]: np.ones(9, np.float32)}),
            re.escape("head/bn/gamma: expected (1536,), found (9,)"),
        ),
    ],
)
def test_names_what_does_not_fit(tmp_path, tensors, edit, message):
    names = official_names(tensors)
    variables = {names[name]: tensor for name, tensor in tensors.items()}
    edit(variables, names)
    write_checkpoint(tmp_path / "model.ckpt", variables)
    with pytest.raises(CheckpointError, match=message):
        extract(tmp_path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_refuses_another_network(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt", {"resnet/conv/kernel": np.ones((1, 1, 3, 3), "f")})
    with pytest.raises(CheckpointError, match="expected a MixNet"):
        extract(tmp_path, tmp_path / "out.h5")


def test_object_based_checkpoint_is_named(tmp_path):
    variables = {"stem/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE": np.ones(3, np.float32)}
    graph = {b"_CHECKPOINTABLE_OBJECT_GRAPH": entry_message(NUMBERS["string"], ())}
    write_checkpoint(tmp_path / "model.ckpt", variables, edit=lambda known: known.update(graph))
    with pytest.raises(CheckpointError, match=r"object-based.*tf\.compat\.v1\.train\.Saver"):
        extract(tmp_path, tmp_path / "out.h5")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_become_float32(tmp_path, tensors, dtype):
    names = official_names(tensors)
    halved = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    write_checkpoint(tmp_path / "model.ckpt", {names[name]: halved[name] for name in tensors})
    weights = extract(tmp_path, tmp_path / "out.h5")
    for name, tensor in weights.tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, halved[name].astype(np.float32))


def test_message_stays_short_whatever_the_names(tmp_path, tensors):
    names = official_names(tensors)
    variables = {names[name]: tensor for name, tensor in tensors.items()}
    more = {f"a/blocks_{n}/conv2d/kernel": np.ones(1, np.float32) for n in range(900)}
    write_checkpoint(tmp_path / "model.ckpt", {**variables, **more})
    with pytest.raises(CheckpointError, match=r"things wrong: .*; and \d+ more") as caught:
        extract(tmp_path, tmp_path / "out.h5")
    assert len(str(caught.value)) < 3000


def test_labels(tmp_path, variables):
    write_checkpoint(tmp_path / "model.ckpt", variables)
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
    weights = extract(tmp_path, tmp_path / "out.h5", labels=tmp_path / "labels.txt")
    assert read_weights(tmp_path / "out.h5").metadata.labels == weights.metadata.labels
    assert weights.metadata.labels[2] == "three"
    (tmp_path / "labels.txt").write_text("one\n\n")
    with pytest.raises(CheckpointError, match="expected 7 labels"):
        extract(tmp_path, tmp_path / "other.h5", labels=tmp_path / "labels.txt")


def test_every_canonical_name_has_a_place():
    places = [canonical_place(name) for name in mixnet("mixnet-l").tensor_shapes()]
    scopes = {place.scope for place in places}
    assert {"stem", "head", "blocks_0", "blocks_18/se"} <= scopes
    assert not scopes & {"blocks_2/se", ""}


@pytest.mark.parametrize("variant", ["mixnet-s", "mixnet-l"])
def test_the_original_codes_checkpoint_gives_its_logits(tmp_path, variant):
    folder = SHARED / "reference" / variant
    if not folder.is_dir():
        pytest.skip(f"no {folder}: it lies beside the repository where the project is developed")
    extract(folder, tmp_path / "out.h5")
    model = tinymixnet.load(tmp_path / "out.h5")
    with np.load(folder / "activations.npz") as original:
        images, logits = original["image"], original["logits"]
    assert model.labels[388] == "giant panda"
    assert np.abs(model(images) - logits).max() <= 5e-5 * np.abs(logits).max()
