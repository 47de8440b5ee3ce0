"""Hidden taps: the operations around them are checked as one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from tests.harness.honest_port import at_fault, check, honest_taps, taps_of

DTYPES = ("float32", "bfloat16")
PREFILL, DECODE = "unequal/prefill/padded_batch", "unequal/decode/unequal_lengths"
DENSE, NEAR_TIES, TIES = "dense/decode/dense_block", "realistic/prefill/near_ties", "ties/prefill/exact_ties"

HIDING: dict[str, Callable[[tuple[str, ...]], tuple[str, ...]]] = {
    "logits": lambda _names: ("logits",),
    "routes": lambda _names: ("logits", "*.router.*", "*.expert_index", "*.expert_gate"),
    "choices": lambda _names: ("logits", "*.expert_index"),
    "caches": lambda _names: ("logits", "*.kv.*"),
    "blocks": lambda _names: ("logits", "embedding", "*.residual", "*.output"),
    "every second": lambda names: names[::2],
    "every other second": lambda names: names[1::2],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", [PREFILL, NEAR_TIES, TIES, DENSE])
@pytest.mark.parametrize("hiding", HIDING)
def test_an_honest_port_passes_whatever_it_hides(hiding: str, what: str, dtype: str) -> None:
    case_id = f"{what}.{dtype}"
    patterns = HIDING[hiding](taps_of(case_id))
    for seed in (100, 102) if what in (NEAR_TIES, TIES) else (100,):
        assert at_fault(check(case_id, honest_taps(case_id, seed), patterns)) == set()


@pytest.mark.parametrize("hiding", ["logits", "caches", "every second"])
def test_an_honest_port_that_hides_taps_passes_in_decode_too(hiding: str) -> None:
    case_id = f"{DECODE}.bfloat16"
    assert at_fault(check(case_id, honest_taps(case_id, 100), HIDING[hiding](taps_of(case_id)))) == set()


FAULTS: dict[str, Callable[[Array], Array]] = {
    "multiplier missing": lambda x: x / np.asarray(0.578125, x.dtype),
    "three per cent too large": lambda x: x * np.asarray(1.03, x.dtype),
    "rows exchanged": lambda x: x[::-1].copy(),
    "tokens shifted": lambda x: np.roll(x, 1, axis=1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_though_only_the_logits_are_shown(fault: str, dtype: str) -> None:
    case_id = f"{PREFILL}.{dtype}"
    honest = honest_taps(case_id, 100)
    taps = {**honest, "call0/logits": FAULTS[fault](honest["call0/logits"])}
    assert at_fault(check(case_id, taps, ("logits",))) == {"logits"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["attention.weights", "router.logits", "output"])
def test_a_fault_between_hidden_taps_is_found_at_the_next_one_shown(operation: str, dtype: str) -> None:
    case_id, tap = f"{PREFILL}.{dtype}", f"layers.00.{operation}"
    honest = honest_taps(case_id, 100)
    wrong = np.roll(honest[f"call0/{tap}"], 1, axis=-1).astype(np.float64)
    taps = honest_taps(case_id, 100, shown=lambda _call, name: wrong if name == tap else None)
    names = taps_of(case_id)
    shown = tuple(name for name in names if name != tap)
    found = at_fault(check(case_id, taps, shown))
    readers = {"attention.weights": {"attention.heads"}, "router.logits": {"router.probabilities"}}
    assert found == readers.get(operation, {"attention.norm", "attention.residual"})


def test_hidden_choices_within_rounding_of_each_other_leave_a_token_undecided_not_failed() -> None:
    case_id = f"{NEAR_TIES}.bfloat16"
    for seed in (100, 101):
        (found,) = check(case_id, honest_taps(case_id, seed), ("logits",))
        assert found.passed
        assert found.undecided or found.num_elements < np.prod(honest_taps(case_id, seed)["call0/logits"].shape)
