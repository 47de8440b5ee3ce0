"""Fused ports: what flows between operations is more precise than what the taps show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Ways, exhibit_of
from grok_conformance.harness.checks.likelihood import score
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.readings import PHASES, Readings, producers
from grok_conformance.harness.checks.search import alike
from grok_conformance.harness.contract import DTYPES, Array, CandidateInfo, split_tap
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.operations.norm import rms_norm
from grok_conformance.harness.graph.oracle import walk
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.judging.judge import Judged, judge_candidate
from grok_conformance.harness.judging.reruns import call_of
from grok_conformance.harness.measure.noise import USED_SHARE, computed
from tests.harness.graph.operations.drawn_values import scope_of
from tests.harness.honest_port import NUM_ELEMENTS, answered, exact_weights, golden_case, group_of, honest_taps

CASE = "unequal/decode/unequal_lengths.bfloat16"
OTHER = "unequal/prefill/padded_batch.bfloat16"
WIDE = "unequal/decode/unequal_lengths.float32"
FUSED = CandidateInfo(name="fused", version="1", fused=True)
UNFUSED = replace(FUSED, fused=False)


Made = Callable[[str, Exact, str, np.random.Generator], tuple[Array, Array]]
"""Gives what a port shows of a tap by its key, and what it passes on, of an exact result and the dtype of the tap."""


def taps_made(case_id: str, make: Made) -> dict[str, Array]:
    """Return what a port shows that passes on something else."""
    preset, case = golden_case(case_id)
    random = np.random.default_rng(5)
    shown: dict[str, Array] = {}
    dtypes = {key: str(x.dtype) for key, x in honest_taps(case_id, 1).items()}
    keys = iter(dtypes)

    def compute(_tap: str, exact: Exact) -> Array:
        key = next(keys)
        recorded, passed_on = make(key, exact, dtypes[key], random)
        shown[key] = recorded.astype(DTYPES[dtypes[key]])
        return passed_on

    for _ in walk(preset, case, weights=exact_weights(preset.name, case.fprop_dtype), perturb=compute):
        pass
    return shown


def fused_taps(case_id: str, *carried: str, gain: Mapping[str, float] | None = None) -> dict[str, Array]:
    """Return what a port shows whose named operations pass their results on as they are, and record them rounded."""

    def make(key: str, exact: Exact, dtype: str, random: np.random.Generator) -> tuple[Array, Array]:
        operation = split_tap(key.partition("/")[2])[1]
        gained = replace(exact, value=exact.value * (1 + (gain or {}).get(operation, 0.0)))
        value = computed(gained, USED_SHARE, random)
        recorded = round_to(value, dtype)
        return recorded, value if operation in carried else recorded

    return taps_made(case_id, make)


def taps_with_copies(case_id: str, operation: str) -> dict[str, Array]:
    """Return what a port shows that computes an operation once more for what reads it in calls of one token.

    The copy is as honest as what is shown, and has other errors.
    """
    _, case = golden_case(case_id)

    def make(key: str, exact: Exact, dtype: str, random: np.random.Generator) -> tuple[Array, Array]:
        one, other = (round_to(computed(exact, USED_SHARE, random), dtype) for _ in range(2))
        decoding = case.calls[call_of(key)].tokens.shape[1] == 1
        again = split_tap(key.partition("/")[2])[1] == operation and decoding
        return one, other if again else one

    return taps_made(case_id, make)


def judge(folder: Path, taps: Mapping[str, Mapping[str, Array]], info: CandidateInfo) -> Judged:
    answers = {case: answered(folder / str(i), x, info=info) for i, (case, x) in enumerate(taps.items())}
    (judged,) = judge_candidate([group_of(*taps)], [answers], NUM_ELEMENTS, {})
    return judged


def statuses(judged: Judged) -> set[str]:
    return {verdict.status for verdict in judged.verdicts}


def test_a_port_that_carries_unrounded_values_passes_and_the_edges_are_named(tmp_path: Path) -> None:
    carried = ("moe.expert_activation", "moe.expert_up")
    judged = judge(tmp_path, {case: fused_taps(case, *carried) for case in (CASE, OTHER)}, FUSED)
    assert statuses(judged) == {"pass"}
    assert judged.words["moe.expert_hidden"] == "moe.expert_activation carried, moe.expert_up carried"
    assert set(judged.words) == {"moe.expert_hidden"}


def test_what_is_carried_through_several_operations_is_recomputed_from_the_first_rounded_one(tmp_path: Path) -> None:
    carried = ("attention.residual", "moe.norm")
    judged = judge(tmp_path, {CASE: fused_taps(CASE, *carried)}, FUSED)
    assert statuses(judged) == {"pass"}
    assert judged.words["moe.norm"] == "attention.residual carried"
    assert judged.words["router.logits"] == "moe.norm carried"


def test_a_port_that_carries_need_not_say_that_it_is_fused(tmp_path: Path) -> None:
    judged = judge(tmp_path, {CASE: fused_taps(CASE, "moe.expert_activation", "moe.expert_up")}, UNFUSED)
    assert statuses(judged) == {"pass"}
    assert judged.words == {"moe.expert_hidden": "moe.expert_activation carried, moe.expert_up carried"}


def test_a_float32_product_may_be_computed_again_for_what_reads_it(tmp_path: Path) -> None:
    judged = judge(tmp_path, {WIDE: taps_with_copies(WIDE, "moe.expert_up")}, UNFUSED)
    assert statuses(judged) == {"pass"}
    assert "computed again in decode" in judged.words["moe.expert_hidden"]


def test_a_residual_stream_kept_in_float32_is_found_through_all_layers(tmp_path: Path) -> None:
    stream = ("embedding", "attention.residual", "output")
    judged = judge(tmp_path, {CASE: fused_taps(CASE, *stream)}, UNFUSED)
    assert statuses(judged) == {"pass"}
    assert judged.words["output"] == "attention.residual carried"


def test_an_honest_port_that_says_so_and_is_not_is_read_as_it_is(tmp_path: Path) -> None:
    judged = judge(tmp_path, {CASE: fused_taps(CASE)}, FUSED)
    assert statuses(judged) == {"pass"}
    assert not judged.words


def test_a_port_that_carries_in_one_prefill_and_not_in_another_has_only_recorded_its_values(tmp_path: Path) -> None:
    taps = {CASE: fused_taps(CASE, "moe.expert_activation", "moe.expert_up"), OTHER: fused_taps(OTHER)}
    judged = judge(tmp_path, taps, FUSED)
    described = judged.words["moe.expert_hidden"]
    assert "recorded in prefill" in described
    assert "moe.expert_activation carried in decode" in described


@pytest.mark.parametrize("operation", ["moe.expert_hidden", "attention.logits", "router.logits"])
def test_no_reading_excuses_a_fault_that_is_larger_than_a_rounding(operation: str, tmp_path: Path) -> None:
    taps = fused_taps(CASE, "moe.expert_activation", "moe.expert_up", gain={operation: 0.02})
    judged = judge(tmp_path, {CASE: taps}, FUSED)
    assert statuses(judged) == {"fail"}
    assert {c.operation for v in judged.verdicts for c in v.comparisons if not c.passed} == {operation}


def test_a_carried_input_asks_for_its_producers_and_theirs() -> None:
    config = golden_case(CASE)[0].config
    readings: Readings = {
        ("decode", "router.logits", "moe.norm"): "carried",
        ("decode", "moe.norm", "attention.residual"): "carried",
        ("decode", "attention.norm", "residual_stream"): "carried",
    }
    assert producers(["router.logits"], readings, GROK_1, config) == {"router.logits", "moe.norm", "attention.residual"}
    assert producers(["attention.norm"], readings, GROK_1, config) == {"attention.norm", "embedding", "output"}
    assert producers(["logits"], readings, GROK_1, config) == {"logits"}


def test_a_norm_may_take_its_squares_of_what_was_carried_and_scale_what_was_shown() -> None:
    x, wide, gain = np.array([[1.0, 2.0]]), np.array([[1.001, 1.998]]), np.ones(2)
    scope = scope_of("bfloat16")
    plain, measured = (rms_norm(x, gain, scope=one, plan=AS_PUBLISHED).value
                       for one in (scope, replace(scope, measured=wide)))  # fmt: skip
    ratio = np.sqrt((np.square(x).mean() + 1e-5) / (np.square(wide).mean() + 1e-5))
    assert np.allclose(measured, plain * ratio, rtol=1e-12)
    assert not np.allclose(measured, plain, rtol=1e-6)


def test_what_a_norm_measured_is_worked_out_before_it() -> None:
    measured: Readings = {("prefill", "moe.norm", "attention.residual"): "measured"}
    config = golden_case(CASE)[0].config
    assert "attention.residual" in producers(["moe.norm"], measured, GROK_1, config)


def test_calls_that_tell_nothing_are_taken_to_read_as_those_that_do() -> None:
    row = GROK_1.by_name["output"]
    (source,) = [name for name in row.inputs if name == "moe.output_norm"]
    preset, case = golden_case(CASE)
    info = replace(UNFUSED, taps=("*",))
    port = exhibit_of(preset, case, info, fused_taps(CASE, source), exact_weights(preset.name, case.fprop_dtype))
    both: Readings = {(phase, row.name, source): "carried" for phase in PHASES}
    found = Ways(readings={("prefill", row.name, source): "carried"})
    silent = replace(port, calls=(0,))
    assert alike(row, found, score(row.name, [with_ways(silent, found)]), [silent]) == Ways(readings=both)
    rounding = exhibit_of(preset, case, info, honest_taps(CASE, 5), exact_weights(preset.name, case.fprop_dtype))
    best = score(row.name, [with_ways(rounding, found)])
    assert alike(row, found, best, [rounding]) == found
