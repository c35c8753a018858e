"""What a test's hub serves: bytes held in memory, or made up as they are read, so that 5 GB cost neither disk nor memory."""

import hashlib
from functools import cached_property
from typing import Protocol

_BLOCK = 1 << 16
_STRIDE = 1 << 20


class Content(Protocol):
    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """Hex digest of all of it."""

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`; none past the end."""


class Held:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]


class MadeUp:
    """`size` bytes in which every 64 KiB block begins with its own number, so that no two places look alike."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self._filling = hashlib.shake_256(seed.to_bytes(8, "little")).digest(_BLOCK)[8:]

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.size, _STRIDE):
            digest.update(self.read(start, _STRIDE))
        return digest.hexdigest()

    def read(self, start: int, length: int) -> bytes:
        stop = min(start + length, self.size)
        if start >= stop:
            return b""
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        joined = b"".join(number.to_bytes(8, "little") + self._filling for number in range(first, last + 1))
        return joined[start - first * _BLOCK : stop - first * _BLOCK]


class Flipped:
    """Another content with one byte turned over, of the same size, as a bad mirror would send it."""

    def __init__(self, inner: Content, at: int) -> None:
        self.inner, self.at = inner, at
        self.size, self.sha256 = inner.size, inner.sha256

    def read(self, start: int, length: int) -> bytes:
        data = bytearray(self.inner.read(start, length))
        if start <= self.at < start + len(data):
            data[self.at - start] ^= 0xFF
        return bytes(data)
