"""One simulated world: a bucket, its server, one or two mounts, programs on them, another client, and fate.

`play` runs the steps of an example: each program does its own in order, all programs at once, and every change and
answer is judged. At the end the network is well, all is closed, and what must hold at rest is looked at: budgets at
zero, the mounts show what the bucket has, and after one more start nothing of ours is left in it.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random

import trio

from s3mount.data.intents import intents_prefix
from s3mount.data.orphans import LATE_SECONDS, orphans_prefix
from s3mount.store.abilities import Abilities
from tests.memory_store import MemoryObject, MemoryStore
from tests.sim.excuses import TTL_SECONDS
from tests.sim.ledger import OTHER, Broken, Ledger, Node
from tests.sim.lives import Mount
from tests.sim.player import Player
from tests.sim.server import Server
from tests.sim.small import small_config
from tests.sim.weather import Fault, Weather
from tests.unit.files import resting

START_NS = 1_700_000_000_000_000_000
REST_SECONDS = 1500.0
"""Longer than anything goes on by itself when the network is well: the look for uploads in doubt is the last."""
FILES = ("a", "b", "c")
DIRECTORIES = ("d", "e")
LINK = "l"
STAGING_BYTES = 8 * 1024 * 1024
STAGING_PRESSED_BYTES = 100 * 1024
MEMORY_BYTES = 2 * 1024 * 1024
MEMORY_PRESSED_BYTES = 256 * 1024


@dataclass(frozen=True)
class Step:
    """What one party does next. `who`: a program's number, OTHER, or FATE; `pause` comes before it."""

    who: int
    pause: float
    op: str
    args: tuple[object, ...] = ()


FATE = -2


@dataclass(frozen=True)
class Scene:
    """What the world of an example is like."""

    mounts: int = 1
    pressed: bool = False
    no_disk: bool = False
    latency_seconds: float = 0.01
    page_max: int = 1000
    renaming: bool = False
    before: tuple[tuple[str, int], ...] = ()
    """Keys that are there from the beginning, and their sizes."""


@dataclass(frozen=True)
class Example:
    """All that is drawn. The same example and seed play the same."""

    seed: int
    scene: Scene
    steps: tuple[Step, ...]
    faults: tuple[tuple[int, int, Fault], ...]
    """Mount, number of its request, what happens to it."""


