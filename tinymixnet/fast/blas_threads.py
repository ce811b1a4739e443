"""One BLAS thread while the network runs, and the user's own number of threads afterwards.

NumPy hands matrix products to a BLAS library, which by itself uses all cores. For this network that
does not pay: only the products use the second core, the steps between them do not, and the threads
wait for each other after every product. On a busy machine the waiting is most of the time. So a run
takes one thread, like a single core; `team.py` is the way to use more of them.

The number of threads belongs to the whole process, and the user's own code may want all of them. So
it is lowered only while some thread is inside `one_blas_thread`, and then set back. OpenBLAS, which
NumPy's wheels for Linux have inside, has functions for that. Other libraries, such as MKL or
Apple's Accelerate, are left alone: docs/cores.md says what to set for them.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from typing import NamedTuple


class OpenBLAS(NamedTuple):
    """The two functions of NumPy's OpenBLAS."""

    threads: Callable[[], int]
    set_threads: Callable[[int], object]


@lru_cache(1)
def openblas() -> OpenBLAS | None:
    """Find the functions in the library that NumPy has loaded; None where it is another BLAS.

    A library is asked for a name together with all those that it needs. So it is enough to know
    NumPy's own file; Windows alone does not search like that, and there we find nothing.
    """
    names = "numpy._core._multiarray_umath", "numpy.core._multiarray_umath"  # NumPy 2 and 1
    numpy = next(sys.modules[name] for name in names if name in sys.modules)
    try:
        library = ctypes.CDLL(numpy.__file__)
    except OSError:
        return None
    for prefix, suffix in product(("scipy_", ""), ("64_", "")):
        get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
        set_ = getattr(library, f"{prefix}openblas_set_num_threads{suffix}", None)
        if get and set_:
            set_.argtypes, set_.restype = [ctypes.c_int], None
            return OpenBLAS(get, set_)
    return None


class _Runs:
    """Which threads of this process are in a run, and how many BLAS threads there were before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[int] = set()  # threads; a set, not a count: Ctrl-C may come at any place
        self.before = 1


_runs = _Runs()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS work with one thread until the block ends; several threads may be inside at once.

    Whoever sets another number meanwhile, keeps it.
    """
    blas, me = openblas(), threading.get_ident()
    if blas is None:
        yield
        return
    try:
        with _runs.lock:
            if not _runs.inside:
                _runs.before = blas.threads()
            _runs.inside.add(me)
            if _runs.before > 1:
                blas.set_threads(1)
        yield
    finally:
        with _runs.lock:
            if _runs.inside == {me} and _runs.before > 1 and blas.threads() == 1:
                blas.set_threads(_runs.before)
            _runs.inside.discard(me)


def _after_fork() -> None:
    """Of all threads a new process has only the one that forked; its BLAS begins as the user's."""
    inside, before = _runs.inside, _runs.before
    _runs.__init__()  # type: ignore[misc]  # the lock may have been held
    blas = openblas() if inside else None
    if blas is not None and before > 1:
        blas.set_threads(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
