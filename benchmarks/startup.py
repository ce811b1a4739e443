"""How long it takes to start: python -m benchmarks.startup

Times whole processes: Python alone, with NumPy, with tinymixnet, with the bundled weights loaded,
and the command `tinymixnet classify` on one photo. They take turns, and each line is the time
beyond the line before. The processor time is printed, too: it depends less on what else runs.
Only Linux and macOS tell it of a process that has ended, so this needs one of them.
"""

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

from benchmarks.measure import machine, markdown, progress, spread, written
from tinymixnet.cli import bundled_photos

ROUNDS = 9
STAGES = {
    "Python": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import tinymixnet": ["-c", "import tinymixnet"],
    "tinymixnet.load()": ["-c", "import tinymixnet; tinymixnet.load()"],
    "tinymixnet classify PHOTO": ["-m", "tinymixnet", "classify", str(bundled_photos()[0])],
}


class Run(NamedTuple):
    """What one process took, in seconds."""

    wall: float
    processor: float


def run(arguments: Sequence[str]) -> Run:
    """Run Python once, with one BLAS thread: more take longer to start, and nothing needs them."""
    before, start = processor_seconds(), perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    wall = perf_counter() - start
    return Run(wall, processor_seconds() - before)


def processor_seconds() -> float:
    """Return the processor time of all children that have ended.

    `os.times` has it, too, but counts in hundredths of a second: as long as Python takes to start.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(runs: dict[str, list[Run]]) -> str:
    """Return a table of the whole times, and what each stage adds to the one before."""
    rows, before = [], [0.0] * ROUNDS
    for stage, times in runs.items():
        wall = [1e3 * time.wall for time in times]
        more = [now - then for now, then in zip(wall, before, strict=False)]
        processor = [1e3 * time.processor for time in times]
        rows.append([stage, *(written(spread(ms), 0) for ms in (wall, more, processor))])
        before = wall
    return markdown(["whole process", "ms", "more than the line above", "processor ms"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup", description="how long it takes to start"
    )
    parser.add_argument("--quick", action="store_true", help="once, to try the command")
    rounds = 1 if parser.parse_args(arguments).quick else ROUNDS
    runs: dict[str, list[Run]] = {stage: [] for stage in STAGES}
    for number in range(-1, rounds):  # the first round fills the caches
        progress(f"round {number + 1} of {rounds}")
        for stage, command in STAGES.items():
            time = run(command)
            if number >= 0:
                runs[stage].append(time)
    facts = {"figures": f"medians of {rounds} rounds, and in brackets the quartiles"}
    print(machine(1, ["numpy", "h5py", "pillow"], facts))
    print(f"\n{table(runs)}")


if __name__ == "__main__":
    main()
