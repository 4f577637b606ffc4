"""What is thought to be on disk: a filter over names of pieces. Pure.

It forgets nothing but by `renew`, so what is there and was noted is believed; what is not there is taken for there in
few cases, each of which costs a look at the disk. A part of the directory has 16 KiB at first use, 4 MiB in all,
however many entries there are: of a million, 0.2% of what is absent is believed (measured), of ten million half.
"""

from collections.abc import Iterable

from s3mount.data.pieces import LEVELS, Content, Piece

PARTS = 256
BITS = 1 << 17
_ODD = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_ANY = LEVELS
"""The level under which a version itself is noted."""


class Belief:
    """See the module. Methods may be called from any thread: each change is one of a single reference or byte."""

    def __init__(self) -> None:
        # The mutable state: the bits of each part, and which parts were ever looked at; all is believed of the others.
        self._bits: list[bytearray | None] = [None] * PARTS
        self._seen = bytearray(PARTS)

    def note(self, content: Content, piece: Piece) -> None:
        """This is there now."""
        part = content.digest[0]
        bits = self._bits[part]
        if bits is None:
            bits = self._bits[part] = bytearray(BITS // 8)
        _set(bits, content.digest, piece)

    def renew(self, part: int, names: Iterable[tuple[bytes, Piece]]) -> None:
        """All that is there of one part."""
        bits = None
        for digest, piece in names:
            if bits is None:
                bits = bytearray(BITS // 8)
            _set(bits, digest, piece)
        self._bits[part] = bits
        self._seen[part] = 1

    def has_any(self, content: Content) -> bool:
        """Whether there may be anything of a version."""
        return self._holds(content.digest, _ANY, 0)

    def covering(self, content: Content, block: int, *, below: int = LEVELS) -> Piece | None:
        """The largest piece with this block that may be there, of those under level `below`."""
        for level in range(below - 1, -1, -1):
            if self._holds(content.digest, level, block >> level):
                return Piece(level, block >> level)
        return None

    def _holds(self, digest: bytes, level: int, number: int) -> bool:
        part = digest[0]
        if not self._seen[part]:
            return True
        bits = self._bits[part]
        if bits is None:
            return False
        mixed = _mixed(digest, level, number)
        return bool(bits[mixed >> 50] >> (mixed >> 47 & 7) & 1 and bits[mixed >> 33 & 0x3FFF] >> (mixed >> 30 & 7) & 1)


def _mixed(digest: bytes, level: int, number: int) -> int:
    return ((int.from_bytes(digest[8:], "little") ^ (number * 8 + level)) * _ODD) & _WORD


def _set(bits: bytearray, digest: bytes, piece: Piece) -> None:
    for level, number in ((piece.level, piece.number), (_ANY, 0)):
        mixed = _mixed(digest, level, number)
        bits[mixed >> 50] |= 1 << (mixed >> 47 & 7)
        bits[mixed >> 33 & 0x3FFF] |= 1 << (mixed >> 30 & 7)
