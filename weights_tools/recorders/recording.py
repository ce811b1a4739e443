"""Write down layers while a foreign model pushes them: a dump that grows with every call."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import count
from queue import SimpleQueue
from typing import Any

import numpy as np

from tinymixnet.debug.arrays import DTYPES
from tinymixnet.debug.traces import write_dump
from tinymixnet.errors import InputError, TinyMixNetError, TraceError, short_repr


class Recording:
    """A dump that grows by one layer with every `write`.

    A model pushes its layers, but `write_dump` pulls them. So `write_dump` runs in a thread of its
    own, and the model waits while a layer is written: an operation in place could change it.
    """

    def __init__(
        self, path: str | os.PathLike[str], patterns: Sequence[str], pool: ThreadPoolExecutor
    ) -> None:
        self.patterns, self.unused = patterns, set(patterns)
        self.names: set[str] = set()
        self.layers: SimpleQueue[Any] = SimpleQueue()  # (name, array); an error or None at the end
        self._turns: SimpleQueue[None] = SimpleQueue()
        self.writer = pool.submit(write_dump, path, self._pulled(), "weights_tools.record")
        self.writer.add_done_callback(lambda _: self._turns.put(None))

    def wants(self, name: str) -> bool:
        fitting = [pattern for pattern in self.patterns if fnmatchcase(name, pattern)]
        self.unused.difference_update(fitting)
        return bool(fitting)

    def hook(self, name: str) -> Callable[[Any, Any, Any], None]:
        return lambda module, inputs, output: self.write(name, output)

    def write(self, name: str, value: Any) -> None:
        """Write a framework's tensor; pass over what is no tensor, or none of numbers."""
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
        if not hasattr(value, "__array__"):
            return
        array = np.asarray(value)
        if array.dtype.kind == "V":  # bfloat16 and its like, which .npy does not know
            array = array.astype(np.float32)
        if array.dtype.name not in DTYPES:
            return
        calls = (f"{name}#{i}" if i else name for i in count())
        name = next(call for call in calls if call not in self.names)
        self.names.add(name)
        self.layers.put((name, array))
        self._turns.get()
        if self.writer.done():
            self.writer.result()  # raises its error: the writer ends early only if it cannot write

    def _pulled(self) -> Iterator[tuple[str, np.ndarray]]:
        while (layer := self.layers.get()) is not None:
            if isinstance(layer, TinyMixNetError):
                raise layer
            yield layer
            self._turns.put(None)


@contextmanager
def open_recording(path: str | os.PathLike[str], patterns: Sequence[str]) -> Iterator[Recording]:
    """Give a recording to write to; the dump appears only if the block ends without an error."""
    listed = isinstance(patterns, Sequence) and not isinstance(patterns, (str, bytes))
    if not listed or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(
            f"layers: expected a list of names such as ['blocks.0*'], found {short_repr(patterns)}"
        )
    with ThreadPoolExecutor(1) as pool:
        recording = Recording(path, patterns, pool)
        try:
            yield recording
            if recording.unused - {"*"}:
                raise InputError(f"no layer is called {', '.join(sorted(recording.unused))}")
            if not recording.names:
                raise TraceError("nothing to record: no layer of the model gave a tensor")
        except BaseException:
            recording.layers.put(TraceError("the run has failed"))
            raise
        recording.layers.put(None)
        recording.writer.result()
