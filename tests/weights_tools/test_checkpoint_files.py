"""Where a checkpoint is: a prefix, a folder, or an archive; and what files of other formats are."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.weights_tools.checkpoints import (
    assert_fails,
    assert_right_or_refused,
    assert_same,
    read_all,
)
from tinymixnet.engine.budget import budget
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


def test_files_of_other_formats_are_named(tmp_path) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "broken.h5").write_bytes(b"")
    (tmp_path / "model.keras").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "frozen.pb").write_bytes(b"\n\x05graph")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "saved" / "variables").mkdir()
    write_checkpoint(tmp_path / "saved" / "variables" / "variables", {})
    assert_fails(tmp_path / "model.h5", "HDF5")
    assert_fails(tmp_path / "broken.h5", "Keras")
    assert_fails(tmp_path / "model.keras", "Keras")
    assert_fails(tmp_path / "frozen.pb", "graph or SavedModel")
    assert_fails(tmp_path / "text", "not a TensorFlow checkpoint")
    assert_fails(tmp_path / "saved", "SavedModel, not a checkpoint")


def test_version_1_is_named_with_the_way_out(prefix) -> None:
    meta = message((1, message((1, b"x"), (2, shape_message((3,))))))
    table = writer.table([(b"", message((1, meta))), (b"\0x", message((2, b"data")))])
    prefix.write_bytes(table)
    assert_fails(prefix, "version 1", "save it again")
    Path(f"{prefix}.index").write_bytes(table)
    assert_fails(prefix, "version 1", "save it again")


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
    write_tar(tmp_path / "m.tar.gz", {"mixnet-l/._model.ckpt.index": b"metadata", **moved})
    before = sorted(tmp_path.parent.rglob("*"))
    assert_same(read_all(tmp_path / "m.tar.gz"), tensors)
    assert sorted(tmp_path.parent.rglob("*")) == before


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
    for size in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:size])
        refused += not assert_right_or_refused(tmp_path / name, tiny)
    for at in range(min(len(whole), 6 * 512)):
        broken = whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :]
        (tmp_path / name).write_bytes(broken)
        refused += not assert_right_or_refused(tmp_path / name, tiny)
    assert refused > 100
