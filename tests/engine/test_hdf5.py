"""Foreign HDF5 files end in one of our errors or in the right arrays; they do no other harm."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.engine.test_weights import GOOD, good_bytes, same
from tests.support.shared import SHARED
from tinymixnet.debug.traces import open_trace
from tinymixnet.engine import hdf5, hdf5_structure
from tinymixnet.engine.hdf5 import Hdf5File
from tinymixnet.engine.weights import BUNDLED, read_weights
from tinymixnet.errors import TinyMixNetError, TraceError, WeightsError

OLDEST = ("earliest", "v108")  # a layout without checksums on its structures
ARRAYS = {
    "plain": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "group/packed": np.arange(1000, dtype=np.float64).reshape(10, 100),
    "group/chunked": np.arange(60, dtype=np.int16).reshape(6, 10),
    "group/inner/half": np.linspace(0, 1, 50, dtype=np.float16),
    "big": np.arange(8, dtype=">i4"),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(3.5),
}


def write_dump(path: Path, libver: object = OLDEST) -> Path:
    with h5py.File(path, "w", libver=libver) as file:
        for name, array in ARRAYS.items():
            how = {}
            if "packed" in name:
                how = {"chunks": (3, 30), "compression": "gzip", "shuffle": True}
            elif "chunked" in name:
                how = {"chunks": (4, 4)}
            file.create_dataset(name, data=array, **how)
    return path


def read_all(path: Path) -> dict[str, np.ndarray]:
    trace = open_trace(path)
    return {name: trace[name] for name in trace.names}


@pytest.mark.parametrize("libver", [OLDEST, ("v110", "v110"), "latest"])
def test_every_way_of_storing_comes_back(libver: object, tmp_path: Path) -> None:
    arrays = read_all(write_dump(tmp_path / "x.h5", libver))
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert np.array_equal(arrays[name], array), name


# -- sizes that lie -------------------------------------------------------------------------------


def chunk_that_lies(path: Path, stored: int) -> Path:
    """One chunk of 40 bytes without filters, whose record claims another number of bytes."""
    with h5py.File(path, "w", libver=OLDEST) as file:
        dataset = file.create_dataset("logits", (1, 10), np.float32, chunks=(1, 10))
        dataset[...] = 7
    data = bytearray(path.read_bytes())
    # The key of a chunk in a version 1 B-tree: its size, the filter mask, then its first indices.
    key = struct.pack("<IIQQQ", 40, 0, 0, 0, 0)
    assert data.count(key) == 1
    data[data.index(key) : data.index(key) + 4] = struct.pack("<I", stored)
    path.write_bytes(data + bytes(1 << 16))  # so that the file is long enough for the lie
    return path


@pytest.mark.parametrize("stored", [0, 1, 39, 41, 51, 4136, 1 << 31])
def test_a_chunk_with_another_size_than_it_has_is_refused(stored: int, tmp_path: Path) -> None:
    path = chunk_that_lies(tmp_path / "x.h5", stored)
    with pytest.raises(TraceError, match=r"damaged|nothing stored"):
        read_all(path)
    assert read_all(chunk_that_lies(path, 40))["logits"].max() == 7


@pytest.mark.skipif(not (SHARED / "faults").is_dir(), reason="needs ../shared/faults")
def test_the_files_that_overflowed_the_heap(tmp_path: Path) -> None:
    for path in sorted((SHARED / "faults" / "hdf5_overflow").glob("*.h5")):
        with pytest.raises(TraceError, match=path.name):
            read_all(path)


def test_the_library_never_copies_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """However the file is made, h5py's own ways to read values are not used."""

    def forbidden(*_: object) -> None:
        pytest.fail("the HDF5 library was asked for values")

    path = write_dump(tmp_path / "x.h5")
    monkeypatch.setattr(h5py.Dataset, "__getitem__", forbidden)
    monkeypatch.setattr(h5py.Dataset, "read_direct", forbidden)
    monkeypatch.setattr(hdf5, "describe_in_child", hdf5_structure.describe)
    assert np.array_equal(read_all(path)["plain"], ARRAYS["plain"])
    read_weights(BUNDLED)


def test_a_group_in_two_places_and_links_are_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("a")
        group["x"] = np.zeros(3)
        file["b"] = group
        file["c"] = h5py.SoftLink("/a/x")
        file["d"] = h5py.ExternalLink("/etc/passwd", "x")
    problems = Hdf5File(tmp_path / "x.h5", isolated=True).structure.problems
    assert [problem.split(":")[0] for problem in problems] == ["b", "c", "d"]


