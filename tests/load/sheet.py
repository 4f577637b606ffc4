"""What one file must show while the store fails: the oracle of a file that is read and written through a mount.

`now` is what programs see while the file is open. After a call that has failed two things may be true (a close, a
rename, an unlink): the sheet is unsure until a look at the file has settled it, which must show one of its candidates.
What was attempted and not acknowledged may have its effect later: it stays a candidate of every later open, until a
sync succeeds. Pure: knows neither mount nor store.
"""

from dataclasses import dataclass, field

from tests.load.promises import Version, version_of


@dataclass(slots=True, repr=False)
class Sheet:
    """See the module. The mutable state is all of it."""

    name: str
    now: bytearray | None = None
    """None: there is no such file."""
    doubts: set[Version | None] = field(default_factory=set)
    """What may be there instead of `now`, at the next open, for all we were told."""
    unsure: bool = False
    """Whether nothing may be said before the next look."""
    stored: Version | None = None
    """What the latest success of a sync has left in the bucket."""

    def __repr__(self) -> str:
        doubts = ", ".join("absent" if one is None else str(one) for one in self.doubts) or "none"
        unsure = " unsure" if self.unsure else ""
        shown = "absent" if self.now is None else f"{len(self.now)} bytes"
        return f"<Sheet {self.name} {shown}{unsure}, doubts: {doubts}>"

    @property
    def shown(self) -> Version | None:
        return None if self.now is None else version_of(self.now)

    @property
    def certain(self) -> bool:
        return not self.unsure and not self.doubts

    def write(self, at: int, data: bytes) -> None:
        assert self.now is not None
        self.now[len(self.now) :] = bytes(max(0, at - len(self.now)))
        self.now[at : at + len(data)] = data

    def truncate(self, size: int) -> None:
        assert self.now is not None
        del self.now[size:]
        self.now += bytes(size - len(self.now))

    def attempted(self) -> None:
        """A sync of what is there now has failed, or nobody was told of its end."""
        self.doubts.add(self.shown)

    def synced(self) -> None:
        """A sync has succeeded: what was attempted before must not come back."""
        self.doubts.clear()
        self.stored = self.shown

    def given_up(self) -> None:
        """The last handle was closed without success: the old object, or anything attempted since."""
        self.doubts |= {self.shown, self.stored}
        self.unsure = True

    def either(self, *others: Version | None) -> None:
        """A call has failed that may have left it so, or as it was."""
        self.doubts |= {self.shown, *others}
        self.unsure = True

    def differs(self, offset: int, found: bytes) -> str:
        """What is wrong with bytes that were read; nothing when they are right."""
        assert self.now is not None
        expected = self.now[offset : offset + len(found)]
        if found == expected:
            return ""
        at = next(
            (i for i, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other), len(expected)
        )
        return (
            f"{self.name}: {len(found)} bytes at {offset} differ from byte {offset + at} on: "
            f"{found[at : at + 16].hex()} for {bytes(expected[at : at + 16]).hex()}"
        )

    def look(self, found: bytes | None) -> str:
        """Take what an open has shown as what is there; what is wrong with it."""
        version = None if found is None else version_of(found)
        if version != self.shown and version not in self.doubts:
            return f"{self.name} is {version}, not {self.shown}, nor one of {self.doubts}"
        if version != self.shown:
            self.doubts.add(self.shown)
            self.now = None if found is None else bytearray(found)
        # What it was before may still come, but nothing is unsure about what it is.
        self.doubts.discard(self.shown)
        self.stored = version
        self.unsure = False
        return ""
