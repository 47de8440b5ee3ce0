"""How a tap of a large model is kept: in full, at chosen rows, or as a sketch; and a summary of every token.

| form | a local check is | a difference is |
|---|---|---|
| full | possible everywhere | seen and placed, element by element |
| rows | possible at the rows kept | seen there; elsewhere through the summary and the taps kept whole |
| sketch | not possible | seen if a token differs as a whole, to √(2/k); not placed within the token |
"""

from __future__ import annotations

import math

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.large.plan import Plan
from grok_conformance.harness.large.sketch import SKETCH_SIZE, project
from grok_conformance.harness.measure.comparison import widen

SUMMARY = ("norm", "maximum", "sum", "num_finite")
"""What is kept of every token in every form, float64 [b, t, 4]: √Σx², max|x|, Σx over what is finite, its count."""


def summary_key(key: str) -> str:
    """Return the name under which a tap's summary is stored."""
    return f"{key}/summary"


def by_token(tap: str, x: Array) -> Array:
    """Return a tap as [b, t or s, everything else]."""
    axes = SPECS[split_tap(tap)[1]].axes
    moved = np.moveaxis(x, token_axis(axes), 1)
    return moved.reshape(*moved.shape[:2], -1)


def token_axis(axes: tuple[str, ...]) -> int:
    """Return which axis of a tap counts the tokens: the queries, or the slots of a cache."""
    return axes.index("t") if "t" in axes else axes.index("s")


def reduce_tap(plan: Plan, call: int, tap: str, x: Array) -> dict[str, Array]:
    """Return what is stored of a tap of one call, by name."""
    key = f"call{call}/{tap}"
    form, tokens = plan.form_of(tap), by_token(tap, x)
    if form == "full":
        kept = x
    elif form == "rows":
        kept = np.take(x, plan.kept_rows(call), axis=token_axis(SPECS[split_tap(tap)[1]].axes))
    else:
        b, t, m = tokens.shape
        kept = project(tokens.reshape(b * t, m), plan.seed).reshape(b, t, -1)
    return {key: np.ascontiguousarray(kept), summary_key(key): summarise(tokens)}


def summarise(tokens: Array) -> Array:
    """Return the summary float64 [b, t, 4] of tokens [b, t, m]."""
    wide = widen(tokens)
    finite = np.isfinite(wide)
    values = np.where(finite, wide, 0.0)
    norm = np.sqrt(np.square(values).sum(-1))
    return np.stack([norm, np.abs(values).max(-1), values.sum(-1), finite.sum(-1)], axis=-1)


def reduce_taps(plan: Plan, taps: tuple[dict[str, Array], ...]) -> dict[str, Array]:
    """Return what is stored of a stage, given its taps call by call."""
    return {
        name: kept
        for call, made in enumerate(taps)
        for tap, x in made.items()
        for name, kept in reduce_tap(plan, call, tap, x).items()
    }


def written_bytes(plan: Plan) -> int:
    """Return the bytes of the tensors that a capture writes."""
    recorded = GROK_1.recorded_dtypes(plan.config, {})
    return sum(
        _stored_bytes(plan, call, tap, DTYPES[recorded[split_tap(tap)[1]]].itemsize)
        for stage in plan.stages
        for tap in plan.taps(stage)
        for call in range(len(plan.calls))
    )


def _stored_bytes(plan: Plan, call: int, tap: str, item_bytes: int) -> int:
    axes = SPECS[split_tap(tap)[1]].axes
    b, t = plan.calls[call].tokens.shape
    shape = [{**plan.config.axis_sizes, "b": b, "t": t}[axis] for axis in axes]
    num_tokens = b * shape[token_axis(axes)]
    form = plan.form_of(tap)
    per_token = math.prod(shape) // num_tokens * item_bytes if form != "sketch" else SKETCH_SIZE * 8
    kept = num_tokens if form != "rows" else b * len(plan.kept_rows(call))
    num_bytes: int = kept * per_token + num_tokens * len(SUMMARY) * 8
    return num_bytes
