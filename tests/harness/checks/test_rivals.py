from __future__ import annotations

import math

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import Score
from grok_conformance.harness.checks.rivals import (
    explained_by_a_fault,
    faulty,
    gain,
    harmful,
    hides_a_fault,
    likelier,
    only_in,
    rivals,
)
from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import ALL_FAULTS, FAULTS, mutant
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.operations.experts import gelu, gelu_argument
from grok_conformance.harness.graph.rounding import HARDWARE_TANH, RoundingPlan
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, honest_taps

CASE = "unequal/prefill/padded_batch.bfloat16"
THREE_LAYERS = "realistic/prefill/near_ties.float32"
DENSE = "dense/decode/dense_block.bfloat16"


def exhibit(case_id: str, taps: dict[str, Array]) -> Exhibit:
    preset, case = golden_case(case_id)
    return Exhibit(preset, case, evidence_of(case_id, taps), exact_weights(preset.name, case.fprop_dtype))


@pytest.mark.parametrize(
    ("rival", "expected"),
    [
        (Score(-130.0, 0.3, 0.0), False),  # less is left open, and nothing fits better
        (Score(-130.0, 0.3, 10.0), True),
        (Score(-130.0, 1.3, 10.0), False),
        (Score(-105.0, 0.3, 10.0), False),
    ],
)
def test_roundings_that_explain_all_are_beaten_only_by_a_fault_that_fits_better(
    rival: Score, *, expected: bool
) -> None:
    exact = Score(-100.0, 0.9, 30.0 if rival.misfit else 0.0)
    assert likelier(rival, exact, exactly=True) == expected


def test_an_approximation_is_beaten_by_whatever_is_decisively_likelier() -> None:
    assert likelier(Score(-130.0, 1.3, 40.0), Score(-100.0, 0.9, 30.0), exactly=False)


def test_a_fault_of_a_row_is_tried_on_it_and_harmless_ones_are_not() -> None:
    row = GROK_1.by_name["moe.expert_hidden"]
    told = [exhibit(CASE, honest_taps(CASE, 31))]
    known = rivals(row, told, harmful(ALL_FAULTS))
    assert "gelu_erf" in known
    assert "rope_interleaved" not in known
    assert not {name for name, fault in ALL_FAULTS.items() if fault.harmless} & set(known)


@pytest.mark.parametrize("fault", ["gelu_erf", None])
def test_a_row_with_a_fault_is_faulty_in_any_way_and_an_honest_one_in_none(fault: str | None) -> None:
    taps = honest_taps(CASE, 31) if fault is None else honest_taps(CASE, 31, evaluator=mutant(FAULTS[fault]))
    row, told = GROK_1.by_name["moe.expert_hidden"], [exhibit(CASE, taps)]
    rounded = Ways({row.name: RoundingPlan({"hidden": "rounded"})})
    assert [faulty(row, ways, told) for ways in (Ways(), rounded)] == [fault is not None] * 2


def test_a_fault_explains_all_of_what_it_made_and_nothing_of_what_another_made() -> None:
    row = GROK_1.by_name["moe.expert_hidden"]
    erf, silu = (
        [exhibit(CASE, honest_taps(CASE, 31, evaluator=mutant(FAULTS[name])))] for name in ("gelu_erf", "silu_for_gelu")
    )
    assert explained_by_a_fault(row, erf)
    assert explained_by_a_fault(row, silu)
    assert not explained_by_a_fault(GROK_1.by_name["attention.query_rotated"], [exhibit(CASE, scaled_queries())])


def scaled_queries() -> dict[str, Array]:
    """Return what is shown by a port whose queries are too large by a share that no known fault has."""
    taps = dict(honest_taps(CASE, 31))
    key = "call0/layers.00.attention.query_rotated"
    return {**taps, key: (taps[key].astype(np.float64) * 1.07).astype(taps[key].dtype)}


