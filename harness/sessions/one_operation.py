"""One operation without a model, for the author of a kernel; and every tap of a model in float64."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from grok_conformance.harness.cases.case import Cache, Call, Case, Preset
from grok_conformance.harness.checks.evidence import Evidence, Observed, in_memory
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import (
    Array,
    LanguageModelConfig,
    Weights,
    split_tap,
    tap_name,
)
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.diagnosis.described import described_by
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe
from grok_conformance.harness.diagnosis.matched_filter import name_fault, residual_of
from grok_conformance.harness.diagnosis.prediction import Prediction
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.faults import ALL_FAULTS, change_of, mutant
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import masks_of, visible_keys
from grok_conformance.harness.graph.oracle import ExactWeights, evaluate, walk
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.noise import fence_of, margin, tail_factor
from grok_conformance.harness.report.explanation import remedies
from grok_conformance.harness.running.python_runner import as_array
from grok_conformance.harness.sessions.given_arrays import (
    arrays_by_name,
    check_axes,
    check_names,
    check_stored,
    compute_dtype,
    config_of,
    named_inputs,
    named_weights,
    prompt,
    whole_numbers_of,
)
from grok_conformance.harness.sessions.one_way import best_way

WITHOUT_A_MODEL = GROK_1.copies
"""Operations that only copy: what they should have kept is what they were given."""


@dataclass(frozen=True)
class OperationReport:
    """What was found of one operation: the comparison, the way in which it is computed, and the likely fault."""

    comparison: Comparison
    way: str
    diagnosis: Diagnosis | None

    @property
    def passed(self) -> bool:
        """Whether every element lies within its fence."""
        return self.comparison.passed

    def __str__(self) -> str:
        """Return it in a few lines."""
        found, name = self.comparison, self.comparison.operation
        if found.passed:
            return f"{name}: pass, {found.ratio:.3g} of what is allowed" + f" ({self.way})" * bool(self.way)
        lines = [f"{name}: fail"]
        if found.problem:
            lines.append(f"  problem   {found.problem}")
        else:
            lines += [
                f"  worst at  {list(found.index)}: observed {found.observed:.9g}, exact {found.exact:.9g}",
                f"  error     {abs(found.observed - found.exact):.3g}, fence {found.allowed:.3g}",
            ]
        lines += [f"  note      {found.note}"] * bool(found.note)
        lines += [f"  diagnosis {describe(self.diagnosis)}"] if self.diagnosis is not None else []
        lines += [f"  change    {remedy}" for remedy in remedies(self.diagnosis)] if self.diagnosis is not None else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return it as a notebook shows it."""
        return f'<pre style="line-height:1.3">{html.escape(str(self))}</pre>'


def oracle(
    config: LanguageModelConfig, weights: Weights, tokens: ArrayLike, lengths: ArrayLike | None = None
) -> dict[str, Array]:
    """Return every tap of a prefill in exact arithmetic, float64 by tap name.

    `tokens` int [b, t] of which the first `lengths` int [b] of each row are real, all by default; `weights` by stored
    name (SPEC §2). `config.fprop_dtype` says how stored weights are rounded. Raises TypeError and ValueError for what
    does not fit.
    """
    compute_dtype(config.fprop_dtype)
    check_stored(config, weights)
    case = case_of(config, *prompt(config, tokens, lengths))
    return {tap: value for _, tap, _, value in walk(Preset(case.preset, config, weights), case)}


def case_of(config: LanguageModelConfig, tokens: Array, lengths: Array, steps: Array | None = None) -> Case:
    """Return a call of one's own as a case; `steps` are those before the call, of a cache that is not given."""
    nothing = np.zeros((0, len(tokens), config.sequence_len, config.model.num_kv_heads, config.model.key_size))
    return Case(
        id="own/prefill/tokens",
        preset="own",
        fprop_dtype=config.fprop_dtype,
        why="tokens of one's own",
        origin="the caller",
        calls=(Call("prefill", tokens, lengths),),
        preload=None if steps is None else Cache(nothing, nothing, steps),
    )


