"""An honest port that shows changed values of one operation, and its taps as the diagnosis looks at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.diagnosis.hypothesis import Trial, trial_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, failing, shown_taps
from tests.harness.graph import toy
from tests.harness.honest_port import INFO, exact_weights, golden_case, honest_taps

PREFILL, DECODE = "unequal/prefill/padded_batch.float32", "unequal/decode/unequal_lengths.float32"

Change = Callable[[Array], Array]


def exhibit_with(case_id: str, operation: str, change: Change, *, first_call: int = 0, layers: str = "01") -> Exhibit:
    """Return an honest port's answer with the values of one operation changed after they were used."""
    preset, case = golden_case(case_id)
    taps = honest_taps(case_id, 1)
    for key, x in taps.items():
        call, tap = key.split("/")
        layer, name = split_tap(tap)
        if name == operation and int(call[4:]) >= first_call and (layer is None or str(layer) in layers):
            taps[key] = np.asarray(change(x.astype(np.float64))).astype(x.dtype)
    return exhibit_of(preset, case, INFO, taps, exact_weights(preset.name, case.fprop_dtype))


def taps_with(
    case_id: str, operation: str, change: Change, *, first_call: int = 0, layers: str = "01"
) -> list[ShownTap]:
    return shown_taps(operation, [exhibit_with(case_id, operation, change, first_call=first_call, layers=layers)])


def trial_with(case_id: str, operation: str, change: Change, *, first_call: int = 0, layers: str = "01") -> Trial:
    return trial_of(failing(taps_with(case_id, operation, change, first_call=first_call, layers=layers))[0])


def toy_with(operation: str, change: Change) -> Exhibit:
    """Return an honest port of the toy with changed values of one operation, in the last layer if it is in one."""
    taps = dict(toy.port())
    for key in [key for key in taps if key.endswith(operation) and "layers.00" not in key]:
        taps[key] = np.asarray(change(taps[key].astype(np.float64))).astype(taps[key].dtype)
    info = replace(INFO, name="toy")
    shown = exhibit_of(toy.preset(), toy.case(), info, {})
    weights = replace(shown.weights, graph=toy.TOY)
    return exhibit_of(toy.preset(), toy.case(), info, taps, weights)


def words_of(found: object) -> set[str]:
    return {one.words for one in found}  # type: ignore[attr-defined]
