"""What mount(8) says becomes words of ours, flags for the kernel, or one line that names what is wrong."""

import sys
import types
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3mount
from s3mount import cli, fstab, settings, words
from s3mount.config import Config
from s3mount.errors import StartError, UsageError
from s3mount.fuse import mount_options

HERE = ("s3://b/p", "/m")
OURS = {"source": "s3://b/p", "mountpoint": "/m"}


def options(text: str, *switches: str) -> fstab.Request:
    return fstab.parse([*HERE, *switches, "-o", text])


def test_what_mount_says_of_a_line_in_fstab_is_a_mount_of_ours() -> None:
    """As libmount hands them over: `rw` is always there."""
    request = options("rw,allow_other,uid=1000,_netdev,x-systemd.requires=network-online.target,nofail,noauto")
    assert request == fstab.Request({**OURS, "allow-other": "true", "uid": "1000"})
    config = settings.load(request.given, {})
    assert (config.bucket, config.prefix, config.allow_other, config.uid) == ("b", "p/", True, 1000)


@pytest.mark.parametrize("option", [o for o in settings.options() if o.name != "foreground"], ids=str)
def test_every_option_of_ours_is_one_of_fstab_with_dashes_or_underscores(option: settings.Option) -> None:
    value = "" if option.kind is words.FLAG else "=word"
    expected = {**OURS, option.name: "true" if option.kind is words.FLAG else "word"}
    for name in (option.name, option.name.replace("-", "_")):
        assert options(name + value).given == expected


def test_no_option_of_ours_has_a_name_of_mount() -> None:
    theirs = {*fstab.OTHERS, *fstab.ALWAYS, *fstab.NOTED, *fstab.OPPOSITES, *fstab.OPPOSITES.values(), "ro", "remount"}
    assert not theirs & {option.name for option in settings.options()}


@pytest.mark.parametrize(
    ("text", "read_only"), [("ro", True), ("rw", False), ("ro,rw", False), ("rw,ro", True), ("read_only", True)]
)
def test_the_last_word_on_writing_counts(text: str, read_only: bool) -> None:
    assert settings.load(options(text).given, {}).read_only is read_only


def test_that_mount_says_rw_by_itself_does_not_undo_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "photos.toml"
    file.write_text("read-only = true\nregion = 'eu-west-1'\n")
    config = settings.load(options(f"rw,config={file}").given, {})
    assert (config.read_only, config.region) == (True, "eu-west-1")


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("noexec", ("noexec",)),
        ("noexec,nosuid,nodev,noatime", ("noexec", "noatime")),
        ("noexec,exec", ()),
        ("exec,noexec,sync,dirsync,nodiratime", ("noexec", "sync", "dirsync", "nodiratime")),
        ("sync,async,noatime,atime", ()),
        ("user=alice,noexec,nosuid,nodev", ("noexec",)),
        ("defaults,relatime,users,owner,group,auto,comment=x,X-mount.mkdir", ()),
    ],
)
def test_the_kernel_is_told_what_is_its_own(text: str, flags: tuple[str, ...]) -> None:
    request = options(text)
    assert (request.flags, request.given, request.notes) == (flags, OURS, ())
    told = mount_options(source="s3://b", allow_other=False, read_only=False, flags=request.flags)
    assert {"nosuid", "nodev", *flags} <= told


@pytest.mark.parametrize("text", ["suid", "dev"])
def test_what_cannot_be_kept_is_said_aloud(text: str) -> None:
    request = options(text)
    assert (request.given, request.flags) == (OURS, ())
    (note,) = request.notes
    assert note.startswith(f"option {text} is not kept")


