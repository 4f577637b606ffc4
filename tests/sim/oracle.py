"""What may be in the bucket, by what the calls of a program were answered: all of it, or a promise is broken.

Paths are keys. The state is a list of groups: disjoint sets of paths, each with every world that is allowed for them,
a world being what each of its paths holds. An attempt adds worlds, an acknowledgement leaves those it promised. Paths
that a rename ties together are one group, so that content may be at either name or both but never at none.
"""

from dataclasses import dataclass

from s3mount.data.intents import intents_prefix
from s3mount.data.orphans import orphans_prefix
from tests.memory_store import MemoryStore

World = dict[str, bytes | None]
"""Path to content; None: no object."""
WORLDS_MAX = 64

COPIES = orphans_prefix("")
"""What open files need of objects that were unlinked: no world knows it, and the next start leaves none of it."""
OURS = (COPIES, intents_prefix(""))
"""Likewise what renames of directories are about to do."""


@dataclass(slots=True)
class Group:
    """Some paths and the worlds allowed for them."""

    worlds: list[World]

    @property
    def paths(self) -> set[str]:
        return set(self.worlds[0])


class Broken(AssertionError):
    """The bucket holds what no call promised or attempted."""


class Oracle:
    """See the module; `pending` is what no call has promised, yet a process that lives on has to store."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._groups: list[Group] = [Group([{key: found.body}]) for key, found in store.objects.items()]
        self.pending: dict[str, bytes] = {}

    def attempt(self, path: str, content: bytes | None) -> None:
        """A call is under way that would store this, or remove the object."""
        group = self._group(path)
        group.worlds = _distinct(group.worlds + [{**world, path: content} for world in group.worlds])

    def acknowledge(self, path: str, content: bytes | None) -> None:
        """A call has promised it."""
        self.pending.pop(path, None)
        group = self._group(path)
        group.worlds = _distinct([{**world, path: content} for world in group.worlds])

    def attempt_rename(self, old: str, new: str) -> None:
        """A rename is under way: the object may be at its old name, at both, or at the new one."""
        group = self._together(old, new)
        both = [{**world, new: world[old]} for world in group.worlds if world[old] is not None]
        group.worlds = _distinct(group.worlds + both + [{**world, old: None} for world in both])

    def acknowledge_rename(self, old: str, new: str, *, leaves_old: bool = False) -> None:
        """It was promised: whatever `old` may have held is at `new`, and at `old` no more unless that may be left."""
        group = self._together(old, new)
        group.worlds = _distinct(
            [world for world in group.worlds if world[old] is None or (leaves_old and world[old] == world[new])]
        )
        assert group.worlds, (old, new)
        if old in self.pending:
            self.pending[new] = self.pending.pop(old)

    def settle(self) -> None:
        """Of all worlds allowed this is the one: programs can see it."""
        self.check()
        self._groups = [Group([{path: self._actual(path) for path in group.paths}]) for group in self._groups]

    def paths(self) -> list[str]:
        return sorted(path for group in self._groups for path in group.paths)

    def check(self) -> None:
        """Raises Broken."""
        unknown = {key for key in self._store.objects.keys() - set(self.paths()) if not key.startswith(OURS)}
        if unknown:
            raise Broken(f"objects that nobody wrote: {sorted(unknown)}")
        for group in self._groups:
            actual = {path: self._actual(path) for path in group.paths}
            if actual not in group.worlds:
                raise Broken(f"the bucket has {_shown(actual)}; allowed: {' or '.join(map(_shown, group.worlds))}")

    def check_stored(self) -> None:
        """All that was left for later is in the bucket. Raises Broken."""
        self.check()
        for path, content in self.pending.items():
            if self._actual(path) != content:
                raise Broken(
                    f"never stored: {_shown({path: content})}; the bucket has {_shown({path: self._actual(path)})}"
                )

    def _actual(self, path: str) -> bytes | None:
        found = self._store.objects.get(path)
        return None if found is None else found.body

    def _group(self, path: str) -> Group:
        for group in self._groups:
            if path in group.worlds[0]:
                return group
        group = Group([{path: None}])
        self._groups.append(group)
        return group

    def _together(self, one: str, other: str) -> Group:
        first, second = self._group(one), self._group(other)
        if first is not second:
            first.worlds = [{**a, **b} for a in first.worlds for b in second.worlds]
            self._groups.remove(second)
        return first


def _distinct(worlds: list[World]) -> list[World]:
    found: list[World] = []
    for world in worlds:
        if world not in found:
            found.append(world)
    assert len(found) <= WORLDS_MAX
    return found


def _shown(world: World) -> str:
    return "{" + ", ".join(f"{path}: {_brief(content)}" for path, content in sorted(world.items())) + "}"


def _brief(content: bytes | None) -> str:
    if content is None:
        return "absent"
    return f"{len(content)} bytes {content[:8]!r}..{content[-8:]!r}" if len(content) > 24 else repr(content)
