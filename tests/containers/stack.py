"""The services of docs/examples/compose.yaml on the tests' Docker daemon, and single containers of the same image.

The compose file is used as it stands. A second file adds what this machine asks for: the host's network, for there is
no other, and a /dev/fuse that is open to all users, as udev makes it.
"""

import contextlib
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.containers.engine import Engine, command, compose_command, detach_below
from tests.servers import Server, boto

COMPOSE = Path(__file__).parents[2] / "docs/examples/compose.yaml"
IMAGE_USER = 10001
PATIENCE_SECONDS = 90.0
FUSE_NUMBER = os.makedev(10, 229)


def eventually(what: Callable[[], object], why: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until it is true; on a slow machine that takes longer."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"in {seconds:.0f} s it did not come true that {why}"
        time.sleep(0.1)


@dataclass(slots=True)
class Stack:
    """A bucket, a directory of the host that propagates mounts, and containers that use both."""

    engine: Engine
    server: Server
    bucket: str
    work: Path

    @property
    def parent(self) -> Path:
        """Above the mountpoint `uploads`."""
        return self.work / "srv"

    @property
    def device(self) -> Path:
        return self.work / "fuse"

    @property
    def environment(self) -> dict[str, str]:
        return self.engine.environment | self.server.environment() | {"BUCKET": self.bucket, "PARENT": str(self.parent)}

    def prepare(self) -> None:
        """What docs/operations.md has an administrator do, and the second compose file."""
        self.parent.mkdir(parents=True)
        command(["mount", "--bind", str(self.parent), str(self.parent)], os.environ)
        command(["mount", "--make-rshared", str(self.parent)], os.environ)
        self.directory("uploads")
        os.mknod(self.device, 0o666 | stat.S_IFCHR, FUSE_NUMBER)
        self.device.chmod(0o666)
        services = {
            "s3mount": {"network_mode": "host", "devices": [f"{self.device}:/dev/fuse"]},
            "app": {"network_mode": "host"},
        }
        (self.work / "host.yaml").write_text(json.dumps({"services": services}))  # JSON is YAML, too

    def directory(self, name: str) -> Path:
        """A mountpoint below the parent."""
        path = self.parent / name
        path.mkdir()
        os.chown(path, IMAGE_USER, IMAGE_USER)
        return path

    def compose(self, *words: str, seconds: float = PATIENCE_SECONDS) -> str:
        files = ["-f", str(COMPOSE), "-f", str(self.work / "host.yaml")]
        done = command([*compose_command(), "--project-name=tests", *files, *words], self.environment, seconds=seconds)
        return done.stdout

    def container(self, service: str) -> str:
        """The name of a service's container."""
        identifier = self.compose("ps", "--quiet", service).strip()
        return str(self.engine.inspect(identifier)["Name"]).lstrip("/")

    def mount(
        self,
        name: str,
        *options: str,
        arguments: tuple[str, ...] = (),
        capabilities: tuple[str, ...] = ("SYS_ADMIN",),
    ) -> str:
        """Start one container of the image that mounts at `name` below the parent; `options` are docker run's."""
        environment = {
            **self.server.environment(),
            "S3MOUNT_SOURCE": f"s3://{self.bucket}/{name}",
            "S3MOUNT_MOUNTPOINT": f"/srv/s3/{name}",
        }
        given = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
        given += [f"--cap-add={capability}" for capability in capabilities]
        least = ["--network=host", f"--device={self.device}:/dev/fuse", "--cap-drop=ALL"]
        least += ["--security-opt=apparmor=unconfined", f"--volume={self.parent}:/srv/s3:rshared"]
        self.engine.run("run", "--detach", f"--name={name}", *given, *least, *options, "s3mount", *arguments)
        return name

    def serves(self, container: str) -> bool:
        """Whether its daemon has said that it is mounted, since it was started last."""
        since = self.engine.inspect(container)["State"]["StartedAt"]
        done = self.engine.run("logs", "--since", since, container)
        return " mounted source=" in done.stdout + done.stderr

    def status(self, container: str, mountpoint: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.engine.run("exec", container, "s3mount", "status", "--json", mountpoint).stdout
        )
        return found

    def is_mounted(self, name: str) -> bool:
        """Whether this machine sees a mount there, dead or alive."""
        return f" {self.parent / name} " in Path("/proc/self/mountinfo").read_text()

    def daemon_pid(self, container: str) -> int:
        """The process of s3mount as this machine numbers it; the container's first process is tini."""
        first = int(self.engine.inspect(container)["State"]["Pid"])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return int(children[0])

    def keys(self, prefix: str = "") -> list[str]:
        """The files in the bucket."""
        pages = boto(self.server).get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        found = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return sorted(key for key in found if ".s3mount" not in key and not key.endswith("/"))

    def body(self, key: str) -> bytes:
        body: bytes = boto(self.server).get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body

    def size(self, key: str) -> int:
        size: int = boto(self.server).head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        return size

    def remove(self) -> None:
        """Take everything away; harmless when parts of it were never made."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.compose("down", "--volumes", "--timeout=5")
        made = self.engine.run("ps", "--all", "--quiet", check=False).stdout.split()
        if made:
            self.engine.run("rm", "--force", "--volumes", *made, check=False)
        detach_below(self.parent)
