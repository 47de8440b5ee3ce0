"""The local check of a large capture: every operation recomputed in float64 from the inputs that the port itself used.

Stage by stage, from what the forms `full` and `rows` keep. A kept position is judged as a call of one token at its own
step, so that all operations of the graph apply as they are. Matrices of experts are dequantised one expert at a time,
and of their output channels a seeded sample is judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import steps_before
from grok_conformance.harness.checks.evidence import experts_named, safe
from grok_conformance.harness.checks.operation_by_operation import slack_of
from grok_conformance.harness.contract import LOGITS, Array, LanguageModelConfig, Weights, split_tap, tap_name
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import compared, expand, visible_keys
from grok_conformance.harness.graph.oracle import ExactWeights, dequantized, evaluate
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.large.forms import token_axis
from grok_conformance.harness.large.plan import Plan
from grok_conformance.harness.large.store import read_stage
from grok_conformance.harness.measure.blocks import Pair
from grok_conformance.harness.measure.comparison import Comparison, Kind, clean, compare, compare_routing, widen
from grok_conformance.harness.measure.noise import margin, tail_factor


@dataclass(frozen=True)
class Sample:
    """Which output channels of the experts and of the logits are judged: a fraction of them, drawn by the seed."""

    fraction: float = 1 / 16
    seed: int = 0

    def channels(self, num_channels: int) -> Array:
        """Return the sorted channels, at least one."""
        count = max(1, round(num_channels * self.fraction))
        drawn = np.random.default_rng(self.seed).choice(num_channels, count, replace=False)
        ordered: Array = np.sort(drawn)
        return ordered


@dataclass(frozen=True)
class SampledExperts:
    """An expert matrix float64 [e, k, channels], one expert dequantised at a time."""

    config: LanguageModelConfig
    stored: Weights
    name: str
    channels: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the sampled matrix."""
        whole = self.stored[self.name if self.name in self.stored else f"{self.name}.weight"]
        return (*whole.shape[:-1], len(self.channels))

    def __getitem__(self, expert: int) -> Array:
        """Return one expert's columns float64 [k, channels]."""
        names = [name for name in (self.name, f"{self.name}.weight", f"{self.name}.scales") if name in self.stored]
        columns = {name: self.stored[name][expert][..., self.channels] for name in names}
        return dequantized(self.config, columns, self.name, "published")


def check_stage(
    folder: Path, plan: Plan, stage: str, stored: Weights, sample: Sample | None = None
) -> Iterator[Comparison]:
    """Yield the comparison of every tap of a stage with its operation applied to what the capture shows.

    `stored` are the checkpoint's weights by name. Raises FileError for a capture of sketches, which cannot be judged
    operation by operation.
    """
    if plan.form == "sketch":
        raise FileError(f"{folder}: holds sketches, which no operation can be recomputed from: capture rows or full")
    sample = sample or Sample()
    weights = ExactWeights(plan.config, stored)
    files = {name: read_stage(folder, name) for name in needed_stages(plan, stage)}
    shown = {name: x for file in files.values() for name, x in file.items()}
    for call in range(len(plan.calls)):
        yield from _check_call(plan, stage, call, shown, weights, sample)


def needed_stages(plan: Plan, stage: str) -> tuple[str, ...]:
    """Return a stage and the one before it, whose residual stream it reads."""
    place = plan.stages.index(stage)
    return plan.stages[max(place - 1, 0) : place + 1]


def _check_call(
    plan: Plan, stage: str, call: int, shown: Mapping[str, Array], weights: ExactWeights, sample: Sample
) -> Iterator[Comparison]:
    config, case = plan.config, plan.case
    tokens, steps = plan.calls[call].tokens, steps_before(case, call)
    rows = np.arange(tokens.shape[1]) if plan.form == "full" else np.array(plan.kept_rows(call))
    recorded = GROK_1.recorded_dtypes(config, weights.stored)
    num_elements = plan.num_layers * sum(x.size for name, x in shown.items() if not name.endswith("/summary"))
    factor, reach = tail_factor(num_elements), margin(num_elements)
    scope = Scope(
        config,
        fold(tokens[:, rows], 1),
        (steps[:, None] + rows).reshape(-1).astype(np.int32),
        fold(visible_keys(config, tokens, steps)[:, rows], 1),
        reach,
    )
    masks = folded_masks(plan, call, rows, scope.steps)
    raw = {
        tap: folded(plan, tap, shown[f"call{call}/{tap}"], rows)
        for stage_name in needed_stages(plan, stage)
        for tap in plan.taps(stage_name)
        if f"call{call}/{tap}" in shown
    }
    values = {tap: safe(clean(x, np.True_), experts_named(SPECS[split_tap(tap)[1]], config)) for tap, x in raw.items()}
    values |= {f"previous:{tap}": x for tap, x in values.items() if split_tap(tap)[1] in GROK_1.copies}
    if call:
        yield from _check_earlier_slots(plan, stage, call, shown, steps)
    for tap in plan.taps(stage):
        if tap not in raw:
            yield Comparison(call, tap, 0, problem=f"{Kind.MISSING}: not in the capture")
            continue
        operation = split_tap(tap)[1]
        mask = expand(masks[SPECS[operation].compared], SPECS[operation])
        if operation == GROK_1.choice:
            scores = values[tap_name(split_tap(tap)[0], GROK_1.scores)]
            yield compare_routing(call, tap, scores, raw[tap], mask, slack_of(Exact(scores), None, factor))
            continue
        exact, channels = _evaluate(tap, scope, weights, values, sample)
        observed = widen(raw[tap] if channels is None else raw[tap][..., channels])
        pair = Pair((call, tap), SPECS[operation].axes, exact, factor, observed, mask, recorded[operation])
        result = compare(pair)
        yield _placed(result, values, rows, channels)


