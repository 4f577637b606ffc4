"""`s3mount status` for people: what is wrong first, then the parts of the mount, a screen for one that is well. Pure.

What has nothing to tell is left out. An answer may come from a daemon that is older or newer: what is missing is left
out, and what is unknown is shown as it is, in the part it came with.
"""

from collections.abc import Iterator, Mapping, Sequence

from s3mount.control.texts import Fields, duration, escaped, instant, part, size, yes
from s3mount.control.wrong import earlier, lately, wrongs

NAME_WIDTH = 20
PATHS_SHOWN = 10
SKEW_SECONDS = 2
"""Less is the road."""
Rows = Iterator[tuple[str, object]]

SHOWN_FILES = frozenset(
    {"dirty_files", "dirty", "uploads", "stopping", "hidden_examples", "names", "listed_names", "attributes_remembered"}
)
SHOWN_STORAGE = frozenset({"cache_in_memory", "memory", "staging", "parts_sent_ahead"})
SHOWN_STORE = frozenset(
    {"endpoint", "region", "signed", "clock_skew_seconds", "requests", "answers", "seconds", "sent_bytes"}
    | {"received_bytes", "last_answer_seconds", "last_failure_seconds", "outage"}
)
OWN_PARTS = frozenset(
    {"uptime_seconds", "mount", "life", "troubles", "files", "store", "storage", "operations", "write_back"}
)


def status_text(answer: Fields) -> str:
    """All of it."""
    mount, life = part(answer, "mount"), part(answer, "life")
    state = f"{life.get('is', 'state unknown')}{', read-only' if mount.get('read_only') else ''}"
    daemon = f"pid {mount.get('pid')}, s3mount {mount.get('version')}, up {duration(answer.get('uptime_seconds'))}"
    lines = [
        escaped(f"{mount.get('source', 'unknown')} on {mount.get('mountpoint', 'unknown')}"),
        f"  {state}, {daemon}",
    ]
    found, recent = ([escaped(line) for line in tell(answer)] for tell in (wrongs, lately))
    lines += ["WRONG", *(f"  {line}" for line in found)] if found else ["  nothing is wrong"]
    lines += ["LATELY", *(f"  {line}" for line in recent)] if recent else []
    before = earlier(answer)
    lines += [f"  earlier: {before}"] if before else []
    for title, rows in _sections(answer):
        told = list(rows)
        if told:
            lines += [title, *(_row(name, value) for name, value in told)]
    return "\n".join(lines) + "\n"


def _sections(answer: Fields) -> Iterator[tuple[str, Rows]]:
    yield "files", _files(part(answer, "files"))
    yield "write-back", _write_back(part(answer, "write_back"))
    yield "store", _store(part(answer, "store"))
    yield "caches", _caches(answer)
    yield "kernel", _operations(part(answer, "operations"))
    for name, value in answer.items():
        if name == "abilities" and isinstance(value, Mapping):
            yield "the store", _abilities(value)
        elif name not in OWN_PARTS:
            yield name.replace("_", " "), _flat("", value)


def _row(name: str, value: object) -> str:
    return f"  {escaped(name):<{NAME_WIDTH}} {escaped(yes(value))}".rstrip()


def _files(files: Fields) -> Rows:
    dirty = part(files, "dirty")
    if part(files, "dirty_files"):
        count = part(files, "dirty_files").get("count")
        oldest = f", the oldest for {duration(dirty.get('oldest_seconds'))}" if count and dirty else ""
        yield "not stored yet", f"{count} files, {_size(dirty.get('bytes'))}{oldest}"
    for file in _list(dirty, "files")[:PATHS_SHOWN]:
        words = f"{_size(file.get('bytes'))} for {duration(file.get('seconds'))}"
        yield "", f"{file.get('path')}: {words}{', open' if file.get('open') else ''}"
    uploads = part(files, "uploads")
    if uploads.get("count"):
        yield "uploads", uploads.get("count")
    for upload in _list(uploads, "under_way")[:PATHS_SHOWN]:
        yield "", _upload(upload)
    for name, value in files.items():
        if name == "hidden_keys" and isinstance(value, Mapping) and value.get("count"):
            yield from _hidden(value, part(files, "hidden_examples"))
        elif name not in SHOWN_FILES and not name.startswith("cache_of_"):
            yield from _flat(name, _moving(value))


