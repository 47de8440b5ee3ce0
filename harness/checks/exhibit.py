"""One answered case as all checks are given it: what was asked, what was shown, and in which ways it was computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, holds_quirk
from grok_conformance.harness.checks.evidence import Evidence, gather
from grok_conformance.harness.checks.readings import PHASES, Readings, describe, phase_of, producers
from grok_conformance.harness.contract import LOGITS, Array, CandidateInfo, split_tap, tap_name
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import ExactWeights, Plans
from grok_conformance.harness.graph.quantised import declared
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from grok_conformance.harness.graph.row import Operation
from grok_conformance.harness.measure.comparison import Comparison


@dataclass(frozen=True)
class Ways:
    """How a candidate computes: a rounding plan by row, and a reading by edge, none where the published way holds."""

    plans: Plans = field(default_factory=dict)
    readings: Readings = field(default_factory=dict)

    def without_one(self) -> Iterator[Ways]:
        """Yield these ways with one choice, or all that was read of one input, taken back."""
        for name, plan in self.plans.items():
            for point in plan.choices:
                kept = {each: choice for each, choice in plan.choices.items() if each != point}
                others = {each: made for each, made in self.plans.items() if each != name}
                yield replace(self, plans={**others, name: RoundingPlan(kept)} if kept else others)
        for edge in dict.fromkeys((row, name) for _, row, name in self.readings):
            yield replace(self, readings={at: read for at, read in self.readings.items() if at[1:] != edge})

    def with_one_alike(self) -> Iterator[Ways]:
        """Yield these ways with one reading of an input in all phases, where it differs between them."""
        for _, row, name in self.readings:
            read = {self.readings.get((phase, row, name), "rounded") for phase in PHASES}
            for reading in sorted(read - {"rounded"} if len(read) > 1 else ()):
                alike: Readings = {(phase, row, name): reading for phase in PHASES}
                yield replace(self, readings={**self.readings, **alike})

    def without_approximations(self, graph: ModelGraph) -> Ways:
        """Return these ways without the choices that add an error."""
        plans = {name: plan.without_added_errors(graph.by_name[name].points) for name, plan in self.plans.items()}
        return replace(self, plans=plans)

    def describe(self, row: Operation) -> str:
        """Return in words how a row is computed, an empty string for the published way."""
        plan = self.plans.get(row.name, AS_PUBLISHED)
        return ", ".join(part for part in (plan.words(row.points), describe(self.readings, row.name)) if part)


@dataclass(frozen=True)
class Exhibit:
    """One answered case: what it is, what a candidate showed, the exact weights, and the ways it is taken to compute.

    This is the one context object of the checks: it travels whole, and `replace` changes what a step finds out. While
    ways are looked for that hold in some calls only, `calls` are those that are looked at.
    """

    preset: Preset
    case: Case
    evidence: Evidence
    weights: ExactWeights
    ways: Ways = field(default_factory=Ways)
    calls: Collection[int] | None = None

    def looks_at(self, call: int) -> bool:
        """Return whether a call is looked at."""
        return self.calls is None or call in self.calls

    @property
    def quirk(self) -> bool:
        """Whether the case asks for a published quirk, or for an order of ties that the candidate does not claim.

        Such a case tells nothing of how the operations are computed.
        """
        return holds_quirk(self.case, self.evidence.config.pad_token) or self.ties_are_open

    @property
    def ties_are_open(self) -> bool:
        """Whether the case tests the published order of equal scores, and the candidate does not claim it."""
        return self.case.tie_rule and not self.evidence.tie_rule

    @property
    def hides_taps(self) -> bool:
        """Whether any tap of the case is not shown."""
        return bool(self.hidden)

    @property
    def hidden(self) -> frozenset[str]:
        """The rows of which some tap is not shown."""
        return self.evidence.hidden

    def is_behind_hidden(self, tap: str) -> bool:
        """Return whether a tap is computed from what is not shown."""
        name = self.evidence.graph.operation_of(tap, self.evidence.config).name
        return not self.hidden.isdisjoint(self.needed([name]) - {name})

    def needed(self, rows: Collection[str]) -> frozenset[str]:
        """Return the rows that must be worked out for some rows: also what was carried to them, and what is hidden."""
        return producers(rows, self.ways.readings, self.evidence.graph, self.evidence.config, self.hidden)

    def logits_alone(self) -> Exhibit:
        """Return the case as a candidate shows it that gives nothing but logits."""
        observed = {key: seen for key, seen in self.evidence.observed.items() if key[1] == LOGITS}
        return replace(self, evidence=replace(self.evidence, observed=observed, problems={}))

    @property
    def look(self) -> Callable[[int, str], Array | None]:
        """The value of a tap (call, name) as it was shown, fit to be computed with; None where it was not."""
        cleaned = self.evidence.cleaned
        if not any(plan.hangs_on_experts for plan in self.ways.plans.values()):
            return lambda call, tap: cleaned.get((call, tap))
        # How many tokens an expert has then decides how it computes, and pads are among them.
        chosen = {key: replace(seen, mask=np.True_).cleaned for key, seen in self.evidence.observed.items()
                  if split_tap(key[1])[1] == self.evidence.graph.choice}  # fmt: skip
        return lambda call, tap: chosen.get((call, tap), cleaned.get((call, tap)))

    def tokens_of_expert(self, call: int, layer: int | None) -> Array | None:
        """Return how many tokens of a call, pads too, have each chosen expert, int [b, t, c]; None where not shown."""
        seen = self.evidence.observed.get((call, tap_name(layer, self.evidence.graph.choice)))
        if seen is None:
            return None
        chosen = replace(seen, mask=np.True_).cleaned.astype(np.int64)
        numbers: Array = np.unique(chosen, return_counts=True)[1][np.unique(chosen, return_inverse=True)[1]]
        return numbers.reshape(chosen.shape)

    def row_of(self, comparison: Comparison) -> str:
        """Return the row of the graph that made a comparison's tap."""
        return self.evidence.graph.operation_of(comparison.tap, self.evidence.config).name

    def form_of(self, row: Operation) -> tuple[str, ...]:
        """Return in words what the ways of a row may hang on in this case, beside the compute dtype."""
        return self.evidence.graph.form_of(row, self.evidence.config, self.preset.weights)

    def masked(self, comparison: Comparison) -> bool:
        """Whether a compared value hangs on which keys a query sees, by its own row or by hidden rows before it."""
        graph, config, row = self.evidence.graph, self.evidence.config, self.row_of(comparison)
        rows = {row, *self.needed({row})}
        return any(graph.specs[each.tap].compared == "weights" for each in graph.rows_of(config) if each.name in rows)

    def hangs_on_ties(self, comparison: Comparison) -> bool:
        """Whether a compared value is a choice of experts, or follows one that is not shown."""
        graph = self.evidence.graph
        return comparison.operation == graph.choice or graph.choice in {graph.by_name[row].tap for row in self.hidden}

    def phase(self, comparison: Comparison) -> str:
        """Return the phase of a comparison's call."""
        return phase_of(self.case.calls[comparison.call].tokens.shape[1])


def exhibit_of(
    preset: Preset,
    case: Case,
    info: CandidateInfo,
    taps: Mapping[str, Array],
    weights: ExactWeights | None = None,
    asked: Sequence[Collection[str]] | None = None,
) -> Exhibit:
    """Return what a candidate showed in a case (by `call0/TAP`) as an exhibit; `weights` are made where not given.

    `asked` are the glob patterns of the taps that each call was asked for, None for all.
    """
    made = weights or ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    if info.quantised:
        made = replace(made, graph=declared(made.graph, info.quantised))
    case = replace(case, form=info.logits)
    return Exhibit(preset, case, gather(preset, case, info, taps, made.graph, asked), made)
