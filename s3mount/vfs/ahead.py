"""The next page of a directory, asked for while somebody is told this one: server and daemon work at the same time.

Asked once a reader has come back for more of a page, and for one page at a time: who stops early has cost at most one
request. It may not push out what is being read: where few names are kept nothing is asked ahead. A failure is not told:
the reader that needs the page asks again and is. Knows neither handles nor how entries are told.
"""

import trio

from s3mount.errors import S3MountError
from s3mount.vfs.inodes import Inode
from s3mount.vfs.pages import fetch_page
from s3mount.vfs.spans import Span, Step
from s3mount.vfs.tree import Tree

PAGES_KEPT_MIN = 4
"""As many pages of each reader must have room among the names that are kept."""


class Ahead:
    """What one reader has asked for ahead. The state: where the page begins, and the event of its arrival."""

    __slots__ = ("_arrived", "_start")

    def __init__(self) -> None:
        self._start = ""
        self._arrived: trio.Event | None = None

    def send(self, tree: Tree, inode: Inode, span: Span, *, started: float, readers: int) -> None:
        """Ask for the page behind this one, unless it is on its way, or known and good for a reading that `started`
        then."""
        directory = inode.contents
        if (
            span.token is None
            or self._arrived is not None
            or PAGES_KEPT_MIN * readers * len(span.entries) > tree.listings.names_max
            or directory.page_after(span.stop, started, trio.current_time()) is not None
        ):
            return
        self._start = span.stop
        self._arrived = trio.Event()
        tree.background(self._fetch, tree, inode, span.next, self._arrived)

    async def wait(self, position: str) -> bool:
        """Wait for the page that begins at `position`, if it is on its way. Whether it was."""
        arrived = self._arrived
        if arrived is None or self._start != position:
            return False
        await arrived.wait()
        return True

    async def _fetch(self, tree: Tree, inode: Inode, step: Step, arrived: trio.Event) -> None:
        directory = inode.contents
        try:
            await fetch_page(tree, directory, step)
        except S3MountError:
            return
        finally:
            self._arrived = None
            arrived.set()
            if directory.removed:
                directory.forget_all()
            tree.inodes.release(inode)  # which may have waited for nobody but its reader
