"""Compute CRC-32C, the checksum that TensorFlow's checkpoints carry, with NumPy and fast.

A CRC is a register of 32 bits that takes in the data byte by byte:

    crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)

Each byte has to wait for the one before it, so a plain loop is slow in Python. But every step is
*linear* over bits, if the exclusive or counts as addition. Therefore

    register after A then B  =  shift(register after A)  ^  (register after B, begun at zero)

where `shift` sends len(B) zero bytes through the register. It is a 32 x 32 matrix of bits that
depends only on len(B). This lets us cut the data into equal lanes and move all lanes forward side
by side, as one NumPy array. Then neighbouring lanes are joined in pairs until one register is left.
Each round joins pieces twice as long as the round before, and the matrix for twice as many bytes is
the matrix applied to itself.

Linearity gives two more things. A register at zero stays at zero on zero bytes, so zeros may be put
*before* the data to fill the first lane. And a register that begins at another value does the same
as one that begins at zero, if that value is xor-ed into the first four bytes.

Sources: RFC 3720 (polynomial and test vectors), LevelDB's file format (the mask).
"""

from functools import cache

import numpy as np

Bytes = bytes | bytearray | memoryview

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
_LANE = 64  # bytes in a lane: a power of two, because lanes are joined in doublings
_CHUNK = 1 << 20  # bytes at once, so that they and the table stay in the processor's cache
_SHORT = 2048  # bytes; below this the plain loop is faster


def crc32c(data: Bytes, crc: int = 0) -> int:
    """Return the CRC-32C of some bytes; to continue, give the `crc` of the bytes before them."""
    view = memoryview(data).cast("B")
    register = crc ^ 0xFFFFFFFF
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        register = (_plain if len(chunk) < _SHORT else _lanes)(chunk, register)
    return register ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Change a CRC for storage: the CRC of bytes that contain their own CRC would be a constant."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def masked_crc32c(data: Bytes) -> int:
    """Return the CRC-32C of some bytes as TensorFlow stores it."""
    return mask(crc32c(data))


def _plain(data: memoryview, register: int) -> int:
    table = _byte_table()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _lanes(data: memoryview, register: int) -> int:
    """Return the register after the data, which must have at least four bytes."""
    padding = -len(data) % _LANE
    padded = np.zeros(padding + len(data), np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)

    # Two bytes in each step, by a table of 65,536 entries: half as many steps, and the table still
    # fits into the cache.
    table = _two_byte_table()
    states = np.zeros(len(padded) // _LANE, np.uint32)
    for word in np.ascontiguousarray(padded.view("<u2").reshape(len(states), -1).T):
        states = table[(states & 0xFFFF) ^ word] ^ (states >> 16)

    doublings = _LANE.bit_length() - 1
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _apply(_shift(doublings), states[0::2]) ^ states[1::2]
        doublings += 1
    return int(states[0])


@cache
def _byte_table() -> tuple[int, ...]:
    """For each low byte of the register: what eight steps of the polynomial division make of it."""
    table = []
    for register in range(256):
        for _ in range(8):
            register = (register >> 1) ^ (_POLYNOMIAL if register & 1 else 0)
        table.append(register)
    return tuple(table)


@cache
def _two_byte_table() -> np.ndarray:
    return _zero_byte(_zero_byte(np.arange(1 << 16, dtype=np.uint32)))


@cache
def _shift(doublings: int) -> np.ndarray:
    """Return the matrix of 2**doublings zero bytes as 32 columns: what becomes of each bit."""
    if doublings == 0:
        return _zero_byte(np.uint32(1) << np.arange(32, dtype=np.uint32))
    half = _shift(doublings - 1)
    return _apply(half, half)


def _zero_byte(states: np.ndarray) -> np.ndarray:
    return np.array(_byte_table(), np.uint32)[states & 0xFF] ^ (states >> 8)


def _apply(columns: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Multiply the matrix with every state: the xor of the columns whose bit is set."""
    bits = (states >> np.arange(32, dtype=np.uint32)[:, np.newaxis]) & 1
    return np.bitwise_xor.reduce(bits * columns[:, np.newaxis], axis=0)
