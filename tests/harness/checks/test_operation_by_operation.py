from __future__ import annotations

import math
from collections.abc import Callable, Collection

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.cases.suite import suite_cases
from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import at_fault, check, evidence_of, golden_case, golden_taps, honest_taps, taps_of

CASE_IDS = [case.id for case in suite_cases()]
DTYPES = ("float32", "bfloat16")
PREFILL, DECODE = "unequal/prefill/padded_batch", "unequal/decode/unequal_lengths"
DENSE, NEAR_TIES, TIES = "dense/decode/dense_block", "realistic/prefill/near_ties", "ties/prefill/exact_ties"


def found_at(comparisons: Collection[Comparison], tap: str, call: int = 0) -> Comparison:
    (found,) = (comparison for comparison in comparisons if (comparison.call, comparison.tap) == (call, tap))
    return found


def altered(taps: dict[str, Array], key: str, change: Callable[[Array], Array]) -> dict[str, Array]:
    return {**taps, key: change(np.array(taps[key]))}


def bump(place: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return a change that makes one element its next neighbour."""

    def change(x: Array) -> Array:
        x[place] = np.nextafter(x[place], x.dtype.type(np.inf))
        return x

    return change


# What is right passes.


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_an_honest_port_passes_every_case(case_id: str) -> None:
    for seed in (1, 2):
        comparisons = check(case_id, honest_taps(case_id, seed))
        assert at_fault(comparisons) == set()
        assert sum(comparison.num_elements for comparison in comparisons) > 1000


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_the_golden_taps_pass_every_case(case_id: str) -> None:
    assert at_fault(check(case_id, golden_taps(case_id))) == set()


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_every_tap_of_every_call_is_compared_somewhere(case_id: str) -> None:
    comparisons = check(case_id, golden_taps(case_id))
    calls = range(len(golden_case(case_id)[1].calls))
    assert [(c.call, c.tap) for c in comparisons] == [(call, tap) for call in calls for tap in taps_of(case_id)]
    assert all(comparison.num_elements for comparison in comparisons)


# Absence, names, shapes, dtypes.


def test_a_declared_tap_that_is_not_returned_is_missing_and_the_others_are_judged() -> None:
    case_id, tap = f"{PREFILL}.bfloat16", "layers.01.attention.heads"
    taps = honest_taps(case_id, 1)
    del taps[f"call0/{tap}"]
    comparisons = check(case_id, taps)
    assert found_at(comparisons, tap).problem == "missing: declared but not returned"
    assert at_fault(comparisons) == {"attention.heads"}
    assert len(comparisons) == len(taps_of(case_id))


def test_a_tap_that_is_not_declared_is_not_missing() -> None:
    case_id = f"{PREFILL}.bfloat16"
    taps = {key: x for key, x in honest_taps(case_id, 1).items() if not key.endswith("heads")}
    patterns = [tap for tap in taps_of(case_id) if not tap.endswith("heads")]
    assert at_fault(check(case_id, taps, patterns)) == set()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda x: x.swapaxes(1, 2),
            "shape [2, 12, 6, 8], expected [b, t, q, h] = [2, 6, 12, 8], whose axes stand in another order",
        ),
        (lambda x: x.reshape(2, 6, 96), "shape [2, 6, 96], expected [b, t, q, h] = [2, 6, 12, 8]"),
        (lambda x: x[:1], "shape [1, 6, 12, 8], expected [b, t, q, h] = [2, 6, 12, 8]"),
        (lambda x: x.astype(ml_dtypes.bfloat16), "dtype bfloat16 is narrower than float32"),
        (lambda x: x.astype(np.float16), "dtype float16 is narrower than float32"),
        (lambda x: x.astype(np.int32), "dtype int32, expected float32"),
        (lambda x: x.astype(np.complex64), "dtype complex64, expected float32"),
    ],
)
def test_a_wrong_shape_or_dtype_fails_before_any_value(change: Callable[[Array], Array], problem: str) -> None:
    case_id, tap = f"{PREFILL}.float32", "layers.01.attention.query"
    comparisons = check(case_id, altered(honest_taps(case_id, 1), f"call0/{tap}", change))
    assert found_at(comparisons, tap).problem == problem
    assert at_fault(comparisons) == {"attention.query"}


def test_more_precision_than_asked_for_is_no_fault() -> None:
    case_id = f"{PREFILL}.float32"
    wide = {key: x if x.dtype == np.int32 else x.astype(np.float64) for key, x in honest_taps(case_id, 1).items()}
    assert at_fault(check(case_id, wide)) == set()


# Values.


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("operation", ["attention.key", "kv.values", "router.probabilities", "moe.expert_output"])
def test_a_value_that_is_not_finite_is_found_at_its_own_operation(operation: str, bad: float) -> None:
    case_id, tap = f"{PREFILL}.bfloat16", f"layers.01.{operation}"
    taps = honest_taps(case_id, 1)
    taps[f"call0/{tap}"][(0,) * taps[f"call0/{tap}"].ndim] = bad
    comparisons = check(case_id, taps)
    assert "not finite" in found_at(comparisons, tap).problem
    assert operation in at_fault(comparisons)


@pytest.mark.parametrize("case_id", [f"{PREFILL}.bfloat16", f"{DECODE}.bfloat16", f"{DENSE}.float32"])
@pytest.mark.parametrize("anything", [math.nan, -math.inf, 1e30])
def test_what_is_not_compared_may_be_anything_and_influences_nothing(case_id: str, anything: float) -> None:
    taps = honest_taps(case_id, 1)
    masks = evidence_of(case_id, taps).masks
    spoilt, num_spoilt = {}, 0
    for key, x in taps.items():
        call, tap = key.removeprefix("call").split("/", 1)
        mask = np.broadcast_to(masks[int(call), split_tap(tap)[1]], x.shape)
        num_spoilt += int((~mask).sum())
        spoilt[key] = np.where(mask, x, np.array(-7 if x.dtype == np.int32 else anything, x.dtype))
    assert num_spoilt > 1000
    assert repr(check(case_id, spoilt)) == repr(check(case_id, taps))  # NaN, where there is no number, equals itself


def test_router_logits_rounded_to_bf16_fail_and_are_said_to_be_rounded() -> None:
    case_id, tap = f"{PREFILL}.bfloat16", "layers.00.router.logits"
    taps = altered(honest_taps(case_id, 1), f"call0/{tap}", lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32))
    assert found_at(check(case_id, taps), tap).note == "the values lie on the grid of bfloat16: rounded, though float32"


def test_negative_zero_is_honest_where_zero_is_exact() -> None:
    case_id, key = f"{PREFILL}.bfloat16", "call0/layers.00.attention.weights"
    taps = honest_taps(case_id, 1)
    assert (taps[key] == 0).sum() > 100
    taps[key][taps[key] == 0] = -0.0
    assert at_fault(check(case_id, taps)) == set()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("operation", ["attention.query", "attention.weights", "moe.expert_gate", "output"])
def test_a_flipped_exponent_bit_of_the_largest_element_fails(operation: str, bit: int, dtype: str) -> None:
    case_id, key = f"{PREFILL}.{dtype}", f"call0/layers.00.{operation}"
    taps = honest_taps(case_id, 1)
    x = taps[key]
    place = np.unravel_index(int(np.argmax(np.abs(x[0, :4].astype(np.float64)))), x[0, :4].shape)
    narrow = x.dtype.itemsize == 2
    bits = x.view(np.uint16 if narrow else np.uint32)
    bits[0][place] ^= bits.dtype.type(1 << ((7 if narrow else 23) + bit))
    assert operation in at_fault(check(case_id, taps))


# Caches.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["kv.keys", "kv.values"])
@pytest.mark.parametrize("slot", [0, 3, 6])
def test_an_earlier_or_a_new_cache_slot_changed_by_one_ulp_fails(slot: int, name: str, dtype: str) -> None:
    case_id, tap = f"{DECODE}.{dtype}", f"layers.01.{name}"
    comparisons = check(case_id, altered(honest_taps(case_id, 1), f"call1/{tap}", bump((0, slot, 1, 2))))
    assert not found_at(comparisons, tap, call=1).passed
    assert found_at(comparisons, tap, call=1).index == (0, slot, 1, 2)
    assert found_at(comparisons, tap, call=0).passed


def test_slots_beyond_the_call_are_free() -> None:
    case_id, key = f"{DECODE}.bfloat16", "call1/layers.01.kv.keys"
    assert at_fault(check(case_id, altered(honest_taps(case_id, 1), key, bump((0, 7, 1, 2))))) == set()


def with_slots(x: Array, axis: int, num_slots: int) -> Array:
    kept = np.take(x, np.arange(min(num_slots, x.shape[axis])), axis)
    added = list(kept.shape)
    added[axis] = num_slots - kept.shape[axis]
    return np.concatenate([kept, np.full(added, 0, x.dtype)], axis)


@pytest.mark.parametrize(("num_slots", "passes"), [(7, False), (8, True), (9, True), (40, True)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_key_axis_may_be_shorter_or_longer_than_the_cache_if_it_shows_every_visible_slot(
    dtype: str, num_slots: int, *, passes: bool
) -> None:
    case_id = f"{DECODE}.{dtype}"
    taps = {}
    for key, x in honest_taps(case_id, 1).items():
        axes = SPECS[split_tap(key.split("/", 1)[1])[1]].axes
        taps[key] = with_slots(x, axes.index("s"), num_slots) if "s" in axes else x
    readers = {"kv.keys", "kv.values", "attention.logits", "attention.weights"}
    assert at_fault(check(case_id, taps)) == (set() if passes else readers)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_cache_narrower_than_the_model_passes_if_declared(narrow: str) -> None:
    case_id = f"{DECODE}.float32"
    taps = honest_taps(case_id, 1, dtypes={"kv.keys": narrow, "kv.values": narrow})
    assert at_fault(check(case_id, taps, dtypes={"*.kv.*": narrow})) == set()
    assert at_fault(check(case_id, taps)) >= {"kv.keys", "kv.values"}


# Chosen experts.


def route_changed(case_id: str, change: Callable[[Array, Array], Array]) -> dict[str, Array]:
    """Return what a port shows that changes its choice of experts in the last layer, and goes on with it."""
    taps = honest_taps(case_id, 1)
    layer = golden_case(case_id)[0].config.model.num_layers - 1
    index, scores = tap_name(layer, "moe.expert_index"), taps[tap_key(0, tap_name(layer, "router.probabilities"))]
    chosen = change(np.array(taps[tap_key(0, index)]), scores).astype(np.float64)
    return honest_taps(case_id, 1, shown=lambda _call, tap: chosen if tap == index else None)


def at_first_token(*experts: int) -> Callable[[Array, Array], Array]:
    """Return a change of the first token's experts, given by their ranks."""

    def change(index: Array, scores: Array) -> Array:
        index[0, 0] = np.argsort(-scores[0, 0].astype(np.float64), kind="stable")[list(experts)]
        return index

    return change


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        ((0, 0), "an expert is chosen twice for one token"),
        ((1, 0), "experts are not in order of probability"),
        ((0, 2), "a more probable expert was left out"),
        ((1, 2), "a more probable expert was left out"),
    ],
)
def test_a_wrong_choice_of_experts_is_found_at_the_choice_alone(ranks: tuple[int, ...], problem: str) -> None:
    case_id = f"{PREFILL}.bfloat16"
    comparisons = check(case_id, route_changed(case_id, at_first_token(*ranks)))
    found = found_at(comparisons, "layers.01.moe.expert_index")
    assert (found.problem, found.index) == (problem, (0, 0))
    assert at_fault(comparisons) == {"moe.expert_index"}


