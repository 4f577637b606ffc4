"""The command `s3mount` as a person types it, and what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.mounting import ROOT

ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
"""As in a bare container: no XDG directories, no credentials, no settings."""


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.e2e.entry", *map(str, words)]


def s3mount(*words: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    return subprocess.run(command(*words), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def begun(*words: str | Path, output: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """Start it, with pipes, or with both its outputs to a descriptor."""
    return subprocess.Popen(command(*words), cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output, text=True)


def told(*words: str | Path, cwd: Path = ROOT) -> str:
    """What the command prints when all is well."""
    done = s3mount(*words, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(*words: str | Path) -> str:
    """The one line of a command that fails."""
    done = s3mount(*words)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("s3mount: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def asked(*words: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(*words, "--json"))
    return found
