"""What was found out about one store, remembered for all mounts of it, and found out when nobody has yet.

One small JSON file per endpoint and bucket. A file that is old, garbled or of another format counts as none. A search
that fails is an answer too, for this mount: as S3 says; the next start tries again.
"""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

import trio

from s3mount.config import Config
from s3mount.errors import AccessDenied, S3MountError
from s3mount.store.abilities import (
    CONDITIONS,
    Abilities,
    probe_conditions,
    probe_deletes,
    probe_ghosts,
    probe_parts,
    probe_rename,
    scratch_key,
    scratch_keys,
)
from s3mount.store.base import ObjectStore

log = logging.getLogger(__name__)

FORMAT = 1
KEPT_SECONDS = 30 * 86400.0
CONDITIONS_SECONDS = 20.0
"""Nobody waits for it; two dozen tiny requests that take longer tell of a store in trouble."""
PARTS_SECONDS = 600.0
"""15 MiB over a slow line. Until then the uploads that have to know wait."""

AT_START = (
    (probe_conditions, "put_if_absent"),
    (probe_deletes, "delete_many"),
    (probe_rename, "rename"),
    (probe_ghosts, "ghosts"),
)
"""The probes of every mount that writes, each with what it finds out if it can."""


def _unnoted(_key: str) -> int:
    return 0


class Findings:
    """See the module. `directory` is `stores` in the cache directory."""

    def __init__(
        self,
        store: ObjectStore,
        config: Config,
        directory: Path,
        *,
        begin: Callable[[str], int] = _unnoted,
        ended: Callable[[int], None] = lambda _number: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # `begin` and `ended` frame the life of a key: the journal's, for what a killed daemon leaves.
        # The mutable state is on disk: another mount may write the file at any time, so it is read for every question.
        self._store = store
        self._config = config
        self._begin = begin
        self._ended = ended
        self._clock = clock
        identity = "\0".join([config.endpoint_url or "aws", config.bucket])
        self._path = directory / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()}.json"

    async def conditions(self) -> Abilities:
        """Which conditions the store keeps, how it deletes, whether it renames, what it lists; asked once a mount
        serves, and told in the log. Nothing is asked read-only."""
        if self._config.read_only:
            return Abilities()
        found = self.remembered()
        for probe, told in AT_START:
            # What one probe could not find out, the next would wait for as long.
            if getattr(found, told) is None:
                found = _with(found, await self._search(probe, CONDITIONS_SECONDS))
            if getattr(found, told) is None:
                break
        lacking = [name for name in CONDITIONS if getattr(found, name) is False]  # None: not known
        if lacking:
            log.warning(
                "store lacks conditions, they are not sent: when two clients change one object at the same time, the "
                "changes of one of them are lost unseen lacking=%s",
                ",".join(lacking),
            )
        return found

    async def parts(self) -> Abilities:
        """What uploads by parts may look like; asked before the first upload that has to know."""
        if self._config.read_only:
            return Abilities()
        found = self.remembered()
        if found.parts_max is not None:
            return found
        return await self._search(probe_parts, PARTS_SECONDS)

    async def _search(self, probe: Callable[[ObjectStore, str], Awaitable[Abilities]], seconds: float) -> Abilities:
        """Probe, remember and tell."""
        key = scratch_key(self._config.prefix, secrets.token_hex(8))
        entries = [self._begin(name) for name in scratch_keys(key)]
        try:
            with trio.fail_after(seconds):
                found = await probe(self._store, key)
        except AccessDenied as error:
            self._end(entries)  # the probe has tidied up; what may not be deleted now may not be at the next start
            log.info("store was not probed, it is used as S3 says probe=%s reason=%s", probe.__name__, error)
            return Abilities()
        except (S3MountError, trio.TooSlowError) as error:
            log.info("store was not probed, it is used as S3 says probe=%s reason=%s", probe.__name__, error)
            return Abilities()
        except Exception:
            # In the background it would end the mount.
            log.exception("probe met a bug, the store is used as S3 says probe=%s", probe.__name__)
            return Abilities()
        self._end(entries)
        told = {name: value for name, value in asdict(found).items() if value is not None}
        log.info(f"store was probed {' '.join(f'{name}=%s' for name in told)}", *told.values())
        known = _with(self.remembered(), found)
        self._remember(known)
        return known

    def _end(self, entries: list[int]) -> None:
        for entry in entries:
            self._ended(entry)

    def remembered(self) -> Abilities:
        """What was found out before, by whichever mount."""
        try:
            document = json.loads(self._path.read_bytes())
            age = self._clock() - document["found"]
            if document["format"] != FORMAT or not 0 <= age < KEPT_SECONDS:
                return Abilities()
            return _checked(document["abilities"])
        except (OSError, ValueError, KeyError, TypeError):
            return Abilities()

    def _remember(self, abilities: Abilities) -> None:
        document = {"format": FORMAT, "found": self._clock(), "abilities": asdict(abilities)}
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(document, file)
            draft.replace(self._path)
        except OSError as error:
            log.info("what a store can do was not remembered path=%s reason=%s", self._path, error)
            with suppress(OSError):
                draft.unlink()


def _with(found: Abilities, more: Abilities) -> Abilities:
    return replace(found, **{name: value for name, value in asdict(more).items() if value is not None})


def _checked(values: object) -> Abilities:
    """Raises ValueError or TypeError for what cannot have come from us."""
    if not isinstance(values, dict):
        raise TypeError(f"not abilities: {values!r}")
    abilities = Abilities(**values)
    for field in fields(abilities):
        value = getattr(abilities, field.name)
        if value is not None and (isinstance(value, bool) is (field.name == "parts_max")):
            raise ValueError(f"not a value of {field.name}: {value!r}")
    if abilities.parts_max is not None and not 2 <= abilities.parts_max <= 10_000:
        raise ValueError(f"not a number of parts: {abilities.parts_max!r}")
    return abilities
