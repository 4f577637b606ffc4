"""How an object too large for one copy is cut."""

import itertools

import pytest

from s3mount.config import GIB, MIB, TIB
from s3mount.store.multipart import _stops


@pytest.mark.parametrize("size", [6 * MIB, 5 * GIB + 1, 600 * GIB, 4 * TIB, 5 * TIB])
@pytest.mark.parametrize("copy_max", [5 * MIB, 5 * GIB])
def test_a_copy_by_parts_has_equal_parts_and_few(size: int, copy_max: int) -> None:
    stops = _stops(size, copy_max)
    lengths = [stop - start for start, stop in itertools.pairwise([0, *stops])]
    assert stops[-1] == size
    assert len(set(lengths[:-1])) <= 1
    assert 0 < lengths[-1] <= lengths[0] <= 5 * GIB
    assert len(lengths) <= (1000 if size < 4.8 * TIB else 1025)
