"""Honest ways over the probes, by logits alone: `python -m tests.fault_detection.probe_ways [CASE GLOB [WAY GLOB]]`.

Every honest way of the zoo (`tests/fault_detection/honest`) runs the torch port over each probe case in bfloat16; of
what it gives the logits alone are judged by the local check, as of an engine that shows nothing else. Ways that declare
something, another form of logits or a quantisation, are judged by what they declare and not here. Status 1 where one
fails, or is inconclusive because no logit could be compared. `--write` writes a table into RATES.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.ways import choose_ways
from grok_conformance.harness.diagnosis.probe_design import NUM_ELEMENTS, in_form, prepare
from tests.fault_detection.honest.way import matching, taps_of
from tests.fault_detection.honest.zoo import ZOO
from tests.fault_detection.rates import clopper_pearson
from tests.fault_detection.summary import PAGE
from tests.written_block import write_block

DTYPE = "bfloat16"
BEGIN = "<!-- probe ways: written by python -m tests.fault_detection.probe_ways --write -->"
END = "<!-- end of probe ways -->"


@dataclass(frozen=True)
class Run:
    """One honest way in one case: the worst measured / allowed of its logits, and how many were compared."""

    way: str
    case: str
    ratio: float
    num_elements: int


def runs(cases: str, ways: str) -> Iterator[Run]:
    """Yield the runs of the honest ways that a glob matches in the probe cases that another does."""
    matched = (ZOO[name] for name in matching(ZOO, ways))
    chosen = [way for way in matched if way.mark == "honest" and not way.info and DTYPE in way.dtypes]
    for case in probe_cases(cases):
        if case.fprop_dtype != DTYPE:
            continue
        preset = make_probe(case.preset)
        shown = prepare(preset, case)
        for way in chosen:
            given = in_form(taps_of(way, preset, case), case, shown.info)
            exhibit = exhibit_of(preset, case, shown.info, given, shown.weights)
            found = check_case(
                exhibit, num_elements=NUM_ELEMENTS, segments=shown.segments, evaluator=shown.evaluator
            )  # fmt: skip
            if not all(c.passed for c in found):
                found = choose_ways([exhibit], {case.id: found}, NUM_ELEMENTS)[1][case.id]
            yield Run(way.id, case.id, max(c.ratio for c in found), min(c.num_elements for c in found))


def counts(found: Sequence[Run]) -> str:
    """Return in words how many runs failed or were inconclusive, and the worst of all."""
    failed, undecided = (sum(map(wrong, found)) for wrong in (fails, is_inconclusive))
    ways, cases = len({run.way for run in found}), len({run.case for run in found})
    worst = max(found, key=lambda run: run.ratio)
    _, upper = clopper_pearson(failed, len(found))
    return (
        f"{ways} honest ways in {cases} cases by logits alone in {DTYPE}: {failed} of {len(found)} runs failed "
        f"(upper 95 % bound {upper:.2%}), {undecided} inconclusive; worst {worst.ratio:.2f} of the fence, "
        f"{worst.way} in {worst.case}"
    )


def fails(run: Run) -> bool:
    """Return whether a run strays beyond its fences."""
    return not run.ratio <= 1


def is_inconclusive(run: Run) -> bool:
    """Return whether some call of a run has no logit that could be compared."""
    return not run.num_elements


def page(found: Sequence[Run]) -> str:
    """Return a table of the cases, each with how many ways passed and which came nearest to its fence."""
    rows = [
        "## Honest ways by logits alone",
        "",
        "Every honest way of the zoo (`WAYS.md`, this project's own list) that declares nothing runs the torch port",
        f"over each probe in {DTYPE}; the logits alone are judged.",
        "",
        "| case | ways | failed | inconclusive | nearest to its fence |",
        "|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(run.case for run in found):
        own = [run for run in found if run.case == case]
        worst = max(own, key=lambda run: run.ratio)
        failed, undecided = sum(map(fails, own)), sum(map(is_inconclusive, own))
        rows.append(f"| {case} | {len(own)} | {failed} | {undecided} | {worst.way}, {worst.ratio:.2f} |")
    return "\n".join([*rows, "", f"{counts(found)}."])


def main(arguments: Sequence[str]) -> int:
    """Print every run that is not passed, and the counts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.probe_ways")
    parser.add_argument("--write", action="store_true", help="write a table into RATES.md")
    parser.add_argument("cases", nargs="?", default="probe_*", metavar="CASE GLOB")
    parser.add_argument("ways", nargs="?", default="*", metavar="WAY GLOB")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = []
    for run in runs(options.cases, options.ways):
        found.append(run)
        if fails(run) or is_inconclusive(run):
            sys.stdout.write(f"{run}\n")
            sys.stdout.flush()
    if not found:
        sys.exit(f"no honest way {options.ways!a} in a case {options.cases!a} of {DTYPE}")
    sys.stdout.write(f"{counts(found)}\n")
    if options.write:
        write_block(PAGE, BEGIN, END, page(found))
    return int(any(fails(run) or is_inconclusive(run) for run in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
