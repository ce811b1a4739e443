"""Dumps and maps that somebody made to hurt, arguments of wrong types, outputs in the wrong place.

Whatever comes in, the answer is right or one line that says what is wrong, and it comes soon.
"""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.cli import main
from tinymixnet.debug.compare import compare, isolated
from tinymixnet.debug.diagnose import diagnose
from tinymixnet.debug.dumps import open_dump
from tinymixnet.debug.manifest import image_hash, manifest_of, weights_hash
from tinymixnet.debug.measure import measure
from tinymixnet.debug.names.candidates import Candidates
from tinymixnet.debug.names.canonical import nearest
from tinymixnet.debug.names.choose import MAPS
from tinymixnet.debug.strict_json import read_json
from tinymixnet.debug.tables import table
from tinymixnet.debug.traces import open_trace, record, write_dump, write_trace
from tinymixnet.engine.budget import budget
from tinymixnet.engine.metadata import Metadata
from tinymixnet.engine.weights import Weights
from tinymixnet.engine.weights_writer import write_weights
from tinymixnet.errors import InputError, TinyMixNetError, TraceError
from tinymixnet.model import Model

SIDE = 32
PIXELS = synthetic_image(1, SIDE, SIDE).astype(np.float32)
MODEL = Model(TINY, synthetic_tensors(TINY))
OURS = dict(MODEL.layers(PIXELS))
SOON = 5.0  # seconds; what is measured takes well under one

