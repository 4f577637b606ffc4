"""What bench/run makes of its figures: medians, ratios, verdicts, tables, a picture."""

from array import array
from collections import Counter
from pathlib import Path

import pytest

from bench.compare import chart, page, report
from bench.compare.bucket import counted
from bench.compare.distance import Place
from bench.compare.load import FULL, GIB, LOADS, MIB, TINY, block, nested_names, offsets
from bench.compare.ours import own_workloads
from bench.compare.probe import STEP_SECONDS, delays_within, moments
from bench.compare.results import Results, Standing, median, quantile
from bench.compare.stage import Figures, Span
from bench.compare.systems import System
from bench.compare.targets import TARGETS, Target, Verdict, judged
from bench.compare.workloads import workloads

HERE, AWAY = Place(), Place(20, 60_000_000)
UNITS = {"sequential": "MB/s", "ls": "s", "first-byte": "ms", "small": "/s"}


def took(seconds: float, amount: int = 1, **figures: object) -> Figures:
    return Figures(Span(10.0, 10.0 + seconds, amount), **figures)  # type: ignore[arg-type]


@pytest.fixture
def results() -> Results:
    known = workloads(FULL)
    return Results({name: known[name].unit for name in UNITS})


def note(results: Results, workload: str, system: str, *turns: Figures, place: Place = HERE) -> Standing:
    for figures in turns:
        results.note((place, workload, system), figures)
    return results.at(place)


def test_a_median_leaves_out_what_is_not_known() -> None:
    assert median([3.0, None, 1.0, 2.0]) == 2.0
    assert median([None]) is None
    assert median([]) is None


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_a_quantile_is_the_smallest_figure_that_so_many_do_not_pass(share: float, expected: float) -> None:
    assert quantile([float(number) for number in range(100, 0, -1)], share) == expected


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile([], 0.99) == 0.0


def test_the_units_are_those_of_the_workloads(results: Results) -> None:
    assert results.units == UNITS


def test_values_are_in_the_unit_of_the_workload(results: Results) -> None:
    note(results, "sequential", "s3mount", took(2.0, 10**9))
    note(results, "small", "s3mount", took(2.0, 1000))
    note(results, "ls", "s3mount", took(2.0))
    standing = note(results, "first-byte", "s3mount", took(0.002))
    values = [standing.value(name, "s3mount") for name in ("sequential", "small", "ls", "first-byte")]
    assert values == [500.0, 500.0, 2.0, pytest.approx(2.0)]


def test_the_median_of_the_turns_counts(results: Results) -> None:
    assert note(results, "ls", "s3fs", took(9.0), took(1.0), took(2.0)).value("ls", "s3fs") == 2.0


def test_a_ratio_is_above_one_where_we_are_better_whether_more_or_less_is_better(results: Results) -> None:
    note(results, "sequential", "s3mount", took(1.0, 10**9))
    note(results, "sequential", "s3fs", took(2.0, 10**9))
    note(results, "sequential", "rclone", took(4.0, 10**9))
    note(results, "ls", "s3mount", took(1.0))
    note(results, "ls", "s3fs", took(8.0))
    standing = note(results, "ls", "rclone", took(4.0))
    assert standing.ratio("sequential", "s3mount", ["s3fs", "rclone"]) == 2.0
    assert standing.ratio("ls", "s3mount", ["s3fs", "rclone"]) == 4.0
    assert standing.ratio("ls", "rclone", ["s3mount"]) == 0.25


def test_there_is_no_ratio_to_who_was_not_there(results: Results) -> None:
    standing = note(results, "ls", "s3mount", took(1.0))
    assert standing.ratio("ls", "s3mount", ["s3fs"]) is None
    assert results.at(AWAY).value("ls", "s3mount") is None


