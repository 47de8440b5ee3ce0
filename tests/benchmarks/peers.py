"""Engines that deviate, measured beside the ports that conform: in what they deviate, and by how much.

One that has known deviations alone passes with them, and the report of its run names them. One that fails is measured
where the benchmark is told so (`--peer FILE`). It is held against the oracle here, on a small model that it can
express: 8-bit formats take rows of whole blocks of 32, which no golden preset has.
"""

from __future__ import annotations

from dataclasses import dataclass

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.end_to_end import drifts, flips, honest_run, route_of
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import LOGITS, Array
from grok_conformance.harness.judging.groups import Group, nothing_expected, run_size
from grok_conformance.harness.running.in_process import Adapter
from tests.benchmarks.scaling_sizes import Size, case_of, preset_of

JUDGED = Size(tokens=16, layers=2, width=96)


@dataclass(frozen=True)
class Deviation:
    """How an engine deviates on the small model in float32.

    `operations` fail by themselves; its logits err `drift` times as much as honest rounding may, and `num_flips`
    choices of experts have no excuse.
    """

    operations: tuple[str, ...]
    drift: float
    num_flips: int

    def __str__(self) -> str:
        """Return it in words."""
        if not self.operations:
            return "no operation fails"
        flipped = f", {self.num_flips} choices of experts without excuse" if self.num_flips else ""
        return (
            f"{', '.join(self.operations)} fail; its logits err {self.drift:,.0f} times as much as honest rounding may"
            f"{flipped}"
        )


def deviation_of(adapter: Adapter) -> Deviation:
    """Return how an engine deviates, operation by operation as published, and end to end."""
    preset, case = preset_of(JUDGED), case_of(JUDGED)
    (call,) = case.calls
    shown = adapter.load(preset.config, preset.weights).prefill(call.tokens, call.lengths, JUDGED.taps)
    exhibit = exhibit_of(preset, case, adapter.info, {tap_key(0, name): x for name, x in shown.items()})
    size = run_size([Group(preset, "float32", (case,), nothing_expected)])
    failing = [each for each in check_case(exhibit, num_elements=size) if not each.passed]
    evidence = exhibit.evidence
    honest = honest_run(preset, case, route_of(evidence), exhibit.weights, evidence.recorded)
    expected: dict[str, Array] = {tap_key(*key): x for key, x in honest.exact.items()}
    return Deviation(
        tuple(dict.fromkeys(each.operation for each in failing)),
        next(each.ratio for each in drifts(evidence, honest, expected, {}) if each.tap == LOGITS),
        sum(not each.excused for each in flips(evidence, honest, preset.config)),
    )