def _evaluate(
    tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], sample: Sample
) -> tuple[Exact, Array | None]:
    """Apply an operation; return the exact result, and the channels to which it is restricted, None for all."""
    config = scope.config
    operation = GROK_1.operation_of(tap, config)
    inputs = [values[name] for name in GROK_1.input_taps(tap, config)]
    names = GROK_1.weight_names(tap, config)
    num_channels = config.axis_sizes.get(SPECS[operation.tap].axes[-1], 0)
    if GROK_1.reads_experts(operation):
        (name,) = names
        channels = sample.channels(num_channels)
        sampled = SampledExperts(config, weights.stored, name, channels)
        return operation.function(*inputs, sampled, scope=scope, plan=AS_PUBLISHED), channels
    if operation.looks_up:
        ids, places = np.unique(scope.tokens, return_inverse=True)
        local = replace(scope, tokens=places.reshape(scope.tokens.shape))
        table = weights.stored[names[0]][ids].astype(np.float64)
        return operation.function(table, scope=local, plan=AS_PUBLISHED), None
    if operation.tap == LOGITS:
        channels = sample.channels(num_channels)
        table = weights.stored[names[0]][channels].astype(np.float64)
        return operation.function(*inputs, table, scope=scope, plan=AS_PUBLISHED), channels
    return evaluate(tap, scope, weights, values), None


def folded(plan: Plan, tap: str, x: Array, rows: Array) -> Array:
    """Return what is stored of a tap with every kept position as a row of the batch that has one token.

    Caches are repeated for every position; [b, …, t, …] becomes [b · rows, …, 1, …].
    """
    axes = SPECS[split_tap(tap)[1]].axes
    if "t" not in axes:
        return np.repeat(x, len(rows), axis=0)
    axis = token_axis(axes)
    if plan.form_of(tap) == "full":
        x = np.take(x, rows, axis=axis)
    return fold(x, axis)


def fold(x: Array, axis: int) -> Array:
    """Move an axis into the batch and leave one of length 1 in its place."""
    moved = np.moveaxis(x, axis, 1)
    return np.expand_dims(moved.reshape(-1, *moved.shape[2:]), axis)


def folded_masks(plan: Plan, call: int, rows: Array, steps: Array) -> dict[str, Array]:
    """Return the masks of `graph.masks.compared` for folded taps; of a cache only each position's own slot counts."""
    kinds = compared(plan.case, call, plan.config)
    slots = np.repeat(kinds.pop("slots"), len(rows), axis=0)
    own = np.arange(slots.shape[1]) == steps[:, None]
    masks = {kind: mask[:, rows].reshape(-1, 1, *mask.shape[2:]) for kind, mask in kinds.items()}
    return {**masks, "slots": slots & own}


def _check_earlier_slots(
    plan: Plan, stage: str, call: int, shown: Mapping[str, Array], steps: Array
) -> Iterator[Comparison]:
    """Report every cache in which a slot that an earlier call filled has changed."""
    for tap in plan.taps(stage):
        before, after = (shown.get(f"call{c}/{tap}") for c in (call - 1, call))
        if split_tap(tap)[1] not in GROK_1.copies or before is None or after is None:
            continue
        filled = np.arange(before.shape[1]) < steps[:, None]  # [b, s]
        if before[filled].tobytes() != after[filled].tobytes():
            yield Comparison(call, tap, int(filled.sum()), problem="a slot that an earlier call filled has changed")


def _placed(result: Comparison, values: Mapping[str, Array], rows: Array, channels: Array | None) -> Comparison:
    """Return a comparison with its index in the tap as the port made it, and the expert where one is at fault."""
    if not result.index:
        return result
    axes = SPECS[result.operation].axes
    place = list(result.index)
    note = result.note
    if GROK_1.reads_experts(GROK_1.by_name[result.operation]):
        index = values[tap_name(result.layer, GROK_1.choice)]
        note = f"expert {int(index[place[0], 0, place[2]])}"
    if channels is not None:
        place[-1] = int(channels[place[-1]])
    place[0], position = divmod(place[0], len(rows))
    if "t" in axes:
        place[token_axis(axes)] = int(rows[position])
    return replace(result, index=tuple(place), note=note, tokens=())


def select_stages(plan: Plan, layers: Collection[int] | None) -> tuple[str, ...]:
    """Return the stages to be judged: all, or some layers; raises FileError for one that was not captured."""
    if layers is None:
        return plan.stages
    names = tuple(f"layers.{i:02d}" for i in sorted(set(layers)))
    for name in names:
        if name not in plan.stages:
            raise FileError(f"{name}: not captured: there are {plan.num_layers} layers")
    return names
