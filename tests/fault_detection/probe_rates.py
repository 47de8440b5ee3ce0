"""What probes show in the logits alone, by form of showing: `python -m tests.fault_detection.probe_rates [GLOB …]`.

Predicted is the emulated port with a fault, observed the torch port with the fault patched in by hand. Both are judged
by the local check on the logits, as in a run; a fault is detected if it fails in any case of the probes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.contract import ALL_LOGITS, LogitForm
from grok_conformance.harness.diagnosis.probe_design import HONEST, Shown, prepare, strength, strengths
from grok_conformance.harness.faults import FAULTS
from tests.conformance.port_patch import patched
from tests.conformance.porting_faults import FAULTS as PATCHES
from tests.conformance.torch_cases import torch_taps

FORMS: Mapping[str, LogitForm] = {
    "all logits": ALL_LOGITS,
    "last position": LogitForm(positions="last"),
    "top 20 log probabilities": LogitForm(kind="log_probabilities", top=20),
    "greedy tokens": LogitForm(kind="tokens"),
}
RESULTS = Path(__file__).with_name("probe_rates.json")
PAGE = Path(__file__).with_name("PROBES.md")
DETECTED = 1.0
KNOWN = {name: fault for name, fault in FAULTS.items() if fault.changes and not fault.harmless}

Strengths = dict[str, dict[str, dict[str, list[float]]]]
"""`{"predicted" or "observed": {case: {fault: strength by form}}}`; the fault "" is an honest port."""


def observed(preset: Preset, case: Case, shown: list[Shown]) -> Iterator[tuple[str, list[float]]]:
    """Yield the strength of the honest torch port, and of every fault patched into it, in each form."""
    yield HONEST, [strength(each, torch_taps(preset, case, ("logits",))) for each in shown]
    for name, patch in PATCHES.items():
        if name not in KNOWN:
            continue
        try:
            with patched(patch):
                taps = torch_taps(preset, case, ("logits",))
        except KeyError:  # a fault between two layers, in a model of one: this case does not ask
            continue
        yield name, [strength(each, taps) for each in shown]


def measure(case: Case, found: Strengths) -> None:
    """Add what one case shows."""
    preset = make_probe(case.preset)
    shown = [prepare(preset, case, form) for form in FORMS.values()]
    found.setdefault("predicted", {})[case.id] = strengths(shown, KNOWN)
    found.setdefault("observed", {})[case.id] = dict(observed(preset, case, shown))


def rounded(found: Strengths) -> Strengths:
    """Return the strengths to four digits, as they are stored."""
    return {
        side: {
            case: {name: [float(f"{x:.4g}") for x in ratios] for name, ratios in faults.items()}
            for case, faults in cases.items()
        }
        for side, cases in found.items()
    }


def strongest(found: Strengths, side: str, dtype: str, form: int) -> dict[str, float]:
    """Return by fault the largest strength over the cases of a compute dtype."""
    best: dict[str, float] = {}
    for case, ratios in found[side].items():
        if case.endswith(f".{dtype}"):
            for name, each in ratios.items():
                best[name] = max(best.get(name, 0.0), each[form])
    return best


def page(found: Strengths) -> str:
    """Return the page: a table of forms, and what is not seen."""
    rows = [
        "| form of showing | dtype | predicted | observed in the torch port | honest (torch) | not seen |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in ("float32", "bfloat16"):
        if not any(case.endswith(f".{dtype}") for case in found["predicted"]):
            continue
        for i, form in enumerate(FORMS):
            cells = []
            for side in ("predicted", "observed"):
                best = strongest(found, side, dtype, i)
                faults = {name: ratio for name, ratio in best.items() if name != HONEST}
                seen = [name for name, ratio in faults.items() if ratio > DETECTED]
                cells.append((seen, faults, best.get(HONEST, 0.0)))
            (seen, faults, _), (own, patched_in, honest) = cells
            missed = ", ".join(sorted(set(faults) - set(seen)))
            rows.append(
                f"| {form} | {dtype} | {share(seen, faults)} | {share(own, patched_in)} | {honest:.2f} of the fence "
                f"| {missed if len(faults) - len(seen) <= MANY else f'{len(faults) - len(seen)} faults'} |"
            )
    cases = ", ".join(f"`{case}`" for case in sorted(found["predicted"]))
    return f"{TITLE}\n\nMeasured: {cases}.\n\n" + "\n".join(rows) + "\n"


MANY = 12
TITLE = """# What the probes show in the logits alone

Written by `python -m tests.fault_detection.probe_rates`. A fault counts as seen if the local check of the logits fails
in at least one case of the probes (`harness/cases/probes.py`). Predicted: the exact model with modelled noise and the
fault; observed: the torch port with the fault patched in by hand. The list is that of `harness/faults/` with a mutant,
harmless rows left out."""


def share(seen: list[str], of: Mapping[str, float]) -> str:
    """Return a count and its share in words."""
    return f"{len(seen)} of {len(of)}, {100 * len(seen) / max(len(of), 1):.1f} %"


def main(patterns: list[str]) -> None:
    """Measure the cases that the patterns match, all by default, add them to the results, and write the page."""
    found: Strengths = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for pattern in patterns or ["probe_*"]:
        for case in probe_cases(pattern):
            measure(case, found)
            PAGE.write_text(page(found))
            RESULTS.write_text(json.dumps(rounded(found), indent=1, sort_keys=True) + "\n")
            sys.stdout.write(f"{case.id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
