"""The files that nobody was told could not be stored: named, tried at once, read by a person, dropped.

No state of its own: what is kept is `closing`'s. Nothing that is begun here ends with who asked for it.
"""

from collections.abc import Sequence

from s3mount.errors import Busy, NoEntry, Stale
from s3mount.store.base import Buffer
from s3mount.vfs.closing import Closing
from s3mount.vfs.kept import Kept


class Failed:
    """See the module. Paths are relative to the mount's root, and mean all below them, too."""

    def __init__(self, closing: Closing) -> None:
        self._closing = closing

    @property
    def bytes_max(self) -> int:
        """How much is kept of all of them together."""
        return self._closing.kept_bytes_max

    def find(self, paths: Sequence[str]) -> list[Kept]:
        """What is kept of these paths, of all paths when there are none. Raises NoEntry for one of which nothing is."""
        kept = self._closing.kept
        if not paths:
            return kept
        chosen: dict[int, Kept] = {}
        for path in paths:
            below = [one for one in kept if one.inode.path == path or one.inode.path.startswith(f"{path}/".lstrip("/"))]
            if not below:
                raise NoEntry(f"nothing is kept of {path or 'the mount'}: see `s3mount failed list`")
            chosen.update((one.number, one) for one in below)
        return [one for one in kept if one.number in chosen]

    async def retry(self, kept: Kept) -> None:
        """Try at once, and return when that is over, or the try under way; see `kept` for what became of it."""
        if kept.outcome is None:
            kept.hurry()
            await kept.tried()

    async def drop(self, kept: Kept) -> None:
        """Drop what is kept, after the try under way, if that fails, too. Raises Busy when a program has the file
        open."""
        if kept.state.handles:
            raise Busy(f"{kept.inode.path} is open: its program may store it yet")
        kept.unwanted = True
        while kept.outcome is None and kept.unwanted:
            kept.hurry()
            await kept.tried()
        if kept.outcome is None:
            raise Busy(f"{kept.inode.path} was opened meanwhile: its program may store it yet")

    async def read(self, number: int, offset: int, size: int) -> tuple[Kept, Buffer]:
        """Bytes as the program has left them. Raises Stale when they are not kept under this number any more."""
        kept = self._kept(number)
        data = await kept.file.read(offset, size)
        return self._kept(number), data

    def _kept(self, number: int) -> Kept:
        for kept in self._closing.kept:
            if kept.number == number:
                return kept
        raise Stale("the file is not kept any more: it was stored, dropped or taken over by a program meanwhile")
