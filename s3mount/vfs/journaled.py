"""What --write-back has acknowledged and the bucket does not have yet, as far as people are told of it.

Protocols of what the layer below keeps (`Pending`, `Spool`), and words about it: paths, counts, ages. Asks no store. No
state of its own; a mount without --write-back has none of this.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from s3mount.config import Config
from s3mount.errors import S3MountError
from s3mount.writeback.opening import Opened
from s3mount.writeback.operations import Operation
from s3mount.writeback.reading import Damage

PATHS_MAX = 100
"""A list for people; the count beside it is whole."""
SECOND_NS = 1_000_000_000


class Parked(Protocol):
    """A change that the bucket refuses: key and kind of the operation, since when it waits for a person, why, how many
    bytes it brings."""

    @property
    def number(self) -> int: ...
    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def since_ns(self) -> int: ...
    @property
    def error(self) -> S3MountError: ...
    @property
    def size(self) -> int: ...


class Spool(Protocol):
    """The changes that the bucket refuses."""

    @property
    def parked(self) -> Sequence[Parked]: ...
    async def retry(self, number: int) -> None:
        """It may be sent again. Raises NoEntry when it is not parked under this number any more."""

    async def drop(self, number: int) -> None:
        """It is given up: the bucket's own object, if there is one, is what there is. Raises NoEntry."""

    async def read(self, number: int, offset: int, size: int) -> bytes:
        """What it was to bring. Raises NoEntry."""


class Waiting(Protocol):
    """Everything that is acknowledged and not in the bucket."""

    @property
    def files(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def oldest_ns(self) -> int | None: ...
    @property
    def operations(self) -> Iterable[Operation]: ...
    def find(self, key: str) -> object:
        """What will be there, or that nothing will; None: nothing of this key waits."""


class Left(NamedTuple):
    """How much waits when a mount ends; `example`: the path of one."""

    files: int
    bytes: int
    example: str


def _nothing() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Journaled:
    """What one mount has in its journal; keys below `prefix` are paths. `disk_bytes`: what the journal takes there;
    `writers_waiting`: changes that wait for room in it."""

    waiting: Waiting
    spool: Spool
    prefix: str
    bytes_max: int = 0
    files_max: int = 0
    disk_bytes: Callable[[], int] = _nothing
    writers_waiting: Callable[[], int] = _nothing
    damage: Damage | None = None

    def path(self, key: str) -> str:
        """As people know it."""
        return key.removeprefix(self.prefix).rstrip("/")

    def paths(self) -> list[str]:
        """Of some of what waits, and how many others there are."""
        named = [self.path(operation.key) for operation in islice(self.waiting.operations, PATHS_MAX)]
        others = self.waiting.files - len(named)
        return [*sorted(named), *([f"{others} others"] if others > 0 else [])]

    @property
    def left(self) -> Left | None:
        """None: nothing waits."""
        if not self.waiting.files:
            return None
        first = next(iter(self.waiting.operations), None)
        return Left(self.waiting.files, self.waiting.bytes, "" if first is None else self.path(first.key))

    def figures(self, *, now_ns: Callable[[], int]) -> dict[str, object]:
        """What `s3mount status` shows of it."""
        waiting, parked, damage = self.waiting, self.spool.parked, self.damage
        oldest = waiting.oldest_ns
        return {
            "changes": waiting.files,
            "changes_max": self.files_max,
            "bytes": waiting.bytes,
            "max_bytes": self.bytes_max,
            "oldest_seconds": 0.0 if oldest is None else round(max(0, now_ns() - oldest) / SECOND_NS, 1),
            "writers_waiting": self.writers_waiting(),
            "sending": sum(operation.state == "begun" for operation in waiting.operations),
            "refused": _named(self.path(one.key) for one in parked),
            "journal_bytes": self.disk_bytes(),
            "damage": None if damage is None else {"place": _place(damage), **_named(map(self.path, damage.keys))},
        }


def _place(damage: Damage) -> str:
    return f"{damage.name} from byte {damage.offset} on" if damage.kept is None else str(damage.kept)


def _named(paths: Iterable[str]) -> dict[str, object]:
    named = sorted(paths)
    return {"count": len(named), "paths": named[:PATHS_MAX]}


def journaled_of(opened: Opened, config: Config, *, bytes_max: int) -> Journaled:
    """What a mount has in the journal that was opened for it."""
    return Journaled(
        opened.pending,
        opened.sender.spool,
        config.prefix,
        bytes_max,
        config.write_back_files_max,
        disk_bytes=lambda: opened.log.figures["disk_bytes"],
        writers_waiting=lambda: opened.room.waiting,
        damage=opened.damage,
    )
