"""Which answers of a system call are possible: by what is surely there, by what was injected, by what others did.

What a mount believes of names may be TTL_SECONDS old where others change them, and is exact where only it does. Where
that leaves both answers, either is right; so nothing here is clever about races, and strict about calm.
"""

from errno import (
    EACCES,
    EBUSY,
    EEXIST,
    EINVAL,
    EIO,
    EISDIR,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EROFS,
    ESTALE,
)  # fmt: skip
from math import inf
from typing import TYPE_CHECKING

from s3mount.errors import S3MountError
from tests.sim.ledger import Node, Touch
from tests.sim.lives import Mount

if TYPE_CHECKING:
    from tests.sim.world import World

TTL_SECONDS = 65.0
"""What an open directory or a walk knows is believed for up to a minute."""
LINGER_SECONDS = 1300.0
"""A call may fail by what another call of the same file has met, as long as that one took."""
CREATING = ("mkdir", "symlink")


class Excuses:
    """See the module."""

    def __init__(self, world: "World", mount: Mount) -> None:
        self._world = world
        self._ledger = world.ledger
        self._mount = mount

    def sure(self, path: str, start: float, but: Touch | None = None) -> bool | None:
        """Whether something was at a path all the time that the mount may go by, nothing was, or nobody can say."""
        ledger, number, calm = self._ledger, self._mount.number, start - TTL_SECONDS
        if not path:
            return True
        for touch in ledger.touches:
            if touch is but or not touch.near(path):
                continue
            if touch.overlaps(start if touch.mount == number and touch.fine else calm, inf):
                return None
        foreign = ledger.foreign(number, path, calm)
        if not foreign and any(
            node.handles and node.stored < 0 and not node.gone and node.keys == {path}
            for node in self._world.nodes_below(self._mount, path)
        ):
            return True  # created, and not stored yet
        since = calm if foreign else start
        answers = ledger.there(path, since)
        if answers == {True}:
            return None if ledger.going(number, path) else True
        if answers == {False} and not self._world.nodes_below(self._mount, path):
            return False
        return None

    def impossible(self, words: str, paths: tuple[str, ...], start: float, touch: Touch | None) -> str | None:
        """Why a call cannot have succeeded."""
        verb = words.split()[0]
        if verb in (*CREATING, "open") and paths:
            sure = self.sure(paths[0], start, touch)
            if (verb in CREATING or words.endswith(" x")) and sure is True:
                return "it was there"
            if verb == "open" and words[-1] in "rwa" and sure is False:
                return "it was not there"
        if (
            verb in ("unlink", "rmdir", "rename", "stat", "chmod", "truncate")
            and self.sure(paths[0], start, touch) is False
        ):
            return "it was not there"
        if verb == "rmdir" and self._surely_has_entries(paths[0], start, touch):
            return "it was not empty"
        return None

    def lacking(
        self,
        error: S3MountError,
        words: str,
        paths: tuple[str, ...],
        start: float,
        touch: Touch | None,
        node: Node | None,
    ) -> str | None:
        """Why there is no excuse for an error."""
        weather, code = self._mount.weather, error.errno
        since = start - LINGER_SECONDS if node is None else min(node.opened_at, start) - LINGER_SECONDS
        if code == ENOENT:
            if node is not None:
                return "the file was open"
            return "it was there" if any(self.sure(path, start, touch) is True for path in paths[:1]) else None
        if code == EEXIST:
            return "nothing was there" if self.sure(paths[-1], start, touch) is False else None
        if code == ENOTEMPTY:
            return None if self._may_have_entries(paths[-1], start) else "it was empty"
        if code in (ENOTDIR, EISDIR, EINVAL):
            return "it was open" if node is not None else None
        if code == EIO:
            fine = weather.hit_since(since) or self._mount.stopping or (node is not None and node.failed)
            return None if fine else "nothing had gone wrong"
        if code == EACCES:
            fine = weather.hit_since(since, "403") or (node is not None and node.failed)
            return None if fine else "nobody had refused"
        if code == ESTALE:
            return self._lacking_stale(paths, since, start, touch, node)
        if code in (ENOSPC, EBUSY):
            fine = self._world.pressed or (node is not None and node.failed)
            return None if fine else "there was room"
        if code == EROFS:
            return None if self._mount.stopping else "the mount takes writes"
        return "that is no answer here"

    def _lacking_stale(
        self, paths: tuple[str, ...], since: float, start: float, but: Touch | None, node: Node | None
    ) -> str | None:
        weather, ledger, number = self._mount.weather, self._ledger, self._mount.number
        if weather.hit_since(since, "412") or self._world.late or (node is not None and (node.failed or node.gone)):
            return None
        if not paths or any(ledger.foreign(number, path, since) for path in paths):
            return None
        # Its own calls are an excuse while they are under way, or when they have failed.
        own = [one for one in ledger.touches if one is not but and one.overlaps(start if one.fine else since, inf)]
        if any(touch.near(path) for touch in own for path in paths):
            return None
        return "nobody else had changed it"

    def _may_have_entries(self, path: str, start: float) -> bool:
        return (
            any(
                key.startswith(path + "/")
                and key != path + "/"
                and any(moment.found is not None for moment in self._ledger.moments(key, start - TTL_SECONDS))
                for key in self._ledger.history
            )
            or bool(self._world.nodes_below(self._mount, path))
            or self._ledger.touched(path, start - TTL_SECONDS)
        )

    def _surely_has_entries(self, path: str, start: float, touch: Touch | None) -> bool:
        return any(self.sure(below, start, touch) is True for _, below in self._world.universe(path))
