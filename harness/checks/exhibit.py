"""One answered case as all checks are given it: what was asked, what was shown, and in which ways it was computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.checks.evidence import Evidence, Key, gather, has_gaps
from grok_conformance.harness.checks.readings import Readings, describe, phase_of
from grok_conformance.harness.contract import Array, CandidateInfo
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.graph.row import Alternative
from grok_conformance.harness.measure.comparison import Comparison


@dataclass(frozen=True)
class Ways:
    """How a candidate computes: an alternative by row, and a reading by edge, none where the published way holds."""

    alternatives: Mapping[str, Alternative] = field(default_factory=dict)
    readings: Readings = field(default_factory=dict)

    def describe(self, operation: str, graph: ModelGraph = GROK_1) -> str:
        """Return in words how an operation is computed, an empty string for the published way."""
        rows = [row.name for row in graph.operations if row.tap == operation]
        parts = [self.alternatives[row].name for row in rows if row in self.alternatives]
        parts += [describe(self.readings, row) for row in rows]
        return ", ".join(part for part in dict.fromkeys(parts) if part)


@dataclass(frozen=True)
class Exhibit:
    """One answered case: what it is, what a candidate showed, the exact weights, and the ways it is taken to compute.

    This is the one context object of the checks: it travels whole, and `replace` changes what a step finds out.
    """

    preset: Preset
    case: Case
    evidence: Evidence
    weights: ExactWeights
    ways: Ways = field(default_factory=Ways)

    @property
    def hides_taps(self) -> bool:
        """Whether any tap of the case is not shown."""
        return has_gaps(self.evidence.graph, self.evidence.config, self.case, self.evidence.observed)

    @property
    def look(self) -> Callable[[int, str], Array | None]:
        """The value of a tap (call, name) as it was shown, fit to be computed with; None where it was not."""
        observed: Mapping[Key, Array] = {key: seen.cleaned for key, seen in self.evidence.observed.items()}
        return lambda call, tap: observed.get((call, tap))

    def row_of(self, comparison: Comparison) -> str:
        """Return the row of the graph that made a comparison's tap."""
        return self.evidence.graph.operation_of(comparison.tap, self.evidence.config).name

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
    case = replace(case, form=info.logits)
    return Exhibit(preset, case, gather(preset, case, info, taps, made.graph, asked), made)
