"""PyTorch files: their tensors are read, and nothing in them is run."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights_tools import foreign
from tests.weights_tools.foreign import WEIGHTS, assert_equal, needed
from tinymixnet.errors import CheckpointError
from weights_tools.convert import convert
from weights_tools.exporters.state_dict import timm_state_dict
from weights_tools.formats.pytorch import open_pytorch
from weights_tools.inspect_file import inspect
from weights_tools.timm_names import timm_sources

known = pytest.fixture(scope="module", autouse=True)(foreign.small_network)


def tensors() -> dict[str, Any]:
    torch = needed("torch")
    return {name: torch.from_numpy(x) for name, x in timm_state_dict(WEIGHTS).items()}


def save(path: Path, content: Any) -> Path:
    needed("torch").save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1}},
        lambda state: {"model": {f"module.{name}": x for name, x in state.items()}},
        lambda state: {f"model.{name}": x for name, x in state.items()},
    ],
)
def test_state_dicts(wrap: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "weights", wrap(tensors()))  # the content tells what it is
    assert_equal(convert(path, tmp_path / "out.h5"), WEIGHTS)
    found = inspect(path)
    assert (found["kind"], found["network"], found["missing"]) == ("pytorch", "tiny", [])


def test_a_whole_training_state(tmp_path: Path) -> None:
    """With an optimizer, whose numbers are passed over, and parameters that want gradients."""
    torch = needed("torch")
    state = {name: torch.nn.Parameter(x.clone()) for name, x in tensors().items()}
    optimizer = torch.optim.SGD(list(state.values()), lr=0.1, momentum=0.9)
    content = {"state_dict": state, "optimizer": optimizer.state_dict()}
    assert_equal(convert(save(tmp_path / "all.pt", content), tmp_path / "out.h5"), WEIGHTS)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8"])
def test_other_types(dtype: str, tmp_path: Path) -> None:
    torch = needed("torch")
    state = {name: x.clamp(-99, 99).to(getattr(torch, dtype)) for name, x in tensors().items()}
    weights = convert(save(tmp_path / "model.pth", state), tmp_path / "out.h5")
    expected = state["conv_head.weight"].float().numpy().transpose(2, 3, 1, 0)
    assert np.array_equal(weights.tensors["head/conv/kernel"], expected)


def test_views_and_shared_storages(tmp_path: Path) -> None:
    torch = needed("torch")
    base = torch.arange(24, dtype=torch.float32)
    state = {"a": base[4:16].reshape(3, 4).T, "b": base, "c": base[::2], "d": base[3]}
    file = open_pytorch(save(tmp_path / "views.pth", state))
    for name, tensor in state.items():
        assert np.array_equal(file.read(name), tensor.numpy())


# -- hostile files --------------------------------------------------------------------------------


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def rewritten(path: Path, member: str, content: bytes) -> None:
    """Replace one member of the zip."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    [name] = [name for name in files if name.endswith(member)]
    with zipfile.ZipFile(path, "w") as archive:
        for other, old in (files | {name: content}).items():
            archive.writestr(other, old)


