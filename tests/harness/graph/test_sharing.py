from __future__ import annotations

from grok_conformance.harness.graph.rounding import IN_GROUPS
from grok_conformance.harness.graph.sharing import evenly, in_blocks, in_groups, in_tiles, shared_as, to_the_nearest


def test_a_length_that_parts_do_not_divide_is_shared_out_in_tiles_or_evenly() -> None:
    assert [part.stop - part.start for part in in_tiles(32, 5)] == [7, 7, 7, 7, 4]
    assert [part.stop - part.start for part in evenly(32, 5)] == [7, 7, 6, 6, 6]
    assert [part.stop - part.start for part in evenly(3, 5)] == [1, 1, 1]


def test_a_length_may_be_cut_at_the_nearest_place() -> None:
    assert [part.stop - part.start for part in to_the_nearest(160, 3)] == [53, 54, 53]
    assert [part.stop - part.start for part in to_the_nearest(10, 4)] == [2, 3, 3, 2]


def test_whole_groups_of_a_scale_are_shared_out_evenly() -> None:
    assert [part.stop - part.start for part in in_groups(10)(160, 3)] == [60, 50, 50]
    assert [part.stop - part.start for part in shared_as(IN_GROUPS, 0, 10)(160, 3)] == [60, 50, 50]
    assert [part.stop - part.start for part in in_groups(0)(10, 3)] == [4, 3, 3]  # a matrix without scales


def test_whole_blocks_are_shared_out_as_tiled_kernels_do() -> None:
    assert [part.stop - part.start for part in in_blocks(32)(80, 2)] == [64, 16]
    assert [part.stop - part.start for part in in_blocks(16)(90, 3)] == [32, 32, 26]
    assert [part.stop - part.start for part in in_blocks(128)(90, 3)] == [90]
