"""Many photos on many machines, by Dask: docs/cluster.md says how to start a cluster.

`map_on_cluster` does what `fast.workers.map_in_processes` does. The weights go to the scheduler as
part of a plugin, and from there once to each worker, also to one that starts later or again. A
worker reads the photos itself where it sees the same path with the same number of bytes; to others
their bytes are sent. There are never more than a few photos for each thread under way.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tinymixnet.engine import __version__
from tinymixnet.engine.images import Source
from tinymixnet.engine.photo_files import open_regular, read_bounded
from tinymixnet.errors import ImageError, InputError, TinyMixNetError, printable
from tinymixnet.fast.workers import Answer, portable, usable_cores

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
AHEAD = 4  # photos for each thread of the cluster that are under way
CONNECT = 10.0  # seconds in which a scheduler has to answer
PATIENCE = 60.0  # seconds for which a cluster may be without any worker
LOOK = 1.0  # seconds between two looks at how many workers there are
LOST = "cluster: the connection to the scheduler is lost; run the same command again"
MISSING = 'Dask is missing: install it with pip install "tinymixnet[cluster]"'


def map_on_cluster(
    function: Callable[[Source], Any],
    sources: Iterable[Source],
    address: str,
    workers: int | None = None,
) -> Generator[Answer, None, None]:
    """Call a function on many photos on a Dask cluster; yield the results in order.

    function, sources and results are as for `map_in_processes`. address: the scheduler's, such as
    tcp://10.0.0.1:8786, or "local" for that many new workers on this machine. A photo whose worker
    dies is given to another one; if it ends several workers, an ImageError is its answer.

    Raises TinyMixNetError when Dask is missing, when the scheduler cannot be reached or is lost,
    when it has no workers, and when they lack this package or have it in another version.
    """
    with _dask_quiet(), _connect(address, workers) as client:
        from tinymixnet.evaluate.cluster_worker import Carrier

        _check_workers(client)
        name = f"tinymixnet-{uuid4()}"
        client.register_plugin(Carrier(name, function, address == LOCAL), name=name)
        try:
            yield from Questions(client, name).answers(iter(sources))
        except (OSError, RuntimeError):
            if client.status == "running":  # then it is an error of the sources, or of ours
                raise
            raise TinyMixNetError(LOST) from None
        finally:
            _unregister(client, name)


class Killed(ImageError):
    """The answer about a photo with which several workers died."""


class Questions:
    """The photos that are under way to workers and back."""

    def __init__(self, client: "Client", name: str) -> None:
        self.client = client
        self.name = name  # of the function that the workers know
        self.send_bytes = False  # of the photos, since a worker has not seen a path
        self.threads = 0  # of all workers
        self.looked = 0.0  # when they were counted

    def answers(self, sources: Iterator[Source]) -> Iterator[Answer]:
        """Yield the answers in the photos' order."""
        waiting: deque[tuple[Any, Future | TinyMixNetError]] = deque()
        exhausted = False
        while waiting or not exhausted:
            while not exhausted and len(waiting) < AHEAD * max(self.count_threads(), 1):
                try:
                    source = next(sources)
                except StopIteration:
                    exhausted = True
                else:
                    source = _repeatable(source)
                    waiting.append((source, self.ask(source)))
            if waiting:
                source, future = waiting.popleft()
                yield self.result(source, future)

    def count_threads(self) -> int:
        """Return how many photos the cluster can work on at once, as it was a moment ago."""
        if time.monotonic() > self.looked + LOOK:
            self.threads = sum(self.client.nthreads().values())
            self.looked = time.monotonic()
        return self.threads

    def ask(self, source: Any) -> "Future | TinyMixNetError":
        """Send a photo, or the path of one, to a worker; return what is wrong if that fails."""
        from tinymixnet.evaluate.cluster_worker import answer

        if isinstance(source, TinyMixNetError):
            return source
        try:
            photo, size = self.parcel(source)
        except TinyMixNetError as error:
            return _named(error, source)
        return self.client.submit(answer, self.name, photo, size, pure=False)

    def parcel(self, source: Any) -> tuple[Any, int]:
        """Return what a worker is given: a path and how many bytes it has, or a photo and -1."""
        if not isinstance(source, (str, os.PathLike)):
            return source, -1
        path = os.fsdecode(source)
        try:
            size = os.stat(path).st_size
        except (OSError, ValueError):
            size = -1  # there is no such file for anybody: the function says so
        if not self.send_bytes or size < 0 or path.endswith(".npy"):
            return os.path.abspath(path), size
        with open_regular(path) as file:
            return read_bounded(file), -1

    def result(self, source: Any, future: "Future | TinyMixNetError") -> Answer:
        """Wait for the answer about a photo."""
        from tinymixnet.evaluate.cluster_worker import NotVisible

        answer = self.wait(future)
        if isinstance(answer, NotVisible):
            self.send_bytes = True
            answer = self.wait(self.ask(source))
        if isinstance(answer, Killed):
            # Dask blames every photo that a dying worker has had. So each has a second chance.
            answer = self.wait(self.ask(source))
        if isinstance(answer, NotVisible):
            answer = ImageError("image: the workers do not see this file, or it has changed")
        return _named(answer, source) if isinstance(answer, TinyMixNetError) else answer

    def wait(self, future: "Future | TinyMixNetError") -> Answer:
        """Return what a worker answers; `Killed` for a photo with which several workers died."""
        if isinstance(future, TinyMixNetError):
            return future
        from concurrent.futures import CancelledError

        from distributed import KilledWorker
        from distributed import TimeoutError as TooLate

        since = time.monotonic()  # when the cluster had a worker
        while True:
            try:
                return future.result(timeout=LOOK)
            except TooLate:
                if self.count_threads():
                    since = time.monotonic()
                elif time.monotonic() > since + PATIENCE:
                    raise TinyMixNetError(
                        f"cluster: it has had no worker for {PATIENCE:.0f} seconds; start some, "
                        "and run the same command again"
                    ) from None
            except KilledWorker:
                return Killed(
                    "image: several workers died on this image, one after another; does it need "
                    "more memory than they have, or crash its decoder?"
                )
            except (CancelledError, OSError):
                raise TinyMixNetError(LOST) from None