# Each example has the limit of conftest.py: a slow one fails instead of making the test long.
fuzz = settings(
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    trace = open_trace(path)
    return {name: trace[name] for name in trace.names}


def refused(path: Path, message: str) -> None:
    begin = time.process_time()
    with pytest.raises(TraceError, match=message) as caught:
        read_all(path)
    assert time.process_time() - begin < SOON
    text = str(caught.value)
    assert text.isprintable(), text
    assert len(text) < 700


def opened(path: Path, names: Any = None) -> Any:
    return open_dump(path, TINY, 1, SIDE, SIDE, names)


# -- names ----------------------------------------------------------------------------------------

# Each made some pattern of ours backtrack: one part again and again, then an end that fits nowhere.
WORDS = (
    "blocks_1_",
    "blocks_",
    "block_1",
    "conv_",
    "conv_1_",
    "global_pool_",
    "stem_",
    "head_se_",
    "a_",
    "1_",
    "bn1_",
    "a.",
    "_",
    "norm",
    "batch_",
    "\u00e9",
    "mean",
)

TEXT = """blocks block 0 1 2 12 stem head conv bn1 se act expand output logits _ / . : conv2d
    BiasAdd Relu Mul add batch_norm global pool global_pool drop path 99999999999 \u0661"""
PARTS = TEXT.split()


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("word", WORDS)
def test_long_names_take_no_longer_than_their_length(kind: str, word: str) -> None:
    """Also of names far longer than a dump may have: twice the length, twice the time."""

    def seconds(length: int) -> float:
        names = [(word * length)[:length] + f"!{end}" for end in ("", "x", "_y", "1", "_1")]
        candidates = Candidates(dict.fromkeys(names, (1, 1)), {"logits": (1, 6)})
        begin = time.process_time()
        MAPS[kind](candidates, TINY)
        return time.process_time() - begin

    assert seconds(20_000) < 1  # what backtracks takes minutes


def test_a_long_name_is_refused(tmp_path: Path) -> None:
    for name in ("blocks_1_" * 1400, "a" * 513):
        archive(tmp_path / "x.npz", {f"{name}.npy": npy(np.zeros(1))})
        refused(tmp_path / "x.npz", "a name has .* characters")
    write_dump(tmp_path / "y.npz", [("a" * 512, np.zeros(1))])
    assert list(read_all(tmp_path / "y.npz")) == ["a" * 512]
    with pytest.raises(TraceError, match="a name of over 512"):
        write_dump(tmp_path / "z.npz", [("a" * 513, np.zeros(1))])


def test_thousands_of_strange_names_take_no_time(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ["_".join(rng.choice(PARTS) for _ in range(60)) + str(i) for i in range(4000)]
    names += [f"blocks_{i % 6}/expand_convv{i}" for i in range(500)]  # each nearly a name of ours
    data = npy(np.zeros(1))
    path = archive(tmp_path / "x.npz", {f"{name}.npy": data for name in names})
    begin = time.process_time()
    assert opened(path).names == []
    assert time.process_time() - begin < SOON


def test_nearest_of_a_long_name() -> None:
    assert nearest("stem/con" * 5000, ["stem/conv"]) is None


def test_names_that_a_terminal_would_obey(tmp_path: Path, capsys: Any) -> None:
    names = ("\x1b[31mred\x1b[0m", "a\nb", "\u202egpj")
    strange = dict.fromkeys(names, np.zeros((3, 1, 4)))
    np.savez(tmp_path / "x.npz", **OURS, **strange)
    comparison = compare(OURS.items(), opened(tmp_path / "x.npz"))
    assert len(comparison.unmatched) == 3
    text = table(comparison)
    assert "red" in text
    assert all(line.isprintable() for line in text.split("\n"))
    archive(tmp_path / "y.npz", {"\x1b[31m\nred.npy": b"no array"})
    refused(tmp_path / "y.npz", "not a .npy file")
    np.savez(tmp_path / "z.npz", **strange)
    with pytest.raises(TraceError, match="no layer could be compared") as caught:
        compare(OURS.items(), opened(tmp_path / "z.npz"))
    assert str(caught.value).isprintable()


# -- sizes and numbers ----------------------------------------------------------------------------


def test_an_archive_of_very_many_members(tmp_path: Path, monkeypatch: Any) -> None:
    """They are counted before there is an object for each."""
    assert budget.dump_layers == 20_000
    monkeypatch.setattr(budget, "dump_layers", 1000)
    data = npy(np.zeros(1))
    path = archive(tmp_path / "x.npz", {f"{i}.npy": data for i in range(10_000)})
    tracemalloc.start()
    try:
        refused(path, "10,000 layers, at most 1,000")
        assert tracemalloc.get_traced_memory()[1] < 3 << 20  # the objects would be 6 MB
    finally:
        tracemalloc.stop()


def test_an_archive_with_a_huge_list_of_members(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(budget, "dump_layers", 10)
    path = archive(tmp_path / "x.npz", {"x.npy": npy(np.zeros(1))})
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    filler = bytes(100_000)
    longer = data[:start] + filler + data[start:end] + data[end:]
    size = (len(filler) + end - start).to_bytes(4, "little")
    at = len(longer) - (len(data) - end)
    path.write_bytes(longer[: at + 12] + size + longer[at + 16 :])
    refused(path, "its directory has")


def test_a_small_archive_of_a_large_array(tmp_path: Path, monkeypatch: Any) -> None:
    """64 MB of zeros in 64 kB: the sizes are right, and nobody wants it."""
    assert budget.layer_bytes == 1 << 29
    monkeypatch.setattr(budget, "layer_bytes", 1 << 25)
    data = npy(np.zeros(1 << 24, np.float32))
    path = archive(tmp_path / "x.npz", {"stem/conv.npy": data}, zipfile.ZIP_DEFLATED)
    del data
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    try:
        refused(path, "67,108,864 bytes, at most 33,554,432")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_the_budget_can_be_raised_and_lowered(tmp_path: Path, monkeypatch: Any) -> None:
    path = archive(tmp_path / "x.npz", {"x.npy": npy(np.zeros(100)), "y.npy": npy(np.zeros(1))})
    assert len(read_all(path)) == 2
    monkeypatch.setattr(budget, "layer_bytes", 799)
    refused(path, "800 bytes, at most 799")
    monkeypatch.setattr(budget, "layer_bytes", 800)
    assert len(read_all(path)) == 2
    monkeypatch.setattr(budget, "dump_layers", 1)
    refused(path, "2 layers, at most 1")
    with pytest.raises(TraceError, match="at most 1"):
        write_dump(tmp_path / "z", [("a", np.zeros(1)), ("b", np.zeros(1))])
    monkeypatch.setattr(budget, "layer_bytes", 7)
    with pytest.raises(TraceError, match="at most 7"):
        write_dump(tmp_path / "z", [("a", np.zeros(1))])
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("what", ["files", "hidden", "fifos", "folders", "below"])
def test_folders_of_too_many_things(tmp_path: Path, monkeypatch: Any, what: str) -> None:
    monkeypatch.setattr(budget, "dump_layers", 50)
    np.save(tmp_path / "x.npy", np.zeros(1))
    (tmp_path / "below").mkdir()
    for i in range(60):
        if what == "fifos":
            os.mkfifo(tmp_path / f"{i}.npy")
        elif what == "folders":
            (tmp_path / str(i)).mkdir()
        else:
            name = {"files": f"{i}.txt", "hidden": f".{i}", "below": f"below/{i}.npy"}[what]
            (tmp_path / name).touch()
    refused(tmp_path, "at most 50 are allowed")


def test_folders_inside_folders(tmp_path: Path) -> None:
    """Deeper than a path may be long."""
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        np.save("x.npy", np.zeros(1))
    finally:
        os.chdir(here)
    refused(tmp_path, "cannot be read|a name has")


def test_links_in_loops(tmp_path: Path) -> None:
    os.symlink("a.npy", tmp_path / "b.npy")
    os.symlink("b.npy", tmp_path / "a.npy")
    os.symlink("manifest.json", tmp_path / "manifest.json")
    os.symlink(".", tmp_path / "again")
    np.save(tmp_path / "x.npy", np.zeros(1))
    assert open_trace(tmp_path).names == ["x"]
    os.symlink("loop", tmp_path / "loop")
    refused(tmp_path / "loop", "cannot be read|no such file")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [1e300, -1e300, 1e-300, np.inf, np.nan, np.finfo("f8").max])
def test_huge_values_warn_nobody(tmp_path: Path, value: float, capsys: Any) -> None:
    layers = {name: x.astype(np.float64) for name, x in OURS.items()}
    for name in ("image", "stem/conv", "blocks_1/output", "logits", "probabilities"):
        layers[name] = np.full_like(layers[name], value)
    layers["logits"] = np.full((1, 7), value)  # one class too many
    layers["head/pool"] = np.full(OURS["head/pool"].shape, -(2**63), np.int64)
    np.savez(tmp_path / "x.npz", **layers)
    dump = opened(tmp_path / "x.npz")
    for comparison in (compare(OURS.items(), dump), isolated(MODEL, PIXELS, dump)):
        assert not comparison.alike
        assert table(comparison)
    assert not diagnose(MODEL, PIXELS, dump).alike
    json.dumps(diagnose(MODEL, PIXELS, dump).as_json(), allow_nan=False)
    a, b = OURS["logits"].astype(float), np.full((1, 6), value)
    with np.errstate(all="ignore"):
        measure("x", a, b, 1e-4)
    assert capsys.readouterr().err == ""


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 1}', "'a' stands twice"),
        (b'{"b": {"a": 1, "c": 2, "a": 3}}', "'a' stands twice"),
        (b'{"\\u0061": 1, "a": 1}', "'a' stands twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "is no number"),
        (b"9" * 1_000_000, "1,000,000 digits"),
        (b"1." + b"9" * 1_000_000, "digits"),
        (b"[" * 1_000_000, "not JSON"),
        (b'{"a":' * 1_000_000, "not JSON|too large"),
        (b"\xff", "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "not JSON"),
        (b"", "not JSON"),
        (b" " * ((1 << 22) + 1), "too large"),
    ],
)
def test_json_that_is_refused(data: bytes, message: str) -> None:
    begin = time.process_time()
    with pytest.raises(TraceError, match=message):
        read_json(data)
    assert time.process_time() - begin < SOON


def test_json_that_is_read() -> None:
    text = '\ufeff{"a": [1, -2.5e3, true, null, "\\u00e9"], "b": {"a": {}}}'
    assert read_json(text.encode()) == {"a": [1, -2500.0, True, None, "é"], "b": {"a": {}}}


# -- fuzzing --------------------------------------------------------------------------------------


def never_worse(call: Callable[[], object]) -> None:
    """The call works, or raises one of our errors of one line."""
    message = ""
    try:
        call()
    except TinyMixNetError as error:
        message = str(error)
    assert message.isprintable()


HEADERS = st.one_of(
    st.binary(max_size=200),
    st.text("{}()[]'\",:<>fiub0123456789 \nTrueFalsdcrpthn_o-+~.\\", max_size=300).map(
        lambda text: text.encode("latin1", "replace")
    ),
    st.builds(
        lambda descr, order, shape: repr(
            {"descr": descr, "fortran_order": order, "shape": shape}
        ).encode(),
        st.sampled_from(["<f4", "|u1", ">i8", "<c8", "|O", "<U9999999", "", ("<f4", (2,)), None]),
        st.sampled_from([True, False, 0, None, "x"]),
        st.one_of(
            st.lists(st.integers(-2, 1 << 70), max_size=20).map(tuple),
            st.lists(st.integers(0, 3), max_size=4).map(tuple),
            st.integers(),
            st.floats(),
        ),
    ),
)


@fuzz
@given(
    header=HEADERS,
    version=st.integers(0, 4),
    length=st.integers(-3, 3),
    values=st.binary(max_size=40),
)
@example(header=b"-" * 4000 + b"1", version=1, length=0, values=b"")
@example(header=b"(" * 4000, version=1, length=0, values=b"")
@example(header=b"{" * 90 + b"[" * 90, version=2, length=0, values=b"")
@example(header=b"1" + b"+1j" * 1000, version=1, length=0, values=b"")
def test_any_header_of_a_npy(
    tmp_path: Path, header: bytes, version: int, length: int, values: bytes
) -> None:
    size = max(len(header) + length, 0).to_bytes(4 if version != 1 else 2, "little")
    data = b"\x93NUMPY" + bytes([version, 0]) + size + header + values
    (tmp_path / "x").mkdir(exist_ok=True)
    (tmp_path / "x" / "x.npy").write_bytes(data)
    never_worse(lambda: read_all(tmp_path / "x"))
    archive(tmp_path / "x.npz", {"x.npy": data}, zipfile.ZIP_DEFLATED)
    never_worse(lambda: read_all(tmp_path / "x.npz"))


GOOD = {"manifest.json": b"", "stem/conv.npy": npy(np.zeros(3, "f4")), "x.npy": npy(np.ones(2))}


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 2000),
    packing=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_any_damage_of_a_npz(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int, packing: int
) -> None:
    members = {name: data for name, data in GOOD.items() if name.endswith(".npy")}
    path = archive(tmp_path / "x.npz", members, packing)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data[: max(cut, 4)] if cut < len(data) // 3 else data)
    never_worse(lambda: read_all(path))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["stem/conv", "NHWC", "float32", "x", "../x", "tinymixnet trace"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.parametrize("version", ["\x1b[2J\n", "1\u2028", 2, None])
def test_a_version_from_a_file_is_shown_in_one_line(tmp_path: Path, version: object) -> None:
    write_trace(tmp_path / "x", [("stem/conv", np.zeros(3, "f4"))], manifest_of(MODEL, PIXELS))
    path = tmp_path / "x" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "version": version}))
    with pytest.raises(TraceError, match="expected version 1, found ") as caught:
        open_trace(tmp_path / "x")
    assert str(caught.value).isprintable()


