"""A MemoryStore that is `away` as a store with write-back is: it takes every change, describes what was changed here,
and knows nothing else. `changed` has the keys that were changed while it was away."""

from typing import get_args

from tests.memory_store import Call, MemoryStore, Operation

READS: frozenset[Operation] = frozenset({"head", "get", "get_tags", "list", "has_parts", "list_uploads"})
assert frozenset(get_args(Operation)) > READS


class JournalingStore(MemoryStore):
    """See the module. It renames, as write-back does whatever the bucket can."""

    def __init__(self) -> None:
        super().__init__(renaming="kept")
        self.changed: set[str] = set()

    @property
    def reads(self) -> int:
        """Requests that could only be answered by the bucket, or by what was changed here."""
        return sum(self.counts[operation] for operation in READS)

    def _refuses(self, call: Call) -> bool:
        if call.operation not in READS:
            self.changed |= {call.key, call.source} if self.away else set()
            return False
        return self.away and (call.operation == "list" or call.key not in self.changed)