def test_costs_are_by_the_piece(results: Results) -> None:
    standing = note(
        results,
        "sequential",
        "s3mount",
        took(1.0, GIB // 2, cpu_seconds=0.4, peak_bytes=90 * MIB, requests=Counter(GET=7, HEAD=1)),
    )
    assert standing.cpu_per_gib("sequential", "s3mount") == pytest.approx(0.8)
    assert standing.peak_mib("sequential", "s3mount") == 90
    assert standing.requests("sequential", "s3mount") == 8
    assert standing.requests("sequential", "s3mount", "GET") == 7


def test_a_target_is_met_at_its_border_and_missed_beyond() -> None:
    least, most = (
        Target("least", lambda _: None, least=1.5),
        Target("most", lambda _: None, most=1.5),
    )
    assert [least.met_by(figure) for figure in (1.49, 1.5)] == [False, True]
    assert [most.met_by(figure) for figure in (1.5, 1.51)] == [True, False]
    assert [Verdict(least, figure).word for figure in (None, 1.4, 1.5)] == ["not measured", "MISSED", "pass"]


def test_every_target_demands_something_of_a_workload_that_exists() -> None:
    names = {*workloads(FULL), *own_workloads(FULL)}
    assert all((target.least is None) != (target.most is None) for target in TARGETS)
    assert {target.needs for target in TARGETS} - {""} <= names


def test_targets_are_judged_where_they_hold_and_of_what_was_asked_only(results: Results) -> None:
    del results.units["ls"]
    note(results, "small", "s3mount", took(1.0, 1000), place=AWAY)
    note(results, "small", "rclone", took(20.0, 1000), place=AWAY)
    found = judged(results, [(results.at(HERE), 0), (results.at(AWAY), 20), (results.at(Place(5)), 5)])
    assert not any("ls:" in verdict.target.title for _, verdict in found)
    away = {verdict.target.title: verdict for standing, verdict in found if standing.place == AWAY}
    assert [verdict.word for verdict in away.values()] == ["not measured", "pass"]
    assert away["small: times the better of s3fs and rclone"].figure == pytest.approx(20.0)
    assert not any(standing.place == Place(5) for standing, _ in found)


def test_what_tls_costs_is_the_difference(results: Results) -> None:
    results.units["tls"] = "MB/s"
    note(results, "sequential", "s3mount", took(1.0, GIB, cpu_seconds=0.75))
    standing = note(results, "tls", "s3mount", took(1.0, GIB, cpu_seconds=1.0))
    verdicts = {verdict.target.title: verdict for _, verdict in judged(results, [(standing, 0)])}
    tls = verdicts["tls: CPU-seconds per GiB more"]
    assert (tls.figure, tls.word) == (0.25, "MISSED")


def test_a_table_lines_up_and_its_markdown_escapes() -> None:
    table = report.Table("Speed", ["what", "a"], [["read", "1.5"], ["read | again", "10"]], "note")
    assert table.as_text() == "Speed\nwhat            a\nread          1.5\nread | again   10\nnote\n"
    assert table.as_markdown().splitlines() == [
        "### Speed",
        "",
        "| what | a |",
        "|---|---:|",
        "| read | 1.5 |",
        "| read \\| again | 10 |",
        "",
        "note",
    ]


@pytest.mark.parametrize(
    ("figure", "expected"),
    [(None, "-"), (0.0, "0"), (0.00012, "0.0001"), (0.01234, "0.0123"), (1.2345, "1.23"), (1234.5, "1,234")],
)
def test_figures_are_shown_with_three_digits(figure: float | None, expected: str) -> None:
    assert report.shown(figure) == expected


def test_losses_failures_and_hangs_are_shown(results: Results) -> None:
    note(results, "ls", "s3mount", took(4.0))
    note(results, "ls", "s3fs", took(1.0))
    results.failures[HERE, "ls", "rclone"] = "hung: not done after 20 s"
    results.failures[HERE, "ls", "goofys"] = "failed: no"
    standing = results.at(HERE)
    (row,) = report.speeds(standing, [workloads(FULL)["ls"]], ["s3mount", "s3fs", "rclone", "goofys"]).rows
    assert row[2:] == ["4", "1", "hung", "failed", "-", "0.25", "-"]
    note(results, "ls", "s3fs", took(1.0, afterwards="failed: status -6"))
    assert report.failures(standing) == [
        "rclone, ls: hung: not done after 20 s",
        "goofys, ls: failed: no",
        "s3fs, ls, when it was stopped after its turn: failed: status -6",
    ]


def test_a_histogram_counts_every_delay_once() -> None:
    text = report.histogram([0.0001] * 98 + [0.004, 0.2])
    assert "under  0.5 ms   98.00%" in text
    assert "under    5 ms    1.00%" in text
    assert "from    50 ms    1.00%" in text
    assert text.endswith("p50 0.10 ms, p99 4.00 ms, most 200.00 ms, of 100 moments")


def test_a_loop_that_was_held_up_was_late_for_each_moment_it_missed(tmp_path: Path) -> None:
    samples = array("d")
    due = moments(1.0, 1.0 + 2.5 * STEP_SECONDS, samples)
    assert due == pytest.approx(1.0 + 3 * STEP_SECONDS)
    assert list(samples[1::2]) == pytest.approx([2.5 * STEP_SECONDS, 1.5 * STEP_SECONDS, 0.5 * STEP_SECONDS])
    file = tmp_path / "delays"
    file.write_bytes(samples.tobytes())
    assert delays_within(file, 0.0, 2.0) == pytest.approx(tuple(samples[1::2]))
    assert delays_within(file, 1.0 + STEP_SECONDS / 2, 2.0) == pytest.approx(tuple(samples[3::2]))


def test_requests_are_read_from_the_servers_metrics_and_a_head_is_a_get_without_a_body() -> None:
    metrics = """\
# TYPE SeaweedFS_s3_request_total counter
SeaweedFS_s3_request_total{bucket="",code="200",type="LIST"} 1
SeaweedFS_s3_request_total{bucket="bench",code="206",type="GET"} 5
SeaweedFS_s3_request_total{bucket="bench",code="404",type="GET"} 1
SeaweedFS_s3_request_total{bucket="bench",code="200",type="LIST"} 2
SeaweedFS_s3_request_total{bucket="bench",code="200",type="PUT"} 1e+06
SeaweedFS_s3_time_to_first_byte_millisecond_bucket{bucket="bench",type="GET",le="1"} 3
SeaweedFS_s3_time_to_first_byte_millisecond_count{bucket="bench",type="GET"} 4
"""
    assert counted(metrics) == Counter(GET=4, HEAD=2, LIST=3, PUT=1_000_000)


@pytest.mark.parametrize("name", LOADS)
def test_sizes_are_whole_blocks_and_folders_hold_all_files(name: str) -> None:
    load = LOADS[name]
    sizes = (load.big_bytes, load.stream_bytes, load.again_bytes, load.cached_bytes, load.write_bytes)
    assert all(size % MIB == 0 for size in (*sizes, load.small_write_bytes, load.edited_bytes))
    assert len(nested_names(load)) == 1 + load.folders + load.listed


def test_every_system_reads_the_same_places_and_checks_the_same_bytes() -> None:
    assert offsets(50, GIB) == offsets(50, GIB)
    assert all(0 <= offset <= GIB - 4096 and offset % 4096 == 0 for offset in offsets(500, GIB))
    assert block() == block()
    assert len(block()) == MIB


def test_the_page_names_no_directory_and_shows_options_and_pictures(results: Results, tmp_path: Path) -> None:
    known = workloads(TINY)
    chosen = [known[name] for name in UNITS]
    note(results, "ls", "s3mount", took(0.1))
    note(results, "ls", "mine", took(0.2))
    note(results, "small", "boto3", took(0.2, 100))
    results.failures[HERE, "small", "mine"] = "hung: not done after 20 s"
    note(results, "ls", "s3mount", took(0.1), place=AWAY)
    ours, mine = System("s3mount", "s3mount {bucket} {mountpoint}"), System("mine", "mine --fast {bucket} {mountpoint}")
    standings = [results.at(HERE), results.at(AWAY)]
    run = page.Run(
        load=TINY,
        turns=3,
        arguments=["--systems", str(tmp_path / "mine.toml"), "--work", "/away", "--size", "tiny"],
        workloads=chosen,
        own=[],
        systems=[ours, mine],
        versions={"s3mount": "s3mount 1", "mine": "mine 2", "server": "server 3"},
        standings=standings,
        verdicts=judged(results, [(standings[0], 0)]),
    )
    page.write(run, tmp_path / "docs" / "results")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert str(tmp_path) not in text
    assert "`bench/run --systems mine.toml --size tiny`" in text
    assert "mine --fast {bucket} {mountpoint}" in text
    assert "- mine, small: hung: not done after 20 s" in text
    assert "](results.png)" in text
    assert "](results-20ms-rate.png)" in text
    for name in ("results.png", "results-20ms-rate.png"):
        assert (tmp_path / "docs" / name).read_bytes().startswith(b"\x89PNG")
    assert "hung: not done after 20 s" in page.as_text(run)


def test_a_chart_can_be_drawn_of_nothing(results: Results, tmp_path: Path) -> None:
    chart.draw(results.at(HERE), [workloads(TINY)["ls"]], ["s3mount"], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
