"""Impostors that know the golden values but do not compute: each is rejected, at every operation."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.contract.taps import SPECS
from tests.conformance.impostors import CASES, DTYPES, NOT_A_NULL, NULLS, TARGETS
from tests.harness.honest_port import at_fault, check, golden_taps, honest_taps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("operation", "kind", "tap"), TARGETS, ids=[name for name, _, _ in TARGETS])
@pytest.mark.parametrize("null", NULLS)
def test_a_null_in_place_of_a_tap_is_rejected_at_its_operation(
    null: str, operation: str, kind: str, tap: str, dtype: str
) -> None:
    case_id = f"{CASES[kind]}.{dtype}"
    shown = NULLS[null](case_id, tap)
    assert (shown is None) == ((null, operation) in NOT_A_NULL)
    if shown is not None:
        assert split_tap(tap)[1] in at_fault(check(case_id, {**golden_taps(case_id), **shown}))


@pytest.mark.parametrize(("operation", "kind", "tap"), TARGETS, ids=[name for name, _, _ in TARGETS])
def test_a_tap_left_out_is_missing(operation: str, kind: str, tap: str) -> None:
    case_id = f"{CASES[kind]}.bfloat16"
    comparisons = check(case_id, {key: x for key, x in golden_taps(case_id).items() if key != f"call0/{tap}"})
    (found,) = (comparison for comparison in comparisons if (comparison.call, comparison.tap) == (0, tap))
    assert found.problem == "missing: declared but not returned"
    assert operation.startswith(found.operation)


def test_every_operation_of_the_contract_is_a_target() -> None:
    assert {split_tap(tap)[1] for _, _, tap in TARGETS} == set(SPECS)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_golden_taps_themselves_are_accepted(kind: str, dtype: str) -> None:
    case_id = f"{CASES[kind]}.{dtype}"
    assert at_fault(check(case_id, golden_taps(case_id))) == set()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_complete_impostor_with_all_taps_of_another_case_is_rejected_from_the_first_tap_on(dtype: str) -> None:
    impostor = golden_taps(f"unequal/prefill/leading_pads.{dtype}")
    assert {"embedding", "attention.weights"} <= at_fault(check(f"unequal/prefill/padded_batch.{dtype}", impostor))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_complete_impostor_is_rejected_though_it_shows_only_the_logits(dtype: str) -> None:
    impostor = golden_taps(f"unequal/prefill/leading_pads.{dtype}")
    assert at_fault(check(f"unequal/prefill/padded_batch.{dtype}", impostor, ("logits",))) == {"logits"}


@pytest.mark.parametrize("shown", ["*", "logits"])
def test_a_bf16_run_widened_to_float32_is_rejected_in_float32(shown: str) -> None:
    narrow = honest_taps("unequal/prefill/padded_batch.bfloat16", 1)
    widened = {key: x if x.dtype == np.int32 else x.astype(np.float32) for key, x in narrow.items()}
    found = at_fault(check("unequal/prefill/padded_batch.float32", widened, (shown,)))
    assert {"embedding", "attention.query", "logits"} & found == (
        found if shown == "logits" else {"embedding", "attention.query", "logits"}
    )
    assert found
