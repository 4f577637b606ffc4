"""s3mount in containers: what docs/operations.md promises of the image and of the compose file, on Docker's own daemon.

The legacy writer knows nothing of s3mount: it writes files below /data/uploads and binds the directory above.
"""

import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.conftest import Say
from tests.containers.engine import BASE, Engine, command
from tests.containers.stack import Stack, eventually
from tests.servers import Server, make_bucket

SYS_ADMIN_ALONE = 1 << 21
MIB = 1024 * 1024
QUICK = ("--health-interval=1s", "--health-timeout=3s", "--health-retries=1", "--health-start-period=1s")


@pytest.fixture(scope="module")
def stack(engine: Engine, seaweedfs: Server, say: Say) -> Iterator[Stack]:
    """The compose services, up and writing."""
    work = engine.directory.parent / "stack"
    stack = Stack(engine, seaweedfs, make_bucket(seaweedfs, f"test-{secrets.token_hex(6)}"), work)
    try:
        stack.prepare()
        say("starting the services of docs/examples/compose.yaml")
        stack.compose("up", "-d", seconds=300)
        yield stack
    finally:
        stack.remove()


def health(engine: Engine, container: str) -> str:
    return str(engine.inspect(container)["State"]["Health"]["Status"])


def written(stack: Stack) -> set[str]:
    """What the writer sees of its own files."""
    return set(stack.engine.shell(stack.container("app"), "ls /data/uploads | grep -x '[0-9]*.txt'").split())


def goes_on_writing(stack: Stack) -> None:
    """New files of the writer reach the bucket."""
    before = set(stack.keys())
    eventually(lambda: len(set(stack.keys()) - before) >= 2, "new files of the writer are in the bucket")


def test_the_image_is_small_and_mounts_as_an_ordinary_user(engine: Engine) -> None:
    image, base = engine.inspect("s3mount"), engine.inspect(BASE)
    assert image["Config"]["User"] == "s3mount"
    assert image["Config"]["StopSignal"] == "SIGTERM"
    assert "healthcheck" in " ".join(image["Config"]["Healthcheck"]["Test"])
    assert image["Size"] - base["Size"] < 100 * MIB
    assert engine.run("run", "--rm", "--network=none", "s3mount", "--version").stdout.startswith("s3mount ")


def test_words_that_cannot_be_understood_end_the_container_with_2(engine: Engine) -> None:
    done = engine.run("run", "--rm", "--network=none", "--env=S3MOUNT_TTL=5s", "s3mount", check=False)
    assert done.returncode == 2
    assert "S3MOUNT_TTL: no such variable" in done.stderr


def test_an_unchanged_writer_finds_the_bucket_as_its_uploads(stack: Stack) -> None:
    """It is started when s3mount is healthy, so its first file is in the bucket already."""
    goes_on_writing(stack)
    names = written(stack)
    assert names <= set(stack.keys())
    assert stack.body(min(names))
    owner = stack.engine.shell(stack.container("app"), f"stat -c %u:%g /data/uploads/{min(names)}")
    assert owner == "33:33\n"
    assert health(stack.engine, stack.container("s3mount")) == "healthy"


def test_the_device_and_one_capability_are_all_it_has(stack: Stack) -> None:
    """The daemon itself has no capability; fusermount3 may use the one that the container is limited to."""
    container = stack.container("s3mount")
    granted = stack.engine.inspect(container)["HostConfig"]
    assert (granted["Privileged"], granted["ReadonlyRootfs"]) == (False, True)
    assert [one["PathInContainer"] for one in granted["Devices"]] == ["/dev/fuse"]
    words = Path(f"/proc/{stack.daemon_pid(container)}/status").read_text().split("\n")
    has = dict(line.split(":\t", 1) for line in words if ":\t" in line)
    assert has["Uid"].split("\t") == ["10001"] * 4
    assert int(has["CapEff"], 16) == 0
    assert int(has["CapBnd"], 16) == SYS_ADMIN_ALONE


def test_the_writer_sees_its_files_again_when_the_daemon_was_killed_and_started(stack: Stack) -> None:
    """While it is dead the mountpoint is dead, not empty; the writer's container goes on all the time."""
    engine, app, daemon = stack.engine, stack.container("app"), stack.container("s3mount")
    before, pid = written(stack), engine.inspect(app)["State"]["Pid"]
    engine.run("kill", "--signal=KILL", daemon)
    said = engine.run("exec", app, "ls", "/data/uploads", check=False)
    assert "Transport endpoint is not connected" in said.stderr
    stack.compose("up", "-d", seconds=300)
    eventually(lambda: stack.serves(daemon), "s3mount serves again")
    assert before <= written(stack)
    goes_on_writing(stack)
    assert engine.inspect(app)["State"]["Pid"] == pid


def test_a_daemon_that_dies_is_started_again_by_docker(stack: Stack) -> None:
    engine, app, daemon = stack.engine, stack.container("app"), stack.container("s3mount")
    before, pid = written(stack), engine.inspect(app)["State"]["Pid"]
    os.kill(stack.daemon_pid(daemon), signal.SIGKILL)
    eventually(lambda: engine.inspect(daemon)["RestartCount"] == 1, "Docker has started it again")
    eventually(lambda: stack.serves(daemon), "s3mount serves again")
    assert before <= written(stack)
    goes_on_writing(stack)
    assert engine.inspect(app)["State"]["Pid"] == pid


