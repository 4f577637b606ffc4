"""Pieces of the disk tier, pure: how blocks are cut, what a head proves, what is believed to be there."""

from hypothesis import given
from hypothesis import strategies as st

from s3mount.data.belief import PARTS, Belief
from s3mount.data.pieces import (
    PIECE_BLOCKS,
    Content,
    Piece,
    content_of,
    cut,
    disk_bytes,
    head_bytes,
    intact,
    name_of,
    pack_head,
    parse_name,
    sums,
    unpack_head,
)

BLOCK = 64
ANY = content_of("e", "b", "k", '"etag"', 300)
keys = st.text(st.characters(), max_size=20)


@given(st.data())
def test_a_range_is_cut_into_aligned_pieces_that_cover_it_and_nothing_else(data: st.DataObject) -> None:
    end = data.draw(st.integers(1, 5 * PIECE_BLOCKS))
    start = data.draw(st.integers(0, end - 1))
    stop = data.draw(st.integers(start + 1, end))
    covered: list[int] = []
    for piece in cut(start, stop, end):
        assert piece.start % (piece.stop - piece.start) == 0
        covered += range(piece.start, min(piece.stop, end))
    assert covered == list(range(start, stop))


def test_a_whole_large_piece_is_one_file() -> None:
    assert list(cut(0, 2 * PIECE_BLOCKS, 2 * PIECE_BLOCKS)) == [Piece(5, 0), Piece(5, 1)]
    assert list(cut(0, 1, 1)) == [Piece(0, 0)]
    assert list(cut(0, 20, 20)) == [Piece(5, 0)]


@given(keys, keys, keys, keys, st.integers(1, 2**62))
def test_names_of_versions_never_reach_the_names_of_files(a: str, b: str, key: str, etag: str, size: int) -> None:
    content = content_of(a, b, key, etag, size)
    name = name_of(content, Piece(3, 77))
    assert set(name) <= set("0123456789abcdef-")
    assert parse_name(name) == (content.digest, Piece(3, 77))


def test_versions_that_differ_in_anything_have_other_names() -> None:
    made = {content_of(*words).digest for words in [("e", "b", "k", "t", 1), ("f", "b", "k", "t", 1)]}
    made |= {content_of(*words).digest for words in [("e", "c", "k", "t", 1), ("e", "b", "l", "t", 1)]}
    made |= {content_of(*words).digest for words in [("e", "b", "k", "u", 1), ("e", "b", "k", "t", 2)]}
    assert len(made) == 6


@given(st.text(max_size=60))
def test_a_name_that_is_none_of_ours_is_known_as_such(name: str) -> None:
    found = parse_name(name)
    assert found is None or name_of(Content(found[0], 0), found[1]) == name


@given(st.binary(min_size=1, max_size=6 * BLOCK), st.data())
def test_a_head_gives_back_what_proves_each_block(body: bytes, data: st.DataObject) -> None:
    content = content_of("e", "b", "k", "t", len(body))
    piece = next(cut(0, -(-len(body) // BLOCK), -(-len(body) // BLOCK)))
    head = pack_head(content, piece, BLOCK, sums([memoryview(body)], BLOCK))
    assert len(head) == head_bytes(len(body), BLOCK)
    assert disk_bytes(len(body), BLOCK) >= len(head) + len(body)
    proof = unpack_head(head, content, piece, BLOCK)
    assert proof is not None
    start = data.draw(st.integers(0, (len(body) - 1) // BLOCK)) * BLOCK
    assert intact(memoryview(body)[start:], start, proof, BLOCK)
    flipped = bytearray(body)
    flipped[data.draw(st.integers(start, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not intact(memoryview(flipped)[start:], start, proof, BLOCK)


@given(st.data())
def test_a_head_that_was_damaged_or_is_of_another_piece_proves_nothing(data: st.DataObject) -> None:
    body = bytes(300)
    piece = Piece(3, 0)
    head = pack_head(ANY, piece, BLOCK, sums([memoryview(body)], BLOCK))
    damaged = bytearray(head)
    damaged[data.draw(st.integers(0, len(head) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert unpack_head(damaged, ANY, piece, BLOCK) is None
    assert unpack_head(head[: data.draw(st.integers(0, len(head) - 1))], ANY, piece, BLOCK) is None
    assert unpack_head(head, content_of("e", "b", "k", "other", 300), piece, BLOCK) is None
    assert unpack_head(head, ANY, Piece(4, 0), BLOCK) is None


def test_what_is_there_is_always_believed_and_what_is_not_seldom() -> None:
    belief = Belief()
    contents = [content_of("e", "b", str(number), "t", 10**9) for number in range(3000)]
    assert belief.has_any(contents[0]), "before anybody has looked all is possible"
    for part in range(PARTS):
        belief.renew(part, ())
    for content in contents[:2000]:
        belief.note(content, Piece(2, 5))
    assert all(belief.covering(content, 5 * 4 + 3) == Piece(2, 5) for content in contents[:2000])
    assert sum(belief.has_any(content) for content in contents[2000:]) <= 10
    for part in range(PARTS):
        belief.renew(part, [(c.digest, Piece(0, 1)) for c in contents[:1000] if c.digest[0] == part])
    assert all(belief.covering(content, 1) == Piece(0, 1) for content in contents[:1000])
    assert sum(belief.has_any(content) for content in contents[1000:]) <= 20, "what went is not believed any more"
