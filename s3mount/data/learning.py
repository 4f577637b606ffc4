"""What the store takes, as far as it is known, and the one task that finds it out when an upload has to know.

Options are believed. Without them everything is as S3 says until an upload comes that not every store takes: one with
copied parts, with parts of unequal size, or with very many. It waits; whoever else has to know meanwhile waits with it.
A stream that comes near the number of parts that every store takes has it found out ahead.
What could not be found out is as S3 says, and is not asked again by this mount.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import trio

from s3mount.config import S3_PARTS_MAX, Config
from s3mount.data.budget import Budget
from s3mount.data.grid import Grid, PartRules
from s3mount.store.abilities import Abilities, FindOut

log = logging.getLogger(__name__)


class Learning:
    """See the module. `rules` and `grid` hold from now on; a stream keeps the parts that it has begun."""

    def __init__(self, config: Config, nursery: trio.Nursery, budget: Budget, find_out: FindOut) -> None:
        # The mutable state: the rules and the grid they make; whether they are known for good; the search that is
        # under way, and who is called at its end.
        self._config = config
        self._nursery = nursery
        self._budget = budget
        self._find_out = find_out
        self.rules = rules_of(config, Abilities())
        self.grid = Grid(config.part_size_bytes, config.file_size_max_bytes, self.rules)
        self.known = "auto" not in (config.equal_parts, config.part_copy) and config.parts_max is not None
        self._search: trio.Event | None = None
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Learning {'known' if self.known else 'not known yet'}, {self.rules}>"

    def begin(self) -> None:
        """Somebody will soon have to know the rules."""
        if not self.known:
            self._begun()

    async def learn(self) -> None:
        """Return when the rules are known. A caller who is cancelled leaves the search to the others."""
        if not self.known:
            await self._begun().wait()

    def known_or_call(self, again: Callable[[], None]) -> bool:
        """Whether the rules are known; else `again` is called once they are. Staging counts on what it will free."""
        if not self.known:
            if again not in self._waiting:
                self._budget.will_free()
                self._waiting.append(again)
            self._begun()
        return self.known

    def without_copies(self) -> None:
        """The store has refused to copy a part."""
        self._use(replace(self.rules, copies=False))

    def _begun(self) -> trio.Event:
        if self._search is None:
            self._search = trio.Event()
            self._nursery.start_soon(self._run, self._search)
        return self._search

    async def _run(self, search: trio.Event) -> None:
        try:
            abilities = await self._find_out()
        except Exception:
            log.exception("what the store takes was not found out by a bug")
            abilities = Abilities()
        self._use(rules_of(self._config, abilities))
        self.known = True
        search.set()
        waiting, self._waiting = self._waiting, []
        for again in waiting:
            again()
            self._budget.will_free_no_more()

    def _use(self, rules: PartRules) -> None:
        if rules != self.rules:
            self.rules = rules
            self.grid = Grid(self._config.part_size_bytes, self._config.file_size_max_bytes, rules)


def rules_of(config: Config, abilities: Abilities) -> PartRules:
    """Options first, then what was found, then what S3 says."""
    equal, copies = abilities.equal_parts or False, abilities.part_copy is not False
    return PartRules(
        parts_max=config.parts_max or abilities.parts_max or S3_PARTS_MAX,
        equal=equal if config.equal_parts == "auto" else config.equal_parts == "yes",
        copies=copies if config.part_copy == "auto" else config.part_copy == "yes",
    )
