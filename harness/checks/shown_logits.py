"""Logits that are shown in part: the last position, the most probable tokens, or the greedy token alone.

What is shown is laid on the axes of the tap, and what is not shown is left out of every comparison. That the tokens
named are the most probable ones is a comparison of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.contract import LOGITS, Array, LogitForm
from grok_conformance.harness.graph.forms import log_softmax
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.noise import Fence
from grok_conformance.harness.measure.words import number_of


@dataclass(frozen=True)
class ShownLogits:
    """Logits laid on [b, t, v]: the values, which of them are shown, and which tokens are named the most probable.

    `named` is None where all are shown; `problem` says what cannot be read.
    """

    values: Array
    shown: Array
    named: Array | None = None
    problem: str = ""


def lay_out(x: Array, case: Case, call: int, num_tokens: int) -> ShownLogits:
    """Lay what a candidate gave as `logits` of a call on [b, t, v], v = num_tokens, by the form that it declares."""
    form, asked = case.form, case.calls[call]
    b, t = asked.tokens.shape
    if form.positions == "last" and x.shape[:2] == (b, t) and t > 1:  # whatever stands at the others is not shown
        x = np.take_along_axis(x, np.maximum(asked.lengths - 1, 0).reshape(b, *[1] * (x.ndim - 1)), 1)
    shape = (b, 1 if form.positions == "last" else t, *(() if form.kind == "tokens" else (num_tokens,)))
    if x.shape != shape:
        return ShownLogits(x, np.zeros(0, bool), problem=f"shape {list(x.shape)}, expected {list(shape)} of {form}")
    if form.kind == "tokens":
        if not np.issubdtype(x.dtype, np.integer):
            return ShownLogits(x, np.zeros(0, bool), problem=f"dtype {x.dtype}, expected an integer dtype of {form}")
        x = np.where(np.arange(num_tokens) == x[..., None], np.float32(0), np.float32(np.nan))
    positions = np.arange(t) == asked.lengths[:, None] - 1 if form.positions == "last" else np.ones((b, t), bool)
    values = np.zeros((b, t, num_tokens), x.dtype)
    told = positions.any(-1) if form.positions == "last" else np.ones(b, bool)  # a row without a new token has no last
    values[positions] = x[told].reshape(-1, num_tokens)
    return named_in(values, positions, asked.lengths, form)


def named_in(values: Array, positions: Array, lengths: Array, form: LogitForm) -> ShownLogits:
    """Return which of the values [b, t, v] at some positions are shown; a token that is named too few is a problem."""
    shown = np.broadcast_to(positions[..., None], values.shape)
    if form.top is None and form.kind != "tokens":
        return ShownLogits(values, shown)
    named = shown & ~(np.isnan(values) | np.isneginf(values))
    least = min(form.top or 1, values.shape[-1])
    real = positions & (np.arange(values.shape[1]) < lengths[:, None])
    few = real & (named.sum(-1) < least)
    if few.any():
        row, t = (int(i) for i in np.argwhere(few)[0])
        problem = f"names {number_of(int(named[row, t].sum()), 'tokens')} at [{row}, {t}], expected {least} of {form}"
        return ShownLogits(values, named, problem=problem)
    compared = named if form.kind != "tokens" else np.zeros_like(named)
    return ShownLogits(values, compared, named)


def with_order(comparison: Comparison, exact: Exact, fence: Fence, named: Array, compared: Array) -> Comparison:
    """Add to a comparison that no token left out is more probable than one named; `compared` bool [b, t].

    A token may be left out if it is more probable by no more than both may honestly err.
    """
    allowed = np.broadcast_to(fence.allowed, exact.value.shape)
    compared = compared & named.any(-1) & ~named.all(-1)
    if not compared.any():
        return comparison
    value = exact.value[compared]  # [n, v]
    mine, width = named[compared], allowed[compared]
    least = np.where(mine, value, np.inf).argmin(-1)[:, None]
    most = np.where(mine, -np.inf, value).argmax(-1)[:, None]
    ahead, both = (
        np.take_along_axis(x, most, -1)[:, 0] + sign * np.take_along_axis(x, least, -1)[:, 0]
        for x, sign in ((value, -1), (width, 1))
    )
    ratio = np.maximum(ahead, 0.0) / both
    worst = int(np.argmax(ratio))
    num_elements = comparison.num_elements + len(ratio)
    if ratio[worst] <= comparison.tail:
        return replace(comparison, num_elements=num_elements)
    place = np.argwhere(compared)[worst]
    return replace(
        comparison,
        num_elements=num_elements,
        tail=float(ratio[worst]),
        index=(int(place[0]), int(place[1]), int(most[worst, 0])),
        observed=float(value[worst, least[worst, 0]]),
        exact=float(value[worst, most[worst, 0]]),
        allowed=float(both[worst]),
        note=f"token {int(most[worst, 0])} is left out though more probable than {int(least[worst, 0])}",
    )


def golden_in_form(expected: Mapping[str, Array], form: LogitForm) -> dict[str, Array]:
    """Return golden taps, by `call0/TAP`, with the logits in a form."""
    made = dict(expected)
    if form.kind == "log_probabilities":
        made |= {key: log_softmax(x.astype(np.float64)) for key, x in made.items() if key.partition("/")[2] == LOGITS}
    return made
