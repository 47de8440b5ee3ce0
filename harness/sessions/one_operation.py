"""One operation without a model, for the author of a kernel; and every tap of a model in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.case import Cache, Call, Case, Preset
from grok_conformance.harness.checks.evidence import Evidence, Observed
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import (
    Array,
    LanguageModelConfig,
    Weights,
    split_tap,
    tap_name,
)
from grok_conformance.harness.contract.grok_1 import PUBLISHED
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
from grok_conformance.harness.graph.row import LAST_OUTPUT, RESIDUAL_STREAM, Exact, Scope
from grok_conformance.harness.measure.comparison import Comparison, widen
from grok_conformance.harness.measure.noise import fence_of, margin, tail_factor
from grok_conformance.harness.report.explanation import remedies
from grok_conformance.harness.running.python_runner import as_array
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


def oracle(
    config: LanguageModelConfig, weights: Weights, tokens: Array, lengths: Array | None = None
) -> dict[str, Array]:
    """Return every tap of a prefill in exact arithmetic, float64 by tap name.

    `tokens` int [b, t] of which the first `lengths` int [b] of each row are real, all by default; `weights` by stored
    name (SPEC §2). `config.fprop_dtype` says how stored weights are rounded.
    """
    tokens = np.asarray(tokens, np.int32)
    real = np.full(len(tokens), tokens.shape[1], np.int32) if lengths is None else np.asarray(lengths, np.int32)
    case = case_of(config, tokens, real)
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
    tokens: Array | None = None,
    steps: Array | None = None,
    mask: Array | None = None,
) -> OperationReport:
    """Check what one operation gave, `observed`, from what it was given; `explain OPERATION` says what it reads.

    `inputs` are the taps that it reads, `weights` its matrices, under the names that the table of operations has for
    them, or as NAME.weight (int8) and NAME.scales; `dtype` is the compute dtype. Axes are those of the taps. The
    configuration is the published one in the sizes of the arrays; `tokens` [b, t] (none of them a pad), `steps` [b] (0)
    and `mask` [b, t] (all) matter to few. Raises ValueError for what is missing or does not fit.
    """
    if operation not in SPECS or operation in WITHOUT_A_MODEL:
        raise ValueError(unknown("operation", operation, [name for name in SPECS if name not in WITHOUT_A_MODEL]))
    seen = as_array("observed", observed)
    given = {name: as_array(name, x) for name, x in inputs.items()}
    config = replace(config or config_of(operation, given, seen), fprop_dtype=dtype)
    tap = tap_name(0 if SPECS[operation].per_layer else None, operation)
    values = named_inputs(tap, config, given)
    exact_weights = ExactWeights(config, named_weights(tap, config, weights or {}))
    axes = SPECS[operation].axes
    shape = tuple(seen.shape[axes.index(letter)] for letter in "bt")
    words = np.ones(shape, np.int32) if tokens is None else np.asarray(tokens, np.int32)
    before = np.zeros(shape[0], np.int32) if steps is None else np.asarray(steps, np.int32)
    scope = Scope(config, words, before, visible_keys(config, words, before), margin(seen.size))
    case = case_of(config, words, np.full(shape[0], shape[1], np.int32), before)
    recorded = GROK_1.recorded_dtypes(config, exact_weights.stored)[operation]
    compared = masks_of(case, config, GROK_1.taps)[0, operation]
    if mask is not None:
        places = [shape["bt".index(axis)] if axis in "bt" else 1 for axis in axes]
        compared = compared & np.asarray(mask, bool).reshape(places)
    taken = Observed(seen, recorded, compared)
    evidence = Evidence(config, {operation: recorded}, {(0, tap): taken}, {}, {(0, operation): compared})
    exhibit = Exhibit(Preset("own", config, exact_weights.stored), case, evidence, exact_weights)
    found, way = best_way(tap, scope, exhibit, values)
    diagnosis = None if found.passed else diagnosis_of(tap, scope, exhibit, values)
    return OperationReport(found, way, diagnosis)


def config_of(operation: str, inputs: Mapping[str, Array], observed: Array) -> LanguageModelConfig:
    """Return the published configuration in the sizes that the arrays have; raises ValueError where two disagree."""
    sizes: dict[str, int] = {}
    taps = dict(zip((RESIDUAL_STREAM, LAST_OUTPUT), GROK_1.stream, strict=True))
    for name, x in [*inputs.items(), (operation, observed)]:
        spec = SPECS.get(taps.get(name, name.removeprefix("previous:")))
        if spec is None or x.ndim != len(spec.axes):
            wanted = "no tap" if spec is None else f"expected [{', '.join(spec.axes)}]"
            raise ValueError(f"{name}: shape {list(x.shape)}, {wanted}")
        for axis, size in zip(spec.axes, x.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(f"{name}: axis {axis} has size {size}, elsewhere {sizes[axis]}")
    own = PUBLISHED.model
    heads, dense = sizes.get("g", own.num_kv_heads), SPECS[operation].block == "dense"
    model = replace(
        own,
        emb_size=sizes.get("d", own.emb_size),
        key_size=sizes.get("h", own.key_size),
        num_kv_heads=heads,
        num_q_heads=sizes.get("q", heads * sizes.get("r", own.num_q_heads // own.num_kv_heads)),
        num_experts=sizes.get("e", own.num_experts) if not dense else 1,
        num_selected_experts=sizes.get("c", own.num_selected_experts) if not dense else 1,
    )
    length = max(sizes.get("s", 0), sizes.get("t", 0))
    return replace(PUBLISHED, model=model, vocab_size=sizes.get("v", PUBLISHED.vocab_size), sequence_len=length)


def named_inputs(tap: str, config: LanguageModelConfig, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return the inputs of a row by the taps that they stand for, float64; raises ValueError for a missing one."""
    names = GROK_1.operation_of(tap, config).inputs
    if set(given) != set(names):
        raise ValueError(f"{tap}: inputs {', '.join(sorted(given)) or 'none'}; it reads {', '.join(names) or 'none'}")
    return {full: widen(given[name]) for name, full in zip(names, GROK_1.input_taps(tap, config), strict=True)}


def named_weights(tap: str, config: LanguageModelConfig, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return the weights of a row by stored name; raises ValueError for a missing one."""
    names, stored = GROK_1.operation_of(tap, config).weights, GROK_1.weight_names(tap, config)
    found: dict[str, Array] = {}
    for name, full in zip(names, stored, strict=True):
        parts = [part for part in ("", ".weight", ".scales") if name + part in given]
        if parts not in ([""], [".weight", ".scales"]):
            raise ValueError(f"{tap}: weights need {name}, or {name}.weight and {name}.scales")
        found |= {full + part: as_array(name, given[name + part]) for part in parts}
    return found


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