def assert_refused(path: Path, message: str) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(path, path.parent / "out.h5")
    assert str(caught.value).isprintable()
    assert sorted(path.parent.iterdir()) == before


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    path = save(tmp_path / "model.pth", tensors())
    rewritten(path, "data.pkl", pickle.dumps({"state_dict": Evil(target)}, protocol=2))
    assert_refused(path, r"refused, its pickle calls \w+\.\w+")
    assert not target.exists()
    path = save(tmp_path / "module.pth", needed("torch").nn.Linear(2, 3))  # a whole module
    assert_refused(path, r"which a state dict does not need: save model\.state_dict\(\) alone")


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch pwned'\ntR.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n(I3\nt(I1\nttR.",  # no storage
        b"\x80\x02j\xff\xff\xff\x7f.",  # a memo that does not exist
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"(" * 100_000 + b".",
        b"\x80\x02]" + b"(" * 9 + b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"",
        b"hello",
        b"N.",
    ],
)
def test_hostile_pickles(code: bytes, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", {})
    rewritten(path, "data.pkl", code)
    assert_refused(path, "model.pth: ")


def test_damaged_files(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", tensors())
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        assert_refused(path, "damaged|cannot be read|expected")
    path.write_bytes(content)
    rewritten(path, "data/0", b"\0\0\0\0")
    assert_refused(path, "ends inside|not a PyTorch file")


def test_a_storage_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth", tensors())
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, old in files.items():
            archive.writestr(name, bytes(1 << 27) if name.endswith("data/0") else old)
    assert path.stat().st_size < 1 << 20
    assert_refused(path, "refused, it is packed")


@pytest.mark.parametrize("member", ["data.pkl", "byteorder"])
def test_a_small_member_that_unpacks_to_gigabytes(member: str, tmp_path: Path) -> None:
    """Its directory may even say that it has a few bytes: bzip2 unpacks before that is compared."""
    path = save(tmp_path / "model.pth", {})
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in files.items():
            if not name.endswith(member):
                archive.writestr(name, old)
        prefix = next(iter(files)).partition("/")[0]
        archive.writestr(f"{prefix}/{member}", bytes(1 << 20), zipfile.ZIP_BZIP2)
    assert_refused(path, f"{member}': refused, it is packed")


def test_the_old_format_is_named(tmp_path: Path) -> None:
    torch = needed("torch")
    path = tmp_path / "old.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    assert_refused(path, "PyTorch file")


# -- what trainings write, and the names of other packages -----------------------------------------


def halved(state: dict[str, Any]) -> dict[str, Any]:
    return {name: x / 2 if x.is_floating_point() else x for name, x in state.items()}


def test_a_checkpoint_of_timms_training_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The moving averages are taken, and one line says so."""
    state = tensors()
    content = {
        "epoch": 3,
        "arch": "tf_mixnet_s",
        "state_dict": halved(state),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": argparse.Namespace(lr=0.1, output=Path("out")),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": {f"module.{name}": x for name, x in state.items()},
        "metric": np.float64(77.5),
    }
    path = save(tmp_path / "checkpoint-3.pth.tar", content)
    weights = convert(path, tmp_path / "out.h5")
    assert_equal(weights, WEIGHTS)
    assert weights.metadata.averages
    assert "the moving averages (state_dict_ema) were taken, not state_dict" in (
        capsys.readouterr().out
    )
    del content["state_dict_ema"]
    weights = convert(save(path, content), tmp_path / "out.h5")
    assert not weights.metadata.averages
    assert np.array_equal(
        weights.tensors["logits/bias"], WEIGHTS.tensors["logits/bias"] / np.float32(2)
    )
    content["arch"] = "mixnet_s"
    with pytest.raises(CheckpointError, match="made for timm's 'mixnet_s', which pads both sides"):
        convert(save(path, content), tmp_path / "out.h5")


def test_averages_that_count_their_steps(tmp_path: Path) -> None:
    state = tensors()
    averages = {f"module.{name}": x for name, x in state.items()}
    averages["n_averaged"] = needed("torch").tensor(5)
    path = save(tmp_path / "a.pth", {"model": halved(state), "model_ema": averages})
    assert_equal(convert(path, tmp_path / "out.h5"), WEIGHTS)


def test_a_number_beside_the_state_dict_is_no_state_dict(tmp_path: Path) -> None:
    """The training script of PyTorch's examples saves its best accuracy as a tensor."""
    content = {"state_dict": tensors(), "best_acc1": needed("torch").tensor(76.0)}
    assert_equal(convert(save(tmp_path / "a.pth", content), tmp_path / "out.h5"), WEIGHTS)


@pytest.mark.parametrize("prefix", ["net.", "backbone.encoder.", "student.module.model."])
def test_any_prefix(prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: x for name, x in tensors().items()}
    path = save(tmp_path / "a.ckpt", {"state_dict": state, "pytorch-lightning_version": "2.0"})
    assert_equal(convert(path, tmp_path / "out.h5"), WEIGHTS)
    assert inspect(path)["missing"] == []


def in_our_order() -> dict[str, Any]:
    """The state dict of a port with names of its own, whose classifier is a convolution."""
    torch, names = needed("torch"), timm_sources(WEIGHTS.architecture)
    state, plain = tensors(), {}
    for i, ours in enumerate(WEIGHTS.architecture.tensor_shapes()):
        theirs = names[ours].name
        plain[f"layers.{i}.{theirs.rpartition('.')[2]}"] = state[theirs]
        if theirs.endswith("running_var"):
            plain[f"layers.{i}.num_batches_tracked"] = torch.tensor(7)
    last = f"layers.{i - 1}.weight"
    return plain | {last: plain[last][:, :, None, None]}


@pytest.mark.parametrize("kind", ["pth", "npz"])
def test_other_names_are_matched_by_order(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = tmp_path / f"model.{kind}", in_our_order()
    if kind == "npz":
        np.savez(path, **{name: x.numpy() for name, x in state.items()})
    else:
        save(path, state)
    assert_equal(convert(path, tmp_path / "out.h5"), WEIGHTS)
    said = capsys.readouterr().out
    assert "matched by their order and shape" in said
    assert "TensorFlow's padding and 1e-3 are assumed" in said
    found = inspect(path)
    assert (found["network"], found["missing"], found["problem"]) == ("tiny", [], "")
    with pytest.raises(CheckpointError, match="--check runs state dicts in timm"):
        convert(path, tmp_path / "other.h5", check=True)


def test_other_names_in_another_order_are_refused(tmp_path: Path) -> None:
    """Mean and variance exchanged have the right shapes, and only the names tell."""
    state = in_our_order()
    names = list(state)
    i, j = (next(k for k, n in enumerate(names) if n.endswith(end)) for end in ("mean", "var"))
    names[i], names[j] = names[j], names[i]
    path = save(tmp_path / "a.pth", {name: state[name] for name in names})
    with pytest.raises(CheckpointError, match=r"stem/bn/moving_mean \(5,\) does not fit layers"):
        convert(path, tmp_path / "out.h5")
    safetensors = needed("safetensors.torch")
    safetensors.save_file({n: x.clone() for n, x in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="does not keep the order of its tensors"):
        convert(tmp_path / "a.safetensors", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()
