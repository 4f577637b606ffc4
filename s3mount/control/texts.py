"""The daemon's answers as text for people: two columns, readable sizes and times, nothing a terminal acts on. Pure.

An answer may come from a daemon that is older or newer: what is missing is left out, what is unknown is shown as it is.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

Fields = Mapping[str, object]
WIDTH = 18
SHOWN = ("uid", "gid", "size", "inode")
STATES = {
    "stored": "stored",
    "changed": "changed here, not stored yet: the object is the one before",
    "uploading": "being uploaded: the object is the one before",
    "not stored": "not stored yet: there is no object",
    "waiting": "safe in the journal here, not sent yet: the object will be as it is told",
    "gone": "the object is gone, though not by this mount",
}


def stat_text(answer: Fields, mountpoint: str) -> str:
    """`s3mount stat` of one path."""
    found, shown = part(answer, "object"), part(answer, "shown")
    rows: list[tuple[str, object]] = [
        ("path", f"{answer.get('path') or '.'} in {mountpoint}"),
        ("kind", answer.get("kind")),
        ("prefix" if answer.get("kind") == "directory" else "key", answer.get("key")),
        ("bucket", answer.get("bucket")),
    ]
    if answer.get("kind") == "directory":
        rows += [("marker", "yes" if found else "no, it exists by what is below it"), ("flag", yes(answer.get("flag")))]
    else:
        state = str(answer.get("state"))
        rows.append(("state", STATES.get(state, state)))
    if found:
        rows += list(_object_rows(found))
        version = answer.get("version_shown")
        if version is not None and version != found.get("etag"):
            rows.append(("mount shows", f"version {version}"))
    if shown:
        rows += [
            ("shown", " ".join([f"{shown.get('permissions')}", *(f"{name}={shown.get(name)}" for name in SHOWN)])),
            ("shown mtime", instant(shown.get("mtime_ns"))),
        ]
    special = [f"{name}={value}" for name, value in part(answer, "special").items()]
    rows.append(("attributes stored", " ".join(special) or "none: the defaults of each mount"))
    return columns(rows)


def flags_text(flags: Fields) -> str:
    """`s3mount refresh --attributes` of one directory, when it is done."""
    unknown = flags.get("unknown")
    return (
        f"{flags.get('objects')} objects in {flags.get('directories')} directories were looked at: "
        f"{flags.get('flags_put')} flags put, {flags.get('flags_removed')} taken away, "
        f"{flags.get('flags_changed')} changed\n"
        + (f"{unknown} objects may not be read: the flags of their directories stay\n" if unknown else "")
    )


def _object_rows(found: Fields) -> Iterator[tuple[str, object]]:
    yield "size", size(found.get("size"))
    for name in ("etag", "version_id", "storage_class"):
        if found.get(name) is not None:
            yield name.replace("_", " "), found[name]
    yield "last modified", instant(found.get("last_modified_ns"))
    yield from part(found, "headers").items()
    for name, value in part(found, "metadata").items():
        yield "metadata", f"{name}={value}"
    yield "tags", found.get("tags")


def columns(rows: list[tuple[str, object]]) -> str:
    """One line each."""
    return "".join(f"{escaped(str(name)):<{WIDTH}} {escaped(yes(value))}\n" for name, value in rows)


def escaped(text: str) -> str:
    """A bucket decides what is in names and metadata: a terminal must not act on it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def yes(value: object) -> str:
    return (
        {True: "yes", False: "no", None: "unknown"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def size(value: object) -> str:
    """12345 (12.1 KiB)."""
    if not isinstance(value, int):
        return "unknown"
    scaled, unit = float(value), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if scaled < 1024:
            break
        scaled, unit = scaled / 1024, larger
    return f"{value} ({scaled:.1f} {unit})" if unit != "bytes" else f"{value} bytes"


def instant(value: object) -> str:
    """A time in nanoseconds since the epoch; of one that no calendar has, the number."""
    if not isinstance(value, int):
        return "unknown"
    seconds, nanoseconds = divmod(value, 1_000_000_000)
    try:
        words = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{value} ns"
    return f"{words}{f'.{nanoseconds:09}' if nanoseconds else ''} UTC"


def duration(value: object) -> str:
    """2d 3h 4m 5s."""
    if not isinstance(value, (int, float)):
        return "unknown"
    left, words = int(value), []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if left >= seconds:
            words.append(f"{left // seconds}{unit}")
            left %= seconds
    return " ".join([*words, f"{left}s"])


def part(answer: Fields, name: str) -> Fields:
    value = answer.get(name)
    return value if isinstance(value, dict) else {}
