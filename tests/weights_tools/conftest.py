"""Fixtures for the tests of checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from weights_tools.formats.checkpoint_writer import (
    write_checkpoint,
)


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
