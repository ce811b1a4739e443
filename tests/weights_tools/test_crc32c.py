"""The checksum of checkpoints against published values and against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weights_tools.formats.crc32c import crc32c


def crc32c_bit_by_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_gives_the_published_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    assert crc32c(bytearray(data)) == expected
    assert crc32c(memoryview(data)) == expected


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 6000), st.integers(0, 2**32 - 1))
def test_crc32c_equals_the_definition(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(size)
    assert crc32c(data) == crc32c_bit_by_bit(data)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 65535, 65536, 65537])
def test_crc32c_equals_the_definition_where_lanes_begin_and_fill(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == crc32c_bit_by_bit(data)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, (5 << 20) // 2))
def test_crc32c_continues_at_any_byte(cut: int) -> None:
    data = np.random.default_rng(1).bytes((5 << 20) // 2)
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)
