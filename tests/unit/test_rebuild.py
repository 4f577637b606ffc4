"""Flags of a bucket that others wrote: each is where an entry is special, and nowhere else."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from s3mount.errors import AccessDenied, LostReply, Unavailable
from s3mount.store.base import Headers, ObjectInfo
from s3mount.vfs.flags import FLAG
from s3mount.vfs.rebuild import REQUESTS_MAX, Progress, rebuild_flags
from tests.memory_store import Call, MemoryStore
from tests.running import run_virtual

SPECIAL = Headers(metadata={"mode": "33152", "colour": "red"})
FOREIGN = Headers(metadata={"colour": "red"})
SETTLE_SECONDS = 5.0


class Run:
    """A bucket, and what a run over it said."""

    def __init__(self, **options: object) -> None:
        self.store = MemoryStore(**options)  # type: ignore[arg-type]
        self.progress: list[Progress] = []
        self.learnt: list[ObjectInfo] = []

    def place(self, *keys: str, special: tuple[str, ...] = ()) -> None:
        for key in keys:
            self.store.place(key, b"", FOREIGN)
        for key in special:
            self.store.place(key, b"", SPECIAL)

    async def __call__(self, prefix: str = "", *, root: str = "") -> Progress:
        return await rebuild_flags(
            self.store,
            prefix,
            root=root,
            settle_seconds=SETTLE_SECONDS,
            progress=self.progress.append,
            learnt=self.learnt.append,
        )

    def flags(self) -> list[str]:
        return [key.removesuffix(FLAG) for key in self.store.keys("") if key.endswith(FLAG)]


@run_virtual
async def test_each_directory_with_a_special_entry_gets_a_flag_and_no_other() -> None:
    run = Run()
    run.place("plain", "a/plain", "a/b/plain", "a-b/x", special=("a/b/c/deep", "d/special"))
    assert await run() == Progress(objects=6, directories=6, flags_put=2)
    assert run.flags() == ["a/b/c/", "d/"]
    assert run.store.counts == {"list": 1, "head": 6 + 2, "put": 2}
    assert {info.key for info in run.learnt} == {"plain", "a/plain", "a/b/plain", "a-b/x", "a/b/c/deep", "d/special"}
    run.store.reset_counts()
    assert await run() == Progress(objects=8, directories=6)
    assert run.store.counts == {"list": 1, "head": 8}


@run_virtual
async def test_a_subdirectory_is_special_by_its_marker_or_its_flag() -> None:
    run = Run()
    run.place("a/marked/plain", "b/flagged/plain", special=("a/marked/", f"b/flagged/{FLAG}"))
    await run()
    assert run.flags() == ["a/", "b/", "b/flagged/"]


@run_virtual
async def test_a_flag_goes_where_nothing_is_special_unless_it_has_attributes_of_its_own_or_is_alone() -> None:
    run = Run()
    run.place(FLAG, "plain", f"a/{FLAG}", "a/plain", f"marker/{FLAG}", "marker/", f"alone/{FLAG}")
    run.place("own/plain", special=(f"own/{FLAG}",))
    started = trio.current_time()
    done = await run()
    assert run.flags() == ["", "alone/", "own/"]
    assert done.flags_removed == 2
    assert trio.current_time() - started == SETTLE_SECONDS


@run_virtual
async def test_a_plain_directory_above_a_special_one_is_flagged_though_only_the_latter_is_rebuilt() -> None:
    run = Run()
    run.place("data/other", "data/a/x", f"data/{FLAG}", special=("data/a/",))
    await run("data/a/", root="data/")
    assert run.flags() == ["data/"]
    run.store.remove(f"data/{FLAG}")
    await run("data/a/", root="data/")
    assert run.flags() == ["data/"]
    run.store.place("data/a/", b"", FOREIGN)
    assert await run("data/a/", root="data/") == Progress(objects=2, directories=2)
    assert run.flags() == ["data/"]


@run_virtual
async def test_what_is_no_name_or_not_a_users_is_left_alone() -> None:
    run = Run()
    run.place(special=("a//b", "./c", "/d", ".s3mount/conflicts/e", "f/.s3mount-g", "h/../i"))
    assert await run() == Progress(directories=1)
    assert run.flags() == []
    assert run.store.counts == {"list": 1}


@run_virtual
async def test_an_object_that_may_not_be_asked_for_keeps_the_flag_of_its_directory() -> None:
    run = Run()
    run.place("a/secret", f"a/{FLAG}", "b/secret", "b/plain")
    for key in ("a/secret", "b/secret"):
        run.store.fail("head", AccessDenied("403"), key=key)
    assert (await run()).unknown == 2
    assert run.flags() == ["a/"]


@run_virtual
async def test_requests_go_in_parallel_within_a_limit_and_progress_is_told() -> None:
    run = Run(page_max=100)
    run.place(*(f"d{number % 7}/{number}" for number in range(1000)))
    at_once, most = 0, 0

    async def before(call: Call) -> None:
        nonlocal at_once, most
        at_once += call.operation == "head"
        most = max(most, at_once)
        await trio.sleep(0.1)

    async def after(call: Call) -> None:
        nonlocal at_once
        at_once -= call.operation == "head"

    run.store.before, run.store.after = before, after
    await run()
    assert most == REQUESTS_MAX
    assert len(run.progress) == 11
    assert run.progress[-1] == Progress(objects=1000, directories=8)
    assert [one.objects for one in run.progress] == sorted(one.objects for one in run.progress)


@pytest.mark.parametrize("moment", ["with the delete", "before the second look"])
@run_virtual
async def test_a_special_entry_stored_while_the_flag_goes_has_its_flag_in_the_end(moment: str) -> None:
    run = Run()
    run.place("a/plain", f"a/{FLAG}", "b/sub/plain", f"b/{FLAG}", "c/plain", f"c/{FLAG}")

    async def after(call: Call) -> None:
        if call.operation == "delete":
            if moment == "before the second look":
                await trio.sleep(SETTLE_SECONDS / 2)
            run.place(special=("a/special", "b/sub/"))

    run.store.after = after
    assert (await run()).flags_removed == 1
    assert run.flags() == ["a/", "b/"]


@run_virtual
async def test_a_flag_that_came_to_carry_attributes_stays() -> None:
    run = Run()
    run.place("a/plain", f"a/{FLAG}")

    async def before(call: Call) -> None:
        if call.operation == "head" and run.store.counts["head"] == 3:
            run.place(special=(f"a/{FLAG}",))

    run.store.before = before
    await run()
    assert run.flags() == ["a/"]
    assert run.store.counts["delete"] == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", ["head", "list", "put", "delete"])
@run_virtual
async def test_a_run_that_fails_leaves_what_it_began_right_and_the_next_one_ends_it(operation: str, when: str) -> None:
    """Whichever request fails, a directory that had a flag has it when something special came while it was gone."""
    number = 0
    failed = True
    while failed:
        run = Run()
        run.place("a/plain", f"a/{FLAG}", "b/plain", f"b/{FLAG}", "c/sub/plain", special=("c/special", f"c/{FLAG}"))
        run.store.fail(operation, LostReply("?"), skip=number, when=when)  # type: ignore[arg-type]
        late: set[str] = set()

        async def after(call: Call, run: Run = run, late: set[str] = late) -> None:
            if call.operation == "delete":
                late.add(call.key.removesuffix(FLAG))
                run.place(special=(call.key.removesuffix(FLAG) + "late",))

        run.store.after = after
        try:
            await run()
            failed = False
        except LostReply:
            assert late | {"c/"} <= set(run.flags())
            await run()
        assert run.flags() == ["", "a/", "b/", "c/"]
        number += 1
    assert number > 1


@run_virtual
async def test_a_cancelled_run_puts_back_what_it_has_not_looked_after() -> None:
    run = Run()
    run.place("a/plain", f"a/{FLAG}")
    with trio.move_on_after(SETTLE_SECONDS / 2):
        await run()
    assert run.flags() == ["a/"]


@run_virtual
async def test_a_flag_that_cannot_be_put_back_is_told(caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    run.place("a/plain", f"a/{FLAG}")
    run.store.fail("list", Unavailable("503"), skip=1)
    run.store.fail("put", Unavailable("503"))
    with pytest.raises(Unavailable):
        await run()
    assert "flag was not put back directory=a/" in caplog.text


@pytest.mark.parametrize("conditions", ["refused", "ignored"])
@run_virtual
async def test_a_store_without_conditional_deletes_keeps_superfluous_flags_or_loses_them(conditions: str) -> None:
    run = Run(conditions=conditions)
    run.place("a/plain", f"a/{FLAG}", special=("b/c/", f"d/{FLAG}", "d/e/", FLAG))
    await run("b/")
    assert run.flags() == ["", "a/", "b/", "d/"]
    run.store.place(f"b/{FLAG}", b"", SPECIAL)
    await run("b/c/")
    await run()
    assert run.flags() == (["", "b/", "d/"] if conditions == "ignored" else ["", "a/", "b/", "d/"])
    assert run.store.objects[f"b/{FLAG}"].headers == SPECIAL
    assert run.store.objects[FLAG].headers == run.store.objects[f"d/{FLAG}"].headers == SPECIAL


PATHS = st.lists(st.sampled_from(["a", "b", "a-", "a0"]), min_size=1, max_size=4).map("/".join)
KEYS = st.tuples(PATHS, st.sampled_from(["", "/", f"/{FLAG}"])).map("".join)


@settings(max_examples=200, deadline=None)
@given(plain=st.sets(KEYS, max_size=8), special=st.sets(KEYS, max_size=4), page_max=st.sampled_from([1, 3, 1000]))
def test_flags_are_what_a_naive_look_at_all_objects_says(plain: set[str], special: set[str], page_max: int) -> None:
    run = Run(page_max=page_max)
    run.place(*(plain - special), special=tuple(special))
    needed: set[str] = set()
    for key in special:
        path = key.removesuffix(FLAG).rstrip("/")
        needed.add(path[: path.rfind("/") + 1])
    keys = plain | special
    kept = {
        key.removesuffix(FLAG)
        for key in keys
        if key.endswith(FLAG)
        and (key in special or not any(one.startswith(key.removesuffix(FLAG)) and one != key for one in keys))
    }

    @run_virtual
    async def rebuilt() -> None:
        await run()

    rebuilt()
    assert set(run.flags()) == needed | kept


LINK = Headers(metadata={"mode": "41471"})


def bodies(run: Run) -> dict[str, int]:
    """The flags, and whether they speak of nodes."""
    return {prefix: len(run.store.body(prefix + FLAG)) for prefix in run.flags()}


@run_virtual
async def test_a_flag_has_a_body_where_there_are_nodes_and_none_elsewhere() -> None:
    run = Run()
    run.place(f"old/{FLAG}", special=("files/f", f"emptied/{FLAG}", "emptied/f", "top/sub/"))
    run.store.place("links/l", b"x", LINK)
    run.store.place("old/l", b"x", LINK)
    run.store.place("fifos/f", b"", Headers(metadata={"mode": "4516"}))
    run.store.place("no-link/l", b"", LINK)
    run.store.place(f"emptied/{FLAG}", b"1", SPECIAL)
    run.store.place(f"kept/{FLAG}", b"1")
    run.store.place("kept/l", b"x", LINK)
    run.store.place(f"alone/{FLAG}", b"1")
    done = await run()
    assert bodies(run) == {
        "": 0, "alone/": 1, "emptied/": 0, "fifos/": 1, "files/": 0, "kept/": 1, "links/": 1, "no-link/": 0, "old/": 1,
        "top/": 0,
    }  # fmt: skip
    assert (done.flags_put, done.flags_removed, done.flags_changed) == (6, 0, 2)
    assert run.store.objects[f"emptied/{FLAG}"].headers == SPECIAL
    run.store.reset_counts()
    again = await run()
    assert (again.flags_put, again.flags_removed, again.flags_changed) == (0, 0, 0)
    assert set(run.store.counts) == {"list", "head"}


@pytest.mark.parametrize("ends", ["well", "with an error", "cancelled"])
@run_virtual
async def test_a_body_that_was_taken_comes_back_for_a_link_stored_meanwhile(ends: str) -> None:
    run = Run()
    run.place(special=("a/f", f"a/{FLAG}"))
    run.store.place(f"a/{FLAG}", b"1", SPECIAL)

    async def after(call: Call) -> None:
        if call.operation == "put" and call.size == 0:
            run.store.place("a/l", b"x", LINK)

    run.store.after = after
    if ends == "with an error":
        run.store.fail("list", Unavailable("503"), skip=1)
        with pytest.raises(Unavailable):
            await run()
    elif ends == "cancelled":
        with trio.move_on_after(SETTLE_SECONDS / 2):
            await run()
    else:
        assert (await run()).flags_changed == 0
    assert bodies(run) == {"": 0, "a/": 1}
    assert run.store.objects[f"a/{FLAG}"].headers == SPECIAL


@pytest.mark.parametrize("when", ["before", "after"])
@run_virtual
async def test_a_put_of_a_body_that_failed_is_settled_by_the_next_run(when: str) -> None:
    for taken in (False, True):
        run = Run()
        run.place(special=("a/f", f"a/{FLAG}"))
        run.store.place(FLAG)
        if taken:
            run.store.place(f"a/{FLAG}", b"1", SPECIAL)
        else:
            run.store.place("a/l", b"x", LINK)
        run.store.fail("put", LostReply("?"), when=when)  # type: ignore[arg-type]
        with pytest.raises(LostReply):
            await run()
        assert bodies(run)["a/"] == 1 or (not taken and when == "before")
        await run()
        assert bodies(run) == {"": 0, "a/": 0 if taken else 1}
        assert run.store.objects[f"a/{FLAG}"].headers == SPECIAL


@run_virtual
async def test_what_may_not_be_asked_for_may_be_a_link() -> None:
    run = Run()
    run.place("a/secret", "b/secret", special=("a/f", "b/f"))
    run.store.place(f"a/{FLAG}", b"1")
    run.store.fail("head", AccessDenied("403"), key="a/secret")
    run.store.fail("head", AccessDenied("403"), key="b/secret")
    await run()
    assert bodies(run) == {"a/": 1, "b/": 1}


@pytest.mark.parametrize("conditions", ["refused", "ignored"])
@run_virtual
async def test_a_store_without_conditions_keeps_every_body(conditions: str) -> None:
    """An empty flag could replace another client's body."""
    run = Run(conditions=conditions)
    run.place(special=("a/f", "b/f"))
    run.store.place(f"a/{FLAG}", b"1")
    await run()
    assert bodies(run) == {"a/": 1, "b/": 1}
