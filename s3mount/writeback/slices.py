"""Ranges of content that moves from one object to another. Pure."""

from bisect import bisect_right
from collections.abc import Iterator

from s3mount.writeback.operations import Content, Home, Piece


def cut(content: Content, start: int, stop: int, at: int) -> Iterator[Piece]:
    """`[start, stop)` of a content, as the pieces of another in which it begins at `at`."""
    index = bisect_right(content, start, key=lambda piece: piece.start) - 1
    while start < stop:
        piece = content[index]
        end = min(stop, piece.stop)
        length = end - start
        yield Piece(at, at + length, piece.place, piece.home, piece.offset + start - piece.start)
        start, at, index = end, at + length, index + 1


def homes(content: Content) -> list[Home]:
    """The versions that it has bytes of, each once."""
    return list(dict.fromkeys(piece.home for piece in content if piece.home is not None))
