"""What write-back consists of, put together: the journal replayed, the table, the sender, and the store in front."""

import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from s3mount.config import Config
from s3mount.data.buffers import Buffers
from s3mount.data.conflict import CopiesKept
from s3mount.data.grid import PartRules
from s3mount.data.learning import rules_of
from s3mount.store.abilities import FindOut
from s3mount.store.base import ObjectStore
from s3mount.store.outage import Outage
from s3mount.writeback.operations import Place
from s3mount.writeback.oplog import OperationLog
from s3mount.writeback.pending import Pending
from s3mount.writeback.reading import Damage
from s3mount.writeback.records import Identity
from s3mount.writeback.replay import replay
from s3mount.writeback.room import Room
from s3mount.writeback.sending import Sender
from s3mount.writeback.store import WriteBack


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts that others speak to. `damage`: what of the journal could not be believed at this start; `sending`: the
    scope of the sender."""

    store: WriteBack
    log: OperationLog
    pending: Pending
    sender: Sender
    room: Room
    damage: Damage | None
    sending: trio.CancelScope

    async def close(self) -> None:
        """Send no more, and have everything durable: what is under way is looked at by the next start."""
        self.sending.cancel()
        await self.log.close()


async def open_write_back(
    real: ObjectStore,
    config: Config,
    directory: Path,
    nursery: trio.Nursery,
    *,
    outage: Outage,
    now_ns: Callable[[], int],
    limit_bytes: int,
    memory_bytes: int,
    copies_kept: CopiesKept,
    find_out: FindOut,
) -> Opened:
    """Replay the journal of a directory and go on with it; all of it runs in `nursery` on return. `outage` and the
    clock are the store's. Raises StartError."""

    def table(on_free: Callable[[Iterable[Place]], None], on_over: Callable[[int], None]) -> Pending:
        return Pending(
            clock=trio.current_time,
            delay_seconds=config.write_back_delay_seconds,
            on_free=on_free,
            on_over=on_over,
        )

    async def rules() -> PartRules:
        return rules_of(config, await find_out())

    identity = Identity(config.endpoint_url or "aws", config.bucket, config.prefix, os.geteuid())
    replayed = await replay(directory, identity, table)
    log, pending = replayed.log, replayed.pending
    sender = Sender(
        real,
        log,
        pending,
        config,
        outage=outage,
        buffers=Buffers(idle_max_bytes=memory_bytes // 4),
        rules=rules,
        wall_ns=now_ns,
        draw_token=lambda: secrets.token_hex(4),
        copies_kept=copies_kept,
    )
    room = Room(
        pending,
        bytes_max=limit_bytes,
        files_max=config.write_back_files_max,
        patience_seconds=config.staging_patience_seconds,
    )
    store = WriteBack(
        real,
        log,
        pending,
        sender,
        room,
        outage=outage,
        now_ns=now_ns,
        token=secrets.token_hex(6),
    )
    await nursery.start(log.run)
    sending = trio.CancelScope()

    async def send(*, task_status: trio.TaskStatus[None]) -> None:
        with sending:
            await sender.run(task_status=task_status)

    await nursery.start(send)
    await nursery.start(store.run)
    return Opened(store, log, pending, sender, room, replayed.damage, sending)
