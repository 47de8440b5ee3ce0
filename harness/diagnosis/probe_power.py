"""What a run over probes can see, by what a candidate shows of them; the table is written by `probe_rates`.

A probe shows a known fault or does not: the shares of draws that the golden cases have (`diagnosis.power`) are all or
nothing there. A fault that some case was never asked for, since others show it, is not told of a run of that case.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.cases.probes import PREFIX, PROBES
from grok_conformance.harness.contract import LOGITS, CandidateInfo, LogitForm, select_taps, tap_names
from grok_conformance.harness.diagnosis.power import Power
from grok_conformance.harness.faults import FAULTS

FILE = Path(__file__).parents[1] / "faults" / "probe_power.json"

NUM_TOP = 20
"""The log probabilities of which was measured what they show."""

ALL, LAST, TOP, TOKENS = "all logits", "last position", f"top {NUM_TOP} log probabilities", "greedy tokens"
HIDDEN = "hidden states, router logits, cache"
"""The forms of showing that were measured."""

HIDDEN_STATES = ("embedding", "layers.*.output", "layers.*.router.logits", "layers.*.kv.*", "final_norm", LOGITS)
"""What the form of hidden states shows."""


@dataclass(frozen=True)
class ProbePower:
    """By case the faults that were asked of it, and by form of showing and case those that it shows."""

    measured: Mapping[str, Sequence[str]]
    seen: Mapping[str, Mapping[str, Sequence[str]]]
    format: int = 1


@functools.cache
def probe_table() -> ProbePower:
    """Return the committed table."""
    return ProbePower(**json.loads(FILE.read_text()))


def forms_of(info: CandidateInfo) -> tuple[str, ...]:
    """Return the measured forms that come nearest to what a candidate shows: it sees what all of them see."""
    form, names = info.logits, tap_names(PROBES["probe_whole"].config)
    if form == LogitForm() and set(select_taps(names, HIDDEN_STATES)) <= set(select_taps(names, info.taps)):
        return (HIDDEN,)
    few = form.kind == "tokens" or (form.top is not None and form.top < NUM_TOP)
    values = TOKENS if few else TOP if form.kind == "log_probabilities" else ALL
    return (LAST,) if form.positions == "last" and values == ALL else (values, *[LAST] * (form.positions == "last"))


def power_of_probes(
    info: CandidateInfo, cases: Iterable[tuple[str, str]], table: ProbePower | None = None
) -> tuple[Power, ...]:
    """Return what a run over some cases, (id, compute dtype), can see in probes, per compute dtype of these."""
    by_dtype: dict[str, list[str]] = {}
    for case, dtype in cases:
        if case.startswith(PREFIX):
            by_dtype.setdefault(dtype, []).append(case)
    told = table or probe_table()
    return tuple(_power(dtype, ids, forms_of(info), told) for dtype, ids in sorted(by_dtype.items()))


def _power(dtype: str, cases: Sequence[str], forms: Sequence[str], table: ProbePower) -> Power:
    known = [name for name, fault in FAULTS.items() if not fault.harmless]
    asked = {fault for case in cases for fault in table.measured.get(case, ())}
    seen = [{fault for case in cases for fault in table.seen[form].get(case, ())} for form in forms]
    probability = {name: float(all(name in each for each in seen)) for name in known if name in asked}
    return Power(
        fprop_dtype=dtype,
        probability=probability,
        invisible=tuple(name for name, chance in probability.items() if not chance),
        not_asked=tuple(name for name in known if name not in asked),
        probes=" and ".join(forms),
    )
