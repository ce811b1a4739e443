"""Long runs, in which leaks, races and slow drifts show: python -m benchmarks.soak

Each check runs in a process of its own and prints one line with its figures. The exit code is 0 if
all checks pass, else 1. --quick is a short form for the tests, --check NAME runs a single one.
"""

import argparse
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.weights import made_up_weights, pictures, write_made_up_weights
from tinymixnet.engine.architecture import mixnet
from tinymixnet.errors import ImageError
from tinymixnet.model import Model, Prediction, load

SIZE = 64  # pixels a side
DIFFERENT = 20  # pictures; the runs repeat them
DRIFT_BYTES = 8 << 20  # what memory may grow by: the allocator does not return every page at once
SECONDS = 900  # for a check, after which it has failed
PROC = Path("/proc")


class SoakError(Exception):
    """A check that failed; the text says how."""


# -- watching memory and processes ----------------------------------------------------------------


def memory_in_use() -> int:
    """Return the bytes of this process's memory that are in RAM (Linux only, else 0)."""
    with suppress(OSError):
        return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return 0


def processes() -> Iterator[tuple[int, int, int]]:
    """Yield (process id, its parent's, its group's) of all processes (Linux only, else none)."""
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            _, parent, group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            continue
        yield int(stat.parent.name), int(parent), int(group)