def _upload(upload: Fields) -> str:
    parts = upload.get("parts_total")
    words = [f"{_size(upload.get('done_bytes'))} of {_size(upload.get('total_bytes'))}"]
    if upload.get("still_written"):
        words.append("sent ahead, still written")
    else:
        words += [f"{upload.get('parts_done')} of {parts} parts"] if parts else []
        words.append(f"for {duration(upload.get('seconds'))}")
    return f"{upload.get('path')}: {', '.join(words)}"


def _hidden(value: Fields, examples: Fields) -> Rows:
    yield "hidden keys", value.get("count")
    for prefix, count in part(value, "prefixes").items():
        example = f", such as {examples[prefix]}" if prefix in examples else ""
        yield "", f"{count} below {prefix or 'the root'}{example}"


def _write_back(journal: Fields) -> Rows:
    if not journal:
        return
    changes = journal.get("changes")
    words = f"{changes} changes, {_size(journal.get('bytes'))}"
    if changes:
        words += f", the oldest for {duration(journal.get('oldest_seconds'))}, {journal.get('sending')} being sent"
    yield "not sent yet", words
    yield (
        "journal",
        (
            f"{_size(journal.get('journal_bytes'))} on disk, limits {_size(journal.get('max_bytes'))} "
            f"and {journal.get('changes_max')} changes"
        ),
    )
    yield from _flat("refused", journal.get("refused"))
    damage = part(journal, "damage")
    if damage:
        yield "damaged", damage.get("place")
        yield from _flat("lost names", {"count": damage.get("count"), "paths": damage.get("paths")})


def _store(store: Fields) -> Rows:
    if not store:
        return
    skew = store.get("clock_skew_seconds")
    words = [str(store.get("endpoint")), f"region {store.get('region')}"]
    words += [] if store.get("signed") else ["unsigned"]
    words += [f"its clock is {skew} s ahead of ours"] if isinstance(skew, int) and abs(skew) > SKEW_SECONDS else []
    yield "endpoint", ", ".join(words)
    yield "bodies", f"{_size(store.get('received_bytes'))} received, {_size(store.get('sent_bytes'))} sent"
    outcomes: dict[str, dict[str, int]] = {}
    for answer in _list(store, "answers"):
        kind, count = outcomes.setdefault(str(answer.get("operation")), {}), answer.get("count")
        name = str(answer.get("outcome", answer.get("status")))
        kind[name] = kind.get(name, 0) + (count if isinstance(count, int) else 0)
    told = [_requests(name, kinds) for name, kinds in sorted(outcomes.items())]
    yield from (("requests" if first else "", line) for first, line in _wrapped(told))
    for name, value in store.items():
        if name not in SHOWN_STORE:
            yield from _flat(name, value)


def _requests(name: str, kinds: Mapping[str, int]) -> str:
    others = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(kinds.items()) if kind != "ok")
    return f"{name} {sum(kinds.values())}{f' ({others})' if others else ''}"


def _caches(answer: Fields) -> Rows:
    files, storage = part(answer, "files"), part(answer, "storage")
    rates = [
        (name, part(table, key))
        for name, table, key in (
            ("reads from memory", storage, "cache_in_memory"),
            ("names", files, "cache_of_names"),
            ("listings", files, "cache_of_listings"),
            ("attributes", files, "cache_of_attributes"),
        )
    ]
    told = [f"{name} {_rate(counts)}" for name, counts in rates if counts]
    if told:
        yield "known", ", ".join(told)
    memory, staging = part(storage, "memory"), part(storage, "staging")
    if memory:
        words = f"{_size(memory.get('cached_bytes'))} cached, {_size(memory.get('unsent_bytes'))} unsent"
        yield "memory", f"{words}, limit {_size(memory.get('max_bytes'))}"
    if staging:
        ahead = storage.get("parts_sent_ahead")
        words = f"{_size(staging.get('used_bytes'))} of {_size(staging.get('max_bytes'))}"
        yield "staging", words + (f", {ahead} parts being sent ahead" if ahead else "")
    names, listed = part(files, "names"), part(files, "listed_names")
    if names:
        attributes = part(files, "attributes_remembered")
        yield (
            "names",
            (
                f"{names.get('inodes')} inodes, {listed.get('held')} of {listed.get('max')} listed, "
                f"{attributes.get('versions')} of {attributes.get('max')} with attributes"
            ),
        )
    for name, value in storage.items():
        if name == "read_ahead" and not (
            part(storage, name).get("readers") or part(storage, name).get("fetched_bytes")
        ):
            continue
        if name not in SHOWN_STORAGE and value != "off":
            yield from _flat(name, value if name == "cache_on_disk" else _moving(value))


