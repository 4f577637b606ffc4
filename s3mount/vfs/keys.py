"""Names and keys: how one becomes the other, in which order they come, and what cannot be either.

Knows nothing of inodes, requests or time; pure. Names are `bytes` at the kernel's edge and `str` inside; a key is the
mount's prefix followed by components joined with '/'. A directory's prefix is its key with the '/' at its end ('' for
a bucket's root).

*Slots.* LIST sorts a directory by its key, so the file `a` comes before `a-b` and the directory `a/` after it,
possibly pages later; yet they are one name. A listing is therefore read in the order of `name + '/'`, a name's slot:
at that point of the stream both keys have been seen.

*Two orders.* S3 sorts keys by their UTF-8. SeaweedFS keeps a tree and sorts the names of each directory, whatever they
are: the directory `a` comes before `a!`, as a group and with everything below (measured, 4.48). Both tell what is below
one directory in one piece, and where a reply ends in the file or directory `n`, both have told every name whose slot
does not come after the plain string `n`. So that is how far a page reaches; what it told beyond is carried.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from s3mount.config import NAME_MAX_BYTES, RESERVED, S3_KEY_MAX_BYTES
from s3mount.errors import IllegalName, NameTooLong, NoEntry, NotPermitted
from s3mount.store.base import Headers, Listed, Page

DIRECTORY_HEADERS = Headers(content_type="application/x-directory")
TWIN_SUFFIX = "~s3mount-file"
"""Where the file of a key that is both file and directory stays reachable. It begins with a character above '/', so
that its slot comes after the directory's, which is where a listing learns of the twin."""
BEGIN = ""
END = "\U0010ffff" * 64
"""A slot above those of all names."""


class Sentinel:
    """An entry of a listing that is no object."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


DIRECTORY = Sentinel("DIRECTORY")
LOCAL = Sentinel("LOCAL")
"""A file that was created here and is not in the bucket yet: its dentry knows it."""
Entry = Listed | Sentinel


def slot(name: str) -> str:
    """Where a name stands in the order of a directory."""
    return name + "/"


def decode(name: bytes) -> str | None:
    """The name as text; None when no key can have it, so that nothing of that name exists.

    Raises NameTooLong, as a local file system does, before it is asked whether it exists.
    """
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLong(f"name of {len(name)} bytes")
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def old_name(name: bytes) -> str:
    """The text of a name that must exist. Raises NoEntry, NameTooLong."""
    text = decode(name)
    if text is None:
        raise NoEntry(repr(name))
    return text


def new_name(name: bytes) -> str:
    """The text of a name that is to be created. Raises NameTooLong, IllegalName, NotPermitted (reserved)."""
    text = decode(name)
    if text is None or not is_name(text):
        raise IllegalName(f"cannot be a key: {name!r}")
    if text.startswith(RESERVED):
        raise NotPermitted(f"names that start with {RESERVED} are reserved: {name!r}")
    return text


def check_key(key: str) -> str:
    """The key itself, if S3 can store it. Raises NameTooLong."""
    if len(key) * 4 > S3_KEY_MAX_BYTES and len(key.encode()) > S3_KEY_MAX_BYTES:
        raise NameTooLong(f"key of {len(key.encode())} bytes")
    return key


def is_name(component: str) -> bool:
    """Whether a component of a key can be a name."""
    if not component or component == "." or component == ".." or "\0" in component or "/" in component:
        return False
    return len(component) * 4 <= NAME_MAX_BYTES or len(component.encode("utf-8", "replace")) <= NAME_MAX_BYTES


def is_reserved(name: str) -> bool:
    return name.startswith(RESERVED)


def escaped(key: str) -> str:
    """A key or name for a log line: one ASCII word."""
    return ascii(key)[1:-1].replace(" ", "\\x20")


def just_before(name: str) -> str:
    """A string below `name` with few names between: where a page that shall hold the name begins after it."""
    last = ord(name[-1]) - 1
    if last < 0x20:
        return name[:-1]
    return name[:-1] + chr(0xD7FF if 0xD800 <= last <= 0xDFFF else last) + "~"


def hidden_behind(start: str) -> frozenset[str]:
    """The names whose file key is not above `start` although their slot is: a page that starts there cannot tell of
    them."""
    return frozenset(start[:stop] for stop in range(1, len(start) + 1) if start[:stop] <= start < start[:stop] + "/")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one page tells of the slots `(start, stop]` of a directory.

    `carry` are entries whose slot lies beyond `stop`: the next page decides what they are. `hidden` are keys that
    cannot be shown. `marker` is the directory's own marker when it was in the page.
    """

    stop: str
    entries: dict[str, Entry]
    carry: dict[str, Entry]
    marker: Listed | None
    hidden: tuple[str, ...]


def read_page(prefix: str, page: Page, start: str, carry: Mapping[str, Entry]) -> Piece:
    """Turn a page of the directory at `prefix` into entries by name. `carry` is what the page before left open."""
    cut = len(prefix)
    files, directories = split(carry)
    hidden: list[str] = []
    marker: Listed | None = None
    last = ""
    for listed in page.objects:
        last = listed.key[cut:]
        if not last:
            marker = listed
        elif is_name(last):
            files[last] = listed
        else:
            hidden.append(listed.key)
    for common in page.prefixes:
        name = common[cut:-1]
        if is_name(name):
            directories[name] = None
        else:
            hidden.append(common)
    if page.prefixes and page.prefixes[-1][cut:] > last:
        last = page.prefixes[-1][cut:-1]
    # A page of rolled-up prefixes may not advance on its own; the position never moves back.
    stop = END if page.token is None else max(last, start)
    return Piece(stop, *arrange(files, directories, start, stop, hidden), marker, tuple(hidden))


def split(entries: Mapping[str, Entry]) -> tuple[dict[str, Listed], dict[str, None]]:
    """Files and directories, each by name."""
    files = {name: entry for name, entry in entries.items() if isinstance(entry, Listed)}
    return files, {name: None for name, entry in entries.items() if entry is DIRECTORY}


def read_subtree(prefix: str, objects: Iterable[Listed]) -> Piece:
    """The same from all keys below `prefix`, listed without a delimiter."""
    cut = len(prefix)
    files: dict[str, Listed] = {}
    directories: dict[str, None] = {}
    hidden: list[str] = []
    marker: Listed | None = None
    for listed in objects:
        name, slash, _ = listed.key[cut:].partition("/")
        if not name and not slash:
            marker = listed
        elif not is_name(name):
            hidden.append(listed.key)
        elif slash:
            directories[name] = None
        else:
            files[name] = listed
    return Piece(END, *arrange(files, directories, BEGIN, END, hidden), marker, tuple(hidden))


def arrange(
    files: dict[str, Listed], directories: Iterable[str], start: str, stop: str, hidden: list[str]
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Names to entries within `(start, stop]`, and what lies beyond; a file that has a directory's name becomes its
    twin."""
    entries: dict[str, Entry] = {}
    carry: dict[str, Entry] = {}
    for name in directories:
        if is_reserved(name):
            continue
        twin = files.pop(name, None)
        if twin is not None:
            if name + TWIN_SUFFIX in files or not is_name(name + TWIN_SUFFIX):
                hidden.append(twin.key)
            else:
                files[name + TWIN_SUFFIX] = twin
        if name + "/" > stop:
            carry[name] = DIRECTORY
        elif start < name + "/":
            entries[name] = DIRECTORY
    for name, listed in files.items():
        if name.startswith(RESERVED):
            continue
        position = name + "/"
        if position > stop:
            carry[name] = listed
        elif start < position:
            entries[name] = listed
    return entries, carry
