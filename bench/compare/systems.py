"""The file systems that are compared, as command lines: the shipped `systems.toml`, and files of the same form.

Knows how a command line is filled in and whether its program is there; starts nothing but `--version`.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).with_name("systems.toml")
OURS = "s3mount"
WORDS = ("bucket", "mountpoint", "endpoint", "region", "cache", "log", "python")
LAUNCH = "{python} -c 'import sys; from s3mount.cli import main; sys.exit(main())'"
"""How s3mount is started with the Python that runs the bench, whatever is on PATH."""
KINDS: dict[str, type] = {
    "command": str,
    "version": str,
    "install": str,
    "about": str,
    "ends-with": int,
    "workloads": list,
}
VERSION_SECONDS = 20.0


class ConfigurationError(Exception):
    """A file of systems that cannot be understood; the message says where and why."""


@dataclass(frozen=True, slots=True)
class System:
    """One that is compared; see systems.toml for what the fields mean."""

    name: str
    command: str
    version: str = ""
    install: str = ""
    about: str = ""
    ends_with: int = 0
    workloads: tuple[str, ...] = ()
    """Those it takes part in; empty: all."""

    def takes_part_in(self, workload: str) -> bool:
        return not self.workloads or workload in self.workloads

    @property
    def program(self) -> str:
        return shlex.split(self.command)[0].replace("{python}", sys.executable)

    @property
    def options(self) -> str:
        """The command line as the report shows it: places and names left as they stand in the configuration."""
        return self.command.replace(LAUNCH, OURS)

    def words(self, values: Mapping[str, str]) -> list[str]:
        """The command line with its placeholders filled in."""
        values = {"python": sys.executable, **values}
        return [word.format_map(values) for word in shlex.split(self.command)]

    @property
    def found(self) -> bool:
        return shutil.which(self.program) is not None

    def asked_version(self) -> str:
        """What the program says of itself, one line; `unknown` when it says nothing."""
        if not self.version:
            return "unknown"
        words = [word.format(python=sys.executable) for word in shlex.split(self.version)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=VERSION_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0].strip() if lines else "unknown"


def read(text: str, source: str) -> dict[str, System]:
    """The systems of one file, by name. Raises ConfigurationError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source}: {error}") from error
    return {name: _system(name, table, f"{source}: [{name}]") for name, table in tables.items()}


def _system(name: str, table: object, where: str) -> System:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where} is not a table")
    for key, value in table.items():
        if key not in KINDS:
            raise ConfigurationError(f"{where} has an unknown key {key}: known are {', '.join(KINDS)}")
        if not isinstance(value, KINDS[key]) or (
            isinstance(value, list) and not all(isinstance(w, str) for w in value)
        ):
            raise ConfigurationError(f"{where} has a {key} of the wrong kind")
    if not table.get("command"):
        raise ConfigurationError(f"{where} has no command")
    system = System(
        name,
        table["command"],
        table.get("version", ""),
        table.get("install", ""),
        table.get("about", ""),
        table.get("ends-with", 0),
        tuple(table.get("workloads", ())),
    )
    try:
        system.words(dict.fromkeys(WORDS, "x"))
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigurationError(f"{where} has a command with an unknown word: {error}") from error
    for word in ("{bucket}", "{mountpoint}"):
        if word not in system.command:
            raise ConfigurationError(f"{where} has a command without {word}")
    return system


def configured(files: Sequence[Path]) -> dict[str, System]:
    """The shipped systems and those of the files, later ones replacing earlier ones. Raises ConfigurationError."""
    systems: dict[str, System] = {}
    for file in (SHIPPED, *files):
        try:
            text = file.read_text()
        except OSError as error:
            raise ConfigurationError(f"{file}: {error.strerror}") from error
        systems |= read(text, str(file))
    return systems
