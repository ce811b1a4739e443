"""Many photos at once: worker processes that share one copy of the weights.

The parent hands out photos and puts the answers in order (`map_in_processes`). A worker answers one
photo after the other (`serve`). Workers are new Python processes that run nothing but this module.
So a script needs no `if __name__ == "__main__"`, and no thread of the parent's BLAS is ever forked.

Nothing is left behind. The weights lie in shared memory that is freed with the last process that
uses it, and a worker whose parent has died finds its pipe closed and ends.
"""

import contextlib
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinymixnet.engine.images import Source, read_image
from tinymixnet.errors import ImageError, InputError, TinyMixNetError
from tinymixnet.fast.shared_memory import Shared, attach, share

Answer = Any  # what the function returns for a photo, or the TinyMixNetError that it raises

READY, BEGUN = "ready", "begun"  # what a worker says besides its answers

AHEAD = 2  # photos a worker has at most: one in work, and one so that it need not wait for us
WINDOW = 4  # times as many photos as workers are on their way at most
MOST_DEATHS = 2  # of workers with the same photo in work
MOST_TRIES = 10  # with a photo: one that kills as it arrives is never in work
MOST_FAILED_STARTS = 5  # of workers, one after the other
ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class Failure(NamedTuple):
    """What stands for an answer when it is no user's mistake: raised when its turn comes."""

    error: Exception


@dataclass
class Photo:
    """A photo on its way to an answer, pickled; or, where that is not to be had, why."""

    index: int
    name: str
    pickled: bytes | TinyMixNetError | Failure
    deaths: int = 0  # of workers that had it in work
    tries: int = 0


# -- the parent -----------------------------------------------------------------------------------


def map_in_processes(
    function: Callable[[Any], Any], sources: Iterable[Source], workers: int = 2
) -> Generator[Answer, None, None]:
    """Call a function on many photos in `workers` processes; yield its results in their order.

    function is anything that can be pickled; the arrays in it are shared, not copied. It takes a
    path, bytes or a uint8 array. sources may be an endless generator: no more is taken from it than
    keeps the workers busy. Where the function raises a TinyMixNetError for a photo, that error is
    the answer. A photo that a worker dies on is tried once more in another.

    Raises InputError at once for unusable arguments, TinyMixNetError when no worker can start. When
    its turn comes, raises what the source raised, or RuntimeError for any other error in a worker.
    Workers start with the first `next`, and end with the last answer or the generator's `close`.
    """
    if sys.platform == "win32":
        raise TinyMixNetError("workers need Linux or macOS; here classify photos one by one")
    if workers < 1:
        raise InputError(f"workers={workers}: expected the number of processes, 1 or more")
    single = isinstance(sources, (str, bytes, os.PathLike)) or hasattr(sources, "read")
    if single or not isinstance(sources, Iterable):
        kind = type(sources).__name__
        raise InputError(f"sources: expected several images, such as a list, found {kind}")
    return _answers(function, _photos(sources), workers)


def _photos(sources: Iterable[Source]) -> Iterator[Photo]:
    """The sources, numbered and pickled now: the caller may well use an array again."""
    taken = 0
    try:
        for source in sources:
            name = f"image {taken}, counted from 0"
            if isinstance(source, (str, os.PathLike)):
                name = os.fsdecode(source)
            try:
                photo = Photo(taken, name, pickle.dumps(_portable(source), protocol=5))
            except TinyMixNetError as error:
                photo = Photo(taken, name, error)
            yield photo
            taken += 1
    except Exception as error:  # of the source: the answers before it come first
        yield Photo(taken, "", Failure(error))


