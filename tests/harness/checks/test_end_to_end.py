from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.cases.suite import suite_cases
from grok_conformance.harness.checks.end_to_end import (
    Drift,
    Flip,
    Honest,
    drifts,
    flips,
    honest_run,
    open_end_to_end,
    per_token,
    route_of,
)
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.undecided import boundary_gap
from grok_conformance.harness.contract import Array, tap_name
from grok_conformance.harness.graph.oracle import walk
from grok_conformance.harness.measure.noise import NUM_RUNS
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, golden_taps, honest_taps

CASE_IDS = [case.id for case in suite_cases()]
PREFILL, NEAR_TIES = "unequal/prefill/padded_batch.bfloat16", "realistic/prefill/near_ties.bfloat16"


def honest_of(case_id: str, taps: Mapping[str, Array], dtypes: Mapping[str, str] | None = None) -> Honest:
    preset, case = golden_case(case_id)
    evidence = evidence_of(case_id, taps, dtypes=dtypes)
    return honest_run(preset, case, route_of(evidence), exact_weights(preset.name, case.fprop_dtype), evidence.recorded)


def measured(case_id: str, taps: Mapping[str, Array]) -> tuple[list[Drift], list[Flip]]:
    """Return the drifts and flips of a run, which share one honest run."""
    evidence, honest = evidence_of(case_id, taps), honest_of(case_id, taps)
    return drifts(evidence, honest, golden_taps(case_id), {}), flips(evidence, honest, evidence.config)


def drifts_of(
    case_id: str, taps: Mapping[str, Array], dtypes: Mapping[str, str] | None = None
) -> dict[tuple[int, str], Drift]:
    evidence = evidence_of(case_id, taps, dtypes=dtypes)
    found = drifts(evidence, honest_of(case_id, taps, dtypes), golden_taps(case_id), {})
    return {(drift.call, drift.tap): drift for drift in found}


def flips_of(case_id: str, taps: Mapping[str, Array]) -> list[Flip]:
    evidence = evidence_of(case_id, taps)
    return flips(evidence, honest_of(case_id, taps), evidence.config)


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_honest_runs_stay_below_the_end_to_end_fence(case_id: str) -> None:
    found, changed = measured(case_id, honest_taps(case_id, 11))
    assert max(drift.ratio for drift in found) <= 0.6
    assert [flip for flip in changed if not flip.excused] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_exchanged_between_rows_are_caught_end_to_end(dtype: str) -> None:
    case_id = f"unequal/prefill/padded_batch.{dtype}"
    taps = honest_taps(case_id, 11)
    taps["call0/logits"] = taps["call0/logits"][::-1].copy()
    found = drifts_of(case_id, taps)
    assert {tap for (_, tap), drift in found.items() if drift.ratio > 1} == {"logits"}
    assert found[0, "logits"].ratio > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_error_in_an_early_layer_is_caught_end_to_end_in_all_that_follows(dtype: str) -> None:
    case_id, tap = f"unequal/prefill/padded_batch.{dtype}", "layers.00.attention.residual"
    wrong = honest_taps(case_id, 11)[f"call0/{tap}"].astype(np.float64)
    wrong[1, 2] *= 1.2
    taps = honest_taps(case_id, 11, shown=lambda _call, name: wrong if name == tap else None)
    found = drifts_of(case_id, taps)
    assert found[0, "embedding"].ratio < 1
    assert found[0, tap].ratio > 1
    assert found[0, tap].index == (1, 2)
    assert found[0, "layers.00.output"].ratio > 1


def test_an_error_where_nothing_is_compared_is_no_error() -> None:
    taps = honest_taps(PREFILL, 11)
    spoilt = taps["call0/logits"].copy()
    spoilt[1, 4:] = 1e9
    assert drifts_of(PREFILL, {**taps, "call0/logits": spoilt}) == drifts_of(PREFILL, taps)


def test_a_drift_states_the_goldens_own_distance_too() -> None:
    found = drifts_of(PREFILL, golden_taps(PREFILL))
    assert all(drift.observed_error == drift.expected_error for drift in found.values())
    assert found[0, "logits"].observed_error > 0


def test_a_declared_narrower_cache_is_allowed_its_own_noise_end_to_end() -> None:
    case_id, kept = "unequal/decode/unequal_lengths.float32", {"kv.keys": "float16", "kv.values": "float16"}
    taps = honest_taps(case_id, 11, dtypes=kept)
    assert max(drift.ratio for drift in drifts_of(case_id, taps, {"*.kv.*": "float16"}).values()) <= 1
    assert max(drift.ratio for drift in drifts_of(case_id, taps).values()) > 1


