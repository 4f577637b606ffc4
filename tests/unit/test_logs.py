"""Log lines: one fact, one line, no floods."""

import logging

from s3mount.logs import LINES_PER_MINUTE_MAX, Escaped, Thinned


def record(message: str, *args: object, line: int = 1) -> logging.LogRecord:
    return logging.LogRecord("s3mount", logging.WARNING, "x.py", line, message, args, None)


def test_a_key_with_a_newline_cannot_forge_a_line() -> None:
    line = Escaped("%(message)s").format(record("key was hidden key=%s", "a\nERROR all is lost\x1b[2J\udcff"))
    assert line == "key was hidden key=a\\nERROR all is lost\\x1b[2J\\udcff"


def test_a_kind_of_line_is_thinned_and_the_rest_counted() -> None:
    now = 0.0
    thinned = Thinned(clock=lambda: now)
    passed = sum(bool(thinned.filter(record("hidden"))) for _ in range(LINES_PER_MINUTE_MAX + 5))
    assert passed == LINES_PER_MINUTE_MAX
    assert thinned.filter(record("another place", line=2))
    now = 61.0
    late = record("hidden")
    assert thinned.filter(late)
    assert "5 more lines" in late.getMessage()
