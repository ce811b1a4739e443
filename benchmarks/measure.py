"""How to time several programs fairly: each in its own process, in turns, with the same settings.

The machine's speed drifts. So every round times all sides, each round in another order, and a
ratio compares two times of the same round. A process that is not being timed waits idly.
"""

import ctypes
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SETTLE = 0.05  # seconds between turns: thread pools keep spinning for a moment after a task
SMALLEST = 80  # a class so far below the best one has a probability below 1e-34
FEWEST_ROUNDS = 3  # a median of fewer says little
TOLERANCE = 1e-4  # how far two sides' logits may differ, relative to the largest logit
OWN_CHOICE = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # where unset, OpenBLAS chooses


class BenchmarkError(Exception):
    """A side failed or computes something else, so there is nothing to compare."""


# -- processes ------------------------------------------------------------------------------------


def environment(threads: int, as_set: bool) -> dict[str, str]:
    """Return the environment variables of a side's process.

    as_set: keep the BLAS kernels that this machine's environment chooses.
    """
    kept = {k: v for k, v in os.environ.items() if as_set or k not in OWN_CHOICE}
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return kept | dict.fromkeys(names, str(threads)) | {"TF_CPP_MIN_LOG_LEVEL": "3"}


class Server:
    """A side in a process of its own; server.py lists the questions that it answers."""

    def __init__(self, side: str, threads: int, weights: Path, as_set: bool = False) -> None:
        self.side = side
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", side, str(threads), str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=environment(threads, as_set),
        )

    def ask(self, do: str, **question: Any) -> dict[str, Any]:
        """Return the answer; BenchmarkError, with the process's last words, where it has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **question}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has died, and the missing answer below says so
        if answer := self.process.stdout.readline():
            return json.loads(answer)
        status = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read()[-2000:]
        raise BenchmarkError(f"{self.side} died with exit status {status}:\n{said}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep a core busy with another process until the block ends, as on a shared machine."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def progress(message: str) -> None:
    """Say on standard error what is being done; a terminal shows it in one line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
    else:
        print(message, file=sys.stderr, flush=True)


# -- timing ---------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What to time: one server with one batch."""

    server: Server
    size: int  # height and width in pixels
    batch: int


class Timing(NamedTuple):
    """The measurements of one job."""

    seconds: list[float]  # for the whole batch; one median for each round
    busy: float  # the mean number of cores that were computing


def in_turns(
    jobs: Sequence[Job], rounds: int, calls: int, most_seconds: float = math.inf
) -> list[Timing]:
    """Time all jobs in every round, in random order, each for `calls` images in a row.

    After `most_seconds` no round begins but the first FEWEST_ROUNDS.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    busy: list[list[float]] = [[] for _ in jobs]
    order, shuffle = list(range(len(jobs))), random.Random(0).shuffle
    end = perf_counter() + most_seconds
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and perf_counter() > end:
            break
        progress(f"round {number + 1} of {rounds}")
        shuffle(order)
        for i in order:
            server, size, batch = jobs[i]
            sleep(SETTLE)
            turn = server.ask("time", size=size, batch=batch, calls=max(1, calls // batch))
            seconds[i].append(median(turn["seconds"]))
            busy[i].append(turn["busy"])
    return [Timing(s, median(b)) for s, b in zip(seconds, busy, strict=True)]


def check_logits(side: str, logits: np.ndarray, expected: np.ndarray) -> None:
    """Check that a side computes the same network; raise BenchmarkError where it does not.

    Both are (N, classes). The logits of an image may differ by one constant, which softmax drops.
    A side that knows only probabilities gives -infinity for those that softmax has rounded to 0;
    ours has to be SMALLEST below the largest there.
    """
    if logits.shape != expected.shape:
        raise BenchmarkError(f"{side}: logits of shape {logits.shape}, not {expected.shape}")
    lost = np.isneginf(logits)
    rightly_lost = not (lost & (expected > expected.max(axis=1, keepdims=True) - SMALLEST)).any()
    error = np.ma.masked_where(lost, np.where(lost, 0, logits) - expected)
    error -= error.mean(axis=1, keepdims=True)
    worst = float(np.abs(error).max() / np.abs(expected).max())
    if not (worst <= TOLERANCE and rightly_lost):
        raise BenchmarkError(
            f"{side} computes something else: its logits differ from tinymixnet's by {worst:.1e} "
            f"of the largest, expected {TOLERANCE:g} at most; its times would prove nothing"
        )


# -- numbers --------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """The quartiles of several measurements: half of them lie between low and high."""

    low: float
    middle: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(v) for v in np.percentile(values, [25, 50, 75])))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the quartiles of the ratios ours / theirs, one ratio for each round."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def written(value: Spread, digits: int) -> str:
    """Write a spread as middle (low-high), e.g. 21.3 (21.0-22.1)."""
    low, middle, high = (f"{v:.{digits}f}" for v in value)
    return f"{middle} ({low}-{high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], rule: Sequence[str] = ()) -> str:
    """Return a table; the columns but the first are aligned right, unless rule says otherwise."""
    rule = rule or ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


# -- the machine ----------------------------------------------------------------------------------


def blas_kernels() -> str:
    """Return the kernels that the OpenBLAS in NumPy's wheel runs, e.g. "SkylakeX"."""
    package = Path(np.__file__).parent
    libraries = [*package.parent.glob("numpy.libs/*blas*"), *package.glob(".dylibs/*blas*")]
    for library in libraries:
        try:
            openblas = ctypes.CDLL(str(library))
        except OSError:
            continue
        for prefix in ("scipy_openblas", "openblas"):
            for suffix in ("64_", ""):
                if ask := getattr(openblas, f"{prefix}_get_corename{suffix}", None):
                    ask.restype = ctypes.c_char_p
                    return ask().decode()
    return "unknown"


def chosen_kernels(as_set: bool) -> str:
    """Return the BLAS kernels of a process with the environment of those that are timed."""
    code = "from benchmarks.measure import blas_kernels; print(blas_kernels())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(1, as_set),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cache_sizes() -> str:
    """Return the data caches of the first core, e.g. "caches: L1 48 KiB, L2 1280 KiB"."""
    sizes = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((cache / f).read_text().strip() for f in ("level", "type", "size"))
        if kind != "Instruction":
            sizes.append(f"L{level} {size.removesuffix('K')} KiB")
    return "caches: " + (", ".join(sizes) or "unknown")


def machine(cores: int, packages: Sequence[str], facts: Mapping[str, str]) -> str:
    """Return the machine, the software and further facts, as a list for README.md."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    variables = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith("OPENBLAS_")]
    lines = [
        f"{processor()}, {cores} core{'s' * (cores > 1)} used; {cache_sizes()}",
        f"Python {platform.python_version()}, {', '.join(versions)}",
        f"the machine sets {', '.join(variables) or 'no OPENBLAS_ variable'}",
        *(f"{name}: {value}" for name, value in facts.items()),
    ]
    return "\n".join(f"- {line}" for line in lines)
