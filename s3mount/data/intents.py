"""What a directory's move is about to do, written into the bucket before it begins: so that whoever finds it half done
knows what is where.

An intent is one object below the reserved prefix, readable by people: a line of JSON that says who moves what where,
then a line for each object with key, etag, size, age, and the etag of its copy where that is another. Its owner is a
random word of the instance's directory, not a name that two hosts may share: nobody else touches it, for its owner may
be at work on it. Pure; sends nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Literal, cast, get_args

from s3mount.config import RESERVED
from s3mount.store.base import PROVISIONAL, Listed

FORMAT = 1
HEAD_MAX_BYTES = 16 * 1024
"""The first line: two keys, escaped, and a few words."""

Phase = Literal["moving", "deleting", "undoing"]
"""moving: objects are renamed or copied; deleting: all copies exist; undoing: the move was given up."""


@dataclass(frozen=True, slots=True)
class Source:
    """One object as it was before the move; one made anew since is told by its age, if not by its etag.
    `copy`: the etag of its copy, where that is known to be another."""

    etag: str
    size: int
    modified_seconds: int
    copy: str = ""

    def still(self, found: Listed) -> bool:
        """Whether the source is what it was, as far as it can be told."""
        if self.etag.startswith(PROVISIONAL):
            return found.size == self.size  # it has landed since, under an etag that the intent does not know
        return (found.etag, found.size, seconds_of(found)) == (self.etag, self.size, self.modified_seconds)

    def is_copied(self, found: Listed) -> bool:
        """Whether this is its copy at the new key."""
        known = not self.etag.startswith(PROVISIONAL)
        return found.size == self.size and (found.etag == (self.copy or self.etag) or not known)


@dataclass(frozen=True, slots=True)
class Intent:
    """See the module. `sources` by the key below `former`."""

    key: str
    owner: str
    host: str
    former: str
    target: str
    at_ns: int
    phase: Phase = "moving"
    until_ns: int = 0
    """When the phase began: what is younger is no copy of ours."""
    sources: Mapping[str, Source] = field(default_factory=dict)

    def now(self, phase: Phase, until_ns: int, sources: Mapping[str, Source]) -> "Intent":
        return replace(self, phase=phase, until_ns=until_ns, sources=dict(sources))


def seconds_of(listed: Listed) -> int:
    return listed.last_modified_ns // 10**9


def intents_prefix(prefix: str) -> str:
    return f"{prefix}{RESERVED}/intents/"


def encode(intent: Intent) -> bytes:
    head = {
        "format": FORMAT,
        "owner": intent.owner,
        "host": intent.host,
        "from": intent.former,
        "to": intent.target,
        "time": datetime.fromtimestamp(intent.at_ns // 10**9, timezone.utc).isoformat(),
        "at_ns": intent.at_ns,
        "until_ns": intent.until_ns,
        "phase": intent.phase,
    }
    lines = [json.dumps(head)]
    for name, source in intent.sources.items():
        lines.append(
            json.dumps([name, source.etag, source.size, source.modified_seconds, *filter(None, [source.copy])])
        )
    return "\n".join(lines).encode() + b"\n"


def decode_head(key: str, content: bytes) -> Intent:
    """Who moves what where; no sources. Raises ValueError for what cannot have come from us."""
    line, newline, _ = content.partition(b"\n")
    head = json.loads(line)
    if not newline or not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError("not an intent")
    words = [head.get(name) for name in ("owner", "host", "from", "to")]
    phase, at_ns, until_ns = head.get("phase"), head.get("at_ns"), head.get("until_ns")
    if not all(isinstance(word, str) for word in words) or phase not in get_args(Phase):
        raise ValueError("not an intent")
    if type(at_ns) is not int or type(until_ns) is not int:
        raise ValueError("not an intent")
    owner, host, former, target = map(str, words)
    return Intent(key, owner, host, former, target, at_ns, cast(Phase, phase), until_ns)


def decode(key: str, content: bytes) -> Intent:
    """All of it. Raises ValueError."""
    intent = decode_head(key, content)
    sources = {}
    for line in content.splitlines()[1:]:
        entry = json.loads(line)
        if not isinstance(entry, list) or len(entry) not in (4, 5):
            raise ValueError("not a source")
        name, etag, size, modified, *copy = entry
        if not all(isinstance(word, str) for word in (name, etag, *copy)) or {type(size), type(modified)} != {int}:
            raise ValueError("not a source")
        sources[name] = Source(etag, size, modified, *copy)
    return replace(intent, sources=sources)
