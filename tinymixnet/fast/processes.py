"""New Python processes of ours: how they start, and how they live through Ctrl-C.

Both `workers.py` (many photos, a process each) and `members.py` (one photo, cut into parts) start
their processes here. Such a process runs one function of this package and nothing else. So a script
needs no `if __name__ == "__main__"`, and no thread of the parent's BLAS is ever forked.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_process(
    function: Callable[..., None], *arguments: object, files: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """Start a new Python that calls a function of a module of ours, with one BLAS thread.

    arguments are whatever `repr` can write, such as numbers. files are the numbers of the open
    files that the process shall have, too. Raises OSError where no process can be started. Use it
    inside `interrupts_held`, so that Ctrl-C in a terminal, which goes to all processes, does not
    reach the new one.
    """
    path = [*sys.path, str(Path(__file__).resolve().parents[2])]
    module, name = function.__module__, function.__name__
    code = f"import sys; sys.path[:] = {path}; from {module} import {name}; {name}{arguments}"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # nothing may mix with the answers we print to ours
        env=os.environ | ONE_THREAD,
        pass_fds=files,  # Windows cannot do this
    )


def end_of(process: "subprocess.Popen[bytes]") -> str:
    """Wait for the end of a process that is dying, and return how it ended."""
    status = process.wait()
    return f"killed by signal {-status}" if status < 0 else f"exit code {status}"


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Make Ctrl-C wait until the block ends. A process started in the block never sees Ctrl-C.

    The new process inherits the signal mask. In this process the mask is not enough: a thread
    without it (BLAS has some) may take the signal, and Python then raises KeyboardInterrupt in the
    main thread. So the handler is replaced, too.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT)
    late: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: late.append(number)) if ours else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if ours:
            signal.signal(signal.SIGINT, before)
        if late:
            signal.raise_signal(signal.SIGINT)
