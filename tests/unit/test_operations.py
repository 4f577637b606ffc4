"""docs/operations.md and its examples say what there is: options, verbs, variables, metrics and links in them exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from s3mount import cli, settings

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").iterdir())
TEXT = (ROOT / "docs/operations.md").read_text()
ALL = TEXT + "".join(path.read_text() for path in EXAMPLES) + (ROOT / "Dockerfile").read_text()
OTHERS_OPTIONS = {
    *("--build-arg", "--cap-add", "--cap-drop", "--device", "--health-cmd", "--init", "--memory", "--privileged"),
    *("--security-opt", "--user", "--bind", "--make-rshared", "--now", "--recursive", "--bucket"),
    *("--lifecycle-configuration", "--from-literal", "--containers"),
}
"""Of docker, mount, systemctl, aws, kubectl and scripts/test."""
DOCKERFILE_OPTIONS = set(re.findall(r"--[a-z-]+", (ROOT / "Dockerfile").read_text()))
SHOWN = re.findall(r"^    (s3mount .*?)(?: +#.*)?$", TEXT, re.MULTILINE)
MENTIONED = re.findall(r"`(s3mount [a-z][^`]*)`", TEXT)


def headings() -> list[str]:
    return [heading for _, heading in re.findall(r"^(#+) (.*)$", TEXT, re.MULTILINE)]


def test_every_option_exists() -> None:
    ours = {option.flag for option in settings.options()}
    ours |= {f"--{name}" for verb in cli.VERBS.values() for name in verb.options} | {"--version"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", TEXT))
    assert named - OTHERS_OPTIONS - DOCKERFILE_OPTIONS - ours == set()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", ALL)) >= OTHERS_OPTIONS


def test_every_variable_exists() -> None:
    known = {option.variable for option in (*settings.POSITIONAL, *settings.options())}
    assert set(re.findall(r"\bS3MOUNT_[A-Z_]*[A-Z]\b", ALL)) - known == set()


@pytest.mark.parametrize("command", [*SHOWN, *MENTIONED])
def test_every_command_is_understood(command: str) -> None:
    if command == "s3mount --version":
        return
    _, *words = shlex.split(command)
    if len(words) == 1:
        assert words[0] in cli.VERBS  # mentioned, not shown
    else:
        assert cli.parse(words)[0] == words[0]


def test_every_metric_exists() -> None:
    """Prometheus' client adds _total to the names of counters."""
    source = "".join(path.read_text() for path in sorted((ROOT / "s3mount/metrics").glob("*.py")))
    named = set(re.findall(r"\bs3mount_[a-z_]+", ALL))
    assert named
    assert {name for name in named if f'"{name.removesuffix("_total")}"' not in source} - {"s3mount_dirty"} == set()


def test_links_lead_somewhere() -> None:
    anchors = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings()]
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not re.match(r"https?://", target):
            assert (ROOT / "docs" / target.partition("#")[0]).exists(), target


def test_every_example_is_explained() -> None:
    for path in EXAMPLES:
        assert f"](examples/{path.name})" in TEXT


def test_every_json_block_is_json() -> None:
    blocks = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        assert {"Statement", "Rules"} & json.loads(block).keys()


def test_every_service_names_the_mountpoint_that_is_checked() -> None:
    """The image asks after $S3MOUNT_MOUNTPOINT, so each example sets it below what it shares."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'CMD s3mount healthcheck "$S3MOUNT_MOUNTPOINT"' in dockerfile
    for name in ("compose.yaml", "kubernetes.yaml"):
        text = (ROOT / "docs/examples" / name).read_text()
        assert "/srv/s3/uploads" in text
        assert "/data/uploads" in text
