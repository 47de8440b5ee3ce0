from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe
from grok_conformance.harness.diagnosis.matched_filter import (
    NUM_EXHIBITS,
    Residual,
    diagnose,
    name_fault,
    name_in_part,
    telling,
    tokens_of_all,
)
from grok_conformance.harness.faults import FAULTS, Fault, mutant
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import at_fault, check, evidence_of, exact_weights, golden_case, honest_taps

PREFILL, STRESS = "unequal/prefill/padded_batch", "stress/prefill/saturated_cap"
DTYPES = ("float32", "bfloat16")


def diagnosed(
    case_id: str,
    taps: Mapping[str, Array],
    operations: Collection[str] | None = None,
    *,
    patterns: Collection[str] = ("*",),
    faults: Mapping[str, Fault] = FAULTS,
) -> dict[str, Diagnosis]:
    """Return the diagnosis of the operations that fail in one case, or of those named."""
    preset, case = golden_case(case_id)
    comparisons: list[Comparison] = check(case_id, taps, patterns)
    evidence = evidence_of(case_id, taps, patterns)
    exhibit = Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))
    return diagnose([exhibit], [comparisons], operations or at_fault(comparisons), faults)


def with_fault(case_id: str, *names: str) -> dict[str, Array]:
    changes = {operation: change for name in names for operation, change in FAULTS[name].changes.items()}
    return honest_taps(case_id, 1, evaluator=mutant(replace(FAULTS[names[0]], changes=changes)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu_erf", "gelu_quick", "silu_for_gelu", "relu_glu", "up_gate_swapped"])
def test_the_activation_at_fault_is_named_with_its_coefficient(name: str, dtype: str) -> None:
    case_id = f"{STRESS}.{dtype}"
    (found,) = diagnosed(case_id, with_fault(case_id, name)).values()
    assert found.faults == (name,)
    assert abs(found.coefficient - 1) < 0.01
    assert found.explained > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
def test_faults_that_no_data_can_tell_apart_are_named_together(dtype: str) -> None:
    case_id = f"{PREFILL}.{dtype}"
    (found,) = diagnosed(case_id, with_fault(case_id, "gates_renormalised")).values()
    assert set(found.faults) == {"gates_renormalised", "softmax_after_top_k"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_faults_at_different_operations_are_both_named(dtype: str) -> None:
    case_id = f"{STRESS}.{dtype}"
    found = diagnosed(case_id, with_fault(case_id, "gelu_quick", "attention_cap_50"))
    assert {operation: x.faults for operation, x in found.items()} == {
        "moe.expert_hidden": ("gelu_quick",),
        "attention.logits": ("attention_cap_50",),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu_erf", "gelu_quick", "silu_for_gelu"])
def test_a_fault_missing_from_the_table_is_not_taken_for_its_neighbour(name: str, dtype: str) -> None:
    case_id = f"{STRESS}.{dtype}"
    others = {other: fault for other, fault in FAULTS.items() if other != name}
    (found,) = diagnosed(case_id, with_fault(case_id, name), faults=others).values()
    assert found.faults == ()
    assert describe(found) == "no known fault explains this"


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_element_is_explained_by_no_fault(dtype: str) -> None:
    case_id, key = f"{PREFILL}.{dtype}", "call0/layers.01.moe.expert_hidden"
    taps = honest_taps(case_id, 1)
    taps[key][0, 1, 0, 7] += 1
    assert diagnosed(case_id, taps)["moe.expert_hidden"].faults == ()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_operation_is_explained_by_no_fault(dtype: str) -> None:
    case_id = f"{STRESS}.{dtype}"
    found = diagnosed(case_id, honest_taps(case_id, 1), ["moe.expert_hidden", "attention.logits", "logits"])
    assert [x.faults for x in found.values()] == [(), (), ()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_of_one_layer_alone_is_named(dtype: str) -> None:
    case_id = f"{PREFILL}.{dtype}"
    changes = {name: replace(x, first_layer=1) for name, x in FAULTS["scales_interleaved"].changes.items()}
    taps = honest_taps(case_id, 1, evaluator=mutant(replace(FAULTS["scales_interleaved"], changes=changes)))
    assert {x.faults for x in diagnosed(case_id, taps).values()} == {("scales_interleaved",)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_fault_is_named_though_masked_logits_are_not_compared(dtype: str) -> None:
    case_id = f"{PREFILL}.{dtype}"
    assert diagnosed(case_id, with_fault(case_id, "mask_absent"))["attention.weights"].faults == ("mask_absent",)


def test_a_missing_expert_is_named_by_the_shape_that_it_leaves() -> None:
    case_id = f"{PREFILL}.float32"
    found = diagnosed(case_id, with_fault(case_id, "top_1_only"))["moe.expert_index"]
    assert describe(found) == "likely top_1_only, which gives this shape"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fault_between_hidden_taps_is_named_at_the_next_one_shown(dtype: str) -> None:
    case_id = f"{STRESS}.{dtype}"
    patterns = ("*.norm", "*.residual", "*.router.*", "*.moe.expert_*", "*.output", "logits")
    found = diagnosed(case_id, with_fault(case_id, "attention_scale_missing"), patterns=patterns)
    assert {x.faults for x in found.values()} == {("attention_scale_missing",)}


def test_cases_in_which_an_operation_fails_tell_of_it_though_many_others_fail_elsewhere() -> None:
    preset, case = golden_case(f"{PREFILL}.float32")
    evidence = evidence_of(case.id, honest_taps(case.id, 1), ("*",))
    one = Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))
    cases = [replace(one, case=replace(case, id=f"case {i}")) for i in range(NUM_EXHIBITS + 8)]
    gelu, norm = (Comparison(0, f"layers.00.{name}", 1, tail=9.0) for name in ("moe.expert_hidden", "moe.norm"))
    found = [*([gelu] for _ in cases[1:]), [gelu, norm]]
    told = telling(cases, found, {"moe.norm"})
    assert told[0].case.id == cases[-1].case.id
    assert len(told) == NUM_EXHIBITS


NONE = np.zeros(3, bool)


def test_a_fault_of_some_tokens_alone_is_named_by_what_fails() -> None:
    """Two of three tokens have a fault; what the third shows is right, and the whole is half of each."""
    fault, right = np.linspace(50, 90, 8), np.zeros(8)
    other = np.linspace(90, 50, 8)
    every = {"some": np.tile(fault, 3), "another": np.tile(other, 3)}
    observed = np.concatenate([fault, right, fault])
    whole = Residual(observed, every, np.ones(24, bool))
    assert name_in_part([whole]).faults == ()
    part = Residual(observed, every, np.repeat([True, False, True], 8))
    assert name_in_part([part]).faults == ("some",)
    assert name_in_part([part]).partly
    assert not name_in_part([Residual(part.observed, {"some": part.observed}, part.failing)]).partly
    nothing = Residual(np.concatenate([fault / 2, right, other]), every, part.failing)
    assert name_in_part([nothing]).faults == ()


def test_residuals_of_several_taps_have_tokens_of_their_own() -> None:
    first = Residual(np.ones(2), {}, NONE[:2], np.array([0, 4]))
    assert tokens_of_all([first, Residual(np.ones(3), {}, NONE)]) is not None
    assert np.asarray(tokens_of_all([first, Residual(np.ones(3), {}, NONE)])).tolist() == [0, 4, 5, 6, 7]
    assert tokens_of_all([Residual(np.ones(3), {}, NONE)]) is None


def test_a_residual_in_the_direction_of_a_fault_but_of_another_size_is_not_that_fault() -> None:
    d = np.random.default_rng(0).standard_normal(1000) * 100
    assert name_fault([Residual(d, {"some": d}, d > 0)]).faults == ("some",)
    assert name_fault([Residual(d / 2, {"some": d}, d > 0)]).faults == ()
