"""Helpers for the tests of checkpoints: read everything, and compare to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tinymixnet.errors import CheckpointError, printable
from weights_tools.formats.checkpoint import open_checkpoint

# tmp_path is one folder for all examples of a test; each example writes all of its files anew.
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def read_all(path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.variables) == [v.name for v in checkpoint.variables.values()]
        return {name: checkpoint.read(name) for name in checkpoint.variables}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal to the last bit, NaN and minus zero included."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def assert_fails(path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_all(path)
    text = str(caught.value)
    assert text.startswith(printable(path, 10_000))
    for word in words:
        assert printable(word) in text


def assert_right_or_refused(path: Path, tensors: dict[str, np.ndarray]) -> bool:
    """Every variable right or, where anything is wrong, a CheckpointError. Whether all is right."""
    try:
        found = read_all(path)
    except CheckpointError:
        return False
    assert_same(found, tensors)
    return True


def assert_no_damage_passes(file: Path, path: Path, tensors: dict[str, np.ndarray]) -> int:
    """Flip every bit of a file, cut it at every byte; returns how many times it did not matter."""
    whole = file.read_bytes()
    passed = 0
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        passed += assert_right_or_refused(path, tensors)
    for at in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            passed += assert_right_or_refused(path, tensors)
    file.write_bytes(whole)
    assert_same(read_all(path), tensors)
    return passed