def _rate(counts: Fields) -> str:
    hits, misses = counts.get("hits"), counts.get("misses")
    if not isinstance(hits, int) or not isinstance(misses, int):
        return "unknown"
    return f"{100 * hits / (hits + misses):.0f} % of {hits + misses}" if hits + misses else "none yet"


def _operations(operations: Fields) -> Rows:
    told = []
    for name, kind in operations.items():
        if isinstance(kind, Mapping):
            errors = ", ".join(f"{count} {word}" for word, count in part(kind, "errors").items())
            told.append(f"{name} {kind.get('count')}{f' ({errors})' if errors else ''}")
    yield from (("requests" if first else "", line) for first, line in _wrapped(told))


def _abilities(abilities: Fields) -> Rows:
    """Of what can be asked for; the limits of parts as they are."""
    for word, sought in (("can", True), ("cannot", False), ("not known", None)):
        names = [name.replace("_", " ") for name, value in abilities.items() if value is sought]
        if names:
            yield from ((word if first else "", line) for first, line in _wrapped(names))
    others = {name: value for name, value in abilities.items() if not (value is None or isinstance(value, bool))}
    if others:
        yield from _flat("limits", others)


def _wrapped(words: Sequence[str], width: int = 90) -> Iterator[tuple[bool, str]]:
    """Words side by side in lines; whether it is the first."""
    line, first = "", True
    for word in words:
        if line and len(line) + len(word) + 2 > width:
            yield first, line
            line, first = "", False
        line = f"{line}, {word}" if line else word
    if line:
        yield first, line


def _flat(name: str, value: object) -> Rows:
    """A figure as lines: tables of numbers in one line, of lists each item; nothing of what is at rest."""
    words = name.replace("_", " ")
    if isinstance(value, dict) and "count" in value and not value["count"]:
        return
    if isinstance(value, dict) and value.keys() >= {"count", "paths"} and isinstance(value["paths"], list):
        yield words, value["count"]
        yield from (("", path) for path in value["paths"][:PATHS_SHOWN])
    elif isinstance(value, dict) and value and not any(isinstance(item, (dict, list)) for item in value.values()):
        yield words, ", ".join(f"{key.replace('_', ' ')} {_readable(key, item)}" for key, item in value.items())
    elif isinstance(value, dict):  # nothing at all, when it is empty
        for key, item in value.items():
            yield from _flat(f"{words} {key}".strip(), item)
    elif isinstance(value, list):
        told = [_line(item) if isinstance(item, dict) else str(item) for item in value]
        yield from ((words if not index else "", line) for index, line in enumerate(told))
    else:
        yield words, _readable(name, value)


def _moving(value: object) -> object:
    """A table of numbers without those that are 0; anything else as it is."""
    if not isinstance(value, dict) or any(isinstance(item, (dict, list)) for item in value.values()):
        return value
    return {name: item for name, item in value.items() if item}


def _line(item: Fields) -> str:
    """from d/ to e/, done 3, total 500."""
    words = [f"{name.removesuffix('_ns').replace('_', ' ')} {_readable(name, told)}" for name, told in item.items()]
    return ", ".join(words)


def _readable(name: str, value: object) -> str:
    if name.endswith("_ns"):
        return instant(value)
    return size(value) if name.endswith("_bytes") and isinstance(value, int) else yes(value)


def _size(value: object) -> str:
    """12.1 KiB, without the exact number."""
    words = size(value)
    return words.partition("(")[2].rstrip(")") or words


def _list(fields: Fields, name: str) -> list[Fields]:
    value = fields.get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
