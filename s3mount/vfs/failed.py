"""What could not be stored, and nobody was told of: named, tried at once, read by a person, dropped.

Of two kinds: files that wait in memory for another try (`kept`), and changes of --write-back that the bucket refuses
(`refused`). No state of its own. Nothing that is begun here ends with who asked for it.
"""

from collections.abc import Sequence
from typing import Protocol

from s3mount.errors import NoEntry, S3MountError, Stale
from s3mount.store.base import Buffer
from s3mount.vfs.closing import Closing
from s3mount.vfs.kept import Outcome
from s3mount.vfs.refused import refused
from s3mount.vfs.tree import Tree


class Held(Protocol):
    """One of either kind. `number` is no other one's; `change`: what it was to bring, of a file its content."""

    @property
    def number(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def change(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def staged_bytes(self) -> int: ...
    @property
    def since_ns(self) -> int: ...
    @property
    def changed_ns(self) -> int: ...
    @property
    def error(self) -> S3MountError: ...
    @property
    def tries(self) -> int: ...
    @property
    def next_at(self) -> float | None: ...
    @property
    def outcome(self) -> Outcome | None: ...
    async def retry(self) -> None: ...
    async def drop(self) -> None: ...
    async def read(self, offset: int, size: int) -> Buffer: ...


class Failed:
    """See the module. Paths are relative to the mount's root, and mean all below them, too."""

    def __init__(self, closing: Closing, tree: Tree) -> None:
        self._closing = closing
        self._tree = tree

    @property
    def bytes_max(self) -> int:
        """How much is kept in memory of all files together."""
        return self._closing.kept_bytes_max

    def find(self, paths: Sequence[str]) -> list[Held]:
        """What is kept of these paths, of all paths when there are none. Raises NoEntry for one of which nothing is."""
        held = self._all()
        if not paths:
            return held
        chosen: dict[int, Held] = {}
        for path in paths:
            below = [one for one in held if one.path == path or one.path.startswith(f"{path}/".lstrip("/"))]
            if not below:
                raise NoEntry(f"nothing is kept of {path or 'the mount'}: see `s3mount failed list`")
            chosen.update((one.number, one) for one in below)
        return [one for one in held if one.number in chosen]

    async def retry(self, held: Held) -> None:
        """Try at once, and return when that is over, or the try under way; it says itself what became of it."""
        await held.retry()

    async def drop(self, held: Held) -> None:
        """Drop what is kept, after the try under way, if that fails, too. Raises Busy when a program has the file
        open."""
        await held.drop()

    async def read(self, number: int, offset: int, size: int) -> tuple[Held, Buffer]:
        """Bytes as the program has left them. Raises Stale when they are not kept under this number any more."""
        data = await self._held(number).read(offset, size)
        return self._held(number), data

    def _all(self) -> list[Held]:
        return [*self._closing.kept, *refused(self._tree)]

    def _held(self, number: int) -> Held:
        for held in self._all():
            if held.number == number:
                return held
        raise Stale("the file is not kept any more: it was stored, dropped or taken over by a program meanwhile")
