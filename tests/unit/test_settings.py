"""Words become a Config: command line over variables over file; what cannot be understood is named with its remedy."""

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3mount import settings, words
from s3mount.config import MIB, Config
from s3mount.errors import UsageError

HERE = {"source": "s3://b", "mountpoint": "/m"}

# By metavar: a choice's is its words. A first word that is not the default of any option that takes it.
WORDS: dict[str, tuple[str, object]] = {
    words.SIZE.metavar: ("80MiB", 80 * MIB),
    words.TIME.metavar: ("1.5s", 1.5),
    words.MODE.metavar: ("0640", 0o640),
    words.ID.metavar: ("1234", 1234),
    "": ("true", True),
    "on|off": ("off", False),
    words.LEVEL.metavar: ("debug", "debug"),
    words.FILE.metavar: ("/some/file", Path("/some/file")),
    words.DIR.metavar: ("/some/dir", Path("/some/dir")),
    words.NAME.metavar: ("eu-west-1", "eu-west-1"),
    words.URL.metavar: ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
    words.COUNT.metavar: ("1000", 1000),
    words.TAGS.metavar: ("a b=c&d=%2B", "a%20b=c&d=%2B"),
    words.ASKED.metavar: ("yes", "yes"),
    words.ENCRYPTION.metavar: ("aws:kms", "aws:kms"),
    words.ADDRESS.metavar: ("[::1]:9100", ("::1", 9100)),
    "text|json": ("json", "json"),
    "keep|overwrite": ("overwrite", "overwrite"),
    "close|open": ("open", "open"),
    "auto|always|never": ("always", "always"),
    "batch|sync": ("sync", "sync"),
}

# Values that are only good beside another, or not by the general word.
BESIDE: dict[str, dict[str, str]] = {
    "sse-kms-key-id": {"sse": "aws:kms"},
}


def toml(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return {"config": str(path)}


@pytest.mark.parametrize("option", [o for o in settings.options() if o is not settings.CONFIG_FILE], ids=str)
def test_every_option_reaches_its_field_from_all_three_places(option: settings.Option, tmp_path: Path) -> None:
    word, value = WORDS[option.kind.metavar]
    from_file = toml(tmp_path, f'{option.name} = "{word}"')
    here = HERE | BESIDE.get(option.name, {})
    for config in (
        settings.load({**here, option.name: word}, {}),
        settings.load(here, {option.variable: word}),
        settings.load({**here, **from_file}, {}),
    ):
        assert getattr(config, option.field) == value
        assert type(getattr(config, option.field)) is type(value)


def test_every_option_fills_an_existing_field_once() -> None:
    filled = [option.field for option in (*settings.POSITIONAL, *settings.options()) if option.field]
    assert len(filled) == len(set(filled))
    assert set(filled) <= {field.name for field in fields(Config)}


def test_an_option_says_its_default_where_config_has_none() -> None:
    hints = get_type_hints(Config)
    for option in settings.options():
        assert option.default_words not in ("", "None"), option
        assert (
            not option.default
            or option is settings.CONFIG_FILE
            or option.field in ("uid", "gid")
            or (type(None) in getattr(hints[option.field], "__args__", ()))
        ), f"{option.name} repeats what Config knows"


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'umask = "01"\nregion = "file"\nprofile = "file"\nread-only = true')
    environ = {"S3MOUNT_UMASK": "02", "S3MOUNT_REGION": "variable", "S3MOUNT_CONFIG": file["config"], "HOME": "/x"}
    config = settings.load({**HERE, "umask": "04"}, environ)
    assert (config.umask, config.region, config.profile, config.read_only) == (0o4, "variable", "file", True)
    assert settings.load(HERE, {**environ, "S3MOUNT_READ_ONLY": "false"}).read_only is False


def test_an_empty_variable_is_not_set() -> None:
    assert settings.load(HERE, {"S3MOUNT_REGION": ""}).region is None


def test_the_file_may_name_source_and_mountpoint(tmp_path: Path) -> None:
    config = settings.load(toml(tmp_path, 'source = "s3://b/p"\nmountpoint = "/m"\nuid = 7\nmetadata-ttl = 2.5'), {})
    assert (config.bucket, config.prefix, config.mountpoint) == ("b", "p/", Path("/m"))
    assert (config.uid, config.metadata_ttl_seconds) == (7, 2.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('part_size = "8MiB"', "part_size in .*no such option; did you mean part-size"),
        ("zzz = 1", "zzz in .*no such option$"),
        ("[mount]\nuid = 1", "mount in .*no such option"),
        ("file-mode = 420", 'file-mode in .*as a string: file-mode = "..."'),
        ("uid = true", "uid in .*as a string"),
        ('part-size = "8 MB"', "part-size in .*'8 MB': a size is written 8MiB"),
        ("uid = ", "not TOML"),
        ('config = "other.toml"', "config in .*no such option"),
    ],
)
def test_a_bad_file_is_named_with_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings.load({**HERE, **toml(tmp_path, text)}, {})