def test_docker_stop_loses_nothing(stack: Stack) -> None:
    """What programs have closed, and what one is still writing: its pages are in the kernel, its file is closed to
    everybody else, the daemon's user included."""
    engine, app, daemon = stack.engine, stack.container("app"), stack.container("s3mount")
    script = """
        cd /data/uploads && umask 077 && mkdir private
        head -c 20000000 /dev/urandom > /tmp/bytes
        i=0; while [ $i -lt 100 ]; do echo $i > private/$i; i=$((i + 1)); done
        exec 3>private/open; cat /tmp/bytes >&3; touch /tmp/written; sleep 3
    """
    engine.run("exec", "--detach", app, "sh", "-c", script)
    eventually(lambda: engine.run("exec", app, "test", "-e", "/tmp/written", check=False).returncode == 0, "it wrote")
    engine.run("stop", daemon)
    state = engine.inspect(daemon)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert not stack.is_mounted("uploads")
    expected = engine.run("exec", app, "sha256sum", "/tmp/bytes").stdout.split()[0]
    assert [stack.body(f"private/{number}") for number in range(100)] == [b"%d\n" % number for number in range(100)]
    stack.compose("up", "-d", seconds=300)
    eventually(lambda: stack.serves(daemon), "s3mount serves again")
    assert engine.run("exec", app, "sha256sum", "/data/uploads/private/open").stdout.split()[0] == expected


def test_health_follows_the_daemon(stack: Stack) -> None:
    """Healthy, unhealthy while its loop stands still, healthy again."""
    stack.directory("health")
    container = stack.mount("health", *QUICK)
    eventually(lambda: health(stack.engine, container) == "healthy", "it is healthy")
    pid = stack.daemon_pid(container)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: health(stack.engine, container) == "unhealthy", "it is unhealthy")
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: health(stack.engine, container) == "healthy", "it is healthy again")
    stack.engine.run("stop", container)


@pytest.mark.parametrize(("name", "options"), [("tini", ()), ("alone", ("--entrypoint=s3mount",))])
def test_an_idle_mount_is_gone_two_seconds_after_sigterm(stack: Stack, name: str, options: tuple[str, ...]) -> None:
    """E2: behind tini, and as process 1 itself."""
    stack.directory(name)
    container = stack.mount(name, *options, arguments=("mount", "--foreground"))
    eventually(lambda: stack.serves(container), "it serves")
    began = time.monotonic()
    stack.engine.run("stop", container)
    assert time.monotonic() - began < 2.0
    assert stack.engine.inspect(container)["State"]["ExitCode"] == 0
    assert not stack.is_mounted(name)


@pytest.mark.parametrize(("name", "options"), [("early-tini", ()), ("early-alone", ("--entrypoint=s3mount",))])
def test_a_start_that_waits_for_the_store_can_be_stopped(stack: Stack, name: str, options: tuple[str, ...]) -> None:
    """Process 1 of a container gets no signal that it has no handler for."""
    stack.directory(name)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"--env=S3MOUNT_ENDPOINT_URL=http://127.0.0.1:{silent.getsockname()[1]}"
        container = stack.mount(name, endpoint, *options, arguments=("mount", "--foreground"))
        silent.settimeout(60)
        with silent.accept()[0]:  # it has asked, and waits
            began = time.monotonic()
            stack.engine.run("stop", container)
            assert time.monotonic() - began < 5.0
    assert stack.engine.inspect(container)["State"]["ExitCode"] == 128 + signal.SIGTERM
    assert not stack.is_mounted(name)


def test_the_memory_limit_is_the_containers_not_the_machines(stack: Stack) -> None:
    """And with it a file that is larger than the container's memory is written."""
    stack.directory("memory")
    container = stack.mount("memory", "--memory=400m", "--env=S3MOUNT_ALLOW_OTHER=true")
    eventually(lambda: stack.serves(container), "it serves")
    assert stack.status(container, "/srv/s3/memory")["storage"]["memory"]["max_bytes"] == 200 * MIB
    script = f"head -c {500 * MIB} /dev/zero > {stack.parent}/memory/large"
    command(["sh", "-c", script], os.environ, seconds=600)
    state = stack.engine.inspect(container)["State"]
    assert (state["Status"], state["OOMKilled"]) == ("running", False)
    stack.engine.run("stop", container)
    assert stack.size("memory/large") == 500 * MIB


def test_without_the_capability_the_container_says_so_and_ends(stack: Stack) -> None:
    stack.directory("bare")
    container = stack.mount("bare", capabilities=())
    engine = stack.engine
    eventually(lambda: engine.inspect(container)["State"]["Status"] == "exited", "it has given up")
    assert engine.inspect(container)["State"]["ExitCode"] == 1
    said = engine.run("logs", container)
    assert "was not mounted" in said.stdout + said.stderr
    assert not stack.is_mounted("bare")
