"""Unpacking `.Z` files: the LZW of Unix compress, which no module of Python reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError

__all__ = ["unpack_z"]

MAX_UNPACKED = 1 << 28
"""Bytes to which a file may unpack; the published ones have 10 MB."""

_MAGIC = b"\x1f\x9d"
_BLOCK_MODE = 0x80
_CLEAR = 256
_FIRST_WIDTH = 9


def unpack_z(data: bytes, name: str = "data") -> bytes:
    """Unpack the bytes of a `.Z` file (Unix compress, block mode, codes of at most 9...16 bits).

    The format has neither length nor checksum: a file that was cut off between two codes unpacks
    to the beginning of what was packed, and only its reader can tell.

    Args:
        data: bytes of the file.
        name: what to call it in an error.

    Raises:
        DataError: if it is of another format, holds a code that cannot be, or unpacks to more
            than `MAX_UNPACKED` bytes.

    Examples:
        >>> unpack_z(bytes.fromhex("1f9d902e923819c2a40a9122"))
        b'.INCLUDE'
    """
    if data[:2] != _MAGIC or len(data) < 3:
        msg = f"{name} begins with {data[:2].hex()}: expected 1f9d, a .Z file of Unix compress"
        raise DataError(msg)
    widest = data[2] & 0x1F
    if not data[2] & _BLOCK_MODE or not _FIRST_WIDTH <= widest <= 16:
        msg = f"{name} has the flags {data[2]:02x}: expected block mode and at most 16 bits"
        raise DataError(msg)
    out: list[bytes] = []
    table: list[bytes] = []
    last, size = b"", 0
    for code in _codes(np.frombuffer(data, np.uint8, offset=3), widest):
        if code == _CLEAR:
            last = b""
            continue
        if not last:
            table = [bytes([i]) for i in range(256)] + [b""]  # the place of the clear code
        if code > (len(table) if last else 255):
            msg = f"{name} is damaged: code {code} after {sum(map(len, out)):,} bytes"
            raise DataError(msg)
        word = table[code] if code < len(table) else last + last[:1]
        if last and len(table) < 1 << widest:
            table.append(last + word[:1])
        if (size := size + len(word)) > MAX_UNPACKED:
            msg = f"{name} unpacks to more than {MAX_UNPACKED:,} bytes: it was not so published"
            raise DataError(msg)
        out.append(word)
        last = word
    return b"".join(out)


def _codes(packed: NDArray[np.uint8], widest: int) -> Iterator[int]:
    """The codes in their order.

    The table starts with 256 places taken and every code takes one more, so a code is one bit
    wider after 256, 512, 1,024... codes. Codes are packed in groups of eight, low bits first; a
    clear leaves the rest of its group unused and starts anew.
    """
    at, width = 0, _FIRST_WIDTH
    while at < len(packed):
        count = 8 * (len(packed) - at) // width
        if width < widest:
            count = min(count, 1 << (width - 1))
        end = at + -(-count * width // 8)
        bits = np.unpackbits(packed[at:end], count=count * width, bitorder="little")
        codes = bits.reshape(count, width) @ (1 << np.arange(width))
        clears = np.flatnonzero(codes == _CLEAR)
        codes = codes[: clears[0] + 1] if clears.size else codes
        yield from codes.tolist()
        at += max(1, -(-len(codes) // 8)) * width
        width = _FIRST_WIDTH if clears.size else min(width + 1, widest)
