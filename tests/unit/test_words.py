"""Sizes and times as they are written, and what is neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount import words
from s3mount.config import GIB, KIB, MIB, TIB


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("8MiB", 8 * MIB),
        ("8mib", 8 * MIB),
        ("1.5GiB", 3 * GIB // 2),
        ("2 KiB", 2 * KIB),
        ("5B", 5),
    ],
)
def test_sizes(word: str, size: int) -> None:
    assert words.read_size(word) == size


@pytest.mark.parametrize("word", ["", "8MB", "8M", "-1", "1e6", "0.3B", "MiB", "8MiBs", "٣MiB", "nan", "inf"])
def test_what_is_no_size(word: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        words.read_size(word)


@given(st.integers(0, 5 * TIB))
def test_a_size_shown_is_read_back(size: int) -> None:
    assert words.read_size(words.show_size(size)) == size


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("0", 0.0), ("5s", 5.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("0.5", 0.5), ("1d", 86400.0)],
)
def test_times(word: str, seconds: float) -> None:
    assert words.read_time(word) == seconds


@pytest.mark.parametrize("word", ["", "-1s", "1w", "nan", "inf", "5 parsecs"])
def test_what_is_no_time(word: str) -> None:
    with pytest.raises(ValueError, match="a time"):
        words.read_time(word)


def test_tags_are_sent_url_encoded() -> None:
    assert words.read_tags("a b=c&d=") == "a%20b=c&d="


@pytest.mark.parametrize(
    "word", ["a", "=x", "a=b&a=c", "aws:x=1", "a=%zz", "a=b&", "&".join(f"t{number}=1" for number in range(11)), "a=*"]
)
def test_what_a_store_would_refuse_as_tags(word: str) -> None:
    with pytest.raises(ValueError, match=r"tag"):
        words.read_tags(word)


@pytest.mark.parametrize("word", ["foo", "aes256", "aws:kmss"])
def test_what_is_no_encryption(word: str) -> None:
    with pytest.raises(ValueError, match="one of AES256"):
        words.read_encryption(word)