@pytest.mark.parametrize("expert", [-1, 5, 10**6])
def test_an_expert_out_of_range_is_found_and_computed_with_by_nobody(expert: int) -> None:
    case_id, tap = f"{PREFILL}.bfloat16", "layers.01.moe.expert_index"
    taps = honest_taps(case_id, 1)
    taps[f"call0/{tap}"][0, 0, 0] = expert
    assert found_at(check(case_id, taps), tap).problem == "expert outside 0..4"


def other_way_round(index: Array, scores: Array) -> Array:
    """Decide every exact tie for the highest expert."""
    reversed_scores = scores[..., ::-1].astype(np.float64)
    last = scores.shape[-1] - 1
    return last - np.argsort(-reversed_scores, axis=-1, kind="stable")[..., : index.shape[-1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_ties_pass_in_any_order_with_a_note(dtype: str) -> None:
    case_id = f"{TIES}.{dtype}"
    preset, case = golden_case(case_id)
    exact = honest_taps(case_id, 1, shown=tied_logits(case_id))
    index, scores = "layers.00.moe.expert_index", exact["call0/layers.00.router.probabilities"]
    chosen = other_way_round(exact[f"call0/{index}"], scores)
    logits = tied_logits(case_id)
    taps = honest_taps(
        case_id, 1, shown=lambda call, tap: chosen.astype(np.float64) if tap == index else logits(call, tap)
    )
    comparisons = check(case_id, taps)
    assert at_fault(comparisons) == set()
    assert found_at(comparisons, index).note.endswith("ties not decided for the lowest index")
    assert preset.config.model.num_selected_experts == chosen.shape[-1]
    assert case.calls[0].tokens.shape == chosen.shape[:2]


def tied_logits(case_id: str) -> Callable[[int, str], Array | None]:
    """Return router logits and probabilities with the ties of the tied experts made exact again."""
    taps = honest_taps(case_id, 1)
    shown = {}
    for name in ("router.logits", "router.probabilities"):
        x = np.array(taps[f"call0/layers.00.{name}"], np.float64)
        x[..., [2, 4]] = x[..., [1, 1]]
        shown[f"layers.00.{name}"] = x
    return lambda _call, tap: shown.get(tap)


def test_a_choice_clear_of_the_noise_is_judged_though_its_scores_are_hidden() -> None:
    case_id, tap = f"{PREFILL}.bfloat16", "layers.01.moe.expert_index"
    comparisons = check(case_id, route_changed(case_id, at_first_token(0, 4)), ("*.expert_index", "logits"))
    assert found_at(comparisons, tap).problem == "a more probable expert was left out"
