"""The loop over every call to the store that a way of writing makes: each goes wrong once, in each way it can.

After SQLite's I/O error tests: the first call fails, then the second, until the program runs clean. One test is one
scenario, one way and one character of the program; its message names the call, and the schedule follows from the
test's name and the number, so that the same test fails at the same call again.
"""

import functools
import hashlib
import random
from typing import get_args

import pytest
import trio
import trio.testing

from s3mount.data.journal import Journal
from s3mount.errors import NoEntry, S3MountError
from tests.kernel_model import Kernel
from tests.memory_store import Call, MemoryStore
from tests.paper import PaperInMemory
from tests.sim.failing_store import MODES, FailingStore, Mode
from tests.sim.oracle import OURS, Broken, Oracle
from tests.sim.processes import next_start, process, rest
from tests.sim.program import LOOK_BYTES, Character, Program
from tests.sim.scenarios import SCENARIOS, Scenario

CALLS_MAX = 200
LATENCY_SECONDS = 0.01
START_NS = 1_700_000_000_000_000_000
RUN_SECONDS = 100_000.0
"""Of virtual time: a run that waits for ever ends here."""
USEFUL: dict[Mode, tuple[Character, ...]] = {
    "fail": ("gives-up", "insists"),
    "refuse": ("gives-up",),
    "down": ("gives-up",),
    "lost": ("gives-up", "insists", "comes-back"),
    "cut": ("comes-back",),
    "crash-before": ("gives-up",),
    "crash-after": ("gives-up",),
}
"""Which programs tell something new of a way of going wrong."""
WAYS: list[tuple[Mode, Character]] = [
    (mode, character) for mode in MODES for character in get_args(Character) if character in USEFUL[mode]
]


@functools.lru_cache(maxsize=32)
def _etag_of(body: bytes) -> str:
    """Runs send the same parts again and again: MD5 would take half of their time."""
    return f'"{hashlib.md5(body).hexdigest()}"'


def _now_ns() -> int:
    """The bucket's clock, also before the run."""
    try:
        return START_NS + int(trio.current_time() * 1e9)
    except RuntimeError:
        return START_NS


class Run:
    """One scenario with one call going wrong."""

    def __init__(self, scenario: Scenario, mode: Mode, character: Character, number: int) -> None:
        self.scenario = scenario
        self.mode = mode
        self.character = character
        self.bucket = MemoryStore(
            clock_ns=_now_ns, latency_seconds=LATENCY_SECONDS, etag_of=_etag_of, renaming=scenario.renaming
        )
        for key, content in scenario.before.items():
            self.bucket.place(key, content)
        self.paper = PaperInMemory()
        self.bucket.upload_log = Journal(self.paper)
        self.oracle = Oracle(self.bucket)
        self.bucket.after = self._look
        self.store = FailingStore(self.bucket)
        self.number = number
        self.calls: list[str] = []

    async def whole(self) -> None:
        with trio.fail_after(RUN_SECONDS):
            if self.mode.startswith("crash"):
                await self._crash()
            else:
                await self._fail()

    async def _fail(self) -> None:
        async with process(self.store, self.bucket) as kernel:
            self.store.arm(self.mode, self.number)
            program = self._program(kernel, self.character)
            try:
                await self.scenario.act(program)
            except S3MountError:
                pass
            errors = await program.close_all()
            if errors and not self.store.lasts:
                raise Broken(f"a later close failed though the store was well: {errors[0]!r}") from errors[0]
            if self.store.lasts:
                await trio.sleep(RUN_SECONDS / 100)
            self.store.heal()
            await self._settled(kernel, self.store.left_open)
            await self._again(kernel)
        async with next_start(self.store, self.bucket, self.paper):
            assert not self.bucket.uploads
            self._nothing_of_ours()

    async def _crash(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_at_crash, nursery.cancel_scope)
            async with process(self.store, self.bucket) as kernel:
                self.store.arm(self.mode, self.number)
                await self.scenario.act(self._program(kernel, self.character))
            nursery.cancel_scope.cancel()
        self.oracle.pending.clear()
        async with next_start(self.bucket, self.bucket, self.paper) as kernel:
            self._nothing_of_ours()
            await self._settled(kernel, set())
            await self._again(kernel)

    def _nothing_of_ours(self) -> None:
        assert not any(self.bucket.keys(prefix) for prefix in OURS)

    async def _end_at_crash(self, scope: trio.CancelScope) -> None:
        await self.store.crashed.wait()
        scope.cancel()

    async def _settled(self, kernel: Kernel, left_open: set[str]) -> None:
        """Nothing goes on: the promises are kept, and programs see what is in the bucket."""
        await rest(kernel)
        self.oracle.check_stored()
        self.oracle.settle()
        stray = {name: opened.key for name, opened in self.bucket.uploads.items() if name not in left_open}
        assert not stray, f"uploads left open: {stray}"
        for path in self.oracle.paths():
            if not path.endswith("/"):
                await self._compare(kernel, path)
        await rest(kernel)

    async def _compare(self, kernel: Kernel, path: str) -> None:
        found = self.bucket.objects.get(path)
        try:
            fh = await kernel.open(path)
        except NoEntry:
            assert found is None, f"{path} is in the bucket and not in the mount"
            return
        assert found is not None, f"{path} is in the mount and not in the bucket"
        size = (await kernel.stat(path)).size
        assert size == len(found.body), f"{path} has {size} bytes in the mount, {len(found.body)} in the bucket"
        for start in {0, size // 2, max(0, size - LOOK_BYTES)}:
            seen = await kernel.pread(fh, start, LOOK_BYTES)
            assert seen == found.body[start : start + LOOK_BYTES], f"{path} differs at {start}"
        await kernel.close(fh)

    async def _again(self, kernel: Kernel) -> None:
        """The program starts over, and all is well."""
        self.store.heal()
        program = self._program(kernel, "gives-up")
        await self.scenario.act(program)
        assert not await program.close_all()
        await self._settled(kernel, self.store.left_open)

    def _program(self, kernel: Kernel, character: Character) -> Program:
        program = Program(kernel, self.store, self.oracle, character)
        program.calls = self.calls
        self.calls.append("start")
        return program

    async def _look(self, call: Call) -> None:
        """Every object that is ever visible is a whole one."""
        if call.operation in ("put", "complete_upload", "copy", "delete", "delete_many", "rename"):
            self.oracle.check()


def _seed(*words: object) -> None:
    """Trio draws the order of tasks: from the test's name from now on, whatever the addresses of tasks are."""
    source: random.Random = trio._core._run._r
    source.seed(" ".join(map(str, words)))


def _reason(error: BaseException) -> str:
    while (inner := getattr(error, "exceptions", None)) is not None:
        error = inner[0]
    return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(("mode", "character"), WAYS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_whatever_call_goes_wrong_what_was_acknowledged_is_there_and_a_retry_succeeds(
    scenario: Scenario, mode: Mode, character: Character, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    for number in range(1, CALLS_MAX):
        run = Run(scenario, mode, character, number)
        _seed(scenario.name, mode, character, number)
        try:
            trio.run(run.whole, clock=trio.testing.MockClock(autojump_threshold=0))
        except Exception as error:
            hits = ", ".join(map(str, run.store.hits[:3])) or "no call"
            title = f"{scenario.name}, {mode} at n={number} ({hits}), program {character}"
            raise AssertionError("\n".join([f"{title}: {_reason(error)}", *run.calls])) from error
        if run.store.count < number:
            return
    pytest.fail("the scenario never ran clean")
