"""A network that takes no time: its archive is the archive server's, its weights the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.archive_server import DATA, SHA384
from tinymixnet.engine.files import atomic_write
from tinymixnet.errors import CheckpointError, FetchError, WeightsError
from weights_tools import fetch

PACKED, WEIGHTS, LOCK, PART, REMEMBERED = (
    f"mixnet-l.{end}" for end in ("tar.gz", "h5", "lock", "tar.gz.part", "sha256")
)
OTHER_DATA = DATA[1:] + DATA[:1]  # another good archive


def fake_extract(checkpoint: Path, output: Path, *, variant: str, **_: str) -> None:
    """Stand in for the real one; like it, it leaves nothing behind when the checkpoint is bad."""
    if checkpoint.read_bytes() not in (DATA, OTHER_DATA):
        raise CheckpointError(f"{checkpoint} is not a checkpoint")
    with atomic_write(output) as temporary:
        temporary.write_bytes(f"{variant} ".encode() + checkpoint.read_bytes())


def fake_read_weights(path: Path) -> tuple[Any, dict[str, Any], Any]:
    """Read what `fake_extract` wrote."""
    variant, _, data = path.read_bytes().partition(b" ")
    if not data:
        raise WeightsError(f"{path}: damaged")
    architecture = SimpleNamespace(variant=variant.decode(), classes=1000)
    source_sha256 = hashlib.sha256(data).hexdigest()
    return architecture, {}, SimpleNamespace(source_sha256=source_sha256)


def publish(
    monkeypatch: pytest.MonkeyPatch,
    *urls: str,
    size: int | None = len(DATA),
    sha384: str | None = SHA384,
) -> None:
    """Make mixnet-l the only network, its archive at these addresses."""
    monkeypatch.setattr(fetch, "ARCHIVES", {"mixnet-l": fetch.Archive(urls, size, sha384)})


# ---- what must come of `fetch`


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_fetched(folder: Path) -> None:
    assert fetch.fetch("mixnet-l") == folder / WEIGHTS
    assert (folder / WEIGHTS).read_bytes() == b"mixnet-l " + DATA
    assert (folder / PACKED).read_bytes() == DATA
    assert names_in(folder) - {REMEMBERED} == {PACKED, WEIGHTS, LOCK}


def assert_refused(*facts: str) -> str:
    """`fetch` ends in an error of one printable line with these facts in it; return it."""
    with pytest.raises(FetchError) as caught:
        fetch.fetch("mixnet-l")
    message = str(caught.value)
    assert message.isprintable(), message
    for fact in facts:
        assert fact in message
    return message
