"""What the tests of processes share: waiting for something, and seeing what stays behind."""

import os
import threading
import time
from typing import NamedTuple

from benchmarks.soak import children

PATIENCE = 30  # seconds that what should happen soon may take: the machine may be busy


class State(NamedTuple):
    """What a test may leave behind."""

    children: set[int]
    files: int
    threads: int
    memory: set[str]  # the names of our shared memory


def state() -> State:
    """Return what there is now: our child processes, open files, threads and shared memory."""
    shared = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    ours = {name for name in shared if "tinymixnet" in name or "psm_" in name}
    files = len(os.listdir("/proc/self/fd"))
    return State(set(children()), files, threading.active_count(), ours)


def assert_nothing_stays_behind(before: State) -> None:
    """Fail if there is more than before. There may be less: other tests' threads end some day."""
    now = state()
    assert now.children <= before.children
    assert now.files <= before.files
    assert now.threads <= before.threads
    assert now.memory <= before.memory


def soon(condition):
    """Whether a condition comes true within our patience."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
