"""Which version an open has found: it must be one that the path had lately, or that the mount itself is changing."""

from math import inf
from typing import TYPE_CHECKING

from s3mount.vfs.inodes import Inode
from tests.sim.ledger import Broken, Node
from tests.sim.lives import Mount

if TYPE_CHECKING:
    from tests.sim.world import World

NEIGHBOUR_SECONDS = 1.0
"""So long before its open a small file may have been fetched."""


class Finding:
    """See the module; what is found is a node of the world's."""

    def __init__(self, world: "World", mount: Mount) -> None:
        self._world = world
        self._ledger = world.ledger
        self._mount = mount

    def node(self, inode: Inode, path: str, how: str, start: float) -> Node:
        """The node of an inode that was opened by a path, in a call that began at `start`."""
        nodes, name = self._world.nodes, (self._mount.number, inode.ino)
        file = inode.own.file
        assert file is not None
        node = nodes.get(name)
        if node is not None and (node.handles or node.stored < len(node.states) - 1):
            if not node.writers and not file.dirty and not file.busy and not node.gone and how == "r":
                self._must_be_current(node.content, path, start)
            return node
        if file.base is None:
            if how in "rwa":
                raise Broken(f"{path} was opened though nobody has stored it")
            node = self._ledger.node(self._mount.number, path, None)
        else:
            node = self._ledger.node(self._mount.number, path, self._base(file.base.etag, path, start))
            if (file.dirty or file.busy) and how != "t":  # truncated by path, and not stored yet
                self._ledger.write(node, node.content[: file.size].ljust(file.size, b"\0"))
                if node.content in self._ledger.bodies(path, -inf):
                    node.stored = len(node.states) - 1  # the reply is on its way
        if inode.linked:
            node.keys.add(inode.key)
        for touch in self._ledger.touches:
            if touch.kind == "rename" and touch.end is None and touch.mount == self._mount.number:
                node.keys |= {future for key in node.keys if (future := moved_to(key, *touch.paths))}
        node.gone = not inode.linked
        nodes[name] = node
        return node

    def _base(self, etag: str, path: str, start: float) -> bytes:
        """The content of the version that was opened, which must have been there lately."""
        since = self._window(path, start)
        for moment in reversed(self._ledger.moments(path, since)):
            if moment.found is not None and moment.found.etag == etag:
                return moment.found.body
        for key, moments in self._ledger.history.items():
            for moment in moments:
                if moment.found is not None and moment.found.etag == etag:
                    if self._ledger.touched(path, since):
                        return moment.found.body  # it was moved while it was opened
                    raise Broken(f"{path} was opened as what {key} held at {moment.at:.3f}, not since {since:.3f}")
        raise Broken(f"{path} was opened as a version that never was: {etag}")

    def _must_be_current(self, content: bytes, path: str, start: float) -> None:
        since = self._window(path, start)
        if content not in self._ledger.bodies(path, since) and not self._ledger.touched(path, since):
            raise Broken(f"{path} was opened with content that it has not had since {since:.3f}")

    def _window(self, path: str, start: float) -> float:
        """Since when a version that is opened now may be known."""
        foreign = self._ledger.foreign(self._mount.number, path, start - NEIGHBOUR_SECONDS)
        return start - NEIGHBOUR_SECONDS if foreign else start


def moved_to(key: str, old: str, new: str) -> str | None:
    """Where a rename brings a key; None for one that it leaves alone."""
    return new + key[len(old) :] if key == old or key.startswith(old + "/") else None
