"""Fixtures: an archive server with an empty cache for `fetch`; small checkpoints for the reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.archive_server import Server
from tests.support.fake_network import fake_extract, fake_read_weights, publish
from weights_tools import download, fetch, http_get
from weights_tools.formats.checkpoint_writer import write_checkpoint


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield running
    running.release.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; mixnet-l lies at /one on the server, its mirror at /two."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("TINYMIXNET_HOME", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("TINYMIXNET_MIRROR", raising=False)
    publish(monkeypatch, *(f"{server.url}/{place}/mixnet-l.tar.gz" for place in ("one", "two")))
    monkeypatch.setattr(fetch, "extract", fake_extract)
    monkeypatch.setattr(fetch, "read_weights", fake_read_weights)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    return folder


@pytest.fixture
def impatient(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute has half a second.

    Only for servers that are too slow: in half a second a good one may not get the processor.
    """
    monkeypatch.setattr(http_get, "MINUTE", 0.5)
    monkeypatch.setattr(http_get, "MINUTE_BYTES", 1000)


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "model.ckpt"


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "net/stem/kernel": random.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "net/stem/kernel/ExponentialMovingAverage": random.normal(size=8).astype(np.float32),
        "net/stem/gamma": random.normal(size=8).astype(np.float16),
        "net/double": random.normal(size=(2, 3)),
        "net/count": np.array([1, -2, 3], np.int32),
        "global_step": np.array(12345678901, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }


@pytest.fixture
def tiny(prefix) -> dict[str, np.ndarray]:
    """A checkpoint of three blocks and two shards, small enough to break it at every bit."""
    tensors = {
        "a/kernel": np.array([[1.5, -2.0]], np.float32),
        "a/kernel/average": np.array([3, 4], np.int32),
        "b": np.array(5, np.int64),
    }
    write_checkpoint(prefix, tensors, shards=2, block_size=1)
    return tensors
