"""What of a mount's status somebody should know of or do something about, one line each, the worst first: what is wrong
now, and what failed within the last hour, which may be over. Pure."""

from collections.abc import Iterator, Mapping

from s3mount.control.texts import Fields, duration, escaped, part

TROUBLES_SHOWN = 10
LATELY_SECONDS = 3600.0
"""What failed before is history, unless it still does."""


def wrongs(answer: Fields) -> Iterator[str]:
    """Nothing, of a mount that is well."""
    files, storage, store = part(answer, "files"), part(answer, "storage"), part(answer, "store")
    yield from _life(part(answer, "life"))
    yield from _store(store)
    yield from _unstored(files)
    yield from _storage(storage)
    yield from _write_back(part(answer, "write_back"))
    yield from _conflicts(files, storage)


def _life(life: Fields) -> Iterator[str]:
    if life.get("is") not in (None, "serving"):
        yield f"the mount is {life.get('is')}"


def _store(store: Fields) -> Iterator[str]:
    outage = part(store, "outage")
    if outage:
        since = duration(outage.get("since_seconds"))
        yield f"the store has not been reached for {since}: {escaped(str(outage.get('reason')))}"


def _unstored(files: Fields) -> Iterator[str]:
    failing = part(files, "files_not_stored")
    if failing.get("count"):
        yield f"{failing['count']} files were closed and are not in the bucket; they are tried again"
    for name, words in (
        ("attributes_that_failed", "changes of attributes were undone"),
        ("deletions_that_failed", "files were not deleted and are there again"),
        ("renames_unfinished", "renames of directories are unfinished; they are tried again"),
        ("renames_elsewhere", "renames of directories are under way or were cut short on other machines"),
    ):
        found = files.get(name)
        if isinstance(found, list) and found:
            yield f"{len(found)} {words}"


def _storage(storage: Fields) -> Iterator[str]:
    staging, disk = part(storage, "staging"), part(storage, "cache_on_disk")
    if staging.get("disk_full"):
        yield "the disk of --cache-dir takes no unsent bytes: make room"
    if staging.get("writers_waiting"):
        yield f"{staging['writers_waiting']} writes wait for staging: uploads are slow, or raise --staging-limit"
    if disk.get("given_up_for_a_while"):
        yield "the cache on disk is not used for a while, see the log"


def _write_back(journal: Fields) -> Iterator[str]:
    damage, refused = part(journal, "damage"), part(journal, "refused")
    if damage:
        place = escaped(str(damage.get("place")))
        yield f"the journal was damaged: what was not read is kept in {place}, {damage.get('count')} names are known"
    if refused.get("count"):
        yield f"{refused['count']} changes are refused by the bucket and wait for you: see `s3mount failed list`"
    if journal.get("writers_waiting"):
        limits = "--write-back-limit or --write-back-files is reached"
        yield f"{journal['writers_waiting']} changes wait until some of the journal is sent: {limits}"


def _conflicts(files: Fields, storage: Fields) -> Iterator[str]:
    copies = part(storage, "conflict_copies")
    if copies.get("count"):
        yield f"{copies['count']} versions lost a conflict and were kept, see below"
    opened = part(files, "conflicts_open")
    if opened.get("count"):
        yield f"{opened['count']} open files have lost their names to other clients"


def lately(answer: Fields) -> Iterator[str]:
    """What the log told within the last hour, and what to do about it."""
    found = [trouble for trouble in _kinds(part(answer, "troubles")) if _is_of_late(trouble)]
    for trouble in found[:TROUBLES_SHOWN]:
        yield from _trouble(trouble)
    if len(found) > TROUBLES_SHOWN:
        yield f"and {len(found) - TROUBLES_SHOWN} kinds of warnings and errors more, see --json"


def _trouble(trouble: Fields) -> Iterator[str]:
    about = [str(trouble[name]) for name in ("operation", "errno", "about") if trouble.get(name) is not None]
    when = f"{trouble.get('count')} times, last {duration(trouble.get('age_seconds'))} ago"
    yield f"{trouble.get('level')}, {when}: {trouble.get('what')}{f' ({chr(32).join(about)})' if about else ''}"
    if trouble.get("reason") is not None:
        yield f"    because: {trouble['reason']}"
    yield f"    to do: {trouble.get('remedy')}"


def earlier(answer: Fields) -> str | None:
    """What failed some time ago, in a few words."""
    old = [trouble for trouble in _kinds(part(answer, "troubles")) if not _is_of_late(trouble)]
    if not old:
        return None
    return f"{len(old)} kinds of warnings and errors, the last {duration(old[0].get('age_seconds'))} ago, see --json"


def _kinds(troubles: Fields) -> list[Fields]:
    latest = troubles.get("latest")
    return [trouble for trouble in latest if isinstance(trouble, Mapping)] if isinstance(latest, list) else []


def _is_of_late(trouble: Fields) -> bool:
    age = trouble.get("age_seconds")
    return not isinstance(age, (int, float)) or age <= LATELY_SECONDS
