"""A condition is left out only where the store is known not to keep it, never because one request went wrong."""

import logging
import random
from collections import Counter

import pytest

from s3mount import errors
from s3mount.config import Config
from s3mount.store.abilities import Abilities
from s3mount.store.base import ABSENT, ALWAYS, Condition, Unlogged
from s3mount.store.replies import error_of
from s3mount.store.requests import Requests
from tests.running import run_virtual

MATCH = Condition(etag='"base"')
KEPT = Abilities(put_if_absent=True, put_if_match=True, complete_if_absent=True)


class Asked:
    """Requests that are answered by a refusal when they carry a condition; what was sent is remembered."""

    def __init__(self, refusal: errors.StoreError | None, found: Abilities | None = None) -> None:
        self._requests = Requests(
            Config(bucket="b"), clock_ns=lambda: 0, draw=random.Random(1), counts=Counter(), upload_log=Unlogged()
        )
        if found is not None:
            self._requests.believe(found)
        self._refusal = refusal
        self.sent: list[Condition] = []

    async def ask(self, operation: str, condition: Condition) -> list[Condition]:
        """The conditions that went out."""
        self.sent = []

        async def act(condition: Condition) -> None:
            self.sent.append(condition)
            if self._refusal is not None and condition != ALWAYS:
                raise self._refusal

        await self._requests.conditional(operation, "k", condition, act)
        return self.sent


@pytest.mark.parametrize("code", ["", "BadRequest", "InvalidArgument", "InvalidRequest", "UnsupportedArgument"])
@pytest.mark.parametrize("found", [None, KEPT, Abilities(put_if_absent=False)])
@run_virtual
async def test_a_stray_400_is_an_error_and_never_a_reason_to_send_without(code: str, found: Abilities | None) -> None:
    asked = Asked(error_of("PUT k", 400, code), found)
    for operation in ("put", "complete", "copy"):
        for _ in range(2):
            with pytest.raises(errors.StoreError):
                await asked.ask(operation, MATCH)
            assert asked.sent == [MATCH]


@pytest.mark.parametrize("refusal", [error_of("PUT k", 501, ""), error_of("PUT k", 400, "NotImplemented")])
@run_virtual
async def test_a_store_that_says_it_knows_no_condition_is_asked_without_that_one(
    refusal: errors.StoreError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = Asked(refusal)
    assert await asked.ask("put", MATCH) == [MATCH, ALWAYS]
    assert await asked.ask("put", MATCH) == [ALWAYS]
    assert await asked.ask("put", ABSENT) == [ABSENT, ALWAYS]
    told = [(record.levelname, record.getMessage().split(" reason=")[0]) for record in caplog.records]
    line = "store refuses conditions, they are not sent any more refused="
    assert told == [("WARNING", line + "put_if_match"), ("INFO", line + "put_if_absent")]


@run_virtual
async def test_a_condition_that_was_found_kept_is_sent_whatever_the_store_says_of_one() -> None:
    asked = Asked(error_of("PUT k", 501, "NotImplemented"), KEPT)
    for operation, condition in (("put", MATCH), ("put", ABSENT), ("complete", ABSENT)):
        with pytest.raises(errors.NotImplementedByStore):
            await asked.ask(operation, condition)
        assert asked.sent == [condition]


@run_virtual
async def test_a_condition_that_was_found_lacking_is_not_sent() -> None:
    """A store that answers 412 to every If-Match would refuse every overwrite."""
    refusal = errors.PreconditionFailed("412", code="PreconditionFailed", status=412)
    asked = Asked(refusal, Abilities(put_if_absent=True, put_if_match=False, complete_if_absent=True))
    for operation in ("put", "complete", "copy"):
        assert await asked.ask(operation, MATCH) == [ALWAYS]
        with pytest.raises(errors.PreconditionFailed):
            await asked.ask(operation, ABSENT)
    asked = Asked(refusal, Abilities(put_if_absent=True, put_if_match=True, complete_if_absent=False))
    assert await asked.ask("complete", ABSENT) == [ALWAYS]
    with pytest.raises(errors.PreconditionFailed):
        await asked.ask("put", ABSENT)


@run_virtual
async def test_what_a_search_did_not_find_out_changes_nothing() -> None:
    asked = Asked(None, KEPT)
    asked._requests.believe(Abilities())
    assert await asked.ask("put", MATCH) == [MATCH]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (Abilities(), True),
        (KEPT, True),
        (Abilities(put_if_absent=False, put_if_match=True), False),
        (Abilities(put_if_absent=True, put_if_match=False), False),
        (Abilities(put_if_absent=True, put_if_match=True, complete_if_absent=False), True),
    ],
)
@run_virtual
async def test_conditions_of_a_put_are_said_to_be_kept_unless_one_was_found_lacking(
    found: Abilities, kept: bool
) -> None:
    assert Asked(None, found)._requests.keeps_conditions is kept


@run_virtual
async def test_a_condition_that_was_refused_is_said_to_be_lacking() -> None:
    asked = Asked(error_of("PUT k", 501, ""))
    await asked.ask("put", ABSENT)
    assert not asked._requests.keeps_conditions
