"""What runs in a worker of a Dask cluster. It imports Dask: see `cluster.py`."""

import os
import signal
from collections.abc import Callable
from typing import Any

from distributed import WorkerPlugin

from tinymixnet.engine import __version__
from tinymixnet.engine.budget import budget
from tinymixnet.errors import TinyMixNetError

_functions: dict[str, Callable[[Any], Any]] = {}  # by name: what the plugins have brought


class Carrier(WorkerPlugin):
    """A plugin that brings the function to each worker, with the weights in it, and the budget."""

    def __init__(self, name: str, function: Callable[[Any], Any], ours: bool) -> None:
        """ours: whether the workers were started for this function alone."""
        self.name = name
        self.ours = ours
        self.function = function
        self.limits = dict(vars(budget))

    def setup(self, worker: Any) -> None:
        if self.ours:  # a terminal sends Ctrl-C to them as well, and they would all complain
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        vars(budget).update(self.limits)
        _functions[self.name] = self.function

    def teardown(self, worker: Any) -> None:
        _functions.pop(self.name, None)


class NotVisible:
    """The answer of a worker that does not see the file which a path stands for."""


def answer(name: str, photo: Any, size: int) -> Any:
    """Return what the function of this name says of a photo; a TinyMixNetError is an answer, too.

    size: the bytes that the file must have to be the one that is meant, or -1.
    """
    if size >= 0:
        try:
            if os.stat(photo).st_size != size:
                return NotVisible()
        except OSError:
            return NotVisible()
    try:
        return _functions[name](photo)
    except TinyMixNetError as error:
        return error


def installed_version() -> str:
    """Return the version of this package that a worker has."""
    return __version__
