"""Requests that are ended at once because programs hang, and those that are not."""

import trio
import trio.testing

from s3mount.store.aborting import Aborting
from s3mount.store.acknowledged import acknowledge
from s3mount.store.wire import WireClosed, WireError
from tests.hostile import hostile
from tests.running import run_trio, run_virtual
from tests.wiring import fetch, running_wire


@run_trio
async def test_requests_under_way_end_at_once_but_for_those_that_do_what_was_answered() -> None:
    async with hostile() as server, running_wire() as wire, trio.open_nursery() as nursery:
        aborting, ended = Aborting(), dict[str, type[WireError]]()
        aborting.wires = (wire,)

        async def ask(path: str) -> None:
            try:
                await fetch(wire, server.url + path)
            except WireError as error:
                ended[path] = type(error)

        async def ask_behind_their_back(path: str) -> None:
            acknowledge()
            await ask(path)

        nursery.start_soon(ask, "/hole/a")
        nursery.start_soon(ask, "/holemid/b")
        nursery.start_soon(ask_behind_their_back, "/hole/c")
        for path in ("/hole/a", "/holemid/b", "/hole/c"):
            await server.arrival(path).wait()
        with aborting.refusing():
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == {"/hole/a": WireClosed, "/holemid/b": WireClosed}
        assert (await fetch(wire, server.url + "/ok/d"))[0].status == 200
        server.released.set()


@run_virtual
async def test_who_waits_to_ask_again_stops_waiting() -> None:
    aborting, told = Aborting(), dict[str, tuple[bool, float]]()

    async def wait(name: str) -> None:
        told[name] = await aborting.pause(30), trio.current_time()

    async def wait_behind_their_back() -> None:
        acknowledge()
        assert not aborting.refused
        await wait("acknowledged")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "asked")
        nursery.start_soon(wait_behind_their_back)
        await trio.sleep(1)
        refused = [aborting.refused]
        with aborting.refusing():
            refused.append(aborting.refused)
            await wait("late")
            await trio.sleep(1)
        refused.append(aborting.refused)
        await wait("after")
    assert refused == [False, True, False]
    assert told == {"asked": (False, 1), "late": (False, 1), "after": (True, 32), "acknowledged": (True, 30)}
