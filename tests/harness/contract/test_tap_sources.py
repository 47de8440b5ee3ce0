"""Operators of a tap map undo what an engine fused, sharded, added later, or laid out without padding."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.tap_map import TapSource, map_taps
from grok_conformance.harness.contract.tap_sources import Source, paged, part, ragged, shards, total

B, T, D, G, Q, H = 2, 6, 40, 3, 12, 8
TOKENS = np.ones((B, T), np.int32)
QKV = ("q h", "g h", "g h")


def tensor(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def mapped(tap: str, source: Source, axes: str, **recorded: Array) -> Array:
    return map_taps([TapSource(tap, source, axes)], UNEQUAL, TOKENS, ["*"], recorded)[tap.replace("*", "00")]


def fused() -> tuple[Array, Array, Array]:
    return tensor(B, T, Q * H), 1000 + tensor(B, T, G * H), 2000 + tensor(B, T, G * H)


def test_two_streams_are_added() -> None:
    hidden, residual = tensor(B, T, D), 7 * tensor(B, T, D)
    made = mapped("layers.*.output", total("h{layer}", "r{layer}"), "b t d", h0=hidden, r0=residual)
    np.testing.assert_array_equal(made, hidden + residual)


@pytest.mark.parametrize(("tap", "axes", "index"), [("query", "b t (q h)", 0), ("value", "b t (g h)", 2)])
def test_a_fused_projection_is_taken_apart(tap: str, axes: str, index: int) -> None:
    parts = fused()
    made = mapped(f"layers.*.attention.{tap}", part("qkv", QKV, index), axes, qkv=np.concatenate(parts, -1))
    np.testing.assert_array_equal(made, parts[index].reshape(made.shape))


def test_a_projection_fused_on_every_rank_is_taken_apart_there() -> None:
    query, key, value = fused()
    ranks = [np.concatenate([np.split(x, 3, -1)[i] for x in (query, key, value)], -1) for i in range(3)]
    source = shards(part("qkv.{rank}", QKV, 1), ranks=3)
    made = mapped("layers.*.attention.key", source, "b t (g h)", **{f"qkv.{i}": x for i, x in enumerate(ranks)})
    np.testing.assert_array_equal(made, key.reshape(B, T, G, H))


def test_parts_that_do_not_fill_the_axis_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attention\.query: an axis of 145 does not hold q h \+ g h \+ g h"):
        mapped("layers.*.attention.query", part("qkv", QKV, 0), "b t (q h)", qkv=tensor(B, T, 145))


def test_rows_without_padding_are_laid_on_the_batch() -> None:
    x = 1 + tensor(9, D)
    made = mapped("embedding", ragged("h", "cu_seqlens"), "b t d", h=x, cu_seqlens=np.array([0, 6, 9]))
    np.testing.assert_array_equal(np.concatenate([made[0], made[1, :3]]), x)
    assert not made[1, 3:].any()


@pytest.mark.parametrize("offsets", [[0, 9], [0, 7, 9], [0, 6, 8], [1, 6, 9], [0, 6, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match=r"embedding: offsets .* do not lay 9 tokens on \[b, t\] = \[2, 6\]"):
        mapped("embedding", ragged("h", "cu_seqlens"), "b t d", h=tensor(9, D), cu_seqlens=np.array(offsets))


def test_a_cache_in_pages_is_read_by_row() -> None:
    pages = tensor(5, 4, G, H)
    made = mapped("layers.*.kv.keys", paged("kv", "table"), "b s g h", kv=pages, table=np.array([[3, 0], [1, -1]]))
    np.testing.assert_array_equal(made[0], np.concatenate([pages[3], pages[0]]))
    np.testing.assert_array_equal(made[1, :4], pages[1])


OPERATORS = {
    "total": total("h", "r"),
    "part": part("r", ("d",), 0),
    "shards": shards("h{rank}", 2),
    "ragged": ragged("h", "r"),
    "paged": paged("h", "r"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_not_recorded_is_left_out(operator: str) -> None:
    row = TapSource("embedding", OPERATORS[operator], "b t d")
    assert map_taps([row], UNEQUAL, TOKENS, ["*"], {"h": tensor(B, T, D)}) == {}
