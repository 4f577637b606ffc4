"""What each change of the bucket is judged by: who may make an object what it becomes, and what was promised of it.

The oracle of the Nth failure loop knows every world that one program allows; here several programs, mounts and another
client act at once, and each change is seen in the instant it happens. So nothing is kept but what justifies a change: a
`Node` is a file as one mount has it, with all contents it ever had; a `Touch` is a system call that may remove,
replace or move objects, in flight or ended. A change by a mount must be one of its nodes' contents, put in the place
of what the node was based on and never older than what was acknowledged; or what a rename of its moves; or what a call
of its removes. So an object that is a mix or a stub, one that replaces another writer's, and one that goes without
anybody's wish are found when they happen. Paths are keys.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import trio

from s3mount.config import RESERVED
from tests.memory_store import MemoryObject, MemoryStore

Kind = Literal["remove", "rename", "put", "truncate", "open", "change"]
OTHER = -1
"""The number of the other client, as mounts have theirs."""


class Broken(AssertionError):
    """A promise is broken."""


@dataclass(eq=False)
class Node:
    """A file as one life of a mount has it. `states`: its contents in order, the first one what it was based on;
    `replaces`: what its upload may replace; None there is absence. `blind`: truncated to nothing, so anything may be
    replaced. `stored`, `acked`: the newest state that was in the bucket, that was promised."""

    mount: int
    keys: set[str]
    states: list[bytes]
    replaces: set[bytes | None]
    blind: bool = False
    stored: int = -1
    acked: int = -1
    handles: int = 0
    writers: int = 0
    pristine: bool = False
    gone: bool = False
    """Unlinked or replaced: what it has is nobody's."""
    failed: bool = False
    """A call of its has failed: the error stays, or the bytes were dropped."""
    astray: bool = False
    """A rename of it has failed: nobody can say what it is called."""
    opened_at: float = 0.0
    waits: int = 0
    """Writes and truncations under way."""
    serial: int = 0

    @property
    def content(self) -> bytes:
        return self.states[-1]


@dataclass(eq=False)
class Touch:
    """A system call that may change what is at some paths and below them."""

    kind: Kind
    mount: int
    paths: tuple[str, ...]
    start: float
    body: bytes | None = None
    end: float | None = None
    fine: bool = False

    def covers(self, key: str) -> bool:
        return any(_below(key, path) for path in self.paths)

    def near(self, path: str) -> bool:
        """Whether the path is one of these, above or below one."""
        return any(_below(path, one) or _below(one, path) for one in self.paths)

    def overlaps(self, start: float, stop: float) -> bool:
        return self.start <= stop and (self.end is None or self.end >= start)


@dataclass
class Moment:
    """What a key held from a time on."""

    at: float
    found: MemoryObject | None
    actor: int


