"""What the recorders share: their types, which nodes count, and errors of one line."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinymixnet.errors import TinyMixNetError, TraceError
from weights_tools import framework_errors
from weights_tools.extras import import_extra

StrPath = str | os.PathLike[str]
Feeds = np.ndarray | Mapping[str, np.ndarray]  # the only input, or each by its name
Nodes = Iterable[tuple[Iterable[str], Iterable[str]]]  # (inputs, outputs), in order

ALL = ("*",)


def named_feeds(feeds: Feeds, names: list[str]) -> dict[str, np.ndarray]:
    """Return the inputs by name; an array alone is the only input."""
    given = feeds if isinstance(feeds, Mapping) else dict.fromkeys(names[:1], feeds)
    if set(given) != set(names):
        raise TraceError(f"takes the inputs {names}, found {list(given)}: give a dict, from Python")
    return dict(given)


def computed(nodes: Nodes, fed: Iterable[str]) -> Iterator[str]:
    """Yield the outputs that depend on what is fed; all others are constants."""
    depend = set(fed)
    for inputs, outputs in nodes:
        if not depend.isdisjoint(inputs):
            depend.update(outputs)
            yield from outputs


def one_line(file: Any) -> AbstractContextManager[None]:
    """Turn whatever a runtime raises about a file into a TraceError of one line."""
    name = file if isinstance(file, (str, os.PathLike)) else "the graph"
    return framework_errors.one_line(name, TraceError, "cannot be recorded", keep_ours=True)


def loading(file: StrPath) -> AbstractContextManager[None]:
    """As `one_line`, for reading the file: here our own errors are about it, too."""
    return framework_errors.one_line(file, TraceError, "cannot be recorded")


def import_package(module: str, extra: str) -> Any:
    """Return a framework, or raise the TraceError that says which extra brings it."""
    try:
        return import_extra(module, extra)
    except TinyMixNetError as error:
        raise TraceError(str(error)) from None
