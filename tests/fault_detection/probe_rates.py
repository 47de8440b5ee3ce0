"""What probes show in the little that engines show: `python -m tests.fault_detection.probe_rates [GLOB …]`.

Predicted is the emulated port with a fault, observed the torch port with the fault patched in by hand. Both are judged
by the local check on what is shown, as in a run; a fault is detected if it fails in any case of the probes. A case that
was measured already is measured again only if its probe has changed, and asked only for what no earlier one shows.
What is predicted is what a run tells of its power (`harness/faults/probe_power.json`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.cases.probes import PROBES, make_probe, probe_cases
from grok_conformance.harness.contract import ALL_LOGITS, LogitForm
from grok_conformance.harness.diagnosis.probe_design import HONEST, Shown, prepare, strength, strengths
from grok_conformance.harness.diagnosis.probe_power import (
    ALL,
    FILE,
    HIDDEN,
    HIDDEN_STATES,
    LAST,
    NUM_TOP,
    TOKENS,
    TOP,
    ProbePower,
)
from grok_conformance.harness.faults import FAULTS, Fault
from tests.conformance.port_patch import patched
from tests.conformance.porting_faults import FAULTS as PATCHES
from tests.conformance.torch_cases import torch_taps
from tests.fault_detection.summary import PAGE
from tests.written_block import write_block


@dataclass(frozen=True)
class Showing:
    """What an engine shows: some taps, and the form of its logits."""

    logits: LogitForm
    taps: tuple[str, ...] = ("logits",)


FORMS: Mapping[str, Showing] = {
    ALL: Showing(ALL_LOGITS),
    LAST: Showing(LogitForm(positions="last")),
    TOP: Showing(LogitForm(kind="log_probabilities", top=NUM_TOP)),
    TOKENS: Showing(LogitForm(kind="tokens")),
    HIDDEN: Showing(ALL_LOGITS, HIDDEN_STATES),
}
RESULTS = Path(__file__).with_name("probe_rates.json")
BEGIN = "<!-- probes: written by python -m tests.fault_detection.probe_rates -->"
END = "<!-- end of probes -->"
DETECTED = 1.0
KNOWN = {name: fault for name, fault in FAULTS.items() if fault.changes and not fault.harmless}

Strengths = dict[str, list[float]]
"""By fault its strength in each form of showing; the fault "" is an honest port."""


@dataclass(frozen=True)
class Measured:
    """What one case showed: predicted for an emulated port, and observed in the torch port.

    `asked` tells with which weights and tokens it was measured.
    """

    asked: str
    predicted: Strengths
    observed: Strengths


Side = Literal["predicted", "observed"]
SIDES: tuple[Side, ...] = get_args(Side)

Rates = dict[str, Measured]
"""What was measured, by case."""


def observed(
    preset: Preset, case: Case, shown: list[Shown], faults: Collection[str]
) -> Iterator[tuple[str, list[float]]]:
    """Yield the strength of the honest torch port, and of some faults patched into it, in each form."""
    yield HONEST, strengths_of(preset, case, shown)
    for name, patch in PATCHES.items():
        if name not in faults:
            continue
        try:
            with patched(patch):
                found = strengths_of(preset, case, shown)
        except KeyError:  # a fault between two layers, in a model of one: this case does not ask
            continue
        yield name, found


def strengths_of(preset: Preset, case: Case, shown: list[Shown]) -> list[float]:
    """Return how far the torch port as it now is strays in a case, in each form."""
    taps = torch_taps(preset, case)
    return [strength(each, taps) for each in shown]


def asked_in(case: Case) -> str:
    """Return what tells whether a case is still the one that was measured: its probe's weights, and its tokens."""
    digest = hashlib.sha256(PROBES[case.preset].digest.encode())
    for call in case.calls:
        digest.update(call.tokens.tobytes())
    return digest.hexdigest()[:16]


def measure(case: Case, faults: Mapping[str, Fault]) -> Measured:
    """Return what one case shows of some faults, to four digits."""
    preset = make_probe(case.preset)
    shown = [prepare(preset, case, form.logits, form.taps) for form in FORMS.values()]
    predicted = strengths(shown, faults)
    return Measured(asked_in(case), rounded(predicted), rounded(dict(observed(preset, case, shown, faults))))


def unseen(found: Rates, dtype: str) -> dict[str, Fault]:
    """Return the faults that what was measured in a dtype does not yet show in every form, greedy tokens apart."""
    forms = [i for i, form in enumerate(FORMS.values()) if form.logits.kind != "tokens"]
    best = [strongest(found, side, dtype, form) for side in SIDES for form in forms]
    return {name: fault for name, fault in KNOWN.items() if min(each.get(name, 0.0) for each in best) <= DETECTED}


