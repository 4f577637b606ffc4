"""What every unit test checks at its end."""

import logging
from collections.abc import Iterator

import pytest

from tests.unit.files import InjectedBug


class Bugs(logging.Handler):
    """Exceptions that were caught as bugs and logged, but those that a test has put there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], InjectedBug):
            self.found.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@pytest.fixture(autouse=True)
def _no_bug_of_ours_is_only_logged() -> Iterator[None]:
    """The tasks of the storage outlive a bug: here it fails the test all the same."""
    bugs = Bugs()
    logger = logging.getLogger("s3mount.data")
    logger.addHandler(bugs)
    yield
    logger.removeHandler(bugs)
    assert not bugs.found
