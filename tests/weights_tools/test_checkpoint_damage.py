"""Damaged and hostile checkpoints: read right or refused, with bounded time and memory."""

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights_tools.checkpoints import (
    assert_fails,
    assert_no_damage_passes,
    assert_same,
    read_all,
    same_folder,
)
from tinymixnet.engine.budget import budget
from tinymixnet.errors import CheckpointError
from weights_tools.formats import checkpoint_index
from weights_tools.formats import checkpoint_writer as writer
from weights_tools.formats.checkpoint import open_checkpoint
from weights_tools.formats.checkpoint_writer import (
    entry_message,
    message,
    shape_message,
    write_checkpoint,
)
from weights_tools.formats.crc32c import masked_crc32c


def test_no_damage_to_the_data_passes(tmp_path, prefix, tiny) -> None:
    for shard in range(2):
        file = tmp_path / f"model.ckpt.data-0000{shard}-of-00002"
        assert assert_no_damage_passes(file, prefix, tiny) == 0


def test_no_damage_to_the_index_passes(tmp_path, prefix, tiny) -> None:
    # What may change unnoticed is what is never used: the metaindex block, 13 bytes with its seal,
    # of the footer's 48 bytes its place, and the zeros that fill the footer up.
    file = tmp_path / "model.ckpt.index"
    assert assert_no_damage_passes(file, prefix, tiny) <= 8 * (13 + 40)


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
        (b"k" * 1025, "more than 1024 bytes"),
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


