"""An archive server, an empty cache, and a network whose archive lies on the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archive_server import Server
from tests.support.fake_network import fake_extract, fake_read_weights, publish
from weights_tools import download, fetch, http_get


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
    """A minute has half a second."""
    monkeypatch.setattr(http_get, "MINUTE", 0.5)
    monkeypatch.setattr(http_get, "TIMEOUT", 0.25)
    monkeypatch.setattr(http_get, "MINUTE_BYTES", 1000)
    monkeypatch.setattr(download, "PAUSES", (0.0,))
