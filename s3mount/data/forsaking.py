"""How a file loses its name: its object is deleted or replaced, and its bytes are nobody's from then on.

Before that, what programs may still read of the object is kept or pinned (`orphans`). A file that a conflict has parted
from its key shows what is elsewhere: for it nothing is kept. No state of its own.
"""

from collections.abc import Awaitable, Callable

from s3mount.data.ahead import Ahead
from s3mount.data.orphans import Keeping
from s3mount.data.syncing import Syncing
from s3mount.store.base import ObjectStore


class Forsaking:
    """The ends of one file's name; see `File` for what each promises."""

    __slots__ = ("_ahead", "_keeping", "_syncing")

    def __init__(self, syncing: Syncing, keeping: Keeping, ahead: Ahead) -> None:
        self._syncing = syncing
        self._keeping = keeping
        self._ahead = ahead

    async def unlink(self, store: ObjectStore, *, read_on: bool) -> None:
        async def remove() -> None:
            self._syncing.check_parted()
            await self._syncing.expectation.delete(store, self._keeping.former, self._syncing.key)

        await self.replaced(remove, read_on=read_on)

    async def replaced(self, replace: Callable[[], Awaitable[None]], *, read_on: bool) -> None:
        async def act() -> None:
            if self._syncing.conflict is None:
                self._keeping.begin()
                if read_on:
                    await self._keeping.keep(readable=self._ahead.returns)
            await replace()

        await self._syncing.forsake(act, self._keeping.undo)

    async def superseded(self) -> None:
        async def pin() -> None:
            if self._syncing.conflict is None:
                self._keeping.begin()
                self._keeping.pin()

        await self._syncing.forsake(pin, self._keeping.undo)
