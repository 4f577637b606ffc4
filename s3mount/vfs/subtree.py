"""What one page of a LIST without a delimiter tells of each directory that it passes.

Pure. What is below a directory comes in one piece in both orders (see `keys`), so a directory is known whole when the
page went on behind it, and as far as both orders agree where the page ends in it. The reply's own order is not known
here: the page may have ended in its last key by either order, and a directory that lies around one of the two is taken
for cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from s3mount.store.base import Listed, Page
from s3mount.vfs.keys import BEGIN, END, Entry, arrange, is_name, is_reserved, split


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a page ended in a directory, and what it had told beyond; `pages` of the walk so far have told of it."""

    start: str
    carry: Mapping[str, Entry]
    pages: int


UNCUT = Cut(BEGIN, {}, 0)


@dataclass(frozen=True, slots=True)
class Told:
    """The entries of one directory with slots in `(start, stop]`; `cut` when it goes on behind this page. `reserved`
    are our own names among them."""

    prefix: str
    start: str
    stop: str
    entries: dict[str, Entry]
    carry: dict[str, Entry]
    cut: Cut | None
    marker: Listed | None
    reserved: dict[str, Listed]
    hidden: tuple[str, ...]


@dataclass(slots=True)
class _Folder:
    files: dict[str, Listed] = field(default_factory=dict)
    directories: dict[str, None] = field(default_factory=dict)
    marker: Listed | None = None
    hidden: list[str] = field(default_factory=list)


def read_walk(root: str, page: Page, began: str, cuts: Mapping[str, Cut]) -> list[Told]:
    """Each directory below `root` that the page tells of.

    `began` is the directory before whose first entry the walk began: what is told of those around it has no beginning
    and is left out. `cuts` are the directories that the page before ended in.
    """
    folders = _folders(root, page, cuts)
    ends = _ends(page)
    told = []
    for prefix, folder in folders.items():
        if folder is None or (began.startswith(prefix) and began != prefix):
            continue
        before = cuts.get(prefix, UNCUT)
        start = before.start
        stops = [end[len(prefix) :].partition("/")[0] for end in ends if end.startswith(prefix)]
        stop = max(min(stops), start) if stops else END
        files, directories = split(before.carry)
        files.update(folder.files)
        directories.update(folder.directories)
        entries, carry = arrange(files, directories, start, stop, folder.hidden)
        cut = Cut(stop, carry, before.pages + 1) if stops else None
        reserved = {name: listed for name, listed in folder.files.items() if is_reserved(name)}
        told.append(Told(prefix, start, stop, entries, carry, cut, folder.marker, reserved, tuple(folder.hidden)))
    return told


def _ends(page: Page) -> list[str]:
    """The keys that the page may have ended in."""
    if page.token is None or not page.objects:
        return []
    last = page.objects[-1].key
    last_of_tree = max((listed.key for listed in page.objects), key=lambda key: key.replace("/", "\0"))
    return [last] if last == last_of_tree else [last, last_of_tree]


def _folders(root: str, page: Page, cuts: Mapping[str, Cut]) -> dict[str, _Folder | None]:
    """The page's keys by directory; None for what cannot be one, or is ours."""
    folders: dict[str, _Folder | None] = {root: _Folder()}

    def folder_at(prefix: str) -> _Folder | None:
        if prefix in folders:
            return folders[prefix]
        start = prefix.rfind("/", 0, -1) + 1
        above, name = folder_at(prefix[:start]), prefix[start:-1]
        folder = None
        if above is not None:
            if not is_name(name):
                above.hidden.append(prefix)
            elif not is_reserved(name):
                above.directories[name] = None
                folder = _Folder()
        folders[prefix] = folder
        return folder

    for prefix in cuts:
        folder_at(prefix)
    latest, folder = root, folders[root]
    for listed in page.objects:
        key = listed.key
        if not key.startswith(root):
            continue  # a store that answers what was not asked for
        start = key.rfind("/") + 1
        if key[:start] != latest:
            latest = key[:start]
            folder = folder_at(latest)
        if folder is None:
            continue
        name = key[start:]
        if not name:
            folder.marker = listed
        elif is_name(name):
            folder.files[name] = listed
        else:
            folder.hidden.append(key)
    return folders
