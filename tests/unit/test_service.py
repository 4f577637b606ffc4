"""The unit file says what systemd understands and what a FUSE mount needs; systemd itself agrees where it is there."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

from s3mount.config import Config
from s3mount.notify import BEATS_MISSED, STOP_MARGIN_SECONDS

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd/s3mount@.service"
KNOWN = {
    "Unit": {"Description", "Wants", "After", "StartLimitIntervalSec"},
    "Service": {
        *("Type", "EnvironmentFile", "ExecStart", "TimeoutStartSec", "TimeoutStopSec", "KillMode", "WatchdogSec"),
        *("Restart", "RestartSec", "RestartPreventExitStatus", "OOMScoreAdjust", "LimitCORE", "LimitNOFILE"),
        *("NoNewPrivileges", "CapabilityBoundingSet", "DevicePolicy", "DeviceAllow", "SystemCallFilter"),
        *("SystemCallErrorNumber", "SystemCallArchitectures", "RestrictAddressFamilies", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "KeyringMode", "UMask"),
    },
    "Install": {"WantedBy"},
}
"""Directives of systemd 245 and later (systemd.directives(7)) that a mount may have."""
HIDING = re.compile(
    r"^(Private(?!Network|Users)\w*|Protect(?!Clock|Hostname)\w*|(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)Paths|"
    r"Bind\w*|TemporaryFileSystem|Root(Directory|Image)\w*|MountFlags|MountAPIVFS|ProcSubset|DynamicUser|LogNamespace|"
    r"(State|Cache|Runtime|Logs|Configuration)Directory|MountImages|ExtensionImages|Load\w*Credential\w*)$"
)
"""What gives a service a mount namespace: nobody outside would see what it mounts."""


def service() -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser()  # strict: nothing is said twice
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit


def seconds(word: str) -> float:
    return float(word.removesuffix("min")) * 60 if word.endswith("min") else float(word)


def test_the_unit_has_directives_that_exist() -> None:
    unit = service()
    assert {section: set(unit[section]) for section in unit.sections()} == KNOWN


def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    """Where it is installed; a program that is there stands for s3mount. Elsewhere the unit is at least one that other
    programs can read: every line is a comment, a section, or a directive with a value."""
    lines = UNIT.read_text().splitlines()
    assert all(re.fullmatch(r"|#.*|\[\w+\]|[A-Z]\w+=\S.*", line) for line in lines)
    text = UNIT.read_text().replace("ExecStart=s3mount ", f"ExecStart={sys.executable} ")
    (tmp_path / UNIT.name).write_text(text)
    if shutil.which("systemd-analyze"):
        said = verified(tmp_path / "s3mount@photos.service")
        assert not [line for line in said.splitlines() if "s3mount" in line]
        (tmp_path / UNIT.name).write_text(text.replace("WatchdogSec=", "WatchdgSec="))
        assert "WatchdgSec" in verified(tmp_path / "s3mount@photos.service")


def verified(unit: Path) -> str:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_nothing_hides_the_mount_from_the_machine() -> None:
    assert HIDING.match("PrivateTmp")
    assert HIDING.match("ProtectSystem")
    assert not [name for name in service()["Service"] if HIDING.match(name)]


def test_a_start_is_told_by_the_daemon_and_words_that_are_wrong_are_not_tried_again() -> None:
    unit = service()["Service"]
    assert (unit["Type"], unit["Restart"], unit["RestartPreventExitStatus"]) == ("notify", "on-failure", "2")
    assert not [name for name in unit if name.startswith("ExecStop")], "a crash leaves the mountpoint dead, not empty"


def test_systemd_waits_longer_than_the_daemon() -> None:
    unit = service()["Service"]
    config = Config(bucket="b")
    assert seconds(unit["TimeoutStopSec"]) >= config.stop_timeout_seconds + STOP_MARGIN_SECONDS
    assert seconds(unit["TimeoutStartSec"]) >= 4 * config.metadata_deadline_seconds
    assert seconds(unit["WatchdogSec"]) / 2 > BEATS_MISSED


def test_the_daemon_keeps_the_rights_that_it_uses() -> None:
    unit = service()["Service"]
    assert set(unit["CapabilityBoundingSet"].split()) == {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_RESOURCE"}
    assert (unit["DevicePolicy"], unit["DeviceAllow"]) == ("closed", "/dev/fuse rw")
    assert "@mount" in unit["SystemCallFilter"].split()
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(unit["RestrictAddressFamilies"].split())