@fuzz
@given(data=st.data())
def test_any_manifest(data: st.DataObject) -> None:
    """A manifest of ours in which some entries, here or further in, are something else."""
    with tempfile.TemporaryDirectory() as folder:
        _try_manifest(Path(folder) / "x", data)


def _try_manifest(path: Path, data: st.DataObject) -> None:
    write_trace(path, [("stem/conv", np.zeros(3, "f4"))], manifest_of(MODEL, PIXELS))
    manifest = json.loads((path / "manifest.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        parent: Any = manifest
        key = data.draw(st.sampled_from(list(manifest)))
        while isinstance(parent[key], (dict, list)) and parent[key] and data.draw(st.booleans()):
            parent = parent[key]
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
            key = data.draw(st.sampled_from(keys))
        parent[key] = data.draw(JSON)
    (path / "manifest.json").write_text(json.dumps(manifest))
    never_worse(lambda: read_all(path))
    never_worse(lambda: opened(path))


NAMES = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(PARTS),
            max_size=9,
        ).map("_".join),
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@fuzz
@given(names=NAMES, kind=st.sampled_from(list(MAPS)), data=st.data())
def test_any_names(names: list[str], kind: str, data: st.DataObject) -> None:
    """Each map gives only names of the network, to tensors that are there."""
    expected = {name: (1, *shape) for name, shape in TINY.layer_shapes(SIDE, SIDE).items()}
    shapes = st.sampled_from([*expected.values(), (1,), (2, 2)])
    candidates = Candidates({name: data.draw(shapes) for name in names}, expected)
    places = MAPS[kind](candidates, TINY)
    assert set(places) <= set(names)
    assert set(places.values()) <= {*expected, ""}


@fuzz
@given(
    text=st.one_of(
        JSON.map(json.dumps),
        st.text(max_size=60),
        st.dictionaries(
            st.sampled_from(["x", "stem/conv", "X", "", "é"]),
            st.sampled_from(["stem/conv", "logits", "stem/cnov", ""]),
        ).map(json.dumps),
    )
)
def test_any_map_of_a_user(tmp_path: Path, text: str) -> None:
    path = archive(tmp_path / "x.npz", {"x.npy": npy(OURS["stem/conv"])})
    (tmp_path / "map.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    never_worse(lambda: opened(path, tmp_path / "map.json"))


# -- arguments of wrong types ---------------------------------------------------------------------

WRONG: list[Any] = [None, 3, 1.5, b"x", [], {}, object(), "no such thing", np.zeros(3), "a\0b"]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: repr(value)[:20])
def test_wrong_types(tmp_path: Path, wrong: Any) -> None:
    np.savez(tmp_path / "x.npz", **OURS)
    path = tmp_path / "x.npz"
    dump = opened(path)
    manifest = manifest_of(MODEL, PIXELS)
    new = tmp_path / "new"

    def unless(*types: type) -> Any:
        """The wrong value, or another one where that would be right."""
        return object() if isinstance(wrong, types) else wrong

    calls: list[Callable[[], object]] = [
        lambda: open_trace(wrong),
        lambda: open_trace(path)[wrong],
        lambda: open_trace(path).header(wrong),
        lambda: open_dump(wrong, TINY, 1, SIDE, SIDE),
        lambda: open_dump(path, wrong, 1, SIDE, SIDE),
        lambda: open_dump(path, TINY, unless(int), SIDE, SIDE),
        lambda: open_dump(path, TINY, 1, unless(int), SIDE),
        lambda: open_dump(path, TINY, 1, SIDE, unless(int)),
        lambda: open_dump(path, TINY, 1, SIDE, SIDE, unless(type(None))),
        lambda: open_dump(path, TINY, 1, SIDE, SIDE, None, unless(type(None))),
        lambda: dump[wrong],
        lambda: dump.raw(wrong),
        lambda: compare(wrong, dump),
        lambda: compare([wrong], dump),
        lambda: compare([("logits", wrong)], dump),
        lambda: compare([(wrong, np.zeros(3))], dump),
        lambda: compare(OURS.items(), wrong),
        lambda: compare(OURS.items(), dump, wrong),
        lambda: isolated(wrong, PIXELS, dump),
        lambda: isolated(MODEL, wrong, dump),
        lambda: isolated(MODEL, PIXELS, wrong),
        lambda: diagnose(wrong, PIXELS, dump),
        lambda: diagnose(MODEL, wrong, dump),
        lambda: diagnose(MODEL, PIXELS, wrong),
        lambda: diagnose(MODEL, PIXELS, dump, raw=unless(type(None))),
        lambda: record(wrong, PIXELS, new),
        lambda: record(MODEL, wrong, new),
        lambda: record(MODEL, PIXELS, unless(str)),
        lambda: record(MODEL, PIXELS, new, unless(list, dict)),
        lambda: record(MODEL, PIXELS, new, [wrong]),
        lambda: write_trace(new, unless(list, dict), manifest),
        lambda: write_trace(new, [wrong], manifest),
        lambda: write_trace(new, [(unless(str), np.zeros(1))], manifest),
        lambda: write_trace(new, [("x", object())], manifest),
        lambda: write_trace(new, OURS.items(), wrong),
        lambda: write_trace(unless(str), OURS.items(), manifest),
        lambda: write_dump(new, OURS.items(), unless(str)),
        lambda: manifest_of(wrong, PIXELS),
        lambda: manifest_of(MODEL, unless(np.ndarray)),
        lambda: weights_hash(wrong),
        lambda: image_hash(unless(np.ndarray)),
    ]
    for number, call in enumerate(calls):
        with pytest.raises((InputError, TraceError)):
            print(number, call())  # the number is shown if nothing is raised
    assert os.listdir(tmp_path) == ["x.npz"]


# -- outputs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("outputs")
    write_weights(folder / "tiny.h5", Weights(TINY, dict(MODEL.tensors), Metadata()))
    np.save(folder / "pixels.npy", PIXELS)
    record(MODEL, PIXELS, folder / "trace")
    return SimpleNamespace(
        weights=str(folder / "tiny.h5"),
        image=str(folder / "pixels.npy"),
        trace=str(folder / "trace"),
    )


def status(path: Path) -> tuple[int, ...]:
    return path.lstat().st_mode, path.lstat().st_ino, path.lstat().st_mtime_ns


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else status(path)
        for path in folder.rglob("*")
    }