def _portable(source: Source) -> str | bytes | np.ndarray:
    """The same image as something that can be pickled: read here if it is a file object, decoded
    here if it is a PIL image; all else is a worker's work."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, np.ndarray) and source.dtype == np.uint8:
        return source
    if hasattr(source, "read"):
        with contextlib.suppress(Exception):  # read_image will find the same, and say it well
            return io.BytesIO(source.read()).getvalue()
    return np.asarray(read_image(source))


def _answers(
    function: Callable[[Any], Any], photos: Iterator[Photo], workers: int
) -> Generator[Answer, None, None]:
    pool = WorkerPool(share(function), photos)
    due = 0  # the photo whose answer comes next
    try:
        pool.hire(workers)
        while True:
            pool.listen(timeout=0)
            if due in pool.answers:  # goes first: the source may take its time
                answer = pool.answers.pop(due)
                due += 1
                if isinstance(answer, Failure):
                    raise answer.error
                yield answer
            elif (worker := pool.idlest()) and (photo := pool.next_photo(due)):
                pool.give(photo, worker)
            elif worker and due == pool.taken:
                return
            else:
                pool.listen()
    finally:
        pool.dismiss()


class WorkerPool:
    """The workers, the photos that dead ones left undone, and the answers that are there."""

    def __init__(self, function: Shared, photos: Iterator[Photo]) -> None:
        self.function = function
        self.photos = photos
        self.taken = 0  # of the photos
        self.left: deque[Photo] = deque()
        self.answers: dict[int, Answer | Failure] = {}
        self.workers: list[Worker] = []
        self.failed_starts = 0

    def hire(self, number: int) -> None:
        for _ in range(number):
            with _interrupts_held():  # `dismiss` must know of every worker that was started
                self.workers.append(Worker(self.function))

    def idlest(self) -> "Worker | None":
        """The worker with the least to do, if any has room for a photo."""
        free = (worker for worker in self.workers if worker.ready and len(worker.photos) < AHEAD)
        return min(free, key=lambda worker: len(worker.photos), default=None)

    def next_photo(self, due: int) -> Photo | None:
        """One that a dead worker left, else a new one if that is not too far from the one due."""
        if self.left:
            return self.left.popleft()
        if self.taken >= due + WINDOW * len(self.workers):
            return None
        photo = next(self.photos, None)
        self.taken += photo is not None
        return photo

    def give(self, photo: Photo, worker: "Worker") -> None:
        if not isinstance(photo.pickled, bytes):
            self.answers[photo.index] = photo.pickled
            return
        photo.tries += 1
        worker.photos.append(photo)
        worker.send(photo.pickled)

    def listen(self, timeout: float | None = None) -> None:
        """Wait until a worker has an answer, is ready or has died, and see to it."""
        workers = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(workers), timeout):
            worker = workers[pipe]  # type: ignore[index]  # wait returns what it was given
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if message == READY:
                worker.ready = True
                self.failed_starts = 0
            elif message == BEGUN:
                worker.at_work = True
            else:
                worker.at_work = False
                self.answers[worker.photos.popleft().index] = message

    def _replace(self, dead: "Worker") -> None:
        """Hire another; only the photo in work is to blame, and at its second death given up."""
        self.workers.remove(dead)
        how = dead.end()
        if not dead.ready:
            self.failed_starts += 1
            if self.failed_starts == MOST_FAILED_STARTS:
                raise TinyMixNetError(
                    f"workers cannot start: {MOST_FAILED_STARTS} in a row died ({how}) before they "
                    "were ready; standard error may say why"
                )
        if dead.photos:
            photo = dead.photos[0]
            photo.deaths += dead.at_work
            if photo.deaths == MOST_DEATHS or photo.tries == MOST_TRIES:
                photo.pickled = ImageError(
                    f"{photo.name}: a worker process died twice on this image ({how}); does it "
                    "need more memory than there is, or crash its decoder?"
                )
        self.left.extendleft(reversed(dead.photos))
        self.hire(1)

    def dismiss(self) -> None:
        """End all workers at once: they hold nothing that could be lost."""
        with _interrupts_held():  # a second Ctrl-C comes after this
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.end()
            self.function.file.close()


class Worker:
    """A process at the other end of a pipe, and the photos it has, oldest first."""

    def __init__(self, function: Shared) -> None:
        self.ready = False  # to take photos
        self.at_work = False  # on the first of them
        self.photos: deque[Photo] = deque()
        self.pipe, theirs = Pipe()
        files = theirs.fileno(), function.file.fileno()
        path = [*sys.path, str(Path(__file__).resolve().parents[2])]
        code = f"import sys; sys.path[:] = {path}; from {__name__} import serve; serve{files}"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours may be a list of answers: nothing may mix in
                env=os.environ | ONE_THREAD,
                pass_fds=files,  # Windows has no such thing
            )
        self.send(pickle.dumps((function.pickled, function.places)))

    def send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has died: `listen` comes to know of it
            self.pipe.send_bytes(message)

    def end(self) -> str:
        """Wait for the end of a process that is dying, and say how it ended."""
        self.pipe.close()
        status = self.process.wait()
        return f"killed by signal {-status}" if status < 0 else f"exit code {status}"


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the block ends; a process started in it never gets to see it.

    The mask is for that process, which inherits it. For us it is not enough: any thread without it,
    BLAS has some, may take the signal, and Python then raises KeyboardInterrupt in the main thread.
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


# -- the worker -----------------------------------------------------------------------------------


def serve(pipe_file: int, shared_file: int) -> None:
    """Be a worker, with the files that `Worker` passes on, until the pipe ends."""
    pipe = Connection(pipe_file)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    function = attach(shared_file, *pickle.loads(inbox.get()))
    answer: Answer | Failure
    try:
        pipe.send(READY)
        while True:
            pickled = inbox.get()
            pipe.send(BEGUN)
            try:
                answer = function(pickle.loads(pickled))
            except TinyMixNetError as error:
                answer = error
            except Exception:
                trace = traceback.format_exc()
                answer = Failure(RuntimeError(f"unexpected error in a worker process:\n{trace}"))
            pipe.send(answer)
    except OSError:  # the parent is gone
        os._exit(0)


def _receive(pipe: Connection, inbox: "queue.SimpleQueue[bytes]") -> None:
    """Empty the pipe at once, however busy we are: else parent and worker, both sending, could
    wait for each other for ever. And end with the parent, also in the middle of a photo."""
    try:
        while True:
            inbox.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)
