"""The scripts are well-formed, and what they share is decided by what is missing only."""

import configparser
import os
import subprocess
from pathlib import Path

import pytest

from scripts import demo

ROOT = Path(__file__).parents[2]
SCRIPTS = ("scripts/lib.sh", "scripts/demo", "scripts/test", "scripts/soak", ".ci/run")


def bash(code: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", f". {ROOT}/scripts/lib.sh; {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_parses(name: str) -> None:
    done = subprocess.run(["bash", "-n", ROOT / name], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.endswith(".sh")])
def test_a_command_is_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


def test_python_is_the_first_that_is_new_enough(tmp_path: Path) -> None:
    for folder, body in (("old", "exit 1"), ("broken", "exit 127"), ("good", 'case "$2" in *print*) echo GOOD;; esac')):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / "python3"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    path = ":".join(str(tmp_path / folder) for folder in ("old", "broken", "good"))
    path = f"{path}:{os.environ['PATH']}"
    done = bash(f"distribution_python={tmp_path}/broken/python3; find_python", PATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "GOOD\n", "")
    done = bash(f"distribution_python={tmp_path}/good/python3; find_python", PATH=os.environ["PATH"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "GOOD\n", "")


def test_nothing_missing_installs_nothing() -> None:
    done = bash("as_root() { echo asked for $*; }; install_packages; prepare_programs sh:sh coreutils:ls")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_missing_is_asked_of_apt_by_name() -> None:
    done = bash(
        "apt-get() { :; }; as_root() { echo $* >&2; };"
        "prepare_programs sh:sh some-package:no-such-program other:none-such"
    )
    assert done.returncode == 0
    assert "installing some-package other\n" in done.stderr
    assert "--no-install-recommends some-package other" in " ".join(done.stderr.split())


def test_demo_refuses_other_words() -> None:
    done = subprocess.run([ROOT / "scripts/demo", "--sotp"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "demo: usage: scripts/demo [--stop]\n")


def test_the_service_passes_only_options_that_exist() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "systemd/s3mount@.service")
    from s3mount.cli import parse

    program, *argv = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "s3mount"
    verb, given = parse(argv)
    assert (verb, given["foreground"], given["config"]) == ("mount", "true", "/etc/s3mount/%i.toml")


def test_a_process_is_ours_only_with_its_start_time() -> None:
    started = demo.started_at(os.getpid())
    assert started is not None
    assert demo.Running(os.getpid(), started, "", "", ()).alive
    assert not demo.Running(os.getpid(), started + 1, "", "", ()).alive


def test_a_process_that_ended_is_gone() -> None:
    process = subprocess.Popen(["true"])
    assert demo.wait_until_gone([process.pid], 10.0)  # a zombie counts as gone
    process.wait()
    assert demo.started_at(process.pid) is None


def test_the_demonstration_knows_no_server_before_it_ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "SERVER", tmp_path / "server.json")
    monkeypatch.setattr(demo, "MOUNTPOINT", tmp_path / "uploads")
    assert demo.load() is None
    assert demo.daemons() == []
    assert not demo.mounted()
