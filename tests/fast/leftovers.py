"""What the tests of processes share: waiting for something, and seeing what stays behind."""

import os
import threading
import time

from benchmarks.soak import children

PATIENCE = 30  # seconds that what should happen soon may take: the machine may be busy


def left_behind():
    """Return the child processes, the number of open files and threads, and our shared memory."""
    shared = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else []
    ours = [name for name in shared if "tinymixnet" in name or "psm_" in name]
    return children(), len(os.listdir("/proc/self/fd")), threading.active_count(), ours


def soon(condition):
    """Whether a condition comes true within our patience."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