def test_variable_too_large_for_the_budget(tmp_path, prefix) -> None:
    size = budget.checkpoint_bytes + 4
    huge = {b"x": entry(shape=(size // 4,), size=size)}
    write_checkpoint(prefix, {}, edit=lambda entries: entries.update(huge))
    os.truncate(tmp_path / "model.ckpt.data-00000-of-00001", size)
    assert_fails(prefix, f"'x' asks for {size:,} bytes", "TINYMIXNET_BUDGET=checkpoint_bytes")


def test_too_many_variables(prefix, tensors, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_index, "MAX_VARIABLES", len(tensors))
    write_checkpoint(prefix, tensors)
    assert_same(read_all(prefix), tensors)
    write_checkpoint(prefix, {**tensors, "one more": FLOATS})
    assert_fails(prefix, f"more than {len(tensors)} variables")


def test_index_too_large_for_a_mixnet(tmp_path, prefix, tensors) -> None:
    write_checkpoint(prefix, tensors)
    os.truncate(tmp_path / "model.ckpt.index", (4 << 20) + 1)
    assert_fails(prefix, "4,194,305 bytes, more than 4,194,304")


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


# -- files made to take time and memory -----------------------------------------------------------

MEASURE = """
import re, sys, time
from pathlib import Path
from weights_tools.formats.checkpoint import open_checkpoint

for path in sys.argv[1:]:
    start, said = time.process_time(), "nothing"
    try:
        with open_checkpoint(path) as checkpoint:
            said = f"{len(checkpoint.variables)} variables"
    except Exception as error:
        said = f"{type(error).__name__} of {len(str(error).splitlines())} line: {str(error)[:500]}"
    seconds = time.process_time() - start
    status = Path("/proc/self/status")  # of Linux; elsewhere the memory is not measured
    peak = re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text() if status.exists() else "")
    print(seconds, int(peak[1]) >> 10 if peak else 0, said.removeprefix(path))
"""


def hostile_states(folder: Path) -> dict[Path, str]:
    """State files with long runs of something that a careless pattern goes over again and again."""
    texts = {
        "newlines": b"\n" * (1 << 20),
        "spaces": b" " * (1 << 20),
        "names": b"model_checkpoint_path" * 50_000,
        "quotes": b'model_checkpoint_path: "\\' * 40_000,
        "escapes": b'model_checkpoint_path: "' + b"\\\\" * 500_000,
        "lines": b'model_checkpoint_path: "a\n' * 40_000,
        "long": b'model_checkpoint_path: "' + b"a" * 1_000_000 + b'"',
    }
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "checkpoint").write_bytes(text)
    return dict.fromkeys((folder / name for name in texts), "")


def hostile_indexes(folder: Path) -> dict[Path, str]:
    """Indexes of up to 4 MB in which every byte is one more thing to parse."""
    empty = entry(shape=(0,), size=0, crc=0)
    unknown = b"\x48\x01"  # field 9, the number 1
    same_start = (b"stem/conv2d/" * 100)[:1000]
    entries = {
        "fields": ({b"x": entry() + unknown * 1_900_000}, "more than 100 fields"),
        "too many fields": ({b"x": entry() + unknown * 7_000_000}, "more than 4,194,304"),
        "axes": ({b"x": entry(shape=b"\x12\x00" * 1_900_000)}, "more than 100 fields"),
        "most fields": (
            {b"%05d" % n: empty + unknown * 90 for n in range(19_000)},
            "19001 variables",
        ),
        "most axes": (
            {b"%05d" % n: unknown * 50 + entry(shape=(0,) * 32, size=0) for n in range(19_000)},
            "19001 variables",
        ),
        "long names": ({same_start + b"%05d" % n: empty for n in range(5_000)}, "5001 variables"),
        "many names": ({b"%06d" % n: empty for n in range(21_000)}, "more than 20000 variables"),
    }
    for name, (extra, _) in entries.items():
        write_checkpoint(
            folder / name, {"w": FLOATS}, edit=lambda known, extra=extra: known.update(extra),
            block_size=1 << 30, restart_interval=1 << 30,
        )  # fmt: skip
    blocks = [
        (b"%06d" % n, writer.seal(writer.block([(b"%06d" % n, empty)]))) for n in range(9_000)
    ]
    (folder / "many blocks.index").write_bytes(writer.table_of_blocks(blocks))
    restarts = writer.block([HEADER, X])[:-8] + bytes(4 * 900_000) + uint32(900_000)
    (folder / "restarts.index").write_bytes(writer.table_of_blocks([(b"x", writer.seal(restarts))]))
    return {
        **{folder / name: words for name, (_, words) in entries.items()},
        folder / "many blocks": "not with its header",
        folder / "restarts": "restarts",
    }


def hostile_archives(folder: Path) -> dict[Path, str]:
    """Archives whose members are half a gigabyte, packed and as a hole in the file."""
    member = tarfile.TarInfo("a/model.ckpt.data-00000-of-00001")
    member.size = 500 << 20
    with gzip.open(folder / "packed.tar.gz", "wb", compresslevel=1) as file:
        file.write(member.tobuf())
        for _ in range(100):  # the rest is not reached
            file.write(bytes(1 << 20))
    with open(folder / "hole.tar", "wb") as file:
        file.write(member.tobuf())
        file.seek(500 << 20, os.SEEK_CUR)
        file.write(tarfile.TarInfo("a/model.ckpt.index").tobuf() + bytes(1024))
    with tarfile.open(folder / "members.tar.gz", "w:gz") as tar:
        for number in range(10_000):
            tar.addfile(tarfile.TarInfo(str(number)))
    return {
        folder / "packed.tar.gz": "no trained network can be packed so well",
        folder / "hole.tar": "magic number",
        folder / "members.tar.gz": "more than 10000 members",
    }


def test_hostile_files_take_little_time_and_memory(tmp_path) -> None:
    """Under 2 seconds of computing and 300 MB each; in a child, whose memory is its own."""
    cases = {}
    for make in (hostile_states, hostile_indexes, hostile_archives):
        (tmp_path / make.__name__).mkdir()
        cases.update(make(tmp_path / make.__name__))
    command = [sys.executable, "-c", MEASURE, *map(str, cases)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = printed.splitlines()
    assert len(lines) == len(cases), printed
    for (path, words), line in zip(cases.items(), lines, strict=True):
        seconds, megabytes, said = line.split(" ", 2)
        assert words in said, (path.name, said)
        assert "variables" in said or said.startswith("CheckpointError of 1 line"), said
        assert float(seconds) < 2, (path.name, line)
        assert float(megabytes) < 300, (path.name, line)


def test_blocks_may_not_overlap(tmp_path, prefix) -> None:
    """Else a small file could have the same megabytes parsed thousands of times."""
    write_checkpoint(prefix, {"x": FLOATS})
    first = writer.seal(writer.block([HEADER]))
    second = writer.seal(writer.block([X]))
    handles = [(0, len(first) - 5), (len(first), len(second) - 5), (len(first) - 1, 3)]
    index = writer.block(
        [(key, writer.varint(at) + writer.varint(size)) for key, (at, size)
         in zip((b"", b"x", b"y"), handles, strict=True)], 1,
    )  # fmt: skip
    Path(f"{prefix}.index").write_bytes(writer.table_with_index(first + second, index))
    assert_fails(prefix, "overlaps the one before it")
