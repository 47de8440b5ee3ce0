"""The float64 oracle: the whole graph from tokens, or any operation from the inputs that a port itself used.

One evaluator serves both. What is *shown* is taken as it is; everything else is computed from what comes before. With
nothing shown the walk is the model in exact arithmetic; with everything shown it is the local check of every operation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from grok_conformance.harness.cases.case import Cache, Case, Preset, steps_before
from grok_conformance.harness.contract import Array, LanguageModelConfig, Weights, split_tap, tap_name
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.by_expert import in_experts
from grok_conformance.harness.graph.forms import as_shown
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, OPERANDS, SCALES, UNSIGNED, WEIGHTS, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope

DEFAULT_MARGIN = 8 * 2.0**-24
"""λ·u(float32) for the jumps of inner roundings where no run has set its own λ."""

ZERO_POINT = 128
"""The unsigned byte that is 0 where int8 values are read as such."""

Plans = Mapping[str, RoundingPlan]
"""The rounding plan in force, by row; as published where none is named."""

Perturb = Callable[[str, Exact], Array]
"""Turns an exact result into the value that flows on: itself, or itself with modelled noise."""


Evaluator = Callable[[str, Scope, "ExactWeights", Mapping[str, Array], RoundingPlan], Exact]
"""Applies the operation of a tap to given inputs, as `evaluate` does: another one has a fault, or leaves work out."""


def undisturbed(tap: str, exact: Exact) -> Array:
    """Let the exact value flow on."""
    del tap
    return exact.value


@dataclass
class ExactWeights:
    """The weights of a model in float64, dequantised once per way of rounding the product (SPEC §3)."""

    config: LanguageModelConfig
    stored: Weights
    graph: ModelGraph = GROK_1
    _made: dict[tuple[str, str], Array] = field(default_factory=dict)

    def get(self, name: str, rounding: str) -> Array:
        """Return one weight as the operations use it; `rounding` is a choice at `WEIGHTS`."""
        if (name, rounding) not in self._made:
            self._made[name, rounding] = dequantized(self.config, self.stored, name, rounding, self.graph)
        return self._made[name, rounding]


def dequantized(
    config: LanguageModelConfig, stored: Weights, name: str, rounding: str, graph: ModelGraph = GROK_1
) -> Array:
    """Return a stored weight in float64 (SPEC §3, §4.6, §9); `rounding` is a choice at `WEIGHTS`.

    As published int8 · scale is rounded to the dtype of the scales, then to the compute dtype except for the experts;
    in float32 nothing is narrower than float32. Plain matrices are rounded to the compute dtype.
    """
    compute, kind = config.fprop_dtype, graph.kind_of(name)
    narrow = compute != "float32" and rounding in ("published", "compute")
    if name in stored:
        plain = stored[name].astype(np.float64)
        return round_to(plain, compute) if narrow and kind in ("matrix", "expert") else plain
    weight, scales = stored[f"{name}.weight"], stored[f"{name}.scales"]
    groups = weight.reshape(*weight.shape[:-2], scales.shape[-2], -1, weight.shape[-1])  # [.., G, k/G, n]
    product = np.multiply(groups, scales.astype(np.float64)[..., None, :]).reshape(weight.shape)
    if narrow or rounding == "rounded":
        product = round_to(product, str(scales.dtype))
    if narrow and (kind != "expert" or rounding == "compute"):
        product = round_to(product, compute)
    return product


def offset_of(stored: Weights, name: str) -> Array:
    """Return what unsigned bytes add to a stored matrix [.., k, n], float64: a zero point, in its scales."""
    scales = stored[f"{name}.scales"].astype(np.float64)
    length = stored[f"{name}.weight"].shape[-2] // scales.shape[-2]
    return np.repeat(ZERO_POINT * scales, length, axis=-2)


def evaluate(
    tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan = AS_PUBLISHED
) -> Exact:
    """Apply one operation to given inputs; `values` holds float64 arrays by tap, earlier caches as `previous:TAP`."""
    graph, config = weights.graph, scope.config
    if plan.hangs_on_experts:
        index = values[tap_name(split_tap(tap)[0], graph.choice)]
        return in_experts(plan, index, lambda one: evaluate(tap, scope, weights, values, one))
    operation = graph.computed_by(tap, config, plan)
    names = graph.resolve_inputs(operation.inputs, tap, config)
    inputs = [consumed(values[name], graph.is_real(name), scope, plan) for name in names]
    stored = graph.stored_names(operation, tap)
    matrices = [weights.get(name, plan.at(WEIGHTS)) for name in stored]
    if stored and f"{stored[0]}.scales" in weights.stored:
        num_groups = weights.stored[f"{stored[0]}.scales"].shape[-2]
        scope = replace(scope, group_size=weights.stored[f"{stored[0]}.weight"].shape[-2] // num_groups)
    if plan.at(SCALES) != SCALES.published and f"{stored[0]}.scales" in weights.stored:
        matrices = [weights.get(stored[0], "kept")]
        scope = replace(scope, scales=weights.stored[f"{stored[0]}.scales"].astype(np.float64))
    if plan.at(UNSIGNED) != UNSIGNED.published and f"{stored[0]}.scales" in weights.stored:
        scope = replace(scope, offset=offset_of(weights.stored, stored[0]))
    return as_shown(tap, operation.function(*inputs, *matrices, scope=scope, plan=plan), scope)


def consumed(value: Array, is_real: bool, scope: Scope, plan: RoundingPlan) -> Array:  # noqa: FBT001 - of an input
    """Return an input as an operation reads it; what is no real number, like chosen experts, is read as it is."""
    choice = plan.at(OPERANDS)
    if choice == "shown" or not is_real:
        return value
    return round_to(value, scope.config.fprop_dtype if choice == "compute" else choice)


def empty_cache(config: LanguageModelConfig, batch_size: int) -> Cache:
    """Return a cache of zeros at step 0, float64."""
    sizes = config.axis_sizes
    shape = (config.model.num_layers, batch_size, *(sizes[axis] for axis in "sgh"))
    return Cache(np.zeros(shape), np.zeros(shape), np.zeros(batch_size, np.int32))


def cached_taps(graph: ModelGraph, cache: Cache) -> dict[str, Array]:
    """Return a cache as the `previous:` inputs of the first call, float64; nothing where a model keeps none."""
    taps = {}
    for layer in range(len(cache.keys)):
        for name, kept in zip(graph.copies, (cache.keys, cache.values), strict=False):
            taps["previous:" + tap_name(layer, name)] = kept[layer].astype(np.float64)
    return taps


def walk_call(
    scope: Scope,
    weights: ExactWeights,
    previous: Mapping[str, Array],
    shown: Mapping[str, Array],
    *,
    plans: Plans | None = None,
    perturb: Perturb = undisturbed,
    evaluator: Evaluator = evaluate,
    only: Collection[str] | None = None,
) -> Iterator[tuple[str, Exact, Array]]:
    """Yield (tap, exact result, value that flows on) for every tap of one call, in order.

    What is in `shown` (float64, by tap) flows on instead of the computed value; `evaluator` applies the operations.
    `only` are the rows that are worked out, all if None; what they read of others must be shown.
    """
    values = {**previous, **shown}
    for tap, row in weights.graph.taps_with_rows(scope.config):
        if only is not None and row.name not in only:
            continue
        plan = (plans or {}).get(row.name, AS_PUBLISHED).in_call(scope.tokens.shape)
        exact = evaluator(tap, scope, weights, values, plan)
        values[tap] = shown[tap] if tap in shown else perturb(tap, exact)
        yield tap, exact, values[tap]


def scope_of(preset: Preset, case: Case, call: int, margin: float = DEFAULT_MARGIN) -> Scope:
    """Return what the operations of one call of a case know besides their inputs."""
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    tokens, steps = case.calls[call].tokens, steps_before(case, call)
    return Scope(config, tokens, steps, visible_keys(config, tokens, steps), margin, case.form)


def walk(  # noqa: PLR0913 - what may be otherwise in a walk, each by its keyword
    preset: Preset,
    case: Case,
    shown: Callable[[int, str], Array | None] = lambda _call, _tap: None,
    *,
    weights: ExactWeights | None = None,
    plans: Plans | None = None,
    perturb: Perturb = undisturbed,
    evaluator: Evaluator = evaluate,
    margin: float = DEFAULT_MARGIN,
    only: Collection[str] | None = None,
) -> Iterator[tuple[int, str, Exact, Array]]:
    """Yield (call, tap, exact result, value that flows on) for a whole case, or for the taps of `only` some rows.

    `shown(call, tap)` gives the float64 value to use instead of the computed one, or None; `evaluator` applies the
    operations. What rows read of others that are not worked out must be shown.
    """
    config = replace(preset.config, fprop_dtype=case.fprop_dtype)
    weights = weights or ExactWeights(config, preset.weights)
    cache = case.preload or empty_cache(config, len(case.calls[0].tokens))
    previous, copies = cached_taps(weights.graph, cache), weights.graph.copies
    for call in range(len(case.calls)):
        scope = scope_of(preset, case, call, margin)
        values = {tap: value for tap in weights.graph.tap_names(config) if (value := shown(call, tap)) is not None}
        following = {"previous:" + tap: value for tap, value in values.items() if split_tap(tap)[1] in copies}
        for tap, exact, value in walk_call(
            scope, weights, previous, values, plans=plans, perturb=perturb, evaluator=evaluator, only=only
        ):
            if split_tap(tap)[1] in copies:
                following["previous:" + tap] = value
            yield call, tap, exact, value
        previous = following
