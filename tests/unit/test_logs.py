"""Log lines: one fact, one line, no floods; the same as JSON; a level that changes; the troubles that are kept."""

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from s3mount.errors import AccessDenied, ClockSkew, Invalid, S3MountError, Unavailable
from s3mount.logs.facts import fact_of
from s3mount.logs.level import Level
from s3mount.logs.lines import LINES_PER_MINUTE_MAX, Escaped, Json, Thinned
from s3mount.logs.remedies import BY_CLASS, remedy_of
from s3mount.logs.troubles import KINDS_MAX, Troubles
from tests.running import run_trio


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


def shown(record: logging.LogRecord) -> dict[str, Any]:
    line = Json().format(record)
    assert "\n" not in line
    assert line.isascii()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_of_json_has_the_time_the_words_and_a_field_for_each_pair() -> None:
    told = record(
        "file dropped path=%s bytes=%d held=%r seconds=%.1f reason=%s", "a=b c", 7, True, 1.26, Unavailable("x")
    )
    told.created, told.msecs = 1_600_000_000.0421, 42.1
    assert shown(told) == {
        "time": "2020-09-13T12:26:40.042Z",
        "level": "warning",
        "logger": "s3mount",
        "message": "file dropped",
        "path": "a=b c",
        "bytes": 7,
        "held": True,
        "seconds": 1.3,
        "reason": "x",
    }


def test_pairs_that_have_names_of_ours_and_words_that_are_no_pairs_keep_their_place() -> None:
    assert shown(record("%s reason=%s level=%s", "cache was given up", "full", 3))["message"] == "cache was given up"
    assert (
        shown(record("x level=%s time=%d", "deep", 4)).items()
        >= {"level_": "deep", "time_": 4, "level": "warning"}.items()
    )
    assert shown(record("keys hidden, 100%% sure: key=%s", "k"))["message"] == "keys hidden, 100% sure"
    assert (
        shown(record("no arguments, so 50% of key=%s is text"))["message"] == "no arguments, so 50% of key=%s is text"
    )


def test_a_traceback_is_a_field_of_one_line() -> None:
    try:
        raise KeyError("a\nbug")
    except KeyError:
        told = record("request met a bug operation=%s", "read")
        told.exc_info = sys.exc_info()
    found = shown(told)
    assert found["operation"] == "read"
    assert "Traceback (most recent call last)" in found["traceback"]


@given(st.text(), st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.none(), st.booleans()))
def test_whatever_a_bucket_puts_into_a_line_it_stays_one_object_that_says_it(key: str, value: object) -> None:
    told = shown(record("object was met key=%s value=%s size=%d", key, value, 3))
    assert (told["message"], told["key"], told["size"]) == ("object was met", key, 3)


class Written:
    """A logger of its own with a level, and the lines it has written."""

    def __init__(self, name: str) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.logger = logging.getLogger(f"test-{id(self)}")
        self.logger.propagate = False
        self.troubles = Troubles()
        self.logger.handlers = [self.troubles, handler]
        self.level = Level(self.logger, handler, name)

    def lines(self) -> list[str]:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            self.logger.log(level, "a line")
        return self._said()

    def _said(self) -> list[str]:
        lines = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return lines

    changes = _said


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written("info")
    yield made
    made.logger.handlers = []


def test_each_change_of_the_level_is_one_line_whatever_the_level_and_holds(written: Written) -> None:
    assert written.lines() == ["INFO a line", "WARNING a line", "ERROR a line"]
    written.level.change("error", by="a test")
    assert written.changes() == ["INFO log level was changed from=info to=error by=a test"]
    assert written.lines() == ["ERROR a line"]
    written.level.change("warning", by="a test")
    assert written.changes() == ["INFO log level was changed from=error to=warning by=a test"]
    written.level.change("warning", by="a test")
    assert written.changes() == []
    written.level.change("debug", by="a test")
    written.changes()
    assert len(written.lines()) == 4


def test_warnings_are_kept_as_troubles_though_the_log_has_errors_only(written: Written) -> None:
    written.level.change("error", by="a test")
    written.logger.warning("file not stored path=%s", "a")
    assert written.troubles.figures["warnings"] == 1


