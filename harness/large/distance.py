"""How far one large capture lies from another, token by token, by what their form can tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large.forms import by_token, summary_key
from grok_conformance.harness.large.plan import Plan, differences
from grok_conformance.harness.large.sketch import STANDARD_ERROR
from grok_conformance.harness.large.store import read_stage
from grok_conformance.harness.measure.comparison import widen

BLIND = {
    "full": "every element is compared",
    "rows": "positions that are not kept are seen through their norms, the router and the caches alone",
    "sketch": f"a token's distance is known to {STANDARD_ERROR:.0%} of its square; where in the token it lies is not",
}
"""What a comparison in each form sees, and what it does not."""


@dataclass(frozen=True)
class Distance:
    """The largest relative distance of a token of a tap, ‖x − y‖ / ‖y‖, its index [row, kept position], and the form.

    `norm` is the largest relative difference of the norms of all tokens, kept or not; `num_nonfinite` counts the tokens
    in which the two differ in how many elements are finite.
    """

    call: int
    tap: str
    form: str
    relative: float
    index: tuple[int, ...]
    norm: float
    num_nonfinite: int


def distances(observed: tuple[Path, Plan], expected: tuple[Path, Plan], stage: str) -> Iterator[Distance]:
    """Yield the distance of every tap of a stage; raises FileError for captures of different things or forms."""
    (folder, plan), (golden, golden_plan) = observed, expected
    changed = [key for key in differences(plan, golden_plan) if key != "name"]
    if changed:
        raise FileError(f"{folder}: captured with another {', '.join(changed)} than {golden}: capture it alike")
    ours, theirs = read_stage(folder, stage), read_stage(golden, stage)
    for tap in plan.taps(stage):
        for call in range(len(plan.calls)):
            key = f"call{call}/{tap}"
            if key not in ours:
                raise FileError(f"{folder}: {key} is missing in stage {stage}")
            yield _distance(
                plan, call, tap, (ours[key], ours[summary_key(key)]), (theirs[key], theirs[summary_key(key)])
            )


def _distance(
    plan: Plan, call: int, tap: str, observed: tuple[Array, Array], expected: tuple[Array, Array]
) -> Distance:
    form = plan.form_of(tap)
    x, y = (widen(kept) for kept, _ in (observed, expected))
    if form != "sketch":
        x, y = by_token(tap, x), by_token(tap, y)
    difference = np.linalg.norm(np.nan_to_num(x - y), axis=-1)  # [b, t]
    size = np.linalg.norm(np.nan_to_num(y), axis=-1)
    relative = difference / np.maximum(size, np.finfo(np.float32).tiny)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(relative)), relative.shape))
    norms, golden_norms = observed[1][..., 0], expected[1][..., 0]
    norm = np.abs(norms - golden_norms) / np.maximum(golden_norms, np.finfo(np.float32).tiny)
    num_nonfinite = int((observed[1][..., 3] != expected[1][..., 3]).sum())
    return Distance(call, tap, form, float(relative[index]), index, float(norm.max()), num_nonfinite)
