"""CRC-32C, the checksum that TensorFlow's checkpoints carry, in NumPy and quick on megabytes.

The idea. A CRC is a register of 32 bits that swallows its data byte by byte:

    crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)

Each byte waits for the one before it, so a plain loop runs at Python's speed. But everything in it
is *linear* over bits, with exclusive or as the addition, hence

    register after A then B  =  shift(register after A)  ^  (register after B, begun at zero)

where shift sends len(B) zero bytes through the register: a 32 x 32 matrix of bits that depends on
nothing but len(B). So the data is cut into equal lanes, all lanes advance side by side as one NumPy
array, and then neighbours are joined in pairs until one register is left. Each round of joining
spans twice as many bytes as the round before, and the matrix for twice the bytes is the matrix
applied to itself.

The same linearity gives two more things. A register at zero stays at zero on zero bytes, so zeros
may be put *before* the data to fill the first lane. And a register that begins at another value
does the same as one begun at zero, with that value xor-ed into the first four bytes.

Sources: RFC 3720 (polynomial and test vectors), LevelDB's file format (the mask).
"""

from functools import cache

import numpy as np

Bytes = bytes | bytearray | memoryview

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
_LANE = 64  # bytes in a lane; even, a power of two
_CHUNK = 1 << 20  # bytes worked on at once: they and the table stay in the processor's cache
_SHORT = 2048  # below this the plain loop is quicker


def crc32c(data: Bytes, crc: int = 0) -> int:
    """The CRC-32C of some bytes; give the `crc` of what came before to continue it."""
    view = memoryview(data).cast("B")
    register = crc ^ 0xFFFFFFFF
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK]
        register = (_plain if len(chunk) < _SHORT else _lanes)(chunk, register)
    return register ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """A CRC disguised for storage, so that checksumming bytes which hold a CRC stays meaningful."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def masked_crc32c(data: Bytes) -> int:
    """The CRC-32C of some bytes as TensorFlow stores it."""
    return mask(crc32c(data))


def _plain(data: memoryview, register: int) -> int:
    table = _byte_table()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


def _lanes(data: memoryview, register: int) -> int:
    """The register after the data (four bytes at least): lanes side by side, joined in pairs."""
    padding = -len(data) % _LANE
    padded = np.zeros(padding + len(data), np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)

    # Two bytes a step, by a table of 65,536: half the steps, and the table still fits the cache.
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
    """What one byte does to a register of that value: eight steps of the polynomial division."""
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
    """The matrix of 2**doublings zero bytes, as 32 columns: what becomes of each single bit."""
    if doublings == 0:
        return _zero_byte(np.uint32(1) << np.arange(32, dtype=np.uint32))
    half = _shift(doublings - 1)
    return _apply(half, half)


def _zero_byte(states: np.ndarray) -> np.ndarray:
    return np.array(_byte_table(), np.uint32)[states & 0xFF] ^ (states >> 8)


def _apply(columns: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Matrix times vector over bits, for every state: the xor of the columns whose bit is set."""
    bits = (states >> np.arange(32, dtype=np.uint32)[:, np.newaxis]) & 1
    return np.bitwise_xor.reduce(bits * columns[:, np.newaxis], axis=0)
