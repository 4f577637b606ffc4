"""When a file that grows sends parts before close or fsync asks for them.

Synchronous: it looks at sizes, extents and turns, and begins parts of the stream; `stream` sends them.
"""

import sys

from s3mount.data.layers import Layers
from s3mount.data.storage import Storage
from s3mount.data.stream import Stream
from s3mount.data.syncing import Syncing
from s3mount.data.upload import Multipart

RETRY_STREAM_BYTES = 1024 * 1024


class Ahead:
    """The parts of one file sent ahead. The mutable state: the size of the file at which to look for one; whether a
    program may come back to what it wrote."""

    __slots__ = ("_layers", "_storage", "_syncing", "look_bytes", "returns")

    def __init__(self, storage: Storage, layers: Layers, syncing: Syncing) -> None:
        self._storage = storage
        self._layers = layers
        self._syncing = syncing
        self.look_bytes = storage.config.part_size_bytes if layers.base is None else sys.maxsize
        self.returns = False

    def restart(self) -> None:
        """The file was emptied."""
        self.look_bytes = self._storage.config.part_size_bytes

    def send(self) -> None:
        """Begin to send parts that are full, if this file may."""
        storage, syncing, layers = self._storage, self._syncing, self._layers
        if not syncing.may_stream:
            self.look_bytes = sys.maxsize if layers.base_stop else layers.size + RETRY_STREAM_BYTES
            return
        while True:
            stream = syncing.stream
            if stream is not None and not stream.may_go_on(layers.size, self.send):
                self.look_bytes = layers.size + RETRY_STREAM_BYTES
                return
            start, stop = storage.grid.part(1) if stream is None else stream.grid.part(stream.next)
            self.look_bytes = stop + 1
            # A file that ends with its first part is one PUT. Space that runs short cannot wait for a byte more.
            if layers.size < stop or (layers.size == stop and (stream is None or not storage.budget.short)):
                return
            if stream is None and not storage.worth_streaming(layers.size):
                return
            if not layers.live.covers(start, stop):
                self.look_bytes = layers.size + RETRY_STREAM_BYTES
                return
            if stream is not None and stream.in_flight >= storage.config.file_parts_max:
                storage.want_turn(self.send)
                self.look_bytes = layers.size + RETRY_STREAM_BYTES
                return
            if not storage.take_turn(self.send):
                return
            if stream is None:
                multipart = Multipart(
                    storage.store,
                    storage.nursery,
                    syncing.key,
                    syncing.carried.headers,
                    syncing.condition,
                    before_opening=syncing.carried.before_sending,
                )
                stream = syncing.stream = Stream(storage, layers, multipart, returns=self.returns)
            stream.begin_next()

    def lacking(self) -> int:
        """How many bytes more make a part full that can be sent where space is short; many when none will."""
        return self.look_bytes - 1 - self._layers.size

    def leave(self) -> None:
        """No part is wanted any more."""
        self._storage.leave_turns(self.send)
