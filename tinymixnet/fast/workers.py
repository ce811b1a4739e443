"""Many photos at once: worker processes that share one copy of the weights.

The parent hands out photos and puts the answers in order (`map_in_processes`). A worker answers one
photo after another (`serve`). Workers are new Python processes that run nothing but this module. So
a script needs no `if __name__ == "__main__"`, and no thread of the parent's BLAS is ever forked.

Nothing is left behind. The weights lie in shared memory that is freed with the last process that
uses it. A worker whose parent has died finds its pipe closed, and ends.
"""

import contextlib
import os
import pickle
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any, NamedTuple

import numpy as np

from tinymixnet.engine.budget import budget
from tinymixnet.engine.images import Source, read_image
from tinymixnet.engine.photo_files import read_bounded
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, printable
from tinymixnet.fast.processes import end_of, interrupts_held, start_process, usable_cores
from tinymixnet.fast.shared_memory import Shared, attach, share

Answer = Any  # what the function returns for a photo, or the TinyMixNetError that it raises

READY, BEGUN = "ready", "begun"  # what a worker says besides its answers

AHEAD = 2  # photos a worker has at most: one in work, and the next, so that it need not wait
WINDOW = 4  # photos for each worker that may be taken from the source but not yet answered
MOST_DEATHS = 2  # of workers with the same photo in work; after that it gets an error
MOST_TRIES = 10  # to send a photo: one that kills a worker as it arrives is never "in work"
MOST_FAILED_STARTS = 5  # of workers, one after another; after that `map_in_processes` gives up


class Failure(NamedTuple):
    """An error that is no user's mistake. It is raised when the answer's turn comes."""

    error: Exception


@dataclass
class Photo:
    """A photo that has no answer yet."""

    index: int
    name: str
    pickled: bytes | TinyMixNetError | Failure  # an error if the photo cannot be sent to a worker
    deaths: int = 0  # of workers that had it in work
    tries: int = 0  # how often it was sent to a worker


# -- the parent -----------------------------------------------------------------------------------


def map_in_processes(
    function: Callable[[Any], Any], sources: Iterable[Source], workers: int = 2
) -> Generator[Answer, None, None]:
    """Call a function on many photos in up to `workers` processes; yield the results in order.

    function is anything that can be pickled; the arrays in it are shared, not copied. It takes a
    path, bytes or a uint8 array. If it raises a TinyMixNetError for a photo, that error is the
    result. A photo on which a worker dies is tried once more by another worker.

    sources may be an endless generator: photos are taken from it only as fast as workers need them.
    A worker is started only when there is a photo for it, and there are never more workers than
    usable cores, since further ones would only take turns with them and use more memory.

    Raises InputError at once when sources is a single photo or not iterable, and TinyMixNetError
    when workers cannot be started. When its turn comes, raises what the source has raised, or
    RuntimeError for any other error in a worker. Workers start with the first `next`, and end with
    the last result or the generator's `close`.
    """
    if sys.platform == "win32":
        raise TinyMixNetError("workers need Linux or macOS; here classify photos one by one")
    if _is_single(sources) or not isinstance(sources, Iterable):
        kind = type(sources).__name__
        raise InputError(f"sources: expected several images, such as a list, found {kind}")
    return _answers(function, _photos(sources), min(workers, usable_cores()))


def _is_single(sources: Any) -> bool:
    """Tell a photo from a collection of photos, although one can iterate over it, too."""
    if isinstance(sources, np.ndarray):
        return sources.ndim < 3 or (sources.ndim == 3 and sources.shape[2] in (3, 4))
    single = (str, bytes, bytearray, memoryview, os.PathLike)
    return isinstance(sources, single) or hasattr(sources, "read")


