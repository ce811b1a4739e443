"""Many photos at once: worker processes that share one copy of the weights.

The parent hands out photos and puts the answers in order (`classify_all`); a worker does one photo
after the other (`serve`). Workers are new interpreters that run nothing but this module, so a
script needs no `if __name__ == "__main__"`, and no thread of the parent's BLAS is ever forked.

Nothing can be left behind. The weights lie in a file without a name that all processes map, and it
is gone with the last of them. A worker whose parent has died finds its pipe closed, and ends.
"""

import contextlib
import io
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np

from tinymixnet.errors import ImageError, InputError, TinyMixNetError
from tinymixnet.images import Source, check_preset, read_image
from tinymixnet.model import Model, Prediction

Answer: TypeAlias = "list[Prediction] | TinyMixNetError"

READY, BEGUN = "ready", "begun"  # what a worker says besides its answers

AHEAD = 2  # photos a worker has at most: one in work, and one so that it need not wait for us
WINDOW = 4  # times as many photos as workers are on their way at most
MOST_DEATHS = 2  # of workers with the same photo in work
MOST_TRIES = 10  # with a photo: one that kills as it arrives is never in work
MOST_FAILED_STARTS = 5  # of workers, one after the other
ALIGNMENT = 64  # bytes, a line of the cache: arrays begin where NumPy's own would
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


def classify_all(
    model: Model,
    sources: Iterable[Source],
    workers: int = 2,
    top: int = 5,
    preset: str | None = None,
) -> Generator[Answer, None, None]:
    """Classify many photos in `workers` processes; yield the answers in the photos' order.

    sources: what `Model.classify` takes, many of it; of an endless generator no more is taken than
    keeps the workers busy. An answer is the list that `classify` returns or, for a bad photo, the
    TinyMixNetError that it raises. A photo that a worker dies on is tried once more in another.
    Raises InputError at once for unusable arguments, TinyMixNetError when no worker can start; when
    its turn comes, what the source raised, or RuntimeError for an unexpected error in a worker.
    Workers start with the first `next`, and end with the last answer or the generator's `close`.
    """
    if sys.platform == "win32":
        raise TinyMixNetError("workers need Linux or macOS; here classify photos one by one")
    if workers < 1:
        raise InputError(f"workers={workers}: expected the number of processes, 1 or more")
    if top < 1:
        raise InputError(f"top={top}: expected the number of answers wanted, 1 or more")
    single = isinstance(sources, (str, bytes, os.PathLike)) or hasattr(sources, "read")
    if single or not isinstance(sources, Iterable):
        found = type(sources).__name__
        raise InputError(f"sources: expected several images, such as a list, found {found}")
    if preset is not None:
        check_preset(preset, {})
    return _answers(model, _photos(sources), workers, top, preset)


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
    model: Model, photos: Iterator[Photo], workers: int, top: int, preset: str | None
) -> Generator[Answer, None, None]:
    weights = share(model.plan.constants)
    briefing = (model.architecture, model.metadata, weights.places, top, preset)
    crew = Crew(weights.file, pickle.dumps(briefing), photos)
    due = 0  # the photo whose answer comes next
    try:
        crew.hire(workers)
        while True:
            crew.listen(timeout=0)
            if due in crew.answers:  # goes first: the source may take its time
                answer = crew.answers.pop(due)
                due += 1
                if isinstance(answer, Failure):
                    raise answer.error
                yield answer
            elif (worker := crew.idlest()) and (photo := crew.next_photo(due)):
                crew.give(photo, worker)
            elif worker and due == crew.taken:
                return
            else:
                crew.listen()
    finally:
        crew.dismiss()


class Crew:
    """The workers, the photos that dead ones left undone, and the answers that are there."""

    def __init__(self, weights: IO[bytes], briefing: bytes, photos: Iterator[Photo]) -> None:
        self.weights = weights
        self.briefing = briefing
        self.photos = photos
        self.taken = 0  # of the photos
        self.left: deque[Photo] = deque()
        self.answers: dict[int, Answer | Failure] = {}
        self.workers: list[Worker] = []
        self.failed_starts = 0

    def hire(self, number: int) -> None:
        for _ in range(number):
            with _interrupts_held():  # there is none that `dismiss` does not know
                self.workers.append(Worker(self.weights, self.briefing))

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
            self.weights.close()


class Worker:
    """A process at the other end of a pipe, and the photos it has, oldest first."""

    def __init__(self, weights: IO[bytes], briefing: bytes) -> None:
        self.ready = False  # to take photos
        self.at_work = False  # on the first of them
        self.photos: deque[Photo] = deque()
        self.pipe, theirs = Pipe()
        files = theirs.fileno(), weights.fileno()
        path = [*sys.path, str(Path(__file__).resolve().parents[1])]
        code = f"import sys; sys.path[:] = {path}; import tinymixnet.workers as w; w.serve{files}"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # ours may be a list of answers: nothing may mix in
                env=os.environ | ONE_THREAD,
                pass_fds=files,  # Windows has no such thing
            )
        self.send(briefing)

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


def serve(pipe_file: int, weights_file: int) -> None:
    """Be a worker, with the files that `Worker` passes on, until the pipe ends."""
    pipe = Connection(pipe_file)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    architecture, metadata, places, top, preset = pickle.loads(inbox.get())
    model = Model(architecture, {}, metadata, prepared=attach(weights_file, places))
    answer: Answer | Failure
    try:
        pipe.send(READY)
        while True:
            pickled = inbox.get()
            pipe.send(BEGUN)
            try:
                answer = model.classify(pickle.loads(pickled), top, preset)
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


# -- arrays in shared memory ----------------------------------------------------------------------


class Place(NamedTuple):
    """Where in the shared memory an array lies."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


class Shared(NamedTuple):
    """Arrays in memory that processes share; the memory is freed with the last open file or map."""

    file: IO[bytes]
    places: dict[str, Place]


def share(arrays: Mapping[str, np.ndarray]) -> Shared:
    """Copy arrays to memory that other processes can map, each in C order.

    The file has no name, so there is none to remove, and nothing is left behind by a crash.
    """
    if sys.platform == "linux":
        file: IO[bytes] = open(os.memfd_create("tinymixnet"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    places = {}
    for name, array in arrays.items():
        file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
        places[name] = Place(file.tell(), array.dtype.str, array.shape)
        file.write(np.ascontiguousarray(array).data)
    file.flush()
    return Shared(file, places)


def attach(file: int, places: Mapping[str, Place]) -> dict[str, np.ndarray]:
    """The arrays of `share`, read-only and not copied, in a process that has the file open."""
    memory = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    return {
        name: np.ndarray(place.shape, place.dtype, memory, place.offset)
        for name, place in places.items()
    }