# -- a crash or a loop in the library -------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"makes the HDF5 library crash \(signal 11\)"),
        ("raise SystemExit(3)", r"crash \(exit code 3\)"),
        ("import time; time.sleep(60)", "over 0.2 s"),
        ("print('{')", "cannot be told"),
        ("print('[1, 2]')", "cannot be told"),
        ('print(\'{"structure": [{"x": [[1], "O8", "", [], null, []]}, {}, []]}\')', "type O8"),
        (
            'print(\'{"structure": [{"x": [[1], "<f4", "", [], null, [[[0], 9, -1]]]}, {}, []]}\')',
            "beyond the end",
        ),
    ],
)
def test_what_happens_to_the_child_is_the_files_fault(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dump(tmp_path / "x.h5")
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    if "sleep" in code:
        monkeypatch.setattr(hdf5, "CHILD_SECONDS", 0.2)
    with pytest.raises(TraceError, match=message):
        read_all(path)


def test_dumps_are_never_opened_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("opened here")

    new, old = write_dump(tmp_path / "n.h5", "latest"), write_dump(tmp_path / "o.h5")
    monkeypatch.setattr(h5py, "File", forbidden)
    read_all(new)
    read_all(old)
    with pytest.raises(WeightsError, match="expected format"):  # no checksums: in a child as well
        read_weights(old)


# -- threads --------------------------------------------------------------------------------------


def test_eight_threads_load_while_another_uses_h5py(tmp_path: Path) -> None:
    """In a process of its own, because it died of this."""
    program = """
import sys, threading
import h5py, numpy as np
from tinymixnet.engine.weights import BUNDLED, read_weights
ended, answers = threading.Event(), []
def load():
    for _ in range(3):
        answers.append(read_weights(BUNDLED).tensors["logits/bias"].sum())
def others():
    while not ended.is_set():
        with h5py.File(sys.argv[1], "w") as file:
            file.create_dataset("x", data=np.zeros((50, 50)), chunks=(5, 5), compression="gzip")
            file["x"][...]
busy = threading.Thread(target=others)
busy.start()
loading = [threading.Thread(target=load) for _ in range(8)]
[thread.start() for thread in loading]
[thread.join() for thread in loading]
ended.set()
busy.join()
assert len(answers) == 24 and len(set(answers)) == 1, answers
print("right")
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "theirs.h5")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (run.stdout, run.returncode) == ("right\n", 0), run.stderr


def test_a_lock_of_h5pys_is_held_while_the_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds h5py's lock keeps us out."""
    from h5py._objects import phil

    loaded = threading.Event()
    thread = threading.Thread(target=lambda: (read_weights(BUNDLED), loaded.set()))
    with phil:
        thread.start()
        assert not loaded.wait(0.5)
    thread.join(60)
    assert loaded.is_set()


# -- mutated files --------------------------------------------------------------------------------

SECONDS = 10  # of computing for one file, which takes some milliseconds


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a few places: a bit, a byte, a number of two to eight bytes, a run; or cut the end."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed))
        how = rng.randrange(6)
        if how == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            changed[at] = rng.randrange(256)
        elif how == 2:
            size = rng.choice((2, 4, 8))
            number = rng.choice(
                (0, 1, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 62, (1 << 64) - 1)
            )
            changed[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif how == 3:
            other = rng.randrange(len(changed))
            changed[at : at + 16] = changed[other : other + 16]
        elif how == 4:
            changed[at : at + 8] = bytes(8)
        else:
            del changed[max(at, 512) :]
    return bytes(changed)


def sweep(source: str, scratch: str, first: str, last: str, ours: str) -> None:
    """Read mutations number `first` to `last` of a file; print a line for each, then its end.

    The structure is read here and not in a child: this process stands for all of these children. An
    endless loop in the library ends it by SIGPROF.
    """
    hdf5.describe_in_child = hdf5_structure.describe
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    data = Path(source).read_bytes()
    for i in range(int(first), int(last)):
        print(i, flush=True)
        Path(scratch).write_bytes(mutate(data, random.Random(i)))
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            if ours == "weights":
                assert same(read_weights(scratch), GOOD), "wrong tensors"
            else:
                for name, array in read_all(Path(scratch)).items():
                    assert array.size < 1 << 24, name
        except TinyMixNetError:
            pass


def old_layout(tmp_path: Path) -> Path:
    """The good weights, as someone stored them in HDF5's oldest layout."""
    (tmp_path / "good.h5").write_bytes(good_bytes())
    old = tmp_path / "old.h5"
    with h5py.File(tmp_path / "good.h5") as good, h5py.File(old, "w", libver=OLDEST) as file:
        for name in (*GOOD.tensors, "labels"):
            tensor = good[name]
            packed = {"chunks": tensor.chunks, "compression": "gzip", "shuffle": True}
            file.create_dataset(
                name, data=tensor[()], dtype=tensor.dtype, **(packed if tensor.chunks else {})
            )
        for name, value in good.attrs.items():
            file.attrs[name] = value
    assert same(read_weights(old), GOOD)
    return old


@pytest.mark.parametrize("kind", ["weights", "old weights", "dump", "old dump"])
def test_mutated_files_end_in_our_error_or_in_the_right_tensors(
    kind: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """500 files, or 20,000 with --whole. A crash is that of a child, and so one of our errors."""
    total = 5000 if pytestconfig.getoption("--whole", default=False) else 125
    source = tmp_path / "source.h5"
    if kind == "old weights":
        source = old_layout(tmp_path)
    elif kind == "weights":
        source.write_bytes(good_bytes())
    else:
        write_dump(source, OLDEST if kind == "old dump" else ("v110", "v110"))
    done, crashes = 0, 0
    while done < total:
        arguments = [source, tmp_path / "x.h5", done, total, kind.split()[-1]]
        run = subprocess.run(
            [sys.executable, "-m", __name__, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        last = int(run.stdout.splitlines()[-1])
        assert run.returncode <= 0, (last, run.stderr)  # above 0: an exception that is not ours
        crashes += run.returncode < 0
        assert run.returncode == 0 or "old" in kind, (last, run.returncode)  # those go to a child
        done = last + 1
    print(kind, total, "files,", crashes, "crashes")


if __name__ == "__main__":
    sweep(*sys.argv[1:])