def test_an_approximation_does_not_hide_a_fault_of_one_layer() -> None:
    taps, key = dict(honest_taps(THREE_LAYERS, 31)), "call0/layers.01.moe.expert_hidden"
    activation, up = (taps[key.replace("hidden", name)].astype(np.float64) for name in ("activation", "up"))
    by_erf = activation / 2 * (1 + np.vectorize(math.erf)(activation / math.sqrt(2))) * up
    taps[key] = by_erf.astype(np.float32)
    approximate = Ways({"moe.expert_hidden": RoundingPlan({"tanh": HARDWARE_TANH})})
    assert faulty(GROK_1.by_name["moe.expert_hidden"], approximate, [exhibit(THREE_LAYERS, taps)])


def test_an_approximation_does_not_hide_a_fault_of_some_values() -> None:
    """A fault of every second choice leaves half of the values of every layer right."""
    case_id, row = "unequal/prefill/padded_batch.float32", GROK_1.by_name["moe.expert_hidden"]
    right, erf = honest_taps(case_id, 31), honest_taps(case_id, 31, evaluator=mutant(FAULTS["gelu_erf"]))
    approximate = Ways({row.name: RoundingPlan({"tanh": HARDWARE_TANH})})
    taps, close = dict(right), dict(right)
    for key in [key for key in right if key.endswith(row.name)]:
        activation, up = (right[key.replace("hidden", name)].astype(np.float64) for name in ("activation", "up"))
        by_erf = activation / 2 * (1 + np.vectorize(math.erf)(activation / math.sqrt(2))) * up
        taps[key] = np.where([[[[False], [True]]]], by_erf, right[key]).astype(right[key].dtype)
        tanh = np.tanh(gelu_argument(activation)) * (1 + 2.0**-11 * np.cos(1000 * activation))
        close[key] = (0.5 * activation * (1 + tanh) * up).astype(right[key].dtype)
    assert not np.array_equal(erf["call0/logits"], right["call0/logits"])
    assert hides_a_fault(row, approximate, {row.name}, [exhibit(case_id, taps)])
    assert not hides_a_fault(row, approximate, {row.name}, [exhibit(case_id, close)])
    assert not hides_a_fault(row, approximate, set(), [exhibit(case_id, taps)])


def test_an_approximation_of_few_values_is_not_beaten_by_a_fault_that_no_value_shows() -> None:
    """What gelu's rounding hides of an approximated tanh is likelier without any, and with a fault of gelu too."""
    golden = honest_taps(DENSE, 31)
    taps = dict(golden)
    for key in [key for key in golden if key.endswith("dense.hidden")]:
        activation, up = (golden[key.replace("hidden", name)].astype(np.float64) for name in ("activation", "up"))
        tanh = np.tanh(gelu_argument(activation)) * (1 + 2.0**-11 * np.cos(1000 * activation))
        rounded = (0.5 * activation * (1 + tanh)).astype(golden[key.replace("hidden", "up")].dtype)
        taps[key] = (rounded.astype(np.float64) * up).astype(golden[key].dtype)
        assert not np.array_equal(taps[key], (gelu(activation) * up).astype(golden[key].dtype))
    row = GROK_1.by_name["dense.hidden"]
    assert not faulty(row, Ways({row.name: RoundingPlan({"tanh": HARDWARE_TANH})}), [exhibit(DENSE, taps)])


@pytest.mark.parametrize("layer", [1, None])
def test_an_approximation_of_hidden_rows_hides_no_fault_of_one_layer(layer: int | None) -> None:
    """Show nothing but logits of a port whose gelu is erf's in one layer, or that is honest."""
    erf = only_in(-1 if layer is None else layer, mutant(FAULTS["gelu_erf"]))
    case_id = "unequal/prefill/padded_batch.float32"
    preset, case = golden_case(case_id)
    evidence = evidence_of(case_id, honest_taps(case_id, 31, evaluator=erf), ("logits",))
    told = [Exhibit(preset, case, evidence, exact_weights(preset.name, "float32"))]
    approximate = Ways({"moe.expert_hidden": RoundingPlan({"tanh": HARDWARE_TANH})})
    assert faulty(GROK_1.by_name["logits"], approximate, told) == (layer is not None)


def test_the_values_of_a_token_count_as_one_gain() -> None:
    limit, rival = np.full((3, 1000), 5.0), np.full((3, 1000), 4.0)
    rival[1, :400] = np.nan  # what only one of both compares says nothing
    limit[2] = np.nan
    assert gain([limit], [rival]) == pytest.approx(2.0)
