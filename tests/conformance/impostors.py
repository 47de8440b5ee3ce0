"""Impostors: what stands in place of a tap and must never pass for it, and the taps in which each is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from tests.harness.honest_port import evidence_of, golden_taps, taps_of

CASES = {"moe": "unequal/prefill/padded_batch", "dense": "dense/decode/dense_block"}
OTHER_CASES = {"unequal/prefill/padded_batch": "unequal/prefill/leading_pads"}
DTYPES = ("float32", "bfloat16")
LAYER, OTHER_LAYER = "layers.01.", "layers.00."

Taps = Mapping[str, Array]
Null = Callable[[str, str], Taps | None]
"""Takes a case and one of its taps, and returns what the impostor shows; None where the null makes no sense."""


def replaced(change: Callable[[Array], Array]) -> Null:
    return lambda case_id, tap: {f"call0/{tap}": change(np.array(golden_taps(case_id)[f"call0/{tap}"]))}


def compared_of(case_id: str, tap: str) -> Array:
    """Return the mask of the compared elements of a tap in the first call."""
    masks = evidence_of(case_id, golden_taps(case_id)).masks
    return np.broadcast_to(masks[0, split_tap(tap)[1]], golden_taps(case_id)[f"call0/{tap}"].shape)


def tokens_shuffled(case_id: str, tap: str) -> Taps:
    axes = SPECS[split_tap(tap)[1]].axes
    axis = axes.index("t" if "t" in axes else "s")
    x = golden_taps(case_id)[f"call0/{tap}"]
    order = np.arange(x.shape[axis])
    order[:3] = [2, 0, 1]  # real tokens of both rows
    return {f"call0/{tap}": np.take(x, order, axis)}


def another_layer(case_id: str, tap: str) -> Taps | None:
    if not tap.startswith(LAYER):
        return None
    return {f"call0/{tap}": golden_taps(case_id)[f"call0/{tap.replace(LAYER, OTHER_LAYER)}"]}


def another_case(case_id: str, tap: str) -> Taps | None:
    what, dtype = case_id.rsplit(".", 1)
    if what not in OTHER_CASES:
        return None
    return {f"call0/{tap}": golden_taps(f"{OTHER_CASES[what]}.{dtype}")[f"call0/{tap}"]}


def one_nan(case_id: str, tap: str) -> Taps | None:
    x = np.array(golden_taps(case_id)[f"call0/{tap}"])
    if x.dtype == np.int32:
        return None
    x[tuple(np.argwhere(compared_of(case_id, tap))[-1])] = np.nan
    return {f"call0/{tap}": x}


def exponent_flipped(case_id: str, tap: str) -> Taps | None:
    """Flip the lowest exponent bit, the gentlest, of the largest element that is compared."""
    x = np.array(golden_taps(case_id)[f"call0/{tap}"])
    if x.dtype == np.int32:
        return None
    size = np.where(compared_of(case_id, tap), np.abs(x.astype(np.float64)), -1)
    bits = x.view(np.uint16 if x.dtype.itemsize == 2 else np.uint32)
    bits[np.unravel_index(int(size.argmax()), size.shape)] ^= bits.dtype.type(1 << (7 if x.dtype.itemsize == 2 else 23))
    return {f"call0/{tap}": x}


def under_two_names(case_id: str, tap: str) -> Taps | None:
    """Show the next tap with the same axes in place of this one, or the one before where there is no next."""
    names = taps_of(case_id)
    axes = SPECS[split_tap(tap)[1]].axes
    place = names.index(tap)
    alike = [name for name in (*names[place + 1 :], *reversed(names[:place])) if SPECS[split_tap(name)[1]].axes == axes]
    return {f"call0/{tap}": golden_taps(case_id)[f"call0/{alike[0]}"]} if alike else None


NULLS: dict[str, Null] = {
    "all zeros": replaced(np.zeros_like),
    "constant": replaced(lambda x: np.full_like(x, 1)),
    "mean of the expected": replaced(lambda x: np.full_like(x, x.astype(np.float64).mean())),
    "tokens shuffled": tokens_shuffled,
    "another layer": another_layer,
    "another case": another_case,
    "one NaN": one_nan,
    "exponent bit flipped": exponent_flipped,
    "under two names": under_two_names,
    "transposed shape": replaced(lambda x: x.swapaxes(-1, -2)),
    "transposed values in the right shape": replaced(lambda x: x.swapaxes(-1, -2).reshape(x.shape)),
}

NOT_A_NULL: dict[tuple[str, str], str] = {
    ("another layer", "embedding"): "no layer has one",
    ("another layer", "final_norm"): "no layer has one",
    ("another layer", "logits"): "no layer has one",
    ("one NaN", "moe.expert_index"): "integers hold no NaN",
    ("exponent bit flipped", "moe.expert_index"): "integers have no exponent",
    ("under two names", "logits"): "no other tap has its axes",
    ("another case", "dense.activation"): "the suite has one dense case",
    ("another case", "dense.up"): "the suite has one dense case",
    ("another case", "dense.hidden"): "the suite has one dense case",
    ("another case", "moe.output of a dense block"): "the suite has one dense case",
}
"""Why a null cannot be put in place of a tap; every other combination must be rejected."""


def targets() -> list[tuple[str, str, str]]:
    """Return (name of the operation, kind of case, tap): one tap of every operation, the last layer's."""
    moe = [("moe", tap) for tap in taps_of(f"{CASES['moe']}.float32") if not tap.startswith(OTHER_LAYER)]
    dense = [("dense", f"{LAYER}{name}") for name in ("dense.activation", "dense.up", "dense.hidden", "moe.output")]
    found = []
    for kind, tap in [*moe, *dense]:
        operation = split_tap(tap)[1]
        found.append(
            (f"{operation} of a dense block" if kind == "dense" and "dense" not in operation else operation, kind, tap)
        )
    return found


TARGETS = targets()