def rounded(found: Strengths) -> Strengths:
    """Return strengths to four digits."""
    return {name: [float(f"{x:.4g}") for x in ratios] for name, ratios in found.items()}


def strongest(found: Rates, side: Side, dtype: str, form: int) -> dict[str, float]:
    """Return by fault the largest strength over the cases of a compute dtype.

    Where more than logits is shown and passes, they are judged by themselves too (`harness/judging/operations.py`).
    """
    showing = list(FORMS.values())
    alone = showing.index(Showing(showing[form].logits))
    best: dict[str, float] = {}
    for case, measured in found.items():
        if case.endswith(dtype):
            for name, each in getattr(measured, side).items():
                best[name] = max(best.get(name, 0.0), each[form], each[alone])
    return best


def shipped(found: Rates) -> ProbePower:
    """Return what a run is to tell: by case the faults that were asked of it, and those predicted to be seen."""
    forms = {
        name: [strongest({case: each}, "predicted", "", i) for case, each in found.items()]
        for i, name in enumerate(FORMS)
    }
    return ProbePower(
        measured={case: sorted(set(each.predicted) - {HONEST}) for case, each in found.items()},
        seen={
            name: {
                case: sorted(fault for fault, ratio in best.items() if ratio > DETECTED and fault != HONEST)
                for case, best in zip(found, each, strict=True)
            }
            for name, each in forms.items()
        },
    )


def page(found: Rates) -> str:
    """Return the page: a table of forms, and what is not seen."""
    rows = [
        "| form of showing | dtype | predicted | observed in the torch port | honest (torch) | not seen in either |",
        "|---|---|---|---|---|---|",
    ]
    dtypes = [dtype for dtype in ("float32", "bfloat16") if any(case.endswith(f".{dtype}") for case in found)]
    rows += [row_of(found, dtype, form) for dtype in dtypes for form in FORMS]
    open_cases = sorted({case.id for case in probe_cases("*")} - set(found))
    told = [f"Measured: {listed(sorted(found))}."] + [f"Not measured yet: {listed(open_cases)}."] * bool(open_cases)
    return "\n\n".join((TITLE, *told, "\n".join(rows)))


def listed(cases: Collection[str]) -> str:
    """Return the names of cases as code."""
    return ", ".join(f"`{case}`" for case in cases)


def row_of(found: Rates, dtype: str, form: str) -> str:
    """Return the row of the table for a form of showing and a dtype."""
    place = list(FORMS).index(form)
    predicted, observed = (strongest(found, side, dtype, place) for side in SIDES)
    honest = observed.pop(HONEST, 0.0)
    predicted.pop(HONEST, None)
    missed = sorted({name for best in (predicted, observed) for name, ratio in best.items() if ratio <= DETECTED})
    told = ", ".join(missed) or "none" if len(missed) <= MANY else f"{len(missed)} faults"
    return f"| {form} | {dtype} | {share(predicted)} | {share(observed)} | {honest:.2f} of the fence | {told} |"


MANY = 12
TITLE = """## What the probes show in little

Written by `python -m tests.fault_detection.probe_rates`. A fault counts as seen if the local check on what is shown
fails in at least one case of the probes (`harness/cases/probes.py`); where more than logits is shown they are judged by
themselves too, as a run does. Predicted: the exact model with modelled noise and the fault; observed: the torch port
with the fault patched in by hand. The list is the catalogue, `FAULTS` of `harness/faults/`, less rows that are harmless
or change no operation: faults of precision and of kernels are not in it. One of them, `cache_unrotated_keys`, stores
other keys and gives the same logits, so that only a form that shows the cache can tell it."""


def share(best: Mapping[str, float]) -> str:
    """Return in words of how many faults the strength tells of a failure."""
    num_seen = sum(ratio > DETECTED for ratio in best.values())
    return f"{num_seen} of {len(best)}, {100 * num_seen / max(len(best), 1):.1f} %"


def recorded() -> Rates:
    """Return what was measured of the cases as they are now."""
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    current = {case.id: asked_in(case) for case in probe_cases("*")}
    return {case: Measured(**each) for case, each in stored.items() if current.get(case) == each["asked"]}


def main(patterns: list[str]) -> None:
    """Measure the cases that the patterns match, all by default, add them to the results, and write the page."""
    for pattern in patterns or ["probe_*"]:
        for case in probe_cases(pattern):
            if case.id in recorded():
                continue
            known = recorded()
            found = known | {case.id: measure(case, unseen(known, case.fprop_dtype))}
            RESULTS.write_text(json.dumps(found, default=asdict, indent=1, sort_keys=True) + "\n")
            sys.stdout.write(f"{case.id}\n")
            sys.stdout.flush()
    write_block(PAGE, BEGIN, END, page(recorded()))
    FILE.write_text(json.dumps(asdict(shipped(recorded())), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
