"""The systems that bench/run compares come from files: what is in them is understood, or refused in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare import cli
from bench.compare.systems import OURS, WORDS, ConfigurationError, System, configured, read
from bench.compare.targets import PEERS

VALUES = {word: f"<{word}>" for word in WORDS}


def test_the_shipped_systems_are_understood_and_ours_comes_first() -> None:
    systems = configured([])
    assert next(iter(systems)) == OURS
    assert set(PEERS) < set(systems)
    assert all(system.about and system.install and system.version for system in systems.values())


def test_a_command_is_filled_in_word_by_word() -> None:
    system = System("one", "one '-o url={endpoint},x' {bucket} {mountpoint}")
    assert system.words(VALUES) == ["one", "-o url=<endpoint>,x", "<bucket>", "<mountpoint>"]


def test_a_value_with_a_blank_stays_one_word() -> None:
    assert System("one", "one {bucket} {mountpoint}").words({**VALUES, "bucket": "a b"})[1] == "a b"


def test_a_system_takes_part_in_the_workloads_it_names_or_in_all() -> None:
    command = 'command = "sh {bucket} {mountpoint}"\n'
    systems = read(f'[one]\n{command}workloads = ["ls", "du"]\n[two]\n{command}', "file")
    assert [systems["one"].takes_part_in(name) for name in ("ls", "du", "small")] == [True, True, False]
    plan, _ = cli.planned(cli.parser().parse_args(["--only", "ls,small", "--system", OURS, "--turns", "2"]))
    plan = replace(plan, systems=list(systems.values()))
    assert [[system.name for system in plan.taking_part(workload)] for workload in plan.workloads] == [
        ["two", "boto3"],
        ["one", "two"],
    ]
    assert plan.steps() == 8


def test_our_own_command_names_no_interpreter_in_the_report() -> None:
    shown = configured([])[OURS].options
    assert shown.startswith("s3mount mount s3://{bucket} {mountpoint} ")
    assert "python" not in shown


def test_a_later_file_adds_systems_and_replaces_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text(
        '[mine]\ncommand = "mine {bucket} {mountpoint}"\n[s3fs]\ncommand = "other {bucket} {mountpoint}"\n'
    )
    second.write_text('[mine]\ncommand = "newer {bucket} {mountpoint}"\nends-with = 3\n')
    systems = configured([first, second])
    assert systems["mine"] == System("mine", "newer {bucket} {mountpoint}", ends_with=3)
    assert systems["s3fs"].program == "other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[one", "file"),
        ("one = 1", r"\[one\] is not a table"),
        ("[one]\nversion = 'x'", "has no command"),
        ("[one]\ncommand = 'x {bucket} {mountpoint}'\ncolour = 'red'", "unknown key colour"),
        ("[one]\ncommand = 1", "command of the wrong kind"),
        ("[one]\ncommand = 'x {bucket} {mountpoint}'\nends-with = 'no'", "ends-with of the wrong kind"),
        ("[one]\ncommand = 'x {bucket} {mountpoint}'\nworkloads = [1]", "workloads of the wrong kind"),
        ("[one]\ncommand = 'x {bucket} {mountpoint} {home}'", "unknown word: 'home'"),
        ("[one]\ncommand = 'x {bucket}'", "without {mountpoint}"),
        ("[one]\ncommand = 'x {mountpoint}'", "without {bucket}"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read(text, "file")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml: No such file"):
        configured([tmp_path / "absent.toml"])


def test_a_program_that_is_absent_is_told_with_what_installs_it(capsys: pytest.CaptureFixture[str]) -> None:
    here = System("here", "sh {bucket} {mountpoint}")
    gone = System("gone", "no-such-program {bucket} {mountpoint}", install="make it yourself")
    assert cli.available([here, gone]) == [here]
    assert capsys.readouterr().err == "gone is absent: make it yourself\n"


def test_a_version_is_the_first_line_that_the_program_says() -> None:
    assert System("one", "x", version="printf 'one 1.2\\nmore'").asked_version() == "one 1.2"
    assert System("one", "x", version="no-such-program --version").asked_version() == "unknown"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "there is no workload nothing"),
        (["--system", "nothing"], "there is no system nothing"),
        (["--rate", "60"], "see --distance"),
        (["--rate", "0", "--distance", "20"], "above zero"),
        (["--turns", "0"], "above zero"),
        (["--distance", "-5"], "above zero"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_only_names_workloads_of_all_systems_and_of_ours() -> None:
    options = cli.parser().parse_args(["--only", "ls,loop", "--only", "sequential", "--system", OURS, "--turns", "2"])
    plan, size = cli.planned(options)
    assert size == "full"
    assert [workload.name for workload in plan.workloads] == ["sequential", "ls"]
    assert [own.name for own in plan.own] == ["loop"]
    assert plan.steps() == (1 + 1 + 1 + 1) * 2  # each once, and boto3 beside the first


def test_a_rate_is_for_stores_that_are_away_only() -> None:
    options = cli.parser().parse_args(["--distance", "0", "--distance", "20", "--rate", "60", "--system", OURS])
    plan, _ = cli.planned(options)
    assert [str(place) for place in plan.places] == ["on this machine", "20 ms away, 60 MB/s a connection"]