def test_a_file_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--config .*No such file"):
        settings.load({**HERE, "config": str(tmp_path / "none")}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"--config .*not TOML"):
        settings.load({**HERE, "config": str(tmp_path / "binary")}, {})


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"S3MOUNT_PARTSIZE": "8MiB"}, "S3MOUNT_PARTSIZE: no such variable; did you mean S3MOUNT_PART_SIZE"),
        ({"S3MOUNT_METADATA_TTL": "soon"}, "S3MOUNT_METADATA_TTL 'soon': a time is written 5s"),
        ({"S3MOUNT_READ_ONLY": "maybe"}, "S3MOUNT_READ_ONLY 'maybe': true or false"),
    ],
)
def test_a_bad_variable_is_named(environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings.load(HERE, environ)


@pytest.mark.parametrize(
    ("given_words", "said"),
    [
        ({}, "say what to mount"),
        ({"source": "s3://b"}, "say where"),
        ({**HERE, "source": "b"}, "SOURCE 'b': write the bucket as s3://"),
        ({**HERE, "source": "gs://b"}, "write the bucket as s3://"),
        ({**HERE, "source": "s3://"}, "not a bucket's name"),
        ({**HERE, "source": "s3:///x"}, "not a bucket's name"),
        ({**HERE, "source": "s3://arn:aws:s3"}, "not a bucket's name"),
        ({**HERE, "source": "s3://b--use1-az4--x-s3"}, "Express"),
        ({**HERE, "source": "s3://b//x"}, "no empty one"),
        ({**HERE, "source": "s3://b/x//"}, "no empty one"),
        ({**HERE, "source": "s3://b/x/../y"}, "no '..'"),
        ({**HERE, "source": "s3://b/.s3mount/x"}, "reserved"),
        ({**HERE, "source": "s3://b/" + "x" * 1023}, "no room"),
        ({**HERE, "source": "s3://b/\udcff"}, "UTF-8"),
        ({**HERE, "endpoint-url": "127.0.0.1:9000"}, "--endpoint-url .*such as http://"),
        ({**HERE, "endpoint-url": "http://key:secret@host"}, "--endpoint-url .*no credentials"),
        ({**HERE, "file-mode": "rw-r--r--"}, "--file-mode .*octal"),
        ({**HERE, "uid": "root"}, "--uid .*number"),
        ({**HERE, "uid": str(2**32 - 1)}, "--uid .*number"),
        ({**HERE, "log-format": "xml"}, "--log-format .*one of text, json"),
        *(
            ({**HERE, "metrics-address": word}, "--metrics-address .*written 127.0.0.1:9100")
            for word in (
                "9100",
                ":9100",
                "host",
                "host:",
                "host:http",
                "host:65536",
                "::1:9100",
                "unix:/run/x",
                "a b:1",
            )
        ),
        ({**HERE, "log-level": "loud"}, "--log-level .*one of error, warning, info, debug"),
        ({**HERE, "region": ""}, "--region '': a name"),
        ({**HERE, "cache-dir": ""}, "--cache-dir '': a path"),
    ],
)
def test_a_bad_word_is_named_with_its_remedy(given_words: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings.load(given_words, {})


def test_credentials_in_an_address_are_not_repeated() -> None:
    with pytest.raises(UsageError) as raised:
        settings.load({**HERE, "endpoint-url": "http://key:secret@host"}, {})
    assert "secret" not in str(raised.value)


@given(st.text(max_size=30))
def test_no_word_raises_anything_but_valueerror(word: str) -> None:
    for option in (*settings.POSITIONAL, *settings.options()):
        try:
            option.kind.read(word)
        except ValueError:
            continue


def test_paths_are_absolute_and_know_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    config = settings.load({"source": "s3://b", "mountpoint": "m", "cache-dir": "~/c"}, {})
    assert (config.mountpoint, config.cache_dir) == (tmp_path / "m", Path("/home/x/c"))