def foreign(folder: Path) -> list[Path]:
    """Places where something is that no command of ours wrote."""
    (folder / "thesis.html").write_text("<html>my thesis</html>")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    os.symlink(folder / "thesis.html", folder / "link.html")
    os.symlink(folder / "nothing", folder / "dangling.html")
    os.mkfifo(folder / "pipe.html")
    write_dump(folder / "dump", OURS.items(), "another program")
    write_dump(folder / "dump.npz", OURS.items(), "another program")
    theirs = {**vars(manifest_of(MODEL, PIXELS)), "made_by": "another program"}
    write_trace(folder / "theirs", OURS.items(), type(manifest_of(MODEL, PIXELS))(**theirs))
    write_trace(folder / "more", OURS.items(), manifest_of(MODEL, PIXELS))
    (folder / "more" / "notes.txt").touch()
    os.symlink(folder / "more", folder / "linked")
    np.savez(folder / "arrays.npz", **OURS)
    return [*folder.iterdir(), Path("/dev/null")]


@pytest.mark.parametrize("command", ["trace", "compare"])
def test_nothing_foreign_is_replaced(
    files: SimpleNamespace, tmp_path: Path, command: str, capsys: Any
) -> None:
    places = foreign(tmp_path)
    before = snapshot(tmp_path)
    for place in [*places, Path(files.image), Path(files.weights)]:
        if command == "trace":
            argv = ["trace", files.image, "-o", str(place)]
        else:
            argv = ["compare", files.image, files.trace, "--html", str(place)]
        assert main([*argv, "--weights", files.weights]) == 2, place
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert str(place) in err
        assert snapshot(tmp_path) == before