def _photos(sources: Iterable[Source]) -> Iterator[Photo]:
    """Yield the sources, numbered. They are pickled here, since the caller may reuse an array."""
    taken = 0
    try:
        for source in sources:
            name = f"image {taken}, counted from 0"
            if isinstance(source, (str, os.PathLike)):
                name = os.fsdecode(source)
            try:
                photo = Photo(taken, name, pickle.dumps(portable(source), protocol=5))
            except TinyMixNetError as error:
                photo = Photo(taken, name, error)
            except MemoryError:
                reason = f"{printable(name)}: needs more memory than there is"
                photo = Photo(taken, name, ImageError(reason))
            yield photo
            taken += 1
    except Exception as error:  # raised by the source; the answers before it come first
        yield Photo(taken, "", Failure(error))


def portable(source: Source) -> str | bytes | np.ndarray:
    """Return the image in a form that can be pickled.

    A file object is read here and a PIL image is decoded here. All other work is left to a worker.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, np.ndarray) and source.dtype == np.uint8:
        return source
    if hasattr(source, "read"):
        return _read(source)  # type: ignore[arg-type]  # a PIL image has no read
    return np.asarray(read_image(source))


def _read(file: IO[bytes]) -> bytes:
    """Return what is in a file object. Raise ImageError as `read_image` does."""
    try:
        return read_bounded(file)
    except TinyMixNetError as error:
        raise ImageError(f"image: {error}") from None
    except Exception as error:  # of a file object of somebody else's
        reason = printable(error or type(error).__name__)
        raise ImageError(f"image: cannot be read as an image ({reason})") from None


def _answers(
    function: Callable[[Any], Any], photos: Iterator[Photo], workers: int
) -> Generator[Answer, None, None]:
    try:
        shared = share(function)
    except OSError as error:
        raise _cannot_start(error) from None
    pool = WorkerPool(shared, photos, workers)
    due = 0  # the photo whose answer comes next
    try:
        while True:
            pool.listen(timeout=0)
            if due in pool.answers:  # before anything is taken from the source, which may be slow
                answer = pool.answers.pop(due)
                due += 1
                if isinstance(answer, Failure):
                    raise answer.error
                yield answer
            elif pool.exhausted and due == pool.taken:
                return
            elif not pool.advance(due):
                pool.listen()
    finally:
        pool.dismiss()


def _cannot_start(error: OSError) -> TinyMixNetError:
    return TinyMixNetError(
        f"cannot start a worker process ({error.strerror or error}); ask for fewer workers, or "
        "allow for more open files and processes (ulimit -n, ulimit -u)"
    )


class WorkerPool:
    """The workers, the photos that wait for one, and the answers that wait for their turn."""

    def __init__(self, function: Shared, photos: Iterator[Photo], limit: int) -> None:
        self.function = function
        self.photos = photos
        self.limit = limit  # of workers
        self.taken = 0  # of the photos
        self.exhausted = False  # whether there are no more photos
        self.waiting: deque[Photo] = deque()
        self.answers: dict[int, Answer | Failure] = {}
        self.workers: list[Worker] = []
        self.failed_starts = 0

    def advance(self, due: int) -> bool:
        """Do one thing that can be done without waiting for a worker; False if there is none."""
        worker = self.idlest()
        may_start = len(self.workers) < self.limit
        starting = sum(not worker.ready for worker in self.workers)
        if worker and self.waiting:
            self.give(self.waiting.popleft(), worker)
        elif not worker and may_start and starting < len(self.waiting):
            self.start_worker()
        elif (worker or may_start) and not self.exhausted and self.taken < due + self.window:
            self.take_photo()
        else:
            return False
        return True

    @property
    def window(self) -> int:
        """How many photos may be taken from the source before the first of them is answered."""
        return WINDOW * self.limit

    def idlest(self) -> "Worker | None":
        """Return the worker with the least to do, if any has room for a photo."""
        free = (worker for worker in self.workers if worker.ready and len(worker.photos) < AHEAD)
        return min(free, key=lambda worker: len(worker.photos), default=None)

    def start_worker(self) -> None:
        try:
            with interrupts_held():  # `dismiss` must know of every worker that was started
                self.workers.append(Worker(self.function))
        except OSError as error:
            raise _cannot_start(error) from None

    def take_photo(self) -> None:
        """Take a photo from the source. If it is an error, that is its answer."""
        photo = next(self.photos, None)
        if photo is None:
            self.exhausted = True
            return
        self.taken += 1
        if isinstance(photo.pickled, bytes):
            self.waiting.append(photo)
        else:
            self.answers[photo.index] = photo.pickled

    def give(self, photo: Photo, worker: "Worker") -> None:
        assert isinstance(photo.pickled, bytes)
        photo.tries += 1
        worker.photos.append(photo)
        worker.send(photo.pickled)

    def listen(self, timeout: float | None = None) -> None:
        """Wait until a worker has an answer, is ready or has died, and note that."""
        workers = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(workers), timeout):
            worker = workers[pipe]  # type: ignore[index]  # wait returns what it was given
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                self._bury(worker)
                continue
            if message == READY:
                worker.ready = True
                self.failed_starts = 0
            elif message == BEGUN:
                worker.at_work = True
            else:
                worker.at_work = False
                self.answers[worker.photos.popleft().index] = message

    def _bury(self, dead: "Worker") -> None:
        """Remove a dead worker; its photos wait for another one.

        Only the photo that was in work is to blame. At its second death it gets an error.
        """
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
                self.answers[photo.index] = ImageError(
                    f"{printable(photo.name)}: a worker process died twice on this image ({how}); "
                    "does it need more memory than there is, or crash its decoder?"
                )
                dead.photos.popleft()
        self.waiting.extendleft(reversed(dead.photos))

    def dismiss(self) -> None:
        """Kill all workers: they hold nothing that could be lost."""
        with interrupts_held():  # a second Ctrl-C has to wait until all have ended
            for worker in self.workers:
                worker.process.kill()
            for worker in self.workers:
                worker.end()
            self.function.file.close()


class Worker:
    """A process at the other end of a pipe, and the photos it has, oldest first."""

    def __init__(self, function: Shared) -> None:
        self.ready = False  # whether it can take photos
        self.at_work = False  # whether it has begun with the first of its photos
        self.photos: deque[Photo] = deque()
        self.pipe, theirs = Pipe()
        files = theirs.fileno(), function.file.fileno()
        try:
            self.process = start_process(serve, *files, files=files)
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()
        self.send(pickle.dumps((vars(budget), function.pickled, function.places)))

    def send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # the worker has died: `listen` will notice
            self.pipe.send_bytes(message)

    def end(self) -> str:
        """Wait for the end of a process that is dying, and return how it ended."""
        self.pipe.close()
        return end_of(self.process)


# -- the worker -----------------------------------------------------------------------------------


def serve(pipe_file: int, shared_file: int) -> None:
    """Be a worker until the pipe ends; the arguments are the numbers of two open files."""
    pipe = Connection(pipe_file)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    limits, pickled, places = pickle.loads(inbox.get())
    vars(budget).update(limits)
    function = attach(shared_file, pickled, places)
    answer: Answer | Failure
    try:
        pipe.send(READY)
        while True:
            photo = inbox.get()
            pipe.send(BEGUN)
            try:
                answer = function(pickle.loads(photo))
            except TinyMixNetError as error:
                answer = error
            except Exception:
                trace = traceback.format_exc()
                answer = Failure(RuntimeError(f"unexpected error in a worker process:\n{trace}"))
            pipe.send(answer)
    except OSError:  # the parent is gone
        os._exit(0)


def _receive(pipe: Connection, inbox: "queue.SimpleQueue[bytes]") -> None:
    """Move photos from the pipe to the inbox at once, also while the worker is busy.

    Otherwise parent and worker could both be sending, and wait for each other for ever. The end of
    the pipe is the end of the parent: the worker then ends, even in the middle of a photo.
    """
    try:
        while True:
            inbox.put(pipe.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)
