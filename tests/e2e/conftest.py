"""Fixtures of the tests on real mounts: a fresh prefix each, mounts that end with the test, the watchdog.

Without a usable /dev/fuse these tests fail when CI=true; otherwise the end of the run says that they were skipped.
"""

import os
import re
import secrets
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.mounting import Mounted, Mounts, Place
from tests.e2e.watchdog import Watchdog
from tests.proxy import FaultProxy
from tests.servers import Server, make_bucket

HERE = Path(__file__).parent
TEST_SECONDS = 120.0
"""A test takes longer only with @pytest.mark.seconds(n)."""
FAILED = pytest.StashKey[bool]()


def why_no_fuse() -> str:
    """Why nothing can be mounted here; empty when it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened for reading and writing"
    if shutil.which("fusermount3") is None:
        return "there is no fusermount3: install fuse3"
    return ""


def needs_mount(item: pytest.Item) -> bool:
    return "watchdog" in getattr(item, "fixturenames", ())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seconds(n): how long the watchdog lets this test take")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and needs_mount(item):
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if HERE in item.path.parents and needs_mount(item) and (reason := why_no_fuse()):
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if (reason := why_no_fuse()) and terminalreporter.stats.get("skipped"):
        terminalreporter.section("NO END-TO-END TESTS", sep="!", red=True, bold=True)
        terminalreporter.line(f"Nothing was mounted, so nothing is known about real mounts: {reason}.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        mounts = getattr(item, "funcargs", {}).get("mounts")
        for mounted in mounts.made if isinstance(mounts, Mounts) else ():
            report.sections.append((f"log of {mounted.work.name}", mounted.log[-6000:]))
            report.sections.append((f"standard error of {mounted.work.name}", mounted.stderr[-3000:]))
    return report


@pytest.fixture(scope="session")
def session_watchdog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watchdog]:
    watchdog = Watchdog(tmp_path_factory.mktemp("watchdog") / "report")
    yield watchdog
    watchdog.stop()


@pytest.fixture
def watchdog(session_watchdog: Watchdog, request: pytest.FixtureRequest) -> Iterator[Watchdog]:
    """Armed for one test: a hung mount fails it instead of hanging the run."""
    marker = request.node.get_closest_marker("seconds")
    session_watchdog.arm(request.node.nodeid, float(marker.args[0]) if marker else TEST_SECONDS)
    yield session_watchdog
    if report := session_watchdog.disarm():
        pytest.fail(report, pytrace=False)


@pytest.fixture(scope="session")
def session_bucket(seaweedfs: Server) -> str:
    """One bucket for all: a SeaweedFS bucket is a collection of volumes, which takes its time to grow."""
    return make_bucket(seaweedfs, f"e2e-{secrets.token_hex(4)}")


@pytest.fixture
def place(seaweedfs: Server, session_bucket: str, request: pytest.FixtureRequest) -> Place:
    """A prefix nobody used before."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40]
    return Place(seaweedfs, session_bucket, f"{name}-{secrets.token_hex(3)}/")


@pytest.fixture
def mounts(place: Place, tmp_path: Path, watchdog: Watchdog, request: pytest.FixtureRequest) -> Iterator[Mounts]:
    """Mounts of the test's place; at its end they must stop with exit status 0 and a clean log."""
    made = Mounts(place, tmp_path, watchdog)
    yield made
    if request.node.stash.get(FAILED, False):
        made.kill()
    else:
        made.stop()


@pytest.fixture
def mount(mounts: Mounts) -> Mounted:
    """A running mount with default options."""
    return mounts.start()


@pytest.fixture
def proxy(seaweedfs: Server) -> Iterator[FaultProxy]:
    """A fault proxy before SeaweedFS."""
    with FaultProxy(seaweedfs.endpoint_url) as running:
        yield running


@pytest.fixture
def proxied(mounts: Mounts, proxy: FaultProxy) -> Mounted:
    """A running mount that reaches its server through the proxy."""
    return mounts.start(endpoint_url=proxy.endpoint_url)
