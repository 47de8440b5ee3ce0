from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.drawn import Kind, drawn_as, drawn_id, redraw, reweight, stored_id
from grok_conformance.harness.checks.loaded_weights import check_weights
from tests.harness.honest_port import golden_case

PADDED, LONG = "unequal/decode/pads_in_cache.bfloat16", "long/decode/large_positions.float32"


@pytest.mark.parametrize("kind", ["redrawn", "reweighted"])
def test_the_id_of_a_drawn_case_tells_from_what_how_and_by_which_seed(kind: Kind) -> None:
    found = drawn_id(PADDED, kind, 41)
    assert found.endswith(f"~{kind}-41.bfloat16")
    assert (stored_id(found), drawn_as(found)) == (PADDED, (kind, 41))
    assert (stored_id(PADDED), drawn_as(PADDED)) == (PADDED, None)


def test_other_tokens_stand_where_real_ones_stood_and_a_seed_repeats_them() -> None:
    preset, case = golden_case(PADDED)
    one, two, other = (redraw(case, preset.config, seed) for seed in (1, 1, 2))
    for stored, drawn, same, changed in zip(case.calls, one.calls, two.calls, other.calls, strict=True):
        assert np.array_equal(drawn.tokens, same.tokens)
        assert not np.array_equal(drawn.tokens, changed.tokens)
        assert not np.array_equal(drawn.tokens, stored.tokens)
        assert np.array_equal(drawn.tokens == 0, stored.tokens == 0)
        assert np.array_equal(drawn.lengths, stored.lengths)


def test_a_case_of_one_call_gets_a_step_that_shows_what_the_call_left() -> None:
    preset, case = golden_case("stress/prefill/saturated_cap.float32")
    assert [call.kind for call in redraw(case, preset.config, 1).calls] == ["prefill", "decode"]


def test_a_preloaded_cache_changes_where_it_is_visible_alone() -> None:
    preset, case = golden_case(LONG)
    drawn = redraw(case, preset.config, 1).preload
    assert drawn is not None
    assert case.preload is not None
    for row, step in enumerate(np.asarray(case.preload.steps)):
        changed = np.asarray(drawn.keys)[:, row] != np.asarray(case.preload.keys)[:, row]
        assert changed[:, :step].mean() > 0.99
        assert not changed[:, step:].any()


def test_other_weights_have_the_same_shapes_and_statistics_and_other_values() -> None:
    preset, _ = golden_case(PADDED)
    drawn = reweight(preset, 1)
    assert check_weights("x", preset.config, preset.weights, {f"loaded/{k}": v for k, v in drawn.weights.items()})
    for name, x in preset.weights.items():
        y = drawn.weights[name]
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert np.array_equal(np.sort(y.ravel()), np.sort(x.ravel()))
    weight, scales = (
        f"transformer/decoder_layer_0/multi_head_attention/query/w.{part}" for part in ("weight", "scales")
    )
    moved = [np.argwhere((preset.weights[weight] == column[:, None]).all(0)) for column in drawn.weights[weight].T[:5]]
    for i, where in enumerate(moved):  # a column goes with its scales
        assert drawn.weights[scales][0, i] in preset.weights[scales][0, where.ravel()]