class World:
    """See the module."""

    def __init__(self, example: Example, staging: Path) -> None:
        # The mutable state: the ledger, the nodes by mount and inode number, what was played.
        scene = example.scene
        self.example = example
        self.pressed = scene.pressed
        self.lines: list[str] = []
        self.nodes: dict[tuple[int, int], Node] = {}
        self.opening: Counter[str] = Counter()
        self._serial = 0
        self.bucket = MemoryStore(
            clock_ns=now_ns,
            part_min_bytes=5 * 1024 * 1024 // 256,
            page_max=scene.page_max,
            renaming="kept" if scene.renaming else "refused",
        )
        for key, size in scene.before:
            self.bucket.place(key, b"" if key.endswith("/") else self.bytes_of(size))
        self.ledger = Ledger(self.bucket)
        self.ledger.begin()
        self.server = Server(self.bucket, self.ledger.changed)
        self.mounts = [self._mount(number, staging) for number in range(scene.mounts)]

    def _mount(self, number: int, staging: Path) -> Mount:
        scene = self.example.scene
        draw = Random(f"{self.example.seed} {number}")
        faults = {at: fault for mount, at, fault in self.example.faults if mount == number}
        return Mount(
            number,
            self.bucket,
            self.server,
            Weather(draw, scene.latency_seconds, faults),
            small_config(memory_bytes=MEMORY_PRESSED_BYTES if scene.pressed else MEMORY_BYTES),
            staging_bytes=STAGING_PRESSED_BYTES if scene.pressed else STAGING_BYTES,
            staging=Path("/nowhere") if scene.no_disk else staging,
            abilities=Abilities(
                put_if_absent=True, put_if_match=True, complete_if_absent=True, delete_many=True,
                delete_many_if_match=True, delete_if_match=True, rename=scene.renaming,
            ),
            now_ns=now_ns,
            acting=self._acting,
        )  # fmt: skip

    def _acting(self, number: int, late: bool | None) -> None:
        self.ledger.actor = OTHER if late is None else number
        self.ledger.late = bool(late)

    # what players ask

    @property
    def late(self) -> bool:
        return any(mount.weather.lates for mount in self.mounts)

    def bytes_of(self, size: int) -> bytes:
        """Bytes that nobody else writes."""
        self._serial += 1
        word = f"<{self._serial}>".encode()
        return (word * (size // len(word) + 1))[: max(size, len(word))]

    def nodes_below(self, mount: Mount, path: str) -> list[Node]:
        """The files of a mount at a path and below it that are open, or not stored yet."""
        return [
            node
            for (number, _), node in self.nodes.items()
            if number == mount.number
            and (node.handles or node.stored < len(node.states) - 1)
            and any(key == path or key.startswith(path + "/") for key in node.keys)
        ]

    def universe(self, path: str) -> list[tuple[str, str]]:
        """All names that may be in a directory, with their paths."""
        prefix = path + "/" if path else ""
        names = [*FILES, LINK, *(DIRECTORIES if path.count("/") < 1 else ())]
        return [(name, prefix + name) for name in names]

    def is_directory_name(self, path: str) -> bool:
        return path.rpartition("/")[2] in DIRECTORIES

    def line(self, words: str) -> int:
        self.lines.append(f"{trio.current_time():9.3f} {words}")
        return len(self.lines) - 1

    def answered(self, line: int, word: str) -> None:
        self.lines[line] += f" -> {word} at {trio.current_time():.3f}"

    def check(self) -> None:
        """Raises Broken as soon as a change of the bucket was wrong."""
        if self.ledger.broken is not None:
            raise Broken(self.ledger.broken)

    # playing

    async def play(self) -> None:
        """All of the example. Raises Broken, and whatever s3mount itself raises."""
        async with trio.open_nursery() as nursery:
            for mount in self.mounts:
                await nursery.start(mount.live, nursery)
            parties = sorted({step.who for step in self.example.steps})
            players: dict[int, Player] = {}
            async with trio.open_nursery() as stage:
                for who in parties:
                    steps = [step for step in self.example.steps if step.who == who]
                    if who >= 0:
                        players[who] = Player(self, who, self.mounts[who % len(self.mounts)])
                        stage.start_soon(self._perform, players[who], steps)
                    else:
                        stage.start_soon(self._befall, steps, nursery)
            await self._rest(list(players.values()), nursery)
            nursery.cancel_scope.cancel()

    async def _perform(self, player: Player, steps: list[Step]) -> None:
        for step in steps:
            await trio.sleep(step.pause)
            await player.mount.serving.wait()
            await player.play(step.op, step.args)
            self.check()

    async def _befall(self, steps: list[Step], nursery: trio.Nursery) -> None:
        for step in steps:
            await trio.sleep(step.pause)
            self.line(f"{'fate' if step.who == FATE else 'other'} {step.op} {step.args}")
            if step.op == "put":
                key, size = step.args
                self._other(str(key), self.bytes_of(int(str(size))))
            elif step.op == "delete":
                self._other(str(step.args[0]), None)
            else:
                mount = self.mounts[int(str(step.args[0])) % len(self.mounts)]
                if step.op == "outage":
                    mount.weather.down_until = trio.current_time() + float(str(step.args[1]))
                elif step.op == "kill" and mount.kernel is not None and not mount.stopping:
                    mount.die()
                    self._buried(mount)
                    await trio.sleep(float(str(step.args[1])))
                    await nursery.start(mount.live, nursery)
                elif step.op == "stop" and mount.kernel is not None and not mount.stopping:
                    await self._stop(mount)
                    await nursery.start(mount.live, nursery)

    def _other(self, key: str, body: bytes | None) -> None:
        before: MemoryObject | None = self.bucket.objects.get(key)
        if body is not None:
            self.bucket.place(key, body, last_modified_ns=self.bucket.now_ns())
        elif before is None:
            return
        else:
            self.bucket.remove(key)
        self.ledger.changed(key, before, self.bucket.objects.get(key))

    def _buried(self, mount: Mount) -> None:
        """A process is gone, and all it had open with it."""
        for name, node in list(self.nodes.items()):
            if name[0] == mount.number:
                node.keys.clear()
                del self.nodes[name]
        for touch in self.ledger.touches:
            if touch.mount == mount.number and touch.end is None:
                self.ledger.end(touch, fine=False)

    async def _stop(self, mount: Mount) -> None:
        """A clean stop: what it does not call lost is in the bucket."""
        had = [
            (node, len(node.states) - 1 - node.waits, set(node.keys))
            for (number, _), node in self.nodes.items()
            if number == mount.number and node.keys and not node.failed
        ]
        start = trio.current_time()
        lost = await mount.stop()
        for node, state, keys in had:
            disturbed = any(
                self.ledger.touched(key, start) or self.ledger.foreign(mount.number, key, node.opened_at - TTL_SECONDS)
                for key in keys
            )
            if node.stored < state and not disturbed and not node.failed and not keys & lost and not node.gone:
                raise Broken(f"the mount has stopped without a word of {sorted(keys)}, and it was not stored")
        self._buried(mount)
        self.check()

    # at rest

    async def _rest(self, players: list[Player], nursery: trio.Nursery) -> None:
        for mount in self.mounts:
            mount.weather.faults.clear()
            mount.weather.down_until = -inf
        for player in players:
            await player.mount.serving.wait()
            while player.opened:
                await player.play("close", (0,))
        self.line("all is closed, and the network is well")
        await trio.sleep(REST_SECONDS)
        self.check()
        for mount in self.mounts:
            resting(mount.storage)
            await self._compare(mount)
        await trio.sleep(REST_SECONDS)
        for mount in self.mounts:
            assert mount.kernel is not None
            mount.kernel.forget_some()
            inodes = mount.kernel.fs._inodes
            if len(inodes) != 1:
                raise Broken(f"inodes that nobody needs: {list(inodes)}")
            lost = await mount.stop()
            if lost:
                raise Broken(f"lost at a stop at rest: {lost}")
            self._buried(mount)
            await nursery.start(mount.live, nursery)
        await trio.sleep(LATE_SECONDS + REST_SECONDS)
        self.check()
        self._nothing_of_ours()

    async def _compare(self, mount: Mount) -> None:
        """What the mount shows is what the bucket has."""
        kernel = mount.kernel
        assert kernel is not None
        kernel.expire()
        shown: dict[str, bytes] = {}
        directories = [""]
        while directories:
            path = directories.pop()
            for name in await kernel.listdir(path, batch=4):
                below = f"{path}/{name}".lstrip("/")
                if self.is_directory_name(below):
                    directories.append(below)
                elif name == LINK:
                    shown[below] = await kernel.fs.readlink(await kernel.ino(below))
                else:
                    shown[below] = await kernel.read(below)
        held = {
            key: found.body
            for key, found in self.bucket.objects.items()
            if not key.endswith("/") and not key.rpartition("/")[2].startswith(".s3mount") and key[:8] != ".s3mount"
        }
        for path in sorted(shown.keys() | held.keys()):
            if shown.get(path) != held.get(path):
                raise Broken(f"at rest mount {mount.number} shows {path} as {shown.get(path)!r:.60}, "
                             f"the bucket has {held.get(path)!r:.60}")  # fmt: skip

    def _nothing_of_ours(self) -> None:
        for name, upload in self.bucket.uploads.items():
            # Of several that nobody has named to us, none can be told from another client's.
            alike = [other for other in self.bucket.uploads.values() if other.key == upload.key]
            if len(alike) == 1 or any(mount.was_told_of(name) for mount in self.mounts):
                raise Broken(f"an upload of {upload.key!r} is left after a start: {name}")
        left = [key for prefix in (orphans_prefix(""), intents_prefix("")) for key in self.bucket.keys(prefix)]
        if left:
            raise Broken(f"objects of ours left after a start: {left}")
        for mount in self.mounts:
            if len(mount.journal):
                raise Broken(f"the journal of mount {mount.number} names what is gone: {mount.journal!r}")


def now_ns() -> int:
    """The bucket's clock and everybody's, also before the run."""
    try:
        return START_NS + int(trio.current_time() * 1e9)
    except RuntimeError:
        return START_NS