def check_operation(  # noqa: PLR0913 - all but the first three have defaults
    operation: str,
    inputs: Mapping[str, Array],
    observed: Array,
    *,
    weights: Mapping[str, Array] | None = None,
    dtype: str = "bfloat16",
    config: LanguageModelConfig | None = None,
    tokens: ArrayLike | None = None,
    steps: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> OperationReport:
    """Check what one operation gave, `observed`, from what it was given; `explain OPERATION` says what it reads.

    `inputs` are the taps that it reads, `weights` its matrices, under the names that the table of operations has for
    them, or as NAME.weight (int8) and NAME.scales; `dtype` is the compute dtype. Axes are those of the taps. The
    configuration is the published one in the sizes of the arrays; `tokens` [b, t] (none of them a pad), `steps` [b] (0)
    and `mask` [b, t] (all) matter to few. Raises TypeError and ValueError for what is missing or does not fit.
    """
    if operation not in SPECS or operation in WITHOUT_A_MODEL:
        raise ValueError(unknown("operation", operation, [name for name in SPECS if name not in WITHOUT_A_MODEL]))
    seen = as_array("observed", observed)
    given = arrays_by_name(operation, "inputs", inputs, GROK_1.by_name[operation].inputs)
    check_names(operation, given)
    check_axes(operation, seen, SPECS[operation].axes)
    config = replace(config or config_of(operation, given, seen), fprop_dtype=compute_dtype(dtype))
    tap = tap_name(0 if SPECS[operation].per_layer else None, operation)
    values = named_inputs(tap, config, given)
    exact_weights = ExactWeights(config, named_weights(tap, config, {} if weights is None else weights))
    axes = SPECS[operation].axes
    shape = tuple(seen.shape[axes.index(letter)] for letter in "bt")
    words = whole_numbers_of("tokens", tokens, 1, config.vocab_size - 1, shape)
    before = whole_numbers_of("steps", steps, 0, config.sequence_len, shape[:1])
    scope = Scope(config, words, before, visible_keys(config, words, before), margin(seen.size))
    case = case_of(config, words, np.full(shape[0], shape[1], np.int32), before)
    recorded = GROK_1.recorded_dtypes(config, exact_weights.stored)[operation]
    compared = masks_of(case, config, GROK_1.taps)[0, operation]
    if mask is not None:
        places = [shape["bt".index(axis)] if axis in "bt" else 1 for axis in axes]
        compared = compared & whole_numbers_of("mask", np.asarray(mask) * 1, 1, 1, shape).reshape(places).astype(bool)
    taken = Observed(in_memory(seen), recorded, compared)
    evidence = Evidence(config, {operation: recorded}, {(0, tap): taken}, {}, {(0, operation): compared})
    exhibit = Exhibit(Preset("own", config, exact_weights.stored), case, evidence, exact_weights)
    found, way = best_way(tap, scope, exhibit, values)
    diagnosis = None if found.passed else diagnosis_of(tap, scope, exhibit, values)
    return OperationReport(found, way, diagnosis)


def diagnosis_of(tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array]) -> Diagnosis | None:
    """Return the likely fault, of those that need no more than what was given; None where the shape is wrong."""
    exact = evaluate(tap, scope, exhibit.weights, values)
    seen = exhibit.evidence.observed[0, tap]
    if exact.value.shape != seen.raw.shape:
        return None
    faulty: dict[str, Exact] = {}
    for name, fault in ALL_FAULTS.items():
        if change_of(fault, tap, exhibit.weights) is not None:
            try:
                faulty[name] = mutant(fault)(tap, scope, exhibit.weights, values, AS_PUBLISHED)
            except KeyError:  # it reads a tap, or a weight, that was not given
                continue
    fence, mask = fence_of(exact, seen.recorded, 1.0), exhibit.evidence.masks[0, split_tap(tap)[1]]
    probabilities = next(iter(values.values())) if split_tap(tap)[1] == GROK_1.choice else None
    found = name_fault([residual_of(exhibit, Prediction((0, tap), exact, faulty, fence, mask, None, probabilities))])
    if split_tap(tap)[1] == GROK_1.choice:  # the numbers of experts are no values that could be told apart by noise
        return found
    allowed = fence_of(exact, seen.recorded, tail_factor(seen.raw.size)).allowed
    wrong = ~(np.abs(seen.raw - exact.value) <= allowed)
    compared = np.broadcast_to(mask, seen.raw.shape)
    shown = ShownTap(
        exhibit, 0, tap, scope, values, seen.raw, exact.value, fence.deviation, compared, wrong & compared
    )  # fmt: skip
    with contextlib.suppress(ArithmeticError, IndexError, KeyError, ValueError):  # of values that may be anything
        return described_by(found, [shown])
    return found