def test_steps_end_at_the_ends(written: Written) -> None:
    names = []
    for steps in (1, 1, -1, -1, -1, -1):
        written.level.step(steps, by="a test")
        names.append(written.level.name)
    assert names == ["debug", "debug", "info", "warning", "error", "error"]


@run_trio
async def test_the_signals_go_a_step_each() -> None:
    written = Written("info")
    async with trio.open_nursery() as nursery:
        await nursery.start(written.level.follow_signals)
        for number, expected in ((signal.SIGUSR1, "debug"), (signal.SIGUSR2, "info"), (signal.SIGUSR2, "warning")):
            os.kill(os.getpid(), number)
            while written.level.name != expected:
                await trio.lowlevel.checkpoint()
            assert f"by={signal.Signals(number).name}" in written.changes()[0]
        nursery.cancel_scope.cancel()
    written.logger.handlers = []


@run_trio
async def test_the_verb_tells_and_sets_the_level(written: Written) -> None:
    assert await written.level.verb({}, None) == {"level": "info", "former": "info"}
    assert await written.level.verb({"level": "debug"}, None) == {"level": "debug", "former": "info"}
    for wrong in ("loud", 3, ["info"]):
        with pytest.raises(Invalid, match="one of error, warning, info, debug"):
            await written.level.verb({"level": wrong}, None)
    assert written.level.name == "debug"


def latest(written: Written) -> list[dict[str, Any]]:
    found: Any = written.troubles.figures["latest"]
    return list(found)


def test_a_kind_of_failure_is_kept_once_with_its_count_the_latest_about_and_what_to_do(written: Written) -> None:
    for path in ("a", "b"):
        written.logger.error("file not stored, trying again path=%s reason=%s", path, Unavailable("no answer"))
    written.logger.warning("request failed operation=%s errno=%s reason=%s", "flush", "EACCES", AccessDenied("403"))
    written.logger.info("nothing of interest path=%s", "c")
    denied, unavailable = latest(written)
    assert (denied["operation"], denied["errno"], denied["level"]) == ("flush", "EACCES", "warning")
    assert "credentials" in denied["remedy"]
    assert (unavailable["what"], unavailable["count"]) == ("file not stored, trying again", 2)
    assert (unavailable["about"], unavailable["reason"], unavailable["level"]) == ("b", "no answer", "error")
    assert unavailable["remedy"] == BY_CLASS[Unavailable]
    assert unavailable["first_ns"] <= unavailable["last_ns"]
    assert written.troubles.figures["errors"] == 2


def test_the_same_words_with_another_operation_or_exception_are_another_kind(written: Written) -> None:
    for operation, error in (("read", Unavailable("1")), ("open", Unavailable("1")), ("open", ClockSkew("2"))):
        written.logger.warning("request failed operation=%s reason=%s", operation, error)
    assert len(latest(written)) == 3


def test_kinds_are_bounded_and_the_oldest_go(written: Written) -> None:
    for number in range(KINDS_MAX + 5):
        written.logger.warning(f"trouble {number}")
    kept = [trouble["what"] for trouble in latest(written)]
    assert len(kept) == KINDS_MAX
    assert kept[0] == f"trouble {KINDS_MAX + 4}"
    assert "trouble 4" not in kept


def test_a_line_that_cannot_be_written_harms_nobody(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    written.logger.warning("so many: %d", "none")
    assert written.troubles.figures["warnings"] == 0


def test_every_class_of_errors_has_a_remedy() -> None:
    waiting: list[type[S3MountError]] = [S3MountError]
    while waiting:
        kind = waiting.pop()
        assert remedy_of("request failed", kind)
        waiting += kind.__subclasses__()
    assert "report it" in remedy_of("request met a bug", KeyError)
    assert "report it" in remedy_of("anything", KeyError)


def test_a_fact_that_is_not_written_in_our_way_is_its_words() -> None:
    assert fact_of(record("a %(x)s mapping", {"x": 1})).words == "a 1 mapping"
    assert fact_of(record("plain")).fields == {}