@pytest.mark.parametrize("case_id", [PREFILL, "unequal/decode/unequal_lengths.float32"])
def test_runs_walked_as_one_batch_err_as_those_walked_one_by_one(case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    together = honest_of(case_id, golden_taps(case_id))
    monkeypatch.setattr("grok_conformance.harness.checks.batches.MAX_BATCH_ELEMENTS", 1)
    one_by_one = honest_of(case_id, golden_taps(case_id))
    assert together.error.keys() == one_by_one.error.keys()
    for key, error in together.error.items():
        assert error.shape == one_by_one.error[key].shape
        larger = np.sqrt(np.mean(np.square(error))), np.sqrt(np.mean(np.square(one_by_one.error[key])))
        assert max(larger) <= 1.5 * min(larger), key


def test_the_runs_of_a_small_case_cost_one_walk_besides_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[int] = []

    def counted(preset: Preset, case: Case, *given: Any, **options: Any) -> Any:
        walked.append(len(case.calls[0].tokens))
        return walk(preset, case, *given, **options)

    monkeypatch.setattr("grok_conformance.harness.checks.end_to_end.walk", counted)
    honest_of(PREFILL, golden_taps(PREFILL))
    once, together = walked
    assert together == NUM_RUNS * once


def test_errors_are_pooled_per_token_and_for_caches_per_slot() -> None:
    error = np.zeros((2, 3, 4))
    error[1, 2] = [3, 4, 0, 0]
    assert per_token(error, ("b", "t", "d"))[1].tolist() == [0, 0, 2.5]
    slots = np.zeros((2, 5, 2, 2))
    slots[0, 4] = 1
    assert per_token(slots, ("b", "s", "g", "h"))[0].tolist() == [0, 0, 0, 0, 1]
    weights = np.zeros((2, 1, 1, 3, 5))
    weights[1, 0, 0, 2, 0] = 5
    assert per_token(weights, ("b", "g", "r", "t", "s"))[1].tolist() == [0, 0, pytest.approx(np.sqrt(5))]


def rerouted(case_id: str, *, closest: bool) -> tuple[dict[str, Array], tuple[int, ...]]:
    """Return a run that takes the best expert left out for the last chosen, at the closest or clearest choice."""
    preset, _ = golden_case(case_id)
    taps = honest_taps(case_id, 11)
    scores = taps[f"call0/{tap_name(0, 'router.probabilities')}"].astype(np.float64)
    gaps = boundary_gap(scores, preset.config)
    place = np.unravel_index(int(gaps.argmin() if closest else gaps.argmax()), gaps.shape)
    index = taps[f"call0/{tap_name(0, 'moe.expert_index')}"].astype(np.float64)
    index[place][-1] = np.argsort(-scores[place], kind="stable")[index.shape[-1]]
    tap = tap_name(0, "moe.expert_index")
    changed = honest_taps(case_id, 11, shown=lambda _call, name: index if name == tap else None)
    return changed, tuple(int(i) for i in place)


def test_what_hangs_on_a_hidden_choice_that_may_go_either_way_tells_nothing() -> None:
    taps, _ = rerouted(NEAR_TIES, closest=True)
    preset, case = golden_case(NEAR_TIES)
    evidence = evidence_of(NEAR_TIES, taps, ("layers.00.output", "logits"))
    exhibit = Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))
    honest, golden = honest_run(preset, case, {}, exhibit.weights, evidence.recorded), golden_taps(NEAR_TIES)
    assert max(drift.ratio for drift in drifts(evidence, honest, golden, {})) > 1
    assert max(drift.ratio for drift in drifts(evidence, honest, golden, open_end_to_end(exhibit, honest))) <= 1


@pytest.mark.parametrize("closest", [True, False])
def test_another_choice_of_experts_is_excused_only_within_honest_noise(*, closest: bool) -> None:
    taps, place = rerouted(NEAR_TIES, closest=closest)
    (flip,) = (flip for flip in flips_of(NEAR_TIES, taps) if flip.layer == 0)
    assert flip.index == place
    assert flip.excused == closest
    assert flip.gap > 0


@pytest.mark.parametrize(("chosen", "gap"), [([0, 2], 0.01), ([1, 2], 0.31)])
def test_leaving_out_the_best_expert_is_not_excused_by_a_tie_of_the_others(chosen: list[int], gap: float) -> None:
    taps = honest_taps(PREFILL, 11)
    taps["call0/layers.00.moe.expert_index"][0, 0] = chosen
    evidence, honest = evidence_of(PREFILL, taps), honest_of(PREFILL, taps)
    key = (0, "layers.00.router.probabilities")
    honest.exact[key][0, 0], honest.error[key][0, 0] = [0.5, 0.2, 0.19, 0.06, 0.05], 1e-3
    (flip,) = (x for x in flips(evidence, honest, evidence.config) if (x.layer, x.index) == (0, (0, 0)))
    assert flip.gap == pytest.approx(gap)
    assert flip.excused == (gap <= 0.012)


def test_the_comparison_goes_on_along_the_ports_own_route() -> None:
    taps, _ = rerouted(NEAR_TIES, closest=False)
    assert max(drift.ratio for drift in drifts_of(NEAR_TIES, taps).values()) <= 0.6


def test_a_choice_made_where_nothing_is_compared_is_no_flip() -> None:
    taps = honest_taps(PREFILL, 11)
    taps["call0/layers.00.moe.expert_index"][1, 4:] = [3, 3]
    assert flips_of(PREFILL, taps) == flips_of(PREFILL, honest_taps(PREFILL, 11))


def test_the_honest_error_of_a_token_is_never_less_than_that_of_half_the_tokens() -> None:
    honest = honest_of(PREFILL, honest_taps(PREFILL, 11))
    for error in honest.error.values():
        assert np.count_nonzero(error == error.min()) >= error.size / 2


def test_honest_runs_of_float32_are_thousands_of_times_closer_than_those_of_bf16() -> None:
    narrow, wide = (
        honest_of(case_id, honest_taps(case_id, 11)).error[0, "logits"].mean()
        for case_id in (PREFILL, PREFILL.replace("bfloat16", "float32"))
    )
    assert narrow > 2000 * wide


def test_a_flip_at_the_fence_is_excused_and_beyond_it_is_not() -> None:
    flip = Flip(call=0, layer=1, index=(0, 2), gap=0.01, allowed=0.01)
    assert flip.excused
    assert not replace(flip, gap=0.0100001).excused
