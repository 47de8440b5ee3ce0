"""All tensors of one operation as a candidate computed it, to be looked at."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.hidden import simulate
from grok_conformance.harness.checks.operation_by_operation import fencing_of, unchanged_below
from grok_conformance.harness.checks.readings import reader
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.graph.oracle import cached_taps, empty_cache, walk
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, WEIGHTS
from grok_conformance.harness.measure.blocks import Pair, blocks_of
from grok_conformance.harness.measure.noise import margin, tail_factor


def operation_tensors(exhibit: Exhibit, call: int, tap: str, num_elements: int) -> dict[str, Array]:
    """Return what one operation read and gave in a case: `input/TAP`, `weight/NAME`, observed, exact, error, mask.

    All are float64 but the mask, which is bool and says what is compared; `fence` is how far each element may stray, in
    a run of `num_elements`. An input that was not shown is as it was recomputed. Raises KeyError for a tap that the
    candidate did not show.
    """
    evidence, config = exhibit.evidence, exhibit.evidence.config
    seen, operation = evidence.observed[call, tap], split_tap(tap)[1]
    graph, factor = evidence.graph, tail_factor(num_elements)
    row = graph.operation_of(tap, config)
    read, needed = reader(exhibit.ways.readings, evidence.recorded), exhibit.needed([row.name])
    values = {name: value for (at, name), value in evidence.cleaned.items() if at == call}
    caches = cached_taps(graph, exhibit.case.preload or empty_cache(config, len(exhibit.case.calls[0].tokens)))
    caches |= {"previous:" + name: value for (at, name), value in evidence.cleaned.items() if at == call - 1}
    for at, name, result, value in walk(
        exhibit.preset, exhibit.case, exhibit.look, weights=exhibit.weights, plans=exhibit.ways.plans,
        evaluator=read, margin=margin(num_elements), only=needed,
    ):  # fmt: skip
        if (at, name) == (call, tap):
            exact = result
            break
        if at == call:
            values[name] = value
        elif at == call - 1 and graph.operation_of(name, config).copies:
            caches["previous:" + name] = value
    values |= caches
    noise = simulate(exhibit, read, only=needed).deviation.get((call, tap)) if exhibit.hides_taps else None
    copied = unchanged_below(exhibit, call) if row.copies else None
    fencing = fencing_of(exact, seen.recorded, factor, config, noise, copied)
    mask = np.broadcast_to(evidence.masks[call, operation], seen.raw.shape)
    pair = Pair((call, tap), graph.specs[operation].axes, exact, fencing, seen.raw, mask, seen.recorded)
    fence = blocks_of(pair)(slice(0, seen.raw.size)).fence
    plan = exhibit.ways.plans.get(row.name, AS_PUBLISHED).in_call(exhibit.case.calls[call].tokens.shape)
    return {
        **{f"input/{name}": values[name] for name in graph.input_taps(tap, config) if name in values},
        **{f"weight/{name}": exhibit.weights.get(name, plan.at(WEIGHTS)) for name in graph.weight_names(tap, config)},
        "observed": seen.raw,
        "exact": np.broadcast_to(exact.value, seen.raw.shape),
        "error": seen.raw - exact.value,
        "fence": fence.allowed.reshape(seen.raw.shape),
        "mask": mask,
    }