def _repeatable(source: Source) -> Any:
    """Return a photo in a form that can be sent twice, or what is wrong with it."""
    if isinstance(source, (str, os.PathLike)):
        return source
    try:
        return portable(source)
    except TinyMixNetError as error:
        return error


def _named(error: TinyMixNetError, source: Any) -> TinyMixNetError:
    """Return an error with the photo's path at its beginning, as `read_image` puts it there."""
    if not isinstance(source, (str, os.PathLike)):
        return error
    message = str(error).removeprefix("image: ")
    for name in (os.path.abspath(os.fsdecode(source)), os.fsdecode(source)):
        message = message.removeprefix(f"{printable(name)}: ")
    kind = ImageError if isinstance(error, Killed) else type(error)
    return kind(f"{printable(os.fsdecode(source))}: {message}")


# -- the cluster ----------------------------------------------------------------------------------


@contextmanager
def _dask_quiet() -> Iterator[None]:
    """Import Dask, and keep it from telling, over many lines, what our errors tell in one."""
    try:
        import distributed  # noqa: F401  # sets up its handlers of messages
    except ImportError:
        raise TinyMixNetError(MISSING) from None
    levels = {handler: handler.level for handler in logging.getLogger("distributed").handlers}
    for handler in levels:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in levels.items():
            handler.setLevel(level)


@contextmanager
def _connect(address: str, workers: int | None) -> Iterator["Client"]:
    """Connect to a scheduler, or start a cluster on this machine and end it afterwards."""
    from distributed import Client, LocalCluster

    if not isinstance(address, str) or not address:
        raise InputError(f'cluster: expected an address, tcp://HOST:PORT, or "{LOCAL}"')
    if address == LOCAL:
        with (
            LocalCluster(
                n_workers=workers or usable_cores(),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        asyncio.run(asyncio.wait_for(_identity(address), CONNECT))
    except Exception as error:  # whatever listens there may answer anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TinyMixNetError(
            f"cluster: no Dask scheduler answers at {address} ({reason}); start one with "
            "`dask scheduler`, and name the address that it prints"
        ) from None
    with Client(address, timeout=CONNECT, set_as_default=False) as client:
        yield client


async def _identity(address: str) -> Any:
    """Ask a scheduler who it is. (A Client that finds none would be noisy when it is removed.)"""
    from distributed import rpc

    async with rpc(address, timeout=CONNECT) as scheduler:
        return await scheduler.identity()


def _check_workers(client: "Client") -> None:
    """Raise TinyMixNetError unless there are workers, all with this version of this package."""
    from distributed import TimeoutError as TooLate

    from tinymixnet.evaluate.cluster_worker import installed_version

    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TooLate:
        raise TinyMixNetError(
            f"cluster: the scheduler has had no worker for {PATIENCE:.0f} seconds; start some with "
            "`dask worker ADDRESS`"
        ) from None
    for worker, version in client.run(installed_version, on_error="return").items():
        if version != __version__:
            found = f"version {version}" if isinstance(version, str) else f"none ({version})"
            raise TinyMixNetError(
                f"cluster: worker {worker} needs tinymixnet {__version__}, found {found}; install "
                "the same version on all machines"
            )


def _unregister(client: "Client", name: str) -> None:
    try:
        client.unregister_worker_plugin(name)
    except Exception:  # the scheduler is gone, and the plugin with it
        return