@dataclass
class Ledger:
    """See the module."""

    bucket: MemoryStore
    nodes: list[Node] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    history: dict[str, list[Moment]] = field(default_factory=lambda: defaultdict(list))
    by_body: dict[bytes, list[tuple[Node, int]]] = field(default_factory=lambda: defaultdict(list))
    actor: int = OTHER
    late: bool = False
    broken: str | None = None

    def begin(self) -> None:
        """What is in the bucket now was there always."""
        for key, found in self.bucket.objects.items():
            self.history[key].append(Moment(-inf, found, OTHER))

    # programs

    def node(self, mount: int, key: str, content: bytes | None) -> Node:
        """A file was opened, or created where nothing was."""
        node = Node(mount, {key}, [content or b""], {content}, stored=-1 if content is None else 0)
        node.opened_at = trio.current_time()
        node.pristine = content is None
        self.nodes.append(node)
        self._note(node)
        return node

    def write(self, node: Node, content: bytes) -> None:
        """It has another content."""
        if content != node.content:
            node.states.append(content)
            self._note(node)

    def touch(self, kind: Kind, mount: int, *paths: str, body: bytes | None = None) -> Touch:
        made = Touch(kind, mount, paths, trio.current_time(), body)
        self.touches.append(made)
        return made

    def end(self, touch: Touch, *, fine: bool) -> None:
        """The call has returned, or never will."""
        touch.end, touch.fine = trio.current_time(), fine

    def _note(self, node: Node) -> None:
        self.by_body[node.content].append((node, len(node.states) - 1))

    # what was there

    def moments(self, key: str, since: float) -> list[Moment]:
        """What the key held at some time since then."""
        found = self.history.get(key, [])
        first = 0
        for index, moment in enumerate(found):
            if moment.at <= since:
                first = index
        held = found[first:]
        return held if held and held[0].at <= since else [Moment(-inf, None, OTHER), *held]

    def bodies(self, key: str, since: float) -> list[bytes | None]:
        return [None if moment.found is None else moment.found.body for moment in self.moments(key, since)]

    def there(self, path: str, since: float) -> set[bool]:
        """Whether something was at this path, file or directory, at the times since then: one answer or both."""
        exact = {moment.found is not None for moment in self.moments(path, since)}
        below = [key for key in self.history if key.startswith(path + "/")]
        always = exact == {True} or any(
            all(moment.found is not None for moment in self.moments(key, since)) for key in below
        )
        ever = True in exact or any(
            any(moment.found is not None for moment in self.moments(key, since)) for key in below
        )
        return {True} if always else {True, False} if ever else {False}

    def foreign(self, mount: int, path: str, since: float) -> bool:
        """Whether another than this mount has changed something at or below the path since then, or may have."""
        for key, moments in self.history.items():
            if _below(key, path) and any(moment.at >= since and moment.actor != mount for moment in moments):
                return True
        return any(touch.mount != mount and touch.overlaps(since, inf) and touch.near(path) for touch in self.touches)

    def touched(self, path: str, since: float, *, but: Touch | None = None, mount: int | None = None) -> bool:
        """Whether a call that changes names at, above or below the path was under way since then."""
        return any(
            touch is not but
            and touch.overlaps(since, inf)
            and touch.near(path)
            and (mount is None or touch.mount == mount)
            for touch in self.touches
        )

    # judging

    def changed(self, key: str, before: MemoryObject | None, after: MemoryObject | None) -> None:
        """Raises nothing, for a server does not fail by what we think of it: `broken` tells."""
        why = self._fault(key, before, after)
        self.history[key].append(Moment(trio.current_time(), after, OTHER if self.late else self.actor))
        if why is not None and self.broken is None:
            who = "the other client" if self.actor == OTHER else f"mount {self.actor}"
            self.broken = f"{who} made {key!r} {_shown(after)} of {_shown(before)}: {why}"

    def _fault(self, key: str, before: MemoryObject | None, after: MemoryObject | None) -> str | None:
        """What is wrong with a change."""
        if self.actor == OTHER or key.rpartition("/")[2].startswith(RESERVED):
            return None
        if key.startswith(RESERVED):
            return self._fault_of_copy(key, after)
        if after is None:
            assert before is not None
            return None if self.late or self._may_go(key, before) else "no call of its removes it"
        if key.endswith("/") and not after.body:
            return None
        if before is not None and after.body == before.body:
            self._stored(key, after.body)
            return None
        if self.late:
            self._stored(key, after.body)
            meant = self.by_body.get(after.body) or any(touch.body == after.body for touch in self._own())
            return None if meant or self._moved(key, after.body) else "nobody has written that"
        if self._moved(key, after.body):
            self._stored(key, after.body)
            return None
        if self._put(key, before, after):
            self._stored(key, after.body)
            return None
        return self._fault_of_upload(key, before, after)

    def _fault_of_copy(self, key: str, after: MemoryObject | None) -> str | None:
        if after is None or "/conflicts/" not in key or key.endswith(".partial") or self.by_body.get(after.body):
            return None
        if any(touch.kind == "truncate" and len(touch.body or b"") == len(after.body) for touch in self._own()):
            return None
        return "the copy of a conflict has what nobody has written"

    def _fault_of_upload(self, key: str, before: MemoryObject | None, after: MemoryObject) -> str | None:
        candidates = [(node, index) for node, index in self.by_body.get(after.body, ()) if node.mount == self.actor]
        if not candidates:
            return "no file of its has ever had these bytes"
        reasons = [self._fault_of_state(node, index, key, before) for node, index in candidates]
        if all(reasons):
            return "; ".join(filter(None, reasons))
        self._stored(key, after.body)
        return None

    def _fault_of_state(self, node: Node, index: int, key: str, before: MemoryObject | None) -> str | None:
        if key not in node.keys and not node.astray:
            return f"its file of these bytes is called {sorted(node.keys) or 'nothing'}"
        if index < node.acked:
            return "the file had newer bytes acknowledged"
        held = None if before is None else before.body
        if node.blind or held in node.replaces or held in node.states[: index + 1]:
            return None
        return "it knows nothing of what it replaces"

    def _stored(self, key: str, body: bytes) -> None:
        for node, index in self.by_body.get(body, ()):
            if node.mount == self.actor and key in node.keys:
                node.stored = max(node.stored, index)

    def going(self, mount: int, path: str) -> bool:
        """Whether a call of the mount has removed what is still there."""
        since = self.history[path][-1].at if self.history.get(path) else -inf
        return any(
            touch.mount == mount and touch.kind in ("remove", "rename") and touch.covers(path)
            and (touch.end is None or touch.end >= since)
            for touch in self.touches
        )  # fmt: skip

    def _may_go(self, key: str, before: MemoryObject) -> bool:
        path = key.rstrip("/")
        since = self.history[key][-1].at if self.history[key] else -inf
        for touch in self._own():
            if touch.end is not None and touch.end < since and (touch.fine or touch.kind != "rename"):
                continue  # what is there now has come later
            if touch.kind == "remove" and path in self._names(touch):
                return True
            if touch.kind in ("put", "change") and touch.end is None and before.body == (touch.body or b""):
                return True  # a directory above was moved meanwhile: it is made anew there
            if touch.kind == "rename" and any(_below(path, name) for name in self._names(touch)):
                return True
            if touch.kind == "rename" and touch.covers(path) and (not before.body or self._moved(key, before.body)):
                return True
        return False

    def _names(self, touch: Touch) -> list[str]:
        """The path that a call was given, and what renames that were under way with it have made of it."""
        path = touch.paths[0]
        return [path] + [
            other.paths[1] + path[len(other.paths[0]) :]
            for other in self._own()
            if other.kind == "rename"
            and other is not touch
            and _below(path, other.paths[0])
            and other.overlaps(touch.start, inf if touch.end is None else touch.end)
        ]

    def _moved(self, key: str, body: bytes) -> bool:
        """Whether a rename of its brings these bytes there, or back."""
        for touch in self._own():
            if touch.kind != "rename" or (touch.end is not None and touch.fine and not key.endswith("/")):
                continue
            for former, future in (touch.paths, touch.paths[::-1]):
                if _below(key, future):
                    source = former + key[len(future) :]
                    if body in self.bodies(source, touch.start) or any(
                        source in node.keys and body in node.states for node in self.nodes
                    ):
                        return True
        return False

    def _put(self, key: str, before: MemoryObject | None, after: MemoryObject) -> bool:
        """Whether a call of its says in words what is to be there."""
        for touch in self._own():
            if touch.kind == "put" and touch.body == after.body and before is None and touch.end is None:
                return True
            if touch.kind == "truncate" and touch.body is not None:
                size, path = len(touch.body), touch.paths[0]
                moved = any(one.kind == "rename" and one.near(path) and one.near(key) for one in self._own())
                if (key == path or moved) and any(
                    body is not None and after.body == body[:size].ljust(size, b"\0")
                    for body in self.bodies(path, touch.start)
                ):
                    return True
        return False

    def _own(self) -> Iterator[Touch]:
        return (touch for touch in reversed(self.touches) if touch.mount == self.actor)


def _below(key: str, path: str) -> bool:
    return key == path or key.startswith(path + "/")


def _shown(found: MemoryObject | None) -> str:
    if found is None:
        return "absent"
    return f"{len(found.body)} bytes {found.body[:12]!r}..{found.body[-12:]!r}"
