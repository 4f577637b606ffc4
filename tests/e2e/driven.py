"""The differential's driver as a process beside a mount, and what the bucket must hold for the tree it has made."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.driver import SHOWN_OPERATIONS, Differs
from tests.e2e.mounting import ROOT, Mounted, Place, hear, say
from tests.e2e.sides import DIRECTORY, LINK, Tree


class Driven:
    """`tests.e2e.differential` on a mount and on an oracle; see there. The mutable state is its process."""

    def __init__(self, mounted: Mounted, work: Path, seed: int, kinds: Sequence[str]) -> None:
        self.oracle, self.trace = work / "oracle", work / "trace"
        self.oracle.mkdir(mode=0o755)
        place = mounted.place
        words = [sys.executable, "-m", "tests.e2e.differential", f"--seed={seed}", f"--trace={self.trace}"]
        words += [f"--kinds={','.join(kinds)}", f"--endpoint-url={place.server.endpoint_url}"]
        words += [f"--bucket={place.bucket}", f"--prefix={place.prefix}", str(mounted.root), str(self.oracle)]
        environment = {**os.environ, **place.server.environment()}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )

    def take(self, steps: int) -> None:
        """So many steps, after which everything is closed and the trees are equal. Raises Differs."""
        say(self.process, str(steps))
        if (said := hear(self.process)) != "ok":
            assert self.process.stdout is not None
            rest = self.process.stdout.read()
            self.process.wait(60)
            if not said:
                rest = "".join(self.trace.read_text().splitlines(keepends=True)[-SHOWN_OPERATIONS:])
            raise Differs(f"{said}\n{rest}\nthe driver's exit status: {self.process.returncode}")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


def check_bucket(place: Place, expected: Tree) -> None:
    """The bucket has exactly the files of the oracle's tree, byte for byte, and says which directories exist."""
    files = {name: stored(found) for name, found in expected.items() if found != DIRECTORY}
    directories = {name for name, found in expected.items() if found == DIRECTORY}
    keys = [key for key in place.names() if not any(part.startswith(".s3mount") for part in key.split("/"))]
    found = {key: place.get(key) for key in keys if not key.endswith("/")}
    assert [name for name in sorted({*found, *files}) if found.get(name) != files.get(name)] == []
    shown = {key.rstrip("/") for key in keys if key.endswith("/")}
    for key in keys:
        parts = key.rstrip("/").split("/")
        shown |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    differing = sorted((shown - {""}) ^ directories)
    assert differing == [], f"directories in one of bucket and tree: {differing}, keys {keys}"


def stored(found: bytes | str) -> bytes:
    """The body of the object that stands for this: a link's is its target, a FIFO's is empty."""
    if isinstance(found, bytes):
        return found
    return os.fsencode(found[len(LINK) :]) if found.startswith(LINK) else b""
