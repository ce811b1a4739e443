"""convert, inspect, record: Keras files that lead elsewhere or ask for more than they need."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.weights_tools.foreign import needed, reading_commands
from tinymixnet.errors import TinyMixNetError

GOOD: dict[str, Any] = {"config": {"layers": []}}
STORED = zipfile.ZIP_STORED


def assert_refused(path: Path, message: str) -> None:
    """One line says so, and nothing is left behind."""
    before = sorted(path.parent.iterdir())
    for command in reading_commands(path):
        with pytest.raises(TinyMixNetError, match=message) as caught:
            command()
        assert "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


def write_keras(
    path: Path, description: bytes = b"{}", change: Callable[[h5py.File], None] = lambda file: None
) -> Path:
    """A .keras, or Keras's old .h5, whose arrays are one and what `change` makes of it."""
    arrays = path.with_suffix(".h5")
    with h5py.File(arrays, "w") as file:
        file["layers/dense/vars/0"] = np.ones(3, np.float32)
        file.attrs["model_config"] = description.decode()
        change(file)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", description)
            archive.write(arrays, "model.weights.h5")
        arrays.unlink()
    return path


def packed(path: Path, kind: int, content: bytes) -> Path:
    """Replace the description by one that is packed."""
    with zipfile.ZipFile(path) as archive:
        arrays = archive.read("model.weights.h5")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", content, kind)
        archive.writestr("model.weights.h5", arrays)
    return path


# -- what the arrays are ---------------------------------------------------------------------------


def link_to_a_file(file: h5py.File) -> None:
    file["other"] = h5py.ExternalLink("/etc/passwd", "/layers")


def links_in_a_circle(file: h5py.File) -> None:
    file["one"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/one")


def group_in_itself(file: h5py.File) -> None:
    file["layers/again"] = file["layers"]


def values_in_a_file(file: h5py.File) -> None:
    file.create_dataset("x", (9,), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def values_of_another_file(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((9,), "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", (9,))
    file.create_virtual_dataset("x", layout)


def texts_of_any_length(file: h5py.File) -> None:
    file.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())


def zeros_that_are_not_stored(file: h5py.File) -> None:
    file.create_dataset("x", (1 << 20, 900), "f4", chunks=(1 << 10, 900))


def zeros_that_are_packed(file: h5py.File) -> None:
    zeros = file.create_dataset("x", (120_000_000,), "u1", chunks=(8_000_000,), compression=9)
    for start in range(0, 120_000_000, 8_000_000):
        zeros[start : start + 8_000_000] = 0


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (link_to_a_file, "other: refused, a soft or external link"),
        (links_in_a_circle, "refused, a soft or external link"),
        (group_in_itself, "layers/again: refused, a group inside itself"),
        (values_in_a_file, "x: refused, stored in another file"),
        (values_of_another_file, "x: refused, a virtual dataset"),
        (texts_of_any_length, "x: refused, type object"),
        (zeros_that_are_not_stored, "x: refused, nothing stored"),
        (zeros_that_are_packed, "asks for 120,000,003 numbers"),
    ],
)
def test_hostile_arrays(
    name: str, change: Callable[[h5py.File], None], message: str, tmp_path: Path
) -> None:
    needed("keras")
    assert_refused(write_keras(tmp_path / name, change=change), message)


# -- what the description is -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize(
    ("description", "message"),
    [
        (b"[" * 200_000, "cannot be (read|recorded)"),
        (b" " * (17 << 20) + b"{}", "refused, .*17,825,794 bytes|refused, its model_config"),
        (json.dumps({"layers": [{}] * 5001}).encode(), "5,001 layers, at most 5,000"),
        (json.dumps({"units": 1 << 20}).encode(), "has the size 1048576"),
    ],
)
def test_hostile_descriptions(name: str, description: bytes, message: str, tmp_path: Path) -> None:
    needed("keras")
    assert_refused(write_keras(tmp_path / name, description), message)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_description_that_unpacks_to_much(kind: int, tmp_path: Path) -> None:
    """A zip may say that a member has 1,000 bytes, and what unpacks it goes on and on."""
    needed("keras")
    path = packed(write_keras(tmp_path / "model.keras"), kind, b" " * (1 << 20))
    assert_refused(path, r"'config\.json': refused, it is packed")


def test_far_too_many_members(tmp_path: Path) -> None:
    needed("keras")
    path = write_keras(tmp_path / "model.keras")
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(1000):
            archive.writestr(f"assets/{number}", b"")
    assert_refused(path, "1,002 members, at most 1,000")


def test_two_files_in_one(tmp_path: Path) -> None:
    """Keras would read the HDF5 file at its beginning, so that is what is checked, not the zip."""
    needed("keras")
    path = write_keras(tmp_path / "model.h5", json.dumps({"units": 1 << 20}).encode())
    good = write_keras(tmp_path / "good.keras")
    path.write_bytes(path.read_bytes() + good.read_bytes())
    assert zipfile.is_zipfile(path)
    assert_refused(path, "has the size 1048576")


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_layer_that_would_be_huge(name: str, tmp_path: Path) -> None:
    """Each number is allowed, but their product is 13 TB. No memory is asked for."""
    keras = needed("keras")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 5, padding="same")])
    model.save(tmp_path / "small.keras")
    model.save(tmp_path / "small.h5")
    with h5py.File(tmp_path / "small.h5", "r+") as file:
        file.attrs["model_config"] = wider(file.attrs["model_config"])
    with zipfile.ZipFile(tmp_path / "small.keras") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members["config.json"] = wider(members["config.json"].decode()).encode()
    with zipfile.ZipFile(tmp_path / "small.keras", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    (tmp_path / "one").mkdir()
    path = Path(tmp_path / f"small{Path(name).suffix}").rename(tmp_path / "one" / name)
    assert_refused(path, "must match|expects shape")


def wider(description: str) -> str:
    value = json.loads(description)
    layer = value["config"]["layers"][-1]["config"]
    assert layer["kernel_size"] == [5, 5]
    layer |= {"kernel_size": [16384, 16384], "filters": 4096}
    return json.dumps(value)


# -- code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_layer_with_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras, victim = needed("keras"), tmp_path / "victim"
    image = keras.Input((2,))
    monkeypatch.setenv("VICTIM", str(victim))
    layer = keras.layers.Lambda(
        lambda x: (open(__import__("os").environ["VICTIM"], "w").close(), x)[1], output_shape=(2,)
    )
    keras.Model(image, layer(image)).save(tmp_path / name)
    keras.models.load_model(tmp_path / name, safe_mode=False)(np.zeros((1, 2), np.float32))
    assert victim.exists()  # whoever trusts the file runs its code
    victim.unlink()
    assert_refused(tmp_path / name, "is a Python lambda")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("module", "kind"), [("subprocess", "Popen"), ("evil", "Evil"), ("keras_hub", "Evil")]
)
def test_a_layer_of_another_module(
    module: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One module lies where Python would find it. It is not imported, and nothing is called."""
    needed("keras")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    victim = tmp_path / "victim"
    (tmp_path / "evil.py").write_text(f"open({str(victim)!r}, 'w')")
    arguments = {"args": ["touch", str(victim)]}
    layer = {"module": module, "class_name": kind, "registered_name": kind, "config": arguments}
    path = write_keras(tmp_path / "model.keras", json.dumps(layer).encode())
    assert_refused(path, "cannot be (read|recorded) .*(Popen|Evil)")
    assert not victim.exists()
