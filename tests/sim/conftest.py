"""What every test of the whole stack checks at its end: no bug was only logged."""

import logging
from collections.abc import Iterator

import pytest

from tests.unit.conftest import Bugs


@pytest.fixture(autouse=True)
def _no_bug_is_only_logged() -> Iterator[None]:
    bugs = Bugs()
    logger = logging.getLogger("s3mount")
    logger.addHandler(bugs)
    yield
    logger.removeHandler(bugs)
    assert not bugs.found