def test_our_own_output_is_replaced_and_force_replaces_files(
    files: SimpleNamespace, tmp_path: Path, capsys: Any
) -> None:
    page, trace, packed = tmp_path / "p.html", tmp_path / "t", tmp_path / "t.npz"
    compared = ["compare", files.image, files.trace, "--weights", files.weights, "--html"]
    traced = ["trace", files.image, "--weights", files.weights, "-o"]
    for _ in range(2):
        assert main([*compared, str(page)]) == 0
        assert main([*traced, str(trace)]) == 0
        assert main([*traced, str(packed)]) == 0
    for path, argv in ((page, compared), (packed, traced)):
        path.write_bytes(b"something else")
        assert main([*argv, str(path)]) == 2
        assert path.read_bytes() == b"something else"
        assert main([*argv, str(path), "--force"]) == 0
        assert len(path.read_bytes()) > 1000
    # an input is refused always
    assert main(["compare", str(packed), str(packed), "--html", str(packed), "--force"]) == 2
    assert main(["trace", str(trace / "image.npy"), "-o", str(trace), *traced[2:4]]) == 2
    assert (trace / "image.npy").exists()


KILLED = """
import sys, time
import numpy as np
from tests.support.synthetic import TINY, synthetic_image, synthetic_tensors
from tinymixnet.debug.manifest import manifest_of
from tinymixnet.debug.traces import write_trace
from tinymixnet.model import Model
def layers():
    yield "stem/conv", np.zeros(3)
    print("ready", flush=True)
    time.sleep(60)
manifest = manifest_of(Model(TINY, synthetic_tensors(TINY)), synthetic_image(1, 32, 32))
write_trace(sys.argv[1], layers(), manifest)
"""


@pytest.mark.parametrize("name", ["trace", "trace.npz"])
def test_a_killed_trace_leaves_nothing_for_long(tmp_path: Path, name: str) -> None:
    argv = [sys.executable, "-c", KILLED, str(tmp_path / name)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert [entry[0] for entry in os.listdir(tmp_path)] == ["."]
    record(MODEL, PIXELS, tmp_path / name, ["logits"])
    assert os.listdir(tmp_path) == [name]