def test_a_value_with_a_comma_stands_in_double_quotes() -> None:
    request = options('region="eu,west",storage_class=STANDARD,sse_kms_key_id="a=b"')
    assert request.given == {**OURS, "region": "eu,west", "storage-class": "STANDARD", "sse-kms-key-id": "a=b"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["s3://b"], "say what to mount and where"),
        ([*HERE, "/n"], "say what to mount and where"),
        ([*HERE, "-x"], "option -x not recognized; see mount.s3mount --help"),
        ([*HERE, "-o", "alow_other"], "-o alow_other: no such option; did you mean allow_other?"),
        ([*HERE, "-o", "part-siez=8MiB"], "-o part-siez: no such option; did you mean part-size?"),
        ([*HERE, "-o", "_netdve"], "-o _netdve: no such option; did you mean _netdev?"),
        ([*HERE, "-o", "passwd_file=/etc/passwd-s3fs"], "-o passwd_file: no such option$"),
        ([*HERE, "-o", "uid"], "-o uid: it needs a value, uid=ID"),
        ([*HERE, "-o", "remount,ro"], "unmount it and mount it again"),
        ([*HERE, "-o", "foreground"], "mount.8. would wait for ever"),
        ([*HERE, "-o", 'tags="a=b'], "a double quote is not closed"),
    ],
)
def test_what_cannot_be_understood_is_named(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fstab.parse(argv)


def test_who_is_sloppy_passes_over_what_is_unknown() -> None:
    assert options("passwd_file=/x,uid=7", "-s").given == {**OURS, "uid": "7"}


def test_the_switches_of_mount_are_known() -> None:
    request = fstab.parse([*HERE, "-n", "-f", "-v", "-t", "fuse.s3mount", "-o", "ro", "-o", "uid=7"])
    assert request == fstab.Request({**OURS, "read-only": "true", "uid": "7"}, fake=True, verbose=True)


@given(st.lists(st.sampled_from(sorted(fstab.OTHERS | {"x-a=b", "nosuid", "noexec", "exec", "ro", "uid=1", '"'}))))
def test_whatever_options_come_together_they_are_words_or_a_usage_error(chosen: list[str]) -> None:
    try:
        request = options(",".join(chosen))
    except UsageError:
        assert '"' in chosen
    else:
        settings.load(request.given, {})


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What the daemon was asked to mount; a bucket named `broken` cannot be."""
    for option in (*settings.POSITIONAL, *settings.options()):
        monkeypatch.delenv(option.variable, raising=False)
    configs: list[Config] = []

    def mount(config: Config) -> int:
        configs.append(config)
        if config.bucket == "broken":
            raise StartError("the bucket is broken")
        return 0

    daemon = types.ModuleType("s3mount.daemon")
    daemon.mount = mount  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "s3mount.daemon", daemon)
    monkeypatch.setattr(s3mount, "daemon", daemon, raising=False)
    return configs


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        ([*HERE, "-o", "rw,noexec"], 0, ""),
        ([*HERE, "-o", "suid"], 0, "mount.s3mount: option suid is not kept"),
        (["s3://broken", "/m"], 32, "mount.s3mount: the bucket is broken\n"),
        (["b", "/m"], 1, "mount.s3mount: SOURCE 'b': write the bucket as s3://"),
        ([*HERE, "-o", "uid=root"], 1, "mount.s3mount: --uid 'root': an owner is given as a number"),
        ([*HERE, "-o", "nope"], 1, "mount.s3mount: -o nope: no such option"),
    ],
)
def test_the_exit_status_is_one_of_mounts_with_a_line_on_standard_error(
    argv: list[str], status: int, said: str, mounted: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.mount_main(argv) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == bool(said)
    assert len(mounted) == (status != 1)
    if status == 0:
        assert (mounted[0].bucket, mounted[0].foreground) == ("b", False)


def test_a_pretended_mount_checks_the_words_and_mounts_nothing(
    mounted: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.mount_main([*HERE, "-f", "-v"]) == 0
    assert mounted == []
    assert capsys.readouterr().out == "mount.s3mount: s3://b/p mounted on /m\n"
    assert cli.mount_main([*HERE, "-f", "-o", "part-size=1MiB"]) == 1


def test_a_file_that_wants_the_foreground_is_refused(tmp_path: Path, mounted: list[Config]) -> None:
    file = tmp_path / "photos.toml"
    file.write_text("foreground = true\n")
    assert cli.mount_main([*HERE, "-o", f"config={file}"]) == 1
    assert mounted == []


def test_help_is_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.mount_main(["--help"]) == 0
    assert capsys.readouterr().out == fstab.USAGE
    assert all(len(line) <= 80 for line in fstab.USAGE.splitlines())


def test_whoever_interrupts_a_mount_gets_a_line_and_the_status_for_that(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_argv: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(fstab, "parse", interrupted)
    assert cli.mount_main(["s3://b", "/m"]) == 8
    assert capsys.readouterr().err == "mount.s3mount: interrupted\n"
