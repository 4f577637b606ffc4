"""bench/run from its command line to its page, with little in it: it works, says who could not, and leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.mounting import ROOT
from tests.e2e.watchdog import Watchdog

BROKEN = """
[broken]
command = "false {bucket} {mountpoint}"
[dying]
command = '{python} -c "import sys; sys.exit(sys.argv[1])" {mountpoint} {bucket}'
"""
OURS = ["--size", "tiny", "--system", "s3mount"]
RUN_SECONDS, END_SECONDS = 240, 60


@pytest.fixture
def work(watchdog: Watchdog, tmp_path: Path) -> Iterator[Path]:
    """Where a run has everything of its own; nothing of it is there or mounted in the end."""
    work = tmp_path / "work"
    work.mkdir()
    yield work
    assert str(work) not in Path("/proc/self/mountinfo").read_text()
    assert list(work.iterdir()) == []
    assert [process for process in Path("/proc").glob("[0-9]*/cmdline") if str(work) in said_by(process)] == []


def said_by(process: Path) -> str:
    """The words of a process that may have ended."""
    try:
        return process.read_text()
    except OSError:
        return ""


@contextmanager
def started(*words: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """A run that is over in the end; one that does not end is told to, so that it leaves nothing to other tests."""
    process = subprocess.Popen(
        [ROOT / "bench" / "run", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=END_SECONDS)


@pytest.mark.seconds(300)
def test_a_run_measures_judges_and_writes_its_page(work: Path, tmp_path: Path) -> None:
    systems, page = tmp_path / "mine.toml", tmp_path / "docs" / "page"
    systems.write_text(BROKEN)
    only = ["--only", "small-16,rename,loop"]
    words: list[str | Path] = [
        *OURS,
        "--system",
        "broken,dying",
        "--systems",
        systems,
        *only,
        "--work",
        work,
        "--write",
        page,
    ]
    with started(*words) as process:
        out, err = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode in (0, 1), err  # figures of so little miss targets, or do not
    assert "32 files of 16 KiB read by 16" in out
    assert "GET 32, " in out
    assert "broken, rename: failed: false did not mount" in out
    assert "dying, rename: failed: " in out
    assert "place0/mount" in out  # what it said names its mountpoint, but not where that is
    assert str(work) not in out
    assert "p99" in out
    text = page.with_suffix(".md").read_text()
    assert str(tmp_path) not in text
    assert "small-16: times 16 boto3 threads" in text
    assert page.with_suffix(".png").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing(work: Path, number: signal.Signals) -> None:
    with started(*OURS, "--only", "sequential", "--turns", "50", "--work", work) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "1/100" in line:
                break
        time.sleep(0.3)  # into the next turn, wherever that is
        process.send_signal(number)
        _, err = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 130, err
    assert err.endswith("bench/run: interrupted\n")
