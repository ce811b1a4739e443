"""Traces: what is written comes back, and nothing damaged, lying or hostile gets through."""

import io
import json
import os
import stat
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.cli import main
from tinymixnet.debug.arrays import natural
from tinymixnet.debug.manifest import Manifest, image_hash, weights_hash
from tinymixnet.debug.traces import open_trace, record, write_dump, write_trace
from tinymixnet.errors import InputError, TraceError
from tinymixnet.model import Model

MANIFEST = Manifest(
    architecture=TINY,
    image_shape=(1, 32, 48, 3),
    image_sha256="a" * 64,
    weights_sha256="b" * 64,
    mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    epsilon=0.5,
    image_name='a "photo" <é>.jpg',
)
LAYERS = {
    "stem/conv": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
    "blocks_0/output": np.array([[np.nan, np.inf, -0.0]], np.float16),
    "logits": np.zeros((1, 6)),
}
KINDS = ("folder", "file.npz")

few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(TINY, synthetic_tensors(TINY))


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "here" / request.param if (tmp_path / "here").mkdir() is None else tmp_path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def crafted(descr: Any, shape: Any, data: bytes = b"", fortran: Any = False) -> bytes:
    """A .npy with any header."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def read_all(path: Path) -> dict[str, np.ndarray]:
    trace = open_trace(path)
    for name in trace.names:
        assert trace.header(name) == (trace[name].shape, trace[name].dtype)
    return {name: trace[name] for name in trace.names}


def assert_refused(path: Path, message: str | None = None) -> None:
    """Reading it all raises one line that names the file."""
    with pytest.raises(TraceError, match=message) as caught:
        read_all(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


# -- round trip -----------------------------------------------------------------------------------


def test_what_is_written_comes_back(path: Path) -> None:
    write_trace(path, LAYERS.items(), MANIFEST)
    trace = open_trace(path)
    assert trace.names == list(LAYERS)
    for name, layer in LAYERS.items():
        np.testing.assert_array_equal(trace[name], layer)
        assert trace[name].dtype == layer.dtype
    manifest = trace.manifest
    assert manifest is not None
    layers = tuple((name, x.shape, x.dtype.name) for name, x in LAYERS.items())
    assert manifest.layers == layers
    assert manifest == Manifest(**{**vars(MANIFEST), "layers": layers})
    assert os.listdir(path.parent) == [path.name]


@few
@given(
    layers=st.lists(
        arrays(
            st.sampled_from(["<f2", ">f4", "<f4", "<f8", "|u1", "<i4", ">i8"]),
            array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
        ),
        min_size=1,
        max_size=4,
    ),
    kind=st.sampled_from(KINDS),
)
def test_any_type_and_shape(tmp_path: Path, layers: list[np.ndarray], kind: str) -> None:
    path = tmp_path / kind
    write_trace(path, ((f"layer_{i}", x) for i, x in enumerate(layers)), MANIFEST)
    for found, layer in zip(read_all(path).values(), layers, strict=True):
        np.testing.assert_array_equal(found, layer)
        assert (found.dtype, found.shape) == (layer.dtype, layer.shape)


@few
@given(names=st.lists(st.text(max_size=150), min_size=1, max_size=3, unique=True))
def test_dumps_take_any_name(tmp_path: Path, names: list[str]) -> None:
    names = [name.encode("utf-8", "replace").decode() for name in names]
    if len({*names}) == len(names):
        for kind in KINDS:
            write_dump(tmp_path / kind, ((n, np.array([i])) for i, n in enumerate(names)))
            assert {n: x.item() for n, x in read_all(tmp_path / kind).items()} == {
                n: i for i, n in enumerate(names)
            }


def test_numpy_reads_ours_and_we_read_numpys(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", LAYERS.items(), MANIFEST)
    for name, layer in LAYERS.items():
        np.testing.assert_array_equal(np.load(tmp_path / "t" / f"{name}.npy"), layer)
    write_trace(tmp_path / "t.npz", LAYERS.items(), MANIFEST)
    with np.load(tmp_path / "t.npz") as file:
        np.testing.assert_array_equal(file["stem/conv"], LAYERS["stem/conv"])
    np.savez_compressed(tmp_path / "u.npz", **LAYERS)
    np.savez(tmp_path / "v.npz", **LAYERS)
    fortran = np.asfortranarray(LAYERS["stem/conv"])
    (tmp_path / "w").mkdir()
    np.save(tmp_path / "w" / "stem", fortran)
    for file in ("u.npz", "v.npz"):
        for name, layer in read_all(tmp_path / file).items():
            np.testing.assert_array_equal(layer, LAYERS[name])
    np.testing.assert_array_equal(read_all(tmp_path / "w")["stem"], fortran)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy_and_other_writers_spacing(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    data = np.arange(6, dtype="<f4")
    header = b'{"shape":(2,3,),"fortran_order":False,"descr":"<f4"}   '
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    (tmp_path / "x.npy").write_bytes(
        b"\x93NUMPY" + bytes(version) + length + header + data.tobytes()
    )
    np.testing.assert_array_equal(open_trace(tmp_path)["x"], data.reshape(2, 3))


def test_order_of_names_without_a_manifest(tmp_path: Path) -> None:
    for name in ("10_b", "9_a", "sub/2", "sub/10", "sub/1"):
        (tmp_path / f"{name}.npy").parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.zeros(1))
    (tmp_path / "._9_a.npy").write_bytes(b"what macOS leaves behind")
    (tmp_path / "notes.txt").write_text("not a layer")
    assert open_trace(tmp_path).names == ["9_a", "10_b", "sub/1", "sub/2", "sub/10"]
    np.savez(tmp_path / "x.npz", b=np.zeros(1), a=np.zeros(1))
    assert open_trace(tmp_path / "x.npz").names == ["b", "a"]
    assert sorted(["x10", "x9", "x009"], key=natural)[-1] == "x10"


def test_documented_keys_are_the_written_ones(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "traces.md").read_text()
    example = json.loads(page.split("```json")[1].split("```")[0])
    write_trace(tmp_path / "t", [("logits", np.arange(3))], MANIFEST)
    written = json.loads((tmp_path / "t" / "manifest.json").read_bytes())
    assert {**example, "layers": 0}.keys() == {**written, "layers": 0}.keys()
    assert example["architecture"].keys() == written["architecture"].keys()
    assert example["layers"][0].keys() == written["layers"][0].keys()
    # as somebody may write it, from the page alone
    example["architecture"]["block_strings"] = list(TINY.block_strings)
    example["architecture"]["stem_filters"] = TINY.stem_filters
    (tmp_path / "u" / "stem").mkdir(parents=True)
    values = struct.pack("<2f", 1.5, -2)
    example["layers"] = [{"name": "stem/conv", "shape": [1, 2], "dtype": "float32"}]
    (tmp_path / "u" / "stem" / "conv.npy").write_bytes(crafted("<f4", (1, 2), values))
    (tmp_path / "u" / "manifest.json").write_text(json.dumps(example))
    assert read_all(tmp_path / "u")["stem/conv"].tolist() == [[1.5, -2]]


# -- recording ------------------------------------------------------------------------------------


def test_record(model: Model, path: Path) -> None:
    pixels = synthetic_image(2, 32, 48)
    count = record(model, pixels, path, image_name="drawing", preprocessing="tf")
    layers = dict(model.layers(pixels))
    trace = open_trace(path)
    assert trace.names == list(layers)
    assert count == len(layers)
    for name, layer in layers.items():
        np.testing.assert_array_equal(trace[name], layer)
    manifest = trace.manifest
    assert manifest is not None
    assert manifest.architecture == TINY
    assert manifest.image_shape == (2, 32, 48, 3)
    assert manifest.image_sha256 == image_hash(pixels)
    assert manifest.weights_sha256 == weights_hash(model)
    assert (manifest.image_name, manifest.preprocessing) == ("drawing", "tf")
    assert manifest.made_by.startswith("tinymixnet ")


def test_record_some_layers(model: Model, path: Path) -> None:
    pixels = synthetic_image(1, 32, 48)
    assert record(model, pixels, path, ["blocks_3/se_*", "logits", "blocks_3/se_gate"]) == 7
    names = open_trace(path).names
    assert names == [n for n, _ in model.layers(pixels) if "blocks_3/se" in n or n == "logits"]
    with pytest.raises(InputError, match=r"'blocks_99/[*]'"):
        record(model, pixels, path, ["logits", "blocks_99/*"])
    with pytest.raises(InputError):
        record(model, pixels / 255 - 0.5, path)
    assert open_trace(path).names == names


def test_hashes_are_of_the_values(model: Model) -> None:
    pixels = synthetic_image(1, 32, 48)
    assert image_hash(pixels) == image_hash(pixels.astype(np.float32))
    assert image_hash(pixels) == image_hash(np.asfortranarray(pixels))
    assert image_hash(pixels) != image_hash(pixels[..., ::-1])
    turned = Model(TINY, dict(reversed(model.tensors.items())))
    assert weights_hash(turned) == weights_hash(model)
    other = {**model.tensors, "logits/bias": model.tensors["logits/bias"] + 1}
    assert weights_hash(Model(TINY, other)) != weights_hash(model)


# -- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, InputError("no")])
def test_nothing_half_written_stays(path: Path, failure: Any) -> None:
    def layers() -> Iterator[tuple[str, np.ndarray]]:
        yield "stem/conv", np.zeros(3)
        raise failure

    for _ in range(2):
        with pytest.raises(type(failure) if isinstance(failure, Exception) else failure):
            write_trace(path, layers(), MANIFEST)
        assert os.listdir(path.parent) == [path.name] * path.exists()
        write_trace(path, LAYERS.items(), MANIFEST)  # which the second round has to leave alone
    assert open_trace(path).names == list(LAYERS)


def test_an_older_trace_is_replaced_whole(path: Path) -> None:
    write_trace(path, LAYERS.items(), MANIFEST)
    write_trace(path, [("logits", np.ones(2))], MANIFEST)
    assert open_trace(path).names == ["logits"]
    assert os.listdir(path.parent) == [path.name]
    if path.is_dir():
        assert sorted(os.listdir(path)) == ["logits.npy", "manifest.json"]
        assert stat.S_IMODE(path.stat().st_mode) & 0o500 == 0o500


def test_anything_else_is_not_replaced(path: Path) -> None:
    def refused() -> None:
        with pytest.raises(TraceError, match=r"something else|is a folder") as caught:
            write_trace(path, LAYERS.items(), MANIFEST)
        assert str(caught.value).startswith(str(path))

    path.write_text("my thesis")
    refused()
    assert path.read_text() == "my thesis"
    path.unlink()
    path.mkdir()
    (path / "thesis.npy").write_bytes(npy(np.zeros(3)))
    refused()
    (path / "thesis.npy").unlink()
    if path.suffix != ".npz":
        write_trace(path, LAYERS.items(), MANIFEST)  # an empty folder is nothing
        (path / "thesis.txt").touch()
        refused()
        assert (path / "thesis.txt").exists()
    else:
        path.rmdir()
        np.savez(path, a=np.zeros(3))
        refused()


def test_what_cannot_be_written(path: Path) -> None:
    def refused(layers: list[tuple[str, np.ndarray]], message: str, where: Path = path) -> None:
        with pytest.raises(TraceError, match=message):
            write_trace(where, layers, MANIFEST)
        assert os.listdir(path.parent) == []

    one = np.zeros(1)
    for array in (np.array(["a"]), np.array([None]), np.zeros(1, "c8"), np.zeros(1, "f4,i4")):
        refused([("a", array)], "a: ")
    refused([("a", one), ("a", one)], "a: ")
    for name in ("../a", "/a", "a//b", "a/../../b", "", "C:a", "a\\b", "a\0b"):
        refused([(name, one)], "outside|may lie")
    refused([("a" * 300, one)] if path.suffix != ".npz" else [("../a", one)], "not written|cannot")
    refused([("a", one)], "no folder", path.parent / "no" / path.name)
    refused([("a", one)], "a folder or a .npz", path.with_suffix(".h5"))


def test_memory_of_one_layer(path: Path) -> None:
    """Writing and reading eight layers of 4 MB takes little more than one."""
    size = 1 << 22

    def layers() -> Iterator[tuple[str, np.ndarray]]:
        for i in range(8):
            yield f"layer_{i}", np.full(size // 4, i, np.float32)

    tracemalloc.start()
    try:
        write_trace(path, layers(), MANIFEST)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        trace = open_trace(path)
        for name in trace.names:
            assert trace[name][-1] == int(name[-1])
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < 2.7 * size  # the next one is made before the last is let go
    assert read < 1.7 * size


# -- damaged and hostile files --------------------------------------------------------------------


def test_every_byte_and_every_length_of_a_npy(tmp_path: Path) -> None:
    good = npy(np.arange(5, dtype=np.float32))
    start = len(good) - 20
    file = tmp_path / "x.npy"
    for cut in range(len(good)):
        file.write_bytes(good[:cut])
        assert_refused(tmp_path, "x.npy: ")
    for i in range(start):
        for flip in (0x01, 0x20, 0xFF):
            file.write_bytes(good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :])
            try:
                found = read_all(tmp_path)["x"]
            except TraceError:
                continue
            assert found.nbytes == 20  # another type of the same size, or a space less
    file.write_bytes(good + b"\0")
    assert_refused(tmp_path, "there are 21")


def test_every_byte_and_every_length_of_a_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(np.arange(5, dtype=np.float32)))
    good = path.read_bytes()
    for cut in range(len(good)):
        path.write_bytes(good[:cut])
        assert_refused(path)
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x15]) + good[i + 1 :])
        try:
            found = read_all(path)
        except TraceError:
            continue
        for array in found.values():
            np.testing.assert_array_equal(array, np.arange(5))


def test_every_byte_and_every_length_of_a_manifest(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", [("logits", np.arange(3))], MANIFEST)
    file = tmp_path / "t" / "manifest.json"
    good = file.read_bytes().rstrip()
    for cut in range(0, len(good), 5):
        file.write_bytes(good[:cut])
        assert_refused(tmp_path / "t", "manifest.json: ")
    for i in range(len(good)):
        file.write_bytes(good[:i] + bytes([good[i] ^ 0x12]) + good[i + 1 :])
        try:
            found = read_all(tmp_path / "t")
        except TraceError:
            pass
        else:  # a name or a number in it is another one, the data is not
            for array in found.values():
                np.testing.assert_array_equal(array, np.arange(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .npy"),
        (b"\x80\x04\x95pickle", "not a .npy"),
        (npy(np.zeros(4))[:-1], "32 bytes, there are 31"),
        (crafted("|O", (1,), b"\x80\x04N."), "refused, of type"),
        (crafted([("a", "<f4")], (1,), b"1234"), "refused, of type"),
        (crafted("<c8", (1,), b"12345678"), "refused, of type"),
        (crafted("<U1", (1,), b"1234"), "refused, of type"),
        (crafted("<M8[s]", (1,), b"12345678"), "refused, of type"),
        (crafted("<f4,<f4", (1,), b"12345678"), "refused, of type"),
        (crafted(4, (1,)), "refused, of type"),
        (crafted("<f4", (10**5, 10**6)), "there are 0"),
        (crafted("<f4", (1 << 62, 4)), "of shape"),
        (crafted("<f4", (-1,)), "of shape"),
        (crafted("<f4", (-2, -2), b"0" * 16), "of shape"),
        (crafted("<f4", (True,), b"1234"), "of shape"),
        (crafted("<f4", (1.0,), b"1234"), "of shape"),
        (crafted("<f4", (1,) * 40, b"1234"), "of shape"),
        (crafted("<f4", 1, b"1234"), "header"),
        (crafted("<f4", (1,), b"1234", fortran=2), "header"),
        (b"\x93NUMPY\x01\x00\x05\x00[[[[[", "header"),
        (b"\x93NUMPY\x01\x00\xa0\x0f" + b"(" * 4000, "header"),
        (b"\x93NUMPY\x01\x00\xa0\x0f" + b"9" * 4000, "header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "bytes"),
        (b"\x93NUMPY\x01\x00\x0a\x00'\\d\\d\\d' ", "header"),
    ],
)
def test_hostile_npy(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    tracemalloc.start()
    try:
        assert_refused(tmp_path, message)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    assert_refused(tmp_path / "x.npz", message)


def test_a_file_with_a_hole_is_not_allocated(tmp_path: Path) -> None:
    with open(tmp_path / "x.npy", "wb") as file:
        file.write(crafted("<f4", (1 << 30, 2)))
        file.truncate(file.tell() + (1 << 33))
    assert_refused(tmp_path, "a layer asks for 8,589,934,592")


def test_a_bomb_in_a_zip(tmp_path: Path) -> None:
    """A member whose directory entry says 3 GB, in a file of a kilobyte."""
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", crafted("<f4", (750_000_000,), bytes(1000)))
    data = path.read_bytes()
    entry = data.index(b"PK\x01\x02")
    path.write_bytes(data[: entry + 24] + struct.pack("<I", 3_000_000_000) + data[entry + 28 :])
    tracemalloc.start()
    try:
        assert_refused(path, "cannot unpack to 3,000,0")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", npy(np.zeros(3)))
    assert_refused(path, "two members")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(np.zeros(3)))
    assert_refused(path, "neither stored nor deflated")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "x")
    assert_refused(path, "no layers")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected version 1, found 2"),
        ({"format": "other"}, "expected format"),
        ({"layers": {}}, "layers: expected list"),
        ({"layers": []}, "no layers"),
        ({"layers": [3]}, "layers: expected objects"),
        ({"layers": [{"name": "logits", "shape": [2], "dtype": "int64"}]}, r"\(2,\)"),
        ({"layers": [{"name": "logits", "shape": [3], "dtype": "float32"}]}, "float32"),
        ({"layers": [{"name": "head/act", "shape": [3], "dtype": "int64"}]}, "head/act.npy"),
        ({"layers": [{"name": "logits", "shape": [3], "dtype": "int64"}] * 2}, "twice"),
        ({"layers": [{"name": "../secret", "shape": [3], "dtype": "int64"}]}, "outside"),
        ({"layers": [{"name": "/etc/secret", "shape": [3], "dtype": "int64"}]}, "outside"),
        (
            {"layers": [{"name": "a", "file": "../secret.npy", "shape": [3], "dtype": "int64"}]},
            "outside",
        ),
        (
            {"layers": [{"name": "a", "file": "..\\secret.npy", "shape": [3], "dtype": "int64"}]},
            "outside",
        ),
        ({"architecture": None}, "architecture: expected dict"),
        ({"epsilon": "NaN"}, "epsilon: expected float"),
        ({"epsilon": float("nan")}, "not JSON"),
        ({"mean": [1, 2]}, "mean: expected 3"),
        ({"mean": [1, 2, None]}, "mean: expected float"),
        ({"image_shape": [1, 0, 3, 3]}, "image_shape"),
        ({"image_shape": [1, 1 << 40, 3, 3]}, "image_shape"),
        ({"layout": "NCHW"}, "layout"),
        ({"image_name": 3}, "image_name: expected str"),
    ],
)
def test_lying_manifests(path: Path, change: dict[str, Any], message: str) -> None:
    np.save(path.parent / "secret.npy", np.arange(3))
    write_trace(path, [("logits", np.arange(3))], MANIFEST)
    replace_manifest(path, json.dumps({**manifest_of(path), **change}).encode())
    assert_refused(path, message)


def manifest_of(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return json.loads((path / "manifest.json").read_bytes())
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("manifest.json"))


def replace_manifest(path: Path, data: bytes) -> None:
    if path.is_dir():
        (path / "manifest.json").write_bytes(data)
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "manifest.json": data}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"version": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"[]", "expected format"),
        (b'"tinymixnet trace"', "expected format"),
        (b'{"format": ["tinymixnet trace"]}', "expected format"),
        (b"{}" + b" " * (1 << 22), "refused"),
    ],
)
def test_bad_manifests(path: Path, data: bytes, message: str) -> None:
    write_trace(path, [("logits", np.arange(3))], MANIFEST)
    replace_manifest(path, data)
    assert_refused(path, message)


def test_network_of_a_manifest_is_checked(path: Path) -> None:
    write_trace(path, [("logits", np.arange(3))], MANIFEST)
    manifest = manifest_of(path)
    good = manifest["architecture"]
    for change, message in (
        ({"block_strings": ["r1_k3"]}, "block string"),
        ({"block_strings": good["block_strings"] * 50}, "blocks"),
        ({"classes": 0}, "classes"),
        ({"classes": True}, "classes: expected int"),
        ({"stem_filters": 10**12}, "stem_filters: expected int"),
        ({"stem_filters": 10**400}, "not JSON"),
        ({"multiplier": float("inf")}, "not JSON"),
        ({"multiplier": 1e300}, "multiplier"),
    ):
        changed = {**manifest, "architecture": {**good, **change}}
        replace_manifest(path, json.dumps(changed).encode())
        assert_refused(path, message)
    replace_manifest(path, json.dumps({**manifest, "epsilon": 1, "mean": [0, 0, 0]}).encode())
    assert read_all(path)["logits"].tolist() == [0, 1, 2]  # other languages write 1 for 1.0


def test_what_is_no_trace(tmp_path: Path) -> None:
    assert_refused(tmp_path, "no layers")
    assert_refused(tmp_path / "no", "no such file")
    for name, data in (("a.npz", b"x"), ("b.h5", b"\x89HDF\r\n\x1a\nx"), ("c", b"")):
        (tmp_path / name).write_bytes(data)
        assert_refused(tmp_path / name, "not a trace|cannot be read|damaged")
    (tmp_path / "x.npy").write_bytes(npy(np.zeros(3)))
    assert_refused(tmp_path / "x.npy", "give the folder")
    with pytest.raises(TraceError, match="no layer 'y'"):
        open_trace(tmp_path)["y"]


def test_special_files_and_links(tmp_path: Path) -> None:
    """A pipe would block whoever opens it, a link to a folder above would never end."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.npy")
    os.symlink("/dev/zero", tmp_path / "zero.npy")
    os.symlink(tmp_path, tmp_path / "again")
    np.save(tmp_path / "x.npy", np.zeros(3))
    reader = threading.Thread(target=lambda: assert_refused(tmp_path / "pipe", "neither"))
    reader.daemon = True
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    assert open_trace(tmp_path).names == ["x"]


