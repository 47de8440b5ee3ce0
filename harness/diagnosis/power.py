"""What a run can see: the chance that each known fault is found, known before anything is run (ARCHITECTURE: power).

The chances are worked out once for every level of taps (`diagnosis.power_model`, written by
`python -m tests.fault_detection`) and looked up for a candidate.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.cases.probes import PREFIX
from grok_conformance.harness.contract import LEVELS, tap_specs
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.measure.words import number_of

POWER_FILE = Path(__file__).parents[1] / "faults" / "power.json"

VISIBLE = 0.5
"""A fault with less power than this cannot be counted on to be seen."""

Table = Mapping[str, Mapping[str, Mapping[str, float]]]
"""The power by level, fault and case; what is not listed is 0."""


@dataclass(frozen=True)
class Power:
    """What one run could see in one compute dtype, at the level of a candidate.

    `probability` is the chance that a known fault is found, by its id; the faults below one half are `invisible`, and
    `not_asked` those for which no case of the run is meant. `probes` is the form in which probes are shown, empty of
    other cases (`diagnosis.probe_power`).
    """

    fprop_dtype: str
    probability: Mapping[str, float]
    invisible: tuple[str, ...]
    not_asked: tuple[str, ...]
    probes: str = ""


def taps_of_level(level: str) -> tuple[str, ...]:
    """Return the globs of all taps that a candidate of a level shows."""
    return tuple(spec.name for spec in tap_specs() if LEVELS.index(spec.level) <= LEVELS.index(level))


@functools.cache
def power_table() -> Table:
    """Return the committed table."""
    table: Table = json.loads(POWER_FILE.read_text())["power"]
    return table


def power_of_run(level: str, cases: Iterable[tuple[str, str]], table: Table | None = None) -> tuple[Power, ...]:
    """Return what a run over some cases, (id, compute dtype), can see at a level, per compute dtype."""
    powers = (table or power_table()).get(level, {})
    by_dtype: dict[str, list[str]] = {}
    for case, dtype in cases:
        if case.startswith(PREFIX):  # `diagnosis.probe_power` tells of these
            continue
        by_dtype.setdefault(dtype, []).append(case)
    return tuple(_power(dtype, ids, powers) for dtype, ids in sorted(by_dtype.items()))


def _power(dtype: str, cases: Sequence[str], powers: Mapping[str, Mapping[str, float]]) -> Power:
    known = {name: fault for name, fault in FAULTS.items() if not fault.harmless}
    asked = {
        name
        for name, fault in known.items()
        if any(fnmatch.fnmatchcase(case, pattern) for case in cases for pattern in fault.shown_by)
    }
    probability = {
        name: 1 - math.prod(1 - powers.get(name, {}).get(case, 0.0) for case in cases)
        for name in known
        if name in asked
    }
    return Power(
        fprop_dtype=dtype,
        probability=probability,
        invisible=tuple(name for name, chance_found in probability.items() if chance_found < VISIBLE),
        not_asked=tuple(name for name in known if name not in probability),
    )


def describe(power: Power) -> str:
    """Return a power statement in one line."""
    seen = len(power.probability) - len(power.invisible)
    shown = f", by probes of which it shows {power.probes}" if power.probes else ""
    text = f"{power.fprop_dtype}{shown}: {seen} of {number_of(len(power.probability), 'known faults')} would be seen"
    text += f"; cannot see {', '.join(power.invisible)}" if power.invisible else ""
    count = len(power.not_asked)
    others = "1 other needs" if count == 1 else f"{count} others need"
    return text + (f"; {others} other cases" if count else "")