def command_line(process: int) -> bytes:
    try:
        return (PROC / str(process) / "cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def children(of: int | None = None) -> list[int]:
    """Return the ids of a process's children, by default our own, also of those ended but kept.

    Python's resource tracker is left out: it starts once, and stays.
    """
    parent_wanted = of or os.getpid()
    ids = [process for process, parent, _ in processes() if parent == parent_wanted]
    return [process for process in ids if b"resource_tracker" not in command_line(process)]


class Traces(NamedTuple):
    """What a program may leave behind: the same before and after a run that cleans up."""

    processes: int
    threads: int
    open_files: int
    shared_memory: int


def shared_memory() -> set[str]:
    """Return the names of shared memory that may be ours: a browser has some there, too."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {name for name in names if "tinymixnet" in name or name.startswith("psm_")}


def traces() -> Traces:
    def entries(folder: str) -> int:
        return len(os.listdir(folder)) if os.path.isdir(folder) else 0

    shared = len(shared_memory())
    return Traces(len(children()), threading.active_count(), entries("/proc/self/fd"), shared)


def require_flat(before: int, after: int, what: str) -> str:
    """Raise SoakError if memory grew by more than DRIFT_BYTES; return by how much it grew."""
    grown = f"memory {(after - before) / 1e6:+.1f} MB"
    if after - before > DRIFT_BYTES:
        raise SoakError(f"{grown} over {what}, at most {DRIFT_BYTES / 1e6:.1f} MB are allowed")
    return grown


def require_same(answer: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise SoakError unless two answers agree in every bit."""
    if not np.array_equal(answer, expected):
        raise SoakError(f"{what}: another answer than the first time")


# -- the checks -----------------------------------------------------------------------------------


def images(quick: bool) -> str:
    """Many images, one after another: memory stays flat, answers stay the same bit for bit."""
    count = 600 if quick else 20_000
    model = Model(*made_up_weights(mixnet("mixnet-s"), SIZE))
    batch = pictures(DIFFERENT, SIZE).astype(np.uint8)
    expected = [model(image[np.newaxis]) for image in batch]
    before = 0
    for i in range(count):
        if i == count // 10:  # by then every buffer has its size
            before = memory_in_use()
        answer = model(batch[i % DIFFERENT][np.newaxis])
        require_same(answer, expected[i % DIFFERENT], f"image {i}")
    grown = require_flat(before, memory_in_use(), f"{count - count // 10:,} images")
    return f"{count:,} images of {SIZE} px, equal bit for bit, {grown}"


def photos(quick: bool) -> str:
    """Many photos through `Model.map`, some broken, while workers are killed now and then."""
    count, every = (100, 30) if quick else (2_000, 100)
    model = Model(*made_up_weights(mixnet("mixnet-s"), SIZE))
    files = [encoded(picture) for picture in pictures(DIFFERENT, SIZE).astype(np.uint8)]
    expected = [model.classify(file) for file in files]
    broken = set(random.Random(0).sample(range(count), count // 20))
    before, killed = traces(), 0

    def source() -> Iterator[bytes]:
        nonlocal killed
        for i in range(count):
            if i % every == every - 1 and (workers := children()):
                os.kill(random.choice(workers), signal.SIGKILL)
                killed += 1
            file = files[i % DIFFERENT]
            yield file[: len(file) // 3] if i in broken else file

    answered = 0
    for i, answer in enumerate(model.map(source(), workers=2)):
        answered += 1
        if isinstance(answer, ImageError) != (i in broken):
            raise SoakError(
                f"photo {i}: {answer}, although it is {'' if i in broken else 'not '}broken"
            )
        if not isinstance(answer, Exception):
            require_close(answer, expected[i % DIFFERENT], f"photo {i}")
    if answered != count:
        raise SoakError(f"{answered} answers for {count} photos")
    if (after := traces()) != before:
        raise SoakError(f"left behind: {after}, before it was {before}")
    figures = f"{count:,} photos, {len(broken)} broken, {killed} workers killed"
    return f"{figures}: all answers in order, nothing left behind"


def encoded(picture: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def require_close(answer: list[Prediction], expected: list[Prediction], what: str) -> None:
    """Raise SoakError unless answers agree; a worker's BLAS may add up in another order."""
    same = [p.index for p in answer] == [p.index for p in expected] and np.allclose(
        [p.probability for p in answer], [p.probability for p in expected], rtol=1e-3
    )
    if not same:
        raise SoakError(f"{what}: {answer}, expected {expected}")


def threads(quick: bool) -> str:
    """Eight threads load weights and answer at once, while another one reads and writes HDF5."""
    import h5py

    rounds, workers = (2 if quick else 60), 8
    image = pictures(1, SIZE)
    loads, writes, errors = [0] * workers, 0, []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.h5"
        write_made_up_weights(path, mixnet("mixnet-s"), SIZE)
        expected = [load(path)(image), load()(image)]

        def answer(number: int) -> None:
            try:
                for i in range(rounds):
                    bundled = (number + i) % 4 == 0  # it is larger, and takes longer
                    model = load() if bundled else load(path)
                    require_same(model(image), expected[bundled], f"thread {number}")
                    loads[number] += 1
            except Exception as error:
                errors.append(f"thread {number}: {type(error).__name__}: {error}")

        def use_h5py() -> None:
            nonlocal writes
            values = np.arange(10_000, dtype=np.float32)
            try:
                while not ended.is_set():
                    with h5py.File(Path(folder) / "other.h5", "w") as file:
                        file.create_dataset("values", data=values, chunks=True, compression="gzip")
                    with h5py.File(Path(folder) / "other.h5") as file:
                        require_same(file["values"][()], values, "h5py")
                    writes += 1
            except Exception as error:
                errors.append(f"the thread with h5py: {type(error).__name__}: {error}")

        other = threading.Thread(target=use_h5py)
        answering = [threading.Thread(target=answer, args=(n,)) for n in range(workers)]
        for thread in (other, *answering):
            thread.start()
        for thread in answering:
            thread.join()
        ended.set()
        other.join()
    if errors:
        raise SoakError(f"{len(errors)} threads failed; {errors[0]}")
    return f"{sum(loads)} loads and answers in {workers} threads, {writes} files by another: equal"


def sizes(quick: bool) -> str:
    """Many input sizes in turn: memory stays bounded, and a size gives its old answer again."""
    count = 12 if quick else 200
    model = Model(*made_up_weights(mixnet("mixnet-s"), SIZE))
    expected: dict[tuple[int, int], np.ndarray] = {}
    peaks = [0, 0, 0]  # of each turn: between sizes, memory goes up and down with them
    for turn in range(len(peaks)):
        for i in range(count):
            h, w = 32 + 7 * i % 200, 32 + 11 * i % 200
            answer = model(pictures(1, max(h, w))[:, :h, :w])
            require_same(answer, expected.setdefault((h, w), answer), f"{h} x {w} pixels")
            peaks[turn] = max(peaks[turn], memory_in_use())
    grown = require_flat(peaks[0], peaks[-1], f"{2 * count} changes of size")
    return f"{len(expected)} input sizes in turn, {len(peaks)} times: equal bit for bit, {grown}"


CHECKS: dict[str, Callable[[bool], str]] = {
    check.__name__: check for check in (images, photos, threads, sizes)
}


# -- the command ----------------------------------------------------------------------------------


def run_apart(name: str, quick: bool) -> bool:
    """Run a check in a process of its own, which may crash or hang. Print its line."""
    command = [sys.executable, "-m", "benchmarks.soak", "--check", name, *["--quick"] * quick]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        passed, line = done.returncode == 0, done.stdout.strip()
        if not passed and not line:  # killed by a signal, or a traceback
            last = (done.stderr.strip().splitlines() or [""])[-1]
            line = f"{name}: FAILED, ended with code {done.returncode} {last}".strip()
    except subprocess.TimeoutExpired:
        passed, line = False, f"{name}: FAILED, no end after {SECONDS} s"
    print(f"{line} ({time.monotonic() - start:.0f} s)", flush=True)
    return passed


def run_here(name: str, quick: bool) -> bool:
    try:
        print(f"{name}: {CHECKS[name](quick)}", flush=True)
    except SoakError as error:
        print(f"{name}: FAILED, {error}", flush=True)
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="long runs, in which leaks and races show"
    )
    parser.add_argument("--quick", action="store_true", help="a short form, for the tests")
    parser.add_argument("--check", choices=CHECKS, help="run this check alone, in this process")
    options = parser.parse_args(arguments)
    if options.check:
        return 0 if run_here(options.check, options.quick) else 1
    passed = [run_apart(name, options.quick) for name in CHECKS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
