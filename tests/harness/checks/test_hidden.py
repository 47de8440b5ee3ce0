"""Operations around hidden taps: what their noise passes on, and where a hidden choice is undecided."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.hidden import simulate, widened
from grok_conformance.harness.contract import CandidateInfo
from grok_conformance.harness.measure.noise import Fence
from tests.harness.honest_port import golden_case, golden_taps

CASE = "unequal/prefill/padded_batch.float32"


def test_a_fence_grows_by_the_noise_that_is_passed_on() -> None:
    fence = Fence(np.full(2, 1.0), np.full(2, 3.0), None, 7.0)
    wide = widened(fence, np.full(2, 4.0), 7.0)
    assert wide.allowed.tolist() == [29.0, 29.0]
    assert wide.deviation.tolist() == [5.0, 5.0]


def test_noise_of_a_hidden_norm_reaches_the_taps_behind_it_and_none_before() -> None:
    preset, case = golden_case(CASE)
    shown = tuple(key.partition("/")[2] for key in golden_taps(CASE) if not key.endswith("layers.00.moe.norm"))
    info = CandidateInfo(name="port", version="1", taps=shown)
    segments = simulate(exhibit_of(preset, case, info, golden_taps(CASE)))
    reached = {tap for _, tap in segments.deviation}
    assert "layers.00.router.logits" in reached
    assert not [tap for tap in reached if ".attention." in tap]


def test_draws_that_are_rows_of_one_batch_stray_as_far_as_those_made_one_by_one() -> None:
    preset, case = golden_case(CASE)
    info = CandidateInfo(name="port", version="1", taps=("logits",))
    exhibit = exhibit_of(preset, case, info, {k: x for k, x in golden_taps(CASE).items() if k.endswith("/logits")})
    together, apart = (simulate(exhibit, num_draws=64, rows_apart=rows_apart).deviation for rows_apart in (True, False))
    assert together.keys() == apart.keys()
    for key, deviation in together.items():
        larger = np.sqrt(np.mean(np.square(deviation))), np.sqrt(np.mean(np.square(apart[key])))
        assert max(larger) <= 1.5 * min(larger), key
