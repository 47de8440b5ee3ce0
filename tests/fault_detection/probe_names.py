"""Which faults the probes name in the little that engines show: `python -m tests.fault_detection.probe_names [GLOB …]`.

Every fault that the torch port shows in some form (`probe_rates.json`) is patched into it and judged, as in a run, in
the one probe that shows it best. A fault that was judged there already is not judged again.
"""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.contract import Array, CandidateInfo
from grok_conformance.harness.judging.groups import Group, nothing_expected
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.running.answers import Answer
from tests.conformance.port_patch import patched
from tests.conformance.porting_faults import FAULTS as PATCHES
from tests.conformance.torch_cases import NUM_ELEMENTS, torch_taps
from tests.fault_detection.probe_rates import DETECTED, FORMS, KNOWN, Rates, Showing, recorded
from tests.fault_detection.summary import PAGE
from tests.harness.checks.logit_forms import shown
from tests.written_block import write_block

RESULTS = Path(__file__).with_name("probe_names.json")
BEGIN = "<!-- probe names: written by python -m tests.fault_detection.probe_names -->"
END = "<!-- end of probe names -->"
TITLE = """## What the probes name in little

Written by `python -m tests.fault_detection.probe_names`. Each fault that the torch port shows in a form, as above,
is patched into it and judged, as in a run, in the one probe that shows it best. The list is the catalogue, as there."""

LARGEST_CLASS = 3
"""Faults of the largest class that still tells an author where to look."""

Names = dict[str, dict[str, list[str]]]
"""By `form, dtype` and fault the class of faults that was named, the fault's own name among them or not."""


def asked(found: Rates) -> Iterator[tuple[str, Showing, str, str]]:
    """Yield every form with its showing, a fault that the torch port shows in it, and the case that shows it best."""
    for place, (form, showing) in enumerate(FORMS.items()):
        if showing.logits.kind == "tokens":  # of which no value is compared
            continue
        for dtype in ("bfloat16", "float32"):
            cases = {case: each.observed for case, each in found.items() if case.endswith(f".{dtype}")}
            for name in KNOWN:
                best = max(cases, key=lambda case: cases[case].get(name, [0.0] * len(FORMS))[place])
                if cases[best].get(name, [0.0] * len(FORMS))[place] > DETECTED:
                    yield f"{form}, {dtype}", showing, name, best


def named(showing: Showing, fault: str, case_id: str) -> list[str]:
    """Return the faults that are named where the torch port has one of them, in a case that is shown in some form."""
    (case,) = probe_cases(case_id)
    preset = make_probe(case.preset)
    info = CandidateInfo(name="port", version="1", taps=showing.taps, logits=showing.logits)
    with patched(PATCHES[fault]):
        taps = torch_taps(preset, case, showing.taps)
    lengths = [call.lengths for call in case.calls]
    made = {key: in_form(key, x, lengths, showing) for key, x in taps.items()}
    group = Group(preset, case.fprop_dtype, (case,), nothing_expected)
    answer = Answer(status="answered", info=info, taps=made, seconds=0.0)
    (judged,) = judge_candidate([group], [{case.id: answer}], NUM_ELEMENTS, {})
    return sorted({name for each in judged.diagnoses.values() for name in each.faults})


def in_form(key: str, x: Array, lengths: list[Array], showing: Showing) -> Array:
    """Return a tap as it is shown."""
    call, _, tap = key.partition("/")
    return shown(x, lengths[int(call.removeprefix("call"))], showing.logits) if tap == "logits" else x


def lines(found: Mapping[str, Mapping[str, list[str]]]) -> Iterator[str]:
    """Yield the rows of a table: of the faults seen in a form and dtype, how many are named or in a small class."""
    yield "| form of showing | named, or in a class of three at most | not |"
    yield "|---|---|---|"
    for form, by_fault in found.items():
        right = {name for name, faults in by_fault.items() if name in faults and len(faults) <= LARGEST_CLASS}
        others = ", ".join(sorted(set(by_fault) - right)) or "none"
        yield f"| {form} | {len(right)} of {len(by_fault)}, {100 * len(right) / len(by_fault):.0f} % | {others} |"


def page(found: Names) -> str:
    """Return the page: a table of what was judged, and what was not."""
    waiting = dict.fromkeys(found, 0)
    for form, _, name, _ in asked(recorded()):
        if form in found:
            waiting[form] += name not in found[form]
    told = [f"Not judged yet: {number} in {form}." for form, number in waiting.items() if number]
    return "\n\n".join((TITLE, "\n".join(lines(found)), *told))


def stored() -> Names:
    """Return what was judged so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main(patterns: list[str]) -> None:
    """Judge what the patterns match of `form, dtype` and was not judged, keep it, and print the table."""
    for form, showing, fault, case_id in asked(recorded()):
        found = stored()
        if fault in found.get(form, {}) or not any(fnmatch.fnmatch(form, glob) for glob in patterns or ["*"]):
            continue
        found.setdefault(form, {})[fault] = named(showing, fault, case_id)
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        sys.stderr.write(f"{form}: {fault}: {', '.join(found[form][fault]) or 'no name'}\n")
    write_block(PAGE, BEGIN, END, page(stored()))
    sys.stdout.write(f"{page(stored())}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
