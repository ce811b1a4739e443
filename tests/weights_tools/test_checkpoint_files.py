"""Where a checkpoint is: a prefix, a folder, or an archive; and what files of other formats are."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.weights_tools.checkpoints import (
    assert_fails,
    assert_right_or_refused,
    assert_same,
    read_all,
    same_folder,
)
from tinymixnet.engine.budget import budget
from weights_tools.formats import checkpoint_files
from weights_tools.formats import checkpoint_writer as writer
from weights_tools.formats.checkpoint_writer import (
    message,
    shape_message,
    write_checkpoint,
)


@pytest.mark.parametrize("end", ["", ".index", ".data-00001-of-00002", ".meta"])
def test_path_may_be_the_prefix_or_one_of_its_files(prefix, tensors, end) -> None:
    write_checkpoint(prefix, tensors, shards=2)
    assert_same(read_all(Path(f"{prefix}{end}")), tensors)
    assert_same(read_all(f"{prefix}{end}"), tensors)


def test_path_may_be_a_folder_or_its_state_file(tmp_path, tensors) -> None:
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    write_checkpoint(folder / "model.ckpt", tensors, shards=2)
    assert_same(read_all(folder), tensors)
    assert_same(read_all(f"{folder.parent}/"), tensors)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    assert_same(read_all(folder), tensors)
    assert_same(read_all(folder / "checkpoint"), tensors)


@pytest.mark.parametrize(
    "line",
    [
        'model_checkpoint_path: "b\\303\\251-2"',
        'model_checkpoint_path: "b\u00e9-2"',
        'model_checkpoint_path: "/trained/on/a/tpu/b\\303\\251-2"',
        'model_checkpoint_path: "gs://bucket/run/b\\303\\251-2"',
        'model_checkpoint_path: "C:\\\\run\\\\b\\303\\251-2"',
        'all_model_checkpoint_paths: "a-1"\n  model_checkpoint_path:"b\\303\\251-2"',
    ],
)
def test_state_file_chooses_among_checkpoints(tmp_path, tensors, line) -> None:
    write_checkpoint(tmp_path / "a-1", {"other": np.zeros(3, np.float32)})
    write_checkpoint(tmp_path / "b\u00e9-2", tensors)
    (tmp_path / "checkpoint").write_text(line, "utf-8")
    assert_same(read_all(tmp_path), tensors)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no model_checkpoint_path"),
        (b"\x00\xff", "names no model_checkpoint_path"),
        (b'model_checkpoint_path: "no end', "names no model_checkpoint_path"),
        (b'model_checkpoint_path: "\xff"', "not UTF-8"),
        (b'model_checkpoint_path: "\\377"', "not UTF-8"),
        (b'model_checkpoint_path: "run/"', "names a folder"),
        (b'model_checkpoint_path: "gone"', "gone.index is missing"),
        (b'model_checkpoint_path: "a\\000b"', "a\0b.index is missing"),
        (b'model_checkpoint_path: ".."', "missing"),
    ],
)
def test_bad_state_file(tmp_path, content, words) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    assert_fails(tmp_path, words)


def test_several_checkpoints_are_listed(tmp_path, tensors) -> None:
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, tensors)
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name / name, tensors)
    assert_fails(tmp_path, "2 checkpoints", str(tmp_path / "a.index"), str(tmp_path / "b.index"))
    for name in ("a", "b"):
        (tmp_path / f"{name}.index").unlink()
    assert_fails(tmp_path, "2 checkpoints", str(tmp_path / "a" / "a.index"))


def test_hidden_files_are_no_checkpoints(tmp_path, tensors) -> None:
    write_checkpoint(tmp_path / "model.ckpt", tensors)
    (tmp_path / "._model.ckpt.index").write_bytes(b"metadata of macOS")
    assert_same(read_all(tmp_path), tensors)


def test_missing_files(tmp_path, prefix, tensors) -> None:
    write_checkpoint(prefix, tensors, shards=2)
    last = tmp_path / "model.ckpt.data-00001-of-00002"
    last.unlink()
    assert_fails(prefix, "model.ckpt.data-00001-of-00002 is missing")
    last.mkdir()
    assert_fails(prefix, "model.ckpt.data-00001-of-00002 is a folder")
    (tmp_path / "model.ckpt.index").unlink()
    assert_fails(prefix, "there is no such file")
    assert_fails(tmp_path / "model.ckpt.index", "there is no such file")
    assert_fails(tmp_path / "model.ckpt.data-00000-of-00002", "without its index")
    assert_fails(tmp_path / "nowhere" / "model.ckpt", "there is no such file")
    assert_fails(tmp_path, "no *.index in this folder")


def test_empty_folder_and_impossible_paths(tmp_path) -> None:
    assert_fails(tmp_path, "no *.index in this folder")
    assert_fails(str(tmp_path / "a\0b"))
    assert_fails(str(tmp_path / "\udcff"))
    assert_fails(str(tmp_path / ("x" * 5000)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_are_not_waited_for(tmp_path, prefix, tensors) -> None:
    os.mkfifo(prefix)
    assert_fails(prefix, "not a plain file")
    write_checkpoint(prefix, tensors)
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    os.mkfifo(tmp_path / "model.ckpt.data-00000-of-00001")
    assert_fails(prefix, "not a plain file")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        ("broken.h5", b"", "empty or damaged HDF5 file"),
        ("model.keras", b"PK\x03\x04" + bytes(100), "a Keras model"),
        ("model.zip", b"PK\x03\x04" + bytes(22) + b"\x0d\0\0\0metadata.json", "a Keras model"),
        ("model.pth", b"PK\x03\x04" + bytes(100), "a PyTorch file"),
        ("m.ckpt", b"PK\x03\x04" + bytes(22) + b"\x0a\0\0\0m/data.pkl", "a PyTorch file; turn"),
        ("model.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file"),
        ("model.pth", b"nonsense", "a PyTorch file"),
        ("model.pkl", b"\x80\x04\x95", "a Python pickle"),
        ("arrays.npz", b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0x.npy", "NumPy arrays"),
        ("array.npy", b"\x93NUMPY\x01\0", "NumPy arrays"),
        ("files.zip", b"PK\x03\x04" + bytes(22) + b"\x05\0\0\0a.txt", "a zip file"),
        ("model.onnx", b"\x08\x08\x12\x07pytorch", "an ONNX model"),
        ("frozen.pb", b"\n\x05graph", "turn it into weights with"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("m.safetensors", b'\x10\0\0\0\0\0\0\0{"x":{}}', "weights_tools convert"),
        ("model.gguf", b"GGUF\3", "GGUF"),
        ("model.tar.xz", b"\xfd7zXZ\0", "unpack it first"),
        ("model.tar.bz2", b"BZh91AY", "unpack it first"),
        ("photo", b"\xff\xd8\xff\xe0", "a picture"),
        ("mixnet-l", b"\n <!DOCTYPE html><html>", "a web page: the download failed"),
        ("mixnet-s", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("index.json", b"{}", "JSON"),
        ("text", b"hello", "not a TensorFlow checkpoint"),
        ("empty", b"", "not a TensorFlow checkpoint"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_bytes(content)
    assert_fails(tmp_path / name, words, "expected PREFIX.index")


def test_saved_model_is_named(tmp_path) -> None:
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    write_checkpoint(tmp_path / "saved" / "variables" / "variables", {})
    assert_fails(tmp_path / "saved", "SavedModel, not a checkpoint")


def version_1_table() -> bytes:
    meta = message((1, message((1, b"x"), (2, shape_message((3,))))))
    return writer.table([(b"", message((1, meta))), (b"\0x", message((2, b"data")))])


def test_version_1_is_named_with_the_way_out(prefix) -> None:
    prefix.write_bytes(version_1_table())
    assert_fails(prefix, "version 1", "save it again")
    Path(f"{prefix}.index").write_bytes(version_1_table())
    assert_fails(prefix, "version 1", "save it again")


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt-00000-of-00002"])
def test_version_1_in_a_folder(tmp_path, state, name) -> None:
    (tmp_path / name).write_bytes(version_1_table())
    (tmp_path / "model.ckpt.meta").write_bytes(b"a graph")
    if state:
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
        assert_fails(tmp_path / "checkpoint", "version 1", "save it again")
    assert_fails(tmp_path, "version 1", "save it again")
    assert_fails(tmp_path / "model.ckpt", "version 1", "save it again")
    assert_fails(tmp_path / name, "version 1", "save it again")


def test_folder_of_too_many_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_files, "MAX_FOLDER_ENTRIES", 20)
    for number in range(20):
        (tmp_path / str(number)).touch()
    assert_fails(tmp_path, "no *.index in this folder")
    (tmp_path / "20").touch()
    assert_fails(tmp_path, "more than 20 files here")
    for number in range(21):
        (tmp_path / str(number)).unlink()
    for number in range(3):
        (tmp_path / f"folder {number}").mkdir()
        for file in range(10):
            (tmp_path / f"folder {number}" / str(file)).touch()
    assert_fails(tmp_path, "more than 20 files here")


# -- archives -------------------------------------------------------------------------------------


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz", **how) -> None:
    with tarfile.open(path, mode, **how) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def members(tmp_path, tensors) -> dict[str, bytes]:
    """The files of an official archive: name in the archive to content."""
    folder = tmp_path / "official"
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt", tensors)
    return {
        "mixnet-l/checkpoint": b'model_checkpoint_path: "model.ckpt"\n',
        "mixnet-l/model.ckpt.data-00000-of-00001": (
            (folder / "model.ckpt.data-00000-of-00001").read_bytes()
        ),
        "mixnet-l/model.ckpt.index": (folder / "model.ckpt.index").read_bytes(),
        "mixnet-l/model.ckpt.meta": b"a graph" * 1000,
    }


@pytest.mark.parametrize(
    ("name", "mode"),
    [("m.tar.gz", "w:gz"), ("m.tgz", "w:gz"), ("m.tar", "w"), ("m", "w:gz"), ("m", "w")],
)
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_the_official_layout(tmp_path, members, tensors, name, mode, layout) -> None:
    write_tar(tmp_path / name, members, mode, format=layout, pax_headers={"comment": "x" * 600})
    before = sorted(tmp_path.rglob("*"))
    assert_same(read_all(tmp_path / name), tensors)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["", "./", "/", "../../", "a/../b/", "mixnet-l/"])
def test_names_in_an_archive_lead_nowhere(tmp_path, members, tensors, folder) -> None:
    moved = {folder + name.rpartition("/")[2]: data for name, data in members.items()}
    archive = tmp_path / "two" / "folders" / "m.tar.gz"
    archive.parent.mkdir(parents=True)
    write_tar(archive, {"mixnet-l/._model.ckpt.index": b"metadata", **moved})
    before = sorted(tmp_path.rglob("*"))
    assert_same(read_all(archive), tensors)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S", b"7"])
def test_only_plain_files_of_an_archive_count(tmp_path, members, kind) -> None:
    for lost in ("mixnet-l/model.ckpt.index", "mixnet-l/model.ckpt.data-00000-of-00001"):
        with tarfile.open(tmp_path / "m.tar", "w") as tar:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                if name == lost:
                    member.type, member.linkname, member.size = kind, "/etc/passwd", 0
                tar.addfile(member, io.BytesIO(content))
        assert_fails(tmp_path / "m.tar", "archive")


def test_archives_of_no_or_several_checkpoints(tmp_path, members) -> None:
    write_tar(tmp_path / "none.tar.gz", {"mixnet-l/readme": b"hello"})
    assert_fails(tmp_path / "none.tar.gz", "no *.index")
    write_tar(tmp_path / "empty.tar.gz", {})
    assert_fails(tmp_path / "empty.tar.gz", "no *.index")
    again = {name.replace("mixnet-l", "mixnet-s"): data for name, data in members.items()}
    write_tar(tmp_path / "two.tar.gz", {**members, **again})
    assert_fails(tmp_path / "two.tar.gz", "2 checkpoints", "mixnet-s/model.ckpt.index")
    del members["mixnet-l/model.ckpt.data-00000-of-00001"]
    write_tar(tmp_path / "half.tar.gz", members)
    assert_fails(tmp_path / "half.tar.gz", ".data-00000-of-00001")


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"<html></html>", bytes(range(256))])
def test_what_is_called_an_archive_but_is_none(tmp_path, content) -> None:
    for name in ("m.tar.gz", "m.tgz", "m.tar"):
        (tmp_path / name).write_bytes(content)
        assert_fails(tmp_path / name)
        (tmp_path / name).write_bytes(gzip.compress(content))
        assert_fails(tmp_path / name)


@pytest.mark.parametrize("member", ["mixnet-l/model.ckpt.index", "other", "pax"])
@pytest.mark.parametrize("size", [1 << 60, (512 << 20) + 1, 511 << 20, -512, -1 << 60])
def test_member_that_lies_about_its_size(tmp_path, member, size) -> None:
    header = tarfile.TarInfo(member)
    header.size = size
    header.type = tarfile.XHDTYPE if member == "pax" else tarfile.REGTYPE
    start = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "m.tar").write_bytes(start + bytes(2000))
    (tmp_path / "m.tar.gz").write_bytes(gzip.compress(start + bytes(2000)))
    assert_fails(tmp_path / "m.tar", "ends too early" if size > 0 else "impossible size")
    words = "impossible size" if size < 0 else "unpacks to" if size < 512 << 20 else "checkpoint"
    assert_fails(tmp_path / "m.tar.gz", words)


def test_archive_that_unpacks_without_end(tmp_path, monkeypatch, members) -> None:
    monkeypatch.setattr(budget, "checkpoint_bytes", 1 << 20)
    zeros = {f"zeros-{number}": bytes(300 << 10) for number in range(4)}
    write_tar(tmp_path / "m.tar.gz", {**zeros, **members})
    assert (tmp_path / "m.tar.gz").stat().st_size < 1 << 16
    assert_fails(tmp_path / "m.tar.gz", "at most 1,048,576 are allowed")


def test_archive_of_too_many_members(tmp_path, members) -> None:
    write_tar(tmp_path / "m.tar.gz", {**{str(n): b"" for n in range(10_000)}, **members})
    assert_fails(tmp_path / "m.tar.gz", "more than 10000 members")


@pytest.mark.parametrize("name", ["m.tar", "m.tar.gz"])
def test_no_damage_to_an_archive_passes(tmp_path, prefix, tiny, name) -> None:
    """Every 7th cut and one flip in every byte: an archive is long and mostly filling."""
    parts = {file.name: file.read_bytes() for file in tmp_path.glob("model.ckpt.*")}
    write_tar(tmp_path / name, parts, "w:gz" if name.endswith("gz") else "w")
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for size in range(0, min(len(whole), 8 * 512), 7):  # zeros follow
        (tmp_path / name).write_bytes(whole[:size])
        refused += not assert_right_or_refused(tmp_path / name, tiny)
    for at in range(min(len(whole), 6 * 512)):
        broken = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        (tmp_path / name).write_bytes(broken)
        refused += not assert_right_or_refused(tmp_path / name, tiny)
    assert refused > 100


# -- hostile files --------------------------------------------------------------------------------


@same_folder
@given(
    st.lists(
        st.sampled_from(
            [b"model_checkpoint_path", b":", b'"', b"\\", b"\n", b" ", b"/", b"a", b"\xff", b"101"]
        ),
        max_size=30,
    ).map(b"".join)
)
def test_any_state_file(tmp_path, content) -> None:
    (tmp_path / "checkpoint").write_bytes(content)
    assert_fails(tmp_path)


@same_folder
@given(
    start=st.sampled_from(["tar", "tar.gz", "none"]),
    changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 600),
    packed=st.booleans(),
)
def test_any_archive(tmp_path, prefix, tiny, start, changes, cut, packed) -> None:
    """Right values or a refusal, whatever bytes of the archive were changed."""
    path = tmp_path / "m.tar"
    parts = {file.name: file.read_bytes() for file in tmp_path.glob("model.ckpt.*")}
    write_tar(path, parts, "w:gz" if start == "tar.gz" else "w")
    content = bytearray(path.read_bytes() if start != "none" else bytes(4096))
    for at, value in changes:
        content[at % len(content)] = value
    del content[max(0, len(content) - cut) :]
    path.write_bytes(gzip.compress(content) if packed else content)
    assert_right_or_refused(path, tiny)
