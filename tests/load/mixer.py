"""Everything that programs do, over and over, a program: `python -m tests.load.mixer MOUNT DIRECTORY SEED`.

Names are created in masses and forgotten again, content comes and goes, so that whatever a daemon keeps for good shows
as growth. It says that it is ready, works until SIGTERM, and prints one line of JSON: what it did, and
what was wrong.
"""

import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

MIB = 1024 * 1024
NAMES = 150
ABSENT_NAMES = 200
STREAM_BYTES = 16 * MIB


class Wrong(Exception):
    """What was read is not what was written."""


class Mixer:
    """See the module. The mutable state: the draws, a serial number, the counts, whether it shall stop."""

    def __init__(self, root: Path, seed: str) -> None:
        self.root = root
        self.draws = random.Random(seed)
        self.serial = 0
        self.counts: Counter[str] = Counter()
        self.stopped = False

    def run(self) -> None:
        acts = (self.names, self.stream, self.edit, self.move, self.attributes, self.unlinked, self.absent, self.ask)
        while not self.stopped:
            act = self.draws.choice(acts)
            place = self.new("w")
            place.mkdir()
            act(place)
            shutil.rmtree(place)
            self.counts[act.__name__] += 1

    def new(self, stem: str) -> Path:
        """A name that was never used."""
        self.serial += 1
        return self.root / f"{stem}{self.serial}"

    def same(self, found: bytes, expected: bytes, what: Path) -> None:
        if found != expected:
            raise Wrong(f"{what}: {len(found)} bytes that differ from the {len(expected)} written")

    def names(self, place: Path) -> None:
        """Many small files in some directories, walked, read, forgotten by a refresh, removed."""
        for number in range(NAMES):
            directory = place / f"d{number % 5}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{number}").write_bytes(b"%d" % number)
        for where, _, files in os.walk(place):
            for name in files:
                os.stat(os.path.join(where, name))
        if self.draws.random() < 0.3:
            self.command("refresh", place)
        for number in self.draws.sample(range(NAMES), 20):
            path = place / f"d{number % 5}/f{number}"
            self.same(path.read_bytes(), b"%d" % number, path)
        self.counts["files created"] += NAMES

    def stream(self, place: Path) -> None:
        path, body = place / "stream", self.draws.randbytes(MIB)
        with path.open("wb") as file:
            for _ in range(STREAM_BYTES // MIB):
                file.write(body)
        with path.open("rb") as reader:
            while piece := reader.read(MIB):
                self.same(piece, body, path)

    def edit(self, place: Path) -> None:
        path, body = place / "edited", bytearray(self.draws.randbytes(6 * MIB))
        path.write_bytes(body)
        for _ in range(3):
            at, data = self.draws.randrange(len(body) - 5000), self.draws.randbytes(5000)
            with path.open("r+b") as file:
                file.seek(at)
                file.write(data)
                if self.draws.random() < 0.5:
                    os.fsync(file.fileno())
            body[at : at + 5000] = data
            with path.open("ab") as log:
                log.write(data)
            body += data
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[100:200] = body[100:200] = bytes(100)
            mapped.flush()
        os.truncate(path, 3 * MIB)
        self.same(path.read_bytes(), bytes(body[: 3 * MIB]), path)

    def move(self, place: Path) -> None:
        inner = place / "inner"
        inner.mkdir()
        for number in range(12):
            (inner / f"f{number}").write_bytes(b"moved")
        for number in range(12):
            (inner / f"f{number}").rename(inner / f"g{number}")
        inner.rename(place / "outer")
        (place / "over").write_bytes(b"over")
        (place / "over").rename(place / "outer/g3")
        self.same((place / "outer/g3").read_bytes(), b"over", place)
        self.same((place / "outer/g4").read_bytes(), b"moved", place)

    def attributes(self, place: Path) -> None:
        for number in range(10):
            path = place / f"f{number}"
            path.write_bytes(b"x")
            path.chmod(0o600 + number)
            os.utime(path, (number, number))
            (place / f"link{number}").symlink_to(path.name)
        for number in range(10):
            self.same((place / f"link{number}").read_bytes(), b"x", place)
            if (place / f"f{number}").stat().st_mode & 0o777 != 0o600 + number:
                raise Wrong(f"the mode of {place}/f{number}")

    def unlinked(self, place: Path) -> None:
        """Read after the name has gone."""
        path, body = place / "gone", self.draws.randbytes(2 * MIB)
        path.write_bytes(body)
        with path.open("rb") as file:
            path.unlink()
            self.same(file.read(), body, path)

    def absent(self, place: Path) -> None:
        for number in range(ABSENT_NAMES):
            if (place / f"absent{self.serial}-{number}").exists():
                raise Wrong("a name that nobody has made")

    def ask(self, place: Path) -> None:
        self.command("status", place)
        os.listdir(self.root)
        os.statvfs(place)

    def command(self, verb: str, path: Path) -> None:
        words = [sys.executable, "-m", "tests.e2e.entry", verb, str(path)]
        done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise Wrong(f"{verb}: exit {done.returncode}: {done.stderr}")


def main() -> int:
    mount, directory, seed = sys.argv[1:]
    mixer = Mixer(Path(mount) / directory, seed)

    def stop(_number: int, _frame: FrameType | None) -> None:
        mixer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    print("ready", flush=True)
    wrong = []
    try:
        mixer.run()
    except (Wrong, OSError) as error:
        wrong.append(str(error))
    print(json.dumps({"counts": mixer.counts, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
