"""A family of faults that no row of the table knows: operations, changes of the values there, and places in the data.

A fault is put into what an honest port shows after its noise, and flows on. Nothing here knows the table of
transformations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.contract import DTYPES, Array, split_tap, tap_name
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import scope_of, walk
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import honest_result
from tests.harness.honest_port import exact_weights, golden_case


@dataclass(frozen=True)
class Moment:
    """What a fault sees when it strikes: the tap, the call, and all taps of the call so far."""

    call: int
    tap: str
    scope: Scope
    lengths: Array
    values: Mapping[str, Array]
    earlier: Mapping[tuple[int, str], Array]

    def beside(self, operation: str) -> Array:
        """Return another tap of the same layer."""
        return self.values[tap_name(split_tap(self.tap)[0], operation)]


Change = Callable[[Array, Moment], Array]
"""Gives the faulty values [tap] of right ones."""

Where = Callable[[Array, Moment], Array]
"""Gives where a fault strikes, bool that broadcasts to the tap."""


@dataclass(frozen=True)
class UnknownFault:
    """A fault that no row knows; `says` are words of which any tells it."""

    operation: str
    change: str
    place: str
    says: tuple[str, ...]
    dtype: str

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.operation}: {self.change}" + (f", {self.place}" if self.place else "")


def along(axis: int) -> Callable[[Callable[[Array], Array]], Change]:
    """Return a change of a tap with an axis moved to the end."""
    return lambda change: lambda x, _: np.moveaxis(change(np.moveaxis(x, axis, -1)), -1, axis)


CHANGES: Mapping[str, tuple[Change, tuple[str, ...]]] = {
    "halved": (lambda x, _: x / 2, ("times 0.5",)),
    "times 1.7": (lambda x, _: x * 1.7, ("times 1.7",)),
    "negated": (lambda x, _: -x, ("opposite sign",)),
    "zero": (lambda x, _: 0 * x, ("are zero", "as zero", "all taken as")),
    "absolute value": (lambda x, _: np.abs(x), ("absolute values", "another function", "with the opposite sign")),
    "negatives as zero": (lambda x, _: np.maximum(x, 0), ("negative ones as zero", "are zero", "as zero")),
    "features shifted": (lambda x, _: np.roll(x, 1, -1), ("shifted by",)),
    "features reversed": (lambda x, _: x[..., ::-1], ("reverse order",)),
    "heads shifted": (lambda x, _: np.roll(x, 1, 2), ("shifted by", "values of")),
    "heads 0 and 1 exchanged": (lambda x, _: x[:, :, [1, 0, *range(2, x.shape[2])]], ("exchanged", "right for")),
    "halves interleaved": (
        lambda x, _: x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape),
        ("laid out",),
    ),
    "of the token before": (lambda x, _: np.concatenate([x[:, :1], x[:, :-1]], 1), ("shifted by", "right for token")),
    "of row 0": (lambda x, _: np.broadcast_to(x[:1], x.shape), ("for all rows", "right for row")),
    "rounded to bf16": (lambda x, _: round_to(x, "bfloat16"), ("bfloat16",)),
    "rounded to fp16": (lambda x, _: round_to(x, "float16"), ("float16",)),
    "cut off at 1": (lambda x, _: np.clip(x, -1, 1), ("cut off at ±1", "another function")),
    "plus 0.5": (lambda x, _: x + 0.5, ("plus 0.5",)),
    "sine of it": (lambda x, _: np.sin(x), ("another function",)),
    "input returned": (lambda _, m: m.beside("attention.query"), ("values of attention.query",)),
    "stale": (lambda x, m: m.earlier.get((m.call - 1, m.tap), x), ("stale",)),
    "of layer 0": (lambda x, m: m.values.get(tap_name(0, split_tap(m.tap)[1]), x), ("values of layer 0",)),
    "residual doubled": (lambda x, m: x + m.beside("attention.residual"), ("attention.residual added",)),
    "a factor for every token": (
        lambda x, _: x * (1.1 + 0.3 * np.sin(np.arange(x.shape[1])))[None, :, *[None] * (x.ndim - 2)],
        ("for every token",),
    ),
    "random noise": (lambda x, m: x + 0.1 * np.random.default_rng(m.call).standard_normal(x.shape), ()),
    "a product with its neighbour": (lambda x, _: x * np.roll(x, 1, -1), ()),
}
"""Changes by name, with words that tell them; where there are none nothing but the place can be told."""


def last_row(x: Array, _: Moment) -> Array:
    """Return the last row."""
    return np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == len(x) - 1


def last_token(x: Array, m: Moment) -> Array:
    """Return the last token of each row."""
    found: Array = np.arange(x.shape[1]) == m.lengths[:, None] - 1
    return found.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def experts(choose: Callable[[Array], Array]) -> Where:
    """Return the values of some experts."""

    def where(x: Array, m: Moment) -> Array:
        index = m.beside("moe.expert_index")
        found = choose(index)
        return found.reshape(*index.shape, *[1] * (x.ndim - 3))

    return where


def sent_to(expert: int) -> Where:
    """Return the tokens sent to an expert."""

    def where(x: Array, m: Moment) -> Array:
        name = tap_name(split_tap(m.tap)[0], "moe.expert_index")
        return (m.values[name] == expert).any(-1)[..., None] if name in m.values else np.zeros(x.shape, bool)

    return where


PLACES: Mapping[str, Where] = {
    "": lambda x, _: np.ones_like(x, bool),
    "decode steps": lambda _x, m: np.array(m.scope.tokens.shape[1] == 1 and m.call > 0),
    "after the first call": lambda _x, m: np.array(m.call > 0),
    "layer 1": lambda _x, m: np.array(split_tap(m.tap)[0] == 1),
    "the last row": last_row,
    "the last token": last_token,
    "positions from 4": lambda x, m: (m.scope.steps[:, None] + np.arange(x.shape[1]) >= 4).reshape(
        *x.shape[:2], *[1] * (x.ndim - 2)
    ),
    "channels 0–19": lambda x, _: np.arange(x.shape[-1]) < 20,
    "the second half": lambda x, _: np.arange(x.shape[-1]) * 2 // x.shape[-1] == 1,
    "odd channels": lambda x, _: np.arange(x.shape[-1]) % 2 == 1,
    "head 2": lambda x, _: (np.arange(x.shape[2]) == 2)[:, None],
    "expert 3": experts(lambda index: index == 3),
    "the second choice": experts(lambda index: np.broadcast_to(np.arange(index.shape[-1]) == 1, index.shape)),
    "tokens of expert 2": sent_to(2),
}
"""Where faults strike, by name."""

FAMILY: tuple[tuple[str, str, str], ...] = (
    ("embedding", "times 1.7", ""),
    ("embedding", "of row 0", ""),
    ("attention.norm", "halved", "channels 0–19"),
    ("attention.norm", "a factor for every token", ""),
    ("attention.norm", "features shifted", "the last row"),
    ("attention.query", "negated", "head 2"),
    ("attention.query", "halves interleaved", ""),
    ("attention.query", "heads 0 and 1 exchanged", ""),
    ("attention.key", "zero", "odd channels"),
    ("attention.value", "heads shifted", "after the first call"),
    ("attention.query_rotated", "input returned", "decode steps"),
    ("attention.query_rotated", "features reversed", ""),
    ("attention.key_rotated", "negated", "the second half"),
    ("attention.key_rotated", "halved", "positions from 4"),
    ("attention.logits", "cut off at 1", ""),
    ("attention.logits", "rounded to bf16", ""),
    ("attention.weights", "times 1.7", "decode steps"),
    ("attention.heads", "heads shifted", ""),
    ("attention.heads", "stale", "decode steps"),
    ("attention.heads", "random noise", "head 2"),
    ("attention.output", "of the token before", ""),
    ("attention.output", "random noise", "channels 0–19"),
    ("attention.output", "a product with its neighbour", "the last row"),
    ("attention.output_norm", "negatives as zero", ""),
    ("attention.residual", "plus 0.5", "the last token"),
    ("attention.residual", "zero", "layer 1"),
    ("moe.norm", "sine of it", ""),
    ("moe.norm", "random noise", "positions from 4"),
    ("router.logits", "halved", "the last token"),
    ("router.logits", "rounded to fp16", ""),
    ("router.logits", "features reversed", "layer 1"),
    ("router.probabilities", "features shifted", "decode steps"),
    ("moe.expert_gate", "halved", "expert 3"),
    ("moe.expert_gate", "times 1.7", "the second choice"),
    ("moe.expert_activation", "negated", "expert 3"),
    ("moe.expert_activation", "of the token before", ""),
    ("moe.expert_up", "features shifted", "expert 3"),
    ("moe.expert_up", "absolute value", ""),
    ("moe.expert_hidden", "cut off at 1", ""),
    ("moe.expert_hidden", "zero", "the second half"),
    ("moe.expert_hidden", "random noise", "expert 3"),
    ("moe.expert_output", "times 1.7", "the second choice"),
    ("moe.expert_output", "features reversed", "expert 3"),
    ("moe.output", "zero", "tokens of expert 2"),
    ("moe.output", "random noise", "tokens of expert 2"),
    ("moe.output", "plus 0.5", ""),
    ("moe.output_norm", "of layer 0", ""),
    ("moe.output_norm", "halved", "the last row"),
    ("output", "residual doubled", ""),
    ("output", "a product with its neighbour", "decode steps"),
    ("dense.hidden", "absolute value", ""),
    ("dense.up", "negated", "odd channels"),
    ("final_norm", "times 1.7", "the last token"),
    ("final_norm", "features shifted", ""),
    ("logits", "negated", "decode steps"),
    ("logits", "of row 0", ""),
    ("logits", "random noise", "after the first call"),
    ("logits", "halved", "odd channels"),
)
"""Operation, change and place of every fault."""

DTYPES_TRIED = ("float32", "bfloat16")


def family() -> list[UnknownFault]:
    """Return every fault, one after the other in another compute dtype."""
    return [
        UnknownFault(operation, change, place, CHANGES[change][1], dtype)
        for i, (operation, change, place) in enumerate(FAMILY)
        for dtype in [DTYPES_TRIED[i % 2]]
    ]


Truth = dict[str, Array]
"""Where the values of a tap were changed, by `call0/TAP`."""


def faulty_taps(case_id: str, fault: UnknownFault, seed: int) -> tuple[dict[str, Array], Truth]:
    """Return what an honest port shows that has a fault in one place of one operation, and where it is changed."""
    preset, case = golden_case(case_id)
    weights = exact_weights(preset.name, case.fprop_dtype)
    kept = GROK_1.recorded_dtypes(weights.config, preset.weights)
    random = np.random.default_rng(seed)
    change, where = CHANGES[fault.change][0], PLACES[fault.place]
    made: dict[tuple[int, str], Array] = {}
    values: dict[str, Array] = {}
    truth: Truth = {}
    call = 0

    def compute(tap: str, exact: Exact) -> Array:
        nonlocal call, values
        if tap == "embedding" and values:
            call, values = call + 1, {}
        dtype = kept[split_tap(tap)[1]]
        shown = honest_result(exact, dtype, random)
        if split_tap(tap)[1] == fault.operation:
            moment = Moment(call, tap, scope_of(preset, case, call), case.calls[call].lengths, values, made)
            other = change(shown, moment)
            if other.shape == shown.shape:
                right, shown = shown, round_to(np.where(where(shown, moment), other, shown), dtype)
                truth[tap_key(call, tap)] = shown != right
        made[call, tap] = values[tap] = shown
        return shown

    walked = walk(preset, case, weights=weights, perturb=compute)
    taps = {tap_key(i, tap): x.astype(DTYPES[kept[split_tap(tap)[1]]]) for i, tap, _, x in walked}
    return taps, truth
