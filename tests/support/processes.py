"""Run a command and learn what it took."""

import json
import subprocess
import sys
from typing import NamedTuple

# Between us and the command stands a small process. The peak memory of a process counts that of
# the one it was forked from, and ours has had TensorFlow in it.
MEASURE = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
seconds = usage.ru_utime + usage.ru_stime
print("\\n" + json.dumps([status, usage.ru_maxrss * unit, seconds]))
"""


class Measured(NamedTuple):
    """What a command printed, on both streams together, and what it took."""

    returncode: int
    output: str
    peak: int  # bytes of memory
    seconds: float  # of the processor, which other programs do not change


def run_measured(command: list[str], timeout: float = 300) -> Measured:
    """Run a command to its end."""
    run = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=True,
    )
    output, _, figures = run.stdout.rstrip("\n").rpartition("\n")
    status, peak, seconds = json.loads(figures)
    return Measured(status, output, peak, seconds)