# -- HDF5 -----------------------------------------------------------------------------------------

h5py = pytest.importorskip("h5py")


def test_h5_of_other_people(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 20, 33, 5)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a/b_10/c", data=x, compression="gzip", chunks=(1, 7, 16, 3))
        file.create_dataset("a/b_2/c", data=x.astype(">f8"), shuffle=True, compression="gzip")
        file["half"] = x.astype(np.float16)
        file.create_dataset("plain", data=x, chunks=(1, 20, 10, 5))
        file["scalar"] = np.float32(3)
    with open(tmp_path / "x.h5", "rb") as stream:
        assert stream.read(4) == b"\x89HDF"
    found = read_all(tmp_path / "x.h5")
    assert list(found) == ["a/b_2/c", "a/b_10/c", "half", "plain", "scalar"]
    for name in ("a/b_2/c", "a/b_10/c", "plain"):
        np.testing.assert_array_equal(found[name], x, err_msg=name)
    assert found["half"].dtype == np.float16


@pytest.mark.parametrize(
    "what", ["soft", "external", "virtual", "text", "compound", "lzf", "outside", "holes", "huge"]
)
def test_hostile_h5(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.h5"
    (tmp_path / "secret").write_bytes(b"secret" * 100)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    with h5py.File(path, "w") as file:
        if what == "soft":
            file["x"] = h5py.SoftLink("/x")
        elif what == "external":
            file["x"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        elif what == "virtual":
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3,))
            file.create_virtual_dataset("x", layout)
        elif what == "text":
            file["x"] = ["a", "b"]
        elif what == "compound":
            file["x"] = np.zeros(3, "f4,i4")
        elif what == "lzf":
            file.create_dataset("x", data=np.zeros(300), compression="lzf")
        elif what == "outside":
            place = [(str(tmp_path / "secret"), 0, 24)]
            file.create_dataset("x", (6,), "f4", external=place)
        elif what == "holes":
            file.create_dataset("x", (4000,), "f4", chunks=(1000,))[:1000] = 1
        else:
            file.create_dataset("x", (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip")
    assert_refused(path, "refused|damaged")


def test_h5_groups_inside_themselves(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/x"] = np.zeros(3)
        file["a/b"] = file["a"]
    assert_refused(tmp_path / "x.h5", "groups in themselves|refused")


def test_damaged_h5(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(64.0), compression="gzip")
    good = path.read_bytes()
    for cut in range(0, len(good), 499):  # each is read by a process; test_hdf5.py has many more
        path.write_bytes(good[:cut])
        assert_refused(path)
    packed = good.index(b"\x78\x5e") if b"\x78\x5e" in good else good.index(b"\x78\x9c")
    path.write_bytes(good[: packed + 20] + b"\xff" * 8 + good[packed + 28 :])
    assert_refused(path, "x: ")


@pytest.mark.parametrize(
    "given",
    [
        ["--layers", "stem/*", "logits"],
        ["--layers", "stem/*", "--layers", "logits"],
        ["--layers=stem/*", "--layers=logits"],
    ],
)
def test_the_command_takes_layers_together_or_one_by_one(tmp_path, given):
    np.save(tmp_path / "pixels.npy", synthetic_image(1, 64, 64))
    arguments = ["trace", str(tmp_path / "pixels.npy"), "-o", str(tmp_path / "trace"), *given]
    assert main(arguments) == 0
    assert open_trace(tmp_path / "trace").names == ["stem/conv", "stem/bn", "stem/act", "logits"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patterns", np.array("*")), ("patterns", "*"), ("image_name", 5), ("preprocessing", None),
        ("inputs", None), ("inputs", "photo.jpg"), ("force", np.zeros(2)), ("force", "no"),
    ],
)  # fmt: skip
def test_record_with_arguments_of_wrong_types(
    model: Model, tmp_path: Path, name: str, value: Any
) -> None:
    pixels = synthetic_image(1, 32, 32)
    with pytest.raises(InputError, match=name):
        record(model, pixels, tmp_path / "trace", **{name: value})
    assert not [*tmp_path.iterdir()]
