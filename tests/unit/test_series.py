"""Whether a process is flat is told from the second and the last quarter of its samples."""

import os

from tests.load.series import MIB, Growth, Sample, Series, sample


def series(*memory_mib: float, descriptors: int = 0, threads: int = 0) -> Series:
    """Each quarter with so much memory; descriptors and threads that grow by so many in each."""
    found = Series()
    for quarter, memory in enumerate(memory_mib):
        values = int(memory * MIB), 10 + quarter * descriptors, 3 + quarter * threads
        found.samples += [Sample(float(quarter * 10 + number), *values) for number in range(10)]
    return found


def test_what_warms_up_first_and_stays_so_is_flat() -> None:
    assert series(50, 200, 201, 199).grown(Growth()) == []
    assert series(50, 100, 110, 117).grown(Growth()) == []


def test_what_goes_on_growing_is_not() -> None:
    assert series(50, 100, 130, 160).grown(Growth()) == ["memory grew from 100.0 to 160.0 MiB"]
    assert series(1, 1, 1, 1, descriptors=20).grown(Growth()) == ["descriptors grew from 30 to 70"]
    assert series(1, 1, 1, 1, threads=5).grown(Growth()) == ["threads grew from 8 to 18"]
    assert Series().grown(Growth()) == ["too few samples"]


def test_each_half_is_told_by_its_least_median_and_most() -> None:
    assert series(1, 3, 5, 7).lines()[1] == "memory, MiB: first half 1.0 2.0 3.0, second half 5.0 6.0 7.0"


def test_a_sample_is_of_the_process_asked_for() -> None:
    found = sample(os.getpid())
    assert found.memory_bytes > 10 * MIB
    assert found.descriptors >= 3
    assert found.threads >= 1
