"""The reader of .safetensors files against the package of that name, and hostile headers."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.formats.safetensors import MAX_HEADER_BYTES, MAX_TENSORS, open_safetensors

numpy_files = pytest.importorskip("safetensors.numpy")

same_folder = settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


def write(path, header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def assert_refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        open_safetensors(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 600
    for word in words:
        assert word in message


@same_folder
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10).filter(
            lambda name: name != "__metadata__"
        ),
        st.sampled_from(TYPES).flatmap(
            lambda dtype: numpy_st.arrays(np.dtype(dtype), numpy_st.array_shapes(min_side=0))
        ),
        max_size=6,
    ),
    st.dictionaries(st.text("abc\n", max_size=5), st.text("xyz\n", max_size=5), max_size=3),
)
def test_reads_what_the_package_writes(tmp_path, tensors, notes):
    path = tmp_path / "model.safetensors"
    numpy_files.save_file(tensors, path, metadata=notes or None)
    file = open_safetensors(path)
    assert file.notes == notes
    assert sorted(file.tensors) == sorted(tensors)
    for name, tensor in tensors.items():
        assert file.tensors[name][:2] == (tensor.dtype.name, tensor.shape)
        values = file.read(name)
        assert (values.dtype, values.shape) == (tensor.dtype, tensor.shape)
        assert values.tobytes() == tensor.tobytes()


def test_bfloat16_is_widened_exactly(tmp_path):
    expected = np.array([[1.0, -2.5], [np.inf, 0.0078125], [3e-39, -0.0]], np.float32)
    expected = (expected.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    bits = (expected.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write(tmp_path / "model.safetensors", {"x": entry("BF16", (3, 2), (0, 12))}, bits)
    file = open_safetensors(path)
    assert file.tensors["x"].dtype == "bfloat16"
    assert file.read("x").dtype == np.float32
    assert file.read("x").tobytes() == expected.tobytes()
    path = write(tmp_path / "model.safetensors", {"x": entry("BF16", (), (0, 2))}, b"\x80\x3f")
    assert isinstance(open_safetensors(path).read("x"), np.ndarray)
    assert open_safetensors(path).read("x") == 1


def test_bfloat16_as_pytorch_writes_it(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensor = torch.tensor([1.0, -3.14159, 1e30, 1e-30]).bfloat16()
    save_file({"x": tensor, "y": torch.ones(3, dtype=torch.int64)}, tmp_path / "m.safetensors")
    file = open_safetensors(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(file.read("x"), tensor.float().numpy())
    np.testing.assert_array_equal(file.read("y"), [1, 1, 1])


VALUES = bytes(8)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"x": entry("F8_E4M3", (8,))}, "'x' is of type 'F8_E4M3'"),
        ({"x": entry("f32")}, "of type 'f32'"),
        ({"x": entry(["F32"])}, "of type"),
        ({"x": entry(7)}, "of type '7'"),
        ({"x": entry(shape=(3,))}, "has 8 bytes instead of 12"),
        ({"x": entry(shape=(-2,))}, "impossible shape"),
        ({"x": entry(shape=(1 << 62, 1 << 62))}, "impossible shape"),
        ({"x": entry(shape=(0, 1 << 62), offsets=(0, 0))}, "impossible shape"),
        ({"x": entry(shape=(True, 2))}, "impossible shape"),
        ({"x": entry(shape=("2",))}, "impossible shape"),
        ({"x": entry(shape=(1,) * 33)}, "impossible shape"),
        ({"x": {**entry(), "shape": 2}}, "impossible shape"),
        (b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "the number NaN"),
        (b'{"x":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', "the number 2.0"),
        (b'{"x":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}', "the number 1e400"),
        (b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 10**6), "digits"),
        ({"x": entry(offsets=(0, 16))}, "has 16 bytes instead of 8"),
        ({"x": entry(offsets=(8, 0))}, "instead of 8"),
        ({"x": entry(offsets=(8, 16))}, "begins at byte"),
        ({"x": entry(offsets=(-8, 0))}, "impossible data_offsets"),
        ({"x": entry(offsets=(0,))}, "impossible data_offsets"),
        ({"x": entry(offsets=(0, 4, 8))}, "impossible data_offsets"),
        ({"x": entry(), "y": entry()}, "begins at byte"),
        ({"x": entry(shape=(1,), offsets=(0, 4))}, "the file at"),
        ({"x": entry(shape=(1,), offsets=(4, 8))}, "begins at byte"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "needs dtype, shape"),
        ({"x": {**entry(), "more": 1}}, "needs dtype, shape"),
        ({"x": [entry()]}, "needs dtype, shape"),
        ({"x": {}}, "needs dtype, shape"),
        ({"__metadata__": {"a": 1}, "x": entry()}, "__metadata__"),
        ({"__metadata__": [1], "x": entry()}, "__metadata__"),
        ({"__metadata__": {"a": {"b": "c"}}, "x": entry()}, "__metadata__"),
        (b'{"x":{},"x":{}}', "stands twice"),
        (b'{"x":{"dtype":"F32","dtype":"F32"}}', "stands twice"),
        (b'{"x":' * 100_000, "not a safetensors file"),
        (b"[" * 100_000, "no header in it"),
        (b'{"x":' + b"[" * 100_000, "not a safetensors file"),
        (b'{"x":1} {}', "not a safetensors file"),
        (b'{"\xff":1}', "not a safetensors file"),
        (b'{"x', "not a safetensors file"),
        (b"{}", "end at byte"),
        ({"\x1b[2J\n": entry("X")}, r"'\x1b[2J\n' is of type"),
        ({"x" * 100_000: entry("y" * 100_000)}, "is of type"),
        ({str(n): 1 for n in range(MAX_TENSORS + 1)}, "20,001 tensors"),
    ],
)
def test_broken_header(tmp_path, header, words):
    assert_refused(write(tmp_path / "model.safetensors", header, VALUES), words)


@pytest.mark.parametrize("length", [0, 1, 9, MAX_HEADER_BYTES + 1, 1 << 30, 1 << 63, (1 << 64) - 1])
def test_length_of_the_header_that_is_a_lie(tmp_path, length):
    content = struct.pack("<Q", length) + b'{"x":1}'
    (tmp_path / "model.safetensors").write_bytes(content)
    assert_refused(tmp_path / "model.safetensors")
    with open(tmp_path / "model.safetensors", "ab") as file:
        file.truncate(1 << 29)  # a file with a hole, which takes no room on the disk
    assert_refused(tmp_path / "model.safetensors")


def test_file_larger_than_the_budget(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.truncate(budget.weights_file_bytes + 1)
    assert_refused(tmp_path / "model.safetensors", "TINYMIXNET_BUDGET=weights_file_bytes")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no header"),
        (b"\x10", "no header"),
        (b"\xff" * 64, "no header"),
        (b"PK\x03\x04" + bytes(22) + b"\x10\0\0\0archive/data.pkl", "a PyTorch file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"<!DOCTYPE html><html>", "a web page: the download failed"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert_refused(tmp_path / "model.safetensors", words)


def test_what_is_no_file(tmp_path):
    assert_refused(tmp_path, "is a folder")
    assert_refused(tmp_path / "none", "is missing")
    with pytest.raises(CheckpointError):
        open_safetensors(f"{tmp_path}/a\0b")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert_refused(tmp_path / "pipe", "not a plain file")


def test_file_that_was_cut_after_it_was_opened(tmp_path):
    path = write(tmp_path / "model.safetensors", {"x": entry()}, VALUES)
    file = open_safetensors(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="the file ends inside 'x'"):
        file.read("x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
sizes = st.integers(-2, 16) | st.sampled_from([1 << 31, 1 << 32, 1 << 63, 1 << 64])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "I8", "BOOL", "F64"]) | json_values,
        "shape": st.lists(sizes, max_size=3) | json_values,
        "data_offsets": st.lists(sizes, min_size=2, max_size=2) | json_values,
    }
)


@same_folder
@given(
    st.dictionaries(
        st.sampled_from(["x", "y", "z", "__metadata__"]), entries | json_values, max_size=4
    ).map(lambda header: json.dumps(header).encode())
    | st.binary(max_size=60),
    st.integers(0, 20),
    st.integers(-3, 3),
)
def test_any_header(tmp_path, header, size, more):
    """Whatever the header says, the file is refused or every tensor can be read as promised."""
    path = tmp_path / "model.safetensors"
    length = max(0, len(header) + more)
    path.write_bytes(struct.pack("<Q", length) + header + bytes(range(size)))
    file, refusal = None, ""
    try:
        file = open_safetensors(path)
    except CheckpointError as error:
        refusal = str(error)
    assert refusal.isprintable()
    if not file:
        return
    assert sum(stored.size for stored in file.tensors.values()) == size - more
    for name, stored in file.tensors.items():
        assert file.read(name).shape == stored.shape
