"""What all tests in containers share: a Docker daemon, an image, an S3 server reached over the network of the host."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.containers.engine import BASE, BUILD_SECONDS, Engine, Unavailable

ROOT = Path(__file__).parents[2]

Say = Callable[[str], None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the containers have said."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.failed and isinstance(engine, Engine):
        for name in engine.run("ps", "--all", "--format={{.Names}}", check=False).stdout.split():
            done = engine.run("logs", "--tail=40", name, check=False)
            report.sections.append((f"log of {name}", done.stdout + done.stderr))
    return report


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Tells whoever waits what is being done: the first minutes are a base system and an image."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def told(line: str) -> None:
        assert capture is not None
        with capture.global_and_fixture_disabled():
            print(f"== {line}", flush=True)

    return told


@pytest.fixture(scope="session")
def engine(say: Say) -> Iterator[Engine]:
    """A Docker daemon that has the image `s3mount`, built from the repository's Dockerfile."""
    work = Path(tempfile.mkdtemp(prefix="s3mount-containers-"))  # short: the path of a socket is
    engine = Engine(work / "docker")
    try:
        say("starting a Docker daemon")
        engine.start()
        say(f"making {BASE} with debootstrap (storage driver {engine.driver})")
        engine.import_debian(work)
        say("building the image")
        engine.run("build", "--network=host", "--tag=s3mount", ROOT, seconds=BUILD_SECONDS)
        yield engine
    except Unavailable as why:
        pytest.exit(f"containers cannot be tested here: {why}", returncode=1)
    finally:
        say("removing containers, images and the daemon")
        engine.stop()
        shutil.rmtree(work, ignore_errors=True)
