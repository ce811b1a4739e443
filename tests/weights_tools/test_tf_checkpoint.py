"""The checkpoint reader against a writer of our own, against TensorFlow, and against damage."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from tests.support.shared import SHARED
from tinymixnet.errors import CheckpointError
from weights_tools.formats import checkpoint_writer as writer
from weights_tools.formats import tf_checkpoint
from weights_tools.formats.checkpoint_writer import (
    entry_message,
    message,
    shape_message,
    write_checkpoint,
)
from weights_tools.formats.crc32c import crc32c, masked_crc32c
from weights_tools.formats.tf_checkpoint import open_checkpoint

# tmp_path is one folder for all examples of a test; each example writes all of its files anew.
same_folder = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def read_all(path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.variables) == [v.name for v in checkpoint.variables.values()]
        return {name: checkpoint.read(name) for name in checkpoint.variables}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal to the last bit, NaN and minus zero included."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def assert_fails(path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    for word in words:
        assert word in text


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt"


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "net/stem/kernel": random.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "net/stem/kernel/ExponentialMovingAverage": random.normal(size=8).astype(np.float32),
        "net/stem/gamma": random.normal(size=8).astype(np.float16),
        "net/double": random.normal(size=(2, 3)),
        "net/count": np.array([1, -2, 3], np.int32),
        "global_step": np.array(12345678901, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }


# -- the checksum ---------------------------------------------------------------------------------


def crc32c_bit_by_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_gives_the_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    assert crc32c(bytearray(data)) == expected
    assert crc32c(memoryview(data)) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 6000), st.integers(0, 2**32 - 1))
def test_crc32c_equals_the_definition(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    assert crc32c(data) == crc32c_bit_by_bit(data)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 65535, 65536, 65537])
def test_crc32c_equals_the_definition_where_lanes_begin_and_fill(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == crc32c_bit_by_bit(data)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, (5 << 20) // 2))
def test_crc32c_continues_at_any_byte(cut: int) -> None:
    data = np.random.default_rng(1).bytes((5 << 20) // 2)
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


# -- whole checkpoints ----------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: not name.startswith("\0")
)
arrays = st.sampled_from(sorted(writer.DTYPES)).flatmap(
    lambda dtype: numpy_st.arrays(
        np.dtype(dtype), numpy_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    )
)


@same_folder
@given(
    tensors=st.dictionaries(names, arrays, max_size=12),
    shards=st.integers(1, 3),
    block_size=st.integers(1, 200),
    restart_interval=st.integers(1, 5),
)
def test_reads_what_was_written(prefix, tensors, shards, block_size, restart_interval) -> None:
    sizes = {"block_size": block_size, "restart_interval": restart_interval}
    write_checkpoint(prefix, tensors, shards=shards, **sizes)
    assert_same(read_all(prefix), tensors)


@same_folder
@given(numpy_st.arrays(np.uint16, numpy_st.array_shapes(min_dims=0, min_side=0)))
def test_bfloat16_is_widened_exactly(prefix, halves) -> None:
    expected = np.asarray(halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    write_checkpoint(prefix, {"x": expected}, bfloat16=["x"])
    assert prefix.with_name("model.ckpt.data-00000-of-00001").read_bytes() == halves.tobytes()
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.variables["x"].dtype == "bfloat16"
        assert_same({"x": checkpoint.read("x")}, {"x": expected})


def test_lists_every_variable_with_its_place(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors, shards=2)
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.path == prefix
        assert sorted(checkpoint.variables) == sorted(tensors)
        for name, variable in checkpoint.variables.items():
            content = tensors[name].tobytes()
            assert variable.dtype == tensors[name].dtype.name
            assert variable.shape == tensors[name].shape
            assert variable.size == len(content)
            assert variable.crc == masked_crc32c(content)
            data = (prefix.parent / f"model.ckpt.data-0000{variable.shard}-of-00002").read_bytes()
            assert data[variable.offset :][: variable.size] == content


def test_arrays_are_new_and_writable(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        checkpoint.read("net/count")[:] = 7
        assert checkpoint.read("net/count").tolist() == [1, -2, 3]


def test_closed_checkpoint_says_so(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    checkpoint = open_checkpoint(prefix)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(CheckpointError, match="closed already"):
        checkpoint.read("net/count")


def test_data_that_vanishes_or_does_not_fit_into_memory(prefix, tensors, monkeypatch) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        os.truncate(f"{prefix}.data-00000-of-00001", 0)
        with pytest.raises(CheckpointError, match="the data file ends inside 'net/double'"):
            checkpoint.read("net/double")

    def no_memory(data: bytes) -> int:
        raise MemoryError

    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint:
        monkeypatch.setattr(tf_checkpoint, "masked_crc32c", no_memory)
        with pytest.raises(CheckpointError, match=r"cannot read 'net/double': MemoryError"):
            checkpoint.read("net/double")


def test_name_that_is_not_there(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    with open_checkpoint(prefix) as checkpoint, pytest.raises(CheckpointError, match="'nothing'"):
        checkpoint.read("nothing")


@pytest.mark.parametrize(("number", "name"), [(writer.STRING, "string"), (99, "number 99")])
def test_other_types_are_listed_but_not_read(prefix, tensors, number, name) -> None:
    def edit(entries: dict[bytes, bytes]) -> None:
        entries[b"text"] = entry_message(number, ())

    write_checkpoint(prefix, tensors, edit=edit)
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.variables["text"].dtype == name
        assert checkpoint.read("net/count").tolist() == [1, -2, 3]
        with pytest.raises(CheckpointError, match=f"'text' is of type {name}; only"):
            checkpoint.read("text")


# -- the ways to say where ------------------------------------------------------------------------


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
    assert_fails(prefix, "model.ckpt.data-00001-of-00002 is not a plain file")
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
    assert_fails(tmp_path / "model.keras", "zip", "Keras")
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
    words = "unpacks to more" if size not in range(512 << 20) else "it ends too early"
    assert_fails(tmp_path / "m.tar", words)
    assert_fails(tmp_path / "m.tar.gz", words)


def test_archive_that_unpacks_without_end(tmp_path, monkeypatch, members) -> None:
    monkeypatch.setattr(tf_checkpoint, "MAX_ARCHIVE_BYTES", 1 << 20)
    zeros = {f"zeros-{number}": bytes(300 << 10) for number in range(4)}
    write_tar(tmp_path / "m.tar.gz", {**zeros, **members})
    assert (tmp_path / "m.tar.gz").stat().st_size < 1 << 16
    assert_fails(tmp_path / "m.tar.gz", "unpacks to more than 1048576 bytes")


def test_archive_of_too_many_members(tmp_path, members) -> None:
    write_tar(tmp_path / "m.tar.gz", {**{str(n): b"" for n in range(10_000)}, **members})
    assert_fails(tmp_path / "m.tar.gz", "more than 10000 members")


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def tiny(prefix) -> dict[str, np.ndarray]:
    """A checkpoint of three blocks and two shards, small enough to break it at every bit."""
    tensors = {
        "a/kernel": np.array([[1.5, -2.0]], np.float32),
        "a/kernel/average": np.array([3, 4], np.int32),
        "b": np.array(5, np.int64),
    }
    write_checkpoint(prefix, tensors, shards=2, block_size=1)
    return tensors


def assert_right_or_refused(path: Path, tensors: dict[str, np.ndarray]) -> bool:
    """Every variable right or, where anything is wrong, a CheckpointError. Whether all is right."""
    try:
        found = read_all(path)
    except CheckpointError:
        return False
    assert_same(found, tensors)
    return True


def assert_no_damage_passes(file: Path, path: Path, tensors: dict[str, np.ndarray]) -> int:
    """Flip every bit of a file, cut it at every byte; returns how many times it did not matter."""
    whole = file.read_bytes()
    passed = 0
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        passed += assert_right_or_refused(path, tensors)
    for at in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            passed += assert_right_or_refused(path, tensors)
    file.write_bytes(whole)
    assert_same(read_all(path), tensors)
    return passed


def test_no_damage_to_the_data_passes(tmp_path, prefix, tiny) -> None:
    for shard in range(2):
        file = tmp_path / f"model.ckpt.data-0000{shard}-of-00002"
        assert assert_no_damage_passes(file, prefix, tiny) == 0


def test_no_damage_to_the_index_passes(tmp_path, prefix, tiny) -> None:
    # What may change unnoticed is what is never used: the metaindex block, 13 bytes with its seal,
    # of the footer's 48 bytes its place, and the zeros that fill the footer up.
    file = tmp_path / "model.ckpt.index"
    assert assert_no_damage_passes(file, prefix, tiny) <= 8 * (13 + 40)


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


@settings(same_folder, max_examples=400)
@given(
    broken=st.sampled_from(["first", "second", "index"]),
    changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 3),
)
def test_nonsense_with_a_valid_checksum(prefix, broken, changes, cut) -> None:
    """The parser without the checksums in front of it: it refuses or reads, it never breaks."""
    kept: list[tuple[bytes, bytes]] = []
    tensors = {name: np.arange(3, dtype=np.float32) for name in ("a", "a/b", "a/b/c", "d")}
    write_checkpoint(prefix, tensors, edit=lambda entries: kept.extend(sorted(entries.items())))

    def maybe_broken(name: str, block: bytes) -> bytes:
        if name != broken:
            return block
        changed = bytearray(block)
        for at, value in changes:
            changed[at % len(changed)] = value
        return bytes(changed[: len(changed) - cut])

    first, second = (
        writer.seal(maybe_broken(name, writer.block(entries, 2)))
        for name, entries in [("first", kept[:3]), ("second", kept[3:])]
    )
    places = [(0, len(first) - 5), (len(first), len(second) - 5)]
    handles = [writer.varint(offset) + writer.varint(size) for offset, size in places]
    index = maybe_broken("index", writer.block([(b"a/b", handles[0]), (b"e", handles[1])], 1))
    Path(f"{prefix}.index").write_bytes(writer.table_with_index(first + second, index))
    if not changes and not cut:
        assert_same(read_all(prefix), tensors)
    try:
        with open_checkpoint(prefix) as checkpoint:
            for variable in checkpoint.variables.values():
                try:
                    assert checkpoint.read(variable.name).shape == variable.shape
                except CheckpointError:
                    continue
    except CheckpointError:
        pass


# -- what the index may say wrongly ---------------------------------------------------------------

FLOATS = np.arange(6, dtype=np.float32)
CRC = masked_crc32c(FLOATS.tobytes())


def entry(*, dtype=1, shape=(6,), shard=0, offset=0, size=24, crc=CRC, more=()) -> bytes:
    """The right entry for the variable "x", or a wrong one."""
    return entry_message(dtype, shape, shard=shard, offset=offset, size=size, crc=crc, more=more)


def axis(size: int) -> tuple[int, bytes]:
    return 2, message((1, size))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (entry(shape=(7,)), "24 bytes instead of 28"),
        (entry(size=20), "20 bytes instead of 24"),
        (entry(dtype=2), "float64 (6,), has 24 bytes instead of 48"),
        (entry(shape=(1 << 62, 4)), "impossible shape"),
        (entry(shape=(0, 1 << 62), size=0), "impossible shape"),
        (entry(shape=message(axis(-6))), "impossible shape"),
        (entry(shape=message(axis(-2), axis(-3))), "impossible shape"),
        (entry(shape=(1,) * 33), "33 axes"),
        (entry(shape=message((3, 1))), "no known shape"),
        (entry(shape=message((2, 6))), "wrong wire type"),
        (entry(shape=message((2, message((1, b"6"))))), "wrong wire type"),
        (entry(shape=message((2, message((1, 6), (1, 6))))), "stands twice"),
        (entry(offset=4), "should end at byte 28"),
        (entry(offset=-4), "negative"),
        (entry(offset=1 << 62), "should end at byte"),
        (entry(dtype=7, size=-1), "negative"),
        (entry(dtype=7, size=1 << 62), "should end at byte"),
        (entry(shard=1), "shard 1 of 1"),
        (entry(shard=-1), "shard -1 of 1"),
        (entry(crc=CRC ^ 1), "checksum"),
        (entry(crc=0), "checksum"),
        (entry(more=[(7, message(axis(6)))]), "'x' is partitioned"),
        (entry(more=[(1, 1)]), "stands twice"),
        (entry(more=[(2, shape_message((6,)))]), "stands twice"),
        (entry(more=[(3, b"")]), "wrong wire type"),
        (message((6, CRC), (1, 1)), "wrong wire type"),
        (entry() + b"\x0b", "wire type 3"),
        (entry() + b"\x0c", "wire type 4"),
        (entry() + b"\x0f", "wire type 7"),
        (entry() + b"\x80", "cut off"),
        (entry() + b"\x80" * 10 + b"\x01", "more than 64 bits"),
        (entry() + b"\x48" + b"\xff" * 9 + b"\x02", "more than 64 bits"),
        (entry() + b"\x48", "cut off"),
        (entry() + b"\x4a\x05abcd", "cut off"),
        (entry() + b"\x4a" + b"\xff" * 9 + b"\x01", "cut off"),
        (entry() + b"\x49abcdefg", "cut off"),
        (entry() + b"\x4dabc", "cut off"),
        (entry()[:-1], "cut off"),
    ],
)
def test_broken_entry(prefix, broken, words) -> None:
    write_checkpoint(prefix, {"x": FLOATS}, edit=lambda entries: entries.update({b"x": broken}))
    assert_fails(prefix, words)


def test_unknown_fields_are_skipped(prefix) -> None:
    more = entry(more=[(9, 1), (10, b"new"), (1000, -1)]) + b"\x59abcdefgh\x5dabcd"
    write_checkpoint(prefix, {"x": FLOATS}, edit=lambda entries: entries.update({b"x": more}))
    assert_same(read_all(prefix), {"x": FLOATS})


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "speaks of 0 data files"),
        (writer.header_message(-1), "speaks of -1 data files"),
        (writer.header_message(1 << 40), "speaks of"),
        (writer.header_message(257), "speaks of 257 data files"),
        (writer.header_message(2), "data-00000-of-00002 is missing"),
        (writer.header_message(endianness=1), "big-endian"),
        (writer.header_message(min_consumer=2), "newer version"),
        (message((1, 1), (2, b"")), "wrong wire type"),
        (message((1, 1), (3, 1)), "wrong wire type"),
        (message((1, 1), (1, 1)), "stands twice"),
        (b"\x08", "cut off"),
        (message((1, b"")), "version 1"),
    ],
)
def test_broken_header(prefix, header, words) -> None:
    write_checkpoint(prefix, {"x": FLOATS}, edit=lambda entries: entries.update({b"": header}))
    assert_fails(prefix, words)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (b"\xff", "not UTF-8"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"\0\1x", "partitioned"),
        (b"k" * 4097, "more than 4096 bytes"),
    ],
)
def test_broken_name(prefix, key, words) -> None:
    write_checkpoint(prefix, {}, edit=lambda entries: entries.update({key: entry(size=0)}))
    assert_fails(prefix, words)


@pytest.mark.parametrize("offset", [0, 4, 20])
def test_overlapping_variables(prefix, offset) -> None:
    crc = masked_crc32c(FLOATS.tobytes()[offset : offset + 4])
    extra = {b"y": entry(shape=(1,), offset=offset, size=4, crc=crc)}
    write_checkpoint(prefix, {"x": FLOATS}, edit=lambda entries: entries.update(extra))
    assert_fails(prefix, "overlaps")


def test_variable_too_large_for_a_mixnet(tmp_path, prefix) -> None:
    size = (256 << 20) + 4
    huge = {b"x": entry(shape=(size // 4,), size=size)}
    write_checkpoint(prefix, {}, edit=lambda entries: entries.update(huge))
    os.truncate(tmp_path / "model.ckpt.data-00000-of-00001", size)
    assert_fails(prefix, f"'x' has {size} bytes, more than")


def test_too_many_variables(prefix, tensors, monkeypatch) -> None:
    monkeypatch.setattr(tf_checkpoint, "MAX_VARIABLES", len(tensors))
    write_checkpoint(prefix, tensors)
    assert_same(read_all(prefix), tensors)
    write_checkpoint(prefix, {**tensors, "one more": FLOATS})
    assert_fails(prefix, f"more than {len(tensors)} variables")


def test_index_too_large_for_a_mixnet(tmp_path, prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    os.truncate(tmp_path / "model.ckpt.index", (16 << 20) + 1)
    assert_fails(prefix, "more than 16777216 bytes")


def test_index_without_header(prefix, tensors) -> None:
    write_checkpoint(prefix, tensors, edit=lambda entries: entries.pop(b""))
    assert_fails(prefix, "not with its header")


HEADER = (b"", writer.header_message())
X = (b"x", entry())
GOOD = writer.block([HEADER, X])
ENTRIES = GOOD[:-8]
TAIL = bytes(4) + b"\1\0\0\0"


def uint32(*numbers: int) -> bytes:
    return np.array(numbers, "<u4").tobytes()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (b"", "no entries"),
        (b"\1\0\0", "no entries"),
        (TAIL, "no entries"),
        (ENTRIES + uint32(0), "no entries or no restarts"),
        (ENTRIES + uint32(0, 0xFFFFFFFF), "no entries or no restarts"),
        (ENTRIES + uint32(1, 1), "restarts"),
        (ENTRIES + uint32(0, 2, 2), "restarts"),
        (ENTRIES + uint32(0, 0, 2), "restarts"),
        (ENTRIES + uint32(0, len(ENTRIES), 2), "restarts"),
        (ENTRIES + uint32(0, 0xFFFFFFFF, 2), "restarts"),
        (b"\1" + ENTRIES[1:] + TAIL, "reaches past"),
        (b"\0\0\xff\xff\xff\xff\x0f" + ENTRIES + TAIL, "reaches past"),
        (b"\0\xff\xff\xff\xff\x0f\0" + ENTRIES + TAIL, "reaches past"),
        (b"\xff" * 10 + ENTRIES + TAIL, "more than 64 bits"),
        (ENTRIES + b"\0" + TAIL, "cut off"),
        (ENTRIES + b"\0\x80" + TAIL, "cut off"),
        (ENTRIES + b"\2\0\0" + TAIL, "reaches past"),
        (ENTRIES + b"\1\0\0" + TAIL, "comes after"),
        (ENTRIES + b"\0\1\0w" + TAIL, "comes after"),
        (ENTRIES + ENTRIES + TAIL, "comes after"),
        (ENTRIES + b"\1\1\0y" + uint32(0, len(ENTRIES), 2), "reaches past"),
        (ENTRIES + b"\1\1\0y" + TAIL, "'xy' is of type number 0"),
    ],
)
def test_broken_block(tmp_path, prefix, broken, words) -> None:
    write_checkpoint(prefix, {"x": FLOATS})
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(writer.table_of_blocks([(b"x", writer.seal(GOOD))]))
    assert_same(read_all(prefix), {"x": FLOATS})
    index.write_bytes(writer.table_of_blocks([(b"xy", writer.seal(broken))]))
    assert_fails(prefix, words)


@pytest.mark.parametrize(("compression", "words"), [(1, "snappy"), (2, "method (2)")])
def test_compressed_blocks(tmp_path, prefix, compression, words) -> None:
    write_checkpoint(prefix, {"x": FLOATS})
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(writer.table_of_blocks([(b"x", writer.seal(GOOD, compression))]))
    assert_fails(prefix, words)
    index.write_bytes(writer.table_of_blocks([(b"x", writer.seal(GOOD))], compression))
    assert_fails(prefix, words)


def test_blocks_in_the_wrong_order_or_place(tmp_path, prefix) -> None:
    write_checkpoint(prefix, {"x": FLOATS})
    first, second = (writer.seal(writer.block([each])) for each in (HEADER, X))
    for blocks, words in [
        ([(b"", first), (b"x", second)], None),
        ([(b"a", first), (b"y", second)], None),  # a key between the blocks, as TensorFlow makes it
        ([(b"", first), (b"w", second)], "'x' lies in the wrong block"),
        ([(b"x", first), (b"y", second)], "'x' lies in the wrong block"),
        ([(b"", first), (b"", second)], "comes after"),
        ([(b"", first), (b"x", second), (b"y", second)], "'x' lies in the wrong block"),
        ([(b"x", second), (b"y", first)], "not with its header"),
    ]:
        (tmp_path / "model.ckpt.index").write_bytes(writer.table_of_blocks(blocks))
        if words:
            assert_fails(prefix, words)
        else:
            assert_same(read_all(prefix), {"x": FLOATS})


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        (b"", "cut off"),
        (b"\0", "cut off"),
        (b"\0" + writer.varint(len(GOOD)) + b"\0", "more of a block"),
        (b"\0" + writer.varint(len(GOOD) + 1), "checksum"),
        (b"\1" + writer.varint(len(GOOD) - 1), "checksum"),
        (b"\0" + writer.varint(1 << 63), "past the end"),
        (writer.varint((1 << 64) - 1) * 2, "past the end"),
        (b"\0" + writer.varint(10_000), "past the end"),
    ],
)
def test_broken_handle(tmp_path, prefix, handle, words) -> None:
    write_checkpoint(prefix, {"x": FLOATS})
    table = writer.table_with_index(writer.seal(GOOD), writer.block([(b"x", handle)]))
    (tmp_path / "model.ckpt.index").write_bytes(table)
    assert_fails(prefix, words)


# -- real checkpoints and TensorFlow itself -------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow; in CI its absence is a failure, elsewhere a reason to skip."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("CI") != "true":
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    import tensorflow

    return tensorflow


def tensorflow_reads(tf, prefix: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("variant", ["mixnet-s", "mixnet-l"])
def test_official_checkpoints_read_as_tensorflow_reads_them(tf, variant) -> None:
    folder = SHARED / "reference" / variant
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    assert_same(read_all(folder), tensorflow_reads(tf, folder / "model.ckpt"))


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("block_size", [1, 4096])
def test_tensorflow_reads_what_the_writer_writes(tf, prefix, tensors, shards, block_size) -> None:
    write_checkpoint(prefix, tensors, shards=shards, block_size=block_size)
    assert_same(tensorflow_reads(tf, prefix), tensors)


def test_bfloat16_as_tensorflow_writes_and_reads_it(tf, prefix) -> None:
    x = np.array([1.0, -2.5, np.inf, 3e-39, 0.0078125], np.float32)
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    write_checkpoint(prefix, {"x": x}, bfloat16=["x"])
    assert_same({"x": tensorflow_reads(tf, prefix)["x"].astype(np.float32)}, {"x": x})
    tf.raw_ops.SaveV2(
        prefix=f"{prefix}-tf", tensor_names=["x"], shape_and_slices=[""],
        tensors=[tf.bitcast((x.view(np.uint32) >> 16).astype(np.uint16), tf.bfloat16)],
    )  # fmt: skip
    assert_same(read_all(f"{prefix}-tf"), {"x": x})


def test_reads_what_tensorflow_writes(tf, tmp_path, prefix, tensors) -> None:
    """All types, then so many variables that TensorFlow begins a second block, then shards."""
    many = {**tensors, **{f"net/layer_{n:05d}/kernel": np.float32(n) for n in range(12000)}}
    halves = [sorted(many)[0::2], sorted(many)[1::2]]
    for number, chosen in enumerate(halves):
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / f"part{number}"), tensor_names=chosen,
            shape_and_slices=[""] * len(chosen), tensors=[many[name] for name in chosen],
        )  # fmt: skip
        found = read_all(tmp_path / f"part{number}")
        assert_same(found, {name: np.asarray(many[name]) for name in chosen})
    parts = [str(tmp_path / f"part{number}") for number in range(2)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=str(prefix))
    index = (tmp_path / "model.ckpt.index").read_bytes()
    assert len(index) > 262144, "more than TensorFlow puts into one block"
    with open_checkpoint(prefix) as checkpoint:
        assert {variable.shard for variable in checkpoint.variables.values()} == {0, 1}
    assert_same(read_all(prefix), {name: np.asarray(array) for name, array in many.items()})


def test_object_graph_is_listed_as_a_string(tf, tmp_path) -> None:
    path = tf.train.Checkpoint(x=tf.Variable([1.0, 2.0])).write(str(tmp_path / "model.ckpt"))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.variables["_CHECKPOINTABLE_OBJECT_GRAPH"].dtype == "string"
        assert checkpoint.read("x/.ATTRIBUTES/VARIABLE_VALUE").tolist() == [1.0, 2.0]
        with pytest.raises(CheckpointError, match="of type string"):
            checkpoint.read("_CHECKPOINTABLE_OBJECT_GRAPH")


def test_tensorflows_partitioned_variable_is_refused(tf, prefix) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=["x", "x"], shape_and_slices=["4 0,2", "4 2,2"],
        tensors=[FLOATS[:2], FLOATS[2:4]],
    )  # fmt: skip
    assert_fails(prefix, "partitioned")


def test_tensorflows_version_1_is_refused(tf, prefix) -> None:
    tf.raw_ops.Save(filename=str(prefix), tensor_names=["x"], data=[FLOATS])
    assert_fails(prefix, "version 1", "save it again")


def test_tensorflows_saved_model_is_refused(tf, tmp_path) -> None:
    tf.saved_model.save(tf.train.Checkpoint(x=tf.Variable(1.0)), str(tmp_path / "model"))
    assert_fails(tmp_path / "model", "SavedModel")
