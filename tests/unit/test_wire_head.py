"""Heads as text: what is understood, what is refused."""

import pytest

from s3mount.store.head import HEAD_MAX_BYTES, body_length, parse_head


def lines_of(head: bytes) -> list[bytes]:
    return head.splitlines(keepends=True)


def test_names_are_lower_case_values_stripped_and_repeated_ones_joined() -> None:
    status, headers = parse_head(lines_of(b'HTTP/1.1 206 Partial\r\nETag:  "a:b" \r\nX-M: 1\r\nx-m: 2\r\nE:\r\n\r\n'))
    assert status == 206
    assert headers == {"etag": '"a:b"', "x-m": "1, 2", "e": ""}


def test_bytes_beyond_ascii_survive_as_latin_1() -> None:
    raw = "ä\x85ö".encode()
    _, headers = parse_head([b"HTTP/1.1 200\r\n", b"x-amz-meta-a: " + raw + b"\r\n", b"\r\n"])
    assert headers["x-amz-meta-a"].encode("latin-1") == raw


def test_interim_heads_and_trailers_are_left_out() -> None:
    interim = b"HTTP/1.1 103 Early\r\nA: 1\r\n\r\n"
    assert parse_head(lines_of(interim + b"HTTP/1.1 200 OK\r\nB: 2\r\n\r\nC: 3\r\n\r\n")) == (200, {"b": "2"})


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nA: 1\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"junk\r\n\r\n", b"HTTP/1.1 2x0\r\n\r\n"]
)
def test_what_is_no_whole_head_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError, match="no head"):
        parse_head(lines_of(head))


def test_a_head_over_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="head of more than"):
        parse_head([b"HTTP/1.1 200 OK\r\n", b"A: " + b"a" * HEAD_MAX_BYTES + b"\r\n", b"\r\n"])


def test_the_length_of_a_body_must_be_known() -> None:
    assert body_length(200, {"content-length": "7"}) == 7
    assert body_length(304, {"content-length": "7"}) == 0
    assert body_length(204, {}) == 0
    assert body_length(200, {"transfer-encoding": "Chunked", "content-length": "7"}) is None
    for headers in ({}, {"content-length": "-1"}, {"content-length": "7, 8"}, {"transfer-encoding": "gzip, chunked"}):
        with pytest.raises(ValueError, match=r"length|Length|Encoding"):
            body_length(200, headers)
