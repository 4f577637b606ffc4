"""argv in, exit status out: 0, 2 for words, 1 for the rest; one line on stderr; the daemon gets what was said."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

import s3mount
from s3mount import cli, settings
from s3mount.config import Config
from s3mount.errors import StartError


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in (*settings.POSITIONAL, *settings.options()):
        monkeypatch.delenv(option.variable, raising=False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Config | Path]:
    """What the daemon was called with; a bucket named `broken` cannot be mounted."""
    called: list[Config | Path] = []

    def mount(config: Config) -> int:
        called.append(config)
        if config.bucket == "broken":
            raise StartError("the bucket is broken:\nchoose another")
        return 0

    def umount(mountpoint: Path) -> int:
        called.append(mountpoint)
        return 0

    daemon = types.ModuleType("s3mount.daemon")
    daemon.mount = mount  # type: ignore[attr-defined]
    daemon.umount = umount  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "s3mount.daemon", daemon)
    monkeypatch.setattr(s3mount, "daemon", daemon, raising=False)
    return called


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("s3mount: ")
    assert err.count("\n") == 1
    return err


def test_mount_hands_the_daemon_a_config(calls: list[Config | Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert cli.main(["mount", "--read-only", "s3://b/p", str(tmp_path / "link"), "--part-size", "8MiB"]) == 0
    (config,) = calls
    assert isinstance(config, Config)
    assert (config.bucket, config.prefix, config.read_only, config.part_size_bytes) == ("b", "p/", True, 8 << 20)
    assert config.mountpoint == tmp_path.resolve() / "m"


def test_options_may_stand_anywhere(calls: list[Config | Path]) -> None:
    for argv in (["s3://b", "--read-only", "/m"], ["s3://b", "/m", "--read-only"], ["--read-only", "s3://b", "/m"]):
        assert cli.main(["mount", *argv]) == 0
    assert {
        (config.bucket, str(config.mountpoint), config.read_only) for config in calls if isinstance(config, Config)
    } == {("b", "/m", True)}


def test_umount_hands_the_daemon_a_path(
    calls: list[Config | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["umount", "m"]) == 0
    assert calls == [tmp_path / "m"]


def test_a_mount_that_cannot_start_is_status_1_and_one_line(
    calls: list[Config | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["mount", "s3://broken", "/m"]) == 1
    assert said(capsys) == "s3mount: the bucket is broken: choose another\n"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "VERB"),
        (["moutn"], "moutn"),
        (["--", "mount"], "verb comes first"),
        (["mount"], "s3://BUCKET"),
        (["mount", "s3://b"], "MOUNTPOINT"),
        (["mount", "s3://b", "/m", "/n"], "/n"),
        (["mount", "s3://b", "/m", "--region"], "--region"),
        (["mount", "s3://b", "/m", "--part-size", "8MB"], "--part-size '8MB': a size is written 8MiB"),
        (["mount", "s3://b", "/m", "--part-size", "1MiB"], "--part-size must be from 5MiB"),
        (["mount", "s3://b", "/m", "--metadata-ttl", "soon"], "--metadata-ttl 'soon': a time"),
        (["mount", "s3://b", "/m", "--part", "8MiB"], "--part"),
        (["mount", "s3://b", "/m", "--config", "/none.toml"], "--config '/none.toml': No such file"),
        (["umount"], "mountpoint"),
        (["umount", ""], "MOUNTPOINT"),
        (["stat"], "path"),
        (["status", "--yaml", "/m"], "--yaml"),
        (["log-level", "/m", "loud"], "LEVEL 'loud': one of error, warning, info, debug"),
        (["url", "--expires", "8d", "/m/f"], "--expires '8d': from 1s to 7d"),
        (["url", "--expires", "0", "/m/f"], "--expires '0': from 1s to 7d"),
        (["url", "--expires", "soon", "/m/f"], "--expires 'soon': a time"),
    ],
)
def test_usage_is_status_2_and_one_line(
    argv: list[str], named: str, calls: list[Config | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert named in said(capsys)
    assert calls == []


@pytest.mark.parametrize("verb", ["stat", "url", "refresh", "status", "log-level"])
def test_a_path_that_is_in_no_mount_is_status_1_and_one_line(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([verb, str(tmp_path / "file")]) == 1
    assert "is not below a mount of s3mount" in said(capsys)


def test_every_verb_is_in_the_overview_and_has_options_that_its_help_names() -> None:
    for name, verb in cli.VERBS.items():
        assert f"s3mount {name} " in cli.ABOUT
        assert verb.help.startswith(f"usage: s3mount {name} ")
        assert all(f"[--{option}" in verb.help.partition("\n")[0] for option in verb.options)


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "s3mount.daemon", None)
    monkeypatch.delattr(s3mount, "daemon", raising=False)
    assert cli.main(["mount", "s3://b", "/m"]) == 1
    assert "install fuse3" in said(capsys)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["mount", "--help"],
        ["umount", "-h"],
        *(["mount", f"--help-{topic.name}"] for topic in settings.TOPICS),
        *([verb, "--help"] for verb in cli.VERBS),
    ],
)
def test_help_fits_a_screen(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("flag", "rows"), [("--help", settings.ROWS), *((f"--help-{t.name}", t.rows) for t in settings.TOPICS)]
)
def test_help_names_every_option_with_its_default(
    flag: str, rows: tuple[settings.Row, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["mount", flag])
    screen = capsys.readouterr().out
    for row in rows:
        (line,) = (line for line in screen.splitlines() if line.startswith(f" {row.usage} "))
        for option in row.options:
            assert option.field in ("uid", "gid") or option.default_words in line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"s3mount {s3mount.__version__}\n"


def test_help_needs_no_library() -> None:
    """No library is imported for it: help works where libfuse is missing."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['pyfuse3', 'trio', 'boto3', 'pycurl', 'cachetools']));"
        "from s3mount.cli import main; main(['mount', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--endpoint-url" in done.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sync"], "mountpoint"),
        (["sync", "--timeout", "soon", "/m"], "--timeout 'soon': a time"),
        (["failed"], "action"),
        (["failed", "forget", "/m"], "forget"),
        (["failed", "list"], "mountpoint"),
        (["failed", "drop", "/m"], "name a PATH, or --all"),
        (["failed", "drop", "--all", "/m", "f"], "instead of a PATH"),
        (["failed", "retry", "--all", "/m"], "--all is for failed drop"),
        (["failed", "export", "/m"], "failed export needs --to DIR"),
        (["failed", "list", "--to", "d", "/m"], "failed export needs --to DIR"),
        (["failed", "export", "--json", "--to", "d", "/m"], "failed export gives no JSON"),
        (["journal", "drop", "/m"], "drop"),
        (["journal", "export", "/m"], "journal export needs --to DIR"),
        (["journal", "list", "--to", "d", "/m"], "journal export needs --to DIR"),
        (["journal", "export", "--json", "--to", "d", "/m"], "journal export gives no JSON"),
        (["healthcheck", "--timeout", "0", "/m"], "more than 0 and up to 60s"),
        (["healthcheck", "--timeout", "2m", "/m"], "more than 0 and up to 60s"),
        (["abort", "--now", "/m"], "--now"),
    ],
)
def test_words_that_verbs_cannot_understand_are_status_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert named in said(capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["sync"],
        ["failed", "list"],
        ["failed", "retry"],
        ["failed", "drop", "--all"],
        ["failed", "export", "--to", "out"],
        ["abort", "--force"],
        ["healthcheck", "--ready"],
    ],
)
def test_verbs_of_what_is_no_mount_are_status_1_and_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, str(tmp_path)]) == 1
    assert "is not below a mount of s3mount" in said(capsys)
    assert list(tmp_path.iterdir()) == []


def test_options_of_a_verb_may_stand_among_its_paths() -> None:
    verb, given = cli.parse(["failed", "drop", "/m", "a", "--json", "b"])
    assert (verb, given) == ("failed", {"action": "drop", "mountpoint": "/m", "paths": ["a", "b"], "json": "true"})
