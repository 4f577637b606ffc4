"""README says what the code says: every option with its default, every dependency, every errno."""

import configparser
import errno
import re
from pathlib import Path

import pytest

from s3mount import errors, settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def rows(section: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    body = re.split(r"^#+ ", README.split(f"# {section}\n", 1)[1], flags=re.MULTILINE)[0]
    table = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in table[2:]]


def test_the_option_table_is_the_table_of_options() -> None:
    documented = [(row[0].strip("`"), row[1].strip("`")) for row in rows("Options")]
    assert documented == [(option.usage, option.default_words) for option in settings.options()]


def test_every_dependency_has_a_reason() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = set()
    for text in (setup["options"]["install_requires"], *setup["options.extras_require"].values()):
        declared |= {found[0] for line in text.split("\n") if (found := re.match(r"[A-Za-z0-9-]+", line))}
    documented = {name for row in rows("Dependencies") for name in re.findall(r"`([^`]+)`", row[0])}
    assert documented == declared
    assert all(row[-1] for row in rows("Dependencies"))


def test_the_errno_table_knows_what_the_exceptions_answer() -> None:
    documented = {name for row in rows("Errors") for name in re.findall(r"`(E[A-Z0-9]+)`", row[0])}
    answered = set()
    waiting: list[type[errors.S3MountError]] = [errors.StoreError, errors.FileSystemError]
    while waiting:
        kind = waiting.pop()
        answered.add(errno.errorcode[kind.errno])
        waiting += kind.__subclasses__()
    answered = {"ENOTSUP" if name == "EOPNOTSUPP" else name for name in answered}
    assert answered <= documented


def anchors(text: str) -> list[str]:
    """What its headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors(README)
        elif not re.match(r"https?://", target):
            path, _, anchor = target.partition("#")
            assert (ROOT / path).exists()
            assert not anchor or anchor in anchors((ROOT / path).read_text())


@pytest.mark.parametrize("command", re.findall(r"^ *s3mount mount (s3://[a-z].*)$", README, re.MULTILINE))
def test_every_command_shown_is_understood(command: str) -> None:
    from s3mount.cli import parse

    _, given = parse(["mount", *command.split("#")[0].split()])
    assert settings.load(given, {}).bucket
