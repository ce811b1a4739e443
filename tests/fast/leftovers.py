"""What the tests of processes share: waiting for something, and seeing what stays behind."""

import itertools
import os
import threading
import time
from typing import NamedTuple

from benchmarks.soak import children, shared_memory

PATIENCE = 30  # seconds that what should happen soon may take: the machine may be busy


class State(NamedTuple):
    """What a test may leave behind."""

    children: set[int]
    files: int
    threads: int
    memory: set[str]  # the names of our shared memory


def state() -> State:
    """Return what there is now: our child processes, open files, threads and shared memory."""
    files = len(os.listdir("/proc/self/fd"))
    return State(set(children()), files, threading.active_count(), shared_memory())


def assert_nothing_stays_behind(before: State) -> None:
    """Fail if there is more than before. There may be less: other tests' threads end some day."""
    now = state()
    assert now.children <= before.children
    assert now.files <= before.files
    assert now.threads <= before.threads
    assert now.memory <= before.memory


def limit_with_room(more: int) -> int:
    """Return the limit of open files that leaves room for so many more.

    It counts numbers, and among those in use there may be free ones: other tests closed a file that
    they had opened before another one.
    """
    free = (number for number in itertools.count() if not is_open(number))
    return next(itertools.islice(free, more, None))


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def soon(condition):
    """Whether a condition comes true within our patience."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
